//! From what the user asked for and what the host is to everything that should exist.
//!
//! Invariant: pure. The same model, facts and choices give the same state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netd_common::{
    tables::{DeviceKind, EndpointKey, Hook, PortRange, Routing, device_flags},
    tuple::{Address, Mac, Zone},
};

use crate::{
    model::{self, Attachment, Endpoint, Model, Network, Remotes, Subnet},
    reconcile::{
        Bridge, DeviceRecord, EndpointRecord, Family, HostFacts, Interface, Ipsec, Join, LinkName, ResolverState,
        Sandbox, State, Uplink, Veth,
    },
};

pub mod mesh;
mod part;
mod publishing;
mod relays;
mod routing;
mod settings;

pub use part::{exchange, part, touched};
use publishing::{open_by_mode, publish, somewhere, withheld};
pub use relays::{LONGEST, relays};
pub use routing::routing;
use settings::settings;

/// The kernel's own `ip_local_port_range`.
const EPHEMERAL: PortRange = PortRange { first: 32_768, last: 60_999 };

/// What the plan needs and neither the model nor the host says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Choices {
    /// Key of the hash of ports.
    pub secret: [u32; 2],
    /// Who may come to ports that say nothing of it, nor their networks; empty for everybody.
    pub from: Vec<IpNet>,
    /// Whether no device sums or cuts what is in a tunnel.
    pub no_tunnel_offload: bool,
    /// What other hosts have of overlay networks.
    pub remotes: Remotes,
    /// What encrypts them.
    pub ipsec: Ipsec,
}

/// Everything that should exist.
pub fn plan(model: &Model, facts: &HostFacts, choices: &Choices) -> State {
    let mut state = State {
        settings: Some(settings(facts, choices.secret)),
        reserved: facts.reserved.clone(),
        calls: facts.calls.clone(),
        withheld: withheld(model, facts),
        ipsec: choices.ipsec.clone(),
        ..Default::default()
    };
    if !model.networks.is_empty() {
        state.accepts = facts.firewall.needed();
    }
    for network in model.networks.values() {
        add_network(&mut state, network);
        overlay::add_segment(&mut state, network, facts, !choices.no_tunnel_offload);
    }
    overlay::add_keys(&mut state);
    state.allowances = model::allowed(model);
    for endpoint in model.endpoints.values() {
        if let Some(sandbox) = there(endpoint, facts) {
            add_endpoint(&mut state, model, endpoint, &sandbox);
            publish(&mut state, model, endpoint, &choices.from);
        }
    }
    let there = model.endpoints.values().filter(|endpoint| there(endpoint, facts).is_some());
    state.publications.extend(somewhere(model, there.map(|endpoint| &**endpoint)));
    for network in model.networks.values() {
        overlay::add_remotes(&mut state, network, &choices.remotes);
    }
    mesh::add(&mut state, model, &choices.remotes, &choices.from);
    let subnets = || model.networks.values().flat_map(|network| &network.subnets);
    let gateways = subnets().filter(|subnet| subnet.has_gateway()).map(|subnet| subnet.gateway);
    state.addresses = facts.addresses.iter().copied().chain(gateways).map(Address::new).collect();
    let forwards = subnets().map(Subnet::family).collect();
    for (link, uplink) in &facts.uplinks {
        add_uplink(&mut state, link, uplink, &forwards);
    }
    mesh::pass_on_in_drivers(&mut state, facts, &choices.remotes, &forwards);
    // Where every port is everybody's, a driver has nothing to drop.
    if !state.sources.is_empty() {
        let early = facts.early.iter().filter(|link| facts.uplinks.contains_key(*link));
        state.hooks.extend(early.map(|link| (link.clone(), Hook::UplinkXdp)));
    }
    state
}

/// What works but not as well as the user may think.
pub fn warnings(model: &Model, facts: &HostFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    if facts.uplinks.is_empty() {
        warnings.push("there is no uplink: no device with an address leads outside".to_owned());
    }
    for (link, vrf) in &facts.vrf_ports {
        warnings.push(if facts.uplinks.contains_key(link) {
            format!("uplink {link} is in the VRF {vrf}: containers' packets leave by it only by routes outside that VRF's table")
        } else {
            format!("{link} is in the VRF {vrf}, whose routes no container's packets take: it is no uplink")
        });
    }
    if routing(&facts.routing, &facts.firewall) == Routing::ByStack {
        warnings.push(
            "a rule of `ip rule` picks routes by a mark or a type of service: what leaves goes by the stack, not as fast"
                .to_owned(),
        );
    }
    if publishing::crowds(model, facts) {
        warnings.push(
            "so many ports of net.ipv4.ip_local_port_range are published that the kernel may give one to a socket of the host that names none"
                .to_owned(),
        );
    }
    for (link, uplink) in &facts.uplinks {
        if Family::BOTH.into_iter().all(|family| primary(uplink, family).is_none()) {
            warnings.push(format!("uplink {link} has no address: containers reach nothing by it"));
        }
    }
    for network in model.networks.values() {
        for address in network.snat_ips.iter().filter(|address| !facts.addresses.contains(*address)) {
            let name = &network.name;
            warnings.push(format!("network {name} leaves as {address}, which is no address of this host"));
        }
    }
    for (port, device) in &facts.vxlan_devices {
        let ours = model.networks.values().filter_map(|n| Some((&n.name, n.driver.segment()?)));
        for (network, _) in ours.filter(|(_, segment)| segment.port == *port) {
            warnings.push(format!(
                "network {network} has UDP port {port}, which the VXLAN device {device}, not netd's, has too"
            ));
        }
    }
    warnings.extend(model::conflicts(model, facts).iter().map(ToString::to_string));
    warnings
}

