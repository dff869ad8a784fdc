//! Networks that span hosts: who is known of a VXLAN segment (RFC 7348), and where.

use core::fmt;

use bytemuck::{Pod, Zeroable};

use super::Instant;
use crate::tuple::{Address, Mac, Port, Zone};

/// The most peers that a segment made by hand floods to.
pub const PEERS_MAX: u32 = 64;

/// Hops of what goes between hosts.
pub const OUTER_TTL: u8 = 64;

/// Flags of a [`Segment`].
pub mod segment_flags {
    /// Made by hand: link-layer addresses are learned from its peers, and what is for nobody known goes to all of them.
    pub const LEARNS: u16 = 1;
    /// Between hosts it goes encrypted (IPsec ESP), by a UDP port of its own.
    pub const ENCRYPTED: u16 = 2;
    /// Its containers reach one another only as somebody allowed.
    pub const NO_ICC: u16 = 4;
}

/// The bit that the kernel sets in the mark of a packet that it has decrypted by a security association of ours
/// (`XFRMA_SET_MARK`).
pub const DECRYPTED: u32 = 0x0400_0000;

/// Value of the segment table, by VNI: what this host needs to know of one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Segment {
    /// Index of the VXLAN device that its packets go by.
    pub tunnel: u32,
    /// Index of the network's bridge on this host.
    pub bridge: u32,
    /// Largest IP packet between the hosts, in bytes: what it carries is less by the encapsulation.
    pub underlay_mtu: u32,
    /// How many peers it floods to.
    pub peers: u32,
    /// Of [`segment_flags`].
    pub flags: u16,
    /// UDP port of the VXLAN device, here and on other hosts; 0 where no daemon has said it.
    pub port: u16,
    /// The network.
    pub zone: Zone,
    /// The link-layer address of the network's gateway, the same on every host.
    pub gateway_mac: Mac,
    /// The gateway's address, zero where it has none of the family.
    pub gateway_ipv4: [u8; 4],
    /// The same for IPv6.
    pub gateway_ipv6: [u8; 16],
}

impl Segment {
    /// Whether it has this flag.
    #[inline(always)]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Largest IP packet that it carries to this VTEP, in bytes.
    #[inline(always)]
    pub const fn mtu(&self, vtep: Address) -> u32 {
        self.underlay_mtu.saturating_sub(overhead(vtep.is_v4(), self.has(segment_flags::ENCRYPTED)))
    }

    /// The gateway's address of the family of `like`, unspecified where there is none.
    #[inline(always)]
    pub fn gateway(&self, like: Address) -> Address {
        if like.is_v4() { Address::v4(self.gateway_ipv4) } else { Address::v6(self.gateway_ipv6) }
    }

    /// Whether this is the gateway's address.
    #[inline(always)]
    pub fn is_gateway(&self, address: Address) -> bool {
        address == self.gateway(address)
    }
}

/// Bytes that encapsulation adds to an IP packet, at most: the inner Ethernet header, VXLAN's, UDP's and the outer IP header (RFC
/// 7348 section 5); and ESP's header, initialization vector, padding, trailer and integrity check value (RFC 4303 section 2, RFC
/// 4106 sections 3 and 6).
#[inline(always)]
pub const fn overhead(v4: bool, encrypted: bool) -> u32 {
    14 + 8 + 8 + if v4 { 20 } else { 40 } + if encrypted { 8 + 8 + 3 + 2 + 16 } else { 0 }
}

/// Key of the table of remote containers: an address in a segment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct RemoteKey {
    /// The container's address.
    pub address: Address,
    /// The segment.
    pub vni: u32,
}

/// Value of the table of remote containers: who has the address, and where.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Remote {
    /// The address of its host.
    pub vtep: Address,
    /// Which life of that host's daemon said so.
    pub incarnation: u64,
    /// The container's link-layer address.
    pub mac: Mac,
    /// Zero.
    pub pad: u16,
}

/// Key of the table of VTEPs: a host that may send into a segment; and, by numbers that no segment has, what else is known of those
/// that send.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct VtepKey {
    /// The host's address.
    pub address: Address,
    /// The segment.
    pub vni: u32,
}

impl VtepKey {
    /// The entry that says that there are keys for what goes to this host. No segment has its number, which has more than 24 bits.
    #[inline(always)]
    pub const fn with_keys(address: Address) -> Self {
        Self { address, vni: u32::MAX }
    }

    /// The entry that says that a VXLAN device of this host has this UDP port. No segment has its number either.
    #[inline(always)]
    pub const fn with_port(port: Port) -> Self {
        Self { address: Address::ANY_V6, vni: 1 << 24 | port.number() as u32 }
    }

    /// Whether it says of a host that it may send into a segment.
    pub const fn is_of_segment(&self) -> bool {
        self.vni < 1 << 24
    }
}

impl fmt::Display for VtepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, vni } = self;
        if self.is_of_segment() {
            write!(f, "host {} of segment {vni}", address.ip())
        } else if *self == Self::with_keys(*address) {
            write!(f, "host {} as one with keys", address.ip())
        } else {
            write!(f, "port {} of a tunnel", vni & 0xffff)
        }
    }
}

/// Value of the table of the mesh: another host's end of a flow. By a container's place that of a container there which publishes
/// a port on every host; by no address and a host's zone ([`Zone::of_vtep`]) the host itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct MeshEnd {
    /// The host's address.
    pub vtep: Address,
    /// The container's segment; 0 for a host.
    pub vni: u32,
    /// The container's link-layer address.
    pub mac: Mac,
    /// Zero.
    pub pad: u16,
}

/// Key of the table of peers, whose values are their addresses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct PeerKey {
    /// The segment.
    pub vni: u32,
    /// From 0 on, less than [`Segment::peers`].
    pub index: u32,
}

/// Where a packet between hosts came from or goes to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct TunnelKey {
    /// The other host.
    pub vtep: Address,
    /// The segment.
    pub vni: u32,
}

/// Key of the table of stations: a link-layer address that was learned in a segment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct StationKey {
    /// The segment.
    pub vni: u32,
    /// The station.
    pub mac: Mac,
    /// Zero.
    pub pad: u16,
}

/// Value of the table of stations: the peer that it was last heard of.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Station {
    /// The peer.
    pub vtep: Address,
    /// When it was last noted.
    pub seen: Instant,
}
