//! The hooks, and what each keeps for the packet in hand and about all packets.

use bytemuck::{Pod, Zeroable};

use super::{AllowanceKey, EndpointKey, Flow, Fragment, FragmentKey, Instant, PublicationKey, SourceKey, TunnelKey};
use crate::{
    checksum::Delta,
    parse::Noted,
    tuple::Tuple,
    verdict::{DropReason, Packed},
};

/// A place where packets meet us. Indexes the scratch and counter tables.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// Ingress of a host-side veth.
    FromContainer = 0,
    /// Egress of a host-side veth.
    ToContainer = 1,
    /// Ingress of an uplink.
    FromUplink = 2,
    /// Egress of an uplink.
    ToUplink = 3,
    /// Egress of a container's loopback device, in the container's namespace.
    DnsLo = 4,
    /// Ingress of the VXLAN device of a port.
    FromOverlay = 5,
    /// Ingress of an uplink of layer 3, whose packets have no Ethernet header (tun, WireGuard, PPP).
    FromL3Uplink = 6,
    /// Egress of the same.
    ToL3Uplink = 7,
    /// An uplink's driver (XDP), before there is a packet.
    UplinkXdp = 8,
    /// Egress of a network's bridge: what the host sends into the network.
    FromHost = 9,
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Self; 10] = [
        Self::FromContainer,
        Self::ToContainer,
        Self::FromUplink,
        Self::ToUplink,
        Self::DnsLo,
        Self::FromOverlay,
        Self::FromL3Uplink,
        Self::ToL3Uplink,
        Self::UplinkXdp,
        Self::FromHost,
    ];

    /// Those that meet packets: all but the one that meets frames.
    pub const OF_PACKETS: [Self; 9] = [
        Self::FromContainer,
        Self::ToContainer,
        Self::FromUplink,
        Self::ToUplink,
        Self::DnsLo,
        Self::FromOverlay,
        Self::FromL3Uplink,
        Self::ToL3Uplink,
        Self::FromHost,
    ];

    /// Those that meet packets at devices of the host.
    pub const OF_DEVICES: [Self; 8] = [
        Self::FromContainer,
        Self::ToContainer,
        Self::FromUplink,
        Self::ToUplink,
        Self::FromOverlay,
        Self::FromL3Uplink,
        Self::ToL3Uplink,
        Self::FromHost,
    ];

    /// The program's name, in the object, in listings and in pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::ToContainer => "to_container",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
            Self::DnsLo => "dns_lo",
            Self::FromOverlay => "from_overlay",
            Self::FromL3Uplink => "from_l3_uplink",
            Self::ToL3Uplink => "to_l3_uplink",
            Self::UplinkXdp => "uplink_xdp",
            Self::FromHost => "from_host",
        }
    }
}

impl Hook {
    /// Where packets of an uplink come in and go out, by whether they have no Ethernet header.
    pub const fn of_uplink(layer3: bool) -> [Self; 2] {
        if layer3 { [Self::FromL3Uplink, Self::ToL3Uplink] } else { [Self::FromUplink, Self::ToUplink] }
    }

    /// Whether packets meet it that leave by an uplink.
    pub const fn is_last(self) -> bool {
        matches!(self, Self::ToUplink | Self::ToL3Uplink)
    }
}

/// Value of the counter table: packets by what became of them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Counters {
    /// Left to the stack.
    pub passed: u64,
    /// Put into a container's namespace.
    pub to_peer: u64,
    /// Sent to a neighbour on an uplink.
    pub to_neighbour: u64,
    /// Left to the stack for the host's firewall to see.
    pub shown: u64,
    /// Sent to another host.
    pub to_tunnel: u64,
    /// Sent out of a device of this host as it is.
    pub to_device: u64,
    /// Dropped, by the number of the [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
}

impl Counters {
    /// Counts one packet.
    #[inline(always)]
    pub fn count(&mut self, verdict: Packed) {
        let counter = match verdict.counter() {
            0 => &mut self.passed,
            1 => &mut self.to_peer,
            2 => &mut self.to_neighbour,
            3 => &mut self.to_tunnel,
            4 => &mut self.to_device,
            5 => &mut self.shown,
            n => match self.dropped.get_mut(n - Packed::SENT) {
                Some(counter) => counter,
                None => return,
            },
        };
        *counter = counter.wrapping_add(1);
    }
}

/// Where the packet stands that an ICMP error quotes: offsets from the start of the error's own packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Quote {
    /// Of its IP header.
    pub ip: u32,
    /// Of its transport header.
    pub l4: u32,
    /// Of its transport checksum; 0 where none covers what changes.
    pub checksum: u32,
    /// What its translation does to the checksum of the error.
    pub changed: Delta,
    /// 1 where the error is the host's own, which speaks for whatever address of the host the quoted packet was sent to.
    pub by_host: u32,
}

/// A search for a port, between two candidates. Kept in memory that the kernel's verifier knows nothing of: what it knew of
/// these counts would tell each round from every other.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Search {
    /// When it began.
    pub now: Instant,
    /// 1 if the packet's own port may be kept whatever the host's own sockets do.
    pub keep: u32,
    /// Candidates so far.
    pub tried: u32,
    /// Those of them that other flows have.
    pub taken: u32,
    /// How far from the cursor to look: past ports of the host, which lie in blocks.
    pub skip: u32,
}

/// The wide values of the packet in hand, which the 512-byte stack has no room for. One per hook and CPU in the kernel. What
/// every packet needs comes first and together, in few lines of the cache.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Scratch {
    /// The packet's own tuple.
    pub key: Tuple,
    /// Its flow.
    pub flow: Flow,
    /// Its headers.
    pub noted: Noted,
    /// Largest packet that would fit where it does not, in bytes; 0 where its length is not what is wrong.
    pub mtu: u32,
    /// An [`OnLink`](crate::icc::OnLink): whether a frame is for another container of its network, or for the gateway. Here so that
    /// the kernel's verifier does not follow both by themselves.
    pub on_link: u32,
    /// 1 if the packet must show itself to the host's firewall, though its flow need not.
    pub show: u32,
    /// The tuple of the other direction.
    pub peer_key: Tuple,
    /// The flow's other half.
    pub peer: Flow,
    /// The tuple of a flow that is in the way and may be over.
    pub evicted_key: Tuple,
    /// That flow.
    pub evicted: Flow,
    /// The tuple of its other half.
    pub evicted_peer_key: Tuple,
    /// That half.
    pub evicted_peer: Flow,
    /// A publication being looked up.
    pub publication: PublicationKey,
    /// A source being looked up.
    pub source: SourceKey,
    /// An endpoint being looked up.
    pub endpoint: EndpointKey,
    /// An allowance being looked up.
    pub allowance: AllowanceKey,
    /// The packet that an error in hand quotes.
    pub quote: Quote,
    /// The packet that a fragment in hand is of.
    pub fragment_key: FragmentKey,
    /// What its first fragment said.
    pub fragment: Fragment,
    /// The search for a port for its flow.
    pub search: Search,
    /// The host that it came from or goes to.
    pub tunnel: TunnelKey,
}
