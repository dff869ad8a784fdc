//! What is accepted, what is chosen, and every refusal with its line.

use std::collections::BTreeSet;

use netd_common::tuple::Mac;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    ipam::Pools,
    reconcile::{HostFacts, Sandbox, Uplink, Use},
};

/// A model with the networks `front` and `back` (internal), and the endpoint `c1` in both, port 8080 published.
pub fn two_networks_and_an_endpoint() -> Model {
    let mut model = Model::default();
    let mut rng = StdRng::seed_from_u64(1);
    create(&mut model, NetworkOrder { name: "front".into(), ..Default::default() }).unwrap();
    create(&mut model, NetworkOrder { name: "back".into(), internal: true, ..Default::default() }).unwrap();
    attach(&mut model, order("c1", &["back", "front"]), 1_700_000_000, &mut rng).unwrap();
    open(&mut model, "c1", &["8080:80"]).unwrap();
    model
}

/// A model with the network `dual` of both families, and the endpoint `c1` in it, port 8080 published.
pub fn a_network_of_both_families_and_an_endpoint(ipv6: &str) -> Model {
    let mut model = Model::default();
    let subnets = vec!["10.1.0.0/24".to_owned(), ipv6.to_owned()];
    create(&mut model, NetworkOrder { name: "dual".into(), subnets, ..Default::default() }).unwrap();
    attach(&mut model, order("c1", &["dual"]), 0, &mut StdRng::seed_from_u64(1)).unwrap();
    open(&mut model, "c1", &["8080:80"]).unwrap();
    model
}

/// Publishes ports whose number on the host is given.
fn open(model: &mut Model, name: &str, ports: &[&str]) -> Result<(), Rejection> {
    let name: Name = name.parse().unwrap();
    for text in ports {
        let spec: PortSpec = text.parse().unwrap();
        let at = |place: Place| publication(&spec, place);
        let wishes: Vec<_> = places(model, &name, &spec, &[])?.into_iter().map(at).collect();
        publish(model, &name, &wishes)?;
    }
    Ok(())
}

fn publication(spec: &PortSpec, place: Place) -> PortPublication {
    PortPublication {
        host_ip: place.address,
        direct: place.direct,
        host_port: if place.direct { spec.port } else { spec.host_port.unwrap() },
        port: spec.port,
        count: spec.count,
        protocol: spec.protocol,
        from: spec.from.clone(),
        mesh: false,
    }
}

/// A checked wish for an endpoint in `/run/netns/NAME`.
pub fn order(name: &str, networks: &[&str]) -> AttachOrder {
    AttachOrder {
        labels: BTreeMap::new(),
        mode: Mode::Own,
        name: name.parse().unwrap(),
        sandbox: Sandbox { path: format!("/run/netns/{name}").into(), inode: 7 },
        netns_made: false,
        process: None,
        command: Vec::new(),
        dns: Vec::new(),
        joining: Joining {
            specs: networks.iter().map(|text| text.parse().unwrap()).collect(),
            interfaces: BTreeSet::from([LinkName::new("lo").unwrap()]),
            elsewhere: BTreeMap::new(),
        },
    }
}

pub fn create(model: &mut Model, order: NetworkOrder) -> Result<Name, Rejection> {
    let facts = HostFacts {
        uses: [
            ("10.176.1.0/24".parse().unwrap(), by("tun0")),
            ("0.0.0.0/1".parse().unwrap(), by("tun0")),
            ("192.0.2.0/24".parse().unwrap(), by("eth0")),
            ("10.176.5.53/32".parse().unwrap(), Use::Resolver),
            ("10.7.0.0/24".parse().unwrap(), Use::Rule),
        ]
        .into(),
        ..Default::default()
    };
    let pools = pools();
    let on = Surroundings { facts: &facts, pools: &pools, segment: None };
    create_network(model, &order, on, 1_700_000_000, &mut StdRng::seed_from_u64(model.networks.len() as u64))
}

