//! Where packets come from and go to: devices, containers, and the ports that are published.

use bytemuck::{Pod, Zeroable};

use super::SourceList;
use crate::tuple::{Address, Mac, Port, Zone};

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
    /// A side of what joins a further bridge of a network to its first.
    Join = 4,
}

/// Flags of a [`Device`].
pub mod device_flags {
    /// On a container or a bridge: its network has no way out.
    pub const INTERNAL: u32 = 1;
    /// On an uplink: netd itself switched IPv4 forwarding on, so what of it comes by this uplink and is neither for the host nor
    /// ours is dropped.
    pub const NOT_A_ROUTER_V4: u32 = 2;
    /// The same for IPv6.
    pub const NOT_A_ROUTER_V6: u32 = 4;
    /// On a container or a bridge: what leaves its network keeps its IPv6 addresses.
    pub const KEEPS_ADDRESS_V6: u32 = 8;
    /// The same for IPv4.
    pub const KEEPS_ADDRESS_V4: u32 = 16;
    /// On a container or a bridge: its network has no IPv4 gateway, so the host itself is out of reach.
    pub const ISOLATED_V4: u32 = 32;
    /// The same for IPv6.
    pub const ISOLATED_V6: u32 = 64;
    /// On a container or a bridge: its network's containers reach one another only as somebody allowed.
    pub const NO_ICC: u32 = 128;

    /// The flag of the family.
    #[inline(always)]
    pub const fn not_a_router(v4: bool) -> u32 {
        if v4 { NOT_A_ROUTER_V4 } else { NOT_A_ROUTER_V6 }
    }

    /// The flag of the family.
    #[inline(always)]
    pub const fn keeps_address(v4: bool) -> u32 {
        if v4 { KEEPS_ADDRESS_V4 } else { KEEPS_ADDRESS_V6 }
    }

    /// The flag of the family.
    #[inline(always)]
    pub const fn isolated(v4: bool) -> u32 {
        if v4 { ISOLATED_V4 } else { ISOLATED_V6 }
    }
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
    /// Zero.
    pub pad: u8,
    /// The network of a container or a bridge; [`Zone::HOST`] for an uplink.
    pub zone: Zone,
    /// Of [`device_flags`].
    pub flags: u32,
    /// Index of the network's bridge: where its containers' packets enter the host's routing. 0 for an uplink.
    pub bridge: u32,
    /// Largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// On a container: the VXLAN segment that its network is on other hosts; 0 for none.
    pub vni: u32,
    /// The container's own IPv4 address, the address an uplink masquerades as, or the one that a bridge's network leaves as
    /// whatever the uplink; zero where it has none.
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
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Its address of the family of `like`; `None` where it has none.
    #[inline(always)]
    pub fn address(&self, like: Address) -> Option<Address> {
        let address = if like.is_v4() { Address::v4(self.ipv4) } else { Address::v6(self.ipv6) };
        (address != like.any_of_family()).then_some(address)
    }

    /// Whether packets from `address`, which is of its network, keep it on their way out.
    #[inline(always)]
    pub fn keeps(&self, address: Address) -> bool {
        self.has(device_flags::keeps_address(address.is_v4()))
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

/// Key of the publication table, a longest-prefix-match trie: where clients knock. An entry is for a block of ports whose
/// number is a power of two, so a range of any length is at most thirty of them; a question is for one port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct PublicationKey {
    /// How many leading bits of what follows count: all, or fewer by the power of the block.
    bits: u32,
    /// An address of the host, or [`Address::ANY_V4`] or [`Address::ANY_V6`] for each of them.
    pub address: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// 0 where clients knock; 1 in an entry that says that the port is published on one address or another of the family.
    somewhere: u8,
    /// The port on the host, the first one of the block.
    pub port: Port,
}

impl PublicationKey {
    /// Bytes after the number of bits.
    pub const PLACE: usize = size_of::<Self>() - size_of::<u32>();
    const ALL: u32 = 8 * Self::PLACE as u32;

    /// One port.
    #[inline(always)]
    pub const fn new(address: Address, protocol: u8, port: Port) -> Self {
        Self { bits: Self::ALL, address, protocol, somewhere: 0, port }
    }

