//! Networks as they are made: what is chosen, what is refused, what goes.

use super::*;

#[test]
fn networks_get_the_lowest_free_subnet_number_and_gateway() {
    let mut model = Model::default();
    for (name, subnet, zone) in [("a", "10.176.0.0/24", 1), ("b", "10.176.2.0/24", 2), ("c", "10.176.3.0/24", 3)] {
        let name = create(&mut model, NetworkOrder { name: name.into(), ..Default::default() }).unwrap();
        let made = &model.networks[&name];
        let [only] = &made.subnets[..] else { panic!("one subnet") };
        assert_eq!((only.subnet.to_string().as_str(), made.zone), (subnet, zone));
        assert_eq!(only.gateway.to_string(), subnet.replace("0/24", "1"));
        assert_eq!(made.mac.0[0] & 0b11, 0b10);
        assert_eq!(made.bridge().as_str(), format!("ndb-{}", &made.id[..8]));
    }

    remove_network(&mut model, &"b".parse().unwrap()).unwrap();
    let again = create(&mut model, NetworkOrder { name: "d".into(), ..Default::default() }).unwrap();

    let again = &model.networks[&again];
    assert_eq!((again.zone, again.subnets[0].subnet.to_string()), (2, "10.176.2.0/24".into()));
}

#[test]
fn a_network_takes_the_mtu_of_the_narrowest_way_out_and_follows_it() {
    let link = |name| LinkName::new(name).unwrap();
    let uplink =
        |path_mtu| Uplink { layer3: false, mtu: 9000, path_mtu, addresses: Vec::new(), was_no_router: BTreeSet::new() };
    let facts = |mtus: [u32; 2]| {
        let uplinks = [(link("a"), uplink(mtus[0])), (link("b"), uplink(mtus[1]))].into();
        HostFacts { uplinks, ..Default::default() }
    };
    let (mut model, mut rng) = (Model::default(), StdRng::seed_from_u64(1));
    let mut create = |model: &mut Model, name: &str, mtu, facts: &HostFacts| {
        let order = NetworkOrder { name: name.into(), mtu, ..Default::default() };
        create_network(
            model,
            &order,
            Surroundings { facts, pools: &pools(), segment: None, elsewhere: &[], absent: &[] },
            0,
            &mut rng,
        )
        .unwrap()
    };
    let follower = create(&mut model, "follower", None, &facts([9000, 9000]));
    let fixed = create(&mut model, "fixed", Some(1300), &facts([9000, 9000]));
    let early = create(&mut model, "early", None, &HostFacts::default());
    let mtus = |model: &Model| [&follower, &fixed, &early].map(|name| model.networks[name].mtu);
    assert_eq!(mtus(&model), [9000, 1300, 1500]);

    assert_eq!(follow_mtu(&mut model, &facts([1420, 9000])), [early.clone(), follower.clone()]);
    assert_eq!(mtus(&model), [1420, 1300, 1420]);
    assert_eq!(follow_mtu(&mut model, &HostFacts::default()), []);

    set_mtu(&mut model, &fixed, None, &facts([1420, 9000])).unwrap();
    set_mtu(&mut model, &early, Some(1280), &facts([1420, 9000])).unwrap();
    assert_eq!(mtus(&model), [1420, 1420, 1280]);
    assert_eq!(follow_mtu(&mut model, &facts([1400, 9000])), [fixed.clone(), follower.clone()]);
    assert_eq!(set_mtu(&mut model, &early, Some(67), &facts([1400, 9000])), Err(Rejection::BadMtu(67)));
}

