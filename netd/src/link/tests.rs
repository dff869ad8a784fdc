//! Links in namespaces of their own: what is asked for is what is there, and nothing else changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    time::Duration,
};

use netd_common::tuple::Mac;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::*;
use crate::{
    reconcile::{Family, Interface, Use},
    testing::{link, on_a_host_of_its_own, sandbox},
};

#[test]
fn what_is_created_is_what_is_observed_and_doing_it_again_changes_nothing() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let (bridge, veth) = (blue(), web(sandbox()));
        let sandboxes = BTreeMap::from([(link("nd11"), veth.sandbox.clone())]);

        for _ in 0..2 {
            links.create_bridge(&link("nd1"), &bridge).await.unwrap();
            links.create_veth(&link("nd11"), &veth).await.unwrap();
            links.connect_veth(&link("nd11"), &veth).await.unwrap();

            let Ours { bridges, veths, .. } = links.observe(&sandboxes).await.unwrap();
            assert_eq!(bridges, BTreeMap::from([(link("nd1"), bridge.clone())]));
            assert_eq!(veths, BTreeMap::from([(link("nd11"), veth.clone())]));
        }
        let before = links.all().await.unwrap();
        links.update_bridge(&link("nd1"), &bridge).await.unwrap();
        links.connect_veth(&link("nd11"), &veth).await.unwrap();
        assert_eq!(links.all().await.unwrap(), before);
    });
}

#[test]
fn two_containers_reach_each_other_through_the_bridge_alone() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let (web, db) = (web(sandbox()), db(sandbox()));
        links.create_bridge(&link("nd1"), &blue()).await.unwrap();
        for (name, veth) in [("nd11", &web), ("nd12", &db)] {
            links.create_veth(&link(name), veth).await.unwrap();
            links.connect_veth(&link(name), veth).await.unwrap();
        }
        let bind = |veth: &Veth, address: &str| {
            Namespace::of(&veth.sandbox).unwrap().inside(|| UdpSocket::bind(address).unwrap()).unwrap()
        };

        let (client, server) = (bind(&web, "10.176.0.2:0"), bind(&db, "10.176.0.3:53"));
        server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        client.send_to(b"who", "10.176.0.3:53").unwrap();

        let mut packet = [0; 8];
        let (length, from) = server.recv_from(&mut packet).unwrap();
        assert_eq!((&packet[..length], from.ip()), (b"who".as_slice(), "10.176.0.2".parse().unwrap()));
    });
}

#[test]
fn a_further_bridge_is_joined_to_the_first_and_what_differs_is_mended() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let (web, db) = (web(sandbox()), Veth { bridge: link("nd2"), ..db(sandbox()) });
        let further = Bridge { owner: "blue 1".into(), mac: Mac([6, 0, 0, 0, 0, 1]), addresses: nets(&[]), ..blue() };
        let join = Join {
            owner: "blue 1".into(),
            bridge: link("nd1"),
            far: link("nd22"),
            further: link("nd2"),
            mtu: 1400,
            intact: true,
            apart: false,
        };
        let near = link("nd21");
        links.create_bridge(&link("nd1"), &blue()).await.unwrap();
        links.create_bridge(&link("nd2"), &further).await.unwrap();
        for _ in 0..2 {
            links.create_join(&near, &join).await.unwrap();
            links.connect_join(&near, &join).await.unwrap();
            assert_eq!(links.observe(&BTreeMap::new()).await.unwrap().joins, [(near.clone(), join.clone())].into());
        }
        for (name, veth) in [("nd11", &web), ("nd12", &db)] {
            links.create_veth(&link(name), veth).await.unwrap();
            links.connect_veth(&link(name), veth).await.unwrap();
        }

        let socket = |veth: &Veth, address: &str| {
            Namespace::of(&veth.sandbox).unwrap().inside(|| UdpSocket::bind(address).unwrap()).unwrap()
        };
        let (client, server) = (socket(&web, "10.176.0.2:0"), socket(&db, "10.176.0.3:53"));
        let gateway = UdpSocket::bind("10.176.0.1:53").unwrap();
        for (from, to) in [(&client, &server), (&server, &client), (&server, &gateway), (&gateway, &server)] {
            to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            from.send_to(b"who", to.local_addr().unwrap()).unwrap();
            assert_eq!(to.recv_from(&mut [0; 8]).unwrap(), (3, from.local_addr().unwrap()));
        }

        for spoilt in
            ["set nd22 nomaster", "set nd21 down", "set nd22 mtu 1300", "set nd21 type bridge_slave flood off"]
        {
            ip(&format!("link {spoilt}"));
            assert_ne!(links.observe(&BTreeMap::new()).await.unwrap().joins[&near], join, "{spoilt}");
            links.connect_join(&near, &join).await.unwrap();
            assert_eq!(links.observe(&BTreeMap::new()).await.unwrap().joins[&near], join, "{spoilt}");
        }
        links.delete(&near).await.unwrap();
        assert!(links.named(&join.far).await.unwrap().is_none());
    });
}

