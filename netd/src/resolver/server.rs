//! The resolver in one container's namespace: datagrams, and connections, of which none holds up another.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, Result};
use hickory_proto::op::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::Shared;
use crate::{
    dns::{Asked, failure, respond, written},
    netns::Namespace,
};

/// The longest datagram that is read: questions are short.
const LONGEST: usize = 4_096;
/// Connections of one container at a time.
const CONNECTIONS: usize = 64;
/// Questions of one container that wait for other servers at a time.
const WAITING: usize = 256;
/// How long a connection may be silent between two questions (RFC 7766 section 6.2.3: of the order of seconds).
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take over one question, or over reading one answer.
const STALL: Duration = Duration::from_secs(5);
/// A pause after the kernel has refused something.
const PAUSE: Duration = Duration::from_millis(10);

/// The tasks of one namespace, which end with this.
pub struct Server {
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Server {
    /// Answers at these sockets, on the runtime that is entered.
    pub fn start(
        shared: &Arc<Shared>,
        namespace: Arc<Namespace>,
        udp: StdUdpSocket,
        tcp: StdTcpListener,
    ) -> Result<Self> {
        let udp = UdpSocket::from_std(udp).context("cannot wait for questions")?;
        let tcp = TcpListener::from_std(tcp).context("cannot wait for connections")?;
        // Weak: the tasks are what `Shared` has in it.
        let asker = Arc::new(Asker { shared: Arc::downgrade(shared), namespace, waiting: Semaphore::new(WAITING) });
        let datagrams = tokio::spawn(Arc::clone(&asker).answer_datagrams(Arc::new(udp)));
        let connections = tokio::spawn(asker.take_connections(tcp));
        Ok(Self { tasks: [datagrams, connections] })
    }
}

struct Asker {
    shared: Weak<Shared>,
    namespace: Arc<Namespace>,
    waiting: Semaphore,
}

impl Asker {
    async fn answer_datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
                sleep(PAUSE).await;
                continue;
            };
            match self.asked(&buffer[..length]) {
                Asked::Nothing => {}
                Asked::Answer(answer) => send(&socket, client, &answer).await,
                Asked::Relay(relay) => {
                    let (asker, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        let answer = asker.relay(&relay).await;
                        send(&socket, client, &answer).await;
                    });
                }
            }
        }
    }

    async fn take_connections(self: Arc<Self>, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok((connection, _)) = listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            // Without room it is closed at once: the client hears of it.
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
            let asker = Arc::clone(&self);
            tokio::spawn(async move {
                let _place = place;
                // How a connection ends is nobody's concern but the client's.
                let _ = asker.answer_connection(connection).await;
            });
        }
    }

    /// One question after the other (RFC 7766), as long as the client asks.
    async fn answer_connection(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        loop {
            let length = timeout(IDLE, connection.read_u16()).await??;
            let mut question = vec![0; length.into()];
            timeout(STALL, connection.read_exact(&mut question)).await??;
            let answer = match self.asked(&question) {
                Asked::Nothing => return Ok(()),
                Asked::Answer(answer) => answer,
                Asked::Relay(relay) => self.relay(&relay).await,
            };
            let Some(bytes) = written(&answer, false) else { return Ok(()) };
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &bytes].concat();
            timeout(STALL, connection.write_all(&framed)).await??;
        }
    }

    fn asked(&self, question: &[u8]) -> Asked {
        let Some(shared) = self.shared.upgrade() else { return Asked::Nothing };
        respond(question, &shared.directory.load(), self.namespace.sandbox().inode, &mut rand::rng())
    }

    async fn relay(&self, relay: &crate::dns::Relay) -> Message {
        let (Ok(_place), Some(shared)) = (self.waiting.try_acquire(), self.shared.upgrade()) else {
            return failure(relay);
        };
        shared.forwarder.answer(relay, &self.namespace).await
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, answer: &Message) {
    if let Some(bytes) = written(answer, true) {
        // A client that is gone needs no answer.
        let _ = socket.send_to(&bytes, client).await;
    }
}
