//! Ports that are published: an interval tree of ranges of ports, in a longest-prefix-match trie.
//!
//! Each range is one entry. Its place is the smallest block of 2ⁿ ports, aligned to its size, that all of it is in: the bits that its
//! first and its last port have in common. A range that is smaller than its block crosses the middle of it, so of ranges that share no
//! port no two have one place, and all that a port can be in are on the one way from the port to the root.

use bytemuck::{Pod, Zeroable};

use super::SourceList;
use crate::tuple::{Address, Port, Zone};

/// Key of the publication table: where clients knock, a block of ports in an entry and one port in a question.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct PublicationKey {
    /// How many leading bits of what follows count: all, or fewer by the power of the block.
    bits: u32,
    /// An address of the host, or [`Address::ANY_V4`] or [`Address::ANY_V6`] for each of them.
    pub address: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// 0 where clients knock; 1 in an entry that says that ports are published on one address or another of the family.
    somewhere: u8,
    /// The port on the host, the first one of the block.
    pub port: Port,
}

impl PublicationKey {
    /// Bytes after the number of bits.
    pub const PLACE: usize = size_of::<Self>() - size_of::<u32>();
    const ALL: u32 = 8 * Self::PLACE as u32;
    /// The bits of the largest block, which is every port.
    const EVERY_PORT: u32 = Self::ALL - u16::BITS;
    /// Blocks that a port is in, from itself to every port.
    const BLOCKS: u32 = u16::BITS + 1;

    /// One port.
    #[inline(always)]
    pub const fn new(address: Address, protocol: u8, port: Port) -> Self {
        Self { bits: Self::ALL, address, protocol, somewhere: 0, port }
    }

    /// The place of the entry for the ports of `to`.
    pub const fn of(address: Address, protocol: u8, to: &Publication) -> Self {
        Self::new(address, protocol, to.first).block(to.power())
    }

    /// The question, or the entry, beside those of single addresses, for those who want the port on every address of the family.
    #[inline(always)]
    pub const fn somewhere(self) -> Self {
        Self { address: self.address.any_of_family(), somewhere: 1, ..self }
    }

    /// Whether it is one of [`somewhere`](Self::somewhere).
    pub const fn is_somewhere(&self) -> bool {
        self.somewhere != 0
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

    /// Every place that a [`Publications::entry`] may be at that answers this question, the closest first.
    pub fn answers(self) -> impl Iterator<Item = Self> {
        (Self::ALL.saturating_sub(self.bits)..=u16::BITS).map(move |power| self.block(power))
    }

    /// The block of `2^power` ports, at most 16, that this port is in.
    const fn block(self, power: u32) -> Self {
        let first = (self.port.number() as u32 >> power) << power;
        Self { bits: Self::ALL - power, port: Port::new(first as u16), ..self }
    }

    /// Asks on for larger blocks than that of `found`; `None` where there is none.
    #[inline(always)]
    pub fn widen(&mut self, found: &Publication) -> Option<()> {
        self.bits = Self::ALL - 1 - found.power();
        (self.bits >= Self::EVERY_PORT).then_some(())
    }
}

/// Value of the publication table: which ports of the host, and where clients are let in.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Publication {
    /// The container's address.
    pub address: Address,
    /// The container's network.
    pub zone: Zone,
    /// What the container's port is more than the host's, modulo 2¹⁶: the same for each port of the range.
    pub shift: u16,
    /// Who may come.
    pub sources: SourceList,
    /// The first port of the host.
    pub first: Port,
    /// The last one.
    pub last: Port,
}

impl Publication {
    /// To a container's address and port, of the host's port `host_port`, for everybody.
    pub const fn new(zone: Zone, address: Address, host_port: u16, port: u16) -> Self {
        let first = Port::new(host_port);
        Self { address, zone, shift: port.wrapping_sub(host_port), sources: SourceList::ANYONE, first, last: first }
    }

    /// The same for every port of the host up to `last`, each to the container's port as much further.
    #[must_use]
    pub const fn up_to(self, last: u16) -> Self {
        Self { last: Port::new(last), ..self }
    }

    /// The same for those of a list.
    #[must_use]
    pub const fn with_sources(self, sources: SourceList) -> Self {
        Self { sources, ..self }
    }

    /// The container's port for a port of the host.
    #[inline(always)]
    pub const fn port(&self, host_port: Port) -> Port {
        Port::new(host_port.number().wrapping_add(self.shift))
    }

    /// Whether it is for this port of the host.
    #[inline(always)]
    pub const fn covers(&self, host_port: Port) -> bool {
        self.first.number() <= host_port.number() && host_port.number() <= self.last.number()
    }

    /// The power of two that the block of its entry is large.
    #[inline(always)]
    const fn power(&self) -> u32 {
        u16::BITS - (self.first.number() ^ self.last.number()).leading_zeros()
    }
}

/// The table of publications.
pub trait Publications {
    /// The entry with the most leading bits of those that agree with the question and have no more than it.
    fn entry(&self, question: &PublicationKey) -> Option<&Publication>;

    /// The publication of this port at exactly this address. Uses the question up.
    ///
    /// The first look is mostly the last: only where the closest range is beside the port a larger one may be around both.
    #[inline(always)]
    fn publication(&self, question: &mut PublicationKey) -> Option<&Publication> {
        for _ in 0..PublicationKey::BLOCKS {
            let found = self.entry(question)?;
            if found.covers(question.port) {
                return Some(found);
            }
            question.widen(found)?;
        }
        None
    }
}

#[cfg(test)]
mod tests;