#[test]
fn a_network_of_all_nodes_keeps_away_from_what_any_of_them_uses_and_a_given_one_names_the_node() {
    let used = |node: &str, net: &str, used: &str| UsedElsewhere {
        node: node.parse().unwrap(),
        net: net.parse().unwrap(),
        used: used.to_owned(),
        is_there: node == "b",
    };
    let elsewhere = [
        used("b", "10.176.0.0/23", "which the host routes by tun0"),
        used("c", "10.176.2.0/24", "the subnet of its own network back"),
    ];
    let absent = [("far".parse().unwrap(), "10.176.3.0/24".parse().unwrap())];
    let (mut model, facts, pools) = (Model::default(), HostFacts::default(), pools());
    let segment = segment();
    let mut make = |name: &str, subnets: &[&str], force| {
        let segment = Segment { vni: 4096 + model.networks.len() as u32, ..segment.clone() };
        let on = Surroundings {
            facts: &facts,
            pools: &pools,
            segment: Some(&segment),
            elsewhere: &elsewhere,
            absent: &absent,
        };
        let subnets = subnets.iter().map(|subnet| (*subnet).to_owned()).collect();
        let order =
            NetworkOrder { name: name.into(), driver: Some("overlay".into()), subnets, force, ..Default::default() };
        let name = create_network(&mut model, &order, on, 0, &mut StdRng::seed_from_u64(1))?;
        Ok::<_, Rejection>(model.networks[&name].subnets[0].subnet.to_string())
    };

    assert_eq!(make("chosen", &[], false).unwrap(), "10.176.4.0/24");

    let refusals =
        ["10.176.0.0/24", "10.176.2.0/25"].map(|given| make("given", &[given], false).unwrap_err().to_string());
    let expected = [
        "subnet 10.176.0.0/24 overlaps 10.176.0.0/23 on node b (which the host routes by tun0); --force to insist",
        "subnet 10.176.2.0/25 overlaps 10.176.2.0/24 on node c (the subnet of its own network back); `netd node rm c` if that is \
         away for good, or --force to insist",
    ];
    assert_eq!(refusals, expected, "one that is there, and one that is away");
    assert_eq!(make("forced", &["10.176.2.0/25"], true).unwrap(), "10.176.2.0/25");
    let refusal = make("same", &["10.176.3.0/25"], true).unwrap_err().to_string();
    assert_eq!(
        refusal, "subnet 10.176.3.0/25 overlaps network far (10.176.3.0/24)",
        "which is of all, though not here"
    );
}

