//! Errors of ICMPv6 about packets.

use netd_common::packet::ETH;

use super::{checksums::icmpv6_checksum, twins::twin};

/// The type of an ICMPv6 error that says that a packet is too big (RFC 4443 section 3.2), and of one that says that it has no way
/// further (section 3.1).
const TOO_BIG: u8 = 2;
const UNREACHABLE: u8 = 1;
/// The code of the latter that says that nobody has the port.
const PORT: u8 = 4;

/// The twin of [`icmp_error`](super::icmp_error) about a packet of IPv6: too big for a link of 1280 bytes, or port unreachable, from
/// and to the [`twin`]s of these addresses.
pub fn icmpv6_error(from: [u8; 4], to: [u8; 4], too_big: bool, about: &[u8], quoted: usize) -> Vec<u8> {
    let quoted = &about[ETH..about.len().min(ETH + quoted)];
    let (head, rest) = if too_big { ([TOO_BIG, 0, 0, 0], 1280_u32) } else { ([UNREACHABLE, PORT, 0, 0], 0) };
    let mut bytes = vec![0; ETH];
    bytes[12..].copy_from_slice(&[0x86, 0xdd]);
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend((8 + quoted.len() as u16).to_be_bytes());
    bytes.extend([58, 64]);
    bytes.extend([twin(from), twin(to)].concat());
    bytes.extend(head);
    bytes.extend(rest.to_be_bytes());
    bytes.extend(quoted);
    let checksum = icmpv6_checksum(&bytes, ETH + 40);
    bytes[ETH + 42..ETH + 44].copy_from_slice(&checksum);
    bytes
}

/// A packet with these link-layer addresses, the source's first.
pub fn with_macs(mut packet: Vec<u8>, source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
    packet[..6].copy_from_slice(&destination);
    packet[6..12].copy_from_slice(&source);
    packet
}