#[test]
fn what_differs_is_mended() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let container = sandbox();
        let before = web(container.clone());
        links.create_bridge(&link("nd1"), &blue()).await.unwrap();
        links.create_bridge(&link("nd2"), &Bridge { owner: "green".into(), ..blue() }).await.unwrap();
        links.create_veth(&link("nd11"), &before).await.unwrap();
        links.connect_veth(&link("nd11"), &before).await.unwrap();

        let interface = Interface {
            addresses: nets(&["10.176.0.7/24", "fd00::7/64"]),
            gateways: ["10.176.0.254".parse().unwrap(), "fd00::1".parse().unwrap()].into(),
            ..before.interface
        };
        let veth = Veth { bridge: link("nd2"), mtu: 1300, interface, ..before };
        let bridge = Bridge { mtu: 1300, addresses: nets(&["10.176.0.254/24", "fd00::1/64"]), ..blue() };
        links.update_bridge(&link("nd1"), &bridge).await.unwrap();
        links.connect_veth(&link("nd11"), &veth).await.unwrap();

        let sandboxes = BTreeMap::from([(link("nd11"), container)]);
        let Ours { bridges, veths, .. } = links.observe(&sandboxes).await.unwrap();
        assert_eq!(bridges[&link("nd1")], bridge);
        assert_eq!(veths[&link("nd11")], veth);
    });
}

#[test]
fn a_gateway_of_ipv6_has_what_it_takes_to_ask_for_neighbours_and_another_bridge_says_nothing() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let six = Bridge { addresses: nets(&["10.176.0.1/24", "fd00::1/64"]), ..blue() };
        let of_link = || async {
            let addresses = links.addresses().await.unwrap().into_iter().map(|assigned| assigned.address);
            addresses.filter(|address| address.to_string().starts_with("fe80")).collect::<Vec<_>>()
        };
        let observed = || async { links.observe(&BTreeMap::new()).await.unwrap().bridges.remove(&link("nd1")) };

        links.create_bridge(&link("nd1"), &six).await.unwrap();
        assert_eq!(of_link().await, ["fe80::ff:fe00:1/64".parse().unwrap()]);
        assert_eq!(observed().await, Some(six.clone()));

        ip("address del fe80::ff:fe00:1/64 dev nd1");
        assert_ne!(observed().await, Some(six.clone()));
        links.update_bridge(&link("nd1"), &six).await.unwrap();
        assert_eq!(observed().await, Some(six));

        links.update_bridge(&link("nd1"), &blue()).await.unwrap();
        assert_eq!((of_link().await, observed().await), (vec![], Some(blue())));
    });
}

#[test]
fn a_bridge_keeps_its_mtu_when_its_last_port_leaves() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let veth = web(sandbox());
        links.create_bridge(&link("nd1"), &blue()).await.unwrap();
        links.create_veth(&link("nd11"), &veth).await.unwrap();
        links.connect_veth(&link("nd11"), &veth).await.unwrap();

        links.delete(&link("nd11")).await.unwrap();

        assert_eq!(links.observe(&BTreeMap::new()).await.unwrap().bridges, BTreeMap::from([(link("nd1"), blue())]));
    });
}

