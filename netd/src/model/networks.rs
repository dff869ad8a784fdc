//! Networks: made from what the user gave, the rest chosen; removed when nobody is in them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use netd_common::tuple::Mac;
use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};

use super::{DEFAULT_NETWORK, Model, Name, Network, Options, Rejection, mode::RESERVED, mtu};
use crate::{ipam, reconcile::HostFacts};

/// A wish for a network, as it comes in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkOrder {
    /// Its name.
    pub name: String,
    /// `bridge`, also where it is not given.
    pub driver: Option<String>,
    /// Its subnet; a free one where it is not given.
    pub subnet: Option<String>,
    /// The bridge's address; the first one where it is not given.
    pub gateway: Option<String>,
    /// Where automatic addresses come from.
    pub ip_range: Option<String>,
    /// Addresses never to be given out, by name.
    pub aux_addresses: BTreeMap<String, String>,
    /// No way out.
    pub internal: bool,
    /// In bytes.
    pub mtu: Option<u32>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// As [`Options`] reads them.
    pub options: BTreeMap<String, String>,
    /// Insist on a subnet that the host has a route into.
    pub force: bool,
}

/// Makes a network.
pub fn create_network(
    model: &mut Model,
    order: &NetworkOrder,
    facts: &HostFacts,
    now: u64,
    rng: &mut dyn RngCore,
) -> Result<Name, Rejection> {
    let name: Name = order.name.parse()?;
    if RESERVED.contains(&name.as_str()) {
        return Err(Rejection::ReservedName(name));
    }
    if model.networks.contains_key(&name) {
        return Err(Rejection::NetworkExists(name));
    }
    if let Some(driver) = order.driver.as_deref().filter(|driver| *driver != "bridge") {
        return Err(Rejection::Unsupported(format!("driver {driver}")));
    }
    let subnet = match &order.subnet {
        Some(text) => given_subnet(model, text, facts, order.force)?,
        None => automatic_subnet(model, facts)?,
    };
    let (gateway, ip_range, aux_addresses) = within(&name, subnet, order)?;
    let options = Options::read(&order.options)?;
    if order.mtu.is_some() && options.mtu.is_some() {
        return Err(Rejection::MtuTwice);
    }
    let mtu = order.mtu.or(options.mtu);
    let network = Network {
        name: name.clone(),
        id: fresh_id(rng, |id| model.networks.values().any(|other| other.id[..8] == id[..8])),
        zone: free_zone(model)?,
        subnet,
        gateway,
        ip_range,
        aux_addresses,
        internal: order.internal,
        mtu: mtu.map_or(Ok(mtu::found(facts)), mtu::checked)?,
        mtu_follows: mtu.is_none(),
        ifname_prefix: options.ifname_prefix,
        options: order.options.clone(),
        labels: order.labels.clone(),
        mac: fresh_mac(rng),
        last_given: None,
        created: now,
    };
    model.networks.insert(name.clone(), network);
    Ok(name)
}

/// Makes the network that endpoints join which name none, if it is not there.
pub fn ensure_default_network(
    model: &mut Model,
    facts: &HostFacts,
    now: u64,
    rng: &mut dyn RngCore,
) -> Result<Name, Rejection> {
    let name: Name = DEFAULT_NETWORK.parse()?;
    if model.networks.contains_key(&name) {
        return Ok(name);
    }
    let order = NetworkOrder { name: DEFAULT_NETWORK.to_owned(), ..Default::default() };
    create_network(model, &order, facts, now, rng)
}

/// Takes a network away that nobody is in.
pub fn remove_network(model: &mut Model, name: &Name) -> Result<(), Rejection> {
    model.network(name)?;
    let mut endpoints: Vec<Name> = model.attachments_of(name).map(|(endpoint, _)| endpoint.name.clone()).collect();
    endpoints.dedup();
    if !endpoints.is_empty() {
        return Err(Rejection::NetworkInUse { network: name.clone(), endpoints });
    }
    model.networks.remove(name);
    Ok(())
}

/// A random link-layer address: locally administered, of one station.
pub fn fresh_mac(rng: &mut dyn RngCore) -> Mac {
    let mut bytes: [u8; 6] = rng.random();
    bytes[0] = (bytes[0] & 0b1111_1100) | 0b10;
    Mac(bytes)
}

/// Twelve random hexadecimal digits that are not `taken`.
pub fn fresh_id(rng: &mut dyn RngCore, taken: impl Fn(&str) -> bool) -> String {
    loop {
        let id = format!("{:012x}", rng.next_u64() & 0xffff_ffff_ffff);
        if !taken(&id) {
            return id;
        }
    }
}

