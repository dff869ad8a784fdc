//! From what the user asked for and what the host is to everything that should exist.
//!
//! Invariant: pure. The same model, facts and secret give the same state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net};
use netd_common::{
    tables::{DeviceKind, EndpointKey, Hook, PortRange, Publication, PublicationKey, Settings, Span, device_flags},
    tuple::{Address, Mac, Zone},
};

use crate::{
    model::{Attachment, Endpoint, Model, Network},
    reconcile::{Bridge, DeviceRecord, EndpointRecord, HostFacts, Interface, LinkName, Sandbox, State, Uplink, Veth},
};

/// The kernel's own `ip_local_port_range`.
const EPHEMERAL: PortRange = PortRange { first: 32_768, last: 60_999 };

/// Ports for masquerade: what surrounds the kernel's own ephemeral range, above the services that people run.
const POOLS: [PortRange; 2] = [PortRange { first: 20_000, last: 32_767 }, PortRange { first: 61_000, last: 65_535 }];

/// The lowest port that masquerade picks: those below are for the host's services, whatever the sysctls say.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Everything that should exist.
pub fn plan(model: &Model, facts: &HostFacts, secret: [u32; 2]) -> State {
    let mut state =
        State { settings: Some(settings(facts, secret)), reserved: facts.reserved.clone(), ..Default::default() };
    for network in model.networks.values() {
        add_network(&mut state, network);
    }
    for endpoint in model.endpoints.values() {
        if let Some(sandbox) = there(endpoint, facts) {
            add_endpoint(&mut state, model, endpoint, &sandbox);
        }
    }
    let gateways = model.networks.values().map(|network| IpAddr::from(network.gateway));
    state.addresses = facts.addresses.iter().copied().chain(gateways).map(Address::new).collect();
    for (link, uplink) in &facts.uplinks {
        add_uplink(&mut state, link, uplink, !model.networks.is_empty());
    }
    state
}

/// What works but not as well as the user may think.
pub fn warnings(model: &Model, facts: &HostFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    if facts.uplinks.is_empty() {
        warnings.push("there is no uplink: no device with an address leads outside".to_owned());
    }
    for (link, uplink) in &facts.uplinks {
        if primary(uplink).is_none() {
            warnings.push(format!("uplink {link} has no IPv4 address: containers reach nothing by it"));
        }
    }
    for network in model.networks.values() {
        for (route, device) in crate::model::routes(facts).filter(|(route, _)| overlaps(route, &network.subnet)) {
            let (name, subnet) = (&network.name, network.subnet);
            warnings.push(format!("network {name} ({subnet}) overlaps {route}, which the host routes by {device}"));
        }
    }
    warnings
}

/// The sandbox of an endpoint, if it is the one that was attached.
pub fn there(endpoint: &Endpoint, facts: &HostFacts) -> Option<Sandbox> {
    facts.sandboxes.get(&endpoint.netns).filter(|sandbox| sandbox.inode == endpoint.netns_inode).cloned()
}

fn overlaps(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    crate::ipam::overlap(a, b)
}

fn add_network(state: &mut State, network: &Network) {
    let link = network.bridge();
    let address = Ipv4Net::new_assert(network.gateway, network.subnet.prefix_len());
    let bridge = Bridge {
        owner: network.name.to_string(),
        mac: network.mac,
        mtu: network.mtu,
        addresses: BTreeSet::from([IpNet::V4(address)]),
    };
    let record = DeviceRecord { kind: DeviceKind::Bridge as u8, ..record_in(network) };
    state.bridges.insert(link.clone(), bridge);
    state.forwarding.insert(link.clone());
    state.devices.insert(link, record);
}

fn add_endpoint(state: &mut State, model: &Model, endpoint: &Endpoint, sandbox: &Sandbox) {
    let way_out = model.way_out(endpoint);
    for attachment in &endpoint.attachments {
        let Some(network) = model.networks.get(&attachment.network) else { continue };
        let leads_out = way_out.is_some_and(|(_, other)| other.id == attachment.id);
        add_attachment(state, endpoint, sandbox, network, attachment, leads_out);
    }
    let Some((network, attachment)) = way_out else { return };
    for publication in &endpoint.publications {
        let address = publication.host_ip.map_or(Address::ANY_V4, Address::from);
        let (protocol, first, count) = (publication.protocol.number(), publication.host_port, publication.count);
        let to = Publication::new(network.zone(), attachment.ip.into(), first, publication.port);
        for block in PublicationKey::blocks(address, protocol, first, count.into()) {
            state.publications.insert(block, to);
            if address != address.any_of_family() {
                state.publications.insert(block.somewhere(), to);
            }
        }
    }
}

