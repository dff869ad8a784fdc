//! The oracle: checksums recomputed from nothing but a packet's bytes, and those that are left to a device.

use netd_common::packet::ETH;

/// Recomputes the checksums of an IPv4 packet from its bytes; an error names the one that is wrong. A UDP checksum that is
/// absent is right; what is cut off cannot be told, nor a
/// fragment's transport checksum.
pub fn checksums_hold(packet: &[u8]) -> Result<(), &'static str> {
    let header = usize::from(packet[ETH] & 0x0f) * 4;
    let Some(ip) = packet.get(ETH..ETH + header) else { return Ok(()) };
    if sum(ip) != 0xffff {
        return Err("IPv4 header checksum");
    }
    let total = usize::from(u16::from_be_bytes([packet[ETH + 2], packet[ETH + 3]]));
    let fragment = packet[ETH + 6] & 0x3f != 0 || packet[ETH + 7] != 0;
    let Some((field, l4)) = checksum_field(packet) else { return Ok(()) };
    if fragment || total + ETH != packet.len() {
        return Ok(());
    }
    let protocol = packet[ETH + 9];
    if protocol == 17 && packet[field..field + 2] == [0, 0] {
        return Ok(());
    }
    let mut all = vec![];
    if protocol != 1 {
        all.extend(pseudo_header_sum(packet, packet.len() - l4).to_be_bytes());
    }
    all.extend_from_slice(&packet[l4..]);
    if sum(&all) == 0xffff { Ok(()) } else { Err("transport checksum") }
}

/// Whether the checksums of a packet of either family hold.
pub fn all_hold(packet: &[u8]) -> Result<(), &'static str> {
    if packet[12..ETH] == [0x86, 0xdd] { ipv6_checksums_hold(packet) } else { checksums_hold(packet) }
}

/// As [`checksums_hold`] for IPv6.
pub fn ipv6_checksums_hold(packet: &[u8]) -> Result<(), &'static str> {
    let Some((field, l4)) = checksum_field6(packet) else { return Ok(()) };
    let length = usize::from(u16::from_be_bytes([packet[ETH + 4], packet[ETH + 5]]));
    if l4 + length != packet.len() || packet[ETH + 6] == 17 && packet[field..field + 2] == [0, 0] {
        return Ok(());
    }
    let all = [&pseudo_header6(packet, l4), &packet[l4..]].concat();
    if sum(&all) == 0xffff { Ok(()) } else { Err("transport checksum") }
}

/// The checksum of the ICMPv6 message from `l4` on, whose own field is zero (RFC 4443 section 2.3).
pub fn icmpv6_checksum(packet: &[u8], l4: usize) -> [u8; 2] {
    (!sum(&[&pseudo_header6(packet, l4), &packet[l4..]].concat())).to_be_bytes()
}

/// Leaves the TCP or UDP checksum of a packet to the device, as a sender with offload does: only the pseudo-header is summed.
pub fn left_to_the_device(mut packet: Vec<u8>) -> Vec<u8> {
    let (field, l4) = checksum_field(&packet).expect("TCP or UDP");
    let partial = pseudo_header_sum(&packet, packet.len() - l4);
    packet[field..field + 2].copy_from_slice(&partial.to_be_bytes());
    packet
}

/// What the device does then: sums the segment, the pseudo-header's sum being in the field.
pub fn summed_by_the_device(mut packet: Vec<u8>) -> Vec<u8> {
    let (field, l4) = checksum_field(&packet).expect("TCP or UDP");
    let complete = !sum(&packet[l4..]);
    packet[field..field + 2].copy_from_slice(&complete.to_be_bytes());
    packet
}

/// The one's-complement sum of 16-bit words in network order (RFC 1071), not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo_header_sum(packet: &[u8], length: usize) -> u16 {
    let mut pseudo = packet[ETH + 12..ETH + 20].to_vec();
    pseudo.extend([0, packet[ETH + 9]]);
    pseudo.extend((length as u16).to_be_bytes());
    sum(&pseudo)
}

/// Where the transport checksum of a whole IPv4 packet is, and where its segment starts.
fn checksum_field(packet: &[u8]) -> Option<(usize, usize)> {
    let l4 = ETH + usize::from(packet[ETH] & 0x0f) * 4;
    match packet[ETH + 9] {
        6 => Some((l4 + 16, l4)),
        17 => Some((l4 + 6, l4)),
        1 => Some((l4 + 2, l4)),
        _ => None,
    }
}

/// Where the transport checksum of an IPv6 packet without extension headers is, and where its segment starts.
pub(super) fn checksum_field6(packet: &[u8]) -> Option<(usize, usize)> {
    let l4 = ETH + 40;
    let field = match packet[ETH + 6] {
        6 => l4 + 16,
        17 => l4 + 6,
        58 => l4 + 2,
        _ => return None,
    };
    (field + 2 <= packet.len()).then_some((field, l4))
}

/// RFC 8200 section 8.1.
pub(super) fn pseudo_header6(packet: &[u8], l4: usize) -> Vec<u8> {
    let mut pseudo = packet[ETH + 8..ETH + 40].to_vec();
    pseudo.extend(((packet.len() - l4) as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, packet[ETH + 6]]);
    pseudo
}

pub(super) fn sum_header(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let checksum = !sum(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}
