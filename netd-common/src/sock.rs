//! The host's own sockets: where one that dials a published port is led, what it is told of its peer, and which ports it may
//! not bind.
//!
//! This runs at calls (connect, sendmsg, recvmsg, getpeername, bind) and never at a packet: a socket that was led to a
//! container speaks to it by the bridge. Only the host's own network namespace is looked at; the adapter sees to that.

use crate::{
    tables::{Dialled, DialledKey, EndpointKey, Led, MeshEnd, Publication, PublicationKey, Publications, SourceKey},
    tuple::{Address, Port, TCP, UDP},
};

/// The mark (SO_MARK) of the socket by which the daemon keeps a published port, while it is bound. Setting one takes
/// CAP_NET_ADMIN.
pub const KEEPER_MARK: u32 = 0x6e64_6b70;

/// By what it is known where a published port leads.
pub trait Places: Publications {
    /// Whether a list of sources has this address.
    fn is_source(&self, key: &SourceKey) -> bool;

    /// Where a container of another host is; `None` of one that is here.
    fn elsewhere(&self, key: &EndpointKey) -> Option<&MeshEnd>;
}

/// What else is looked up at a socket's call, and kept of it.
pub trait Tables: Places {
    /// Whether this is an address of the host, those of its loopback aside.
    fn is_hosts(&self, address: &Address) -> bool;

    /// Whether what goes to other hosts in this segment is encrypted.
    fn is_encrypted(&self, vni: u32) -> bool;

    /// Whether a socket of the host would answer at this place.
    fn has_server(&self, protocol: u8, address: Address, port: Port) -> bool;

    /// The kernel's number for the socket, which no other has had or will have.
    fn cookie(&self) -> u64;

    /// Where the socket, of TCP, was led when it connected last.
    fn led(&self) -> Option<&Led>;

    /// Keeps where the socket is led, with the socket.
    fn keep_led(&self, led: &Led);

    /// What a socket dialled that was led to this place.
    fn dialled(&self, key: &DialledKey) -> Option<&Dialled>;

    /// Keeps what a socket dialled.
    fn keep_dialled(&self, key: &DialledKey, dialled: &Dialled);
}

/// What a socket is before it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    /// IP protocol number.
    pub protocol: u8,
    /// The address it is bound to; unspecified for none.
    pub source: Address,
    /// Whether it is bound to a device.
    pub on_device: bool,
    /// What addresses it may be led to.
    pub speaks: Speaks,
}

/// Which families a socket can be led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// IPv4: a socket of its family.
    V4,
    /// IPv6 alone: a datagram of an IPv6 socket without a peer, which the kernel does not send to a mapped address.
    V6,
    /// Both: an IPv6 socket that connects.
    Both,
}

/// What becomes of a socket that dials a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dial {
    /// It goes where it goes: nothing is published there, or the container could not answer it.
    Alone,
    /// It goes to this place instead.
    Led(Address, Port),
    /// Nowhere: the port is not for it.
    Refused,
}

/// What becomes of a socket that dials this place. Where it is led is noted for when it is asked with whom it speaks.
#[inline(always)]
pub fn dial<T: Tables>(t: &T, socket: &Socket, address: Address, port: Port) -> Dial {
    if socket.protocol != TCP && socket.protocol != UDP {
        return Dial::Alone;
    }
    // From the loopback no route leads to a container, and a device leads where it leads.
    if socket.on_device || socket.source.is_loopback() {
        return Dial::Alone;
    }
    let Some((publication, way)) = published(t, socket.protocol, address, port) else { return Dial::Alone };
    // What the host itself serves in the other family is left to it.
    if way == Way::OtherFamily && t.has_server(socket.protocol, address, port) {
        return Dial::Alone;
    }
    let (to, to_port) = (publication.address, publication.port(port));
    if (to, to_port) == (address, port) {
        // Open at its own address: it goes there anyway.
        return Dial::Alone;
    }
    let source = source(socket, address);
    if !may_come(t, &publication, source) {
        return Dial::Refused;
    }
    if let Some(end) = end_of(t, &publication) {
        return lead_elsewhere(t, socket, (&publication, end), (address, source, port));
    }
    if can_speak(socket, publication.address) {
        return lead(t, socket, (address, source, port), (to, to_port));
    }
    // Its family is none of the container's: the relay is at the loopback.
    if address.is_loopback() || address == address.any_of_family() {
        return Dial::Alone;
    }
    lead(t, socket, (address, source, port), (address.loopback_of_family(), port))
}