fn add_attachment(
    state: &mut State,
    endpoint: &Endpoint,
    sandbox: &Sandbox,
    network: &Network,
    attachment: &Attachment,
    leads_out: bool,
) {
    let link = attachment.veth();
    let address = Ipv4Net::new_assert(attachment.ip, network.subnet.prefix_len());
    let veth = Veth {
        owner: endpoint.name.to_string(),
        bridge: network.bridge(),
        mtu: network.mtu,
        sandbox: sandbox.clone(),
        interface: Interface {
            name: attachment.ifname.clone(),
            mac: attachment.mac,
            addresses: BTreeSet::from([IpNet::V4(address)]),
            gateways: leads_out.then_some(network.gateway.into()).into_iter().collect(),
        },
    };
    let device = DeviceRecord {
        kind: DeviceKind::Container as u8,
        ipv4: attachment.ip.octets(),
        mac: attachment.mac,
        ..record_in(network)
    };
    let key = EndpointKey { address: attachment.ip.into(), zone: network.zone(), pad: 0 };
    let record =
        EndpointRecord { device: link.clone(), mtu: network.mtu, mac: attachment.mac, gateway_mac: network.mac };
    state.veths.insert(link.clone(), veth);
    state.hooks.extend([(link.clone(), Hook::FromContainer), (link.clone(), Hook::ToContainer)]);
    state.devices.insert(link, device);
    state.endpoints.insert(key, record);
}

/// What the records of a network's devices have in common.
fn record_in(network: &Network) -> DeviceRecord {
    DeviceRecord {
        kind: 0,
        flags: if network.internal { device_flags::INTERNAL } else { 0 },
        zone: network.zone(),
        bridge: Some(network.bridge()),
        mtu: network.mtu,
        ipv4: [0; 4],
        gateway_ipv4: network.gateway.octets(),
        ipv6: [0; 16],
        gateway_ipv6: [0; 16],
        mac: Mac::default(),
        gateway_mac: network.mac,
    }
}

fn add_uplink(state: &mut State, link: &LinkName, uplink: &Uplink, forwards: bool) {
    let not_a_router = forwards && uplink.was_no_router;
    let record = DeviceRecord {
        kind: DeviceKind::Uplink as u8,
        flags: if not_a_router { device_flags::NOT_A_ROUTER } else { 0 },
        zone: Zone::HOST,
        bridge: None,
        mtu: uplink.mtu,
        ipv4: primary(uplink).map_or([0; 4], |address| address.octets()),
        gateway_ipv4: [0; 4],
        ipv6: [0; 16],
        gateway_ipv6: [0; 16],
        mac: Mac::default(),
        gateway_mac: Mac::default(),
    };
    state.devices.insert(link.clone(), record);
    state.hooks.extend([(link.clone(), Hook::FromUplink), (link.clone(), Hook::ToUplink)]);
    // Where forwarding was on before netd it is not netd's to switch off, with networks or without.
    if forwards || !uplink.was_no_router {
        state.forwarding.insert(link.clone());
    }
}

/// The address that containers are masqueraded as.
pub fn primary(uplink: &Uplink) -> Option<std::net::Ipv4Addr> {
    uplink.addresses.iter().find_map(|address| match address {
        IpNet::V4(address) => Some(address.addr()),
        IpNet::V6(_) => None,
    })
}

fn settings(facts: &HostFacts, secret: [u32; 2]) -> Settings {
    let ephemeral = facts.ephemeral.unwrap_or(EPHEMERAL);
    Settings {
        secret,
        pools: pools(ephemeral),
        second: PortRange { first: ephemeral.first.max(FIRST_UNPRIVILEGED), last: ephemeral.last },
        ephemeral,
        timeouts: facts.timeouts.map(Span::at_least_seconds),
    }
}

/// The two largest pieces of [`POOLS`] that `ephemeral` leaves, in order.
fn pools(ephemeral: PortRange) -> [PortRange; 2] {
    let mut pieces: Vec<PortRange> = POOLS.iter().flat_map(|pool| without(*pool, ephemeral)).collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    pieces.resize(2, PortRange::NONE);
    pieces.sort_by_key(|piece| (piece.is_empty(), piece.first));
    [pieces[0], pieces[1]]
}

/// What is left of a range, below and above what is cut out of it.
fn without(range: PortRange, cut: PortRange) -> impl Iterator<Item = PortRange> {
    if cut.is_empty() {
        return [Some(range), None].into_iter().flatten();
    }
    let below = cut.first.checked_sub(1).map(|last| PortRange { first: range.first, last: last.min(range.last) });
    let above = cut.last.checked_add(1).map(|first| PortRange { first: first.max(range.first), last: range.last });
    let kept = |piece: &PortRange| !piece.is_empty();
    [below.filter(kept), above.filter(kept)].into_iter().flatten()
}

/// Veths of the model by the sandbox that their other side is in.
pub fn sandboxes_of_veths(model: &Model) -> BTreeMap<LinkName, Sandbox> {
    let endpoints = model.endpoints.values();
    let veths = endpoints.flat_map(|e| e.attachments.iter().map(move |attachment| (e, attachment)));
    veths.map(|(e, a)| (a.veth(), Sandbox { path: e.netns.clone(), inode: e.netns_inode })).collect()
}

#[cfg(test)]
mod tests;
