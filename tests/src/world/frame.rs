//! A packet in memory that does with checksums what the kernel does with an skb's.

use netd_common::{
    chapter::{self, Chapter},
    checksum::Delta,
    packet::{Covers, ETH, Label, Packet, Zero},
    parse::Noted,
    tables::{Scratch, Tables, TunnelKey},
    verdict::{DropReason, Packed},
};

use crate::packets::sum;

/// How the transport checksum of a packet stands (the kernel's `ip_summed`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Summed {
    /// Complete in its field (CHECKSUM_NONE): it came from a wire, or from a sender without offload.
    None,
    /// Left to the device (CHECKSUM_PARTIAL): the field holds the uncomplemented sum of the pseudo-header.
    Partial,
    /// Complete in its field, and besides, a device has summed all from the IP header on (CHECKSUM_COMPLETE): this is what it
    /// came to, not complemented.
    Complete([u8; 2]),
}

/// A packet and what the kernel knows besides its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// From the Ethernet header on, or from the IP header on where it has none.
    pub bytes: Vec<u8>,
    /// Whether it has no Ethernet header.
    pub layer3: bool,
    /// The state of its transport checksum.
    pub summed: Summed,
    /// Payload bytes of each segment, 0 for none.
    pub segment_size: usize,
    /// Tag control information of a tag that the kernel keeps beside the bytes (IEEE 802.1Q).
    pub tag: Option<u16>,
    /// Whether its frame is for another station.
    pub for_another: bool,
    /// Index of the device at whose hook it is.
    pub device: u32,
    /// Index of the device that received it, 0 for the host itself.
    pub came_by: u32,
    /// What netfilter and the host's routing see.
    pub mark: u32,
    /// What a hook noted.
    pub label: Label,
    /// The host and the segment that it came from.
    pub tunnel: Option<TunnelKey>,
    /// Where a tunnel took it.
    pub sent_to: Option<TunnelKey>,
    /// Copies that went into a VXLAN device: the device, where to, and their bytes.
    pub copies: Vec<(u32, TunnelKey, Vec<u8>)>,
}

impl Frame {
    /// A packet with a complete checksum at a hook of `device`.
    pub fn at(device: u32, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            layer3: false,
            summed: Summed::None,
            segment_size: 0,
            tag: None,
            for_another: false,
            device,
            came_by: device,
            mark: 0,
            label: Label::None,
            tunnel: None,
            sent_to: None,
            copies: Vec::new(),
        }
    }
}

impl Frame {
    /// Whether its tag is of a virtual LAN, and not of a priority alone.
    fn is_of_lan(&self) -> bool {
        self.tag.is_some_and(|tag| tag & 0x0fff != 0)
    }

    /// The offset, as [`Packet`] counts, of the first byte that there is.
    fn first(&self) -> usize {
        if self.layer3 { ETH } else { 0 }
    }
}

impl Packet for Frame {
    fn has_link_header(&self) -> bool {
        !self.layer3
    }

    fn put_link_header(&mut self, macs: [u8; 12], ethertype: [u8; 2]) -> Result<(), DropReason> {
        if self.layer3 {
            self.bytes.splice(0..0, [0; 12].into_iter().chain(ethertype));
            self.layer3 = false;
        }
        self.write(0, macs)
    }

    fn reach(&mut self, _: usize) {}

