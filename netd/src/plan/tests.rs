//! What is planned for a model on a host.

use std::sync::Arc;

use netd_common::{
    tables::{EndpointKey, Publication, PublicationKey, Publications, Timeout},
    tuple::{Port, TCP},
};

use super::*;
use crate::{
    model::{
        GatewayMode,
        tests::{a_network_of_both_families_and_an_endpoint, two_networks_and_an_endpoint},
    },
    reconcile::{LinkName, RoutingRules, Use},
};

fn choices() -> Choices {
    Choices { secret: [1, 2], ..Choices::default() }
}

fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

/// A host with `eth0`, and the sandbox of `c1`.
fn facts(was_no_router: bool) -> HostFacts {
    let addresses = ["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"].map(|text| text.parse().unwrap()).to_vec();
    let was_no_router = Family::BOTH.into_iter().filter(|_| was_no_router).collect();
    let sandbox = Sandbox { path: "/run/netns/c1".into(), inode: 7 };
    HostFacts {
        uplinks: [(link("eth0"), Uplink { layer3: false, mtu: 1500, path_mtu: 1500, addresses, was_no_router })].into(),
        addresses: ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()].into(),
        ephemeral: Some(EPHEMERAL),
        timeouts: [30; Timeout::COUNT],
        sandboxes: [(sandbox.path.clone(), sandbox)].into(),
        ..Default::default()
    }
}

#[test]
fn a_host_without_networks_gets_programs_on_its_uplinks_and_nothing_else() {
    let state = plan(&Model::default(), &facts(true), &choices());

    assert_eq!(Vec::from_iter(&state.hooks), [&(link("eth0"), Hook::FromUplink), &(link("eth0"), Hook::ToUplink)]);
    assert_eq!(state.devices[&link("eth0")].ipv4, [192, 0, 2, 1]);
    assert_eq!(state.devices[&link("eth0")].flags, 0);
    assert!(state.forwarding.is_empty() && state.bridges.is_empty() && state.endpoints.is_empty());
}

#[test]
fn forwarding_that_was_on_before_netd_stays_on_without_networks() {
    let state = plan(&Model::default(), &facts(false), &choices());

    assert_eq!(state.forwarding, Family::BOTH.map(|family| (link("eth0"), family)).into());
}

#[test]
fn a_host_that_was_no_router_is_one_for_its_containers_only() {
    let model = two_networks_and_an_endpoint();

    let state = plan(&model, &facts(true), &choices());

    assert_eq!(state.devices[&link("eth0")].flags, device_flags::NOT_A_ROUTER_V4);
    let bridges = model.networks.values().map(Network::bridge);
    assert_eq!(state.forwarding, bridges.chain([link("eth0")]).map(|link| (link, Family::V4)).collect());
}

#[test]
fn an_endpoint_is_planned_in_each_of_its_networks_with_one_way_out() {
    let model = two_networks_and_an_endpoint();
    let state = plan(&model, &facts(false), &choices());
    let endpoint = model.endpoints.values().next().unwrap();
    let [back, front] = &endpoint.attachments[..] else { panic!("two attachments") };

    let (inside, outside) = (&state.veths[&back.veth()], &state.veths[&front.veth()]);
    assert!(inside.interface.gateways.is_empty());
    assert_eq!(outside.interface.gateways, ["10.176.0.1".parse().unwrap()].into());
    assert_eq!(outside.interface.addresses, ["10.176.0.2/24".parse().unwrap()].into());
    assert_eq!(state.devices[&back.veth()].flags, device_flags::INTERNAL);
    assert_eq!(state.devices[&front.veth()].flags, 0);
    assert_eq!(state.devices[&front.veth()].gateway_mac, model.networks[&front.network].mac);
    for hook in [Hook::FromContainer, Hook::ToContainer] {
        assert!(state.hooks.contains(&(back.veth(), hook)) && state.hooks.contains(&(front.veth(), hook)));
    }
    let zone = model.networks[&front.network].zone();
    let key = EndpointKey { address: front.ip.unwrap().into(), zone, pad: 0 };
    assert_eq!(state.endpoints[&key].device, front.veth());
    let knock = PublicationKey::new(Address::ANY_V4, 6, Port::new(8080));
    let publication = Publication::new(zone, front.ip.unwrap().into(), 8080, 80);
    assert_eq!(state.publications, [(knock, publication)].into());
}

