//! Who may open what to whom in a network that keeps its containers apart.

use bytemuck::{Pod, Zeroable};

use crate::tuple::{Address, Port, Tuple, Zone};

/// Key of the table of allowances: one container may open something to another of its network. What answers needs none.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct AllowanceKey {
    /// The one that opens.
    pub src: Address,
    /// The one that it opens to.
    pub dst: Address,
    /// The port at `dst`; [`Port::NONE`] in an allowance of everything.
    pub port: Port,
    /// IP protocol number; 0 in an allowance of everything.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
    /// The network of both.
    pub zone: Zone,
    /// Zero.
    pub pad_end: u16,
}

impl AllowanceKey {
    /// Everything.
    #[inline(always)]
    pub const fn of_everything(zone: Zone, src: Address, dst: Address) -> Self {
        Self { src, dst, port: Port::NONE, protocol: 0, pad: 0, zone, pad_end: 0 }
    }

    /// One port.
    #[inline(always)]
    pub const fn of_port(zone: Zone, src: Address, dst: Address, protocol: u8, port: Port) -> Self {
        Self { port, protocol, ..Self::of_everything(zone, src, dst) }
    }

    /// What a packet with this tuple needs, which opens something.
    #[inline(always)]
    pub const fn for_opening(tuple: &Tuple) -> Self {
        Self::of_port(tuple.zone, tuple.src, tuple.dst, tuple.protocol, tuple.dst_port)
    }

    /// The allowance of everything between the same two.
    #[inline(always)]
    pub const fn or_everything(self) -> Self {
        Self::of_everything(self.zone, self.src, self.dst)
    }
}