fn by(device: &str) -> Use {
    Use::Route { device: device.to_owned() }
}

fn pools() -> Pools {
    Pools::automatic("fd12:3456:789a::/48".parse().unwrap())
}

/// A network that joins hosts by hand.
pub fn vxlan(vni: u32, peers: &[&str]) -> NetworkOrder {
    let peers = peers.iter().map(|peer| (*peer).to_owned()).collect();
    NetworkOrder { driver: Some("vxlan".into()), vni: Some(vni), peers, ..network("spanning", "10.9.0.0/24") }
}

fn network(name: &str, subnet: &str) -> NetworkOrder {
    NetworkOrder { name: name.into(), subnets: vec![subnet.into()], ..Default::default() }
}

fn join(model: &mut Model, name: &str, networks: &[&str]) -> Result<Vec<String>, Rejection> {
    attach(model, order(name, networks), 0, &mut StdRng::seed_from_u64(name.len() as u64 * 7919))?;
    let endpoint = model.endpoint(&name.parse().unwrap()).unwrap();
    Ok(endpoint.attachments.iter().flat_map(Attachment::addresses).map(|address| address.to_string()).collect())
}

#[test]
fn names_are_letters_digits_and_three_signs() {
    for name in ["a", "0", "web-1.front_x", &"a".repeat(63)] {
        assert_eq!(name.parse::<Name>().unwrap().as_str(), name);
    }
    for name in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"a".repeat(64)] {
        assert_eq!(name.parse::<Name>(), Err(Rejection::NotAName(name.to_owned())));
    }
}

#[test]
fn both_forms_of_a_network_specification_are_read() {
    let whole: NetSpec = "front:ip=10.0.0.7,ip6=fd00::7,mac=02:00:00:00:00:07,ifname=web0".parse().unwrap();

    assert_eq!(whole, "name=front,ip=10.0.0.7,ip6=fd00::7,mac=02:00:00:00:00:07,ifname=web0".parse().unwrap());
    assert_eq!(whole.ip, Some("10.0.0.7".parse().unwrap()));
    assert_eq!(whole.ip6, Some("fd00::7".parse().unwrap()));
    assert_eq!(whole.mac, Some(Mac([2, 0, 0, 0, 0, 7])));
    assert_eq!(whole.ifname, LinkName::new("web0"));
    assert_eq!("front".parse(), Ok(NetSpec::anywhere_in("front".parse().unwrap())));
}

#[test]
fn a_network_specification_that_is_none_is_refused_with_the_part_that_is_wrong() {
    let cases = [
        ("front:ip=x", "`front:ip=x` does not say which network to join: ip=x is not an IPv4 address"),
        ("front:mac=ff:ff:ff:ff:ff:ff", "mac=ff:ff:ff:ff:ff:ff is not the address of one station"),
        ("front:ifname=lo", "ifname=lo is not a name that an interface can have"),
        ("front:colour=red", "`colour` is none of ip, ip6, mac, ifname, alias, gw-priority"),
        ("front:ip=10.0.0.1,ip=10.0.0.2", "`ip` is there twice"),
        ("front:ip6=10.0.0.1", "ip6=10.0.0.1 is not an IPv6 address"),
        ("front:ifname=default", "ifname=default is not a name that an interface can have"),
        ("front:ifname=eth%d", "ifname=eth%d is not a name that an interface can have"),
        ("front:gw-priority=high", "gw-priority=high is not a whole number"),
        ("front:alias=a/b", "`a/b` is not a name"),
        ("a b", "`a b` is not a name"),
        ("a\nb", "`a\\nb` is not a name"),
    ];
    for (text, line) in cases {
        let rejection = text.parse::<NetSpec>().unwrap_err().to_string();
        assert!(rejection.contains(line), "{rejection}");
    }
}

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
        create_network(model, &order, Surroundings { facts, pools: &pools(), segment: None }, 0, &mut rng).unwrap()
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
fn interfaces_are_named_in_order_around_those_that_are_there() {
    let mut model = two_networks_and_an_endpoint();
    let mut wish = order("c2", &["front:ifname=eth2", "back"]);
    wish.joining.interfaces.insert(LinkName::new("eth0").unwrap());

    attach(&mut model, wish, 0, &mut StdRng::seed_from_u64(9)).unwrap();

    let names: Vec<_> = model.endpoints[&"c2".parse().unwrap()].attachments.iter().map(|a| a.ifname.as_str()).collect();
    assert_eq!(names, ["eth2", "eth1"]);
}