#[test]
fn ranges_of_single_addresses_are_one_entry_each_and_what_they_take_together_is_noted_once() {
    let mut model = two_networks_and_an_endpoint();
    let name = model.endpoints.keys().next().unwrap().clone();
    let port = model.endpoint(&name).unwrap().publications[0].clone();
    let at = |address: &str, host_port, count| model::PortPublication {
        host_ip: address.parse().unwrap(),
        host_port,
        count,
        ..port.clone()
    };
    model.endpoint_mut(&name).unwrap().publications =
        vec![at("192.0.2.1", 8000, 100), at("192.0.2.2", 8050, 100), at("192.0.2.2", 9000, 1), at("0.0.0.0", 7000, 9)];

    let state = plan(&model, &facts(true), &choices());

    let ports = |is_note: bool| {
        let entries = state.publications.iter().filter(|(key, _)| key.is_somewhere() == is_note);
        entries.map(|(_, to)| (to.first.number(), to.last.number())).collect::<BTreeSet<_>>()
    };
    assert_eq!(ports(false), [(7000, 7008), (8000, 8099), (8050, 8149), (9000, 9000)].into());
    assert_eq!(ports(true), [(8000, 8149), (9000, 9000)].into());
    let is_noted =
        |port| state.publication(&mut PublicationKey::new(Address::ANY_V4, TCP, Port::new(port)).somewhere());
    for (port, noted) in [(7999, false), (8000, true), (8149, true), (8150, false), (9000, true), (7000, false)] {
        assert_eq!(is_noted(port).is_some(), noted, "{port}");
    }
}

#[test]
fn published_ports_that_the_kernel_would_give_are_withheld_while_an_eighth_of_them_is_left() {
    let mut model = two_networks_and_an_endpoint();
    let name = model.endpoints.keys().next().unwrap().clone();
    let port = model.endpoint(&name).unwrap().publications[0].clone();
    let range = |first, last| PortRange { first, last };
    let facts = |reserved: &[PortRange]| HostFacts {
        ephemeral: Some(range(41_000, 41_015)),
        reserved: reserved.iter().copied().collect(),
        ..facts(true)
    };
    let mut withheld = |ports: &[(u16, u16)], reserved: &[PortRange]| {
        let published = ports.iter().map(|(host_port, count)| model::PortPublication {
            host_port: *host_port,
            count: *count,
            ..port.clone()
        });
        model.endpoint_mut(&name).unwrap().publications = published.collect();
        let facts = facts(reserved);
        let warns = warnings(&model, &facts).iter().any(|warning| warning.contains("ip_local_port_range"));
        (plan(&model, &facts, &choices()).withheld.into_iter().collect::<Vec<_>>(), warns)
    };

    assert_eq!(withheld(&[(8080, 1)], &[]), (vec![], false), "the kernel never gives it");
    let both = vec![range(41_000, 41_003), range(41_010, 41_010)];
    assert_eq!(withheld(&[(40_990, 14), (41_010, 1), (8080, 1)], &[]), (both, false));
    assert_eq!(withheld(&[(41_000, 14)], &[range(41_000, 41_005)]), (vec![range(41_000, 41_013)], false));
    assert_eq!(withheld(&[(41_000, 14)], &[range(41_015, 50_000)]), (vec![], true));
}

