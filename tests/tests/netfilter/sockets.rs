//! Dialogues between real sockets, in lockstep: what one end does, the other is seen to notice before the next thing happens.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use netd_tests::lab::Node;
use nix::{
    libc,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, recvmsg,
            setsockopt, socket,
            sockopt::{self, Linger},
        },
        time::{TimeVal, TimeValLike},
    },
};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    extensions::Extensions,
    site::{A, BLACKHOLE, FAR, FAR_BY_NARROW_ROUTE, FAR_NARROW, HOST, OWN, PROHIBITED, UNREACHABLE, six},
    stage::Stage,
};

/// How long an end waits for what should come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection to nowhere is tried.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// Who talks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A container to an address outside.
    Out(&'static str),
    /// The peer to a container's published port.
    In,
    /// The peer to a container's published port, by the narrow link.
    InByNarrowLink,
    /// One container to another of its network.
    Inside,
    /// The host itself to the peer, which is no business of either contender.
    FromHost,
    /// The peer to a service of the host's own.
    ToHost,
}

/// One end of a dialogue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Client,
    Server,
}

/// What an end does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Sends so many bytes.
    Say(End, usize),
    /// Closes its half.
    HalfClose(End),
    /// Closes the socket.
    Close(End),
    /// Closes it with a reset.
    Reset(End),
}

/// A TCP connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub way: Way,
    pub v6: bool,
    /// Whether anybody listens.
    pub listens: bool,
    /// What stands before each segment of either end, by IPv6.
    pub extensions: Extensions,
    pub acts: Vec<Act>,
}

/// Datagrams between a connected socket and a bound one.
#[derive(Clone, Debug)]
pub struct Datagrams {
    pub way: Way,
    pub v6: bool,
    pub listens: bool,
    pub checksums: bool,
    /// Sent whole or not at all.
    pub whole: bool,
    pub ttl: u32,
    /// What stands before each datagram of either end, by IPv6.
    pub extensions: Extensions,
    pub acts: Vec<Act>,
}

impl Connection {
    pub fn arbitrary(random: &mut StdRng) -> Self {
        let way = way(random);
        let mut acts = Vec::new();
        let mut open = vec![End::Client, End::Server];
        for _ in 0..random.random_range(0..7) {
            let Some(end) = open.choose(random).copied() else { break };
            acts.push(match random.random_range(0..10) {
                0..=5 => Act::Say(end, size(random)),
                6 => Act::Reset(end),
                7 => Act::Close(end),
                _ => Act::HalfClose(end),
            });
            match acts.last() {
                Some(Act::HalfClose(end)) => open.retain(|other| other != end),
                // The other end says something into the void, or notices at once.
                Some(Act::Close(end) | Act::Reset(end)) => {
                    open.retain(|other| other != end);
                    if let (Some(other), true) = (open.first(), random.random()) {
                        acts.push(Act::Say(*other, 100));
                    }
                    break;
                }
                _ => {}
            }
        }
        let (v6, listens) = (random.random_ratio(2, 5), random.random_ratio(9, 10));
        let extensions = if v6 { Extensions::arbitrary(random) } else { Extensions::default() };
        Self { way, v6, listens, extensions, acts }
    }

    /// Plays it and tells what both ends see.
    pub fn play(&self, stage: &Stage) -> Vec<String> {
        let mut story = Vec::new();
        let ([client, server], to) = ends(self.way, stage, true, self.v6);
        let port = listening_port(self.way, true);
        let listener =
            self.listens.then(|| server.enter(|| TcpListener::bind((any(self.v6), port))).expect("the port is free"));
        let wait = if self.way == Way::Out(BLACKHOLE) { IMPATIENCE } else { PATIENCE };
        let client = match self.connect(client, to, wait) {
            Ok(stream) => stream,
            Err(error) => {
                story.push(format!("client: {error}"));
                return story;
            }
        };
        story.push("client: connected".to_owned());
        let Some(listener) = listener else {
            story.push("client: connected to nobody".to_owned());
            return story;
        };
        let (server, from) = listener.accept().expect("who is connected can be accepted");
        story.push(format!("server: accepts from {}", from.ip()));
        self.extensions.put_on(&server);
        let mut streams = [Some(client), Some(server)];
        for stream in streams.iter().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
            stream.set_write_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
        }
        for act in &self.acts {
            story.push(format!("{act:?}: {}", perform(&mut streams, *act, stage)));
        }
        story
    }

    fn connect(&self, node: &Node, to: SocketAddr, wait: Duration) -> nix::Result<TcpStream> {
        let family = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let socket = node.enter(|| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None))?;
        if self.way == Way::Inside {
            setsockopt(&socket, sockopt::Mark, &OWN)?;
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source(self.way, self.v6), 0)))?;
        self.extensions.put_on(&socket);
        // It bounds a connect, too.
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(wait.as_millis() as i64))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(socket))
    }
}

