//! The networks that a node has in tunnels, and whom it lets send into them: as the store says, as the node says, and the differences.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use netd_common::tuple::Mac;
use serde::{Deserialize, Serialize};

use super::{SharedNetwork, View, verify::network_of};
use crate::model::{Name, Segment, format_mac, mac};

/// What a node has of networks in tunnels.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Segments {
    /// The networks.
    pub networks: BTreeSet<SegmentAnswer>,
    /// Hosts that may send, by the network's number in tunnels.
    pub vteps: BTreeSet<(u32, IpAddr)>,
}

/// A network in tunnels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SegmentAnswer {
    /// Its number there.
    pub vni: u32,
    /// UDP port of its tunnels.
    pub port: u16,
    /// Whether it goes encrypted.
    pub encrypted: bool,
    /// Whether its containers reach one another only as somebody allowed.
    pub no_icc: bool,
    /// The gateway's addresses.
    pub gateways: BTreeSet<IpAddr>,
    /// The gateway's link-layer address.
    #[serde(with = "mac")]
    pub gateway_mac: Mac,
}

/// What a node is to have. Left out are networks that take what its netd does not know, and encrypted ones for as long as it has no
/// keys: both are said by themselves ([`super::verified`]).
pub fn segments(view: &View, me: &Name) -> Segments {
    let Some(node) = view.node(me) else { return Segments::default() };
    let has_keys = view.sessions().any(|(node, ..)| node == me);
    let takes_part = |network: &SharedNetwork| {
        network.requires.iter().all(|feature| node.understands.contains(feature)) && (has_keys || !network.encrypted)
    };
    let others: Vec<IpAddr> = view.nodes().filter(|(name, _)| *name != me).map(|(_, node)| node.vtep).collect();
    let mut segments = Segments::default();
    for (_, network) in view.networks().filter(|(_, network)| takes_part(network)) {
        segments.vteps.extend(others.iter().map(|vtep| (network.vni, *vtep)));
        segments.networks.insert(SegmentAnswer {
            vni: network.vni,
            port: if network.encrypted { node.encrypted_port } else { node.vxlan_port },
            encrypted: network.encrypted,
            no_icc: network.no_icc,
            gateways: network.subnets.iter().map(|subnet| subnet.gateway).collect(),
            gateway_mac: Segment::gateway_mac_of(network.vni),
        });
    }
    segments
}

/// What a node has of these otherwise than the store says, one line each.
pub fn of_segments(view: &View, node: &Name, found: &Segments) -> Vec<String> {
    let desired = segments(view, node);
    let by_vni = |segments: &Segments| -> BTreeMap<u32, SegmentAnswer> {
        segments.networks.iter().map(|network| (network.vni, network.clone())).collect()
    };
    let (wanted, had) = (by_vni(&desired), by_vni(found));
    let vnis: BTreeSet<u32> = wanted.keys().chain(had.keys()).copied().collect();
    let line = |vni: &u32| {
        let network = network_of(view, *vni);
        let differs = match (wanted.get(vni), had.get(vni)) {
            (Some(_), None) => format!("lacks {network} in tunnels"),
            (None, Some(found)) => format!("has {network} in tunnels {found}, where there is none"),
            (Some(wanted), Some(found)) if wanted != found => {
                format!("has {network} in tunnels {found}; the store says {wanted}")
            }
            _ => return None,
        };
        Some(format!("node {node}: {differs}"))
    };
    let networks = vnis.iter().filter_map(line);
    // Into a network that it lacks it lets nobody, which need not be said.
    let lacks = desired.vteps.difference(&found.vteps).filter(|(vni, _)| had.contains_key(vni));
    let lacks = lacks.map(|(vni, vtep)| format!("node {node}: lets nothing of {vtep} into {}", network_of(view, *vni)));
    let strange = found.vteps.difference(&desired.vteps).map(|(vni, vtep)| {
        format!("node {node}: lets {vtep} send into {}, which is none of its nodes", network_of(view, *vni))
    });
    networks.chain(lacks).chain(strange).collect()
}

impl fmt::Display for SegmentAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by UDP port {}", self.port)?;
        f.write_str(if self.encrypted { ", encrypted" } else { "" })?;
        f.write_str(if self.no_icc { ", containers kept apart" } else { "" })?;
        let gateways = self.gateways.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        write!(f, ", gateway {gateways} ({})", format_mac(self.gateway_mac))
    }
}
