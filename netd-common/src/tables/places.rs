//! Where packets come from and go to: devices, containers, and what sockets dialled.

use bytemuck::{Pod, Zeroable};

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
    /// The IPv4 address of the network's gateway; on an uplink whose driver passes frames of the mesh on, that as which the host is
    /// known to others (its VTEP) where it is of this family, else zero.
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

    /// Of an uplink: as whom its driver passes frames of the mesh on to other hosts; `None` where it does not.
    #[inline(always)]
    pub fn tunnels_as(&self) -> Option<Address> {
        let own =
            if self.gateway_ipv4 == [0; 4] { Address::v6(self.gateway_ipv6) } else { Address::v4(self.gateway_ipv4) };
        let passes_on = self.is(DeviceKind::Uplink) && own != Address::ANY_V6;
        passes_on.then_some(own)
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

/// Value of the socket storage: where a TCP socket was led when it connected last. It goes with the socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Led {
    /// The container's address, or where the socket reaches it: the relay's, another host's.
    pub address: Address,
    /// The port there.
    pub port: Port,
    /// Zero.
    pub pad: [u8; 2],
    /// What the socket dialled.
    pub dialled: Dialled,
}

impl Led {
    /// To this address and port, by what it dialled.
    #[inline(always)]
    pub const fn new(address: Address, port: Port, dialled: Dialled) -> Self {
        Self { address, port, pad: [0; 2], dialled }
    }
}

/// Key of the table of dialled places: a UDP socket, and where it was led.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct DialledKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// As [`Led::address`].
    pub address: Address,
    /// The port there.
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

/// What a socket dialled: the value of the table of dialled places.
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
