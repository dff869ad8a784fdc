//! Where packets come from and go to: devices, containers, and the ports that are published.

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
