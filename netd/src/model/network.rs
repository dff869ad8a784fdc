//! A network, and its addresses of each family.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use ipnet::IpNet;
use netd_common::tuple::{Mac, Zone};
use serde::{Deserialize, Serialize};

use super::{Driver, GatewayMode, Name, link_name, mac, numbered};
use crate::reconcile::{Family, Join, LinkName};

/// Addresses of a subnet of which it is remembered in which order they were given back. A /24, which subnets are by
/// themselves, has no more; in a larger one, what was given back longer ago than so many counts as never given.
const FREED: usize = 256;

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

    /// Whether all nodes have it.
    pub fn is_shared(&self) -> bool {
        matches!(self.driver, Driver::Overlay(_))
    }

    /// Its zone.
    pub fn zone(&self) -> Zone {
        Zone(self.zone)
    }

    /// Notes that these addresses are nobody's any more.
    pub fn note_freed(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            self.subnets.iter_mut().for_each(|subnet| subnet.note_freed(address));
        }
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
    /// The last addresses that were given back, of those that are given out by themselves, the one of longest ago first: they
    /// are the last to be given again.
    #[serde(default)]
    pub freed: VecDeque<IpAddr>,
    /// What the user asked of its gateway.
    #[serde(default)]
    pub gateway_mode: Option<GatewayMode>,
}

impl Subnet {
    /// Where automatic addresses are taken from.
    pub fn range(&self) -> IpNet {
        self.ip_range.unwrap_or(self.subnet)
    }

    /// Notes that an address was given: by itself, or as somebody wished.
    pub fn note_given(&mut self, address: IpAddr, by_itself: bool) {
        self.freed.retain(|freed| *freed != address);
        if by_itself {
            self.last_given = Some(address);
        }
    }

    /// Notes that an address, if it is of those that are given out by themselves, is nobody's any more.
    pub fn note_freed(&mut self, address: IpAddr) {
        if !self.range().contains(&address) {
            return;
        }
        self.freed.retain(|freed| *freed != address);
        self.freed.push_back(address);
        if self.freed.len() > FREED {
            self.freed.pop_front();
        }
    }

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
