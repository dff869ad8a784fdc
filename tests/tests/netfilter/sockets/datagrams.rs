//! Datagrams, what is heard of them, and what the kernel tells their sender by ICMP.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use netd_tests::lab::Node;
use nix::{
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::{Act, End, Way, any, ends, listening_port, source, way};
use crate::{
    extensions::Extensions,
    site::{FAR_BY_NARROW_ROUTE, FAR_NARROW, OWN, PROHIBITED, UNREACHABLE},
    stage::Stage,
};

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

impl Datagrams {
    pub fn arbitrary(random: &mut StdRng) -> Self {
        let (way, v6, whole) = (way(random), random.random_ratio(2, 5), random.random_ratio(1, 3));
        let extensions = if v6 { Extensions::arbitrary(random) } else { Extensions::default() };
        let largest = match way {
            // Fragments of IPv6 on a narrow way are among the odd packets.
            Way::Out(FAR_NARROW | FAR_BY_NARROW_ROUTE) | Way::InByNarrowLink if v6 && !whole => {
                1232 - extensions.length()
            }
            // What netfilter puts together with options for every hop, the host's own stack then finds fault with.
            Way::ToHost | Way::FromHost if v6 && extensions != Extensions::default() => 1232 - extensions.length(),
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

fn datagram_size(random: &mut StdRng) -> usize {
    [0, 1, 33, 1200, 1253, 1273, 1400, 1472, 1473, 2977, 6001].choose(random).copied().unwrap_or(1)
}
