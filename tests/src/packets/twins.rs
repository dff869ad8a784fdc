//! What an IPv4 packet is in IPv6.

use netd_common::packet::ETH;

use super::checksums::{checksum_field6, pseudo_header6, sum};

/// The IPv6 address that stands for an IPv4 one in twins of packets and scenes.
pub const fn twin(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// An IPv4 packet's twin of IPv6: the same with addresses by [`twin`], without options; a fragment has the extension header.
/// What an error quotes becomes a twin too, its own checksum aside.
pub fn ipv6_twin(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet[..ETH].to_vec();
    bytes[12..ETH].copy_from_slice(&[0x86, 0xdd]);
    let (ip, segment) = packet[ETH..].split_at(usize::from(packet[ETH] & 0x0f) * 4);
    let later = ip[6] & 0x1f != 0 || ip[7] != 0;
    let mut segment = segment.to_vec();
    if ip[9] == 1 && !later {
        twin_of_icmp(&mut segment);
    }
    header_twin(ip, segment.len(), &mut bytes);
    bytes.extend_from_slice(&segment);
    let udp_without = ip[9] == 17 && segment.get(6..8) == Some(&[0, 0]);
    if let Some((field, l4)) = checksum_field6(&bytes).filter(|_| !udp_without) {
        bytes[field..field + 2].copy_from_slice(&[0, 0]);
        let checksum = !sum(&[&pseudo_header6(&bytes, l4), &bytes[l4..]].concat());
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// Puts extension headers, each a type and its bytes with a length of any multiple of eight, between an IPv6 header and what
/// follows it. Their first byte, the type of the next, is filled in.
pub fn with_extensions(packet: &[u8], extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = packet[..ETH + 40].to_vec();
    let mut place = ETH + 6;
    for (kind, header) in extensions {
        let at = bytes.len();
        let next = std::mem::replace(&mut bytes[place], *kind);
        bytes.extend(header);
        bytes[at] = next;
        place = at;
    }
    bytes.extend(&packet[ETH + 40..]);
    let length = (bytes.len() - ETH - 40) as u16;
    bytes[ETH + 4..ETH + 6].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// An extension header of `length` bytes, a multiple of eight, filled with one option that who does not know it
/// skips (RFC 8200 section 4.2, RFC 4727 section 3.4). More than seven bytes of padding no Linux takes.
pub fn padding(length: usize) -> Vec<u8> {
    let mut header = vec![0; length];
    (header[1], header[2], header[3]) = ((length / 8 - 1) as u8, 0x1e, (length - 4) as u8);
    header
}

/// Writes the header of IPv6 for one of IPv4, with that of a fragment where it is one.
fn header_twin(ip: &[u8], segment: usize, bytes: &mut Vec<u8>) {
    let is_fragment = ip[6] & 0x3f != 0 || ip[7] != 0;
    let next = if ip[9] == 1 { 58 } else { ip[9] };
    let length = (segment + if is_fragment { 8 } else { 0 }) as u16;
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend([if is_fragment { 44 } else { next }, ip[8]]);
    bytes.extend(twin([ip[12], ip[13], ip[14], ip[15]]));
    bytes.extend(twin([ip[16], ip[17], ip[18], ip[19]]));
    if is_fragment {
        let offset = u16::from_be_bytes([ip[6] & 0x1f, ip[7]]) << 3 | u16::from(ip[6] & 0x20 != 0);
        bytes.extend([next, 0]);
        bytes.extend(offset.to_be_bytes());
        bytes.extend([0, 0, ip[4], ip[5]]);
    }
}

/// Gives an ICMP message the numbers of ICMPv6, and the packet that an error quotes those of IPv6.
fn twin_of_icmp(message: &mut Vec<u8>) {
    match (message[0], message[1]) {
        (8, _) => message[0] = 128,
        (0, _) => message[0] = 129,
        (3, code) => {
            let (kind, code) = if code == 4 { (2, 0) } else { (1, 4) };
            (message[0], message[1]) = (kind, code);
            let quoted = message.split_off(8);
            let header = usize::from(quoted[0] & 0x0f) * 4;
            let mut segment = quoted.get(header..).unwrap_or_default().to_vec();
            if quoted[9] == 1 && !segment.is_empty() {
                segment[0] = if segment[0] == 8 { 128 } else { 129 };
            }
            header_twin(&quoted, segment.len(), message);
            message.extend(segment);
        }
        _ => {}
    }
}
