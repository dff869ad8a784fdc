//! Packets in pieces.

use netd_common::packet::ETH;

use super::checksums::sum_header;

/// Cuts an IPv4 packet into fragments of at most `size` bytes of payload, a multiple of eight, with this identification.
pub fn fragments(packet: &[u8], size: usize, identification: u16) -> Vec<Vec<u8>> {
    let l4 = ETH + usize::from(packet[ETH] & 0x0f) * 4;
    let parts: Vec<_> = packet[l4..].chunks(size).collect();
    let last = parts.len() - 1;
    let fragment = |(i, part): (usize, &&[u8])| {
        let mut bytes = [&packet[..l4], part].concat();
        let more = if i == last { 0 } else { 0x2000 };
        bytes[ETH + 2..ETH + 4].copy_from_slice(&((l4 - ETH + part.len()) as u16).to_be_bytes());
        bytes[ETH + 4..ETH + 6].copy_from_slice(&identification.to_be_bytes());
        bytes[ETH + 6..ETH + 8].copy_from_slice(&(more | (i * size / 8) as u16).to_be_bytes());
        sum_header(&mut bytes[ETH..l4]);
        bytes
    };
    parts.iter().enumerate().map(fragment).collect()
}

/// The same of a packet of IPv6 without extension headers (RFC 8200 section 4.5).
pub fn ipv6_fragments(packet: &[u8], size: usize, identification: u16) -> Vec<Vec<u8>> {
    let parts: Vec<_> = packet[ETH + 40..].chunks(size).collect();
    let last = parts.len() - 1;
    let fragment = |(i, part): (usize, &&[u8])| {
        let place = (i * size) as u16 | u16::from(i < last);
        let header = [&[packet[ETH + 6], 0][..], &place.to_be_bytes(), &[0, 0], &identification.to_be_bytes()].concat();
        let mut bytes = [&packet[..ETH + 40], &header, part].concat();
        bytes[ETH + 4..ETH + 6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
        bytes[ETH + 6] = 44;
        bytes
    };
    parts.iter().enumerate().map(fragment).collect()
}

/// Puts fragments of one packet of either family together, in the order in which they come.
pub fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    if fragments[0][ETH] >> 4 == 6 { ipv6_reassembled(fragments) } else { ipv4_reassembled(fragments) }
}

fn ipv6_reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = fragments[0][..ETH + 40].to_vec();
    packet[ETH + 6] = fragments[0][ETH + 40];
    packet.extend(fragments.iter().flat_map(|fragment| &fragment[ETH + 48..]));
    let length = (packet.len() - ETH - 40) as u16;
    packet[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    packet
}

fn ipv4_reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let l4 = ETH + usize::from(fragments[0][ETH] & 0x0f) * 4;
    let mut packet = fragments[0][..l4].to_vec();
    packet.extend(fragments.iter().flat_map(|fragment| &fragment[l4..]));
    let length = (packet.len() - ETH) as u16;
    packet[ETH + 2..ETH + 4].copy_from_slice(&length.to_be_bytes());
    packet[ETH + 6..ETH + 8].copy_from_slice(&[0, 0]);
    sum_header(&mut packet[ETH..l4]);
    packet
}
