//! Bridges and veth pairs: made, mended, and told apart from what is not ours.

use super::*;

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
        server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
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
            to.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
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
