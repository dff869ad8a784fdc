//! Subnets of networks: given ones judged, others chosen, so that nothing else has addresses of them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Model, Name, Network, Rejection, conflicts::used, networks::Surroundings};
use crate::{ipam, reconcile::Family};

/// The subnet that is written, if nothing else has addresses of it.
pub fn given_subnet(model: &Model, text: &str, on: Surroundings<'_>, force: bool) -> Result<IpNet, Rejection> {
    let subnet = parse_net(text, "a subnet like 10.1.2.0/24 or fd00:0:0:1::/64")?;
    if let Some(why) = unfit(&subnet) {
        return Err(Rejection::UnfitSubnet { subnet, why });
    }
    apart(model, subnet)?;
    // One of all that is not on this host is on others, where this one cannot be then.
    let is_in_the_way = |(_, absent): &&(Name, IpNet)| ipam::overlap(absent, &subnet);
    if on.segment.is_some()
        && let Some((network, theirs)) = on.absent.iter().find(is_in_the_way)
    {
        return Err(Rejection::OverlapsNetwork { subnet, network: network.clone(), theirs: *theirs });
    }
    if force {
        return Ok(subnet);
    }
    if let Some((with, used)) = used(on.facts).find(|(net, _)| ipam::overlap(net, &subnet)) {
        return Err(Rejection::OverlapsHost { subnet, with, used: used.clone() });
    }
    match on.elsewhere.iter().find(|used| ipam::overlap(&used.net, &subnet)) {
        Some(with) => Err(Rejection::OverlapsNode { subnet, with: with.clone() }),
        None => Ok(subnet),
    }
}

/// A subnet that overlaps none of the model's.
pub fn apart(model: &Model, subnet: IpNet) -> Result<(), Rejection> {
    let theirs =
        |network: &Network| network.subnets.iter().map(|other| other.subnet).find(|n| ipam::overlap(n, &subnet));
    match model.networks.values().find_map(|network| Some((network, theirs(network)?))) {
        Some((network, theirs)) => Err(Rejection::OverlapsNetwork { subnet, network: network.name.clone(), theirs }),
        None => Ok(()),
    }
}

/// A free subnet of the family's pools.
pub fn automatic_subnet(model: &Model, on: Surroundings<'_>, family: Family) -> Result<IpNet, Rejection> {
    let pools = match family {
        Family::V4 => &on.pools.ipv4,
        Family::V6 => &on.pools.ipv6,
    };
    let ours = model
        .networks
        .values()
        .flat_map(|network| network.subnets.iter().map(|subnet| (subnet.subnet, format!("network {}", network.name))));
    let absent = on.absent.iter().map(|(name, net)| (*net, format!("network {name} of all nodes, which is not here")));
    let theirs = used(on.facts).map(|(net, used)| (net, format!("{net} ({used})")));
    let elsewhere = on.elsewhere.iter().map(|used| (used.net, used.to_string()));
    let taken: Vec<_> = ours.chain(absent).chain(theirs).chain(elsewhere).collect();
    let avoid: Vec<_> = taken.iter().map(|(net, _)| *net).collect();
    ipam::free_subnet(pools, &avoid).ok_or_else(|| {
        let in_the_way = |net: &IpNet| pools.iter().any(|pool| ipam::overlap(net, &pool.base));
        let users = taken.into_iter().filter(|(net, _)| in_the_way(net)).map(|(_, user)| user).collect();
        let pools = pools.iter().map(|pool| format!("/{} is left in {}", pool.size, pool.base)).collect();
        Rejection::NoFreeSubnet { pools, users }
    })
}

/// A range of addresses without host bits.
pub fn parse_net(text: &str, wanted: &'static str) -> Result<IpNet, Rejection> {
    let given: IpNet = text.parse().map_err(|_| Rejection::Malformed { given: text.to_owned(), wanted })?;
    let right = given.trunc();
    if right == given { Ok(given) } else { Err(Rejection::HostBits { given, right }) }
}

/// Why these cannot be the addresses of a network.
fn unfit(subnet: &IpNet) -> Option<&'static str> {
    const NOT_OF_HOSTS: &str = "its addresses are not those of single hosts";
    if subnet.prefix_len() < 8 {
        return Some("it is larger than a /8");
    }
    match subnet.network() {
        IpAddr::V4(first) if first.is_loopback() || first.octets()[0] == 0 || first.octets()[0] >= 224 => {
            Some(NOT_OF_HOSTS)
        }
        // With ::1, and with IPv4 in IPv6's clothes.
        IpAddr::V6(first) if first.octets()[0] == 0 || first.is_multicast() => Some(NOT_OF_HOSTS),
        IpAddr::V6(first) if first.is_unicast_link_local() => Some("its addresses are those of a single link"),
        _ => None,
    }
}