/// Does it, and tells what came of it at the other end.
fn perform(streams: &mut [Option<TcpStream>; 2], act: Act, stage: &Stage) -> String {
    let (Act::Say(end, _) | Act::HalfClose(end) | Act::Close(end) | Act::Reset(end)) = act;
    let other = streams[1 - end as usize].as_ref().and_then(|stream| stream.try_clone().ok());
    let Some(mut stream) = streams[end as usize].take() else { return "is gone".to_owned() };
    match act {
        Act::Say(_, size) => {
            let data: Vec<u8> = (0..size).map(|at| (at * 7 + size) as u8).collect();
            let said = data.clone();
            let mut saying = stream.try_clone().expect("a descriptor can be duplicated");
            let writer = std::thread::spawn(move || saying.write_all(&said));
            let heard = other.map(|mut other| {
                let mut heard = vec![0; size];
                match other.read_exact(&mut heard) {
                    Ok(()) if heard == data => "hears it".to_owned(),
                    Ok(()) => "hears something else".to_owned(),
                    Err(error) => format!("hears nothing: {}", error.kind()),
                }
            });
            let result = writer.join().expect("writing does not panic");
            let heard = heard.unwrap_or_else(|| {
                // Nobody is there: a reset comes back.
                stage.settle();
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(length) => format!("nobody hears; then {length} bytes"),
                    Err(error) => format!("nobody hears; then {}", error.kind()),
                }
            });
            streams[end as usize] = Some(stream);
            match result {
                Ok(()) => heard,
                Err(error) => format!("cannot: {}", error.kind()),
            }
        }
        Act::HalfClose(_) => {
            let result = stream.shutdown(Shutdown::Write);
            streams[end as usize] = Some(stream);
            format!(
                "{}, {}",
                result.map_or_else(|error| error.kind().to_string(), |()| "done".to_owned()),
                notice(other)
            )
        }
        Act::Close(_) => {
            drop(stream);
            notice(other)
        }
        Act::Reset(_) => {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(&stream, Linger, &linger).expect("a socket can be told to reset");
            drop(stream);
            notice(other)
        }
    }
}

fn notice(other: Option<TcpStream>) -> String {
    let Some(mut other) = other else { return "nobody is there".to_owned() };
    let mut byte = [0];
    match other.read(&mut byte) {
        Ok(0) => "the other sees the end".to_owned(),
        Ok(_) => "the other reads something".to_owned(),
        Err(error) => format!("the other sees {}", error.kind()),
    }
}

impl Datagrams {
    pub fn arbitrary(random: &mut StdRng) -> Self {
        let (way, v6, whole) = (way(random), random.random_ratio(2, 5), random.random_ratio(1, 3));
        let extensions = if v6 { Extensions::arbitrary(random) } else { Extensions::default() };
        let largest = match way {
            // Fragments of IPv6 on a narrow way are among the odd packets.
            Way::Out(FAR_NARROW | FAR_BY_NARROW_ROUTE) | Way::InByNarrowLink if v6 && !whole => {
                1232 - extensions.length()
            }
            // The rules by which the router refuses do so for whole packets alone.
            Way::Out(UNREACHABLE | PROHIBITED) => 1452 - extensions.length(),
            _ => usize::MAX,
        };
        let mut acts = Vec::new();
        for _ in 0..random.random_range(1..6) {
            let end = if acts.is_empty() || random.random() { End::Client } else { End::Server };
            acts.push(Act::Say(end, datagram_size(random).min(largest)));
            if random.random_ratio(1, 12) {
                acts.push(Act::Close(End::Server));
            }
        }
        Self {
            way,
            v6,
            listens: random.random_ratio(9, 10),
            // In IPv6 every datagram has one (RFC 8200 section 8.1).
            checksums: v6 || random.random_ratio(4, 5),
            whole,
            ttl: [64, 64, 64, 64, 64, 64, 1, 2, 3, 4].choose(random).copied().unwrap_or(64),
            extensions,
            acts,
        }
    }

