//! The headers around a frame on its way to another host (RFC 7348 section 5), as a VXLAN device writes them.

use super::{Frame, NO_CHECKSUM, Plain, UDP_HEADER};
use crate::{
    checksum::{Delta, complement},
    packet::{ETH, Zero},
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER, IPV6_HEADER},
    tables::{OUTER_TTL, Scratch},
    tuple::{Address, UDP},
};

const VXLAN_HEADER: usize = 8;

/// Bytes of all of them between hosts of a family, the outer Ethernet header's too.
#[inline(always)]
pub const fn outer(v4: bool) -> usize {
    ETH + if v4 { IPV4_HEADER } else { IPV6_HEADER } + UDP_HEADER + VXLAN_HEADER
}

/// The flag of a VXLAN header that says that it has a VNI.
const HAS_VNI: u8 = 0x08;
/// The bits of a type of service that are for explicit congestion notification (RFC 3168 section 5).
const ECN: u8 = 3;
/// Those of a sender that can be told: one of two ways to say it.
const ECT_0: u8 = 2;

/// Writes the headers of the datagram with the tuple `s.peer_key` to the neighbour in `s.peer.next`, of `length` bytes from its IP
/// header on, into the segment of `s.tunnel`, around a packet that is already what it becomes.
#[inline(always)]
pub fn write<F: Frame>(frame: &mut F, s: &Scratch, plain: &Plain, length: u16, identification: u16) -> Option<()> {
    let v4 = s.peer_key.dst.is_v4();
    let [a, b, c, d, e, f, g, h, i, j, k, l] = s.peer.next.macs();
    let [m, n] = if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    frame.write(0, [a, b, c, d, e, f, g, h, i, j, k, l, m, n])?;
    let ecn = congestion(plain.service);
    if v4 {
        frame.write(ETH, ipv4(s, length, ecn, identification))?;
        // Without a checksum, which RFC 7348 asks for.
        return write_datagram(frame, s, ETH + IPV4_HEADER, length.wrapping_sub(IPV4_HEADER as u16), NO_CHECKSUM);
    }
    let length = length.wrapping_sub(IPV6_HEADER as u16);
    let sum = checksum(frame, s, plain, length)?;
    let [x, y] = length.to_be_bytes();
    // Without a flow label, as the kernel's tunnels.
    frame.write(ETH, [0x60 | ecn >> 4, ecn << 4, 0, 0, x, y, UDP, OUTER_TTL])?;
    frame.write(ETH + 8, s.peer_key.src.bytes())?;
    frame.write(ETH + 24, s.peer_key.dst.bytes())?;
    write_datagram(frame, s, ETH + IPV6_HEADER, length, sum)
}

/// Writes the headers of UDP and VXLAN at `at`.
#[inline(always)]
fn write_datagram<F: Frame>(frame: &mut F, s: &Scratch, at: usize, length: u16, sum: [u8; 2]) -> Option<()> {
    let (from, to) = (s.peer_key.src_port.bytes(), s.peer_key.dst_port.bytes());
    let [x, y] = length.to_be_bytes();
    frame.write(at, [from[0], from[1], to[0], to[1], x, y, sum[0], sum[1]])?;
    frame.write(at + UDP_HEADER, vxlan(s))
}

#[inline(always)]
const fn vxlan(s: &Scratch) -> [u8; VXLAN_HEADER] {
    let [_, p, q, r] = s.tunnel.vni.to_be_bytes();
    [HAS_VNI, 0, 0, 0, p, q, r, 0]
}

/// An IPv4 header without options that routers on the way may cut what follows of.
#[inline(always)]
fn ipv4(s: &Scratch, length: u16, ecn: u8, identification: u16) -> [u8; IPV4_HEADER] {
    let [l, m] = length.to_be_bytes();
    let [i, j] = identification.to_be_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (s.peer_key.src.v4_bytes(), s.peer_key.dst.v4_bytes());
    let words = [[0x45, ecn], [l, m], [i, j], [OUTER_TTL, UDP], [a, b], [c, d], [e, f], [g, h]];
    let [x, y] = complement(words.into_iter().map(|word| u32::from(u16::from_ne_bytes(word))).sum());
    [0x45, ecn, l, m, i, j, 0, 0, OUTER_TTL, UDP, x, y, a, b, c, d, e, f, g, h]
}

/// The checksum of the datagram, of `length` bytes from its UDP header on, over IPv6 (RFC 8200 section 8.1).
///
/// Nothing of what it carries is read but headers: from its transport header on, a packet whose own checksum is right comes to what
/// makes up for its pseudo-header. The kernel does the same ("local checksum offload"). Where it is not right neither is this one,
/// and the other host drops what the container would have.
#[inline(always)]
fn checksum<F: Frame>(frame: &F, s: &Scratch, plain: &Plain, length: u16) -> Option<[u8; 2]> {
    let size = length.to_be_bytes();
    let (from, to) = (s.peer_key.src_port.bytes(), s.peer_key.dst_port.bytes());
    let [v, w, x, y, p, q, r, z] = vxlan(s);
    let [a, b, c, d, e, f, g, h, i, j, k, l] = s.flow.next.macs();
    let kind = if plain.h.v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let udp = [[0, UDP], size, from, to, size];
    let inner = [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l], kind];
    let words = udp.into_iter().chain([[v, w], [x, y], [p, q], [r, z]]).chain(inner);
    let headers = Delta::added(words.map(|word| u32::from(u16::from_ne_bytes(word))).sum());
    let packet = if plain.h.v4 { of_ipv4(s, plain) } else { of_ipv6(frame.read::<8>(outer(false) + ETH)?) };
    let ends = headers.and_address(Address::ANY_V6, s.peer_key.src).and_address(Address::ANY_V6, s.peer_key.dst);
    Some(Zero::MeansNone.written(complement(ends.and(packet).wsum())))
}

/// What an IPv4 packet comes to: its header to nothing, with its own checksum, and what follows to the pseudo-header's complement.
#[inline(always)]
fn of_ipv4(s: &Scratch, plain: &Plain) -> Delta {
    let becomes = &s.flow.becomes;
    let addresses = Delta::NONE.and_address(becomes.src, Address::ANY_V6).and_address(becomes.dst, Address::ANY_V6);
    addresses.and_word([0, s.key.protocol], [0; 2]).and_word(plain.segment.to_be_bytes(), [0; 2])
}

/// The same of an IPv6 packet whose header begins so. Addresses and length are in the pseudo-header too.
#[inline(always)]
fn of_ipv6([a, b, c, d, _, _, protocol, hop_limit]: [u8; 8]) -> Delta {
    Delta::NONE.and_word([0; 2], [a, b]).and_word([0; 2], [c, d]).and_word([0, protocol], [protocol, hop_limit])
}

/// What the outer header says of congestion (RFC 6040 section 4.1 in compatibility with RFC 3168 section 9.1.1, as the kernel's
/// tunnels do): what the inner does, but that it has met any is the inner's to say alone.
#[inline(always)]
const fn congestion(service: u8) -> u8 {
    if service & ECN == ECN { ECT_0 } else { service & ECN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn congestion_that_was_met_is_not_told_twice() {
        assert_eq!([0xb8, 0xb9, 0xba, 0xbb].map(congestion), [0, 1, 2, 2]);
    }
}