#[test]
fn a_side_that_is_down_is_no_connected_veth() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let veth = web(sandbox());
        let sandboxes = BTreeMap::from([(link("nd11"), veth.sandbox.clone())]);
        links.create_bridge(&link("nd1"), &blue()).await.unwrap();
        links.create_veth(&link("nd11"), &veth).await.unwrap();
        links.connect_veth(&link("nd11"), &veth).await.unwrap();
        links.set(LinkUnspec::new_with_name("nd11").down().build()).await.unwrap();

        assert_ne!(links.observe(&sandboxes).await.unwrap().veths[&link("nd11")], veth);
        links.connect_veth(&link("nd11"), &veth).await.unwrap();
        assert_eq!(links.observe(&sandboxes).await.unwrap().veths[&link("nd11")], veth);
    });
}

#[test]
fn a_veth_whose_sandbox_is_not_known_equals_nothing_desired() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let veth = web(sandbox());
        links.create_veth(&link("nd11"), &veth).await.unwrap();

        let observed = links.observe(&BTreeMap::new()).await.unwrap().veths[&link("nd11")].clone();
        assert_eq!((observed.owner, observed.sandbox.inode), ("web".into(), 0));
    });
}

#[test]
fn what_lacks_our_prefix_or_our_alias_is_invisible_and_stays() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        add_bridge(&links, "nd0", None).await;
        add_bridge(&links, "br0", Some("netd network blue")).await;
        add_bridge(&links, "nd5", Some("netd endpoint web")).await;
        let before = links.all().await.unwrap();

        assert_eq!(links.observe(&BTreeMap::new()).await.unwrap(), Default::default());
        assert_eq!(links.delete_all().await.unwrap(), []);
        for name in ["nd0", "br0", "nd5"] {
            let refused = links.delete(&link(name)).await.unwrap_err().to_string();
            assert_eq!(refused, format!("{name} is not one of netd's devices: it is left alone"));
        }
        let refused = links.create_bridge(&link("nd0"), &blue()).await.unwrap_err().to_string();
        assert_eq!(refused, "a device nd0 exists already and is not netd's network blue");
        assert_eq!(links.all().await.unwrap(), before);
    });
}

#[test]
fn a_name_that_the_sandbox_has_already_is_refused_and_nothing_stays() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let veth = web(sandbox());
        let inside = Links::open_inside(&Namespace::of(&veth.sandbox).unwrap()).unwrap();
        inside.handle.link().add(LinkVeth::new("eth0", "eth9").build()).execute().await.unwrap();
        let before = (links.all().await.unwrap(), inside.all().await.unwrap());

        let refused = links.create_veth(&link("nd11"), &veth).await.unwrap_err().to_string();

        assert_eq!(refused, format!("an interface eth0 exists already in {}", veth.sandbox.path.display()));
        assert_eq!((links.all().await.unwrap(), inside.all().await.unwrap()), before);
    });
}

#[test]
fn nothing_stays_of_a_veth_that_the_kernel_refuses() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let mut veth = web(sandbox());
        veth.interface.mac = Mac([0xff; 6]);
        let inside = Links::open_inside(&Namespace::of(&veth.sandbox).unwrap()).unwrap();
        let before = (links.all().await.unwrap(), inside.all().await.unwrap());

        let refused = format!("{:#}", links.create_veth(&link("nd11"), &veth).await.unwrap_err());

        assert!(refused.starts_with("cannot make the veth pair nd11 of endpoint web: "), "{refused}");
        assert_eq!((links.all().await.unwrap(), inside.all().await.unwrap()), before);
    });
}

#[test]
fn what_was_left_half_made_makes_room() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let half = LinkMessageBuilder::<LinkBridge>::new("nd1").link_group(GROUP).build();
        links.handle.link().add(half).execute().await.unwrap();

        links.create_bridge(&link("nd1"), &blue()).await.unwrap();

        assert_eq!(links.observe(&BTreeMap::new()).await.unwrap().bridges, BTreeMap::from([(link("nd1"), blue())]));
    });
}

