//! Who may come to a published port: lists of ranges of addresses.

use bytemuck::{Pod, Zeroable};

use crate::tuple::Address;

/// A list of sources. Its number is drawn from what it holds, so a list never changes: what is to let in others has another.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct SourceList([u32; 2]);

impl SourceList {
    /// Everybody: the list that is not looked up.
    pub const ANYONE: Self = Self([0, 0]);

    /// The list with this number; 0 is not one of a list.
    pub const fn numbered(number: u64) -> Self {
        let number = if number == 0 { 1 } else { number };
        Self([(number >> 32) as u32, number as u32])
    }

    /// Whether it lets everybody in.
    #[inline(always)]
    pub fn is_anyone(self) -> bool {
        self.0[0] | self.0[1] == 0
    }
}

/// Key of the source table, a longest-prefix-match trie: a range of addresses of a list; a question is for one address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct SourceKey {
    /// How many leading bits of what follows count: those of the list, and those of the range.
    bits: u32,
    list: SourceList,
    address: Address,
}

impl SourceKey {
    /// Bytes that the bits count into.
    pub const PLACE: usize = size_of::<Self>() - size_of::<u32>();
    const OF_LIST: u32 = size_of::<SourceList>() as u32 * 8;
    const ALL: u32 = Self::PLACE as u32 * 8;

    /// One address, as a question.
    #[inline(always)]
    pub const fn new(list: SourceList, address: Address) -> Self {
        Self { bits: Self::ALL, list, address }
    }

    /// The range of this address whose first `prefix` bits count: of 32 in IPv4, of 128 in IPv6. The others are zero.
    pub fn range(list: SourceList, address: Address, prefix: u8) -> Self {
        let before = if address.is_v4() { 96 } else { 0 };
        Self { bits: Self::OF_LIST + before + u32::from(prefix), list, address }
    }

    /// Its list.
    pub const fn list(&self) -> SourceList {
        self.list
    }

    /// Its address: the first of its range.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// How many leading bits of its address count: of 32 in IPv4, of 128 in IPv6. None of a key that is of no list's: anybody may
    /// write to a map who may load programs.
    pub const fn prefix(&self) -> u32 {
        let before = if self.address.is_v4() { 96 } else { 0 };
        self.bits.saturating_sub(Self::OF_LIST + before)
    }

    /// Whether a question for this address of this list is answered by the entry.
    pub fn covers(&self, list: SourceList, address: Address) -> bool {
        let bits = (self.bits - Self::OF_LIST) as usize;
        let (range, asked) = (self.address.bytes(), address.bytes());
        let (whole, rest) = (bits / 8, bits % 8);
        let same = rest == 0 || (range[whole] ^ asked[whole]) >> (8 - rest) == 0;
        self.list == list && range[..whole] == asked[..whole] && same
    }

    /// How many leading bits count.
    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// The key that has these bits and bytes in the map.
    pub fn from_map(bits: u32, place: [u8; Self::PLACE]) -> Self {
        let mut key = Self { bits, ..Self::default() };
        bytemuck::bytes_of_mut(&mut key)[size_of::<u32>()..].copy_from_slice(&place);
        key
    }

    /// The bytes that the bits count into.
    pub fn place(&self) -> [u8; Self::PLACE] {
        let mut place = [0; Self::PLACE];
        place.copy_from_slice(&bytemuck::bytes_of(self)[size_of::<u32>()..]);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: SourceList = SourceList::numbered(0x0123_4567_89ab_cdef);

    #[test]
    fn a_range_covers_its_own_addresses_of_its_own_list() {
        let v4 = |a, b, c, d| Address::v4([a, b, c, d]);
        let range = SourceKey::range(LIST, v4(192, 0, 2, 128), 25);
        assert!(range.covers(LIST, v4(192, 0, 2, 129)) && range.covers(LIST, v4(192, 0, 2, 255)));
        assert!(!range.covers(LIST, v4(192, 0, 2, 127)));
        assert!(!range.covers(SourceList::numbered(7), v4(192, 0, 2, 129)));
        let everything = SourceKey::range(LIST, Address::ANY_V4, 0);
        assert!(everything.covers(LIST, v4(8, 8, 8, 8)));
        assert!(!everything.covers(LIST, Address::v6([0x20; 16])), "of its own family");
        let one = SourceKey::range(LIST, v4(192, 0, 2, 7), 32);
        assert!(one.covers(LIST, v4(192, 0, 2, 7)) && !one.covers(LIST, v4(192, 0, 2, 6)));
    }

    #[test]
    fn no_list_has_the_number_of_everybody() {
        assert!(SourceList::ANYONE.is_anyone() && !SourceList::numbered(0).is_anyone());
        assert!(!SourceList::numbered(1 << 32).is_anyone());
    }

    #[test]
    fn a_key_comes_back_from_the_map_as_it_went_in() {
        let key = SourceKey::range(LIST, Address::v4([10, 0, 0, 0]), 8);

        assert_eq!(SourceKey::from_map(key.bits(), key.place()), key);
        assert_eq!(key.bits(), 64 + 96 + 8);
    }
}
