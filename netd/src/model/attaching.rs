//! Endpoints: attached to networks, their ports published, and gone again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use netd_common::tuple::Mac;
use rand::RngCore;

use super::{
    Attachment, Driver, Endpoint, Mode, Model, Name, NetSpec, Network, PortPublication, PortSpec, ProcessMark,
    Published, Rejection, Subnet, allowances,
    mac::format_mac,
    networks::{fresh_id, fresh_mac},
};
use crate::{
    ipam::{self, Pool},
    reconcile::{Family, LinkName, Sandbox},
};

/// Ports that a Linux bridge has (`BR_PORT_BITS` is 10, and 0 is none).
const BRIDGE_PORTS: usize = 1023;
/// Endpoints that are ports of one bridge of a network. What is left of its first is for what joins the others to it.
const ENDPOINTS: usize = 1000;

/// The longest range of ports that every host publishes: each of them is taken from every host's own programs.
const LONGEST_MESH: u16 = 1024;

/// A checked wish for an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachOrder {
    /// Its name.
    pub name: Name,
    /// Its network namespace.
    pub sandbox: Sandbox,
    /// Whose that is.
    pub mode: Mode,
    /// Whether `netd run` made the namespace.
    pub netns_made: bool,
    /// The process it stands for.
    pub process: Option<ProcessMark>,
    /// What runs in it.
    pub command: Vec<String>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// The networks it joins, in order.
    pub joining: Joining,
    /// DNS servers for what is no name of its networks.
    pub dns: Vec<IpAddr>,
}

/// The networks that an endpoint joins, and the interfaces that its namespace has before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Joining {
    /// In order: the first is `eth0`.
    pub specs: Vec<NetSpec>,
    /// Names that are taken.
    pub interfaces: BTreeSet<LinkName>,
    /// Addresses that containers of other hosts have in the networks of those, and whose they are.
    pub elsewhere: BTreeMap<Name, BTreeMap<IpAddr, String>>,
}

/// Makes an endpoint with all of its attachments, nothing published yet.
pub fn attach(model: &mut Model, order: AttachOrder, now: u64, rng: &mut dyn RngCore) -> Result<(), Rejection> {
    if model.endpoints.contains_key(&order.name) {
        return Err(Rejection::EndpointExists(order.name));
    }
    let attachments = joined(model, order.joining, rng)?;
    let endpoint = Endpoint {
        name: order.name.clone(),
        id: fresh_id(rng, |id| model.endpoints.values().any(|other| other.id == id)),
        netns: order.sandbox.path,
        netns_inode: order.sandbox.inode,
        netns_made: order.netns_made,
        mode: order.mode,
        process: order.process,
        command: order.command,
        labels: order.labels,
        attachments,
        publications: Vec::new(),
        allows: BTreeSet::new(),
        dns: order.dns,
        created: now,
    };
    model.endpoints.insert(order.name, Arc::new(endpoint));
    Ok(())
}

/// Takes an endpoint away, and returns what it was.
pub fn detach(model: &mut Model, name: &Name) -> Result<Endpoint, Rejection> {
    allowances::forget(model, name);
    let gone = model.endpoints.remove(name).ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))?;
    note_freed(&mut model.networks, &gone.attachments);
    Ok(Arc::unwrap_or_clone(gone))
}

/// Notes that the addresses which `failed` has given, and which are nobody's here, may have been heard of.
pub fn note_given_in_vain(model: &mut Model, failed: &Model) {
    for (name, endpoint) in &failed.endpoints {
        let here = model.endpoints.get(name).map_or(&[][..], |here| &here.attachments);
        let is_here = |attachment: &&Attachment| here.iter().any(|other| other.id == attachment.id);
        note_freed(&mut model.networks, endpoint.attachments.iter().filter(|attachment| !is_here(attachment)));
    }
}

/// Notes that the addresses of these are nobody's any more.
pub(super) fn note_freed<'a>(networks: &mut BTreeMap<Name, Network>, gone: impl IntoIterator<Item = &'a Attachment>) {
    for attachment in gone {
        if let Some(network) = networks.get_mut(&attachment.network) {
            network.note_freed(attachment.addresses());
        }
    }
}

/// Where a specification publishes its ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The address that clients come to: of the host, the unspecified one for each of its family, or the container's own.
    pub address: IpAddr,
    /// Whether it is the container's own. Then nothing of the host's is taken, its port neither.
    pub direct: bool,
}

