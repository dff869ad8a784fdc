//! Endpoints: attached to networks, their ports published, and gone again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use rand::RngCore;

use super::{
    Attachment, Endpoint, Mode, Model, Name, NetSpec, Network, PortPublication, PortSpec, ProcessMark, Protocol,
    Rejection,
    mac::format_mac,
    networks::{fresh_id, fresh_mac},
};
use crate::{
    ipam::{self, Pool},
    reconcile::{LinkName, Sandbox},
};

/// Ports that a Linux bridge has (`BR_PORT_BITS` is 10, and 0 is none).
const BRIDGE_PORTS: usize = 1023;

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
    /// The ports it publishes.
    pub publications: Vec<PortPublication>,
}

/// The networks that an endpoint joins, and the interfaces that its namespace has before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Joining {
    /// In order: the first is `eth0`.
    pub specs: Vec<NetSpec>,
    /// Names that are taken.
    pub interfaces: BTreeSet<LinkName>,
}

/// Makes an endpoint with all of its attachments and publications.
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
        created: now,
    };
    model.endpoints.insert(order.name.clone(), endpoint);
    publish(model, &order.name, &order.publications)
}

/// Takes an endpoint away, and returns what it was.
pub fn detach(model: &mut Model, name: &Name) -> Result<Endpoint, Rejection> {
    model.endpoints.remove(name).ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))
}

/// Opens ports of the host to an endpoint.
pub fn publish(model: &mut Model, name: &Name, ports: &[PortPublication]) -> Result<(), Rejection> {
    if !ports.is_empty() && model.way_out(model.endpoint(name)?).is_none() {
        return Err(Rejection::NoWayOut(name.clone()));
    }
    for wish in ports {
        if let Some(rejection) = first_conflict(model, wish) {
            return Err(rejection);
        }
        let endpoint = model.endpoints.get_mut(name).ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))?;
        endpoint.publications.push(*wish);
    }
    Ok(())
}

/// Why these ports cannot be published: the first one that an endpoint has.
pub fn first_conflict(model: &Model, wish: &PortPublication) -> Option<Rejection> {
    model.endpoints.values().find_map(|endpoint| {
        let (theirs, port) = endpoint.publications.iter().find_map(|p| Some((p, p.clash(wish)?)))?;
        let address = theirs.host_ip.map_or("every address".to_owned(), |ip| ip.to_string());
        Some(Rejection::AlreadyPublished { port, protocol: wish.protocol, address, by: endpoint.name.clone() })
    })
}

/// Closes the ports that a specification names: what it leaves out matches anything.
pub fn unpublish(model: &mut Model, name: &Name, spec: &PortSpec) -> Result<PortPublication, Rejection> {
    let host_ip = supported(spec)?;
    let endpoint = model.endpoints.get_mut(name).ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))?;
    let named = |p: &PortPublication| {
        (p.port, p.count, p.protocol) == (spec.port, spec.count, spec.protocol)
            && (host_ip.is_none() || p.host_ip == host_ip)
            && spec.host_port.is_none_or(|port| p.host_port == port)
    };
    match endpoint.publications.iter().position(named) {
        Some(at) => Ok(endpoint.publications.remove(at)),
        None => Err(Rejection::NotPublished { endpoint: name.clone(), spec: spec.text.clone() }),
    }
}

