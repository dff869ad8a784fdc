//! A container as netd knows it: its places in networks, and its published ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::PathBuf,
};

use ipnet::IpNet;
use netd_common::tuple::Mac;
use serde::{Deserialize, Serialize};

use super::{Allowance, Mode, Name, Protocol, link_name, mac};
use crate::reconcile::{Family, LinkName, Sandbox};

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
    /// The network namespace that was attached.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox { path: self.netns.clone(), inode: self.netns_inode }
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
