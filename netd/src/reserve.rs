//! Sockets bound to published ports, so that a process of the host that wants one of them gets EADDRINUSE and not silence.
//!
//! Packets from outside to a published port are taken before the host's sockets see them; the host's own clients that no
//! program leads come to these sockets, which the relay serves. Where programs refuse the binding of a published port, a socket
//! that is not relayed is needed only until the port is published: it shows that no process has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use netd_common::sock::KEEPER_MARK;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};

pub use crate::reconcile::HostPort as Place;
use crate::{
    holder,
    model::{Model, PortPublication, Protocol},
    plan::LONGEST,
    reconcile::Relays,
};

/// How a port is taken.
pub type Binder = Box<dyn Fn(Place) -> io::Result<OwnedFd>>;

/// The ports that are held.
pub struct Reservations {
    binder: Binder,
    held: BTreeMap<Place, OwnedFd>,
    by_programs: bool,
}

/// Ports that are held for a change under way; dropping it lets them go.
pub type Fresh = BTreeMap<Place, OwnedFd>;

impl Reservations {
    /// Nothing held; ports will be taken with sockets of the calling thread's network namespace.
    pub fn of_sockets() -> Self {
        Self::with(Box::new(bound))
    }

    /// Nothing held; ports will be taken by `binder`.
    pub fn with(binder: Binder) -> Self {
        Self { binder, held: BTreeMap::new(), by_programs: false }
    }

    /// Holds ports no longer than until they are published: from then on programs keep them.
    pub fn leave_to_programs(&mut self) {
        self.by_programs = true;
    }

    /// Whether so many ports at a time are taken by a socket each, and not by a look at who has one: that shows those too that a process
    /// has bound and does not listen on, which no table of the kernel's does. More would take longer than a command should.
    pub fn takes_each(&self, count: usize) -> bool {
        !self.by_programs || count <= usize::from(LONGEST)
    }

    /// Takes every port of some publications, or none and says which one was not to be had.
    pub fn take(&self, publications: &[PortPublication]) -> Result<Fresh, (Place, io::Error)> {
        publications
            .iter()
            .flat_map(places)
            .map(|place| (self.binder)(place).map(|socket| (place, socket)).map_err(|error| (place, error)))
            .collect()
    }

    /// Keeps what was taken for a change that is made.
    pub fn keep(&mut self, fresh: Fresh) {
        self.held.extend(fresh);
    }

    /// The ports that are held.
    pub const fn held(&self) -> &BTreeMap<Place, OwnedFd> {
        &self.held
    }

    /// Lets go what is neither relayed nor, where no program keeps it, published; and takes what is. What was not to be had, with
    /// the reason.
    pub fn follow(&mut self, model: &Model, relays: &Relays) -> Vec<(Place, io::Error)> {
        let mut wanted: BTreeSet<Place> = relays.ports.keys().copied().collect();
        if !self.by_programs {
            let publications = model.endpoints.values().flat_map(|endpoint| &endpoint.publications);
            wanted.extend(publications.flat_map(places));
        }
        self.held.retain(|place, _| wanted.contains(place));
        let mut refused = Vec::new();
        for place in wanted.into_iter().filter(|place| !self.held.contains_key(place)).collect::<Vec<_>>() {
            match (self.binder)(place) {
                Ok(socket) => {
                    self.held.insert(place, socket);
                }
                Err(error) => refused.push((place, error)),
            }
        }
        refused
    }

    /// The ports that are held.
    #[cfg(test)]
    pub fn places(&self) -> Vec<Place> {
        self.held.keys().copied().collect()
    }
}

/// The ports of the host that a publication takes.
fn places(publication: &PortPublication) -> impl Iterator<Item = Place> + use<> {
    let (address, protocol) = (publication.host_ip, publication.protocol);
    // None of SCTP, whose sockets not every kernel has.
    let pairs = (!publication.direct && protocol != Protocol::Sctp).then(|| publication.pairs());
    pairs.into_iter().flatten().map(move |(port, _)| (address, protocol, port))
}

/// A socket bound to the port and not listening. Without SO_REUSEADDR, a port would be shared with whoever else sets it; but
/// connections that are over (TIME-WAIT) are nobody's.
fn bound(place: Place) -> io::Result<OwnedFd> {
    match bound_like(place, false) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && has_only_closed(place) => bound_like(place, true),
        bound => bound,
    }
}

/// Whether nothing but connections that are over is known at a port.
fn has_only_closed((address, protocol, port): Place) -> bool {
    let closed = |ports| holder::has_closed(address, protocol.number(), ports).unwrap_or_default();
    protocol == Protocol::Tcp && closed(port..=port)
}

fn bound_like((address, protocol, port): Place, reuse: bool) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
        Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
    };
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        // IPv4 has a socket of its own.
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Datagram {
        // What strays in before it is relayed is not to fill memory.
        setsockopt(&socket, sockopt::RcvBuf, &0)?;
    }
    setsockopt(&socket, sockopt::ReuseAddr, &reuse)?;
    // Our own programs let it have a port that is published; what it sends then has no mark.
    let marked = setsockopt(&socket, sockopt::Mark, &KEEPER_MARK);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, port)))?;
    if marked.is_ok() {
        setsockopt(&socket, sockopt::Mark, &0)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

    use super::*;
    use crate::testing::bound as soon;

    #[test]
    fn a_held_port_cannot_be_bound_and_is_free_when_let_go() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        let tcp = TcpListener::bind((loopback, 0)).unwrap().local_addr().unwrap();
        let udp = UdpSocket::bind((loopback, 0)).unwrap().local_addr().unwrap();
        for (protocol, free) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
            let listen = || match protocol {
                Protocol::Udp => UdpSocket::bind(free).map(drop),
                _ => TcpListener::bind(free).map(drop),
            };

            let held = soon(|| bound((loopback, protocol, free.port()))).unwrap();
            assert_eq!(listen().unwrap_err().kind(), io::ErrorKind::AddrInUse);

            drop(held);
            soon(listen).unwrap();
        }
    }
}