/// The other host that has the container of a publication.
#[inline(always)]
fn end_of<'t, P: Places>(t: &'t P, publication: &Publication) -> Option<&'t MeshEnd> {
    t.elsewhere(&EndpointKey { address: publication.address, zone: publication.zone, pad: 0 })
}

/// To the container's host, where the port is published by the same number: no stack here has a way to the container itself. Of an
/// encrypted network nothing may go so, since it would go in clear; a process here that has the port keeps it; and from an address
/// that a socket is bound to there may be no way to other hosts.
#[inline(always)]
fn lead_elsewhere<T: Tables>(
    t: &T,
    socket: &Socket,
    (publication, end): (&Publication, &MeshEnd),
    dialled: (Address, Address, Port),
) -> Dial {
    let (address, _, port) = dialled;
    if socket.source != socket.source.any_of_family() {
        return Dial::Alone;
    }
    let here = if address == address.any_of_family() { address.loopback_of_family() } else { address };
    if t.is_encrypted(end.vni) || !can_speak(socket, end.vtep) || t.has_server(socket.protocol, here, port) {
        return Dial::Alone;
    }
    // Hosts may know one another by the other family, of which the port may be another container's: it must be this one's there too.
    let there = t.publication(&mut PublicationKey::new(end.vtep.any_of_family(), socket.protocol, port)).copied();
    let Some(there) = there.filter(|there| there.port(port) == publication.port(port)) else { return Dial::Alone };
    match end_of(t, &there) {
        Some(other) if (other.vtep, other.vni, other.mac) == (end.vtep, end.vni, end.mac) => {
            lead(t, socket, dialled, (end.vtep, port))
        }
        _ => Dial::Alone,
    }
}

#[inline(always)]
fn lead<T: Tables>(t: &T, socket: &Socket, dialled: (Address, Address, Port), to: (Address, Port)) -> Dial {
    let (address, source, port) = dialled;
    let dialled = Dialled { address, source, port, protocol: socket.protocol, pad: 0 };
    if socket.protocol == TCP {
        t.keep_led(&Led::new(to.0, to.1, dialled));
    } else {
        t.keep_dialled(&DialledKey::new(t.cookie(), to.0, to.1), &dialled);
    }
    Dial::Led(to.0, to.1)
}

/// Whom a socket takes its peer at this place for, if it was led there.
#[inline(always)]
pub fn peer<T: Tables>(t: &T, protocol: u8, address: Address, port: Port) -> Option<(Address, Port)> {
    let dialled = if protocol == TCP {
        let led = t.led().filter(|led| (led.address, led.port) == (address, port))?;
        &led.dialled
    } else {
        t.dialled(&DialledKey::new(t.cookie(), address, port))?
    };
    Some((dialled.address, dialled.port))
}

/// Whether what a socket dialled leads it still to this place, and it may come there.
pub fn leads<P: Places>(p: &P, dialled: &Dialled, place: (Address, Port)) -> bool {
    let &Dialled { address, source, port, protocol, .. } = dialled;
    let exactly = p.publication(&mut PublicationKey::new(address, protocol, port)).copied();
    let found = exactly.or_else(|| Some(everywhere(p, protocol, address, port)?.0));
    let Some(publication) = found else { return false };
    let to = match end_of(p, &publication) {
        Some(end) => (end.vtep, port),
        None => (publication.address, publication.port(port)),
    };
    // The relay ends by itself what it serves.
    let relay = (address.loopback_of_family(), port);
    (place == to || place == relay) && may_come(p, &publication, source)
}

