//! What the user asked for: networks, endpoints, attachments and publications, and the only functions that change them.
//!
//! Invariant: nothing here performs IO or knows the time; chance and moments are arguments. Things refer to one another
//! by name or id, never by pointer.

mod attaching;
mod connecting;
mod mac;
mod mode;
mod mtu;
mod name;
mod netspec;
mod networks;
mod options;
mod portspec;
mod rejection;
#[cfg(test)]
pub mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::PathBuf,
};

use ipnet::Ipv4Net;
use netd_common::tuple::{Mac, Zone};
use serde::{Deserialize, Serialize};

pub use attaching::{AttachOrder, Joining, attach, detach, first_conflict, netns_of, publish, supported, unpublish};
pub use connecting::{connect, disconnect, unused_networks};
pub use mac::format_mac;
pub use mode::Mode;
pub use mtu::{follow_mtu, set_mtu};
pub use name::Name;
pub use netspec::NetSpec;
pub use networks::{NetworkOrder, create_network, ensure_default_network, remove_network, routes};
pub use options::Options;
pub use portspec::{PortSpec, Protocol};
pub use rejection::Rejection;

use crate::reconcile::LinkName;

/// Name of the network that is made on first use.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Everything the user asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    /// By name.
    pub networks: BTreeMap<Name, Network>,
    /// By name.
    pub endpoints: BTreeMap<Name, Endpoint>,
}

/// A network: a bridge, a subnet, a zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    /// Unique.
    pub name: Name,
    /// Twelve hexadecimal digits, of which the first eight are unique.
    pub id: String,
    /// Unique, 1 or more: what the datapath calls it.
    pub zone: u16,
    /// The addresses its containers have.
    pub subnet: Ipv4Net,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// Where automatic addresses are taken from, if not from the whole subnet.
    pub ip_range: Option<Ipv4Net>,
    /// Addresses that are never given out, by the name the user gave them.
    pub aux_addresses: BTreeMap<String, Ipv4Addr>,
    /// Whether it has no way out.
    pub internal: bool,
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
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// The bridge's.
    #[serde(with = "mac")]
    pub mac: Mac,
    /// The last address that was given out by itself: the next search starts after it.
    pub last_given: Option<Ipv4Addr>,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub created: u64,
}

impl Network {
    /// Its bridge.
    pub fn bridge(&self) -> LinkName {
        link_name("ndb-", &self.id)
    }

    /// Its zone.
    pub fn zone(&self) -> Zone {
        Zone(self.zone)
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
    /// In the order in which they were asked for.
    pub publications: Vec<PortPublication>,
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
    /// The container's address there.
    pub ip: Ipv4Addr,
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
}

impl Attachment {
    /// The host's side of its veth pair.
    pub fn veth(&self) -> LinkName {
        link_name("ndv-", &self.id)
    }
}

/// Consecutive ports of the host that lead to as many consecutive ports of a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortPublication {
    /// An address of the host; `None` for each of them.
    pub host_ip: Option<Ipv4Addr>,
    /// The first on the host.
    pub host_port: u16,
    /// The first in the container.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// Of both.
    pub protocol: Protocol,
}

impl PortPublication {
    /// Each pair of a host's and a container's port.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (host, container) = (self.host_port, self.port);
        (0..self.count).map(move |i| (host + i, container + i))
    }

    /// The host's ports.
    pub fn host_ports(&self) -> RangeInclusive<u16> {
        self.host_port..=self.host_port + (self.count - 1)
    }

    /// The address to bind: the unspecified one where every address of the host is meant.
    pub fn bound_address(&self) -> IpAddr {
        self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED).into()
    }

    /// A port of the host that both would have.
    pub fn clash(&self, other: &Self) -> Option<u16> {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
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
        self.endpoints.get(name).ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))
    }

    /// Every place of an endpoint in this network.
    pub fn attachments_of<'a>(&'a self, network: &'a Name) -> impl Iterator<Item = (&'a Endpoint, &'a Attachment)> {
        self.endpoints
            .values()
            .flat_map(|endpoint| endpoint.attachments.iter().map(move |attachment| (endpoint, attachment)))
            .filter(move |(_, attachment)| attachment.network == *network)
    }

    /// The attachment by which an endpoint reaches the outside: the first by priority in a network that is not internal.
    pub fn way_out<'a>(&'a self, endpoint: &'a Endpoint) -> Option<(&'a Network, &'a Attachment)> {
        endpoint
            .by_priority()
            .into_iter()
            .filter_map(|attachment| Some((self.networks.get(&attachment.network)?, attachment)))
            .find(|(network, _)| !network.internal)
    }

    /// Paths of all sandboxes, the host's own aside.
    pub fn sandboxes(&self) -> BTreeSet<PathBuf> {
        let inside = self.endpoints.values().filter(|endpoint| endpoint.mode != Mode::Host);
        inside.map(|endpoint| endpoint.netns.clone()).collect()
    }
}

/// `prefix` and the first eight digits of `id`: twelve bytes, always a link name.
fn link_name(prefix: &str, id: &str) -> LinkName {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    LinkName::new(format!("{prefix}{digits}")).unwrap_or_else(|| unreachable!("twelve clean bytes"))
}