/// The sandbox of an endpoint, if it is the one that was attached.
pub fn there(endpoint: &Endpoint, facts: &HostFacts) -> Option<Sandbox> {
    facts.sandboxes.get(&endpoint.netns).filter(|sandbox| sandbox.inode == endpoint.netns_inode).cloned()
}

fn add_network(state: &mut State, network: &Network) {
    let link = network.bridge();
    let with_gateways = || network.subnets.iter().filter(|subnet| subnet.has_gateway());
    let addresses = with_gateways().map(|subnet| with_prefix(subnet.gateway, subnet));
    let bridge = Bridge {
        owner: network.name.to_string(),
        mac: network.mac,
        mtu: network.mtu,
        addresses: addresses.collect(),
        intact: true,
    };
    let record = DeviceRecord {
        kind: DeviceKind::Bridge as u8,
        ipv4: ipv4(network.snat_ip(Family::V4)),
        ipv6: ipv6(network.snat_ip(Family::V6)),
        ..record_in(network)
    };
    state.bridges.insert(link.clone(), bridge);
    state.forwarding.extend(with_gateways().map(|subnet| (link.clone(), subnet.family())));
    state.hooks.insert((link.clone(), Hook::FromHost));
    state.devices.insert(link, record);
}

/// The bridge of a network with this number, with what joins it to the first if it is a further one: frames pass it both ways, and
/// those to its containers only past the program that judges them where they leave the first.
fn add_bridge_of(state: &mut State, network: &Network, number: u8) -> LinkName {
    if number == 0 {
        return network.bridge();
    }
    let further = network.further_bridge(number);
    let (near, far) = (network.join(number), network.far_side(number));
    let owner = format!("{} {number}", network.name);
    let (mac, mtu) = (network.further_mac(number), network.mtu);
    let bridge = Bridge { owner: owner.clone(), mac, mtu, addresses: BTreeSet::new(), intact: true };
    let record = DeviceRecord { kind: DeviceKind::Join as u8, ..record_in(network) };
    state.devices.extend([&near, &far].map(|side| (side.clone(), record.clone())));
    let join = Join {
        owner,
        bridge: network.bridge(),
        far,
        further: further.clone(),
        mtu,
        intact: true,
        apart: network.no_icc,
    };
    state.hooks.insert((near.clone(), Hook::ToContainer));
    state.joins.insert(near, join);
    state.bridges.insert(further.clone(), bridge);
    further
}

/// An address with the prefix length of its subnet.
fn with_prefix(address: IpAddr, subnet: &Subnet) -> IpNet {
    IpNet::new_assert(address, subnet.subnet.prefix_len())
}

fn add_endpoint(state: &mut State, model: &Model, endpoint: &Endpoint, sandbox: &Sandbox) {
    let ways_out = Family::BOTH.map(|family| (family, model.way_out(endpoint, family)));
    if !endpoint.attachments.is_empty() {
        state.resolvers.insert(sandbox.inode, ResolverState::Whole);
    }
    for attachment in &endpoint.attachments {
        let Some(network) = model.networks.get(&attachment.network) else { continue };
        let leads_out =
            |(_, way): &&(Family, Option<(_, &Attachment)>)| way.is_some_and(|(_, a)| a.id == attachment.id);
        let gateways = ways_out.iter().filter(leads_out).filter_map(|(family, _)| network.subnet(*family));
        let gateways = gateways.map(|subnet| subnet.gateway).collect();
        add_attachment(state, endpoint, sandbox, (network, attachment), gateways);
    }
}

