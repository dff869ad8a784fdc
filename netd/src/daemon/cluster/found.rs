//! What is found on the host of others: their containers and ports in its tables, and what of its own is in their way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netd_common::tables::{DeviceKind, EndpointKey, MeshEnd, Publication, SourceKey, segment_flags};

use crate::{
    cluster::{MeshAnswer, SegmentAnswer, Segments, Taken, View, Way, taken},
    model::{Driver, Kept, Model, Name, Protocol, RemoteAllowance, RemoteEndpoint, Remotes},
    plan::mesh,
    reconcile::{DeviceRecord, State},
};

/// Ports that every node publishes and this one does not, since something of its own has them, one line each.
pub fn hidden(model: &Model, view: &View, me: &Name) -> Vec<String> {
    let line = |taken: &Taken| {
        let (ours, port) = mesh::obstacle(model, &taken.port)?;
        let (protocol, Taken { node, endpoint, .. }) = (taken.port.publication.protocol, taken);
        Some(format!("port {port}/{protocol} leads to {} here, not to {endpoint} on node {node}", ours.name))
    };
    let lines: BTreeSet<String> = taken(view, me).iter().filter_map(line).collect();
    lines.into_iter().collect()
}

/// The ways to containers of other hosts that a host has, of the networks of several hosts.
pub fn ways(model: &Model, observed: &State) -> Vec<Way> {
    let ours = |vni: u32| {
        let mut drivers = model.networks.values().map(|network| &network.driver);
        drivers.any(|driver| matches!(driver, Driver::Overlay(segment) if segment.vni == vni))
    };
    let remotes = observed.remotes.iter().filter(|(key, _)| ours(key.vni));
    remotes
        .map(|(key, remote)| Way { vni: key.vni, address: key.address.ip(), mac: remote.mac, vtep: remote.vtep.ip() })
        .collect()
}

/// What containers of networks of several hosts may open to one another by what a host has.
pub fn allowances(model: &Model, observed: &State) -> BTreeSet<RemoteAllowance> {
    let vni_of = |zone| {
        let mut networks = model.networks.values().filter(|network| network.zone() == zone);
        networks.find_map(|network| match &network.driver {
            Driver::Overlay(segment) => Some(segment.vni),
            _ => None,
        })
    };
    let found = observed.allowances.iter().filter_map(|key| {
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == key.protocol);
        let port = protocol.map(|protocol| (key.port.number(), protocol));
        Some(RemoteAllowance { vni: vni_of(key.zone)?, src: key.src.ip(), dst: key.dst.ip(), port })
    });
    found.collect()
}

/// What a host has of networks in tunnels, but for those that were made by hand.
pub fn segments(observed: &State) -> Segments {
    let by_hand = |vni: &u32| observed.segments.get(vni).is_some_and(|one| one.flags & segment_flags::LEARNS != 0);
    let networks = observed.segments.iter().filter(|(vni, _)| !by_hand(vni)).map(|(vni, found)| SegmentAnswer {
        vni: *vni,
        port: found.port,
        encrypted: found.flags & segment_flags::ENCRYPTED != 0,
        no_icc: found.flags & segment_flags::NO_ICC != 0,
        gateways: [IpAddr::from(found.gateway_ipv4), IpAddr::from(found.gateway_ipv6)]
            .into_iter()
            .filter(|gateway| !gateway.is_unspecified())
            .collect(),
        gateway_mac: found.gateway_mac,
    });
    let vteps = observed.vteps.iter().filter(|key| key.is_of_segment() && !by_hand(&key.vni));
    Segments { networks: networks.collect(), vteps: vteps.map(|key| (key.vni, key.address.ip())).collect() }
}

/// What a host has of ports that every node publishes.
pub fn published(model: &Model, observed: &State, view: &View, me: &Name) -> MeshAnswer {
    let mut answer = MeshAnswer::default();
    for (key, MeshEnd { vtep, vni, mac, .. }) in &observed.mesh {
        let vtep = vtep.ip();
        if key.zone.is_of_vtep() {
            answer.hosts.insert(vtep);
        } else {
            answer.ways.push(Way { vni: *vni, address: key.address.ip(), mac: *mac, vtep });
        }
    }
    let taken = taken(view, me);
    let place = |taken: &Taken| (taken.port.vni, taken.port.address);
    let shown: BTreeSet<_> =
        taken.iter().filter(|taken| mesh::obstacle(model, &taken.port).is_none()).map(place).collect();
    answer.hidden = taken.iter().map(place).filter(|place| !shown.contains(place)).collect();
    answer
}

/// What an earlier daemon has left of the others.
pub fn remembered(model: &Model, observed: &State) -> Remotes {
    let vnis: Vec<u32> = model
        .networks
        .values()
        .filter_map(|network| match &network.driver {
            Driver::Overlay(segment) => Some(segment.vni),
            _ => None,
        })
        .collect();
    let vteps = observed.vteps.iter().filter(|key| vnis.contains(&key.vni)).map(|key| key.address.ip());
    let endpoints = observed.remotes.iter().filter(|(key, _)| vnis.contains(&key.vni)).map(|(key, remote)| {
        let endpoint = RemoteEndpoint { mac: remote.mac, vtep: remote.vtep.ip(), incarnation: remote.incarnation };
        ((key.vni, key.address.ip()), endpoint)
    });
    // An uplink whose driver passes frames of the mesh on knows as whom.
    let uplinks = observed.devices.values().filter(|device| device.kind == DeviceKind::Uplink as u8);
    let as_whom = |uplink: &DeviceRecord| [IpAddr::from(uplink.gateway_ipv4), IpAddr::from(uplink.gateway_ipv6)];
    let own = uplinks.flat_map(as_whom).find(|own| !own.is_unspecified());
    let (vteps, endpoints) = (vteps.collect(), endpoints.collect());
    let allowances = allowances(model, observed);
    Remotes { own, vteps, endpoints, ports: Vec::new(), allowances, kept: kept(observed) }
}

/// What the host has of ports that other hosts publish everywhere.
fn kept(observed: &State) -> Kept {
    let ends = observed.mesh.clone();
    let leads_there = |to: &Publication| ends.contains_key(&EndpointKey { address: to.address, zone: to.zone, pad: 0 });
    let publications: BTreeMap<_, _> =
        observed.publications.iter().filter(|(_, to)| leads_there(to)).map(|(key, to)| (*key, *to)).collect();
    let of_these = |range: &&SourceKey| publications.values().any(|to| to.sources == range.list());
    let sources = observed.sources.iter().filter(of_these).copied().collect();
    Kept { ends, publications, sources }
}

#[cfg(test)]
mod tests {
    use netd_common::{
        tables::VtepKey,
        tuple::{Address, Port},
    };

    use super::*;

    #[test]
    fn only_what_says_who_may_send_into_a_segment_is_told_as_such() {
        let host = IpAddr::from([192, 0, 2, 2]);
        let address = Address::from(host);
        let vteps = [
            VtepKey { address, vni: 7 },
            VtepKey::with_keys(address),
            VtepKey::with_port(Port::new(4789)),
            VtepKey::with_port(Port::new(65_535)),
        ];
        let observed = State { vteps: vteps.into(), ..State::default() };

        assert_eq!(segments(&observed).vteps, [(7, host)].into());
    }
}
