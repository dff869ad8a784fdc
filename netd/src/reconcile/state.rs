//! Everything of ours that exists on a host, desired or observed: what only the kernel decides (interface indexes) is not
//! in it, so comparing is `==`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use netd_common::{
    sock::Places,
    tables::{
        AllowanceKey, EndpointKey, Hook, MeshEnd, PeerKey, PortRange, Publication, PublicationKey, Publications,
        Remote, RemoteKey, Settings, SourceKey, VtepKey,
    },
    tuple::{Address, Mac, Zone},
};
use serde::{Deserialize, Serialize};

use super::Ipsec;
use crate::firewall::Accept;

/// Name of a network device, 1 to 15 bytes (`IFNAMSIZ` less its NUL).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);

impl LinkName {
    /// The name, or `None` if the kernel would refuse it: empty, too long, `.`, `..`, the names that sysctls have for every device,
    /// or with a slash, colon, percent sign or white space.
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let fits = !name.is_empty() && name.len() < 16 && !matches!(name.as_str(), "." | ".." | "all" | "default");
        let clean = !name.contains(|c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace());
        (fits && clean).then_some(Self(name))
    }

    /// What stands for every device among the settings of devices. No device can have this name.
    pub fn every() -> Self {
        Self("all".to_owned())
    }

    /// What stands for a device that is gone, and whose index alone is known. Nothing desired has such a name, and it is
    /// always short enough to be one.
    pub fn gone(index: u32) -> Self {
        Self(format!("gone-{index}"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LinkName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::new(name.as_str()).ok_or_else(|| format!("`{name}` is not the name of a network device"))
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> Self {
        name.0
    }
}

/// A version of the Internet Protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Every address of it.
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Everything of ours, in the order in which it depends on one another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// One bridge a network, or several where it has more endpoints than a bridge has ports.
    pub bridges: BTreeMap<LinkName, Bridge>,
    /// What joins further bridges to the first one of their networks, by the name of the side at the first.
    pub joins: BTreeMap<LinkName, Join>,
    /// One veth pair an attachment, by the name of its host side.
    pub veths: BTreeMap<LinkName, Veth>,
    /// Bridges and veths that somebody has given another name: theirs, and the other one. Desired is always empty.
    pub misnamed: BTreeMap<LinkName, LinkName>,
    /// Veths whose other sides cannot be looked at, and why: they are left as they are. Desired is always empty.
    pub unclear: BTreeMap<LinkName, String>,
    /// Subnets of addresses that the kernel's own routes do not lead to any more, by bridges, and by veths of which the other side has
    /// them. Desired is always empty.
    pub unrouted: BTreeMap<LinkName, BTreeSet<IpNet>>,
    /// Devices of ours or uplinks on which forwarding of a family must be on (`net.ipv4.conf.DEV.forwarding`).
    pub forwarding: BTreeSet<(LinkName, Family)>,
    /// Programs at their hooks.
    pub hooks: BTreeSet<(LinkName, Hook)>,
    /// Calls of sockets (`connect4`, `bind6`) that have their programs on the cgroup.
    pub calls: BTreeSet<&'static str>,
    /// The resolver in container namespaces, by their inodes; desired is always [`ResolverState::Whole`].
    pub resolvers: BTreeMap<u64, ResolverState>,
    /// Records of the device tables.
    pub devices: BTreeMap<LinkName, DeviceRecord>,
    /// Interface indexes with a record and no device, or with one where no program finds it; desired is always empty.
    pub orphans: BTreeSet<u32>,
    /// The endpoint table.
    pub endpoints: BTreeMap<EndpointKey, EndpointRecord>,
    /// The source table.
    pub sources: BTreeSet<SourceKey>,
    /// The table of what is allowed between containers that are kept apart.
    pub allowances: BTreeSet<AllowanceKey>,
    /// The publication table.
    pub publications: BTreeMap<PublicationKey, Publication>,
    /// One VXLAN device a UDP port, for every network of that port that spans hosts.
    pub tunnels: BTreeMap<LinkName, Tunnel>,
    /// The segment table, by VNI.
    pub segments: BTreeMap<u32, SegmentRecord>,
    /// The table of remote containers: the forwarding map of overlay networks.
    pub remotes: BTreeMap<RemoteKey, Remote>,
    /// The table of VTEPs.
    pub vteps: BTreeSet<VtepKey>,
    /// The table of the mesh.
    pub mesh: BTreeMap<EndpointKey, MeshEnd>,
    /// The table of peers.
    pub peers: BTreeMap<PeerKey, Address>,
    /// What encrypts networks between hosts.
    pub ipsec: Ipsec,
    /// The table of the host's own addresses, those of its loopback aside.
    pub addresses: BTreeSet<Address>,
    /// netd's accepts at the ends of FORWARD chains, and those for bits that are not netd's, wherever they stand.
    pub accepts: BTreeSet<Accept>,
    /// The settings table; `None` before they are written.
    pub settings: Option<Settings>,
    /// The table of reserved ports, as ranges apart from one another.
    pub reserved: BTreeSet<PortRange>,
    /// Published ports in `net.ipv4.ip_local_reserved_ports`, the same way: no socket that names no port is given one of them.
    pub withheld: BTreeSet<PortRange>,
}

/// What there is of the resolver in a container's namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResolverState {
    /// Its sockets are open and its program is attached.
    Whole,
    /// One of the two.
    Partial,
}