fn add_attachment(
    state: &mut State,
    endpoint: &Endpoint,
    sandbox: &Sandbox,
    (network, attachment): (&Network, &Attachment),
    gateways: BTreeSet<IpAddr>,
) {
    let link = attachment.veth();
    let addresses = network
        .subnets
        .iter()
        .filter_map(|subnet| Some(with_prefix(attachment.address(subnet.family())?, subnet)))
        .collect();
    let veth = Veth {
        owner: endpoint.name.to_string(),
        bridge: add_bridge_of(state, network, attachment.bridge),
        mtu: network.mtu,
        intact: true,
        apart: network.no_icc,
        sandbox: sandbox.clone(),
        interface: Interface { name: attachment.ifname.clone(), mac: attachment.mac, addresses, gateways },
    };
    let device = DeviceRecord {
        kind: DeviceKind::Container as u8,
        vni: network.driver.segment().map_or(0, |segment| segment.vni),
        ipv4: attachment.ip.map_or([0; 4], |ip| ip.octets()),
        ipv6: attachment.ip6.map_or([0; 16], |ip| ip.octets()),
        mac: attachment.mac,
        ..record_in(network)
    };
    let record =
        EndpointRecord { device: link.clone(), mtu: network.mtu, mac: attachment.mac, gateway_mac: network.mac };
    for address in attachment.addresses() {
        let key = EndpointKey { address: address.into(), zone: network.zone(), pad: 0 };
        state.endpoints.insert(key, record.clone());
        state.publications.extend(open_by_mode(network, address));
    }
    state.veths.insert(link.clone(), veth);
    state.hooks.extend([(link.clone(), Hook::FromContainer), (link.clone(), Hook::ToContainer)]);
    state.devices.insert(link, device);
}

/// What the records of a network's devices have in common.
fn record_in(network: &Network) -> DeviceRecord {
    let gateway = |family| network.subnet(family).map(|subnet| subnet.gateway);
    let isolated = |family| network.subnet(family).is_some_and(|subnet| !subnet.has_gateway());
    let of_families = [(Family::V4, true), (Family::V6, false)].into_iter().flat_map(|(family, v4)| {
        [
            (network.keeps_addresses(family), device_flags::keeps_address(v4)),
            (isolated(family), device_flags::isolated(v4)),
        ]
    });
    let of_both = [(network.internal, device_flags::INTERNAL), (network.no_icc, device_flags::NO_ICC)];
    DeviceRecord {
        kind: 0,
        flags: of_families.chain(of_both).filter(|(holds, _)| *holds).fold(0, |flags, (_, flag)| flags | flag),
        zone: network.zone(),
        bridge: Some(network.bridge()),
        mtu: network.mtu,
        vni: 0,
        ipv4: [0; 4],
        gateway_ipv4: ipv4(gateway(Family::V4)),
        ipv6: [0; 16],
        gateway_ipv6: ipv6(gateway(Family::V6)),
        mac: Mac::default(),
        gateway_mac: network.mac,
    }
}

/// The bytes of an IPv4 address; zero for none.
fn ipv4(address: Option<IpAddr>) -> [u8; 4] {
    match address {
        Some(IpAddr::V4(address)) => address.octets(),
        _ => [0; 4],
    }
}

/// The bytes of an IPv6 address; zero for none.
fn ipv6(address: Option<IpAddr>) -> [u8; 16] {
    match address {
        Some(IpAddr::V6(address)) => address.octets(),
        _ => [0; 16],
    }
}

/// `forwards` are the families that networks have.
fn add_uplink(state: &mut State, link: &LinkName, uplink: &Uplink, forwards: &BTreeSet<Family>) {
    let flag = |family| match family {
        Family::V4 => device_flags::NOT_A_ROUTER_V4,
        Family::V6 => device_flags::NOT_A_ROUTER_V6,
    };
    let not_a_router = uplink.was_no_router.intersection(forwards).map(|family| flag(*family));
    let record = DeviceRecord {
        kind: DeviceKind::Uplink as u8,
        flags: not_a_router.fold(0, |flags, flag| flags | flag),
        zone: Zone::HOST,
        bridge: None,
        mtu: uplink.mtu,
        vni: 0,
        ipv4: ipv4(primary(uplink, Family::V4)),
        gateway_ipv4: [0; 4],
        ipv6: ipv6(primary(uplink, Family::V6)),
        gateway_ipv6: [0; 16],
        mac: Mac::default(),
        gateway_mac: Mac::default(),
    };
    state.devices.insert(link.clone(), record);
    state.hooks.extend(Hook::of_uplink(uplink.layer3).map(|hook| (link.clone(), hook)));
    // Where forwarding was on before netd it is not netd's to switch off, with networks or without.
    let on =
        Family::BOTH.into_iter().filter(|family| forwards.contains(family) || !uplink.was_no_router.contains(family));
    state.forwarding.extend(on.map(|family| (link.clone(), family)));
}

/// The address of this family that containers are masqueraded as.
pub fn primary(uplink: &Uplink, family: Family) -> Option<IpAddr> {
    uplink.addresses.iter().map(IpNet::addr).find(|address| Family::of(*address) == family)
}

/// Veths of the model by the sandbox that their other side is in.
pub fn sandboxes_of_veths(model: &Model) -> BTreeMap<LinkName, Sandbox> {
    let endpoints = model.endpoints.values();
    let veths = endpoints.flat_map(|e| e.attachments.iter().map(move |attachment| (e, attachment)));
    veths.map(|(e, a)| (a.veth(), e.sandbox())).collect()
}

mod overlay;
#[cfg(test)]
mod tests;
