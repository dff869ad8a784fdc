//! What is planned of networks that span hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use netd_common::{
    tables::{MeshEnd, Publication, PublicationKey},
    tuple::{Mac, Port, Zone},
};

use super::*;
use crate::{
    model::{self, Kept, Model, PortPublication, RemotePort, Subnet, tests},
    plan::{Choices, plan},
    reconcile::{DeviceRecord, Ipsec, LinkName, PolicyId, Protection, Sandbox, Uplink, Way, Ways},
};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn facts(path_mtu: u32) -> HostFacts {
    let uplink = Uplink { layer3: false, mtu: 1500, path_mtu, addresses: Vec::new(), was_no_router: [].into() };
    HostFacts { uplinks: [(LinkName::new("eth0").unwrap(), uplink)].into(), ..HostFacts::default() }
}

/// A model with a network of driver vxlan, VNI 7.
fn by_hand() -> Model {
    let mut model = Model::default();
    tests::create(&mut model, tests::vxlan(7, &["192.0.2.3", "192.0.2.2"])).unwrap();
    model
}

/// The same network, as the cluster would have it.
fn of_cluster() -> Model {
    let mut model = by_hand();
    for network in model.networks.values_mut() {
        let Driver::Vxlan(segment) = &network.driver else { panic!("it is by hand") };
        network.driver = Driver::Overlay(Segment { peers: [].into(), ..segment.clone() });
    }
    model
}

fn choices(remotes: &Remotes) -> Choices {
    Choices { secret: [1, 2], remotes: remotes.clone(), ..Choices::default() }
}

fn planned(model: &Model, remotes: &Remotes) -> State {
    plan(model, &facts(1500), &choices(remotes))
}

#[test]
fn a_segment_by_hand_floods_to_its_peers_and_hears_nobody_else() {
    let state = planned(&by_hand(), &Remotes::default());
    let tunnel = LinkName::new("ndx-4789").unwrap();

    assert_eq!(state.tunnels, [(tunnel.clone(), Tunnel { port: 4789, offload: true, intact: true })].into());
    assert!(state.hooks.contains(&(tunnel, Hook::FromOverlay)));
    let segment = &state.segments[&7];
    assert_eq!((segment.peers, segment.flags, segment.underlay_mtu), (2, segment_flags::LEARNS, 1500));
    assert_eq!((segment.gateway_ipv4, segment.gateway_mac), ([10, 9, 0, 1], Mac([2, 0x6e, 0x64, 0, 0, 7])));
    let peers = [ip("192.0.2.2"), ip("192.0.2.3")].map(Address::from);
    assert_eq!(state.peers.values().copied().collect::<Vec<_>>(), peers);
    let heard = state.vteps.iter().filter(|key| key.is_of_segment()).copied().collect::<Vec<_>>();
    assert_eq!(heard, peers.map(|address| VtepKey { address, vni: 7 }));
    assert!(state.remotes.is_empty());
}

#[test]
fn the_programs_know_the_port_of_each_tunnel_and_it_is_no_host_that_is_heard() {
    let mut model = by_hand();
    let order = tests::vxlan(8, &["192.0.2.2"]);
    let (name, subnets) = ("other".into(), vec!["10.9.1.0/24".into()]);
    tests::create(&mut model, model::NetworkOrder { name, subnets, vxlan_port: Some(8472), ..order }).unwrap();
    let state = planned(&model, &Remotes::default());

    for (port, text) in [(4789, "port 4789 of a tunnel"), (8472, "port 8472 of a tunnel")] {
        let key = VtepKey::with_port(Port::new(port));
        assert!(state.vteps.contains(&key) && !key.is_of_segment());
        assert_eq!(key.to_string(), text);
    }
    assert_eq!(state.vteps.iter().filter(|key| !key.is_of_segment()).count(), 2);
}

#[test]
fn an_overlay_has_what_the_cluster_says_of_its_own_segment_and_no_other() {
    let endpoint = RemoteEndpoint { mac: MAC, vtep: ip("192.0.2.2"), incarnation: 3 };
    let endpoints = [((7, ip("10.9.0.5")), endpoint), ((8, ip("10.9.0.6")), endpoint)].into();
    let remotes = Remotes { vteps: [ip("192.0.2.2"), ip("192.0.2.3")].into(), endpoints, ..Remotes::default() };

    let state = planned(&of_cluster(), &remotes);

    let remote = Remote { vtep: ip("192.0.2.2").into(), incarnation: 3, mac: MAC, pad: 0 };
    assert_eq!(state.remotes, [(RemoteKey { address: ip("10.9.0.5").into(), vni: 7 }, remote)].into());
    let hosts = state.vteps.iter().filter(|key| key.is_of_segment()).count();
    assert_eq!((hosts, state.peers.len(), state.segments[&7].flags), (2, 0, 0));
    assert_eq!(planned(&by_hand(), &remotes).remotes, BTreeMap::new(), "what is by hand the cluster does not know");
}

