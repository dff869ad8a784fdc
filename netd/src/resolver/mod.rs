//! The resolver of every container: sockets in its own namespace, answered from one directory, others' names asked of servers.
//!
//! Decides nothing: `dns` does. All of it runs on a thread of its own, which goes before others and waits for no lock that they hold, so
//! that no work of the daemon's task delays an answer.

mod exchange;
mod forward;
mod haste;
mod race;
mod server;
mod sockets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{TcpListener, UdpSocket},
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use tokio::{runtime, sync::oneshot, task::spawn_blocking, time::interval};
use tracing::debug;

pub use self::forward::RESOLV_CONF;
use self::{forward::Forwarder, server::Server};
use crate::{
    dns::{self, Directory, Question},
    netns::{Entered, Namespace},
    reconcile::Sandbox,
};

/// How often the namespaces are looked at: an open socket keeps one alive that its container has left.
const LOOK: Duration = Duration::from_millis(500);

/// The resolvers in all namespaces.
pub struct Resolver {
    shared: Arc<Shared>,
    runtime: runtime::Handle,
    /// The thread ends with this.
    _running: oneshot::Sender<()>,
}

/// What all of them know.
struct Shared {
    directory: ArcSwap<Directory>,
    forwarder: Forwarder,
    servers: Mutex<BTreeMap<u64, (Sandbox, Server)>>,
}

impl Resolver {
    /// Starts the thread, in the namespace of the calling one: from there the host's servers are asked.
    pub fn start() -> Result<Self> {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().context("cannot start the resolver")?;
        let handle = runtime.handle().clone();
        let shared =
            Arc::new(Shared { directory: ArcSwap::default(), forwarder: Forwarder::new(), servers: Mutex::default() });
        let (running, ended) = oneshot::channel();
        let looked_after = Arc::clone(&shared);
        let work = move || {
            if let Err(error) = haste::go_before_others() {
                debug!("names are answered no sooner than other work is done: {error}");
            }
            runtime.block_on(async move {
                tokio::select! {
                    _ = ended => {}
                    () = looked_after.leave_what_is_gone() => {}
                }
            });
        };
        thread::Builder::new().name("netd-dns".to_owned()).spawn(work).context("cannot start the resolver")?;
        Ok(Self { shared, runtime: handle, _running: running })
    }

    /// Answers from this directory from now on.
    pub fn know(&self, directory: Directory) {
        self.shared.directory.store(Arc::new(directory));
    }

    /// Answers from what `mend` makes of the directory from now on.
    pub fn mend(&self, mend: &mut dyn FnMut(&mut Directory)) {
        // A copy, however little changes: who answers meanwhile does so from the former one, and never waits for this.
        let mut directory = Directory::clone(&self.shared.directory.load());
        mend(&mut directory);
        self.know(directory);
    }

    /// Answers in a container's namespace, if it does not yet.
    pub fn open(&self, sandbox: &Sandbox) -> Result<()> {
        if self.shared.servers().contains_key(&sandbox.inode) {
            return Ok(());
        }
        let namespace = Namespace::of(sandbox)?;
        let opened = namespace.inside(sockets::open).and_then(|opened| opened);
        serve(&self.shared, &self.runtime, namespace, opened)
    }

    /// Answers in these namespaces, which one thread goes through meanwhile. What cannot be opened is left to the next look.
    pub fn open_all(&self, sandboxes: Vec<Sandbox>) -> Result<thread::JoinHandle<()>> {
        let (shared, runtime) = (Arc::clone(&self.shared), self.runtime.clone());
        let open = move |sandbox: &Sandbox| -> Result<()> {
            let namespace = Namespace::of(sandbox)?;
            let opened = Entered::new(&namespace).and_then(|_inside| sockets::open());
            serve(&shared, &runtime, namespace, opened)
        };
        let work = move || {
            for sandbox in &sandboxes {
                if let Err(error) = open(sandbox) {
                    debug!("{error:#}");
                }
            }
        };
        thread::Builder::new().name("netd-dns-open".to_owned()).spawn(work).context("cannot start a thread")
    }

    /// Ends in a namespace, known by its inode.
    pub fn close(&self, namespace: u64) {
        self.shared.servers().remove(&namespace);
    }

    /// The namespaces, by their inodes, in which it answers.
    pub fn listening(&self) -> BTreeSet<u64> {
        self.shared.servers().keys().copied().collect()
    }
}

/// Asks a server as containers' questions are asked, from a namespace or from the calling thread's, and waits as long as it takes. An
/// error says what there is instead of an answer that a container would be given.
pub async fn probe(server: &dns::Server, namespace: Option<Arc<Namespace>>) -> io::Result<()> {
    let no_device = || io::Error::new(io::ErrorKind::NotFound, "there is no such device");
    let place = forward::place(server).ok_or_else(no_device)?;
    exchange::ask(Arc::new(Question::for_the_root()), place, namespace).await.map(drop)
}

/// Answers at sockets that were opened in a namespace.
fn serve(
    shared: &Arc<Shared>,
    runtime: &runtime::Handle,
    namespace: Namespace,
    opened: io::Result<(UdpSocket, TcpListener)>,
) -> Result<()> {
    let sandbox = namespace.sandbox().clone();
    let (udp, tcp) =
        opened.with_context(|| format!("cannot open the resolver's sockets in {}", sandbox.path.display()))?;
    let _runtime = runtime.enter();
    let server = Server::start(shared, Arc::new(namespace), udp, tcp)?;
    shared.servers().insert(sandbox.inode, (sandbox, server));
    Ok(())
}

impl Shared {
    fn servers(&self) -> MutexGuard<'_, BTreeMap<u64, (Sandbox, Server)>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the sockets in namespaces whose path is gone, or has come to name another.
    async fn leave_what_is_gone(&self) {
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            let open: Vec<Sandbox> = self.servers().values().map(|(sandbox, _)| sandbox.clone()).collect();
            let is_gone =
                |sandbox: &Sandbox| !fs::metadata(&sandbox.path).is_ok_and(|metadata| metadata.ino() == sandbox.inode);
            // The paths of a thousand take milliseconds, in which nobody would be answered.
            let look = move || open.into_iter().filter(is_gone).collect::<Vec<_>>();
            let gone = spawn_blocking(look).await.unwrap_or_default();
            self.servers().retain(|_, (sandbox, _)| !gone.contains(sandbox));
        }
    }
}

#[cfg(test)]
mod tests;
