//! A network with other addresses: empty, or with everybody in it.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{
    Model, Name, Network, Rejection, Subnet, Surroundings,
    attaching::free_address,
    conflicts, follow_way_out,
    subnets::{automatic_subnet, given_subnet},
};
use crate::{ipam, reconcile::Family};

/// A wish for other addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RenumberOrder {
    /// Subnets that take the place of those of their families; without any, free ones that take the place of those that are in
    /// the host's way, or of all if none is.
    pub subnets: Vec<String>,
    /// Give everybody in it another address too.
    pub recreate: bool,
    /// Insist on a subnet that the host has a route into.
    pub force: bool,
}

/// Moves a network to other subnets. What is in it keeps its number inside of a subnet where the new one is as large. Returns the
/// addresses that are nobody's any more.
pub fn renumber(
    model: &mut Model,
    name: &Name,
    order: &RenumberOrder,
    on: Surroundings<'_>,
) -> Result<Vec<IpAddr>, Rejection> {
    let network = model.network(name)?.clone();
    let endpoints: BTreeSet<Name> = model.attachments_of(name).map(|(endpoint, _)| endpoint.name.clone()).collect();
    if !endpoints.is_empty() && !order.recreate {
        let endpoints = endpoints.into_iter().collect();
        return Err(Rejection::AddressesInUse { network: name.clone(), endpoints });
    }
    let mut gone = Vec::new();
    for (old, net) in chosen(model, &network, order, on)? {
        let moved = moved(&old, net);
        let families = move |subnet: &&mut Subnet| subnet.family() == old.family();
        let subnets = model.networks.get_mut(name).into_iter().flat_map(|network| &mut network.subnets);
        subnets.filter(families).for_each(|subnet| *subnet = moved.clone());
        for endpoint in &endpoints {
            gone.extend(readdress(model, name, endpoint, old_net(&network, &moved), moved.family())?);
        }
    }
    endpoints.iter().for_each(|endpoint| follow_way_out(model, endpoint));
    Ok(gone)
}

fn old_net(network: &Network, moved: &Subnet) -> IpNet {
    network.subnet(moved.family()).map_or(moved.subnet, |old| old.subnet)
}

/// Which subnets move, and where to.
fn chosen(
    model: &Model,
    network: &Network,
    order: &RenumberOrder,
    on: Surroundings<'_>,
) -> Result<Vec<(Subnet, IpNet)>, Rejection> {
    if order.subnets.is_empty() {
        let conflicts = conflicts::conflicts(model, on.facts);
        let in_the_way = |subnet: &&Subnet| {
            conflicts.iter().any(|conflict| conflict.network == network.name && conflict.subnet == subnet.subnet)
        };
        let none = !network.subnets.iter().any(|subnet| in_the_way(&subnet));
        let moving = network.subnets.iter().filter(|subnet| none || in_the_way(subnet));
        return moving.map(|subnet| Ok((subnet.clone(), automatic_subnet(model, on, subnet.family())?))).collect();
    }
    // Its own subnets are not in its way.
    let mut others = model.clone();
    others.networks.remove(&network.name);
    let mut chosen: Vec<(Subnet, IpNet)> = Vec::new();
    for text in &order.subnets {
        let net = given_subnet(&others, text, on, order.force)?;
        let family = Family::of(net.addr());
        let missing = || Rejection::NoSubnetFor { given: text.clone(), network: network.name.clone(), family };
        let old = network.subnet(family).ok_or_else(missing)?;
        if chosen.iter().any(|(other, _)| other.family() == family) {
            return Err(Rejection::TwoOfAFamily { what: "subnets", family });
        }
        chosen.push((old.clone(), net));
    }
    Ok(chosen)
}

/// The same subnet elsewhere. In a smaller one nothing has its number.
fn moved(old: &Subnet, net: IpNet) -> Subnet {
    if net.prefix_len() > old.subnet.prefix_len() {
        let gateway = ipam::first_address(&net);
        let gateway_mode = old.gateway_mode;
        let (ip_range, aux_addresses, last_given, freed) = (None, Default::default(), None, Default::default());
        return Subnet { subnet: net, gateway, ip_range, aux_addresses, last_given, freed, gateway_mode };
    }
    let at = |address: IpAddr| ipam::transplanted(&old.subnet, address, &net);
    Subnet {
        subnet: net,
        gateway: at(old.gateway),
        ip_range: old.ip_range.map(|range| IpNet::new_assert(at(range.network()), range.prefix_len())),
        aux_addresses: old.aux_addresses.iter().map(|(key, address)| (key.clone(), at(*address))).collect(),
        last_given: old.last_given.map(at),
        freed: old.freed.iter().copied().map(at).collect(),
        gateway_mode: old.gateway_mode,
    }
}

/// Gives an endpoint its address of the family in the moved network; the one it had.
fn readdress(
    model: &mut Model,
    name: &Name,
    endpoint: &Name,
    old: IpNet,
    family: Family,
) -> Result<Option<IpAddr>, Rejection> {
    let attachment = |model: &Model| {
        let found = model.attachments_of(name).find(|(other, _)| other.name == *endpoint);
        found.and_then(|(_, attachment)| attachment.address(family))
    };
    let Some(before) = attachment(model).filter(|address| old.contains(address)) else { return Ok(None) };
    let network = model.network(name)?;
    let Some(subnet) = network.subnet(family) else { return Ok(None) };
    let after = if subnet.subnet.prefix_len() <= old.prefix_len() {
        ipam::transplanted(&old, before, &subnet.subnet)
    } else {
        let users =
            model.attachments_of(name).flat_map(|(other, at)| at.addresses().map(|ip| (ip, other.name.to_string())));
        free_address(network, subnet, &users.filter(|(ip, _)| subnet.subnet.contains(ip)).collect())?
    };
    let endpoints = model.endpoint_mut(endpoint).into_iter();
    let attachments = endpoints.flat_map(|endpoint| &mut endpoint.attachments).filter(|at| at.network == *name);
    for attachment in attachments {
        match after {
            IpAddr::V4(ip) => attachment.ip = Some(ip),
            IpAddr::V6(ip) => attachment.ip6 = Some(ip),
        }
    }
    Ok(Some(before))
}
