//! Between one host's model and what all have: the networks of all in the model, the model's endpoints as others see them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Announcement, Place, SharedNetwork, SharedSubnet, View, announced, mesh_ports, remotes, required, taken};
use crate::{
    model::{
        self, Driver, Endpoint, Model, Name, Network, PortPublication, RemoteEndpoint, Remotes, Segment, Subnet,
        adopt_network,
    },
    reconcile::{Family, HostFacts},
};

/// Numbers below are left to networks that are made by hand, as Docker leaves them.
const FIRST_VNI: u32 = 4096;

/// The highest number: it has 24 bits (RFC 7348 section 5).
const LAST_VNI: u32 = (1 << 24) - 1;

/// What a host gives the networks of all.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// UDP port of its tunnels.
    pub port: u16,
    /// UDP port of those that are encrypted.
    pub encrypted_port: u16,
    /// Family of its own address.
    pub underlay: Family,
    /// Its links and routes.
    pub facts: &'a HostFacts,
}

impl Here<'_> {
    /// How a network of all is carried here.
    fn segment(&self, network: &SharedNetwork) -> Segment {
        let port = if network.encrypted { self.encrypted_port } else { self.port };
        let (underlay, encrypted) = (self.underlay, network.encrypted);
        Segment { vni: network.vni, port, underlay, encrypted, peers: BTreeSet::new() }
    }
}

/// An address of a network, by its name and id.
pub type Wanted = (Name, String, IpAddr);

/// An endpoint of another node, as names lead to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Elsewhere {
    /// The network.
    pub network: Name,
    /// Its name, its short id and its aliases there, its name first.
    pub names: Vec<String>,
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// A network as all have it; `None` for one of this host alone.
pub fn shared(network: &Network) -> Option<SharedNetwork> {
    let Driver::Overlay(segment) = &network.driver else { return None };
    let subnet = |subnet: &Subnet| SharedSubnet {
        subnet: subnet.subnet,
        gateway: subnet.gateway,
        ip_range: subnet.ip_range,
        gateway_mode: subnet.gateway_mode,
        aux_addresses: subnet.aux_addresses.clone(),
    };
    Some(SharedNetwork {
        id: network.id.clone(),
        vni: segment.vni,
        subnets: network.subnets.iter().map(subnet).collect(),
        internal: network.internal,
        encrypted: segment.encrypted,
        no_icc: network.no_icc,
        from: network.from.clone(),
        requires: required(network),
        no_masquerade: network.no_masquerade,
        mtu: (!network.mtu_follows).then_some(network.mtu),
        dns: network.dns.clone(),
        labels: network.labels.clone(),
        ifname_prefix: network.ifname_prefix.clone(),
        options: network.options.clone(),
        created: network.created,
    })
}

/// A number in tunnels that no network has, as far as is known here.
pub fn free_vni(model: &Model, view: &View) -> Option<u32> {
    let ours = model.networks.values().filter_map(|network| network.driver.segment().map(|segment| segment.vni));
    let taken: BTreeSet<u32> = view.networks().map(|(_, network)| network.vni).chain(ours).collect();
    (FIRST_VNI..=LAST_VNI).find(|vni| !taken.contains(vni))
}

/// Makes the model's networks of all those that there are. Of each that cannot be as all have it: why, in a line.
pub fn adopt(model: &mut Model, view: &View, here: Here<'_>) -> BTreeMap<Name, String> {
    let mut absent = BTreeMap::new();
    let is_used = |model: &Model, name: &Name| model.attachments_of(name).next().is_some();
    let ours: Vec<(Name, String)> = model
        .networks
        .values()
        .filter(|network| matches!(network.driver, Driver::Overlay(_)))
        .map(|network| (network.name.clone(), network.id.clone()))
        .collect();
    for (name, id) in ours {
        let found = view.network(&name);
        if found.is_some_and(|network| network.id == id) {
            continue;
        }
        if !is_used(model, &name) {
            model.networks.remove(&name);
            continue;
        }
        // Its number may be another network's by now.
        if let Some(Driver::Overlay(segment)) = model.networks.get_mut(&name).map(|network| &mut network.driver) {
            segment.vni = 0;
        }
        let what = if found.is_some() { "removed and made anew" } else { "removed" };
        let line = format!("network {name} was {what} elsewhere and ends at this host: detach what is in it here");
        absent.insert(name, line);
    }
    for (name, network) in view.networks() {
        let mut is_not_here = |why: String| {
            absent.entry(name.clone()).or_insert_with(|| format!("network {name} of all nodes is not here: {why}"));
        };
        if let Some(why) = network.obstacle() {
            is_not_here(why);
            continue;
        }
        let segment = here.segment(network);
        if let Some(ours) = model.networks.get_mut(name) {
            match &mut ours.driver {
                Driver::Overlay(found) if ours.id == network.id => *found = segment,
                Driver::Overlay(_) => {}
                _ => is_not_here("this host has another one of that name".to_owned()),
            }
            continue;
        }
        if let Err(rejection) = adopt_network(model, adopted(name, network, segment), network.mtu, here.facts) {
            is_not_here(rejection.to_string());
        }
    }
    absent
}