#[test]
fn a_freed_address_is_given_again_last() {
    let mut model = Model::default();
    create(&mut model, network("n", "10.1.0.0/29")).unwrap();
    for (name, ip) in [("a", "10.1.0.2"), ("b", "10.1.0.3"), ("c", "10.1.0.4")] {
        assert_eq!(join(&mut model, name, &["n"]).unwrap(), [ip]);
    }

    detach(&mut model, &"a".parse().unwrap()).unwrap();

    for (name, ip) in [("d", "10.1.0.5"), ("e", "10.1.0.6"), ("f", "10.1.0.2")] {
        assert_eq!(join(&mut model, name, &["n"]).unwrap(), [ip]);
    }
    let rejection = join(&mut model, "g", &["n"]).unwrap_err().to_string();
    assert_eq!(rejection, "no free address is left in 10.1.0.0/29 of network n: in use by f, b, c, d, e, the gateway");
}

#[test]
fn a_range_limits_automatic_addresses_only() {
    let mut model = Model::default();
    let order = NetworkOrder { ip_ranges: vec!["10.1.0.128/25".into()], ..network("n", "10.1.0.0/24") };
    create(&mut model, order).unwrap();

    assert_eq!(join(&mut model, "a", &["n"]).unwrap(), ["10.1.0.128"]);
    assert_eq!(join(&mut model, "bb", &["n:ip=10.1.0.9"]).unwrap(), ["10.1.0.9"]);
    assert_eq!(join(&mut model, "ccc", &["n"]).unwrap(), ["10.1.0.129"]);
}

#[test]
fn every_bad_attachment_is_refused_naming_the_thing_in_the_way() {
    let cases: [(&str, &[&str], &[&str], &str); 12] = [
        ("c1", &["front"], &[], "endpoint c1 exists already"),
        ("c2", &["nowhere"], &[], "there is no network nowhere"),
        ("c2", &["front", "front"], &[], "network front is asked for twice"),
        ("c2", &["front:ip=10.9.9.9"], &[], "address 10.9.9.9 is outside of the subnet 10.176.0.0/24"),
        ("c2", &["front:ip=10.176.0.0"], &[], "address 10.176.0.0 is the network address of network front"),
        ("c2", &["front:ip=10.176.0.1"], &[], "address 10.176.0.1 is the gateway of network front"),
        ("c2", &["front:ip=10.176.0.2"], &[], "address 10.176.0.2 of network front is taken by c1"),
        ("c2", &["front:ifname=eth5", "back:ifname=eth5"], &[], "the container has an interface eth5 already"),
        ("c2", &["front"], &["192.0.2.1:8080:80"], "port 8080/tcp of every IPv4 address is published by c1 already"),
        ("c2", &["back"], &["81:80"], "c2 has no network with a way out"),
        ("c2", &["front:ip6=fd00::1"], &[], "fd00::1 is IPv6, which network front does not have"),
        ("c2", &["front"], &["[::]:81:80"], "c2 has no IPv6 address with a way out, so nothing could be reached at"),
    ];
    for (name, networks, ports, line) in cases {
        let mut model = two_networks_and_an_endpoint();

        let attached = attach(&mut model, order(name, networks), 0, &mut StdRng::seed_from_u64(3));
        let rejection = attached.and_then(|()| open(&mut model, name, ports)).unwrap_err();

        assert!(rejection.to_string().starts_with(line), "{rejection}");
    }
}