    fn read<const N: usize>(&self, at: usize) -> Result<[u8; N], DropReason> {
        let at = at.checked_sub(self.first()).ok_or(DropReason::Malformed)?;
        let bytes = self.bytes.get(at..at + N).ok_or(DropReason::Malformed)?;
        bytes.try_into().map_err(|_| DropReason::Malformed)
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Result<(), DropReason> {
        let at = at.checked_sub(self.first()).ok_or(DropReason::Malformed)?;
        self.bytes.get_mut(at..at + N).ok_or(DropReason::Malformed)?.copy_from_slice(&bytes);
        Ok(())
    }

    fn replace_l3(&mut self, at: usize, delta: Delta) -> Result<(), DropReason> {
        let field = self.read::<2>(at)?;
        self.write(at, delta.applied_to(field))
    }

    /// `bpf_l4_csum_replace` and `inet_proto_csum_replace_by_diff` (net/core/filter.c, net/core/utils.c).
    fn replace_l4(&mut self, at: usize, delta: Delta, covers: Covers, zero: Zero) -> Result<(), DropReason> {
        let field = self.read::<2>(at).map_err(|_| DropReason::Refused)?;
        if zero == Zero::MeansNone && field == [0, 0] {
            return Ok(());
        }
        let new = match (self.summed, covers) {
            (Summed::Partial, Covers::PseudoHeader) => delta.added_to(field),
            (Summed::Partial, Covers::Segment) => field,
            (Summed::None | Summed::Complete(_), _) => delta.applied_to(field),
        };
        if let (Summed::Complete(sum), Covers::PseudoHeader) = (&mut self.summed, covers) {
            // The field alone changes, and not what it covers.
            *sum = delta.applied_to(*sum);
        }
        self.write(at, zero.written(new))
    }

    /// `bpf_csum_update`.
    fn replace_sum(&mut self, delta: Delta) {
        if let Summed::Complete(sum) = &mut self.summed {
            *sum = delta.added_to(*sum);
        }
    }

    fn length(&self) -> usize {
        self.bytes.len() + self.first()
    }

    fn segment_size(&self) -> usize {
        self.segment_size
    }

    fn is_tagged(&self) -> bool {
        self.tag.is_some()
    }

    /// `bpf_skb_vlan_pop`.
    fn shed_priority(&mut self) -> Result<bool, DropReason> {
        if self.is_of_lan() {
            return Ok(false);
        }
        self.tag = match self.bytes.get(12..16) {
            Some(&[0x81, 0, high, low] | &[0x88, 0xa8, high, low]) => Some(u16::from_be_bytes([high, low])),
            _ => None,
        };
        if self.tag.is_none() {
            return Ok(true);
        }
        self.bytes.drain(12..16);
        if self.is_of_lan() { Ok(false) } else { Err(DropReason::Malformed) }
    }

    fn is_for_another(&self) -> bool {
        self.for_another
    }

    fn came_through(&self, from: &mut TunnelKey) -> bool {
        self.tunnel.map(|tunnel| *from = tunnel).is_some()
    }

    fn copy_into_tunnel(&mut self, device: u32, to: &TunnelKey) {
        self.copies.push((device, *to, self.bytes.clone()));
    }

    /// `bpf_skb_change_tail`, which takes what it cuts out of a device's sum.
    fn cut(&mut self, length: usize) -> Result<(), DropReason> {
        let whole = std::mem::take(&mut self.bytes);
        self.bytes = whole.iter().copied().chain(std::iter::repeat(0)).take(length).collect();
        if let Summed::Complete(told) = &mut self.summed {
            let gone = u16::from_be_bytes(*told) as u32 + 2 * 0xffff - u32::from(sum(&whole[ETH..]) % 0xffff)
                + u32::from(sum(&self.bytes[ETH..]) % 0xffff);
            *told = ((gone % 0xffff) as u16).to_be_bytes();
        }
        self.segment_size = 0;
        Ok(())
    }

    /// `bpf_skb_adjust_room`, at the MAC header.
    fn insert(&mut self, bytes: usize) -> Result<(), DropReason> {
        self.bytes.splice(ETH..ETH, std::iter::repeat_n(0, bytes));
        Ok(())
    }

    fn device(&self) -> u32 {
        self.device
    }

    fn came_by(&self) -> u32 {
        self.came_by
    }

    fn mark(&self) -> u32 {
        self.mark
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = mark;
    }

    fn label(&self) -> Label {
        self.label
    }

    fn set_label(&mut self, label: Label) {
        self.label = label;
    }

    fn forget(&self, _: &mut Noted) {}

    fn tell<T: Tables>(&mut self, chapter: Chapter, t: &T, s: &mut Scratch, with: u64) -> Packed {
        chapter::tell(chapter, self, t, s, with)
    }
}
