//! Whether what containers send to other hosts gets there, however large: devices exist that sum or cut what is in a tunnel wrongly.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Finding, Severity};
use crate::{
    model::{Driver, Model, Network, Remotes},
    plan::there,
    reconcile::{Family, Heard, HostFacts, LinkName, Probed, Sandbox, Station, Stations, TunnelProbe},
};

const CHECK: &str = "tunnels";

/// What to ask: of each node, by its VTEP, one container, in the name of one that is here and in a network with it.
pub fn probes(
    model: &Model,
    facts: &HostFacts,
    remotes: &Remotes,
    nodes: &BTreeMap<IpAddr, String>,
    stations: &Stations,
) -> Vec<TunnelProbe> {
    let of_nodes = nodes.iter().filter_map(|(vtep, node)| probe(model, facts, remotes, *vtep, node));
    of_nodes
        .chain(peers(model).filter_map(|(network, peer)| probe_peer(model, facts, stations, network, peer)))
        .collect()
}

/// Each peer of each network that was made by hand.
fn peers(model: &Model) -> impl Iterator<Item = (&Network, IpAddr)> {
    let by_hand = model.networks.values().filter(|network| matches!(network.driver, Driver::Vxlan(_)));
    by_hand.flat_map(|network| {
        let peers = network.driver.segment().into_iter().flat_map(|segment| &segment.peers);
        peers.map(move |peer| (network, *peer))
    })
}

/// Containers of a network whose neighbours are looked at.
const ASKED: usize = 16;

/// Whose neighbours to look at: some containers of each network that was made by hand.
pub fn sandboxes(model: &Model, facts: &HostFacts) -> Vec<Sandbox> {
    let by_hand = model.networks.values().filter(|network| matches!(network.driver, Driver::Vxlan(_)));
    let ours = by_hand.flat_map(|network| model.attachments_of(&network.name).take(ASKED));
    ours.filter_map(|(endpoint, _)| there(endpoint, facts)).collect()
}

/// What a peer has is known by what it said: a station that a container here has spoken with, and that was last heard of there.
fn probe_peer(
    model: &Model,
    facts: &HostFacts,
    stations: &Stations,
    network: &Network,
    vtep: IpAddr,
) -> Option<TunnelProbe> {
    let vni = network.driver.segment()?.vni;
    let mut ours = model.attachments_of(&network.name).take(ASKED);
    ours.find_map(|(endpoint, attachment)| {
        let sandbox = there(endpoint, facts)?;
        let is_there = |(ifname, station): &&(LinkName, Station)| {
            *ifname == attachment.ifname && stations.learned.get(&(vni, station.mac)) == Some(&vtep)
        };
        let (_, to) = *stations.neighbours.get(&sandbox.path)?.iter().find(is_there)?;
        Some(TunnelProbe {
            host: format!("peer {vtep}"),
            is_peer: true,
            vtep,
            network: network.name.to_string(),
            mtu: network.mtu,
            sandbox,
            ifname: attachment.ifname.clone(),
            from: Station { address: attachment.address(Family::of(to.address))?, mac: attachment.mac },
            to,
        })
    })
}

fn probe(model: &Model, facts: &HostFacts, remotes: &Remotes, vtep: IpAddr, node: &str) -> Option<TunnelProbe> {
    let theirs = remotes.endpoints.iter().filter(|(_, remote)| remote.vtep == vtep);
    theirs.into_iter().find_map(|((vni, address), remote)| {
        let is_its = |driver: &Driver| matches!(driver, Driver::Overlay(segment) if segment.vni == *vni);
        let network = model.networks.values().find(|network| is_its(&network.driver))?;
        let mut ours = model.attachments_of(&network.name);
        ours.find_map(|(endpoint, attachment)| {
            let from = Station { address: attachment.address(Family::of(*address))?, mac: attachment.mac };
            Some(TunnelProbe {
                host: format!("node {node} ({vtep})"),
                is_peer: false,
                vtep,
                network: network.name.to_string(),
                mtu: network.mtu,
                sandbox: there(endpoint, facts)?,
                ifname: attachment.ifname.clone(),
                from,
                to: Station { address: *address, mac: remote.mac },
            })
        })
    })
}

/// What is to be said of what was heard, and of hosts that nobody was asked on.
pub fn findings(probed: &Probed, model: &Model, facts: &HostFacts, nodes: &BTreeMap<IpAddr, String>) -> Vec<Finding> {
    let asked = |vtep: &IpAddr| probed.iter().any(|(probe, _)| !probe.is_peer && probe.vtep == *vtep);
    let unasked = nodes.iter().filter(|(vtep, _)| !asked(vtep)).map(|(_, node)| {
        Finding::fine(CHECK, format!("no network has containers here and on node {node}: nothing was sent there"))
    });
    let asked = |network: &Network, peer| {
        let is_it = |probe: &TunnelProbe| probe.vtep == peer && probe.network == network.name.as_str();
        probed.iter().any(|(probe, _)| probe.is_peer && is_it(probe))
    };
    let unheard = peers(model).filter(|(network, peer)| !asked(network, *peer)).map(|(network, peer)| {
        let unknown =
            format!("no container of {} has spoken by IPv4 of late with a station of peer {peer}", network.name);
        Finding::fine(CHECK, format!("{unknown}: large TCP was not tried there, since nobody says who is there"))
    });
    probed.iter().map(|(probe, heard)| finding(probe, heard, facts)).chain(unasked).chain(unheard).collect()
}

