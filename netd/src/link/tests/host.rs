//! What is told of the host: its uplinks, its routes and rules, its changes.

use super::*;

#[test]
fn devices_with_an_address_that_are_not_ours_are_uplinks_and_their_routes_are_told() {
    on_a_host_of_its_own(async |directory| {
        let links = Links::open().unwrap();
        let mut forwarding = Forwarding::open(&directory).unwrap();
        links.create_bridge(&link("nd1"), &blue()).await.unwrap();
        for (name, peer) in [("wan0", "wan1"), ("wan2", "wan3")] {
            links.handle.link().add(LinkVeth::new(name, peer).up().build()).execute().await.unwrap();
        }
        let wan = links.named(&link("wan0")).await.unwrap().unwrap();
        for address in ["192.0.2.1", "192.0.2.2"] {
            links.handle.address().add(wan.index, address.parse().unwrap(), 24).execute().await.unwrap();
        }

        let (uplinks, routes) = links.outside(&[], &forwarding).await.unwrap();
        let chosen = links.outside(&[link("wan3"), link("none")], &forwarding).await.unwrap().0;

        assert_eq!(uplinks.keys().collect::<Vec<_>>(), [&link("wan0")]);
        let uplink = &uplinks[&link("wan0")];
        assert_eq!(uplink.addresses, ["192.0.2.1/24".parse().unwrap(), "192.0.2.2/24".parse().unwrap()]);
        assert_eq!((uplink.mtu, &uplink.was_no_router), (1500, &Family::BOTH.into()));
        assert_eq!(routes, [("192.0.2.0/24".parse().unwrap(), Use::Route { device: "wan0".into() })].into());
        assert_eq!(chosen.keys().collect::<Vec<_>>(), [&link("wan3")]);

        forwarding.switch_on(&link("wan0"), Family::V4, &BTreeSet::new()).unwrap();
        let was_no_router = &links.outside(&[], &forwarding).await.unwrap().0[&link("wan0")].was_no_router;
        assert!(was_no_router.contains(&Family::V4));
    });
}

#[test]
fn published_ports_are_put_beside_the_operators_however_many_and_are_not_taken_for_them() {
    on_a_host_of_its_own(async |directory| {
        let sysctl = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let one = |port| PortRange { first: port, last: port };
        let theirs: BTreeSet<_> = (0..40).map(|n| one(5000 + 2 * n)).collect();
        let text: Vec<_> = theirs.iter().map(|range| range.first.to_string()).collect();
        std::fs::write(sysctl, text.join(",")).unwrap();
        let mut withheld = Withheld::open(&directory).unwrap();
        assert_eq!(withheld.theirs().unwrap(), theirs, "more than one read of a text comes to");

        let ours: BTreeSet<_> = (0..10_000).map(|n| one(33_001 + 2 * n)).collect();
        withheld.put(&ours).unwrap();
        assert_eq!(withheld.observed().unwrap(), ours);
        drop(withheld);

        let withheld = Withheld::open(&directory).unwrap();
        assert_eq!((withheld.observed().unwrap(), withheld.theirs().unwrap()), (ours, theirs.clone()));
        assert!(withheld.give_back().unwrap());
        let withheld = Withheld::open(&directory).unwrap();
        assert_eq!((withheld.observed().unwrap(), withheld.theirs().unwrap()), (BTreeSet::new(), theirs));
        assert!(!withheld.give_back().unwrap(), "there is nothing left");
    });
}

#[test]
fn what_rules_and_routes_of_any_table_name_is_told() {
    on_a_host_of_its_own(async |directory| {
        let links = Links::open().unwrap();
        let forwarding = Forwarding::open(&directory).unwrap();
        ip("link add wan0 up type veth peer name wan1");
        ip("address add 192.0.2.1/24 dev wan0");
        ip("route add 10.9.0.0/16 via 192.0.2.2 table 77");
        ip("route add blackhole 10.8.0.0/16");
        ip("-6 route add fd00:9::/48 dev wan0 table 77");
        ip("rule add from 10.7.0.0/24 to 10.6.0.0/24 lookup 77");
        ip("-6 rule add to fd00:7::/64 lookup 77");

        let routed = links.outside(&[], &forwarding).await.unwrap().1;
        let ruled = links.ruled().await.unwrap();

        let named = |uses: &BTreeSet<(ipnet::IpNet, Use)>| {
            Vec::from_iter(uses.iter().map(|(net, used)| format!("{net}, {used}")))
        };
        let routed = named(&routed);
        for line in [
            "10.9.0.0/16, which the host routes by wan0",
            "10.8.0.0/16, which the host routes by blackhole",
            "fd00:9::/48, which the host routes by wan0",
        ] {
            assert!(routed.iter().any(|found| found == line), "{line} in {routed:?}");
        }
        let of_rules = ["10.6.0.0/24", "10.7.0.0/24", "fd00:7::/64"];
        assert_eq!(named(&ruled), of_rules.map(|net| format!("{net}, which a routing rule of the host names")));
    });
}

#[test]
fn of_several_addresses_the_one_of_the_default_route_is_first() {
    on_a_host_of_its_own(async |directory| {
        let links = Links::open().unwrap();
        let forwarding = Forwarding::open(&directory).unwrap();
        ip("link add wan0 up type veth peer name wan1");
        ip("address add 10.0.0.5/24 dev wan0");
        ip("address add 192.168.1.5/24 dev wan0");
        let first = async || links.outside(&[], &forwarding).await.unwrap().0[&link("wan0")].addresses[0].to_string();
        assert_eq!(first().await, "10.0.0.5/24");

        ip("route add default via 192.168.1.1 metric 100");
        assert_eq!(first().await, "192.168.1.5/24");

        ip("route add default via 192.168.1.1 metric 50 src 10.0.0.5");
        assert_eq!(first().await, "10.0.0.5/24");
    });
}

#[test]
fn a_change_of_links_wakes_the_watcher() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let mut changes = Links::open_watched().unwrap().changes().unwrap();

        links.create_bridge(&link("nd1"), &blue()).await.unwrap();

        tokio::time::timeout(Duration::from_secs(60), changes.changed()).await.unwrap().unwrap();
    });
}