#[test]
fn a_link_layer_address_is_taken_once_in_a_network() {
    let mut model = two_networks_and_an_endpoint();
    join(&mut model, "c2", &["front:mac=02:00:00:00:00:07"]).unwrap();

    let rejection = join(&mut model, "c33", &["front:mac=02:00:00:00:00:07"]).unwrap_err();

    assert_eq!(rejection.to_string(), "link-layer address 02:00:00:00:00:07 of network front is taken by c2");
    join(&mut model, "c44", &["back:mac=02:00:00:00:00:07"]).unwrap();
}

#[test]
fn ports_clash_by_protocol_number_and_address_and_any_address_is_every_address() {
    let port = |text: &str| {
        let spec: PortSpec = text.parse().unwrap();
        let address = spec.host_ip.unwrap_or(Family::V4.unspecified());
        publication(&spec, Place { address, direct: false })
    };
    let cases = [
        ("80:80", "80:81", Some(80)),
        ("80:80", "80:80/udp", None),
        ("192.0.2.1:80:80", "192.0.2.2:80:80", None),
        ("192.0.2.1:80:80", "80:80", Some(80)),
        ("0.0.0.0:80:80", "192.0.2.2:80:80", Some(80)),
        ("8000-8010:8000-8010", "8010-8020:8010-8020", Some(8010)),
        ("8000-8009:8000-8009", "8010:80", None),
        ("65535:65535", "65000-65535:65000-65535", Some(65535)),
        ("80:80", "[::]:80:80", None),
        ("[::]:80:80", "[2001:db8::1]:80:80", Some(80)),
        ("[2001:db8::2]:80:80", "[2001:db8::1]:80:80", None),
    ];
    for (a, b, clash) in cases {
        assert_eq!(port(a).clash(&port(b)), clash, "{a} {b}");
        assert_eq!(port(b).clash(&port(a)), clash, "{b} {a}");
    }
}

#[test]
fn unpublishing_takes_what_the_specification_names() {
    let name: Name = "c1".parse().unwrap();
    for spec in ["8080:80", "80", ":80/tcp"] {
        let mut model = two_networks_and_an_endpoint();
        unpublish(&mut model, &name, &[spec.parse().unwrap()]).unwrap();
        assert!(model.endpoints[&name].publications.is_empty());
    }
    for spec in ["8081:80", "80/udp", "192.0.2.1:8080:80", "80-81"] {
        let mut model = two_networks_and_an_endpoint();
        let rejection = unpublish(&mut model, &name, &[spec.parse().unwrap()]).unwrap_err();
        assert_eq!(rejection.to_string(), format!("c1 publishes nothing as {spec}"));
    }
}