/// The places of a specification that every host of the cluster publishes: every address of each family in which the endpoint has a
/// way out, which must be by a network of theirs, for answers go back by it.
pub fn mesh_places(model: &Model, name: &Name, spec: &PortSpec) -> Result<Vec<Place>, Rejection> {
    if let Some(ip) = spec.host_ip {
        return Err(Rejection::MeshAtAddress { ip, spec: spec.text.clone() });
    }
    if spec.count > LONGEST_MESH {
        return Err(Rejection::MeshTooLong { count: spec.count, most: LONGEST_MESH, spec: spec.text.clone() });
    }
    let endpoint = model.endpoint(name)?;
    let places = places(model, name, spec, &[])?;
    for place in &places {
        let Some((network, _)) = model.way_out(endpoint, Family::of(place.address)) else { continue };
        let spans = matches!(network.driver, Driver::Overlay(_));
        if !spans || place.direct {
            let (endpoint, network, family) = (name.clone(), network.name.clone(), Family::of(place.address));
            let why = if spans { "is routed" } else { "is of this host alone" };
            return Err(Rejection::NotOfMesh { endpoint, network, family, why });
        }
    }
    Ok(places)
}

/// The places of a specification, of each family at most one: without an address of the host every family in which the
/// endpoint has a way out, at the address that is `usual` there; where some are and none of a family, nothing of that one.
pub fn places(model: &Model, name: &Name, spec: &PortSpec, usual: &[IpAddr]) -> Result<Vec<Place>, Rejection> {
    spec.supported()?;
    let endpoint = model.endpoint(name)?;
    let families = spec.host_ip.map_or(Family::BOTH.to_vec(), |ip| vec![Family::of(ip)]);
    let place = |family: Family| {
        let (network, attachment) = model.way_out(endpoint, family)?;
        let own = attachment.address(family).filter(|_| network.subnet(family).is_some_and(Subnet::is_routed));
        if let (None, Some(address)) = (spec.host_ip, own) {
            return Some(Place { address, direct: true });
        }
        let usual = || match usual {
            [] => Some(family.unspecified()),
            usual => usual.iter().copied().find(|address| Family::of(*address) == family),
        };
        Some(Place { address: spec.host_ip.or_else(usual)?, direct: false })
    };
    let places: Vec<_> = families.iter().copied().filter_map(place).collect();
    match spec.host_ip {
        _ if !places.is_empty() => Ok(places),
        Some(ip) => {
            let (endpoint, family, spec) = (name.clone(), Family::of(ip), spec.text.clone());
            Err(Rejection::NoAddress { endpoint, family, spec })
        }
        None => Err(Rejection::NoWayOut(name.clone())),
    }
}

/// What of a specification is ignored: a port of the host, where clients come to the container's own address.
pub fn ignored(model: &Model, name: &Name, spec: &PortSpec) -> Vec<String> {
    let (Ok(endpoint), Some(port), None) =
        (model.endpoint(name), spec.host_port.or(spec.among.map(|(first, _)| first)), spec.host_ip)
    else {
        return Vec::new();
    };
    let routed = |family: Family| {
        let (network, attachment) = model.way_out(endpoint, family)?;
        network.subnet(family).filter(|subnet| subnet.is_routed())?;
        let at = SocketAddr::new(attachment.address(family)?, spec.port);
        let name = &network.name;
        Some(format!("network {name} is routed in {family}: port {port} of the host is ignored, clients come to {at}"))
    };
    Family::BOTH.into_iter().filter_map(routed).collect()
}

/// Opens ports to an endpoint, or those that it has already to others than before.
pub fn publish(model: &mut Model, name: &Name, ports: &[PortPublication]) -> Result<(), Rejection> {
    let mut published = Published::of(model);
    let endpoint = model.endpoint_mut(name)?;
    for wish in ports {
        if let Some(rejection) = published.conflict(name, wish) {
            return Err(rejection);
        }
        if published.has(name, wish) {
            for there in endpoint.publications.iter_mut().filter(|p| p.is_same_place(wish)) {
                there.from.clone_from(&wish.from);
                there.mesh = wish.mesh;
            }
        } else {
            endpoint.publications.push(wish.clone());
        }
        published.note(name, wish);
    }
    Ok(())
}