/// The host's address of a specification that this version can do.
pub fn supported(spec: &PortSpec) -> Result<Option<Ipv4Addr>, Rejection> {
    let unsupported = |what: &str| Err(Rejection::Unsupported(format!("{what} in `{}`", spec.text)));
    if spec.protocol == Protocol::Sctp {
        return unsupported("sctp");
    }
    if !spec.from.is_empty() {
        return unsupported("from=");
    }
    match spec.host_ip {
        None => Ok(None),
        Some(IpAddr::V4(ip)) if ip.is_unspecified() => Ok(None),
        Some(IpAddr::V4(ip)) => Ok(Some(ip)),
        Some(IpAddr::V6(_)) => unsupported("an IPv6 address of the host"),
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
    let mut attachments: Vec<Attachment> = Vec::new();
    for spec in joining.specs {
        if attachments.iter().any(|attachment| attachment.network == spec.network) {
            return Err(Rejection::TwiceInNetwork(spec.network));
        }
        let ifname = spec.ifname.clone().unwrap_or_else(|| next_interface(model, &spec.network, &mut interfaces));
        let place = place(model, &spec, rng)?;
        if spec.ip.is_none()
            && let Some(network) = model.networks.get_mut(&spec.network)
        {
            network.last_given = Some(place.ip);
        }
        let taken = |id: &str| {
            let known = model.endpoints.values().flat_map(|endpoint| &endpoint.attachments).chain(&attachments);
            known.into_iter().any(|other| other.id == id[..8])
        };
        let id = fresh_id(rng, taken)[..8].to_owned();
        attachments.push(Attachment {
            id,
            network: spec.network,
            ip: place.ip,
            mac: place.mac,
            ifname,
            aliases: spec.aliases,
            gw_priority: spec.gw_priority.unwrap_or(0),
        });
    }
    Ok(attachments)
}

/// The next name of `eth0`, `eth1`, …, or what the network has in place of `eth`, that is free, taken.
fn next_interface(model: &Model, network: &Name, taken: &mut BTreeSet<LinkName>) -> LinkName {
    let prefix = model.networks.get(network).and_then(|network| network.ifname_prefix.as_deref()).unwrap_or("eth");
    let mut names = (0..).filter_map(|n: u32| LinkName::new(format!("{prefix}{n}")));
    let free = names.find(|name| !taken.contains(name)).unwrap_or_else(|| unreachable!("names do not run out"));
    taken.insert(free.clone());
    free
}

struct Place {
    ip: Ipv4Addr,
    mac: netd_common::tuple::Mac,
}

fn place(model: &Model, spec: &NetSpec, rng: &mut dyn RngCore) -> Result<Place, Rejection> {
    let network = model.network(&spec.network)?;
    let users: BTreeMap<Ipv4Addr, &Name> =
        model.attachments_of(&network.name).map(|(endpoint, at)| (at.ip, &endpoint.name)).collect();
    if users.len() >= BRIDGE_PORTS {
        return Err(Rejection::NetworkFull { network: network.name.clone(), ports: users.len() });
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
    let ip = match spec.ip {
        Some(ip) => asked_for(network, ip, &users)?,
        None => free_address(network, &users)?,
    };
    Ok(Place { ip, mac })
}

fn asked_for(network: &Network, ip: Ipv4Addr, users: &BTreeMap<Ipv4Addr, &Name>) -> Result<Ipv4Addr, Rejection> {
    let reserved = |what: String| Rejection::ReservedAddress { address: ip, what, network: network.name.clone() };
    if !network.subnet.contains(&ip) {
        return Err(Rejection::OutsideSubnet { what: "address", given: ip.to_string(), subnet: network.subnet });
    }
    if let Some(what) = ipam::meaning(&network.subnet, ip) {
        return Err(reserved(what.to_owned()));
    }
    if ip == network.gateway {
        return Err(reserved("the gateway".to_owned()));
    }
    if let Some((key, _)) = network.aux_addresses.iter().find(|(_, aux)| **aux == ip) {
        return Err(reserved(format!("the auxiliary address {key}")));
    }
    match users.get(&ip) {
        Some(by) => Err(Rejection::AddressTaken { address: ip, network: network.name.clone(), by: (*by).clone() }),
        None => Ok(ip),
    }
}

fn free_address(network: &Network, users: &BTreeMap<Ipv4Addr, &Name>) -> Result<Ipv4Addr, Rejection> {
    let taken: BTreeSet<Ipv4Addr> =
        users.keys().chain(network.aux_addresses.values()).chain([&network.gateway]).copied().collect();
    let range = network.ip_range.unwrap_or(network.subnet);
    Pool { subnet: network.subnet, range, taken: &taken, last: network.last_given }.next().ok_or_else(|| {
        let inside = users.iter().filter(|(ip, _)| range.contains(*ip)).map(|(_, name)| name.to_string());
        let others = [(network.gateway, "the gateway".to_owned())]
            .into_iter()
            .chain(network.aux_addresses.iter().map(|(key, ip)| (*ip, format!("the auxiliary address {key}"))));
        let others = others.filter(|(ip, _)| range.contains(ip)).map(|(_, what)| what);
        Rejection::PoolExhausted { pool: range, network: network.name.clone(), users: inside.chain(others).collect() }
    })
}

/// The path of the network namespace of a process.
pub fn netns_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}