    /// The entry that stands beside one of a single address, for those who want the port on every address.
    #[inline(always)]
    pub const fn somewhere(self) -> Self {
        Self { address: self.address.any_of_family(), somewhere: 1, ..self }
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

    /// How many ports it stands for.
    pub const fn ports(&self) -> u32 {
        1 << (Self::ALL - self.bits)
    }

    /// The block of `2^power` ports, at most 16, that this port is in.
    pub const fn block(self, power: u32) -> Self {
        let first = (self.port.number() as u32 >> power) << power;
        Self { bits: Self::ALL - power, port: Port::new(first as u16), ..self }
    }

    /// Every entry that may answer a question for this port, the closest first.
    pub fn answers(self) -> impl Iterator<Item = Self> {
        (0..=16).map(move |power| self.block(power))
    }

    /// The fewest blocks that together are the `count` ports from `first` on.
    pub fn blocks(address: Address, protocol: u8, first: u16, count: u32) -> impl Iterator<Item = Self> {
        let (mut next, end) = (u32::from(first), (u32::from(first) + count).min(1 << 16));
        core::iter::from_fn(move || {
            let left = end.checked_sub(next).filter(|left| *left > 0)?;
            let power = next.trailing_zeros().min(left.ilog2());
            let one = Self::new(address, protocol, Port::new(next as u16));
            next += 1 << power;
            Some(one.block(power))
        })
    }
}

/// Value of the publication table: where they are let in.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Publication {
    /// The container's address.
    pub address: Address,
    /// The container's network.
    pub zone: Zone,
    /// What the container's port is more than the host's, modulo 2¹⁶: the same for each port of a range.
    pub shift: u16,
    /// Who may come.
    pub sources: SourceList,
}

impl Publication {
    /// To a container's address and port, of the host's port `host_port`, for everybody.
    pub const fn new(zone: Zone, address: Address, host_port: u16, port: u16) -> Self {
        Self { address, zone, shift: port.wrapping_sub(host_port), sources: SourceList::ANYONE }
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
}

/// Key of the table of dialled places: a socket, and the container that it was led to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct DialledKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The container's address.
    pub address: Address,
    /// The container's port.
    pub port: Port,
    /// Zero.
    pub pad: [u8; 6],
}

impl DialledKey {
    /// The socket with this cookie, led to this address and port.
    #[inline(always)]
    pub const fn new(cookie: u64, address: Address, port: Port) -> Self {
        Self { cookie, address, port, pad: [0; 6] }
    }
}

/// Value of the table of dialled places: what the socket dialled.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Dialled {
    /// An address of the host.
    pub address: Address,
    /// The address that it counts as coming from.
    pub source: Address,
    /// The published port.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::TCP;

    #[test]
    fn blocks_are_the_range_in_order_and_no_more() {
        for (first, count, most) in
            [(8000, 1, 1), (8000, 10_000, 7), (0, 65_536, 1), (1, 65_534, 30), (65_535, 1, 1), (20_000, 0, 0)]
        {
            let mut next = u32::from(first);
            let mut blocks = 0;
            for block in PublicationKey::blocks(Address::ANY_V4, TCP, first, count) {
                assert_eq!(u32::from(block.port.number()), next);
                next += block.ports();
                blocks += 1;
            }
            assert_eq!((next, blocks), (u32::from(first) + count, most), "{first} {count}");
        }
    }

    #[test]
    fn a_port_is_answered_by_its_own_block_alone() {
        let block = |first, count| PublicationKey::blocks(Address::ANY_V4, TCP, first, count).next().unwrap();
        let asked = PublicationKey::new(Address::ANY_V4, TCP, Port::new(8005));

        assert!(asked.answers().any(|key| key == block(8000, 8)));
        assert!(asked.answers().any(|key| key == block(8005, 1)));
        assert!(!asked.answers().any(|key| key == block(8008, 8)));
        assert_eq!(asked.answers().count(), 17);
    }

    #[test]
    fn a_key_comes_back_from_the_map_as_it_went_in() {
        let key = PublicationKey::new(Address::v4([192, 0, 2, 1]), TCP, Port::new(8005)).block(3);

        assert_eq!(PublicationKey::from_map(key.bits(), key.place()), key);
    }

    #[test]
    fn a_range_leads_to_as_many_ports_in_order() {
        let to = Publication::new(Zone(1), Address::v4([10, 176, 0, 2]), 8000, 80);

        assert_eq!([8000, 8001, 9000].map(|port| to.port(Port::new(port)).number()), [80, 81, 1080]);
        assert_eq!(Publication::new(Zone(1), to.address, 80, 8000).port(Port::new(81)).number(), 8001);
    }
}
