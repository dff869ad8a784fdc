//! Endpoints in their networks: which address, interface and bridge each has, and whom it may reach.

use proptest::prelude::*;

use super::*;

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
fn an_address_that_somebody_asked_for_is_given_again_last_too() {
    let mut model = Model::default();
    create(&mut model, network("n", "10.1.0.0/29")).unwrap();
    assert_eq!(join(&mut model, "a", &["n"]).unwrap(), ["10.1.0.2"]);
    join(&mut model, "b", &["n:ip=10.1.0.3"]).unwrap();

    detach(&mut model, &"b".parse().unwrap()).unwrap();

    for (name, ip) in [("c", "10.1.0.4"), ("d", "10.1.0.5"), ("e", "10.1.0.6"), ("f", "10.1.0.3")] {
        assert_eq!(join(&mut model, name, &["n"]).unwrap(), [ip]);
    }
}

#[test]
fn an_address_freed_just_now_is_given_after_those_that_are_free_for_longer() {
    let mut model = Model::default();
    create(&mut model, network("n", "10.1.0.0/29")).unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        join(&mut model, name, &["n"]).unwrap();
    }

    // The search starts after 10.1.0.6, with 10.1.0.2.
    for name in ["d", "c", "a"] {
        detach(&mut model, &name.parse().unwrap()).unwrap();
    }

    for (name, ip) in [("f", "10.1.0.5"), ("g", "10.1.0.4"), ("h", "10.1.0.2")] {
        assert_eq!(join(&mut model, name, &["n"]).unwrap(), [ip]);
    }
}

#[test]
fn an_address_that_was_given_in_vain_is_given_again_last() {
    let mut model = Model::default();
    create(&mut model, network("n", "10.1.0.0/29")).unwrap();
    let mut failed = model.clone();
    assert_eq!(join(&mut failed, "a", &["n"]).unwrap(), ["10.1.0.2"]);

    note_given_in_vain(&mut model, &failed);

    assert_eq!(join(&mut model, "a", &["n"]).unwrap(), ["10.1.0.3"]);
    let before = model.clone();
    note_given_in_vain(&mut model, &before);
    assert_eq!(model, before, "what has its address keeps it");
}

#[test]
fn in_a_large_network_the_last_that_were_given_back_are_remembered_and_no_more() {
    let mut model = Model::default();
    create(&mut model, network("n", "10.1.0.0/22")).unwrap();
    for _ in 0..400 {
        join(&mut model, "a", &["n"]).unwrap();
        detach(&mut model, &"a".parse().unwrap()).unwrap();
    }

    let freed = &model.network(&"n".parse().unwrap()).unwrap().subnets[0].freed;

    assert_eq!(freed.len(), 256);
    assert_eq!(freed.back().unwrap().to_string(), "10.1.1.145");
    assert_eq!(freed.front().unwrap().to_string(), "10.1.0.146");
}

/// What is done to a network of 13 addresses, by which of them or of the endpoints.
#[derive(Clone, Copy, Debug)]
enum Change {
    Attach,
    AttachAt(u8),
    Detach(usize),
    Reconnect(usize),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::Attach),
        1 => (2_u8..15).prop_map(Change::AttachAt),
        3 => any::<usize>().prop_map(Change::Detach),
        1 => any::<usize>().prop_map(Change::Reconnect),
    ]
}

proptest! {
    #[test]
    fn of_the_free_addresses_the_one_that_was_freed_longest_ago_or_never_given_is_given_first(
        changes in prop::collection::vec(changes(), 1..80),
    ) {
        let (mut model, n) = (Model::default(), "n".parse().unwrap());
        create(&mut model, network("n", "10.1.0.0/28")).unwrap();
        // When each of the free ones was freed, 0 for never.
        let mut free: BTreeMap<String, usize> = (2..15).map(|last| (format!("10.1.0.{last}"), 0)).collect();
        for (change, now) in changes.into_iter().zip(1..) {
            let names: Vec<Name> = model.endpoints.keys().cloned().collect();
            let of_these = |i: usize| names.get(i % names.len().max(1)).cloned();
            let address = |model: &Model, name: &Name| model.endpoints[name].attachments[0].ip.unwrap().to_string();
            let name: Name = format!("c{now}").parse().unwrap();
            let given = match change {
                Change::Attach => join(&mut model, name.as_str(), &["n"]).ok(),
                Change::AttachAt(last) => {
                    if let Ok(given) = join(&mut model, name.as_str(), &[&format!("n:ip=10.1.0.{last}")]) {
                        free.remove(&given[0]);
                    }
                    None
                }
                Change::Detach(i) => {
                    if let Some(name) = of_these(i) {
                        free.insert(address(&model, &name), now);
                        detach(&mut model, &name).unwrap();
                    }
                    None
                }
                Change::Reconnect(i) => of_these(i).map(|name| {
                    free.insert(address(&model, &name), now);
                    disconnect(&mut model, &name, &n).unwrap();
                    let joining = order("again", &["n"]).joining;
                    connect(&mut model, &name, joining, &mut StdRng::seed_from_u64(now as u64)).unwrap();
                    vec![address(&model, &name)]
                }),
            };
            if let Some([given]) = given.as_deref() {
                let freed = free.remove(given).expect("it was free");
                prop_assert!(free.values().all(|other| freed <= *other), "{given}, of {freed}, before one of {free:?}");
            }
        }
    }
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
