//! The flow table, and the table that lets later fragments find their flow.

use bytemuck::{Pod, Zeroable};

use super::Instant;
use crate::{
    checksum::Delta,
    tuple::{Address, Mac, Port, Tuple, Zone},
};

/// How a packet leaves after its translation.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// By the stack's own forwarding.
    Stack = 0,
    /// Straight into the namespace behind a host-side veth.
    Peer = 1,
    /// To a neighbour on an uplink.
    Neighbour = 2,
    /// Into the tunnel to another host: to the container of a published port there, or back to where its client knocked.
    Tunnel = 3,
}

/// Where a packet goes next. Which of the two readings of `hop` holds, [`Flow::via`] says.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct NextHop {
    /// Index of the device it leaves by: the host-side veth for [`Via::Peer`].
    pub device: u32,
    /// Largest IP packet that device takes, in bytes.
    pub mtu: u32,
    /// For [`Via::Neighbour`] the neighbour's address; for [`Via::Peer`] destination MAC, source MAC and four zeroes;
    /// nothing for [`Via::Tunnel`], whose way each packet asks for.
    pub hop: [u32; 4],
}

impl NextHop {
    /// The way into a container.
    #[inline(always)]
    pub fn peer(device: u32, mtu: u32, destination: Mac, source: Mac) -> Self {
        let (d, s) = (destination.0, source.0);
        let hop = [
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
            0,
        ];
        Self { device, mtu, hop }
    }

    /// The way out by an uplink.
    #[inline(always)]
    pub fn neighbour(device: u32, mtu: u32, address: Address) -> Self {
        Self { device, mtu, hop: address.words() }
    }

    /// The same, a field at a time: as a whole LLVM has a loop move it byte by byte.
    #[inline(always)]
    pub const fn copied(&self) -> Self {
        let [a, b, c, d] = self.hop;
        Self { device: self.device, mtu: self.mtu, hop: [a, b, c, d] }
    }

    /// The neighbour's address, where this leads to one.
    #[inline(always)]
    pub fn address(&self) -> Address {
        Address::from_words(self.hop)
    }

    /// The first twelve bytes of the Ethernet header, where this leads into a container.
    #[inline(always)]
    pub fn macs(&self) -> [u8; 12] {
        let [a, b, c] = [self.hop[0].to_ne_bytes(), self.hop[1].to_ne_bytes(), self.hop[2].to_ne_bytes()];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]]
    }
}

/// Value of the flow table: one direction of a flow, enough by itself to rewrite its packets and to rebuild its other half.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Flow {
    /// What a packet of this direction becomes; its zone is the one in which the answer is seen.
    pub becomes: Tuple,
    /// Where it goes then.
    pub next: NextHop,
    /// When a packet was last noted in this half, of either direction; moves at most once a tick.
    pub last_seen: Instant,
    /// When the flow ends if nothing more is seen, as far as this half knows.
    pub deadline: Instant,
    /// What the change of addresses does to a checksum that covers them.
    pub address_delta: Delta,
    /// What the change of ports does to one.
    pub port_delta: Delta,
    /// What each direction has shown, that of the first packet first ([`conntrack::Leg`](crate::conntrack::Leg)).
    pub legs: [u8; 2],
    /// 0 in the direction of the first packet, 1 in the other.
    pub direction: u8,
    /// A [`Via`].
    pub via: u8,
    /// When its first packet came.
    pub created: Instant,
    /// [`Firewall::generation`](super::Firewall::generation) of what this direction has to prove, or has proved; 0 for nothing.
    pub generation: u16,
    /// A [`Passage`](crate::firewall::Passage).
    pub passage: u8,
    /// When a packet of this direction was last noted, in ticks modulo 2⁸.
    pub noted: u8,
    /// Must equal the key's [`digest`](crate::conntrack::digest): freed elements of a map are reused at once, and a reader
    /// may still hold one.
    pub check: u32,
}

impl Flow {
    /// Whether packets with this tuple stay as they are: between containers of one network.
    pub fn stays(&self, key: &Tuple) -> bool {
        self.becomes == *key && key.zone != Zone::HOST
    }

    /// Whether it is being taken out: who does that has set both times to the beginning of time, by which of two one is told from the
    /// other, and removes it next.
    #[inline(always)]
    pub fn is_ending(&self) -> bool {
        self.last_seen == Instant::default() && self.deadline == Instant::default()
    }

    /// Whether this, of the same key, is what was `seen` earlier, and may be taken out by who saw it: the same translation, not noted
    /// since, and not somebody else's to take out already.
    #[inline(always)]
    pub fn is_still(&self, seen: &Self) -> bool {
        !seen.is_ending()
            && self.becomes == seen.becomes
            && self.legs == seen.legs
            && self.last_seen == seen.last_seen
            && self.deadline == seen.deadline
    }
}

/// Key of the fragment table: what all fragments of one packet have in common (RFC 791, RFC 8200 section 4.5), and where they
/// are seen.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct FragmentKey {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// The identification.
    pub identification: u32,
    /// The zone in which they are seen.
    pub zone: Zone,
    /// IP protocol number; 0 for IPv6, where what follows the fragment header need not be the transport.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Value of the fragment table: what only a packet's first fragment says of its tuple.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Fragment {
    /// When it is forgotten: an identification comes again.
    pub deadline: Instant,
    /// As in [`Tuple`].
    pub src_port: Port,
    /// As in [`Tuple`].
    pub dst_port: Port,
    /// As in [`Tuple`].
    pub echo: u8,
    /// As in [`Tuple`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// Value of the table of orphans: later fragments from outside whose first has not come by.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Orphans {
    /// When they are forgotten: an identification comes again.
    pub deadline: Instant,
    /// How many came.
    pub count: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_is_taking_out_is_nobody_elses_to_take_out() {
        let seen =
            Flow { last_seen: Instant::from_ns(1 << 40), deadline: Instant::from_ns(1 << 41), ..Flow::default() };
        let ended = Flow { last_seen: Instant::default(), deadline: Instant::default(), ..seen };

        assert!(seen.is_still(&seen) && !seen.is_ending() && ended.is_ending());
        assert!(!ended.is_still(&seen), "who saw it before comes too late");
        assert!(!ended.is_still(&ended), "and so does who sees it now");
    }
}
