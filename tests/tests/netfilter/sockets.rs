//! Dialogues between real sockets, in lockstep: what one end does, the other is seen to notice before the next thing happens.

mod connection;
mod datagrams;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netd_tests::lab::Node;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

pub use self::{connection::Connection, datagrams::Datagrams};
use crate::{
    site::{A, BLACKHOLE, FAR, FAR_BY_NARROW_ROUTE, FAR_NARROW, HOST, PROHIBITED, UNREACHABLE, six},
    stage::Stage,
};

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
