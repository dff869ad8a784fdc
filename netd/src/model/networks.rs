//! Networks: made from what the user gave, the rest chosen; removed when nobody is in them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netd_common::tuple::{Mac, Zone};
use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};

use super::{
    DEFAULT_NETWORK, Driver, GatewayMode, Model, Name, Network, Options, Rejection, Segment, Subnet,
    conflicts::UsedElsewhere,
    gateway::{self, ModeWish},
    mode::RESERVED,
    mtu, segment, snat, sources,
    subnets::{apart, automatic_subnet, given_subnet, parse_net},
};
use crate::{
    ipam::{self, Pools},
    reconcile::{Family, HostFacts},
};

/// A wish for a network, as it comes in. What is given is told apart by its family.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkOrder {
    /// Its name.
    pub name: String,
    /// `bridge`, also where it is not given, `overlay` or `vxlan`.
    pub driver: Option<String>,
    /// Of driver vxlan: the segment.
    pub vni: Option<u32>,
    /// Of driver vxlan: the other hosts of the segment.
    pub peers: Vec<String>,
    /// Of driver vxlan: the UDP port, 4789 where it is not given.
    pub vxlan_port: Option<u16>,
    /// Of driver overlay: encrypted between hosts.
    pub encrypted: bool,
    /// Its subnets, at most one of a family; a free IPv4 one where none is given.
    pub subnets: Vec<String>,
    /// Both families: what is not among the subnets is chosen.
    pub ipv6: bool,
    /// The bridge's addresses; the first one of a subnet where it is not given.
    pub gateways: Vec<String>,
    /// Where automatic addresses come from.
    pub ip_ranges: Vec<String>,
    /// Addresses never to be given out, by name.
    pub aux_addresses: BTreeMap<String, String>,
    /// What its containers leave as, at most one address of a family.
    pub snat_ips: Vec<String>,
    /// No way out.
    pub internal: bool,
    /// What its gateways do: `MODE` of each family, `ipv4=MODE` and `ipv6=MODE` of one.
    pub gateway_modes: Vec<String>,
    /// Its containers reach one another only as somebody allows.
    pub no_icc: bool,
    /// What leaves keeps its address.
    pub no_masquerade: bool,
    /// In bytes.
    pub mtu: Option<u32>,
    /// Servers for what is no name of its own.
    pub dns: Vec<String>,
    /// Who may come to its containers' ports that say nothing of it.
    pub from: Vec<String>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// As [`Options`] reads them.
    pub options: BTreeMap<String, String>,
    /// Insist on a subnet that the host or, of driver overlay, another node uses.
    pub force: bool,
}

/// What a network is made on.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// What the host has.
    pub facts: &'a HostFacts,
    /// Where automatic subnets come from.
    pub pools: &'a Pools,
    /// The segment that the cluster gives a network of driver overlay; `None` without a cluster.
    pub segment: Option<&'a Segment>,
    /// What other hosts use, which are to have the network too.
    pub elsewhere: &'a [UsedElsewhere],
    /// Subnets of networks of all nodes that are not on this host: they come when they can.
    pub absent: &'a [(Name, IpNet)],
}