#[test]
fn what_the_cluster_still_says_of_an_address_that_a_container_here_has_is_not_planned() {
    let mut model = of_cluster();
    let name = "spanning".parse().unwrap();
    let endpoint = tests::two_networks_and_an_endpoint().endpoints.into_values().next().unwrap();
    let mut endpoint = Arc::unwrap_or_clone(endpoint);
    endpoint.attachments.truncate(1);
    endpoint.attachments[0].network = name;
    endpoint.attachments[0].ip = Some("10.9.0.5".parse().unwrap());
    let sandbox = crate::reconcile::Sandbox { path: endpoint.netns.clone(), inode: endpoint.netns_inode };
    model.endpoints.insert(endpoint.name.clone(), Arc::new(endpoint));
    let elsewhere = RemoteEndpoint { mac: MAC, vtep: ip("192.0.2.2"), incarnation: 3 };
    let remotes = Remotes { endpoints: [((7, ip("10.9.0.5")), elsewhere)].into(), ..Remotes::default() };
    let facts = HostFacts { sandboxes: [(sandbox.path.clone(), sandbox)].into(), ..facts(1500) };

    let state = plan(&model, &facts, &choices(&remotes));

    assert_eq!((state.remotes.len(), state.endpoints.len()), (0, 1));
    assert!(state.devices.values().any(|device| device.vni == 7));
}

fn port_of_the_mesh(node_port: u16, from: &[&str]) -> RemotePort {
    let publication = PortPublication {
        host_ip: ip("0.0.0.0"),
        direct: false,
        host_port: node_port,
        port: 80,
        count: 2,
        protocol: model::Protocol::Tcp,
        from: from.iter().map(|net| net.parse().unwrap()).collect(),
        mesh: true,
    };
    RemotePort { vni: 7, address: ip("10.9.0.5"), publication }
}

#[test]
fn what_another_host_publishes_everywhere_is_published_here_and_leads_there() {
    let endpoint = RemoteEndpoint { mac: MAC, vtep: ip("192.0.2.2"), incarnation: 3 };
    let ports = vec![port_of_the_mesh(8080, &["198.51.100.0/24"])];
    let endpoints: BTreeMap<_, _> = [((7, ip("10.9.0.5")), endpoint)].into();
    let remotes = Remotes { vteps: [ip("192.0.2.2")].into(), endpoints, ports, ..Remotes::default() };
    let model = of_cluster();

    let state = planned(&model, &remotes);

    let zone = model.networks.values().next().unwrap().zone();
    let (address, vtep) = (Address::from(ip("10.9.0.5")), Address::from(ip("192.0.2.2")));
    let host = EndpointKey { address: Address::ANY_V6, zone: Zone::of_vtep(vtep), pad: 0 };
    assert_eq!(state.mesh[&EndpointKey { address, zone, pad: 0 }], MeshEnd { vtep, vni: 7, mac: MAC, pad: 0 });
    assert_eq!((state.mesh[&host], state.mesh.len()), (MeshEnd { vtep, ..MeshEnd::default() }, 2));
    let [(key, to)] = state.publications.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", state.publications) };
    assert_eq!(
        (key.address, to.last.number() - to.first.number() + 1, to.address, to.zone),
        (Address::ANY_V4, 2, address, zone)
    );
    assert_eq!((to.port(Port::new(8081)).number(), to.sources.is_anyone(), state.sources.len()), (81, false, 1));

    assert!(planned(&by_hand(), &remotes).mesh.is_empty(), "a host without networks of the cluster has no part in it");
    let gone = Remotes { endpoints: [].into(), ..remotes };
    assert!(planned(&of_cluster(), &gone).publications.is_empty(), "and a container that is nowhere no port");
}

