//! What the user asked for: networks, endpoints, attachments and publications, and the only functions that change them.
//!
//! Invariant: nothing here performs IO or knows the time; chance and moments are arguments. Things refer to one another
//! by name or id, never by pointer.

mod allowances;
mod attaching;
mod conflicts;
mod connecting;
mod gateway;
pub mod mac;
mod mode;
mod mtu;
mod name;
mod netspec;
mod networks;
mod options;
mod portspec;
mod published;
mod rejection;
mod renumbering;
mod segment;
mod snat;
mod sources;
#[cfg(test)]
pub mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use netd_common::tuple::{Mac, Zone};
use serde::{Deserialize, Serialize};

pub use allowances::{Allowance, Target, allow, allowed, deny};
pub use attaching::{
    AttachOrder, Joining, Place, attach, detach, follow_way_out, ignored, mesh_places, netns_of, places, publish,
    unpublish,
};
pub use conflicts::conflicts;
pub use connecting::{connect, disconnect, unused_networks};
pub use gateway::GatewayMode;
pub use mac::format_mac;
pub use mode::Mode;
pub use mtu::{follow_mtu, set_mtu, underlay};
pub use name::Name;
pub use netspec::NetSpec;
pub use networks::{
    NetworkOrder, Surroundings, adopt_network, create_network, ensure_default_network, remove_network, servers,
};
pub use options::Options;
pub use portspec::{PortSpec, Protocol, PublishMode};
pub use published::Published;
pub use rejection::Rejection;
pub use renumbering::{RenumberOrder, renumber};
pub use segment::{Driver, Kept, RemoteEndpoint, RemotePort, Remotes, Segment, VXLAN_PORT, peers};
pub use sources::{lets_in, set_sources, source_list};

use crate::reconcile::{Family, Join, LinkName};

/// Name of the network that is made on first use.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Everything the user asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    /// By name.
    pub networks: BTreeMap<Name, Network>,
    /// By name. A copy of the model shares those that it does not change, and comparing the two is quick.
    pub endpoints: BTreeMap<Name, Arc<Endpoint>>,
}

/// A network: a bridge, a subnet or two, a zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    /// Unique.
    pub name: Name,
    /// Twelve hexadecimal digits, of which the first eight are unique.
    pub id: String,
    /// Unique, 1 or more: what the datapath calls it.
    pub zone: u16,
    /// What it is made of.
    #[serde(default)]
    pub driver: Driver,
    /// The addresses its containers have: at least one, at most one of a family, IPv4 first.
    pub subnets: Vec<Subnet>,
    /// What its containers leave as, at most one address of a family; the uplink's where there is none.
    #[serde(default)]
    pub snat_ips: Vec<IpAddr>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether its containers reach one another only as somebody [allowed](Allowance).
    #[serde(default)]
    pub no_icc: bool,
    /// Whether what leaves it keeps its address, whatever its gateway's mode.
    #[serde(default)]
    pub no_masquerade: bool,
    /// In bytes.
    pub mtu: u32,
    /// Whether that is what the host's routes have, and follows them.
    #[serde(default)]
    pub mtu_follows: bool,
    /// What the names of interfaces in its containers begin with, if not with `eth`.
    #[serde(default)]
    pub ifname_prefix: Option<String>,
    /// The options that it was made with.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Servers that its containers' other questions go to, if not to the host's.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Who may come to ports of its containers that say nothing of it; where it is empty, whom the configuration lets in.
    #[serde(default)]
    pub from: Vec<IpNet>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// The bridge's.
    #[serde(with = "mac")]
    pub mac: Mac,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub created: u64,
}

impl Network {
    /// Its bridge: the first, which has the gateways' addresses.
    pub fn bridge(&self) -> LinkName {
        link_name("ndb-", &self.id)
    }

    /// One of its further bridges, each joined to the first: 1 and up, as a bridge has no more ports than 1,023.
    pub fn further_bridge(&self, number: u8) -> LinkName {
        numbered("ndb-", &self.id, number)
    }

    /// The side at the first bridge of what joins a further one to it.
    pub fn join(&self, number: u8) -> LinkName {
        numbered(Join::NEAR, &self.id, number)
    }

    /// The side of that at the further one.
    pub fn far_side(&self, number: u8) -> LinkName {
        numbered("ndk-", &self.id, number)
    }

    /// The link-layer address of a further bridge, to which nobody sends: another than the first one's, whose frames must pass it.
    pub fn further_mac(&self, number: u8) -> Mac {
        let [first, others @ .., last] = self.mac.0;
        let [b, c, d, e] = others;
        Mac([first ^ 4, b, c, d, e, last ^ number])
    }

