//! What the packet logic looks up, and the layout of each map.
//!
//! Every type here is the key or the value of a BPF map, shared byte for byte with the daemon: padding is explicit and
//! zero, and `bytemuck::Pod` refuses what is not.

use core::ops::ControlFlow;

use bytemuck::{Pod, Zeroable};

use crate::{
    checksum::Delta,
    tuple::{Address, Mac, Port, Tuple, Zone},
    verdict::{DropReason, Packed},
};

/// Part of the directory that maps are pinned in. A change of any layout below takes the next number.
pub const LAYOUT: &str = "v1";

/// Names of the maps, as the object has them and as they are pinned.
pub mod names {
    /// [`Tuple`](super::Tuple) → [`Flow`](super::Flow), hash.
    pub const FLOWS: &str = "FLOWS";
    /// [`slot`](super::Device::slot) → [`Device`](super::Device), array of [`DEVICE_SLOTS`](super::DEVICE_SLOTS).
    pub const DEVICES: &str = "DEVICES";
    /// Interface index → [`Device`](super::Device), hash, for those whose slot is another's.
    pub const DEVICES_FAR: &str = "DEVICES_FAR";
    /// [`EndpointKey`](super::EndpointKey) → [`Endpoint`](super::Endpoint), hash.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// [`PublicationKey`](super::PublicationKey) → [`Publication`](super::Publication), hash.
    pub const PUBLICATIONS: &str = "PUBLICATIONS";
    /// 0 → [`Settings`](super::Settings), array of one.
    pub const SETTINGS: &str = "SETTINGS";
    /// Destination bucket → how many ports were handed out for it, array of [`CURSORS`](super::CURSORS).
    pub const CURSORS: &str = "CURSORS";
    /// [`Hook`](super::Hook) → the hook's [`Counters`](super::Counters), per CPU, array.
    pub const COUNTERS: &str = "COUNTERS";
    /// Hook → [`Scratch`](super::Scratch), per CPU, array.
    pub const SCRATCH: &str = "SCRATCH";
}

/// A moment, in ticks of 2³⁰ ns (1.07 s) since the machine started: a shift, where seconds would cost a division a packet.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct Instant(u32);

impl Instant {
    /// Nanoseconds in a tick.
    pub const TICK_NS: u64 = 1 << 30;

    /// The tick that `ns` nanoseconds of the monotonic clock fall into.
    #[inline(always)]
    pub const fn from_ns(ns: u64) -> Self {
        Self((ns >> 30) as u32)
    }

    /// The moment `span` later.
    #[inline(always)]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// Whole seconds from `earlier` to this moment, 0 if it is not earlier.
    #[inline(always)]
    pub const fn seconds_since(self, earlier: Self) -> u64 {
        (self.0.saturating_sub(earlier.0) as u64 * Self::TICK_NS) / 1_000_000_000
    }
}

/// A length of time in ticks of [`Instant::TICK_NS`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct Span(u32);

impl Span {
    /// At least `seconds`, in whole ticks; one more than it takes, since a moment is known to a tick only.
    #[inline(always)]
    pub const fn at_least_seconds(seconds: u32) -> Self {
        Self((seconds as u64 * 1_000_000_000 / Instant::TICK_NS + 1) as u32)
    }
}

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
}

/// Where a packet goes next. Which of the two readings of `hop` holds, [`Flow::via`] says.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct NextHop {
    /// Index of the device it leaves by: the host-side veth for [`Via::Peer`].
    pub device: u32,
    /// Largest IP packet that device takes, in bytes.
    pub mtu: u32,
    /// For [`Via::Neighbour`] the neighbour's address; for [`Via::Peer`] destination MAC, source MAC and four zeroes.
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
    /// When a packet of either direction was last noted; moves at most once a tick.
    pub last_seen: Instant,
    /// When the flow ends if nothing more is seen.
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
    /// Must equal the key's [`digest`](crate::conntrack::digest): freed elements of a map are reused at once, and a reader
    /// may still hold one.
    pub check: u32,
}

/// What a device is to us.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// The host's side of a container's veth pair.
    Container = 1,
    /// A network's bridge.
    Bridge = 2,
    /// A device towards the outside.
    Uplink = 3,
}