#[inline(always)]
fn may_come<P: Places>(p: &P, publication: &Publication, source: Address) -> bool {
    publication.sources.is_anyone() || p.is_source(&SourceKey::new(publication.sources, source))
}

/// Whether a socket may have this port: not one that is published there, or on every address, or, where it wants every
/// address, on any.
#[inline(always)]
pub fn may_bind<T: Tables>(t: &T, protocol: u8, address: Address, port: Port) -> bool {
    if port == Port::NONE || (protocol != TCP && protocol != UDP) {
        return true;
    }
    if address != address.any_of_family() {
        return !is_published(t, protocol, address, port) && !is_published(t, protocol, address.any_of_family(), port);
    }
    // An IPv6 socket takes IPv4 as well unless it is told otherwise, which cannot be seen here.
    is_free(t, protocol, address, port) && (address.is_v4() || is_free(t, protocol, Address::ANY_V4, port))
}

/// The address that a socket counts as coming from: its own, else the one of the host that it dials, which the kernel gives it
/// for a source.
#[inline(always)]
fn source(socket: &Socket, dialled: Address) -> Address {
    if socket.source != socket.source.any_of_family() {
        return socket.source;
    }
    if dialled == dialled.any_of_family() { dialled.loopback_of_family() } else { dialled }
}

/// By which address a publication was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// The one that is asked about, or every one of its family.
    Family,
    /// Every one of the other family: a container of one family is published in that one alone.
    OtherFamily,
}

/// The publication that a place of the host's own stands for.
#[inline(always)]
fn published<T: Tables>(t: &T, protocol: u8, address: Address, port: Port) -> Option<(Publication, Way)> {
    if let Some(publication) = t.publication(&mut PublicationKey::new(address, protocol, port)) {
        return Some((*publication, Way::Family));
    }
    if !address.is_loopback() && !t.is_hosts(&address) {
        return None;
    }
    everywhere(t, protocol, address, port)
}

/// The publication of a port at every address, for whom dials this one.
#[inline(always)]
fn everywhere<P: Places>(p: &P, protocol: u8, address: Address, port: Port) -> Option<(Publication, Way)> {
    let at = |any: Address| p.publication(&mut PublicationKey::new(any, protocol, port)).copied();
    if let Some(publication) = at(address.any_of_family()) {
        return Some((publication, Way::Family));
    }
    let other = if address.is_v4() { Address::ANY_V6 } else { Address::ANY_V4 };
    at(other).map(|publication| (publication, Way::OtherFamily))
}

/// Whether a socket can speak to this address, by its family and by that of the address it has.
#[inline(always)]
fn can_speak(socket: &Socket, to: Address) -> bool {
    let family = match socket.speaks {
        Speaks::V4 => to.is_v4(),
        Speaks::V6 => !to.is_v4(),
        Speaks::Both => true,
    };
    let unbound = socket.source == socket.source.any_of_family();
    family && (unbound || socket.source.is_v4() == to.is_v4())
}

#[inline(always)]
fn is_published<T: Tables>(t: &T, protocol: u8, address: Address, port: Port) -> bool {
    t.publication(&mut PublicationKey::new(address, protocol, port)).is_some()
}

/// Whether a port is published on no address of a family whose unspecified address this is.
#[inline(always)]
fn is_free<T: Tables>(t: &T, protocol: u8, any: Address, port: Port) -> bool {
    let mut key = PublicationKey::new(any, protocol, port);
    let mut beside = key.somewhere();
    t.publication(&mut key).is_none() && t.publication(&mut beside).is_none()
}

#[cfg(test)]
mod tests;