#[test]
fn a_network_without_a_gateway_gives_no_default_route() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let mut veth = web(sandbox());
        links.create_bridge(&link("nd1"), &blue()).await.unwrap();
        links.create_veth(&link("nd11"), &veth).await.unwrap();
        links.connect_veth(&link("nd11"), &veth).await.unwrap();

        veth.interface.gateways.clear();
        links.connect_veth(&link("nd11"), &veth).await.unwrap();

        let inside = Links::open_inside(&Namespace::of(&veth.sandbox).unwrap()).unwrap();
        let routes = inside.routes().await.unwrap();
        assert!(routes.iter().all(|route| route.header.destination_prefix_length != 0));
        assert_eq!(Links::interfaces(&veth.sandbox).await.unwrap(), [link("eth0"), link("lo")].into());
    });
}

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
fn forwarding_is_given_back_by_another_process_and_only_where_netd_switched_it_on() {
    on_a_host_of_its_own(async |directory| {
        let links = Links::open().unwrap();
        links.handle.link().add(LinkVeth::new("wan0", "wan1").build()).execute().await.unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/wan0/forwarding", "0").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/wan1/forwarding", "1").unwrap();
        let on = || ["wan0", "wan1"].map(|name| Forwarding::is_on(&link(name), Family::V4));

        let mut forwarding = Forwarding::open(&directory).unwrap();
        for name in ["wan0", "wan1", "wan0"] {
            forwarding.switch_on(&link(name), Family::V4, &BTreeSet::new()).unwrap();
        }
        assert_eq!(on(), [true, true]);
        assert_eq!(["wan0", "wan1"].map(|name| forwarding.was_off(&link(name), Family::V4)), [true, false]);

        let given_back = Forwarding::open(&directory).unwrap().give_everything_back().unwrap();
        assert_eq!(given_back, [link("wan0")]);
        assert_eq!(on(), [false, true]);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    });
}

#[test]
fn forwarding_of_a_renamed_device_is_given_back_under_its_new_name() {
    on_a_host_of_its_own(async |directory| {
        let links = Links::open().unwrap();
        links.handle.link().add(LinkVeth::new("wan0", "wan1").build()).execute().await.unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/wan0/forwarding", "0").unwrap();
        let mut forwarding = Forwarding::open(&directory).unwrap();
        forwarding.switch_on(&link("wan0"), Family::V4, &BTreeSet::new()).unwrap();

        ip("link set wan0 name dsl0");
        forwarding.follow_renames().unwrap();

        assert!(forwarding.was_off(&link("dsl0"), Family::V4), "the host is no router by its new name either");
        assert_eq!(Forwarding::open(&directory).unwrap().give_everything_back().unwrap(), [link("dsl0")]);
        assert!(!Forwarding::is_on(&link("dsl0"), Family::V4));
    });
}

#[test]
fn ipv6_forwarding_leaves_other_devices_and_what_routers_announce_as_they_are() {
    on_a_host_of_its_own(async |directory| {
        for name in ["wan0", "wan2", "wan4"] {
            ip(&format!("link add {name} type veth peer name {name}p"));
        }
        let read = |name: &str, setting: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/{setting}")).unwrap().trim().to_owned()
        };
        let settings = || {
            let names = ["all", "default", "wan0", "wan2", "wan4"];
            names.map(|name| ["forwarding", "accept_ra"].map(|setting| read(name, setting)))
        };
        let before = settings();
        let announced = BTreeSet::from([link("wan2")]);
        let mut forwarding = Forwarding::open(&directory).unwrap();
        assert!(forwarding.was_off(&link("wan0"), Family::V6));

        forwarding.switch_on(&link("wan0"), Family::V6, &announced).unwrap();

        assert!(Forwarding::is_on(&link("wan0"), Family::V6) && forwarding.was_off(&link("wan0"), Family::V6));
        let [_, default, wan0, wan2, wan4] = settings();
        assert_eq!(wan0, ["1", "2"]);
        assert_eq!(wan2, ["0", "2"]);
        assert_eq!((default, wan4), (before[1].clone(), before[4].clone()));
        forwarding.switch_on(&link("wan4"), Family::V6, &announced).unwrap();
        assert!(forwarding.give_back(&link("wan0"), Family::V6).unwrap());
        assert!(!Forwarding::is_on(&link("wan0"), Family::V6) && Forwarding::is_on(&link("wan4"), Family::V6));
        assert_eq!(Forwarding::open(&directory).unwrap().give_everything_back().unwrap(), [link("wan2"), link("wan4")]);
        assert_eq!(settings(), before);
    });
}

