//! A network that is in the host's way moves, with all that it has.

use super::*;

#[test]
fn a_network_in_the_way_of_the_host_is_found_and_an_empty_one_moves() {
    let mut model = two_networks_and_an_endpoint();
    create(&mut model, NetworkOrder { name: "empty".into(), ipv6: true, ..Default::default() }).unwrap();
    let facts = routing(&["10.176.3.0/25", "0.0.0.0/1", "2000::/3"]);

    let found: Vec<_> = conflicts(&model, &facts).iter().map(ToString::to_string).collect();
    let line = "network empty (10.176.3.0/24) overlaps 10.176.3.0/25, which the host routes by tun0: \
                netd network renumber empty moves it";
    assert_eq!(found, [line]);
    assert_eq!(moved(&mut model, "empty", RenumberOrder::default(), &facts).unwrap(), [""; 0]);

    assert_eq!(conflicts(&model, &facts), []);
    // What is in nobody's way stays.
    assert_eq!(subnets_of(&model, "empty"), ["10.176.1.0/24 10.176.1.1", "fd12:3456:789a::/64 fd12:3456:789a::1"]);
}

#[test]
fn of_a_network_of_all_nodes_in_the_way_it_is_said_that_it_cannot_move() {
    let mut model = two_networks_and_an_endpoint();
    let back = model.networks.get_mut(&"back".parse::<Name>().unwrap()).unwrap();
    back.driver = Driver::Overlay(segment());
    let subnet = back.subnets[0].subnet.to_string();

    let found: Vec<_> = conflicts(&model, &routing(&[&subnet])).iter().map(ToString::to_string).collect();

    let line = format!(
        "network back ({subnet}) overlaps {subnet}, which the host routes by tun0: it is one of all nodes, and is \
                        moved by being removed and made anew with another --subnet"
    );
    assert_eq!(found, [line]);
}

#[test]
fn a_network_in_use_moves_only_if_that_is_said_and_everybody_keeps_the_number() {
    let mut model = Model::default();
    let order = NetworkOrder {
        gateways: vec!["10.1.0.254".into()],
        ip_ranges: vec!["10.1.0.128/25".into()],
        aux_addresses: [("r".into(), "10.1.0.7".into())].into(),
        ..network("n", "10.1.0.0/24")
    };
    create(&mut model, order).unwrap();
    assert_eq!(join(&mut model, "a", &["n"]).unwrap(), ["10.1.0.128"]);
    let wish = |subnet: &str, recreate| RenumberOrder { subnets: vec![subnet.into()], recreate, force: false };
    let facts = HostFacts::default();
    let before = model.clone();

    let refusal = moved(&mut model, "n", wish("10.2.0.0/24", false), &facts).unwrap_err().to_string();
    assert_eq!(refusal, "the addresses of network n are in use by a; --recreate to give them others");
    assert_eq!(model, before);

    assert_eq!(moved(&mut model, "n", wish("10.2.0.0/23", true), &facts).unwrap(), ["10.1.0.128"]);
    let subnet = model.networks.values().next().unwrap().subnets[0].clone();
    assert_eq!(subnets_of(&model, "n"), ["10.2.0.0/23 10.2.0.254"]);
    assert_eq!(subnet.ip_range, Some("10.2.0.128/25".parse().unwrap()));
    assert_eq!(subnet.aux_addresses["r"].to_string(), "10.2.0.7");
    assert_eq!(model.endpoints.values().next().unwrap().attachments[0].ip, Some([10, 2, 0, 128].into()));
    assert_eq!(join(&mut model, "bb", &["n"]).unwrap(), ["10.2.0.129"]);

    // A smaller one has no such numbers.
    moved(&mut model, "n", wish("10.3.0.0/29", true), &facts).unwrap();
    let addresses: Vec<_> =
        model.endpoints.values().map(|endpoint| endpoint.attachments[0].ip.unwrap().to_string()).collect();
    assert_eq!(
        (subnets_of(&model, "n"), addresses),
        (vec!["10.3.0.0/29 10.3.0.1".into()], vec!["10.3.0.2".into(), "10.3.0.3".into()])
    );
}

#[test]
fn a_network_does_not_move_where_it_cannot_be() {
    let mut model = two_networks_and_an_endpoint();
    let wish = |subnet: &str| RenumberOrder { subnets: vec![subnet.into()], recreate: true, force: false };
    let facts = routing(&["10.9.0.0/16"]);
    let cases = [
        ("front", "10.176.2.0/24", "subnet 10.176.2.0/24 overlaps network back (10.176.2.0/24)"),
        ("front", "10.9.1.0/24", "subnet 10.9.1.0/24 overlaps 10.9.0.0/16, which the host routes by tun0"),
        ("front", "fd00:1::/64", "fd00:1::/64 is IPv6, which network front does not have"),
        ("front", "10.1.0.0/32", "no free address is left in 10.1.0.0/32"),
        ("nowhere", "10.1.0.0/24", "there is no network nowhere"),
    ];
    for (name, subnet, line) in cases {
        let refusal = moved(&mut model.clone(), name, wish(subnet), &facts).unwrap_err().to_string();
        assert!(refusal.starts_with(line), "{refusal}");
    }
    // Its own place, or a part of it, is not in its way.
    moved(&mut model, "front", wish("10.176.0.0/25"), &facts).unwrap();
}

#[test]
fn a_port_that_is_open_at_the_containers_own_address_moves_with_it() {
    let mut model = a_network_of_both_families_and_an_endpoint("2001:db8:1::/64");
    let order = RenumberOrder { subnets: vec!["2001:db8:2::/64".into()], recreate: true, force: false };

    assert_eq!(moved(&mut model, "dual", order, &HostFacts::default()).unwrap(), ["2001:db8:1::2"]);

    let publications = &model.endpoints.values().next().unwrap().publications;
    assert_eq!(publications[1].host_ip.to_string(), "2001:db8:2::2");
}

/// Facts of a host that routes these by `tun0`.
fn routing(nets: &[&str]) -> HostFacts {
    HostFacts { uses: nets.iter().map(|net| (net.parse().unwrap(), by("tun0"))).collect(), ..Default::default() }
}

fn moved(model: &mut Model, name: &str, order: RenumberOrder, facts: &HostFacts) -> Result<Vec<String>, Rejection> {
    let on = Surroundings { facts, pools: &pools(), segment: None, elsewhere: &[], absent: &[] };
    let gone = renumber(model, &name.parse().unwrap(), &order, on)?;
    Ok(gone.iter().map(ToString::to_string).collect())
}

fn subnets_of(model: &Model, name: &str) -> Vec<String> {
    let network = &model.networks[&name.parse::<Name>().unwrap()];
    network.subnets.iter().map(|subnet| format!("{} {}", subnet.subnet, subnet.gateway)).collect()
}