#[test]
fn every_bad_network_is_refused_naming_the_thing_in_the_way() {
    let cases = [
        (network("a b", "10.1.0.0/24"), "`a b` is not a name"),
        (network("front", "10.1.0.0/24"), "network front exists already"),
        (network("n", "10.1.2.3/24"), "10.1.2.3/24 has host bits set: it should be 10.1.2.0/24"),
        (network("n", "10.1.2.0"), "`10.1.2.0` is not a subnet like 10.1.2.0/24"),
        (network("n", "fd00::1/64"), "fd00::1/64 has host bits set: it should be fd00::/64"),
        (network("n", "fe80::/64"), "fe80::/64 cannot be a network's subnet: its addresses are those of a single link"),
        (network("n", "ff05::/64"), "ff05::/64 cannot be a network's subnet: its addresses are not those of single"),
        (network("n", "::ffff:10.0.0.0/120"), "::ffff:10.0.0.0/120 cannot be a network's subnet"),
        (network("n", "2000::/3"), "2000::/3 cannot be a network's subnet: it is larger than a /8"),
        (
            NetworkOrder { subnets: vec!["10.1.0.0/24".into(), "10.2.0.0/24".into()], ..network("n", "") },
            "two IPv4 subnets are given: a network has one of each family",
        ),
        (
            NetworkOrder { gateways: vec!["fd00::1".into()], ..network("n", "10.1.0.0/24") },
            "fd00::1 is IPv6, which network n does not have",
        ),
        (
            NetworkOrder { gateways: vec!["fd00::".into()], ..network("n", "fd00::/64") },
            "address fd00:: is the subnet-router anycast address of network n",
        ),
        (
            NetworkOrder { gateways: vec!["fd00::1".into(), "fd00::2".into()], ..network("n", "fd00::/64") },
            "two IPv6 gateways are given: a network has one of each family",
        ),
        (
            NetworkOrder { mtu: Some(1279), ..network("n", "fd00::/64") },
            "MTU 1279 is less than 1280, which every link with IPv6 must carry",
        ),
        (network("n", "0.0.0.0/0"), "0.0.0.0/0 cannot be a network's subnet"),
        (network("n", "127.0.0.0/24"), "127.0.0.0/24 cannot be a network's subnet"),
        (network("n", "10.176.0.0/16"), "subnet 10.176.0.0/16 overlaps network back (10.176.2.0/24)"),
        (
            network("n", "192.0.2.128/25"),
            "subnet 192.0.2.128/25 overlaps 192.0.2.0/24, which the host routes by eth0; --force to insist",
        ),
        (
            network("n", "10.176.5.0/24"),
            "subnet 10.176.5.0/24 overlaps 10.176.5.53/32, a resolver of the host; --force to insist",
        ),
        (
            network("n", "10.7.0.0/16"),
            "subnet 10.7.0.0/16 overlaps 10.7.0.0/24, which a routing rule of the host names; --force to insist",
        ),
        (
            NetworkOrder { gateways: vec!["10.2.0.1".into()], ..network("n", "10.1.0.0/24") },
            "gateway 10.2.0.1 is outside of the subnet 10.1.0.0/24",
        ),
        (
            NetworkOrder { gateways: vec!["10.1.0.255".into()], ..network("n", "10.1.0.0/24") },
            "address 10.1.0.255 is the broadcast address of network n",
        ),
        (
            NetworkOrder { ip_ranges: vec!["10.1.1.0/25".into()], ..network("n", "10.1.0.0/24") },
            "range 10.1.1.0/25 is outside of the subnet 10.1.0.0/24",
        ),
        (
            NetworkOrder { ip_ranges: vec!["10.1.0.1/25".into()], ..network("n", "10.1.0.0/24") },
            "10.1.0.1/25 has host bits set: it should be 10.1.0.0/25",
        ),
        (
            NetworkOrder { aux_addresses: [("r".into(), "10.1.0.1".into())].into(), ..network("n", "10.1.0.0/24") },
            "address 10.1.0.1 is the auxiliary address r of network n",
        ),
        (NetworkOrder { mtu: Some(67), ..network("n", "10.1.0.0/24") }, "MTU 67 is not between 68 and 65535"),
        (
            NetworkOrder { driver: Some("macvlan".into()), ..network("n", "10.1.0.0/24") },
            "there is no network driver macvlan: bridge, overlay or vxlan",
        ),
        (NetworkOrder { vni: Some(7), ..network("n", "10.1.0.0/24") }, "--vni is not for driver bridge"),
        (NetworkOrder { vni: None, ..vxlan(7, &["192.0.2.2"]) }, "driver vxlan needs --vni"),
        (vxlan(7, &[]), "driver vxlan needs --peer"),
        (vxlan(0, &["192.0.2.2"]), "VNI 0 is not between 1 and 16777215"),
        (vxlan(1 << 24, &["192.0.2.2"]), "VNI 16777216 is not between 1 and 16777215"),
        (vxlan(7, &["here"]), "`here` is not the IP address of a peer"),
        (vxlan(7, &["239.1.1.1"]), "239.1.1.1 cannot be a peer: it is not the address of another host"),
        (
            vxlan(7, &["192.0.2.2", "2001:db8::2"]),
            "the peers 192.0.2.2 and 2001:db8::2 are of two families: the hosts of a network have addresses of one",
        ),
        (NetworkOrder { no_icc: true, ..vxlan(7, &["192.0.2.2"]) }, "--no-icc"),
        (NetworkOrder { vxlan_port: Some(0), ..vxlan(7, &["192.0.2.2"]) }, "UDP port 0 is none for VXLAN"),
        (
            NetworkOrder { driver: Some("overlay".into()), ..network("n", "10.1.0.0/24") },
            "driver overlay needs a cluster: start the daemon with --etcd; driver vxlan joins hosts without one",
        ),
    ];
    for (order, line) in cases {
        let mut model = two_networks_and_an_endpoint();
        let before = model.clone();

        let rejection = create(&mut model, order).unwrap_err().to_string();

        assert!(rejection.starts_with(line) && !rejection.contains('\n'), "{rejection}");
        assert_eq!(model, before);
    }
}

