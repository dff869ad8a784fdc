//! The resolver's address in every container: 127.0.0.11, port 53, whatever the container itself has on that port.
//!
//! The daemon's sockets are in the container's own namespace, bound to the same address at another port, and only the port
//! changes on the way, both ways. Which of the few ports it is, the kernel's socket table says: there is no second copy of
//! that knowledge which could be stale.

use core::ops::ControlFlow;

use crate::{
    checksum::Delta,
    packet::{Covers, ETH, Packet, Zero},
    parse::{ETHERTYPE_IPV4, Ethernet, Headers, IPV4_HEADER, Transport},
    tables::{Scratch, Tables},
    tuple::{Address, Port},
    verdict::DropReason,
};

/// The resolver's address in every container.
pub const RESOLVER: [u8; 4] = [127, 0, 0, 11];

/// The port at which containers ask it (RFC 1035 section 4.2).
pub const PORT: u16 = 53;

/// The first port at which its sockets may be. None of them is assigned by IANA, and all are below 1024: no unprivileged process takes
/// the resolver's place.
pub const FIRST_SOCKET: u16 = 717;

/// How many ports there are from [`FIRST_SOCKET`] on.
pub const SOCKETS: u16 = 8;

/// Bytes from a TCP or UDP header's start to the destination port.
const DESTINATION_PORT: usize = 2;

/// Whether a frame is from or to the resolver's address: most of what a container sends to itself is not.
#[inline(always)]
pub fn concerns<P: Packet>(p: &P, frame: Ethernet) -> bool {
    if frame.ethertype != ETHERTYPE_IPV4 {
        return false;
    }
    let Ok(b) = p.read::<IPV4_HEADER>(ETH) else { return false };
    let resolver = u32::from_ne_bytes(RESOLVER);
    u32::from_ne_bytes([b[12], b[13], b[14], b[15]]) == resolver
        || u32::from_ne_bytes([b[16], b[17], b[18], b[19]]) == resolver
}

/// Takes what a container asks the resolver to the resolver's socket, and gives what comes from there the address that was asked.
#[inline(always)]
pub fn translate<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers) -> Result<(), DropReason> {
    let resolver = Address::v4(RESOLVER);
    if s.key.dst == resolver && s.key.dst_port.number() == PORT {
        let socket = find_socket(t, s)?;
        return change_port(p, h, DESTINATION_PORT, s.key.dst_port, socket);
    }
    let from_socket = s.key.src_port.number().wrapping_sub(FIRST_SOCKET) < SOCKETS;
    if s.key.src == resolver && from_socket {
        return change_port(p, h, 0, s.key.src_port, Port::new(PORT));
    }
    Ok(())
}

/// The port of the resolver's socket for the packet with the tuple `s.key`. Without one the daemon is away: a client that hears
/// nothing asks again, and would give up at once if it were refused.
#[inline(always)]
fn find_socket<T: Tables>(t: &T, s: &mut Scratch) -> Result<Port, DropReason> {
    s.peer_key = s.key;
    let (mut port, mut found) = (FIRST_SOCKET, false);
    t.repeat(SOCKETS.into(), || {
        s.peer_key.dst_port = Port::new(port);
        if t.has_socket_at(&s.peer_key) {
            found = true;
            return ControlFlow::Break(());
        }
        port = port.wrapping_add(1);
        ControlFlow::Continue(())
    });
    if found { Ok(Port::new(port)) } else { Err(DropReason::NoResolver) }
}

#[inline(always)]
fn change_port<P: Packet>(p: &mut P, h: Headers, field: usize, old: Port, new: Port) -> Result<(), DropReason> {
    let (checksum, zero) = match h.transport {
        Transport::Tcp => (16, Zero::IsASum),
        _ => (6, Zero::MeansNone),
    };
    p.write(h.l4 + field, new.bytes())?;
    p.replace_l4(h.l4 + checksum, Delta::NONE.and_port(old, new), Covers::Segment, zero)
}
