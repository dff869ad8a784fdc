//! Sockets bound to published ports, so that a process of the host that wants one of them gets EADDRINUSE and not silence.
//!
//! They never receive: packets to a published port are taken before the host's sockets see them. Where programs refuse the
//! binding of a published port, a socket is needed only until the port is published: it shows that no process has it.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};

use crate::model::{Model, PortPublication, Protocol};

/// As many ports as are taken for a moment by a socket each: that shows those too that a process has bound and does not listen
/// on, which no table of the kernel's does. More would take longer than a command should.
const FEW: u16 = 64;

/// A port of the host: address (unspecified for all), protocol, number.
pub type Place = (IpAddr, Protocol, u16);

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

    /// Whether so many ports are taken by a socket each, and not by a look at who has one.
    pub fn takes_each(&self, count: u16) -> bool {
        !self.by_programs || count <= FEW
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
        if !self.by_programs {
            self.held.extend(fresh);
        }
    }

    /// Lets go what the model does not publish, and takes what it does; what was not to be had, with the reason.
    pub fn follow(&mut self, model: &Model) -> Vec<(Place, io::Error)> {
        if self.by_programs {
            return Vec::new();
        }
        let publications: Vec<_> = model.endpoints.values().flat_map(|endpoint| &endpoint.publications).collect();
        let wanted: std::collections::BTreeSet<Place> = publications.into_iter().flat_map(places).collect();
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

/// A socket bound to the port and not listening. Without SO_REUSEADDR: a port would be shared with whoever else sets it.
fn bound((address, protocol, port): Place) -> io::Result<OwnedFd> {
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
    // What strays in (from the host itself) is not to fill memory.
    setsockopt(&socket, sockopt::RcvBuf, &0)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, port)))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;

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

            let held = bound((loopback, protocol, free.port())).unwrap();
            assert_eq!(listen().unwrap_err().kind(), io::ErrorKind::AddrInUse);

            drop(held);
            listen().unwrap();
        }
    }
}