#[test]
fn what_this_version_cannot_publish_is_refused_by_name() {
    let cases = [("[fe80::1]:80:80", "a link-local address of the host in `[fe80::1]:80:80`")];
    for (text, what) in cases {
        let model = two_networks_and_an_endpoint();
        let rejection = places(&model, &"c1".parse().unwrap(), &text.parse().unwrap(), &[]).unwrap_err();
        assert_eq!(rejection.to_string(), format!("{what} is not supported by this version"));
    }
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
fn what_a_subnet_has_is_told_apart_by_family() {
    let mut model = Model::default();
    let order = NetworkOrder {
        subnets: vec!["10.1.0.0/24".into(), "fd00:1::/64".into()],
        gateways: vec!["fd00:1::fe".into(), "10.1.0.254".into()],
        ip_ranges: vec!["fd00:1::100/120".into()],
        aux_addresses: [("r4".into(), "10.1.0.1".into()), ("r6".into(), "fd00:1::100".into())].into(),
        ..network("n", "")
    };
    create(&mut model, order).unwrap();

    assert_eq!(join(&mut model, "a", &["n"]).unwrap(), ["10.1.0.2", "fd00:1::101"]);
    assert_eq!(join(&mut model, "bb", &["n:ip6=fd00:1::7"]).unwrap(), ["10.1.0.3", "fd00:1::7"]);
    assert_eq!(join(&mut model, "ccc", &["n:ip=10.1.0.9"]).unwrap(), ["10.1.0.9", "fd00:1::102"]);
    let rejection = join(&mut model, "dddd", &["n:ip6=fd00:1::fe"]).unwrap_err();
    assert_eq!(rejection.to_string(), "address fd00:1::fe is the gateway of network n");
}

#[test]
fn a_port_is_published_in_every_family_with_one_number() {
    let model = a_network_of_both_families_and_an_endpoint("fd00:1::/64");

    let published: Vec<_> = model.endpoints[&"c1".parse().unwrap()].publications.iter().collect();
    let places: Vec<_> = published.iter().map(|p| (p.host_ip.to_string(), p.host_port, p.port, p.direct)).collect();
    assert_eq!(places, [("0.0.0.0".to_owned(), 8080, 80, false), ("::".to_owned(), 8080, 80, false)]);
}

#[test]
fn a_port_of_a_routed_network_is_open_at_the_containers_own_address() {
    let mut model = a_network_of_both_families_and_an_endpoint("2001:db8:1::/64");
    let name: Name = "c1".parse().unwrap();
    open(&mut model, "c1", &["8081:80"]).unwrap();

    let places = |model: &Model| -> Vec<_> {
        let publications = &model.endpoints[&name].publications;
        publications.iter().map(|p| format!("{} {}", p.host_ip, p.host_port)).collect()
    };
    assert_eq!(places(&model), ["0.0.0.0 8080", "2001:db8:1::2 80", "0.0.0.0 8081"]);
    unpublish(&mut model, &name, &["8080:80".parse().unwrap()]).unwrap();
    assert_eq!(places(&model), ["2001:db8:1::2 80", "0.0.0.0 8081"]);
    unpublish(&mut model, &name, &["80".parse().unwrap()]).unwrap();
    assert_eq!(places(&model), [""; 0]);
}

/// Facts of a host that routes these by `tun0`.
fn routing(nets: &[&str]) -> HostFacts {
    HostFacts { uses: nets.iter().map(|net| (net.parse().unwrap(), by("tun0"))).collect(), ..Default::default() }
}

fn moved(model: &mut Model, name: &str, order: RenumberOrder, facts: &HostFacts) -> Result<Vec<String>, Rejection> {
    let on = Surroundings { facts, pools: &pools(), segment: None };
    let gone = renumber(model, &name.parse().unwrap(), &order, on)?;
    Ok(gone.iter().map(ToString::to_string).collect())
}

fn subnets_of(model: &Model, name: &str) -> Vec<String> {
    let network = &model.networks[&name.parse::<Name>().unwrap()];
    network.subnets.iter().map(|subnet| format!("{} {}", subnet.subnet, subnet.gateway)).collect()
}

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

#[test]
fn what_is_allowed_is_between_containers_that_are_kept_apart_and_is_taken_back() {
    let mut model = Model::default();
    create(&mut model, NetworkOrder { name: "apart".into(), no_icc: true, ..Default::default() }).unwrap();
    create(&mut model, NetworkOrder { name: "free".into(), ..Default::default() }).unwrap();
    for (name, networks) in [("web", &["apart"][..]), ("db", &["apart", "free"]), ("app", &["free"])] {
        attach(&mut model, order(name, networks), 0, &mut StdRng::seed_from_u64(name.len() as u64)).unwrap();
    }
    let name = |text: &str| text.parse::<Name>().unwrap();
    let to = |text: &str| text.parse::<Target>().unwrap();
    let refused = |outcome: Result<(), Rejection>| outcome.unwrap_err().to_string();

    allow(&mut model, &name("web"), &to("db:5432")).unwrap();
    allow(&mut model, &name("web"), &to("db:53/udp")).unwrap();
    assert_eq!(allowed(&model).len(), 2);
    assert_eq!(refused(allow(&mut model, &name("web"), &to("web"))), "web reaches itself: there is nothing to allow");
    assert!(refused(allow(&mut model, &name("app"), &to("db"))).contains("have no network in common that was made"));
    assert_eq!(refused(allow(&mut model, &name("web"), &to("nobody"))), "there is no endpoint nobody");
    assert_eq!(refused(deny(&mut model, &name("web"), &to("db:80"))), "web was not allowed to reach db:80/tcp");

    deny(&mut model, &name("web"), &to("db:5432/tcp")).unwrap();
    assert_eq!(allowed(&model).len(), 1);
    allow(&mut model, &name("web"), &to("db")).unwrap();
    let of_everything = refused(deny(&mut model, &name("web"), &to("db:80")));
    assert!(of_everything.ends_with(", but everything of it: deny that first"), "{of_everything}");
    deny(&mut model, &name("web"), &to("db")).unwrap();
    assert_eq!(allowed(&model).len(), 0, "without a port it takes everything back");

    allow(&mut model, &name("web"), &to("db")).unwrap();
    detach(&mut model, &name("web")).unwrap();
    assert!(model.endpoints[&name("db")].allows.is_empty(), "who comes by that name later is another");
    for text in ["db:", "db:0", "db:80/icmp", "db:70000", "-db"] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
}

#[test]
fn a_port_of_the_host_is_ignored_with_a_word_where_the_network_is_routed() {
    let model = a_network_of_both_families_and_an_endpoint("2001:db8:1::/64");
    let ignored = |spec: &str| ignored(&model, &"c1".parse().unwrap(), &spec.parse().unwrap());

    let line = "network dual is routed in IPv6: port 8080 of the host is ignored, clients come to [2001:db8:1::2]:80";
    assert_eq!(ignored("8080:80"), [line]);
    assert!(ignored("80").is_empty() && ignored("192.0.2.1:8080:80").is_empty());
}

#[test]
fn an_endpoint_that_the_bridges_of_its_network_have_no_port_for_has_the_next() {
    let mut model = Model::default();
    let mut rng = StdRng::seed_from_u64(1);
    let subnets = vec!["10.1.0.0/16".to_owned()];
    create(&mut model, NetworkOrder { name: "wide".into(), subnets, ..Default::default() }).unwrap();
    attach(&mut model, order("c0", &["wide"]), 0, &mut rng).unwrap();
    let one = model.endpoints.values().next().unwrap().clone();
    let number = |model: &Model, name: &str| model.endpoints[&name.parse::<Name>().unwrap()].attachments[0].bridge;
    let fill = |model: &mut Model, bridge: u8, endpoints: usize| {
        for n in 0..endpoints {
            let mut other = Endpoint::clone(&one);
            other.name = format!("b{bridge}-{n}").parse().unwrap();
            other.attachments[0].bridge = bridge;
            other.attachments[0].ip = None;
            model.endpoints.insert(other.name.clone(), Arc::new(other));
        }
    };

    fill(&mut model, 0, 999);
    attach(&mut model, order("c1", &["wide"]), 0, &mut rng).unwrap();
    assert_eq!(number(&model, "c1"), 1);
    detach(&mut model, &"c0".parse().unwrap()).unwrap();
    attach(&mut model, order("c2", &["wide"]), 0, &mut rng).unwrap();
    assert_eq!(number(&model, "c2"), 0, "a port that is free again is taken");

    (1..24).for_each(|bridge| fill(&mut model, bridge, 1000));
    detach(&mut model, &"c1".parse().unwrap()).unwrap();
    let refused = attach(&mut model, order("c3", &["wide"]), 0, &mut rng).unwrap_err().to_string();
    assert!(refused.contains("wide has 24000 endpoints"), "{refused}");
    // As an earlier version has filled it, up to the last port.
    model.endpoints.retain(|_, endpoint| endpoint.attachments[0].bridge == 0);
    fill(&mut model, 0, 1022);
    let refused = attach(&mut model, order("c3", &["wide"]), 0, &mut rng).unwrap_err().to_string();
    assert!(refused.contains("wide has 1023 endpoints"), "{refused}");
}
