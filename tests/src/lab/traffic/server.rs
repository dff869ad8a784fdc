//! TCP and UDP servers as threads: whom they have seen, and how they stop.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt},
};

use super::{
    super::{Node, command::descriptors_are_gone},
    PATIENCE, ROOM, TICK,
};

/// How long a port that was let go of may be taken still.
const RELEASED: Duration = Duration::from_secs(60);

/// A server in a node. Dropped, it takes no more connections; those it has end within seconds.
pub struct Server {
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Addresses that connections or datagrams came from, in order, as this server saw them.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|peer| peer.ip().to_canonical()).collect()
    }

    /// Asserts that it has been spoken to, and by nobody but `address`.
    ///
    /// # Panics
    /// When nobody or somebody else has spoken to it.
    #[track_caller]
    pub fn assert_seen_only(&self, address: &str) {
        let address: IpAddr = address.parse().expect("the test names an address");
        let mut peers = self.peers();
        peers.dedup();
        assert_eq!(peers, [address], "the server should have seen {address} and nobody else");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        descriptors_are_gone();
    }
}

impl Node {
    /// What `bind` binds here. A port that a test has let go of may be taken for a moment still: a program that another test of this
    /// process is just starting has copies of all descriptors until it begins.
    ///
    /// # Errors
    /// Why it cannot be bound; that it is taken, when it has been for a minute.
    pub fn bound<T: Send>(&self, bind: impl Fn() -> io::Result<T> + Sync) -> io::Result<T> {
        let began = Instant::now();
        loop {
            match self.enter(&bind) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < RELEASED => thread::sleep(TICK),
                done => return done,
            }
        }
    }

    /// Serves TCP on `port` of every address of both families: each connection is given to `serve` on a thread of its own.
    ///
    /// # Panics
    /// When the port is taken.
    #[track_caller]
    pub fn serve_tcp(&self, port: u16, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = self.bound(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
        let listener = listener.unwrap_or_else(|error| panic!("{} cannot serve TCP {port}: {error}", self.name()));
        listener.set_nonblocking(true).expect("a socket can be told not to block");
        let serve = Arc::new(serve);
        Server::start(move |seen, stop| {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, peer)) = listener.accept() else {
                    thread::sleep(TICK);
                    continue;
                };
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let _ = stream.set_write_timeout(Some(PATIENCE));
                    serve(stream);
                });
            }
        })
    }

    /// Serves TCP on `port`: what comes goes back.
    #[track_caller]
    pub fn echo_tcp(&self, port: u16) -> Server {
        self.serve_tcp(port, |mut stream| {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        })
    }

    /// Serves UDP on `port` of every address of both families: what comes goes back.
    ///
    /// # Panics
    /// When the port is taken.
    #[track_caller]
    pub fn echo_udp(&self, port: u16) -> Server {
        let socket = self.bound(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)));
        let socket = socket.unwrap_or_else(|error| panic!("{} cannot serve UDP {port}: {error}", self.name()));
        socket.set_read_timeout(Some(TICK * 4)).expect("a socket can be given a timeout");
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).expect("root may");
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).expect("a socket can tell where a datagram went to");
        Server::start(move |seen, stop| {
            let mut buffer = [0; 65536];
            while !stop.load(Ordering::Relaxed) {
                let Some(datagram) = received(&socket, &mut buffer) else { continue };
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(SocketAddrV6::from(datagram.from).into());
                // An answer that cannot be sent is one that the client misses, which it tells.
                let _ = answer(&socket, &buffer[..datagram.length], &datagram);
            }
        })
    }

    /// Says a line to a TCP echo server and returns whether it came back, or why not.
    ///
    /// # Errors
    /// What the connection ended with; `wait` bounds each of its steps.
    pub fn asks_tcp(&self, server: &str, wait: Duration) -> io::Result<()> {
        let mut stream = self.connect(server, wait)?;
        stream.write_all(b"is anybody there?\n")?;
        let mut answer = [0; 18];
        stream.read_exact(&mut answer)?;
        if &answer == b"is anybody there?\n" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// Opens a connection from here. `wait` bounds the opening and every read and write.
    ///
    /// # Errors
    /// Why it could not be opened.
    ///
    /// # Panics
    /// When `server` is no `ADDRESS:PORT`.
    pub fn connect(&self, server: &str, wait: Duration) -> io::Result<TcpStream> {
        let server: SocketAddr = server.parse().unwrap_or_else(|_| panic!("{server} is no ADDRESS:PORT"));
        let stream = self.enter(|| TcpStream::connect_timeout(&server, wait))?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        Ok(stream)
    }
}

impl Server {
    fn start(run: impl FnOnce(&Mutex<Vec<SocketAddr>>, &AtomicBool) + Send + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen_inside, stop_inside) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || run(&seen_inside, &stop_inside));
        Self { seen, stop, thread: Some(thread) }
    }
}

struct Datagram {
    length: usize,
    from: SockaddrIn6,
    /// The address it was sent to, and no interface: the answer is routed.
    to: libc::in6_pktinfo,
}

fn received(socket: &UdpSocket, buffer: &mut [u8]) -> Option<Datagram> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).ok()?;
    let to = message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(to) => Some(to),
        _ => None,
    })?;
    let to = libc::in6_pktinfo { ipi6_ifindex: 0, ..to };
    Some(Datagram { length: message.bytes, from: message.address?, to })
}

/// Sends from the address that the datagram went to: a host with several would choose by the route.
fn answer(socket: &UdpSocket, bytes: &[u8], datagram: &Datagram) -> nix::Result<usize> {
    let from = [ControlMessage::Ipv6PacketInfo(&datagram.to)];
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &from, MsgFlags::empty(), Some(&datagram.from))
}