    /// Plays it and tells what both ends see.
    pub fn play(&self, stage: &Stage) -> Vec<String> {
        let ([client_node, server_node], to) = ends(self.way, stage, false, self.v6);
        let port = listening_port(self.way, false);
        let mut server = self.listens.then(|| self.socket(server_node, (any(self.v6), port)));
        let client = self.socket(client_node, (source(self.way, self.v6), 0));
        let mut story = Vec::new();
        if let Err(error) = client.connect(to) {
            return vec![format!("client: {}", error.kind())];
        }
        if self.v6 {
            set_option(&client, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, self.ttl as i32);
        } else {
            client.set_ttl(self.ttl).expect("a socket can be told a time to live");
        }
        let mut last = None;
        for act in &self.acts {
            let happens = match (act, &server) {
                (Act::Say(End::Client, size), server) => {
                    let sent = client.send(&payload(*size));
                    stage.settle();
                    let mut told = sent.err().map_or_else(String::new, |error| format!("cannot: {}; ", error.kind()));
                    if let Some(server) = server {
                        let (heard, from) = hear(server, *size);
                        last = from.or(last);
                        told += &heard;
                        told += &from.map_or_else(String::new, |from| format!(" from {}", from.ip()));
                    }
                    told
                }
                (Act::Say(End::Server, size), Some(server)) => {
                    let Some(from) = last else { continue };
                    let sent = server.send_to(&payload(*size), from);
                    stage.settle();
                    let told = sent.err().map_or_else(String::new, |error| format!("cannot: {}; ", error.kind()));
                    told + &hear(&client, *size).0
                }
                (Act::Close(End::Server), Some(_)) => {
                    server = None;
                    "done".to_owned()
                }
                _ => continue,
            };
            story.push(format!("{act:?}: {happens}"));
            story.extend(errors(&client).into_iter().map(|error| format!("client: error {error}")));
            if let Some(server) = &server {
                story.extend(errors(server).into_iter().map(|error| format!("server: error {error}")));
            }
        }
        story
    }

    fn socket(&self, node: &Node, at: (IpAddr, u16)) -> UdpSocket {
        let socket = node.enter(|| UdpSocket::bind(at)).expect("the port is free");
        socket.set_nonblocking(true).expect("a socket can be told not to block");
        let discover = if self.whole { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_WANT };
        let options = if self.v6 {
            [(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discover), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)]
        } else {
            [(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover), (libc::IPPROTO_IP, libc::IP_RECVERR, 1)]
        };
        for (level, name, value) in options {
            set_option(&socket, level, name, value);
        }
        self.extensions.put_on(&socket);
        set_option(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, i32::from(!self.checksums));
        if self.way == Way::Inside {
            setsockopt(&socket, sockopt::Mark, &OWN).expect("root may mark packets");
        }
        socket
    }
}

fn set_option(socket: &UdpSocket, level: i32, name: i32, value: i32) {
    // SAFETY: a number of the length told, which outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as u32)
    };
    assert_eq!(result, 0, "a socket takes option {level}/{name}");
}

