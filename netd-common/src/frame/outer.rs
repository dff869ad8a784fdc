//! The headers around a frame on its way to another host (RFC 7348 section 5), as a VXLAN device writes them over IPv4.

use super::Frame;
use crate::{
    checksum::complement,
    packet::ETH,
    parse::{ETHERTYPE_IPV4, IPV4_HEADER},
    tables::{OUTER_TTL, Scratch},
    tuple::UDP,
};

const UDP_HEADER: usize = 8;
const VXLAN_HEADER: usize = 8;
/// Bytes of all of them, the outer Ethernet header's too.
pub const OUTER: usize = ETH + IPV4_HEADER + UDP_HEADER + VXLAN_HEADER;

/// The flag of a VXLAN header that says that it has a VNI.
const HAS_VNI: u8 = 0x08;
/// The bits of a type of service that are for explicit congestion notification (RFC 3168 section 5).
const ECN: u8 = 3;
/// Those of a sender that can be told: one of two ways to say it.
const ECT_0: u8 = 2;

/// Writes the headers of the datagram with the tuple `s.peer_key` to the neighbour in `s.peer.next`, of `length` bytes from its IP
/// header on, into the segment of `s.tunnel`. `service` is the inner packet's type of service.
#[inline(always)]
pub fn write<F: Frame>(frame: &mut F, s: &Scratch, length: u32, service: u8, identification: u16) -> Option<()> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = s.peer.next.macs();
    let [m, n] = ETHERTYPE_IPV4;
    frame.write(0, [a, b, c, d, e, f, g, h, i, j, k, l, m, n])?;
    frame.write(ETH, ip(s, length as u16, service, identification))?;
    let (from, to) = (s.peer_key.src_port.bytes(), s.peer_key.dst_port.bytes());
    let [x, y] = (length as u16).wrapping_sub(IPV4_HEADER as u16).to_be_bytes();
    // Without a checksum, which RFC 7348 asks for.
    frame.write(ETH + IPV4_HEADER, [from[0], from[1], to[0], to[1], x, y, 0, 0])?;
    let [_, p, q, r] = s.tunnel.vni.to_be_bytes();
    frame.write(ETH + IPV4_HEADER + UDP_HEADER, [HAS_VNI, 0, 0, 0, p, q, r, 0])
}

/// An IPv4 header without options that routers on the way may cut what follows of.
#[inline(always)]
fn ip(s: &Scratch, length: u16, service: u8, identification: u16) -> [u8; IPV4_HEADER] {
    let [l, m] = length.to_be_bytes();
    let [i, j] = identification.to_be_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (s.peer_key.src.v4_bytes(), s.peer_key.dst.v4_bytes());
    let ecn = congestion(service);
    let words = [[0x45, ecn], [l, m], [i, j], [OUTER_TTL, UDP], [a, b], [c, d], [e, f], [g, h]];
    let [x, y] = complement(words.into_iter().map(|word| u32::from(u16::from_ne_bytes(word))).sum());
    [0x45, ecn, l, m, i, j, 0, 0, OUTER_TTL, UDP, x, y, a, b, c, d, e, f, g, h]
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