    /// What its containers leave as whatever the uplink, if anything.
    pub fn snat_ip(&self, family: Family) -> Option<IpAddr> {
        self.snat_ips.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// Its zone.
    pub fn zone(&self) -> Zone {
        Zone(self.zone)
    }

    /// Whether what leaves it keeps its address of this family.
    pub fn keeps_addresses(&self, family: Family) -> bool {
        let routed = self.subnet(family).is_some_and(Subnet::is_routed);
        (routed || self.no_masquerade) && self.snat_ip(family).is_none()
    }

    /// Its subnet of this family.
    pub fn subnet(&self, family: Family) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.family() == family)
    }
}

/// A network's addresses of one family.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subnet {
    /// All of them.
    pub subnet: IpNet,
    /// The bridge's own.
    pub gateway: IpAddr,
    /// Where automatic addresses are taken from, if not from the whole subnet.
    pub ip_range: Option<IpNet>,
    /// Addresses that are never given out, by the name the user gave them.
    pub aux_addresses: BTreeMap<String, IpAddr>,
    /// The last address that was given out by itself: the next search starts after it.
    pub last_given: Option<IpAddr>,
    /// What the user asked of its gateway.
    #[serde(default)]
    pub gateway_mode: Option<GatewayMode>,
}

impl Subnet {
    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(self.gateway)
    }

    /// What its gateway does: what was asked of it, else what its addresses are for. Global IPv6 ones are known beyond the host;
    /// what is private to the host (IPv4) or to the site (unique local addresses, RFC 4193) leaves behind the host's own.
    pub fn mode(&self) -> GatewayMode {
        let is_global = matches!(self.gateway, IpAddr::V6(gateway) if !gateway.is_unique_local());
        self.gateway_mode.unwrap_or(if is_global { GatewayMode::Routed } else { GatewayMode::Nat })
    }

    /// Whether clients come to its containers' own addresses.
    pub fn is_routed(&self) -> bool {
        self.mode() == GatewayMode::Routed
    }

    /// Whether it has a gateway, which is the host.
    pub fn has_gateway(&self) -> bool {
        self.mode() != GatewayMode::Isolated
    }
}

/// A container, as far as netd knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Unique.
    pub name: Name,
    /// Twelve hexadecimal digits, unique.
    pub id: String,
    /// Names its network namespace.
    pub netns: PathBuf,
    /// The inode of that namespace: the path may come to name another.
    pub netns_inode: u64,
    /// Whether `netd run` made the namespace, so that `netd rm` takes it away.
    pub netns_made: bool,
    /// Whose that namespace is.
    #[serde(default)]
    pub mode: Mode,
    /// The process it stands for, where one is known.
    pub process: Option<ProcessMark>,
    /// What runs in it, where netd started it.
    pub command: Vec<String>,
    /// The user's own.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// In the order in which they were asked for.
    pub attachments: Vec<Attachment>,
    /// Servers that its other questions go to, if not to those of its networks or the host's.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// In the order in which they were asked for.
    pub publications: Vec<PortPublication>,
    /// Who may open what to it, where a network keeps its containers apart.
    #[serde(default)]
    pub allows: BTreeSet<Allowance>,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub created: u64,
}

impl Endpoint {
    /// Its attachments, the one that its way out is by first.
    pub fn by_priority(&self) -> Vec<&Attachment> {
        let mut attachments: Vec<&Attachment> = self.attachments.iter().collect();
        attachments.sort_by_key(|attachment| std::cmp::Reverse(attachment.gw_priority));
        attachments
    }
}

/// A process and when it started: ids come back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Its id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since the machine started.
    pub started: u64,
}

/// An endpoint's place in a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// Eight hexadecimal digits, unique.
    pub id: String,
    /// Which network.
    pub network: Name,
    /// The container's IPv4 address there, if the network has IPv4.
    pub ip: Option<Ipv4Addr>,
    /// The container's IPv6 address there, if the network has IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// The container's link-layer address there.
    #[serde(with = "mac")]
    pub mac: Mac,
    /// The interface's name in the container.
    pub ifname: LinkName,
    /// More names for the container there.
    #[serde(default)]
    pub aliases: Vec<Name>,
    /// The container's way out is by the network with the highest, of equal ones by the one joined first.
    #[serde(default)]
    pub gw_priority: i32,
    /// Which of the network's bridges it is a port of: 0 is the first.
    #[serde(default)]
    pub bridge: u8,
}

impl Attachment {
    /// The host's side of its veth pair.
    pub fn veth(&self) -> LinkName {
        link_name("ndv-", &self.id)
    }

    /// The container's address of this family there.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ip.map(IpAddr::V4),
            Family::V6 => self.ip6.map(IpAddr::V6),
        }
    }

    /// The container's addresses there, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ip.map(IpAddr::V4).into_iter().chain(self.ip6.map(IpAddr::V6))
    }
}

