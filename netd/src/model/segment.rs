//! Networks that span hosts: the VXLAN segment that carries one (RFC 7348), and what other hosts have in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netd_common::{
    tables::{EndpointKey, MeshEnd, PEERS_MAX, Publication, PublicationKey, SourceKey, overhead},
    tuple::Mac,
};
use serde::{Deserialize, Serialize};

use super::{Model, NetworkOrder, PortPublication, Protocol, Rejection, networks::Surroundings};
use crate::reconcile::{Family, LinkName};

/// The UDP port of VXLAN (RFC 7348 section 8). Linux's own default, 8472, is older.
pub const VXLAN_PORT: u16 = 4789;

/// The highest VNI: it has 24 bits.
const LAST_VNI: u32 = (1 << 24) - 1;

/// What a network is made of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge on this host.
    #[default]
    Bridge,
    /// A bridge on every host of the cluster, which knows what is where.
    Overlay(Segment),
    /// A bridge on this host and what its peers have in the same segment, by hand.
    Vxlan(Segment),
}

impl Driver {
    /// Its name on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Overlay(_) => "overlay",
            Self::Vxlan(_) => "vxlan",
        }
    }

    /// The segment of a network that spans hosts.
    pub const fn segment(&self) -> Option<&Segment> {
        match self {
            Self::Bridge => None,
            Self::Overlay(segment) | Self::Vxlan(segment) => Some(segment),
        }
    }

    /// Bytes that each packet between hosts has more than the container's.
    pub fn overhead(&self) -> u32 {
        self.segment().map_or(0, |segment| overhead(segment.underlay == Family::V4, segment.encrypted))
    }
}

/// A VXLAN segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// Its number, 1 or more: of one network on a host. 0 of one that was removed on another host while containers were in it here:
    /// its number may be another network's, so it spans no host but this one.
    pub vni: u32,
    /// UDP port of every host in it.
    pub port: u16,
    /// The family of the hosts' own addresses.
    pub underlay: Family,
    /// Whether it goes encrypted between hosts (IPsec ESP).
    #[serde(default)]
    pub encrypted: bool,
    /// The other hosts of a segment made by hand; none where a cluster knows them.
    #[serde(default)]
    pub peers: BTreeSet<IpAddr>,
}

impl Segment {
    /// The VXLAN device that carries it, with every other segment of its port.
    pub fn tunnel(&self) -> LinkName {
        LinkName::new(format!("ndx-{}", self.port)).unwrap_or_else(|| unreachable!("nine clean bytes"))
    }

    /// The link-layer address of the gateway, which every host has: a container that moves finds its gateway there too.
    pub const fn gateway_mac(&self) -> Mac {
        Self::gateway_mac_of(self.vni)
    }

    /// The same, of the segment with this number.
    pub const fn gateway_mac_of(vni: u32) -> Mac {
        let [_, a, b, c] = vni.to_be_bytes();
        Mac([0x02, 0x6e, 0x64, a, b, c])
    }
}

/// What other hosts have of overlay networks, as the cluster's state says: the whole of it, not what changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remotes {
    /// This host's own address to the others (VTEP); `None` until the cluster knows of it.
    pub own: Option<IpAddr>,
    /// The other hosts' own addresses (VTEPs): who may send into an overlay network.
    pub vteps: BTreeSet<IpAddr>,
    /// Their containers, by the VNI and the container's address.
    pub endpoints: BTreeMap<(u32, IpAddr), RemoteEndpoint>,
    /// Their ports that every host publishes, each port once.
    pub ports: Vec<RemotePort>,
    /// What their containers and those of this host may open to one another in networks that keep them apart.
    pub allowances: BTreeSet<RemoteAllowance>,
    /// What an earlier daemon has left of such ports, until the cluster's state is known.
    pub kept: Kept,
}

/// What one container of a network of several hosts may open to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RemoteAllowance {
    /// Their network.
    pub vni: u32,
    /// The address of the one that opens.
    pub src: IpAddr,
    /// The address of the one that it opens to.
    pub dst: IpAddr,
    /// What; everything where it is not said.
    pub port: Option<(u16, Protocol)>,
}

/// A port of another host's container that every host publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemotePort {
    /// The container's network.
    pub vni: u32,
    /// The container's address there.
    pub address: IpAddr,
    /// The port, at every address of the family.
    pub publication: PortPublication,
}

/// Entries of tables as they were found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// Other ends of flows.
    pub ends: BTreeMap<EndpointKey, MeshEnd>,
    /// Publications that lead to these.
    pub publications: BTreeMap<PublicationKey, Publication>,
    /// Who may come to them.
    pub sources: BTreeSet<SourceKey>,
}