/// Makes a network.
pub fn create_network(
    model: &mut Model,
    order: &NetworkOrder,
    on: Surroundings<'_>,
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
    let driver = segment::driver(model, order, on)?;
    let options = Options::read(&order.options)?;
    if order.mtu.is_some() && options.mtu.is_some() {
        return Err(Rejection::MtuTwice);
    }
    let ipv6 = order.ipv6 || options.ipv6;
    let mut subnets = subnets(model, &name, &NetworkOrder { ipv6, ..order.clone() }, on)?;
    gateway::set_modes(&mut subnets, &modes(order, &options)?, order.internal)?;
    let snat_ips: Vec<String> = order.snat_ips.iter().chain(&options.host_ips).cloned().collect();
    let no_masquerade = order.no_masquerade || options.no_masquerade;
    if let Some(address) = snat_ips.first().filter(|_| no_masquerade) {
        return Err(Rejection::LeavesAs(address.clone()));
    }
    let no_icc = order.no_icc || options.no_icc;
    if no_icc && matches!(driver, Driver::Vxlan(_)) {
        // Nobody here knows who the containers of other hosts are.
        return Err(Rejection::NotOfDriver { option: "--no-icc", driver: "vxlan" });
    }
    let mtu = order.mtu.or(options.mtu);
    let network = Network {
        name: name.clone(),
        id: fresh_id(rng, |id| model.networks.values().any(|other| other.id[..8] == id[..8])),
        zone: free_zone(model)?,
        mtu: mtu::chosen(mtu, &subnets, &driver, on.facts)?,
        snat_ips: snat::sources(&snat_ips, &subnets)?,
        subnets,
        internal: order.internal,
        no_icc,
        no_masquerade,
        mtu_follows: mtu.is_none(),
        ifname_prefix: options.ifname_prefix,
        options: order.options.clone(),
        dns: servers(&order.dns)?,
        from: sources::read(&order.from)?,
        labels: order.labels.clone(),
        mac: driver.segment().map_or_else(|| fresh_mac(rng), Segment::gateway_mac),
        driver,
        created: now,
    };
    model.networks.insert(name.clone(), network);
    Ok(name)
}

/// What was asked of gateways, by word and by option.
fn modes(order: &NetworkOrder, options: &Options) -> Result<Vec<ModeWish>, Rejection> {
    if options.inhibit_ipv4 && !order.internal {
        return Err(Rejection::IsolatedWayOut);
    }
    let inhibited = options.inhibit_ipv4.then_some(ModeWish { family: Some(Family::V4), mode: GatewayMode::Isolated });
    let given = order.gateway_modes.iter().map(|text| text.parse());
    given.chain(options.gateway_modes.iter().copied().chain(inhibited).map(Ok)).collect()
}

/// Puts a network that another host has made on this one, with a zone and an MTU of its own: `mtu`, or what its routes have.
pub fn adopt_network(
    model: &mut Model,
    mut network: Network,
    mtu: Option<u32>,
    facts: &HostFacts,
) -> Result<(), Rejection> {
    if model.networks.contains_key(&network.name) {
        return Err(Rejection::NetworkExists(network.name));
    }
    for Subnet { subnet, .. } in &network.subnets {
        apart(model, *subnet)?;
    }
    let vni = |network: &Network| network.driver.segment().map(|segment| segment.vni);
    if let (Some(vni), Some(other)) = (vni(&network), model.networks.values().find(|other| vni(other) == vni(&network)))
    {
        return Err(Rejection::VniTaken { vni, network: other.name.clone() });
    }
    network.zone = free_zone(model)?;
    (network.mtu, network.mtu_follows) = (mtu::chosen(mtu, &network.subnets, &network.driver, facts)?, mtu.is_none());
    model.networks.insert(network.name.clone(), network);
    Ok(())
}

/// Addresses of DNS servers.
pub fn servers(texts: &[String]) -> Result<Vec<IpAddr>, Rejection> {
    let server = |text: &String| {
        let malformed = || Rejection::Malformed { given: text.clone(), wanted: "the address of a DNS server" };
        text.parse().map_err(|_| malformed())
    };
    texts.iter().map(server).collect()
}