/// Flags of a [`Device`].
pub mod device_flags {
    /// On a container or a bridge: its network has no way out.
    pub const INTERNAL: u8 = 1;
    /// On an uplink: netd itself switched forwarding on, so what is neither for the host nor ours is dropped.
    pub const NOT_A_ROUTER: u8 = 2;
}

/// Slots of the device array.
pub const DEVICE_SLOTS: u32 = 16_384;

/// Value of the device tables: a network device and what a packet at its hooks needs to know of it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Device {
    /// Its interface index; 0 in an empty slot.
    pub ifindex: u32,
    /// A [`DeviceKind`].
    pub kind: u8,
    /// Of [`device_flags`].
    pub flags: u8,
    /// The network of a container or a bridge; [`Zone::HOST`] for an uplink.
    pub zone: Zone,
    /// Index of the network's bridge: where its containers' packets enter the host's routing. 0 for an uplink.
    pub bridge: u32,
    /// Largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// The container's own IPv4 address, or the address an uplink masquerades as; zero where it has none.
    pub ipv4: [u8; 4],
    /// The IPv4 address of the network's gateway.
    pub gateway_ipv4: [u8; 4],
    /// The same as `ipv4` for IPv6.
    pub ipv6: [u8; 16],
    /// The same as `gateway_ipv4` for IPv6.
    pub gateway_ipv6: [u8; 16],
    /// The container's own link-layer address.
    pub mac: Mac,
    /// The bridge's link-layer address, which containers send to for everything beyond their network.
    pub gateway_mac: Mac,
}

impl Device {
    /// The array slot of an interface index.
    #[inline(always)]
    pub const fn slot(ifindex: u32) -> u32 {
        ifindex % DEVICE_SLOTS
    }

    /// Whether it is of this kind.
    #[inline(always)]
    pub const fn is(&self, kind: DeviceKind) -> bool {
        self.kind == kind as u8
    }

    /// Whether it has this flag.
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Its address of the family of `like`; `None` where it has none.
    #[inline(always)]
    pub fn address(&self, like: Address) -> Option<Address> {
        let address = if like.is_v4() { Address::v4(self.ipv4) } else { Address::v6(self.ipv6) };
        (address != like.any_of_family()).then_some(address)
    }

    /// The gateway's address of the family of `like`, unspecified where there is none.
    #[inline(always)]
    pub fn gateway(&self, like: Address) -> Address {
        if like.is_v4() { Address::v4(self.gateway_ipv4) } else { Address::v6(self.gateway_ipv6) }
    }
}

/// Key of the endpoint table: an address in a network.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct EndpointKey {
    /// The container's address.
    pub address: Address,
    /// The network.
    pub zone: Zone,
    /// Zero.
    pub pad: u16,
}

/// Value of the endpoint table: where a container is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Endpoint {
    /// Index of the host-side veth.
    pub device: u32,
    /// Largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// The container's link-layer address.
    pub mac: Mac,
    /// The bridge's link-layer address: the source of what is routed to the container.
    pub gateway_mac: Mac,
}

/// Key of the publication table: where clients knock.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct PublicationKey {
    /// An address of the host, or [`Address::ANY_V4`] or [`Address::ANY_V6`] for each of them.
    pub address: Address,
    /// The port on the host.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Value of the publication table: where they are let in.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Publication {
    /// The container's address.
    pub address: Address,
    /// The container's port.
    pub port: Port,
    /// The container's network.
    pub zone: Zone,
}

/// Ports from `first` to `last`, both included; empty where `last` is less.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl PortRange {
    /// How many ports it has.
    #[inline(always)]
    pub const fn len(self) -> u32 {
        if self.last < self.first { 0 } else { self.last as u32 - self.first as u32 + 1 }
    }

    /// Whether it has none.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether `port` is one of them.
    #[inline(always)]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// How long a flow lives after its last packet. Indexes [`Settings::timeouts`].
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Timeout {
    /// TCP: a SYN without an answer.
    SynSent = 0,
    /// TCP: answered, the handshake not finished.
    SynReceived = 1,
    /// TCP: established.
    Established = 2,
    /// TCP: one side has closed.
    Closing = 3,
    /// TCP: both sides have closed.
    TimeWait = 4,
    /// TCP: reset.
    Reset = 5,
    /// UDP without an answer.
    UdpUnreplied = 6,
    /// UDP with answers.
    UdpReplied = 7,
    /// ICMP echo.
    Echo = 8,
}