/// A container on another host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteEndpoint {
    /// Its link-layer address.
    pub mac: Mac,
    /// Its host.
    pub vtep: IpAddr,
    /// Which life of that host's daemon said so: the higher one holds.
    pub incarnation: u64,
}

/// The other hosts of every network that is made by hand.
pub fn peers(model: &Model) -> BTreeSet<IpAddr> {
    let segments = model.networks.values().filter_map(|network| network.driver.segment());
    segments.flat_map(|segment| &segment.peers).copied().collect()
}

/// The driver that an order asks for.
pub(super) fn driver(model: &Model, order: &NetworkOrder, on: Surroundings<'_>) -> Result<Driver, Rejection> {
    let of = order.driver.as_deref().unwrap_or("bridge");
    if order.encrypted
        && let Some(driver) = ["bridge", "vxlan"].into_iter().find(|driver| *driver == of)
    {
        return Err(Rejection::NotOfDriver { option: "--encrypted", driver });
    }
    let segment = match of {
        "bridge" => {
            let given = [
                ("--vni", order.vni.is_some()),
                ("--peer", !order.peers.is_empty()),
                ("--vxlan-port", order.vxlan_port.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(Rejection::NotOfDriver { option, driver: "bridge" }),
                None => Ok(Driver::Bridge),
            };
        }
        "overlay" => Driver::Overlay(on.segment.cloned().ok_or(Rejection::NoCluster)?),
        "vxlan" => Driver::Vxlan(by_hand(order, on)?),
        other => return Err(Rejection::UnknownDriver(other.to_owned())),
    };
    if let Some(segment) = segment.segment() {
        let vni = segment.vni;
        let theirs = |network: &&super::Network| network.driver.segment().is_some_and(|theirs| theirs.vni == vni);
        if let Some(network) = model.networks.values().find(theirs) {
            return Err(Rejection::VniTaken { vni, network: network.name.clone() });
        }
        let by_another = |network: &&super::Network| {
            let theirs = network.driver.segment();
            theirs.is_some_and(|theirs| theirs.port == segment.port && theirs.encrypted != segment.encrypted)
        };
        if let Some(network) = model.networks.values().find(by_another) {
            return Err(Rejection::PortOfEncryption { port: segment.port, network: network.name.clone() });
        }
        if let Some(device) = on.facts.vxlan_devices.get(&segment.port) {
            return Err(Rejection::VxlanPortTaken { port: segment.port, device: device.clone() });
        }
    }
    Ok(segment)
}

/// A segment that the user describes.
fn by_hand(order: &NetworkOrder, on: Surroundings<'_>) -> Result<Segment, Rejection> {
    let vni = order.vni.ok_or(Rejection::DriverNeeds { driver: "vxlan", option: "--vni" })?;
    if !(1..=LAST_VNI).contains(&vni) {
        return Err(Rejection::BadVni(vni));
    }
    let port = order.vxlan_port.unwrap_or(VXLAN_PORT);
    if port == 0 {
        return Err(Rejection::BadVxlanPort);
    }
    let peers = order.peers.iter().map(|text| peer(text, on)).collect::<Result<BTreeSet<_>, _>>()?;
    let Some(first) = peers.first().copied() else {
        return Err(Rejection::DriverNeeds { driver: "vxlan", option: "--peer" });
    };
    if let Some(second) = peers.iter().copied().find(|peer| Family::of(*peer) != Family::of(first)) {
        return Err(Rejection::PeersOfTwoFamilies { first, second });
    }
    if peers.len() > PEERS_MAX as usize {
        return Err(Rejection::TooManyPeers { peers: peers.len(), most: PEERS_MAX });
    }
    Ok(Segment { vni, port, underlay: Family::of(first), encrypted: false, peers })
}

/// The address of another host.
fn peer(text: &str, on: Surroundings<'_>) -> Result<IpAddr, Rejection> {
    let malformed = || Rejection::Malformed { given: text.to_owned(), wanted: "the IP address of a peer" };
    let address: IpAddr = text.parse().map_err(|_| malformed())?;
    let of_one_link = matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let broadcast = matches!(address, IpAddr::V4(ip) if ip.is_broadcast());
    if address.is_multicast() || address.is_unspecified() || address.is_loopback() || of_one_link || broadcast {
        return Err(Rejection::UnfitPeer { address, why: "it is not the address of another host" });
    }
    if on.facts.addresses.contains(&address) {
        return Err(Rejection::UnfitPeer { address, why: "it is this host's own" });
    }
    Ok(address)
}