/// Moves what an endpoint opens at its own address to the address that it has.
pub fn follow_way_out(model: &mut Model, name: &Name) {
    let Some(endpoint) = model.endpoints.get(name) else { return };
    let own =
        Family::BOTH.map(|family| (family, model.way_out(endpoint, family).and_then(|(_, at)| at.address(family))));
    let publications = model.endpoint_mut(name).into_iter().flat_map(|endpoint| &mut endpoint.publications);
    for publication in publications.filter(|publication| publication.direct) {
        let address = own.iter().find(|(family, _)| *family == publication.family()).and_then(|(_, address)| *address);
        publication.host_ip = address.unwrap_or(publication.host_ip);
    }
}

/// Places in the networks of `joining`, in order.
pub(super) fn joined(model: &mut Model, joining: Joining, rng: &mut dyn RngCore) -> Result<Vec<Attachment>, Rejection> {
    let mut interfaces = joining.interfaces;
    for spec in &joining.specs {
        if let Some(wish) = &spec.ifname
            && !interfaces.insert(wish.clone())
        {
            return Err(Rejection::InterfaceTaken(wish.to_string()));
        }
    }
    let elsewhere = joining.elsewhere;
    let mut attachments: Vec<Attachment> = Vec::new();
    for spec in joining.specs {
        if attachments.iter().any(|attachment| attachment.network == spec.network) {
            return Err(Rejection::TwiceInNetwork(spec.network));
        }
        let ifname = spec.ifname.clone().unwrap_or_else(|| next_interface(model, &spec.network, &mut interfaces));
        let (mac, addresses) = addresses(model, &spec, elsewhere.get(&spec.network), rng)?;
        let mut attachment = Attachment {
            id: String::new(),
            network: spec.network.clone(),
            ip: None,
            ip6: None,
            mac,
            ifname,
            aliases: spec.aliases.clone(),
            gw_priority: spec.gw_priority.unwrap_or(0),
            bridge: bridge_with_room(model, &spec.network)?,
        };
        for address in addresses {
            match address {
                IpAddr::V4(ip) => attachment.ip = Some(ip),
                IpAddr::V6(ip) => attachment.ip6 = Some(ip),
            }
            let given = spec.address(Family::of(address)).is_none();
            let subnets = model.networks.get_mut(&spec.network).into_iter().flat_map(|network| &mut network.subnets);
            for subnet in subnets.filter(|subnet| subnet.family() == Family::of(address)) {
                subnet.note_given(address, given);
            }
        }
        let taken = |id: &str| {
            let known = model.endpoints.values().flat_map(|endpoint| &endpoint.attachments).chain(&attachments);
            known.into_iter().any(|other| other.id == id[..8])
        };
        attachment.id = fresh_id(rng, taken)[..8].to_owned();
        attachments.push(attachment);
    }
    Ok(attachments)
}

/// The first of a network's bridges that has room, made if need be.
fn bridge_with_room(model: &Model, network: &Name) -> Result<u8, Rejection> {
    let mut taken = [0; BRIDGE_PORTS - ENDPOINTS + 1];
    for (_, attachment) in model.attachments_of(network) {
        if let Some(endpoints) = taken.get_mut(usize::from(attachment.bridge)) {
            *endpoints += 1;
        }
    }
    // A network of an earlier version may have more on its first.
    let bridges = 1 + BRIDGE_PORTS - taken[0].clamp(ENDPOINTS, BRIDGE_PORTS);
    let full = || Rejection::NetworkFull { network: network.clone(), endpoints: taken.iter().sum() };
    let found = taken.iter().take(bridges).position(|endpoints| *endpoints < ENDPOINTS);
    found.and_then(|number| number.try_into().ok()).ok_or_else(full)
}

/// The next name of `eth0`, `eth1`, …, or what the network has in place of `eth`, that is free, taken.
fn next_interface(model: &Model, network: &Name, taken: &mut BTreeSet<LinkName>) -> LinkName {
    let prefix = model.networks.get(network).and_then(|network| network.ifname_prefix.as_deref()).unwrap_or("eth");
    let mut names = (0..).filter_map(|n: u32| LinkName::new(format!("{prefix}{n}")));
    let free = names.find(|name| !taken.contains(name)).unwrap_or_else(|| unreachable!("names do not run out"));
    taken.insert(free.clone());
    free
}