/// A network's bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// The network it belongs to, and its number if it is a further one of that: the rest of its `ifalias` after `netd network `.
    pub owner: String,
    /// Fixed at creation, so that it does not follow its ports.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// The gateway's address with the subnet's prefix length.
    pub addresses: BTreeSet<IpNet>,
    /// Whether the options that every bridge of ours has are as they were made.
    pub intact: bool,
}

/// A veth pair between two bridges of a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Join {
    /// The network, and the number of the further bridge: the rest of its `ifalias` after `netd join `.
    pub owner: String,
    /// The first bridge of the network.
    pub bridge: LinkName,
    /// The side at the further one.
    pub far: LinkName,
    /// The further one.
    pub further: LinkName,
    /// In bytes, on both sides.
    pub mtu: u32,
    /// Whether both sides are up, and their options are as they were made.
    pub intact: bool,
    /// Whether the first bridge lets nothing through between it and containers.
    pub apart: bool,
}

impl Publications for State {
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        question.answers().find_map(|key| self.publications.get(&key))
    }
}

impl Places for State {
    fn is_source(&self, key: &SourceKey) -> bool {
        self.sources.iter().any(|range| range.covers(key.list(), key.address()))
    }

    fn elsewhere(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        self.mesh.get(key)
    }
}

impl Join {
    /// What the name of its side at the first bridge begins with.
    pub const NEAR: &str = "ndj-";
}

/// A container's veth pair: the host's side, and the interface at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Veth {
    /// The endpoint it belongs to: the rest of its `ifalias` after `netd endpoint `.
    pub owner: String,
    /// The bridge it is a port of.
    pub bridge: LinkName,
    /// In bytes, on both sides.
    pub mtu: u32,
    /// Whether the options that every port of ours has are as they were made, and the bridge knows the container's
    /// link-layer address by it.
    pub intact: bool,
    /// Whether the bridge lets nothing through between it and other such ports.
    pub apart: bool,
    /// Where the other side is.
    pub sandbox: Sandbox,
    /// The other side.
    pub interface: Interface,
}

/// A VXLAN device that takes each packet's VNI and VTEP from a program (`external`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// UDP port, also in its `ifalias` after `netd tunnel `.
    pub port: u16,
    /// Whether what is in a tunnel may be summed and cut by the device that sends it; else it is before it goes in.
    pub offload: bool,
    /// Whether it is up and its options are as they were made.
    pub intact: bool,
}

/// A container's network namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sandbox {
    /// A path that names it.
    pub path: PathBuf,
    /// Its inode: a path may come to name another.
    pub inode: u64,
}

/// A container's network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name in the container.
    pub name: LinkName,
    /// Its link-layer address.
    pub mac: Mac,
    /// With the subnet's prefix length.
    pub addresses: BTreeSet<IpNet>,
    /// The next hop of its default routes, at most one a family; none in an internal network.
    pub gateways: BTreeSet<IpAddr>,
}

/// A [`netd_common::tables::Device`] by name: what the kernel numbers is left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceRecord {
    /// A `DeviceKind` as its number.
    pub kind: u8,
    /// Of `device_flags`.
    pub flags: u32,
    /// The network, or `Zone::HOST`.
    pub zone: Zone,
    /// The network's bridge; `None` for an uplink.
    pub bridge: Option<LinkName>,
    /// In bytes.
    pub mtu: u32,
    /// The segment that a container's network is on other hosts; 0 for none.
    pub vni: u32,
    /// Own or masquerade address; zero for none.
    pub ipv4: [u8; 4],
    /// The gateway's, or as whom an uplink's driver passes frames of the mesh on; zero for none.
    pub gateway_ipv4: [u8; 4],
    /// Own or masquerade address; zero for none.
    pub ipv6: [u8; 16],
    /// The same.
    pub gateway_ipv6: [u8; 16],
    /// The container's.
    pub mac: Mac,
    /// The bridge's.
    pub gateway_mac: Mac,
}

/// A [`netd_common::tables::Endpoint`] by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointRecord {
    /// The host-side veth.
    pub device: LinkName,
    /// In bytes.
    pub mtu: u32,
    /// The container's.
    pub mac: Mac,
    /// The bridge's.
    pub gateway_mac: Mac,
}

/// A [`netd_common::tables::Segment`] by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentRecord {
    /// The VXLAN device.
    pub tunnel: LinkName,
    /// The network's bridge.
    pub bridge: LinkName,
    /// In bytes.
    pub underlay_mtu: u32,
    /// How many peers it floods to.
    pub peers: u32,
    /// Of `segment_flags`.
    pub flags: u16,
    /// UDP port of the VXLAN device.
    pub port: u16,
    /// The network.
    pub zone: Zone,
    /// The bridge's.
    pub gateway_mac: Mac,
    /// Zero for none.
    pub gateway_ipv4: [u8; 4],
    /// Zero for none.
    pub gateway_ipv6: [u8; 16],
}