/// Makes the network that endpoints join which name none, as `order` says, if it is not there.
pub fn ensure_default_network(
    model: &mut Model,
    order: &NetworkOrder,
    on: Surroundings<'_>,
    now: u64,
    rng: &mut dyn RngCore,
) -> Result<Name, Rejection> {
    let name: Name = DEFAULT_NETWORK.parse()?;
    if model.networks.contains_key(&name) {
        return Ok(name);
    }
    create_network(model, order, on, now, rng)
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

/// The subnets of a network to be made, IPv4 first, with what is in them.
fn subnets(model: &Model, name: &Name, order: &NetworkOrder, on: Surroundings<'_>) -> Result<Vec<Subnet>, Rejection> {
    let mut nets: BTreeMap<Family, IpNet> = BTreeMap::new();
    for text in &order.subnets {
        let subnet = given_subnet(model, text, on, order.force)?;
        let family = Family::of(subnet.addr());
        if nets.insert(family, subnet).is_some() {
            return Err(Rejection::TwoOfAFamily { what: "subnets", family });
        }
    }
    let wanted: &[Family] = match order.ipv6 {
        true => &Family::BOTH,
        false if nets.is_empty() => &[Family::V4],
        false => &[],
    };
    for family in wanted {
        if !nets.contains_key(family) {
            nets.insert(*family, automatic_subnet(model, on, *family)?);
        }
    }
    let mut subnets = Vec::from_iter(nets.values().map(|net| Subnet {
        subnet: *net,
        gateway: ipam::first_address(net),
        ip_range: None,
        aux_addresses: BTreeMap::new(),
        last_given: None,
        freed: Default::default(),
        gateway_mode: None,
    }));
    fill_in(&mut subnets, name, order)?;
    Ok(subnets)
}

/// Puts gateways, ranges and auxiliary addresses where they belong.
fn fill_in(subnets: &mut [Subnet], name: &Name, order: &NetworkOrder) -> Result<(), Rejection> {
    let mut gateways = BTreeMap::new();
    for text in &order.gateways {
        let gateway = parse_address(text)?;
        let subnet = subnet_for(subnets, name, "gateway", text, gateway)?;
        subnet.gateway = gateway;
        if gateways.insert(Family::of(gateway), gateway).is_some() {
            return Err(Rejection::TwoOfAFamily { what: "gateways", family: Family::of(gateway) });
        }
    }
    for text in &order.ip_ranges {
        let range = parse_net(text, "a range like 10.1.2.128/25")?;
        let subnet = subnet_of_family(subnets, name, text, range.addr())?;
        if !subnet.subnet.contains(&range) {
            return Err(Rejection::OutsideSubnet { what: "range", given: text.clone(), subnet: subnet.subnet });
        }
        if subnet.ip_range.replace(range).is_some() {
            return Err(Rejection::TwoOfAFamily { what: "ranges", family: Family::of(range.addr()) });
        }
    }
    for (key, text) in &order.aux_addresses {
        let address = parse_address(text)?;
        let subnet = subnet_for(subnets, name, "auxiliary address", text, address)?;
        if address == subnet.gateway {
            let what = format!("the auxiliary address {key}");
            return Err(Rejection::ReservedAddress { address, what, network: name.clone() });
        }
        subnet.aux_addresses.insert(key.clone(), address);
    }
    Ok(())
}

fn parse_address(text: &str) -> Result<IpAddr, Rejection> {
    text.parse().map_err(|_| Rejection::Malformed { given: text.to_owned(), wanted: "an IP address" })
}

/// The subnet in which `address` is one that a host can have.
fn subnet_for<'a>(
    subnets: &'a mut [Subnet],
    name: &Name,
    what: &'static str,
    given: &str,
    address: IpAddr,
) -> Result<&'a mut Subnet, Rejection> {
    let subnet = subnet_of_family(subnets, name, given, address)?;
    if !subnet.subnet.contains(&address) {
        return Err(Rejection::OutsideSubnet { what, given: given.to_owned(), subnet: subnet.subnet });
    }
    match ipam::meaning(&subnet.subnet, address) {
        Some(what) => Err(Rejection::ReservedAddress { address, what: what.to_owned(), network: name.clone() }),
        None => Ok(subnet),
    }
}

fn subnet_of_family<'a>(
    subnets: &'a mut [Subnet],
    name: &Name,
    given: &str,
    address: IpAddr,
) -> Result<&'a mut Subnet, Rejection> {
    let family = Family::of(address);
    let missing = || Rejection::NoSubnetFor { given: given.to_owned(), network: name.clone(), family };
    subnets.iter_mut().find(|subnet| subnet.family() == family).ok_or_else(missing)
}

fn free_zone(model: &Model) -> Result<u16, Rejection> {
    (1..=Zone::LAST_NETWORK.0)
        .find(|zone| model.networks.values().all(|network| network.zone != *zone))
        .ok_or(Rejection::NoFreeZone)
}