fn finding(probe: &TunnelProbe, heard: &Result<Heard, String>, facts: &HostFacts) -> Finding {
    let TunnelProbe { host, is_peer, vtep, network, mtu, .. } = probe;
    let ways = if *is_peer { &facts.ways.peers } else { &facts.ways.nodes };
    let device = ways.get(vtep).map_or_else(|| "the device there".to_owned(), |way| way.link.to_string());
    let there = format!("to {host} by {device}");
    let warning =
        |found: String, meaning: &str, remedy: &str| Finding::new(CHECK, Severity::Warning, found, meaning, remedy);
    let or_setting =
        "or `tunnel-offload = false` under [daemon] in netd.toml, which leaves nothing of it to any device";
    match heard {
        Ok(Heard::ALL) => Finding::fine(CHECK, format!("large TCP gets through {there}")),
        Ok(Heard { small: false, .. }) if *is_peer => Finding::new(
            CHECK,
            Severity::Note,
            format!(
                "TCP is not answered {there}: {} in network {network} says nothing at its port 9",
                probe.to.address
            ),
            "That host may have a firewall, or what is sent by the tunnel is lost: whether large TCP gets through there is not known.",
            "Let it answer for a closed port, and ask again.",
        ),
        Ok(Heard { small: false, .. }) => warning(
            format!(
                "TCP is not answered {there}: from {} to {}, in network {network}",
                probe.from.address, probe.to.address
            ),
            "No container there is reached, or this one answers nobody.",
            "See `netd overlay verify`, whether UDP of the tunnel's port passes the firewalls of both hosts, and that container's own.",
        ),
        Ok(Heard { summed: false, .. }) => warning(
            format!("TCP whose checksum is left to the device does not get through {there}: tx checksum offload"),
            "What containers send there arrives with a wrong checksum, and is dropped: nothing connects.",
            &format!(
                "ethtool -K {device} tx-checksum-ip-generic off (or what `ethtool -k {device}` has of tx-checksum), {or_setting}"
            ),
        ),
        Ok(Heard { full: false, .. }) => warning(
            format!("packets of {mtu} bytes do not get through {there}"),
            "The way takes less than its route says: connections open, and hang at the first large packet.",
            &format!("Give the route to {vtep} the MTU that it has: the network follows it."),
        ),
        Ok(Heard { cut: false, .. }) => warning(
            format!(
                "large TCP does not get through {there}: segmentation of what is in a tunnel is left to the device"
            ),
            "Packets of one segment arrive, and larger ones that the device is to cut do not: connections open, and hang or crawl.",
            &format!("ethtool -K {device} tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off, {or_setting}"),
        ),
        Err(why) => Finding::new(
            CHECK,
            Severity::Note,
            format!("TCP {there} was not tried: {why}"),
            "Whether large TCP gets through there is not known.",
            "Ask again; `netd overlay verify` compares what the hosts know.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{LinkName, Sandbox, Way};
    use netd_common::tuple::Mac;

    #[test]
    fn a_peer_that_answers_nothing_is_no_warning_since_it_may_have_a_firewall() {
        let vtep: IpAddr = "192.0.2.2".parse().unwrap();
        let station = |last| Station { address: [10, 9, 0, last].into(), mac: Mac([2, 0, 0, 0, 0, last]) };
        let probe = TunnelProbe {
            host: format!("peer {vtep}"),
            is_peer: true,
            vtep,
            network: "blue".into(),
            mtu: 1450,
            sandbox: Sandbox { path: "/run/netns/one".into(), inode: 1 },
            ifname: LinkName::new("eth0").unwrap(),
            from: station(2),
            to: station(100),
        };
        let finding = finding(&probe, &Ok(Heard::default()), &HostFacts::default());
        assert_eq!(finding.severity, Severity::Note);
        assert!(finding.found.contains("10.9.0.100 in network blue says nothing"), "{finding:?}");
    }

    #[test]
    fn the_first_that_is_not_answered_names_what_is_wrong() {
        let vtep: IpAddr = "192.0.2.2".parse().unwrap();
        let eth0 = LinkName::new("eth0").unwrap();
        let station = |last| Station { address: [10, 9, 0, last].into(), mac: Mac([2, 0, 0, 0, 0, last]) };
        let probe = TunnelProbe {
            host: "node b (192.0.2.2)".into(),
            is_peer: false,
            vtep,
            network: "web".into(),
            mtu: 1450,
            sandbox: Sandbox { path: "/run/netns/one".into(), inode: 1 },
            ifname: eth0.clone(),
            from: station(2),
            to: station(3),
        };
        let mut facts = HostFacts::default();
        facts.ways.nodes.insert(vtep, Way { link: eth0, mtu: 1500, source: None });
        let heard = |small, summed, full, cut| Ok(Heard { small, summed, full, cut });
        for (heard, found, remedy) in [
            (heard(true, true, true, true), "large TCP gets through to node b (192.0.2.2) by eth0", ""),
            (heard(true, true, true, false), "large TCP does not get through", "eth0 tx-udp_tnl-segmentation off"),
            (heard(true, true, false, false), "packets of 1450 bytes do not get through", "route to 192.0.2.2"),
            (heard(true, false, false, false), "TCP whose checksum is left to the device", "tunnel-offload = false"),
            (heard(false, false, false, false), "TCP is not answered", "netd overlay verify"),
            (Err("its namespace is gone".to_owned()), "TCP to node b (192.0.2.2) by eth0 was not tried", ""),
        ] {
            let finding = finding(&probe, &heard, &facts);
            assert!(finding.found.starts_with(found) && finding.remedy.contains(remedy), "{finding:?}");
        }
        let nodes = [(vtep, "b".to_owned()), ([192, 0, 2, 3].into(), "c".to_owned())].into();
        let found = findings(&vec![(probe, Ok(Heard::ALL))], &Model::default(), &facts, &nodes);
        assert_eq!(found.len(), 2);
        assert!(found[1].found.contains("node c"), "{found:?}");
    }
}