fn adopted(name: &Name, network: &SharedNetwork, segment: Segment) -> Network {
    let subnet = |shared: &SharedSubnet| Subnet {
        subnet: shared.subnet,
        gateway: shared.gateway,
        ip_range: shared.ip_range,
        gateway_mode: shared.gateway_mode,
        aux_addresses: shared.aux_addresses.clone(),
        last_given: None,
        freed: Default::default(),
    };
    Network {
        name: name.clone(),
        id: network.id.clone(),
        zone: 0,
        mac: segment.gateway_mac(),
        driver: Driver::Overlay(segment),
        subnets: network.subnets.iter().map(subnet).collect(),
        snat_ips: Vec::new(),
        from: network.from.clone(),
        internal: network.internal,
        no_icc: network.no_icc,
        no_masquerade: network.no_masquerade,
        mtu: 0,
        mtu_follows: network.mtu.is_none(),
        ifname_prefix: network.ifname_prefix.clone(),
        options: network.options.clone(),
        dns: network.dns.clone(),
        labels: network.labels.clone(),
        created: network.created,
    }
}

/// The endpoints of this host as others are told of them, by id.
pub fn announcements(model: &Model) -> BTreeMap<String, Announcement> {
    let networks = |endpoint: &Endpoint| {
        let attachments = endpoint.attachments.iter();
        attachments.map(|attachment| (attachment.network.clone(), attachment.addresses().collect())).collect()
    };
    let announcement = |endpoint: &Endpoint| Announcement {
        incarnation: 0,
        name: endpoint.name.clone(),
        places: endpoint.attachments.iter().filter_map(|attachment| place(model, attachment)).collect(),
        networks: networks(endpoint),
        ports: endpoint.publications.iter().map(port).collect(),
        mesh: mesh_ports(model, endpoint),
        created: endpoint.created,
    };
    model.endpoints.values().map(|endpoint| (endpoint.id.clone(), announcement(endpoint))).collect()
}

fn place(model: &Model, attachment: &model::Attachment) -> Option<Place> {
    let network = model.networks.get(&attachment.network)?;
    matches!(network.driver, Driver::Overlay(_)).then(|| Place {
        network: network.name.clone(),
        network_id: network.id.clone(),
        addresses: attachment.addresses().collect(),
        mac: attachment.mac,
        aliases: attachment.aliases.clone(),
    })
}

fn port(publication: &PortPublication) -> String {
    let PortPublication { host_ip, host_port, port, count, protocol, .. } = publication;
    let last = |first: &u16| if *count > 1 { format!("-{}", first + (count - 1)) } else { String::new() };
    let host = std::net::SocketAddr::new(*host_ip, *host_port);
    format!("{host}{}->{port}{}/{protocol}", last(host_port), last(port))
}

/// The addresses that an endpoint has in networks of all in `after` and not in `before`.
pub fn wanted(before: &Model, after: &Model, endpoint: &Name) -> Vec<Wanted> {
    let of = |model: &Model| -> Vec<Wanted> {
        let attachments = model.endpoints.get(endpoint).into_iter().flat_map(|endpoint| &endpoint.attachments);
        let places = attachments.filter_map(|attachment| place(model, attachment));
        let each = |place: Place| {
            let Place { network, network_id, addresses, .. } = place;
            addresses.into_iter().map(move |address| (network.clone(), network_id.clone(), address))
        };
        places.flat_map(each).collect()
    };
    let had = of(before);
    of(after).into_iter().filter(|wanted| !had.contains(wanted)).collect()
}

/// The addresses of networks of all that somebody has, and who.
pub fn elsewhere(view: &View) -> BTreeMap<Name, BTreeMap<IpAddr, String>> {
    let names: BTreeMap<&str, &Name> = view.networks().map(|(name, network)| (network.id.as_str(), name)).collect();
    let mut elsewhere = BTreeMap::<Name, BTreeMap<IpAddr, String>>::new();
    for ((id, address), claim) in view.claims() {
        let Some(network) = names.get(id) else { continue };
        let whose = format!("{} on node {}", claim.endpoint, claim.node);
        elsewhere.entry((*network).clone()).or_default().insert(address, whose);
    }
    elsewhere
}

/// Notes which addresses of networks of all somebody had `before` and nobody has now.
pub fn note_freed(model: &mut Model, before: &View, view: &View) {
    let held: BTreeSet<_> = view.claims().map(|(key, _)| key).collect();
    let ids = model.networks.iter().map(|(name, network)| (network.id.clone(), name.clone()));
    let names: BTreeMap<String, Name> = ids.collect();
    for ((id, address), _) in before.claims().filter(|(key, _)| !held.contains(key)) {
        let network = names.get(id).and_then(|name| model.networks.get_mut(name));
        network.into_iter().for_each(|network| network.note_freed([address]));
    }
}

/// What other nodes have, for the plan and for names.
pub fn known(view: &View, me: &Name) -> (Remotes, Vec<Elsewhere>) {
    let own = view.node(me).map(|node| node.vtep);
    let vteps = view.nodes().filter(|(name, _)| *name != me).map(|(_, node)| node.vtep).collect();
    let endpoint = |(key, remote): ((u32, IpAddr), super::Remote)| {
        // Revisions of etcd begin with 1.
        let incarnation = u64::try_from(remote.incarnation).unwrap_or(0);
        (key, RemoteEndpoint { mac: remote.mac, vtep: remote.vtep, incarnation })
    };
    let endpoints = remotes(view, me).into_iter().map(endpoint).collect();
    let mut names = Vec::new();
    for (id, endpoint, places) in announced(view, me) {
        for (place, addresses) in places {
            let aliases = place.aliases.iter().map(ToString::to_string);
            let all = [endpoint.name.to_string(), id.to_owned()].into_iter().chain(aliases).collect();
            names.push(Elsewhere { network: place.network.clone(), names: all, addresses });
        }
    }
    let ports = taken(view, me).into_iter().map(|taken| taken.port).collect();
    let allowances = view.allowances_of(me);
    (Remotes { own, vteps, endpoints, ports, allowances, ..Remotes::default() }, names)
}