#[test]
fn a_router_of_ipv6_stays_one() {
    on_a_host_of_its_own(async |directory| {
        ip("link add wan0 type veth peer name wan1");
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let mut forwarding = Forwarding::open(&directory).unwrap();
        assert!(Forwarding::is_on(&link("wan0"), Family::V6) && !forwarding.was_off(&link("wan0"), Family::V6));

        forwarding.switch_on(&link("wan0"), Family::V6, &BTreeSet::new()).unwrap();

        assert!(!forwarding.was_off(&link("wan0"), Family::V6));
        forwarding.give_everything_back().unwrap();
        assert!(Forwarding::is_on(&link("wan0"), Family::V6));
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/wan0/accept_ra").unwrap().trim(), "1");
    });
}

#[test]
fn notes_of_another_boot_are_void() {
    on_a_host_of_its_own(async |directory| {
        let another = "11111111-1111-1111-1111-111111111111\n1 lo 0\n";
        std::fs::write(directory.join("forwarding"), another).unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "1").unwrap();

        assert_eq!(Forwarding::open(&directory).unwrap().give_everything_back().unwrap(), []);
        assert!(Forwarding::is_on(&link("lo"), Family::V4));
    });
}

#[test]
fn a_change_of_links_wakes_the_watcher() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let mut changes = Links::open_watched().unwrap().changes().unwrap();

        links.create_bridge(&link("nd1"), &blue()).await.unwrap();

        tokio::time::timeout(Duration::from_secs(3), changes.changed()).await.unwrap().unwrap();
    });
}

#[test]
fn a_veth_is_not_connected_to_a_namespace_that_took_the_place_of_its_sandbox() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open().unwrap();
        let veth = web(sandbox());
        links.create_veth(&link("nd11"), &veth).await.unwrap();
        let elsewhere = Veth { sandbox: Sandbox { inode: veth.sandbox.inode + 1, ..veth.sandbox.clone() }, ..veth };

        let refused = links.connect_veth(&link("nd11"), &elsewhere).await;

        assert!(refused.is_err());
    });
}

async fn add_bridge(links: &Links, name: &str, alias: Option<&str>) {
    links.handle.link().add(LinkBridge::new(name).build()).execute().await.unwrap();
    if let Some(alias) = alias {
        links.set(LinkUnspec::new_with_name(name).alias(alias).build()).await.unwrap();
    }
}

fn nets(addresses: &[&str]) -> BTreeSet<ipnet::IpNet> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn blue() -> Bridge {
    let addresses = nets(&["10.176.0.1/24"]);
    Bridge { owner: "blue".into(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1400, addresses, intact: true }
}

fn web(sandbox: Sandbox) -> Veth {
    let interface = Interface {
        name: link("eth0"),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        addresses: nets(&["10.176.0.2/24"]),
        gateways: ["10.176.0.1".parse().unwrap()].into(),
    };
    Veth { owner: "web".into(), bridge: link("nd1"), mtu: 1400, intact: true, apart: false, sandbox, interface }
}

fn db(sandbox: Sandbox) -> Veth {
    let mut veth = Veth { owner: "db".into(), ..web(sandbox) };
    veth.interface.mac = Mac([2, 0, 0, 0, 0, 3]);
    veth.interface.addresses = nets(&["10.176.0.3/24"]);
    veth
}

fn ip(words: &str) {
    let out = std::process::Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
}