fn given_subnet(model: &Model, text: &str, facts: &HostFacts, force: bool) -> Result<Ipv4Net, Rejection> {
    if matches!(text.parse(), Ok(IpNet::V6(_))) {
        return Err(Rejection::Unsupported(format!("IPv6 (subnet {text})")));
    }
    let malformed = || Rejection::Malformed { given: text.to_owned(), wanted: "a subnet like 10.1.2.0/24" };
    let given: Ipv4Net = text.parse().map_err(|_| malformed())?;
    let subnet = given.trunc();
    if subnet != given {
        return Err(Rejection::HostBits { given, right: subnet });
    }
    let first = subnet.network();
    let unfit = |why| Err(Rejection::UnfitSubnet { subnet, why });
    if subnet.prefix_len() < 8 {
        return unfit("it is larger than a /8");
    }
    if first.is_loopback() || first.octets()[0] == 0 || first.octets()[0] >= 224 {
        return unfit("its addresses are not those of single hosts");
    }
    if let Some(other) = model.networks.values().find(|network| ipam::overlap(&network.subnet, &subnet)) {
        return Err(Rejection::OverlapsNetwork { subnet, network: other.name.clone(), theirs: other.subnet });
    }
    match routes(facts).find(|(route, _)| ipam::overlap(route, &subnet)) {
        Some((route, device)) if !force => {
            Err(Rejection::OverlapsRoute { subnet, route: route.into(), device: device.to_owned() })
        }
        _ => Ok(subnet),
    }
}

fn automatic_subnet(model: &Model, facts: &HostFacts) -> Result<Ipv4Net, Rejection> {
    let ours = model.networks.values().map(|network| (network.subnet, format!("network {}", network.name)));
    let theirs = routes(facts).map(|(route, device)| (route, format!("route {route} by {device}")));
    let taken: Vec<_> = ours.chain(theirs).collect();
    let avoid: Vec<_> = taken.iter().map(|(net, _)| *net).collect();
    ipam::free_subnet(&avoid).ok_or_else(|| {
        let in_the_way = taken.into_iter().filter(|(net, _)| ipam::overlap(net, &ipam::AUTOMATIC));
        Rejection::NoFreeSubnet { pool: ipam::AUTOMATIC, users: in_the_way.map(|(_, user)| user).collect() }
    })
}

/// The host's IPv4 routes that say something about who is where. A half of the address space says as little as a default
/// route: VPNs use the two halves in its place.
pub fn routes(facts: &HostFacts) -> impl Iterator<Item = (Ipv4Net, &str)> {
    facts.routes.iter().filter_map(|(route, device)| match route {
        IpNet::V4(route) if route.prefix_len() > 1 => Some((route.trunc(), device.as_str())),
        _ => None,
    })
}

type Within = (Ipv4Addr, Option<Ipv4Net>, BTreeMap<String, Ipv4Addr>);

/// Gateway, range and auxiliary addresses, each inside of the subnet.
fn within(name: &Name, subnet: Ipv4Net, order: &NetworkOrder) -> Result<Within, Rejection> {
    let address = |what: &'static str, text: &str| {
        let wanted = "an IPv4 address";
        let address: Ipv4Addr = text.parse().map_err(|_| Rejection::Malformed { given: text.to_owned(), wanted })?;
        if !subnet.contains(&address) {
            return Err(Rejection::OutsideSubnet { what, given: text.to_owned(), subnet });
        }
        match ipam::meaning(&subnet, address) {
            Some(what) => Err(Rejection::ReservedAddress { address, what: what.to_owned(), network: name.clone() }),
            None => Ok(address),
        }
    };
    let mut aux = BTreeMap::new();
    for (key, text) in &order.aux_addresses {
        aux.insert(key.clone(), address("auxiliary address", text)?);
    }
    let gateway = match &order.gateway {
        Some(text) => address("gateway", text)?,
        None => ipam::first_address(&subnet),
    };
    if let Some((key, _)) = aux.iter().find(|(_, address)| **address == gateway) {
        let what = format!("the auxiliary address {key}");
        return Err(Rejection::ReservedAddress { address: gateway, what, network: name.clone() });
    }
    let range = order.ip_range.as_ref().map(|text| range_within(subnet, text)).transpose()?;
    Ok((gateway, range, aux))
}

fn range_within(subnet: Ipv4Net, text: &str) -> Result<Ipv4Net, Rejection> {
    let malformed = || Rejection::Malformed { given: text.to_owned(), wanted: "a range like 10.1.2.128/25" };
    let given: Ipv4Net = text.parse().map_err(|_| malformed())?;
    let range = given.trunc();
    if range != given {
        return Err(Rejection::HostBits { given, right: range });
    }
    if !subnet.contains(&range) {
        return Err(Rejection::OutsideSubnet { what: "range", given: text.to_owned(), subnet });
    }
    Ok(range)
}

fn free_zone(model: &Model) -> Result<u16, Rejection> {
    (1..=u16::MAX)
        .find(|zone| model.networks.values().all(|network| network.zone != *zone))
        .ok_or(Rejection::NoFreeZone)
}
