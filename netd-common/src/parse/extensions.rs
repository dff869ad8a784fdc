//! IPv6 extension headers: which are skipped, and where they lead.

use super::{FRAGMENT_HEADER, IPV6_FRAGMENT, TRANSPORT_HEADER};
use crate::{
    packet::Packet,
    tuple::{Port, Tuple},
};

/// Extension headers that are skipped in one packet. More than a sender has reason for (RFC 8200 section 4.1 lists six, of which
/// two are IPsec's, behind which nothing can be read or changed).
pub const EXTENSIONS: usize = 4;
/// Bytes of extension headers that are skipped in one packet.
pub const EXTENSION_BYTES: usize = 256;

/// Hop-by-hop options, routing, destination options (RFC 8200 section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | IPV6_FRAGMENT)
}

/// Where the extension headers of an IPv6 packet lead.
#[derive(Clone, Copy)]
pub struct Extensions {
    /// Offset of the first header that is none of those skipped.
    pub l4: usize,
    /// Offset of the fragment header; 0 where there is none.
    pub fragment: usize,
}

/// Skips the extension headers of an IPv6 packet, of which the first stands at `at` and is of the type `tuple.protocol`: at most
/// [`EXTENSIONS`] of together [`EXTENSION_BYTES`]. Past the bounds the protocol is that of an extension header.
#[inline(always)]
pub fn skip_extensions<P: Packet>(p: &mut P, at: usize, tuple: &mut Tuple) -> Extensions {
    walk_extensions(p, at, tuple);
    // In the machine's order: of a number whose bytes are swapped a verifier before 6.3 knows no bounds.
    let [l4, fragment] = [tuple.src_port, tuple.dst_port].map(|port| usize::from(u16::from_ne_bytes(port.bytes())));
    p.reach(l4 + TRANSPORT_HEADER);
    Extensions { l4, fragment }
}

/// Puts the protocol and, in place of the ports, which are not known yet, the two offsets into `tuple`: memory of which the
/// kernel's verifier knows nothing, so that it need not follow each way through the loop any further.
///
/// A routing header that has not led to its end yet is not skipped: the destination is not the packet's last (RFC 8200 section
/// 4.4). In a fragment that is not the first nothing stands behind its header. Not inlined, so that LLVM does not look through
/// the memory either.
#[inline(never)]
fn walk_extensions<P: Packet>(p: &mut P, at: usize, tuple: &mut Tuple) {
    let end = at + EXTENSION_BYTES;
    let (mut at, mut fragment) = (at, 0);
    for _ in 0..EXTENSIONS {
        let next = tuple.protocol;
        if !is_extension(next) {
            break;
        }
        p.reach(at + FRAGMENT_HEADER + TRANSPORT_HEADER);
        p.reach(at + FRAGMENT_HEADER);
        let Ok(b) = p.read::<4>(at) else { break };
        let is_fragment = next == IPV6_FRAGMENT;
        let length = if is_fragment { FRAGMENT_HEADER } else { (usize::from(b[1]) + 1) * 8 };
        let leads_on = next == ROUTING && b[3] != 0;
        if leads_on || is_fragment && fragment != 0 || at + length > end {
            break;
        }
        if is_fragment {
            fragment = at;
        }
        tuple.protocol = b[0];
        at += length;
        if is_fragment && (b[2] != 0 || b[3] & 0xf8 != 0) {
            break;
        }
    }
    tuple.src_port = Port::from_wire((at as u16).to_ne_bytes());
    tuple.dst_port = Port::from_wire((fragment as u16).to_ne_bytes());
}