#[test]
fn drivers_of_uplinks_that_lead_to_other_hosts_pass_on_what_is_for_their_containers() {
    let endpoint = RemoteEndpoint { mac: MAC, vtep: ip("192.0.2.2"), incarnation: 3 };
    let ports = vec![port_of_the_mesh(8080, &[])];
    let endpoints: BTreeMap<_, _> = [((7, ip("10.9.0.5")), endpoint)].into();
    let remotes =
        Remotes { own: Some(ip("192.0.2.1")), vteps: [ip("192.0.2.2")].into(), endpoints, ports, ..Remotes::default() };
    let eth0 = LinkName::new("eth0").unwrap();
    let with = |link: &str, sends_back: bool| {
        let way = Way { link: LinkName::new(link).unwrap(), mtu: 1500, source: None };
        let ways = Ways { nodes: [(ip("192.0.2.2"), way)].into(), ..Ways::default() };
        let drivers = |there: bool| if there { [eth0.clone()].into() } else { [].into() };
        let addresses = [ip("192.0.2.1"), ip("2001:db8::1")].into();
        HostFacts { ways, addresses, early: drivers(true), sends_back: drivers(sends_back), ..facts(1500) }
    };
    let mut model = of_cluster();
    let passes_on_in = |model: &Model, facts: &HostFacts, remotes: &Remotes| {
        let state = plan(model, facts, &choices(remotes));
        let attached = state.hooks.contains(&(eth0.clone(), Hook::UplinkXdp));
        assert_eq!(state.segments[&7].port, 4789);
        let DeviceRecord { gateway_ipv4, gateway_ipv6, .. } = state.devices[&eth0];
        (IpAddr::from(gateway_ipv4), IpAddr::from(gateway_ipv6), attached)
    };
    let passes_on = |facts: &HostFacts, remotes: &Remotes| passes_on_in(&of_cluster(), facts, remotes);
    let [nobody, nobody_of_ipv6] = [ip("0.0.0.0"), ip("::")];

    assert_eq!(passes_on(&with("eth0", true), &remotes), (ip("192.0.2.1"), nobody_of_ipv6, true));
    let none = (nobody, nobody_of_ipv6, false);
    let of_ipv6 = Remotes { own: Some(ip("2001:db8::1")), ..remotes.clone() };
    assert_eq!(passes_on(&with("eth0", true), &of_ipv6), none, "the host forwards no IPv6");
    for network in model.networks.values_mut() {
        let (subnet, gateway) = ("fd00:9::/64".parse().unwrap(), ip("fd00:9::1"));
        network.subnets.push(Subnet { subnet, gateway, ..network.subnets[0].clone() });
    }
    assert_eq!(passes_on_in(&model, &with("eth0", true), &of_ipv6), (nobody, ip("2001:db8::1"), true));
    assert_eq!(passes_on(&with("eth1", true), &remotes), none, "no other host is there");
    assert_eq!(passes_on(&with("eth0", false), &remotes), none, "its driver would lose what it sends back");
    let moved = HostFacts { addresses: [ip("192.0.2.7")].into(), ..with("eth0", true) };
    assert_eq!(passes_on(&moved, &remotes), none, "the others know it by an address that it has not");
    let nowhere = Remotes { ports: Vec::new(), ..remotes };
    assert_eq!(passes_on(&with("eth0", true), &nowhere), none, "nothing is published elsewhere");
}

#[test]
fn a_port_that_this_host_has_is_its_own_here() {
    let mut model = of_cluster();
    let endpoint = tests::two_networks_and_an_endpoint().endpoints.into_values().next().unwrap();
    let mut endpoint = Arc::unwrap_or_clone(endpoint);
    endpoint.publications =
        vec![PortPublication { host_port: 8081, count: 1, mesh: false, ..port_of_the_mesh(0, &[]).publication }];
    model.endpoints.insert(endpoint.name.clone(), Arc::new(endpoint));
    let elsewhere = RemoteEndpoint { mac: MAC, vtep: ip("192.0.2.2"), incarnation: 3 };
    let ports = vec![port_of_the_mesh(8080, &[]), port_of_the_mesh(9000, &[])];
    let remotes = Remotes { endpoints: [((7, ip("10.9.0.5")), elsewhere)].into(), ports, ..Remotes::default() };

    let state = planned(&model, &remotes);

    let published: Vec<_> = state.publications.keys().map(|key| key.port.number()).collect();
    assert_eq!(published, [9000], "8080 and 8081 would hide the endpoint's own");
    assert_eq!(crate::plan::mesh::obstacle(&model, &remotes.ports[0]).map(|(_, port)| port), Some(8081));
}

#[test]
fn what_an_earlier_daemon_has_left_of_the_mesh_gives_way_to_a_port_of_this_host() {
    let mut model = of_cluster();
    let endpoint = tests::two_networks_and_an_endpoint().endpoints.into_values().next().unwrap();
    let mut endpoint = Arc::unwrap_or_clone(endpoint);
    endpoint.attachments[0].network = model.networks.keys().next().unwrap().clone();
    endpoint.publications =
        vec![PortPublication { host_port: 8081, count: 1, mesh: false, ..port_of_the_mesh(0, &[]).publication }];
    let (path, inode) = (endpoint.netns.clone(), endpoint.netns_inode);
    model.endpoints.insert(endpoint.name.clone(), Arc::new(endpoint));
    let to = |first| Publication::new(Zone(1), ip("10.9.0.5").into(), first, 80).up_to(first + 1);
    let entry = |first| (PublicationKey::of(Address::ANY_V4, 6, &to(first)), to(first));
    let kept = Kept { publications: [entry(8080), entry(9000)].into(), ..Kept::default() };

    let sandbox = Sandbox { path, inode };
    let facts = HostFacts { sandboxes: [(sandbox.path.clone(), sandbox)].into(), ..facts(1500) };
    let state = plan(&model, &facts, &choices(&Remotes { kept, ..Remotes::default() }));

    let published: BTreeSet<_> = state.publications.values().map(|to| to.first.number()).collect();
    assert_eq!(published, [8081, 9000].into());
}