/// A link-layer address and an address of each of the network's families.
fn addresses(
    model: &Model,
    spec: &NetSpec,
    elsewhere: Option<&BTreeMap<IpAddr, String>>,
    rng: &mut dyn RngCore,
) -> Result<(Mac, Vec<IpAddr>), Rejection> {
    let network = model.network(&spec.network)?;
    for family in Family::BOTH {
        if let (Some(given), None) = (spec.address(family), network.subnet(family)) {
            return Err(Rejection::NoSubnetFor { given: given.to_string(), network: network.name.clone(), family });
        }
    }
    let macs: BTreeMap<_, _> = model
        .attachments_of(&network.name)
        .map(|(endpoint, at)| (at.mac, endpoint.name.to_string()))
        .chain([(network.mac, "its bridge".to_owned())])
        .collect();
    let mac = match spec.mac {
        Some(mac) => match macs.get(&mac) {
            Some(by) => {
                let (mac, network) = (format_mac(mac), network.name.clone());
                return Err(Rejection::MacTaken { mac, network, by: by.clone() });
            }
            None => mac,
        },
        None => std::iter::repeat_with(|| fresh_mac(rng))
            .find(|mac| !macs.contains_key(mac))
            .unwrap_or_else(|| unreachable!("chance does not run out")),
    };
    let here = model
        .attachments_of(&network.name)
        .flat_map(|(endpoint, at)| at.addresses().map(|address| (address, endpoint.name.to_string())));
    let elsewhere = elsewhere.into_iter().flatten().map(|(address, whose)| (*address, whose.clone()));
    let users: BTreeMap<IpAddr, String> = elsewhere.chain(here).collect();
    let addresses = network.subnets.iter().map(|subnet| match spec.address(subnet.family()) {
        Some(ip) => asked_for(network, subnet, ip, &users),
        None => free_address(network, subnet, &users),
    });
    Ok((mac, addresses.collect::<Result<_, _>>()?))
}

fn asked_for(
    network: &Network,
    subnet: &Subnet,
    ip: IpAddr,
    users: &BTreeMap<IpAddr, String>,
) -> Result<IpAddr, Rejection> {
    let reserved = |what: String| Rejection::ReservedAddress { address: ip, what, network: network.name.clone() };
    if !subnet.subnet.contains(&ip) {
        return Err(Rejection::OutsideSubnet { what: "address", given: ip.to_string(), subnet: subnet.subnet });
    }
    if let Some(what) = ipam::meaning(&subnet.subnet, ip) {
        return Err(reserved(what.to_owned()));
    }
    if ip == subnet.gateway {
        return Err(reserved("the gateway".to_owned()));
    }
    if let Some((key, _)) = subnet.aux_addresses.iter().find(|(_, aux)| **aux == ip) {
        return Err(reserved(format!("the auxiliary address {key}")));
    }
    match users.get(&ip) {
        Some(by) => Err(Rejection::AddressTaken { address: ip, network: network.name.clone(), by: by.clone() }),
        None => Ok(ip),
    }
}

pub(super) fn free_address(
    network: &Network,
    subnet: &Subnet,
    users: &BTreeMap<IpAddr, String>,
) -> Result<IpAddr, Rejection> {
    let taken: BTreeSet<IpAddr> =
        users.keys().chain(subnet.aux_addresses.values()).chain([&subnet.gateway]).copied().collect();
    let range = subnet.range();
    let pool = Pool { subnet: subnet.subnet, range, taken: &taken, last: subnet.last_given, freed: &subnet.freed };
    pool.next().ok_or_else(|| {
        let inside = users.iter().filter(|(ip, _)| range.contains(*ip)).map(|(_, name)| name.clone());
        let others = [(subnet.gateway, "the gateway".to_owned())]
            .into_iter()
            .chain(subnet.aux_addresses.iter().map(|(key, ip)| (*ip, format!("the auxiliary address {key}"))));
        let others = others.filter(|(ip, _)| range.contains(ip)).map(|(_, what)| what);
        Rejection::PoolExhausted { pool: range, network: network.name.clone(), users: inside.chain(others).collect() }
    })
}

/// The path of the network namespace of a process.
pub fn netns_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}