#[test]
fn insisting_on_a_subnet_that_the_host_routes_is_possible() {
    let order = NetworkOrder { force: true, ..network("n", "192.0.2.128/25") };

    create(&mut Model::default(), order).unwrap();
}

#[test]
fn a_network_in_use_is_not_removed() {
    let mut model = two_networks_and_an_endpoint();

    let rejection = remove_network(&mut model, &"front".parse().unwrap()).unwrap_err();

    assert_eq!(rejection.to_string(), "network front is in use by c1");
}

#[test]
fn a_network_has_the_families_that_are_asked_for() {
    let wish = |subnets: &[&str], ipv6| NetworkOrder {
        name: "n".into(),
        subnets: subnets.iter().map(|text| (*text).to_owned()).collect(),
        ipv6,
        ..Default::default()
    };
    let cases: [(_, &[&str]); 6] = [
        (wish(&[], false), &["10.176.0.0/24 10.176.0.1"]),
        (wish(&[], true), &["10.176.0.0/24 10.176.0.1", "fd12:3456:789a::/64 fd12:3456:789a::1"]),
        (wish(&["fd00:1::/64"], false), &["fd00:1::/64 fd00:1::1"]),
        (wish(&["fd00:1::/64"], true), &["10.176.0.0/24 10.176.0.1", "fd00:1::/64 fd00:1::1"]),
        (wish(&["10.1.0.0/24"], true), &["10.1.0.0/24 10.1.0.1", "fd12:3456:789a::/64 fd12:3456:789a::1"]),
        (wish(&["fd00:1::/64", "10.1.0.0/24"], false), &["10.1.0.0/24 10.1.0.1", "fd00:1::/64 fd00:1::1"]),
    ];
    for (order, wanted) in cases {
        let mut model = Model::default();
        let name = create(&mut model, order).unwrap();

        let subnets =
            model.networks[&name].subnets.iter().map(|subnet| format!("{} {}", subnet.subnet, subnet.gateway));
        assert_eq!(subnets.collect::<Vec<_>>(), wanted);
    }
}

#[test]
fn a_gateway_has_the_mode_that_was_asked_for_else_what_its_addresses_are_for() {
    let made = |words: &[&str], internal: bool| {
        let mut model = Model::default();
        let subnets = vec!["10.1.0.0/24".to_owned(), "2001:db8:1::/64".to_owned()];
        let gateway_modes = words.iter().map(|word| (*word).to_owned()).collect();
        let order = NetworkOrder { name: "n".into(), subnets, gateway_modes, internal, ..Default::default() };
        create(&mut model, order).map_err(|error| error.to_string())?;
        let modes = model.networks.values().next().unwrap().subnets.iter().map(|subnet| subnet.mode().to_string());
        Ok::<_, String>(modes.collect::<Vec<_>>().join(" "))
    };
    let cases: [(&[&str], bool, Result<&str, &str>); 8] = [
        (&[], false, Ok("nat routed")),
        (&["nat"], false, Ok("nat nat")),
        (&["routed"], false, Ok("routed routed")),
        (&["ipv4=nat-unprotected"], false, Ok("nat-unprotected routed")),
        (&["nat", "ipv6=routed"], false, Ok("nat routed")),
        (&["isolated"], true, Ok("isolated isolated")),
        (&["isolated"], false, Err("a network without a gateway has no way out: give --internal too")),
        (&["nat", "routed"], false, Err("two gateway modes of IPv4 are given: nat and routed")),
    ];
    for (words, internal, expected) in cases {
        assert_eq!(made(words, internal), expected.map(str::to_owned).map_err(str::to_owned), "{words:?}");
    }
    let malformed = made(&["bridged"], false).unwrap_err();
    assert!(malformed.starts_with("`bridged` is not a gateway mode"), "{malformed}");
}
