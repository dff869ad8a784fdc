//! Frames of ARP and of IPv6 Neighbor Discovery as builders.

use netd_common::packet::ETH;

use crate::packets::twin;

/// An ARP packet of this operation (1 asks, 2 answers), as a frame.
pub fn arp(operation: u16, macs: [[u8; 6]; 2], sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let mut bytes = [macs[1], macs[0]].concat();
    bytes.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
    bytes.extend(operation.to_be_bytes());
    bytes.extend([&sender.0[..], &sender.1, &target.0, &target.1].concat());
    bytes
}

/// A message of Neighbor Discovery.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// 133 to 137.
    pub kind: u8,
    /// Sender's and receiver's link-layer addresses.
    pub macs: [[u8; 6]; 2],
    /// Sender's and receiver's addresses.
    pub ends: [[u8; 16]; 2],
    /// Whose address it is about.
    pub target: [u8; 16],
    /// Kind of an option and the link-layer address in it.
    pub option: Option<(u8, [u8; 6])>,
    /// The hop limit, 255 of all that counts.
    pub hop_limit: u8,
}

impl Discovery {
    /// Who has the twin of `target`, asks that of `from`, of everybody.
    pub fn solicitation(mac: [u8; 6], from: [u8; 4], target: [u8; 4]) -> Self {
        let [.., a, b, c] = target;
        let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
        group[13..].copy_from_slice(&target[1..]);
        Self {
            kind: 135,
            macs: [mac, [0x33, 0x33, 0xff, a, b, c]],
            ends: [twin(from), group],
            target: twin(target),
            option: Some((1, mac)),
            hop_limit: 255,
        }
    }

    /// The twin of `target` is at `mac`, says that of `from` to that of `to`.
    pub fn advertisement(macs: [[u8; 6]; 2], [from, to]: [[u8; 4]; 2], target: [u8; 4]) -> Self {
        Self {
            kind: 136,
            macs,
            ends: [twin(from), twin(to)],
            target: twin(target),
            option: Some((2, macs[0])),
            hop_limit: 255,
        }
    }

    /// As a frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut message = vec![self.kind, 0, 0, 0, 0, 0, 0, 0];
        if self.kind != 133 {
            message.extend(self.target);
        }
        if let Some((kind, mac)) = self.option {
            message.extend([kind, 1]);
            message.extend(mac);
        }
        let mut bytes = [self.macs[1], self.macs[0]].concat();
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((message.len() as u16).to_be_bytes());
        bytes.extend([58, self.hop_limit]);
        bytes.extend(self.ends.concat());
        let l4 = bytes.len();
        bytes.extend(message);
        let checksum = crate::packets::icmpv6_checksum(&bytes, l4);
        bytes[l4 + 2..l4 + 4].copy_from_slice(&checksum);
        debug_assert_eq!(l4, ETH + 40);
        bytes
    }
}