#[test]
fn the_mtu_is_that_of_the_underlay_less_the_encapsulation_and_follows_it() {
    for (peer, overhead) in [("192.0.2.2", 50), ("2001:db8::2", 70)] {
        let mut model = Model::default();
        tests::create(&mut model, tests::vxlan(7, &[peer])).unwrap();
        for underlay in [1400, 1500, 9000] {
            crate::model::follow_mtu(&mut model, &facts(underlay));
            assert_eq!(model.networks.values().next().unwrap().mtu, underlay - overhead, "{peer}");
            let state = plan(&model, &facts(underlay), &choices(&Remotes::default()));
            assert_eq!(state.segments[&7].underlay_mtu, underlay);
        }
    }
}

#[test]
fn the_way_to_another_host_counts_whatever_else_is_narrow_but_what_leaves_must_fit_too() {
    let mut model = of_cluster();
    let mut mtu = |out: u32, nodes: &[(&str, u32)]| {
        let way = |vtep: &str, mtu| (ip(vtep), Way { link: LinkName::new("eth1").unwrap(), mtu, source: None });
        let nodes = nodes.iter().map(|(vtep, mtu)| way(vtep, *mtu)).collect();
        let facts = HostFacts { ways: Ways { nodes, peers: [way("192.0.2.9", 576)].into() }, ..facts(out) };
        crate::model::follow_mtu(&mut model, &facts);
        let state = plan(&model, &facts, &choices(&Remotes::default()));
        (model.networks.values().next().unwrap().mtu, state.segments[&7].underlay_mtu)
    };

    assert_eq!(mtu(1500, &[("192.0.2.2", 9000), ("192.0.2.3", 1400)]), (1350, 1400), "the narrowest to a node");
    assert_eq!(mtu(1500, &[("192.0.2.2", 9000)]), (1500, 9000), "and no further than out");
    assert_eq!(mtu(1400, &[]), (1350, 1400), "as long as no node is known");
}

#[test]
fn a_foreign_device_on_the_port_is_named() {
    let device = LinkName::new("vxlan0").unwrap();
    let facts = HostFacts { vxlan_devices: [(4789, device)].into(), ..facts(1500) };

    let told = crate::plan::warnings(&by_hand(), &facts).join("\n");

    assert!(told.contains("network spanning has UDP port 4789, which the VXLAN device vxlan0"), "{told}");
}

#[test]
fn an_encrypted_network_is_carried_where_nothing_of_it_can_go_in_clear_and_says_to_whom_there_are_keys() {
    let (mut model, there) = (of_cluster(), ip("192.0.2.2"));
    for network in model.networks.values_mut() {
        let Driver::Overlay(segment) = &mut network.driver else { panic!("it is of the cluster") };
        (segment.encrypted, segment.port) = (true, 4790);
    }
    let endpoint = RemoteEndpoint { mac: MAC, vtep: there, incarnation: 3 };
    let endpoints = [((7, ip("10.9.0.5")), endpoint)].into();
    let remotes = Remotes { vteps: [there].into(), endpoints, ..Remotes::default() };
    let without = planned(&model, &remotes);
    assert!(without.tunnels.is_empty() && without.segments.is_empty() && without.remotes.is_empty());
    assert!(!without.bridges.is_empty(), "on its own host it is a network all the same");

    let mut choices = choices(&remotes);
    let to_peer = PolicyId { inbound: false, family: Family::V4, peer: Some(there), port: 4790 };
    choices.ipsec.policies = Ipsec::guard(4790).chain([(to_peer, Protection::Esp(0x1234))]).collect();
    let state = plan(&model, &facts(1500), &choices);

    assert_eq!(state.tunnels.keys().map(LinkName::as_str).collect::<Vec<_>>(), ["ndx-4790"]);
    assert_eq!((state.segments[&7].flags, state.remotes.len()), (segment_flags::ENCRYPTED, 1));
    assert!(state.vteps.contains(&VtepKey::with_keys(there.into())) && state.ipsec == choices.ipsec);
    choices.ipsec.policies.remove(&to_peer);
    let state = plan(&model, &facts(1500), &choices);
    assert!(
        !state.vteps.contains(&VtepKey::with_keys(there.into())) && state.remotes.len() == 1,
        "known, and not sent to"
    );
}