impl Timeout {
    /// How many there are.
    pub const COUNT: usize = 9;
}

/// Value of the settings table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Settings {
    /// Key of the hash that picks where the search for a port starts (RFC 6056 section 3.3.4).
    pub secret: [u32; 2],
    /// Ports that masquerade may take: disjoint from the host's ephemeral range.
    pub pools: [PortRange; 2],
    /// The host's `net.ipv4.ip_local_port_range`: never kept as a masqueraded source port, the host's own sockets use it.
    pub ephemeral: PortRange,
    /// By [`Timeout`].
    pub timeouts: [Span; Timeout::COUNT],
}

/// Elements of the cursor table, a power of two.
pub const CURSORS: u32 = 1024;

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
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Self; 4] = [Self::FromContainer, Self::ToContainer, Self::FromUplink, Self::ToUplink];

    /// The program's name, in the object, in listings and in pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::ToContainer => "to_container",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
        }
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
            n => match self.dropped.get_mut(n - 3) {
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
    /// Of its transport checksum.
    pub checksum: u32,
    /// What its translation does to the checksum of the error.
    pub changed: Delta,
}

/// The wide values of the packet in hand, which the 512-byte stack has no room for. One per hook and CPU in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Scratch {
    /// The packet's own tuple.
    pub key: Tuple,
    /// Its flow.
    pub flow: Flow,
    /// The tuple of the other direction.
    pub peer_key: Tuple,
    /// The flow's other half.
    pub peer: Flow,
    /// The tuple of a flow that is in the way and may be over.
    pub evicted_key: Tuple,
    /// That flow.
    pub evicted: Flow,
    /// A publication being looked up.
    pub publication: PublicationKey,
    /// An endpoint being looked up.
    pub endpoint: EndpointKey,
    /// The packet that an error in hand quotes.
    pub quote: Quote,
}

/// Why a place in the flow table was not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimError {
    /// Another flow has it.
    Taken,
    /// The table is full.
    Full,
    /// The kernel refused for the moment: the bucket is locked on this CPU, or its allocator empty. Another try may do.
    Busy,
}

/// What the host's routing says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// It leaves by the next hop that was filled in.
    Forward,
    /// It is for the host itself.
    Local,
    /// There is no way, or none that a program may take: the stack must answer.
    Stack,
}

/// What the packet logic looks up and keeps.
pub trait Tables {
    /// This moment.
    fn now(&self) -> Instant;

    /// The record of a device.
    fn device(&self, ifindex: u32) -> Option<&Device>;

    /// The container at an address of a network.
    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint>;

    /// The publication at exactly this address.
    fn publication(&self, key: &PublicationKey) -> Option<&Publication>;

    /// The settings; `None` before the daemon has written them.
    fn settings(&self) -> Option<&Settings>;

    /// How many ports were handed out in this bucket so far, counting this one.
    fn cursor(&self, bucket: u32) -> u32;

    /// Copies the flow with this key; false if there is none.
    fn flow(&self, key: &Tuple, flow: &mut Flow) -> bool;

    /// Inserts a flow where none is.
    fn claim(&self, key: &Tuple, flow: &Flow) -> Result<(), ClaimError>;

    /// Takes a flow out, if it is there.
    fn release(&self, key: &Tuple);

    /// Writes what a packet of `direction` noted into the flow with this key, in place, by
    /// [`write_note`](crate::conntrack::write_note).
    fn note(&self, key: &Tuple, noted: &Flow, direction: u8);

    /// Whether a socket of the host would be given a TCP or UDP packet with this tuple.
    fn has_socket(&self, tuple: &Tuple) -> bool;

    /// Calls `round` until it breaks, at most `times` times. Loops that look things up go by this: the kernel's verifier then
    /// follows one round instead of every path through all of them.
    fn repeat<F: FnMut() -> ControlFlow<()>>(&self, times: u32, round: F);

    /// Asks the host's routing for the way of a packet that enters by `input`, and fills in the next hop; an MTU of 0 says
    /// that the route has none of its own.
    fn route(&self, input: u32, tuple: &Tuple, next: &mut NextHop) -> Route;
}
