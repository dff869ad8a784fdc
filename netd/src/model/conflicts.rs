//! What the host speaks to that has addresses of a network: replies would go into the network's bridge, and not where the
//! host means.

use std::fmt;

use ipnet::IpNet;

use super::{Driver, Model, Name};
use crate::{
    ipam,
    reconcile::{HostFacts, Use},
};

/// A network and what of the host's it is in the way of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The network.
    pub network: Name,
    /// Its subnet.
    pub subnet: IpNet,
    /// What of the host's overlaps it.
    pub with: IpNet,
    /// How the host uses that.
    pub used: Use,
    /// Whether it is a network of all nodes.
    pub shared: bool,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, subnet, with, used, shared } = self;
        write!(f, "network {network} ({subnet}) overlaps {with}, {used}: ")?;
        match shared {
            true => {
                write!(f, "it is one of all nodes, and is moved by being removed and made anew with another --subnet")
            }
            false => write!(f, "netd network renumber {network} moves it"),
        }
    }
}

/// What another host of the cluster uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsedElsewhere {
    /// The node.
    pub node: Name,
    /// The addresses.
    pub net: IpNet,
    /// How, in that node's words.
    pub used: String,
    /// Whether that node is there.
    pub is_there: bool,
}

impl fmt::Display for UsedElsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, net, used, .. } = self;
        write!(f, "{net} on node {node} ({used})")
    }
}

/// Every network that is in the way of something of the host's.
pub fn conflicts(model: &Model, facts: &HostFacts) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for network in model.networks.values() {
        for subnet in network.subnets.iter().map(|subnet| subnet.subnet) {
            let in_the_way = used(facts).filter(|(net, _)| ipam::overlap(net, &subnet));
            conflicts.extend(in_the_way.map(|(with, used)| Conflict {
                network: network.name.clone(),
                subnet,
                with,
                used: used.clone(),
                shared: matches!(network.driver, Driver::Overlay(_)),
            }));
        }
    }
    conflicts
}

/// What of the host's uses of addresses says something about who is where. A half of the address space says as little as a
/// default route: VPNs use the two halves in its place, and some all of IPv6's global unicast addresses.
pub fn used(facts: &HostFacts) -> impl Iterator<Item = (IpNet, &Use)> {
    let uses = facts.uses.iter().map(|(net, used)| (net.trunc(), used));
    uses.filter(|(net, _)| net.prefix_len() > 1 && !is_global_unicast(net))
}

/// Whether it is `2000::/3`.
fn is_global_unicast(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.prefix_len() == 3 && net.network().octets()[0] == 0x20)
}