#[test]
fn both_families_of_a_network_are_planned_alike() {
    let model = a_network_of_both_families_and_an_endpoint("fd00:1::/64");
    let state = plan(&model, &facts(true), &choices());
    let (network, endpoint) = (model.networks.values().next().unwrap(), model.endpoints.values().next().unwrap());
    let (bridge, veth, zone) = (network.bridge(), endpoint.attachments[0].veth(), network.zone());

    let all = |texts: [&str; 2]| BTreeSet::from(texts.map(|text| text.parse::<IpNet>().unwrap()));
    assert_eq!(state.bridges[&bridge].addresses, all(["10.1.0.1/24", "fd00:1::1/64"]));
    let interface = &state.veths[&veth].interface;
    assert_eq!(interface.addresses, all(["10.1.0.2/24", "fd00:1::2/64"]));
    assert_eq!(interface.gateways, ["10.1.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap()].into());
    let of_both = |link: LinkName| Family::BOTH.map(|family| (link.clone(), family));
    assert_eq!(state.forwarding, of_both(bridge.clone()).into_iter().chain(of_both(link("eth0"))).collect());
    let device = &state.devices[&veth];
    assert_eq!((device.ipv4, device.gateway_ipv4), ([10, 1, 0, 2], [10, 1, 0, 1]));
    assert_eq!((device.ipv6[15], device.gateway_ipv6[15], device.flags), (2, 1, 0));
    let uplink = &state.devices[&link("eth0")];
    assert_eq!(uplink.ipv6, "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert_eq!(uplink.flags, device_flags::NOT_A_ROUTER_V4 | device_flags::NOT_A_ROUTER_V6);
    let container: IpAddr = "fd00:1::2".parse().unwrap();
    assert_eq!(state.endpoints[&EndpointKey { address: container.into(), zone, pad: 0 }].device, veth);
    let knock = PublicationKey::new(Address::ANY_V6, 6, Port::new(8080));
    assert_eq!(state.publications[&knock], Publication::new(zone, container.into(), 8080, 80));
    assert_eq!(state.publications.len(), 2);
}

#[test]
fn a_further_bridge_is_planned_for_whom_the_first_has_no_port_and_joined_to_it() {
    let mut model = two_networks_and_an_endpoint();
    for endpoint in model.endpoints.values_mut().map(Arc::make_mut) {
        endpoint.attachments[1].bridge = 2;
    }
    let state = plan(&model, &facts(false), &choices());
    let attachment = &model.endpoints.values().next().unwrap().attachments[1];
    let network = &model.networks[&attachment.network];
    let [further, near, far] = ["ndb", "ndj", "ndk"].map(|kind| link(&format!("{kind}-{}-2", &network.id[..8])));

    assert_eq!(state.veths[&attachment.veth()].bridge, further);
    assert_eq!(
        state.devices[&attachment.veth()].bridge,
        Some(network.bridge()),
        "the host has its routes by the first"
    );
    let (first, second) = (&state.bridges[&network.bridge()], &state.bridges[&further]);
    assert!(second.addresses.is_empty() && second.mac != first.mac && second.mtu == first.mtu);
    let join = &state.joins[&near];
    assert_eq!((&join.bridge, &join.far, &join.further), (&network.bridge(), &far, &further));
    assert!(state.hooks.contains(&(near.clone(), Hook::ToContainer)));
    for side in [&near, &far] {
        assert_eq!((state.devices[side].kind, state.devices[side].zone), (DeviceKind::Join as u8, network.zone()));
    }
    assert_eq!((state.bridges.len(), state.joins.len()), (3, 1), "nothing for what nobody needs");
}

#[test]
fn containers_with_global_addresses_keep_them() {
    let model = a_network_of_both_families_and_an_endpoint("2001:db8:1::/64");
    let state = plan(&model, &facts(true), &choices());
    let endpoint = model.endpoints.values().next().unwrap();

    assert_eq!(state.devices[&endpoint.attachments[0].veth()].flags, device_flags::KEEPS_ADDRESS_V6);
    let container: IpAddr = "2001:db8:1::2".parse().unwrap();
    let knock = PublicationKey::new(container.into(), 6, Port::new(80));
    assert_eq!(state.publications[&knock].address, container.into());
}

#[test]
fn an_endpoint_whose_namespace_is_gone_or_another_is_not_planned() {
    let model = two_networks_and_an_endpoint();
    let (mut gone, mut another) = (facts(false), facts(false));
    gone.sandboxes.clear();
    another.sandboxes.values_mut().for_each(|sandbox| sandbox.inode = 8);

    for facts in [gone, another] {
        let state = plan(&model, &facts, &choices());
        assert!(state.veths.is_empty() && state.endpoints.is_empty() && state.publications.is_empty());
        assert_eq!(state.bridges.len(), 2);
    }
}

#[test]
fn the_second_pool_is_the_ephemeral_range_without_privileged_ports() {
    let model = two_networks_and_an_endpoint();
    let mut facts = facts(false);
    for (ephemeral, wanted) in [((1, 65_535), (1024, 65_535)), ((32_768, 60_999), (32_768, 60_999))] {
        facts.ephemeral = Some(PortRange { first: ephemeral.0, last: ephemeral.1 });
        let settings = plan(&model, &facts, &choices()).settings.unwrap();
        assert_eq!(settings.second, PortRange { first: wanted.0, last: wanted.1 });
    }
}

#[test]
fn routes_into_networks_are_warned_of() {
    let model = two_networks_and_an_endpoint();
    let mut facts = facts(false);
    assert_eq!(warnings(&model, &facts), Vec::<String>::new());

    let mut route = |net: &str| facts.uses.insert((net.parse().unwrap(), Use::Route { device: "tun0".into() }));
    route("10.176.0.0/16");
    route("0.0.0.0/1");
    route("2000::/3");

    let warnings = warnings(&model, &facts).join("\n");
    assert!(warnings.contains("network front (10.176.0.0/24) overlaps 10.176.0.0/16, which the host routes by tun0"));
    assert_eq!(warnings.lines().count(), 2);
}

#[test]
fn a_network_with_an_address_to_leave_as_says_so_on_its_bridge_and_the_operator_hears_if_it_is_not_the_hosts() {
    let mut model = two_networks_and_an_endpoint();
    let network = model.networks.values_mut().find(|network| !network.internal).unwrap();
    network.snat_ips = vec!["192.0.2.2".parse().unwrap()];
    let bridge = network.bridge();

    assert_eq!(plan(&model, &facts(false), &choices()).devices[&bridge].ipv4, [192, 0, 2, 2]);
    assert!(!warnings(&model, &facts(false)).iter().any(|warning| warning.contains("leaves as")));

    let elsewhere = HostFacts { addresses: BTreeSet::new(), ..facts(false) };
    let told = warnings(&model, &elsewhere);
    assert!(told.iter().any(|warning| warning.contains("leaves as 192.0.2.2, which is no address")), "{told:?}");
}

#[test]
fn a_port_of_a_vrf_is_named_with_it_and_with_whether_it_is_an_uplink() {
    let uplink = facts(false).uplinks.into_keys().next().expect("a host has one");
    let vrf_ports = [(link("vrfport"), link("blue")), (uplink.clone(), link("blue"))].into();
    let facts = HostFacts { vrf_ports, ..facts(false) };

    let told = warnings(&Model::default(), &facts);

    let says = |words: &str| told.iter().any(|warning| warning.starts_with(words));
    assert!(says("vrfport is in the VRF blue, whose routes no container's packets take: it is no uplink"), "{told:?}");
    assert!(says(&format!("uplink {uplink} is in the VRF blue: containers' packets leave by it only")), "{told:?}");
}

#[test]
fn where_rules_pick_routes_by_what_no_program_is_told_the_stack_finds_the_way_and_the_operator_hears_of_it() {
    let model = two_networks_and_an_endpoint();
    let routing = RoutingRules { by_service: true, ..RoutingRules::default() };
    let by_service = HostFacts { routing, ..facts(false) };
    let warns = |facts: &HostFacts| warnings(&model, facts).iter().any(|warning| warning.contains("ip rule"));

    assert_eq!(plan(&model, &facts(false), &choices()).settings.unwrap().routing, Routing::Asked as u32);
    assert_eq!(plan(&model, &by_service, &choices()).settings.unwrap().routing, Routing::ByStack as u32);
    assert!(warns(&by_service) && !warns(&facts(false)));
}

#[test]
fn a_port_is_for_those_whom_it_names_else_its_network_else_the_configuration() {
    let mut model = two_networks_and_an_endpoint();
    let name: model::Name = "c1".parse().unwrap();
    let [own, network, configured] =
        ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"].map(|net| vec![net.parse::<IpNet>().unwrap()]);
    let let_in = |model: &Model, configured: &[IpNet]| {
        let state = plan(model, &facts(true), &Choices { from: configured.to_vec(), ..choices() });
        let lists: BTreeSet<_> = state.publications.values().map(|to| to.sources).collect();
        let ranges = state.sources.iter().map(|range| (range.list(), range.address().ip(), range.prefix()));
        let ranges: Vec<_> = ranges.collect();
        assert!(ranges.iter().all(|(list, ..)| lists.contains(list)), "no list is kept for nobody");
        assert_eq!(lists.iter().any(|list| list.is_anyone()), ranges.is_empty());
        ranges.into_iter().map(|(_, address, prefix)| format!("{address}/{prefix}")).collect::<Vec<_>>()
    };

    assert_eq!(let_in(&model, &[]), [""; 0]);
    assert_eq!(let_in(&model, &configured), ["10.3.0.0/16"]);
    model.networks.values_mut().for_each(|n| n.from.clone_from(&network));
    assert_eq!(let_in(&model, &configured), ["10.2.0.0/16"]);
    model.endpoint_mut(&name).unwrap().publications[0].from = own;
    assert_eq!(let_in(&model, &configured), ["10.1.0.0/16"]);
}

#[test]
fn a_gateways_mode_is_what_is_open_at_a_container_and_whose_address_the_bridge_has() {
    let with = |mode: Option<GatewayMode>, internal: bool| {
        let mut model = two_networks_and_an_endpoint();
        let network = model.networks.values_mut().find(|network| network.internal == internal).unwrap();
        network.subnets[0].gateway_mode = mode;
        let bridge = network.bridge();
        let state = plan(&model, &facts(true), &choices());
        let entries = state.publications.len();
        (entries, state.bridges[&bridge].addresses.len(), state.devices[&bridge].flags)
    };
    let (published, ..) = with(None, false);

    assert_eq!(with(Some(GatewayMode::Nat), false), (published, 1, 0));
    // TCP, UDP and SCTP by one entry each, and pings.
    assert_eq!(with(Some(GatewayMode::NatUnprotected), false), (published + 4, 1, 0));
    assert_eq!(with(Some(GatewayMode::Routed), false), (published + 1, 1, device_flags::KEEPS_ADDRESS_V4));
    let flags = device_flags::INTERNAL | device_flags::ISOLATED_V4;
    assert_eq!(with(Some(GatewayMode::Isolated), true), (published, 0, flags));
}
