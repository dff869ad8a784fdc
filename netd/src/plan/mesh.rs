//! Ports of containers of other hosts that this host publishes too, and the other ends of their flows.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use netd_common::{
    tables::{EndpointKey, Hook, MeshEnd, Publication, PublicationKey, SourceKey},
    tuple::{Address, Zone},
};

use crate::{
    model::{self, Driver, Model, PortPublication, RemotePort, Remotes},
    reconcile::{Family, HostFacts, LinkName, State},
};

/// Opens what other hosts publish on every host. A port that something of this host has is that one's here.
pub fn add(state: &mut State, model: &Model, remotes: &Remotes, configured: &[IpNet]) {
    if !model.networks.values().any(|network| matches!(network.driver, Driver::Overlay(_))) {
        return;
    }
    state.mesh.extend(remotes.kept.ends.iter().map(|(key, end)| (*key, *end)));
    let kept: Vec<_> = remotes.kept.publications.iter().filter(|(key, to)| is_free(state, key, to)).collect();
    state.publications.extend(kept.into_iter().map(|(key, to)| (*key, *to)));
    state.sources.extend(&remotes.kept.sources);
    for vtep in &remotes.vteps {
        let vtep = Address::from(*vtep);
        let key = EndpointKey { address: Address::ANY_V6, zone: Zone::of_vtep(vtep), pad: 0 };
        state.mesh.entry(key).or_insert(MeshEnd { vtep, ..MeshEnd::default() });
    }
    for port in remotes.ports.iter().filter(|port| obstacle(model, port).is_none()) {
        publish(state, model, remotes, port, configured);
    }
}

/// Whether nothing of this host's has a port that an earlier daemon has left of another's.
fn is_free(state: &State, key: &PublicationKey, to: &Publication) -> bool {
    let same = |other: &PublicationKey| (other.address, other.protocol) == (key.address, key.protocol);
    let overlaps =
        |other: &Publication| other.first.number() <= to.last.number() && to.first.number() <= other.last.number();
    !state.publications.iter().any(|(other, ours)| same(other) && !other.is_somewhere() && overlaps(ours))
}

fn publish(state: &mut State, model: &Model, remotes: &Remotes, port: &RemotePort, configured: &[IpNet]) {
    let of = |network: &&model::Network| network.driver.segment().is_some_and(|segment| segment.vni == port.vni);
    let Some(network) = model.networks.values().find(of) else { return };
    let Some(container) = remotes.endpoints.get(&(port.vni, port.address)) else { return };
    let address = Address::from(port.address);
    let key = EndpointKey { address, zone: network.zone(), pad: 0 };
    if state.endpoints.contains_key(&key) {
        return;
    }
    let end = MeshEnd { vtep: container.vtep.into(), vni: port.vni, mac: container.mac, pad: 0 };
    state.mesh.insert(key, end);
    let publication = &port.publication;
    let from = model::lets_in(publication, network, configured);
    let list = model::source_list(from);
    state.sources.extend(from.iter().map(|net| SourceKey::range(list, net.addr().into(), net.prefix_len())));
    let PortPublication { host_port, protocol, .. } = publication;
    let last = publication.host_ports().into_inner().1;
    let to = Publication::new(network.zone(), address, *host_port, publication.port).up_to(last).with_sources(list);
    state.publications.insert(PublicationKey::of(address.any_of_family(), protocol.number(), &to), to);
}

/// Has the drivers of uplinks pass on what is for containers of other hosts: of those that lead to another host, while the
/// address as which the others know this one is its own. `forwards` are the families that networks have, and uplinks forward.
pub fn pass_on_in_drivers(state: &mut State, facts: &HostFacts, remotes: &Remotes, forwards: &BTreeSet<Family>) {
    let Some(own) = remotes.own else { return };
    let is_nowhere = state.mesh.keys().all(|key| key.zone.is_of_vtep());
    // A program is told no way from a device that forwards nothing of the family, and for whom it would is not for this to decide.
    let is_router = own.is_ipv4() || forwards.contains(&Family::V6);
    if is_nowhere || !is_router || !facts.addresses.contains(&own) {
        return;
    }
    let leads_to_a_host = |link: &&LinkName| facts.ways.nodes.values().any(|way| way.link == **link);
    for link in facts.sends_back.iter().filter(leads_to_a_host) {
        if let Some(uplink) = state.devices.get_mut(link) {
            match own {
                IpAddr::V4(own) => uplink.gateway_ipv4 = own.octets(),
                IpAddr::V6(own) => uplink.gateway_ipv6 = own.octets(),
            }
            state.hooks.insert((link.clone(), Hook::UplinkXdp));
        }
    }
}

/// What of this host's own has a port that another host publishes on every host: the endpoint and the port.
pub fn obstacle<'a>(model: &'a Model, port: &RemotePort) -> Option<(&'a model::Endpoint, u16)> {
    let ours = model.endpoints.values();
    let mut ours = ours.flat_map(|endpoint| endpoint.publications.iter().map(move |ours| (endpoint, ours)));
    ours.find_map(|(endpoint, ours)| Some((&**endpoint, ours.clash(&port.publication)?)))
}
