//! SCTP by the kernel's own sockets, on kernels that have them: addresses change, ports never do.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use netd_tests::lab::{NetdOptions, Node};
use nix::{
    libc,
    sys::{
        socket::{Backlog, SockaddrStorage, accept, bind, connect, listen, setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use crate::{
    cases::on_both_kinds,
    ipv6,
    town::{CLIENT, FRONT, HOST, INTERNET, Town},
};

/// How long an end waits for what should come. Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long for what should not.
const IMPATIENCE: Duration = Duration::from_secs(3);
/// Where the server outside listens, and the container's, published by the same number.
const PORT: u16 = 2905;
/// What containers send from.
const FROM: u16 = 33_000;
/// What an end says.
const WORDS: &[u8; 17] = b"an SCTP data item";

#[test]
#[ignore = "takes a kernel with SCTP sockets: `cargo xtask vm` runs it in a guest"]
fn sctp_associations_leave_as_the_host_with_their_own_ports_and_come_in_by_published_ones() {
    on_both_kinds(&NetdOptions::default(), |town| {
        ipv6::pave(town);
        town.netd.say("network create blue --ipv6").ok();
        let app = town.container("app", "blue", &["2905/sctp"]);
        let neighbour = town.container("neighbour", "blue", &[]);
        let host6 = ipv6::HOST;
        for (any, internet, own_name) in
            [("0.0.0.0", INTERNET, HOST), ("[::]", &format!("[{}]", ipv6::INTERNET), host6)]
        {
            let server = Server::at(&town.internet, &format!("{internet}:{PORT}"));
            let mut kept = Association::open(&app, &format!("{any}:{FROM}"), &format!("{internet}:{PORT}"), PATIENCE)
                .unwrap_or_else(|error| panic!("{internet} answers: {error}"));

            kept.asks().expect("what is said comes back");
            assert_eq!(server.next(), at(own_name, FROM), "as the host, by its own port");

            refuses_who_would_take_its_answers(town, &neighbour, any, internet);
            kept.asks().expect("who was first is disturbed by nobody");
            let other =
                Association::open(&neighbour, &format!("{any}:{}", FROM + 1), &format!("{internet}:{PORT}"), PATIENCE);
            other.and_then(|mut other| other.asks()).expect("another port is free");
            assert_eq!(server.next(), at(own_name, FROM + 1));
        }
        a_client_is_led_in(town, &app, "0.0.0.0", FRONT, CLIENT);
        a_client_is_led_in(town, &app, "[::]", &format!("[{}]", ipv6::FRONT), ipv6::CLIENT);
    });
}

/// The neighbour's packets would leave by the very tuple that the first one's answers come by.
fn refuses_who_would_take_its_answers(town: &Town, neighbour: &Node, any: &str, internet: &str) {
    let refused = Association::open(neighbour, &format!("{any}:{FROM}"), &format!("{internet}:{PORT}"), IMPATIENCE);

    assert!(refused.is_err(), "its answers would be another's");
    let drops = town.netd.say("drops").stdout;
    assert!(drops.contains("tuple_taken"), "{drops}");
}

fn a_client_is_led_in(town: &Town, app: &Node, any: &str, front: &str, client: &str) {
    let published = Server::at(app, &format!("{any}:{PORT}"));

    let mut led = Association::open(&town.client, &format!("{any}:{FROM}"), &format!("{front}:{PORT}"), PATIENCE)
        .unwrap_or_else(|error| panic!("{front} is published: {error}"));

    led.asks().expect("what is said comes back");
    assert_eq!(published.next(), at(client, FROM), "the client's own address");
    town.netd.say("publish app 2907:2908/sctp").refused(["SCTP keeps its port"]);
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// An association of one stream (RFC 6458 section 4), which reads and writes as a connection does.
struct Association(TcpStream);

impl Association {
    /// Opens one; `wait` bounds that and every step after it.
    fn open(node: &Node, from: &str, to: &str, wait: Duration) -> io::Result<Self> {
        let [from, to] = [from, to].map(|place| place.parse::<SocketAddr>().expect("ADDRESS:PORT"));
        let socket = node.enter(|| endpoint(from))?;
        // It bounds a connect, too.
        let patience = TimeVal::milliseconds(wait.as_millis() as i64);
        setsockopt(&socket, sockopt::SendTimeout, &patience)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(Self(TcpStream::from(socket)))
    }

    fn asks(&mut self) -> io::Result<()> {
        self.0.write_all(WORDS)?;
        let mut heard = [0; WORDS.len()];
        self.0.read_exact(&mut heard)?;
        if &heard == WORDS { Ok(()) } else { Err(io::Error::other("something else came back")) }
    }
}

/// Says back what is said to it, to each on a thread of its own.
struct Server(Receiver<SocketAddr>);

impl Server {
    #[track_caller]
    fn at(node: &Node, place: &str) -> Self {
        let place = place.parse().expect("ADDRESS:PORT");
        let listener = node.enter(|| endpoint(place)).unwrap_or_else(|error| panic!("{place}: {error}"));
        listen(&listener, Backlog::new(16).expect("a backlog")).expect("a socket can listen");
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::seconds(1)).expect("a socket can be given a timeout");
        let (tell, seen) = mpsc::channel();
        thread::spawn(move || serve(&listener, &tell));
        Self(seen)
    }

    /// Whom it has seen next.
    #[track_caller]
    fn next(&self) -> SocketAddr {
        self.0.recv_timeout(PATIENCE).expect("somebody comes")
    }
}

/// Ends when nobody wants to know any more, or after two minutes in which nobody came.
fn serve(listener: &OwnedFd, tell: &mpsc::Sender<SocketAddr>) {
    for _ in 0..120 {
        let Ok(raw) = accept(listener.as_raw_fd()) else { continue };
        // SAFETY: a descriptor that was just made, and nobody else has.
        let mut stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(raw) });
        let Ok(peer) = stream.peer_addr() else { continue };
        // It has the listener's until it is told otherwise.
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
        if tell.send(peer).is_err() {
            return;
        }
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
    }
}

/// A socket of SCTP at this place alone: of several addresses an association would tell the other end all.
fn endpoint(place: SocketAddr) -> io::Result<OwnedFd> {
    let family = if place.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes numbers, returns a descriptor or an error.
    let raw = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made, and nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if place.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(place))?;
    Ok(socket)
}
