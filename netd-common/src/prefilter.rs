//! What is dropped before the kernel makes a packet of it: the first packets of clients that may not come to a published port.
//!
//! This runs on a frame in the driver's buffer (XDP), and drops what `from_uplink` would drop for the same reason, and less:
//! headers with options or extensions, fragments, and whatever it does not understand it lets through to there.

use crate::{
    packet::ETH,
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER, IPV6_HEADER, tcp_flags},
    tables::{Publication, PublicationKey, Publications, Scratch, SourceKey},
    tuple::{Address, Port, TCP, Tuple, UDP, Zone, echo},
    verdict::{DropReason, Packed, Verdict},
};

/// A frame in the driver's buffer.
pub trait Frame {
    /// `N` bytes at `at` from the first byte of its Ethernet header; `None` past its end.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

/// What is looked up.
pub trait Tables: Publications {
    /// Whether a list of sources has this address.
    fn is_source(&self, key: &SourceKey) -> bool;

    /// Whether this is an address of the host, those of its loopback aside.
    fn is_hosts(&self, address: &Address) -> bool;

    /// Whether there is a flow with this tuple.
    fn has_flow(&self, tuple: &Tuple) -> bool;

    /// Whether a UDP socket of the host is connected to the sender of a packet with this tuple, and would get it.
    fn has_connected(&self, tuple: &Tuple) -> bool;
}

/// What becomes of a frame that comes by an uplink.
#[inline(always)]
pub fn judge<F: Frame, T: Tables>(frame: &F, t: &T, s: &mut Scratch) -> Packed {
    if is_denied(frame, t, s).unwrap_or(false) {
        Verdict::Drop(DropReason::SourceDenied).packed()
    } else {
        Verdict::Pass.packed()
    }
}

/// Whether it opens something at a published port that is not for its source. `None` for what is not understood.
#[inline(always)]
fn is_denied<F: Frame, T: Tables>(frame: &F, t: &T, s: &mut Scratch) -> Option<bool> {
    read_opening(frame, &mut s.key)?;
    let publication = publication(t, s)?;
    if publication.sources.is_anyone() {
        return Some(false);
    }
    s.source = SourceKey::new(publication.sources, s.key.src);
    // What goes on with a flow is its flow's: an answer to a container that asked before the port was published. So is an answer
    // to a socket of the host the socket's.
    Some(!t.is_source(&s.source) && !t.has_flow(&s.key) && (s.key.protocol != UDP || !t.has_connected(&s.key)))
}

/// The publication that the tuple in `s.key` knocks at.
#[inline(always)]
fn publication<T: Tables>(t: &T, s: &mut Scratch) -> Option<Publication> {
    s.publication = PublicationKey::new(s.key.dst, s.key.protocol, s.key.dst_port);
    if let Some(publication) = t.publication(&mut s.publication) {
        return Some(*publication);
    }
    if !t.is_hosts(&s.key.dst) {
        return None;
    }
    s.publication = PublicationKey::new(s.key.dst.any_of_family(), s.key.protocol, s.key.dst_port);
    t.publication(&mut s.publication).copied()
}

/// Reads the tuple of a frame to one station that may open something: a SYN, or a datagram, behind headers without options.
#[inline(always)]
fn read_opening<F: Frame>(frame: &F, tuple: &mut Tuple) -> Option<()> {
    let ethernet = frame.read::<ETH>(0)?;
    if ethernet[0] & 1 != 0 {
        return None;
    }
    let l4 = match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => read_ipv4(frame, tuple)?,
        ETHERTYPE_IPV6 => read_ipv6(frame, tuple)?,
        _ => return None,
    };
    let ports = frame.read::<4>(l4)?;
    tuple.src_port = Port::from_wire([ports[0], ports[1]]);
    tuple.dst_port = Port::from_wire([ports[2], ports[3]]);
    tuple.echo = echo::NONE;
    tuple.zone = Zone::HOST;
    match tuple.protocol {
        TCP => opens(frame.read::<20>(l4)?[13]).then_some(()),
        UDP => frame.read::<8>(l4).map(drop),
        _ => None,
    }
}

/// Whether a segment with these flags opens a connection.
#[inline(always)]
fn opens(flags: u8) -> bool {
    flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST | tcp_flags::FIN) == tcp_flags::SYN
}

/// Offset of the transport header.
#[inline(always)]
fn read_ipv4<F: Frame>(frame: &F, tuple: &mut Tuple) -> Option<usize> {
    let b = frame.read::<IPV4_HEADER>(ETH)?;
    let is_whole = b[6] & 0x3f == 0 && b[7] == 0;
    // The loopback's addresses from the wire are dropped for a reason of their own.
    if b[0] != 0x45 || !is_whole || b[16] == 127 {
        return None;
    }
    tuple.protocol = b[9];
    tuple.src = Address::v4([b[12], b[13], b[14], b[15]]);
    tuple.dst = Address::v4([b[16], b[17], b[18], b[19]]);
    Some(ETH + IPV4_HEADER)
}

/// The same. What follows must be the transport header: an extension is not followed.
#[inline(always)]
fn read_ipv6<F: Frame>(frame: &F, tuple: &mut Tuple) -> Option<usize> {
    let b = frame.read::<8>(ETH)?;
    if b[0] >> 4 != 6 {
        return None;
    }
    tuple.protocol = b[6];
    tuple.src = Address::v6(frame.read::<16>(ETH + 8)?);
    tuple.dst = Address::v6(frame.read::<16>(ETH + 24)?);
    if tuple.dst.is_link_local() { None } else { Some(ETH + IPV6_HEADER) }
}
