//! Incremental checksums (RFC 1624): what changed, as one number, told to whoever keeps the checksum.
//!
//! Nothing here touches a packet. A transport checksum in an skb may be complete, absent, or left to the device with only
//! the pseudo-header in the field (CHECKSUM_PARTIAL), and only the kernel's helpers know which; so a [`Delta`] is computed
//! once when a flow is made and handed to [`Packet::replace_l4`](crate::packet::Packet::replace_l4) for each packet.

use bytemuck::{Pod, Zeroable};

use crate::tuple::{Address, Port};

/// The one's-complement difference between new and old bytes that a checksum covers, in the byte order of the machine
/// over words read from memory, as the kernel's `__wsum` is.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Delta(u32);

impl Delta {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// Whether applying it changes nothing.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The value for the kernel's `bpf_l3_csum_replace` and `bpf_l4_csum_replace` with `from` and `size` zero.
    #[inline(always)]
    pub const fn wsum(self) -> u32 {
        self.0
    }

    /// This change and, besides, two bytes going from `old` to `new`.
    #[inline(always)]
    pub fn and_word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        let sum = self.0 + u32::from(!u16::from_ne_bytes(old)) + u32::from(u16::from_ne_bytes(new));
        Self(folded(sum))
    }

    /// This change and that one.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self(folded(self.0 + other.0))
    }

    /// The change back. A change that comes to nothing does so both ways.
    #[inline(always)]
    pub const fn undone(self) -> Self {
        if self.0 == 0 || self.0 == 0xffff { self } else { Self(0xffff - self.0) }
    }

    /// This change and, besides, an address going from `old` to `new`, in a header or a pseudo-header.
    #[inline(always)]
    pub fn and_address(self, old: Address, new: Address) -> Self {
        if old == new {
            return self;
        }
        // Without a branch: words that are equal cancel out, and the verifier need not follow every combination.
        let (old, new) = (old.words(), new.words());
        let words =
            |w: [u32; 4], flip: u32| w.into_iter().map(|w| ((w ^ flip) & 0xffff) + ((w ^ flip) >> 16)).sum::<u32>();
        Self(folded(self.0 + words(old, u32::MAX) + words(new, 0)))
    }

    /// This change and, besides, a port going from `old` to `new`.
    #[inline(always)]
    pub fn and_port(self, old: Port, new: Port) -> Self {
        if old == new { self } else { self.and_word(old.bytes(), new.bytes()) }
    }

    /// Bytes whose words come to `sum`, where there were none.
    #[inline(always)]
    pub const fn added(sum: u32) -> Self {
        Self(folded(sum))
    }

    /// The checksum field that holds `field` now, after this change (RFC 1624, equation 3).
    #[inline(always)]
    pub fn applied_to(self, field: [u8; 2]) -> [u8; 2] {
        let sum = folded(u32::from(!u16::from_ne_bytes(field)) + self.0);
        (!(sum as u16)).to_ne_bytes()
    }

    /// What a field holds that the kernel has told of this change in the pseudo-header, by what it was before and is after: from a
    /// checksum the change is taken, to the sum of a pseudo-header it is added. `None` if it is neither (a UDP checksum that there is
    /// not), or would be both (a change that comes to nothing).
    #[inline(always)]
    pub fn reveals(self, before: [u8; 2], after: [u8; 2]) -> Option<Field> {
        let taken = is_same(after, self.applied_to(before));
        let added = is_same(after, self.added_to(before));
        match (taken, added) {
            (true, false) => Some(Field::Checksum),
            (false, true) => Some(Field::Pseudo),
            _ => None,
        }
    }

    /// The uncomplemented sum `field` after this change: what a field holds whose checksum is left to the device.
    #[inline(always)]
    pub fn added_to(self, field: [u8; 2]) -> [u8; 2] {
        (folded(u32::from(u16::from_ne_bytes(field)) + self.0) as u16).to_ne_bytes()
    }
}

/// What the checksum field of a transport header holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// The checksum of all that it covers.
    Checksum,
    /// The sum of the pseudo-header: the rest is left to the device (`CHECKSUM_PARTIAL`).
    Pseudo,
}

/// Whether two sums are the same number, of which one's complement has two zeros.
#[inline(always)]
fn is_same(a: [u8; 2], b: [u8; 2]) -> bool {
    let [a, b] = [a, b].map(|sum| if sum == [0xff; 2] { [0; 2] } else { sum });
    a == b
}

/// The checksum field of bytes whose words come to `sum` (RFC 1071).
#[inline(always)]
pub const fn complement(sum: u32) -> [u8; 2] {
    (!(folded(sum) as u16)).to_ne_bytes()
}

/// A sum of 16-bit words folded into 16 bits, its carries added back.
#[inline(always)]
const fn folded(sum: u32) -> u32 {
    let once = (sum & 0xffff) + (sum >> 16);
    (once & 0xffff) + (once >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(bytes: &[u8]) -> [u8; 2] {
        let sum = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        (!(folded(sum) as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        let delta = Delta::NONE.and_word([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(delta.applied_to([0xdd, 0x2f]), [0x00, 0x00]);
    }

    #[test]
    fn a_change_that_is_undone_leaves_every_field_as_it_was() {
        for change in 0..=u16::MAX {
            let delta = Delta::added(change.into());
            for before in [1, 0x1234, 0x7fff, 0x8000, 0xfffe].map(u16::to_ne_bytes) {
                assert_eq!(delta.undone().applied_to(delta.applied_to(before)), before, "{change:#x}");
                assert_eq!(delta.undone().added_to(delta.added_to(before)), before, "{change:#x}");
            }
            assert_eq!(delta.undone().is_none(), delta.is_none(), "{change:#x}");
        }
        let addresses = [Address::v4([10, 176, 1, 2]), Address::v4([198, 51, 100, 7])];
        let there = Delta::NONE.and_address(addresses[0], addresses[1]).and_word([0, 80], [0x1f, 0x90]);
        let back = Delta::NONE.and_address(addresses[1], addresses[0]).and_word([0x1f, 0x90], [0, 80]);
        assert_eq!(there.undone(), back);
    }

    #[test]
    fn what_a_change_makes_of_a_field_tells_what_the_field_holds() {
        for change in 0..=u16::MAX {
            let delta = Delta::added(change.into());
            for before in [0, 1, 0x1234, 0x7fff, 0x8000, 0xfffe, 0xffff].map(u16::to_ne_bytes) {
                let (taken, added) = (delta.applied_to(before), delta.added_to(before));
                let told = [taken, added].map(|after| delta.reveals(before, after));
                if change == 0 || change == u16::MAX {
                    assert_eq!(told, [None, None], "a change that comes to nothing tells nothing: {change:#x}");
                } else {
                    assert_eq!(told, [Some(Field::Checksum), Some(Field::Pseudo)], "{change:#x} to {before:x?}");
                    assert_eq!(delta.reveals(before, before), None, "there is none: {change:#x} to {before:x?}");
                }
            }
        }
    }

    #[test]
    fn a_change_of_every_field_equals_recomputing() {
        let before = [10, 176, 0, 2, 198, 51, 100, 7, 0x80, 0x01, 0x00, 0x35];
        let after = [192, 0, 2, 1, 198, 51, 100, 7, 0x4e, 0x20, 0x00, 0x35];
        let delta = Delta::NONE
            .and_address(Address::v4([10, 176, 0, 2]), Address::v4([192, 0, 2, 1]))
            .and_port(Port::new(0x8001), Port::new(0x4e20));
        assert_eq!(delta.applied_to(checksum(&before)), checksum(&after));
    }
}
