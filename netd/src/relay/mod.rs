//! The relay: published ports, served to processes of the host that no program can lead to the container.
//!
//! Those are sockets bound to the loopback, ones without an address of a family that the container has, and all of them where
//! there is no cgroup. Decides nothing: `plan` does. All of it runs on a thread of its own and is in nobody else's way; what it
//! holds at once is bounded.

mod tcp;
mod udp;

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    thread,
};

use anyhow::{Context, Result};
use tokio::{
    runtime,
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};
use tracing::warn;

use crate::{
    model::Protocol,
    reconcile::{HostPort, RelayTarget, Relays},
};

/// Connections and conversations of datagrams at once, of all ports together.
const MOST: usize = 4096;

/// The work of one relayed port.
type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Every relayed port.
pub struct Relay {
    shared: Arc<Shared>,
    ports: BTreeMap<HostPort, (RelayTarget, JoinHandle<()>)>,
    runtime: runtime::Handle,
    /// The thread ends with this.
    _running: oneshot::Sender<()>,
}

/// What all ports know.
struct Shared {
    relays: RwLock<Arc<Relays>>,
    room: Arc<Semaphore>,
}

impl Shared {
    fn relays(&self) -> Arc<Relays> {
        Arc::clone(&self.relays.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Relay {
    /// Starts the thread, in the namespace of the calling one.
    pub fn start() -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("cannot start the relay")?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel::<()>();
        let work = move || runtime.block_on(async { drop(ended.await) });
        thread::Builder::new().name("netd-relay".to_owned()).spawn(work).context("cannot start the relay")?;
        let shared = Shared { relays: RwLock::default(), room: Arc::new(Semaphore::new(MOST)) };
        Ok(Self { shared: Arc::new(shared), ports: BTreeMap::new(), runtime: handle, _running: running })
    }

    /// Relays these ports, by the sockets that are bound to them, and no others: what goes by ports that are not among them, or
    /// lead elsewhere or are for others, ends before this returns.
    pub async fn follow(&mut self, relays: Relays, held: &BTreeMap<HostPort, OwnedFd>) {
        let stays = |at: &HostPort, target: &RelayTarget| held.contains_key(at) && relays.ports.get(at) == Some(target);
        let leaving: Vec<_> = self.ports.extract_if(.., |at, (target, _)| !stays(at, target)).collect();
        leaving.iter().for_each(|(_, (_, task))| task.abort());
        for (_, (_, task)) in leaving {
            // Its socket is closed when it has ended.
            let _ = task.await;
        }
        let wanted: Vec<_> = relays.ports.iter().map(|(at, target)| (*at, target.clone())).collect();
        *self.shared.relays.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(relays);
        let mut opened = Vec::new();
        for (at, target) in wanted.into_iter().filter(|(at, _)| !self.ports.contains_key(at)) {
            let Some(socket) = held.get(&at) else { continue };
            match self.open(at, socket, target.clone()) {
                Ok(served) => opened.push((at, target, served)),
                Err(error) => warn!("cannot relay {}:{}/{}: {error}", at.0, at.2, at.1),
            }
        }
        self.serve(opened).await;
    }

    /// Has the thread serve these, woken once for all of them.
    async fn serve(&mut self, opened: Vec<(HostPort, RelayTarget, Served)>) {
        if opened.is_empty() {
            return;
        }
        let spawned = |(at, target, served)| (at, (target, tokio::spawn(served)));
        let all = self.runtime.spawn(async move { opened.into_iter().map(spawned).collect::<Vec<_>>() });
        match all.await {
            Ok(all) => self.ports.extend(all),
            Err(error) => warn!("cannot relay published ports: {error}"),
        }
    }

    /// How many ports are relayed.
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    fn open(&self, at: HostPort, socket: &OwnedFd, target: RelayTarget) -> io::Result<Served> {
        let _runtime = self.runtime.enter();
        let (shared, socket) = (Arc::clone(&self.shared), socket.try_clone()?);
        match at.1 {
            Protocol::Tcp => Ok(Box::pin(tcp::serve(shared, tcp::listening(socket)?, target))),
            _ => Ok(Box::pin(udp::serve(shared, udp::receiving(socket)?, target))),
        }
    }
}