/// Consecutive ports of an address that lead to as many consecutive ports of a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortPublication {
    /// An address of the host, the unspecified one for each of its family; or the container's own, where clients come to
    /// that ([`Subnet::is_routed`]).
    pub host_ip: IpAddr,
    /// Whether `host_ip` is the container's own.
    pub direct: bool,
    /// The first that clients come to.
    pub host_port: u16,
    /// The first in the container.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// Of both.
    pub protocol: Protocol,
    /// Who may come; where it is empty, whom the network lets in.
    #[serde(default)]
    pub from: Vec<IpNet>,
    /// Whether every host of the cluster publishes it.
    #[serde(default)]
    pub mesh: bool,
}

impl PortPublication {
    /// Whether both are the same ports of the same address, whoever may come to them, and on however many hosts.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let place = |port: &Self| (port.host_ip, port.direct, port.host_port, port.port, port.count, port.protocol);
        place(self) == place(other)
    }

    /// Of the address that clients come to, and so of the container's.
    pub fn family(&self) -> Family {
        Family::of(self.host_ip)
    }

    /// Each pair of a host's and a container's port.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (host, container) = (self.host_port, self.port);
        (0..self.count).map(move |i| (host + i, container + i))
    }

    /// The ports that clients come to.
    pub fn host_ports(&self) -> RangeInclusive<u16> {
        self.host_port..=self.host_port + (self.count - 1)
    }

    /// A port of the host that both would have.
    pub fn clash(&self, other: &Self) -> Option<u16> {
        let one_is_any = self.host_ip.is_unspecified() || other.host_ip.is_unspecified();
        let both_on_host = !self.direct && !other.direct;
        let same_address =
            self.host_ip == other.host_ip || one_is_any && both_on_host && self.family() == other.family();
        let first = self.host_port.max(other.host_port);
        let end = (u32::from(self.host_port) + u32::from(self.count))
            .min(u32::from(other.host_port) + u32::from(other.count));
        (self.protocol == other.protocol && same_address && u32::from(first) < end).then_some(first)
    }
}

impl Model {
    /// The network with this name.
    pub fn network(&self, name: &Name) -> Result<&Network, Rejection> {
        self.networks.get(name).ok_or_else(|| Rejection::UnknownNetwork(name.to_string()))
    }

    /// The endpoint with this name.
    pub fn endpoint(&self, name: &Name) -> Result<&Endpoint, Rejection> {
        let endpoint = self.endpoints.get(name).map(Arc::as_ref);
        endpoint.ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))
    }

    /// The endpoint with this name, to be changed: copies of the model keep it as it is.
    pub fn endpoint_mut(&mut self, name: &Name) -> Result<&mut Endpoint, Rejection> {
        let endpoint = self.endpoints.get_mut(name).map(Arc::make_mut);
        endpoint.ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))
    }

    /// Every place of an endpoint in this network.
    pub fn attachments_of<'a>(&'a self, network: &'a Name) -> impl Iterator<Item = (&'a Endpoint, &'a Attachment)> {
        self.endpoints
            .values()
            .flat_map(|endpoint| endpoint.attachments.iter().map(move |attachment| (&**endpoint, attachment)))
            .filter(move |(_, attachment)| attachment.network == *network)
    }

    /// The attachment by which an endpoint reaches the outside in this family: the first by priority in a network that has the
    /// family and is not internal.
    pub fn way_out<'a>(&'a self, endpoint: &'a Endpoint, family: Family) -> Option<(&'a Network, &'a Attachment)> {
        endpoint
            .by_priority()
            .into_iter()
            .filter_map(|attachment| Some((self.networks.get(&attachment.network)?, attachment)))
            .find(|(network, attachment)| !network.internal && attachment.address(family).is_some())
    }

    /// Paths of all sandboxes, the host's own aside.
    pub fn sandboxes(&self) -> BTreeSet<PathBuf> {
        let inside = self.endpoints.values().filter(|endpoint| endpoint.mode != Mode::Host);
        inside.map(|endpoint| endpoint.netns.clone()).collect()
    }
}

/// `prefix` and the first eight digits of `id`: twelve bytes, always a link name.
fn numbered(prefix: &str, id: &str, number: u8) -> LinkName {
    let first = link_name(prefix, id);
    LinkName::new(format!("{first}-{number}")).unwrap_or_else(|| unreachable!("at most two digits"))
}

fn link_name(prefix: &str, id: &str) -> LinkName {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    LinkName::new(format!("{prefix}{digits}")).unwrap_or_else(|| unreachable!("twelve clean bytes"))
}