/// What is there to be read, and from whom.
fn hear(socket: &UdpSocket, size: usize) -> (String, Option<SocketAddr>) {
    let mut buffer = vec![0; 65536];
    loop {
        return match socket.recv_from(&mut buffer) {
            Ok((length, from)) if buffer[..length] == payload(size) => ("heard".to_owned(), Some(from)),
            Ok((length, from)) => (format!("{length} other bytes"), Some(from)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => ("not heard".to_owned(), None),
            // An error that came meanwhile is told once here and stays in the error queue.
            Err(_) => continue,
        };
    }
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 11 + size) as u8).collect()
}

/// What the kernel has been told by ICMP about what this socket sent.
fn errors(socket: &UdpSocket) -> Vec<String> {
    let mut told = Vec::new();
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    while let Ok(message) = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut space), flags) {
        for control in message.cmsgs().expect("the space is enough") {
            let (error, from): (_, Option<IpAddr>) = match control {
                ControlMessageOwned::Ipv4RecvErr(error, from) => {
                    (error, from.map(|from| u32::from_be(from.sin_addr.s_addr).to_be_bytes().into()))
                }
                ControlMessageOwned::Ipv6RecvErr(error, from) => {
                    (error, from.map(|from| from.sin6_addr.s6_addr.into()))
                }
                _ => continue,
            };
            let from = from.map_or_else(String::new, |from| format!(" by {from}"));
            let (kind, code, info) = (error.ee_type, error.ee_code, error.ee_info);
            told.push(format!("errno {} type {kind} code {code} info {info}{from}", error.ee_errno));
        }
    }
    // The socket's own error, if no read has told it.
    let _ = socket.take_error();
    told
}

fn way(random: &mut StdRng) -> Way {
    match random.random_range(0..20) {
        0..=4 => Way::Out(FAR),
        5..=6 => Way::Out(FAR_NARROW),
        7..=8 => Way::Out(FAR_BY_NARROW_ROUTE),
        9 => Way::Out([UNREACHABLE, PROHIBITED, BLACKHOLE].choose(random).copied().unwrap_or(UNREACHABLE)),
        10..=13 => Way::In,
        14..=15 => Way::InByNarrowLink,
        16..=17 => Way::Inside,
        18 => Way::FromHost,
        _ => Way::ToHost,
    }
}

fn size(random: &mut StdRng) -> usize {
    [1, 17, 1000, 1448, 1461, 20_000, 60_000].choose(random).copied().unwrap_or(1)
}

fn datagram_size(random: &mut StdRng) -> usize {
    [0, 1, 33, 1200, 1253, 1273, 1400, 1472, 1473, 2977, 6001].choose(random).copied().unwrap_or(1)
}

/// Client, server, and where the client turns to.
fn ends(way: Way, stage: &Stage, tcp: bool, v6: bool) -> ([&Node; 2], SocketAddr) {
    let site = &stage.site;
    let at = |address: &str, port: u16| SocketAddr::new(place(address, v6), port);
    let (nodes, to): ([&Node; 2], SocketAddr) = match way {
        Way::Out(address) => ([&site.a, &site.far], at(address, listening_port(way, tcp))),
        Way::In | Way::InByNarrowLink => ([&site.far, &site.a], at(HOST, if tcp { 8001 } else { 8002 })),
        Way::Inside => ([&site.b, &site.a], at(A, listening_port(way, tcp))),
        Way::FromHost => ([&site.host, &site.far], at(FAR, listening_port(way, tcp))),
        Way::ToHost => ([&site.far, &site.host], at(HOST, listening_port(way, tcp))),
    };
    (nodes, to)
}

/// What the client binds to: the narrow link's address, or whatever its routing says.
fn source(way: Way, v6: bool) -> IpAddr {
    if way == Way::InByNarrowLink { place(FAR_NARROW, v6) } else { any(v6) }
}

/// The address of a place, by the family that is wanted.
fn place(address: &str, v6: bool) -> IpAddr {
    let address = if v6 { six(address) } else { address };
    address.parse().expect("an address")
}

fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// Where the server listens.
fn listening_port(way: Way, tcp: bool) -> u16 {
    match (way, tcp) {
        (Way::In | Way::InByNarrowLink | Way::Inside, true) => 80,
        (Way::In | Way::InByNarrowLink | Way::Inside, false) => 90,
        _ => 7000,
    }
}
