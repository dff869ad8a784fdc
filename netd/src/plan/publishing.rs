//! What is published: a range is one entry, at the address where clients knock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netd_common::{
    tables::{PortRange, Publication, PublicationKey, SourceKey},
    tuple::{Address, ICMP, ICMPV6, Port, SCTP, TCP, UDP, Zone},
};

use super::{EPHEMERAL, there};
use crate::{
    model::{self, Endpoint, GatewayMode, Model, Network, PortPublication, Subnet},
    reconcile::{Family, HostFacts, State},
};

/// Opens the ports of an endpoint, to those whom the port, the network or the configuration lets in.
pub fn publish(state: &mut State, model: &Model, endpoint: &Endpoint, configured: &[IpNet]) {
    for publication in &endpoint.publications {
        let Some((network, container)) = target(model, endpoint, publication) else { continue };
        let (first, last) = publication.host_ports().into_inner();
        let from = model::lets_in(publication, network, configured);
        let list = model::source_list(from);
        state.sources.extend(from.iter().map(|net| SourceKey::range(list, net.addr().into(), net.prefix_len())));
        let to = Publication::new(network.zone(), container.into(), first, publication.port).up_to(last);
        let to = to.with_sources(list);
        let key = PublicationKey::of(publication.host_ip.into(), publication.protocol.number(), &to);
        state.publications.insert(key, to);
    }
}

/// Where a port of an endpoint leads.
fn target<'a>(
    model: &'a Model,
    endpoint: &'a Endpoint,
    publication: &PortPublication,
) -> Option<(&'a Network, IpAddr)> {
    let family = publication.family();
    let (network, attachment) = model.way_out(endpoint, family)?;
    Some((network, attachment.address(family)?))
}

/// The entries for those who want a port on every address of the host: what is published on single ones. Ranges of several addresses
/// may overlap, so an entry is what lies together.
pub fn somewhere<'a>(
    model: &'a Model,
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> impl Iterator<Item = (PublicationKey, Publication)> {
    let mut ranges = BTreeMap::<(Address, u8), Vec<(u16, u16)>>::new();
    for endpoint in endpoints {
        let single = |one: &&PortPublication| !one.direct && !one.host_ip.is_unspecified();
        let led = endpoint.publications.iter().filter(single);
        for publication in led.filter(|one| target(model, endpoint, one).is_some()) {
            let any = Address::from(publication.host_ip).any_of_family();
            let of_protocol = ranges.entry((any, publication.protocol.number())).or_default();
            of_protocol.push(publication.host_ports().into_inner());
        }
    }
    ranges.into_iter().flat_map(|((any, protocol), ranges)| {
        joined(ranges).into_iter().map(move |(first, last)| {
            let to = Publication::new(Zone::HOST, any, first, first).up_to(last);
            (PublicationKey::of(any, protocol, &to).somewhere(), to)
        })
    })
}

/// What is published of the host's ephemeral range, which the kernel is to give to no socket that names no port: answers to it would
/// be the container's. Nothing, where too little would be left for such sockets.
pub fn withheld(model: &Model, facts: &HostFacts) -> BTreeSet<PortRange> {
    let ports = published_ephemeral(model, facts);
    if leaves_enough(&ports, facts) { ports.into_iter().collect() } else { BTreeSet::new() }
}

/// Whether nothing is withheld because too much would be.
pub fn crowds(model: &Model, facts: &HostFacts) -> bool {
    !leaves_enough(&published_ephemeral(model, facts), facts)
}

/// What of the ephemeral range is published at the host's addresses, as ranges apart from one another.
fn published_ephemeral(model: &Model, facts: &HostFacts) -> Vec<PortRange> {
    let PortRange { first: lowest, last: highest } = facts.ephemeral.unwrap_or(EPHEMERAL);
    let endpoints = model.endpoints.values().filter(|endpoint| !endpoint.publications.is_empty());
    let endpoints = endpoints.filter(|endpoint| there(endpoint, facts).is_some());
    let ports = endpoints.flat_map(|endpoint| endpoint.publications.iter().filter(|one| !one.direct));
    let inside = ports.filter_map(|port| {
        let (first, last) = port.host_ports().into_inner();
        let (first, last) = (first.max(lowest), last.min(highest));
        (first <= last).then_some((first, last))
    });
    joined(inside.collect()).into_iter().map(|(first, last)| PortRange { first, last }).collect()
}

/// Whether an eighth of the ephemeral range is left when these are withheld, beside what the operator has reserved.
fn leaves_enough(ports: &[PortRange], facts: &HostFacts) -> bool {
    if ports.is_empty() {
        return true;
    }
    let range = facts.ephemeral.unwrap_or(EPHEMERAL);
    let theirs = facts.reserved.iter().map(|one| (one.first.max(range.first), one.last.min(range.last)));
    let taken = ports.iter().map(|one| (one.first, one.last)).chain(theirs.filter(|(first, last)| first <= last));
    let taken: u32 = joined(taken.collect()).iter().map(|(first, last)| u32::from(last - first) + 1).sum();
    range.len().saturating_sub(taken) * 8 >= range.len()
}

/// The fewest ranges that have the ports of these.
fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut joined = Vec::<(u16, u16)>::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What everybody who has a route to a container's address reaches there, by the mode of its gateway and whatever is published.
pub fn open_by_mode(network: &Network, address: IpAddr) -> Vec<(PublicationKey, Publication)> {
    let mode = network.subnet(Family::of(address)).filter(|_| !network.internal).map(Subnet::mode);
    let ports: &[u8] = match mode {
        Some(GatewayMode::NatUnprotected) => &[TCP, UDP, SCTP],
        Some(GatewayMode::Routed) => &[],
        Some(GatewayMode::Nat | GatewayMode::Isolated) | None => return Vec::new(),
    };
    let to = Publication::new(network.zone(), address.into(), 0, 0);
    let pings = PublicationKey::new(address.into(), if address.is_ipv4() { ICMP } else { ICMPV6 }, Port::NONE);
    let every_port = to.up_to(u16::MAX);
    let open = |protocol: &u8| (PublicationKey::of(address.into(), *protocol, &every_port), every_port);
    ports.iter().map(open).chain([(pings, to)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_or_touch_are_joined_and_others_are_not() {
        let ranges = vec![(8010, 8019), (8000, 8009), (8015, 8015), (9000, 9000), (9002, 9005), (65_535, 65_535)];

        assert_eq!(joined(ranges), [(8000, 8019), (9000, 9000), (9002, 9005), (65_535, 65_535)]);
        assert_eq!(joined(vec![(65_534, 65_535), (65_535, 65_535), (0, 65_535)]), [(0, 65_535)]);
        assert_eq!(joined(Vec::new()), []);
    }
}
