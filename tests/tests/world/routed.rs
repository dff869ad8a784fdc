//! Containers that are reached at their own addresses, and those that are not.

use netd_common::{
    parse::tcp_flags::{ACK, SYN},
    tables::{Firewall, Publication, PublicationKey, Routing, device_flags},
    tuple::{Address, TCP, UDP, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{ping, pong, tcp, udp},
    scene::{self, A, C, D, H, UPLINK},
    story::{enter, leave},
    world::RouteTo,
};

#[test]
fn a_routed_container_is_reached_at_its_address_by_what_is_published_and_pings() {
    let world = scene::world();
    let client = "203.0.113.9";

    let knock = enter(&world, tcp(&format!("{client}:4000"), "10.176.5.2:80"), false);
    assert_eq!((knock.verdict, knock.source()), (Verdict::Peer(H), format!("{client}:4000")));
    assert_eq!(knock.destination(), "10.176.5.2:80");
    let answer = leave(&world, H, tcp("10.176.5.2:80", &format!("{client}:4000")).flags(SYN | ACK), false);
    assert_eq!((answer.verdict, answer.source()), (Verdict::Neighbour(UPLINK), "10.176.5.2:80".into()));
    assert_eq!(enter(&world, ping(client, "10.176.5.2", 7), false).verdict, Verdict::Peer(H));
    assert_eq!(leave(&world, H, pong("10.176.5.2", client, 7), false).verdict, Verdict::Neighbour(UPLINK));

    // Everything else is the stack's to deliver, which nothing of ours lets in.
    for refused in [tcp(&format!("{client}:4000"), "10.176.5.2:81"), udp(&format!("{client}:4000"), "10.176.5.2:80")] {
        assert_eq!(enter(&world, refused, false).verdict, Verdict::Pass);
    }
    assert_eq!(enter(&world, ping(client, "10.176.1.2", 7), false).verdict, Verdict::Pass, "of a network behind NAT");
}

#[test]
fn a_routed_container_leaves_with_its_own_address() {
    let world = scene::world();

    let sent = leave(&world, H, udp("10.176.5.2:33000", "198.51.100.7:53"), false);

    assert_eq!((sent.verdict, sent.source()), (Verdict::Neighbour(UPLINK), "10.176.5.2:33000".into()));
    let back = enter(&world, udp("198.51.100.7:53", "10.176.5.2:33000"), false);
    assert_eq!((back.verdict, back.destination()), (Verdict::Peer(H), "10.176.5.2:33000".into()));
}

#[test]
fn another_network_reaches_a_routed_container_as_the_outside_does() {
    let world = scene::world();

    let knock = leave(&world, A, tcp("10.176.1.2:5000", "10.176.5.2:80"), false);
    assert_eq!((knock.verdict, knock.source()), (Verdict::Peer(H), "10.176.5.1:5000".into()), "by its gateway");
    let answer = leave(&world, H, tcp("10.176.5.2:80", "10.176.5.1:5000").flags(SYN | ACK), false);
    assert_eq!((answer.verdict, answer.source()), (Verdict::Peer(A), "10.176.5.2:80".into()));
    assert_eq!(leave(&world, C, ping("10.176.2.2", "10.176.5.2", 7), false).verdict, Verdict::Peer(H));

    let isolated = Verdict::Drop(DropReason::Isolated);
    assert_eq!(leave(&world, A, tcp("10.176.1.2:5000", "10.176.5.2:81"), false).verdict, isolated);
    assert_eq!(leave(&world, A, tcp("10.176.1.2:5001", "10.176.5.2:80").flags(ACK), false).verdict, isolated);
    assert_eq!(leave(&world, H, tcp("10.176.5.2:5000", "10.176.1.2:80"), false).verdict, isolated);
    let internal = leave(&world, D, tcp("10.176.3.2:5000", "10.176.5.2:80"), false);
    assert_eq!(internal.verdict, Verdict::Drop(DropReason::Internal));
}

#[test]
fn one_that_keeps_its_address_keeps_it_towards_another_routed_network() {
    let mut world = scene::world();
    for device in [C, scene::bridge_of(C)] {
        world.devices.get_mut(&device).expect("it is there").flags |= device_flags::KEEPS_ADDRESS_V4;
    }

    let knock = leave(&world, C, tcp("10.176.2.2:5000", "10.176.5.2:80"), false);

    assert_eq!((knock.verdict, knock.source()), (Verdict::Peer(H), "10.176.2.2:5000".into()));
    let answer = leave(&world, H, tcp("10.176.5.2:80", "10.176.2.2:5000").flags(SYN | ACK), false);
    assert_eq!((answer.verdict, answer.destination()), (Verdict::Peer(C), "10.176.2.2:5000".into()));
}

#[test]
fn where_every_port_is_open_one_entry_a_protocol_says_so() {
    let mut world = scene::world();
    let own = Address::v4(scene::address_of(C));
    for protocol in [TCP, UDP] {
        let to = Publication::new(Zone(2), own, 0, 0).up_to(u16::MAX);
        world.publications.insert(PublicationKey::of(own, protocol, &to), to);
    }

    for port in [1, 80, 8080, 65_535] {
        let to = format!("10.176.2.2:{port}");
        for knock in [tcp("203.0.113.9:4000", &to), udp("203.0.113.9:4000", &to)] {
            let knock = enter(&world, knock, false);
            assert_eq!((knock.verdict, knock.destination()), (Verdict::Peer(C), to.clone()));
        }
    }
}

#[test]
fn a_source_that_is_a_containers_or_the_hosts_own_opens_nothing_from_the_wire() {
    for own_way in [false, true] {
        let mut world = scene::world();
        if own_way {
            // All that netd's containers send goes by one router, to one another too as far as the host's rules say.
            let settings = world.settings.as_mut().unwrap();
            settings.routing = Routing::AskedWithMark as u32;
            settings.firewall = Firewall { mark: 0x0800_0000, ..Firewall::default() };
            let router = RouteTo::Device(UPLINK, 1500, Some(Address::v4([192, 0, 2, 253])));
            world.marked_routes.insert(0x0800_0000, vec![(Address::ANY_V4, 96, router)]);
        }

        for spoofed in ["10.176.1.3:4000", "10.176.2.2:4000", "10.176.5.2:4000", "192.0.2.1:4000"] {
            for to in ["192.0.2.1:8080", "10.176.5.2:80"] {
                let knock = enter(&world, tcp(spoofed, to), false);
                assert_eq!(knock.verdict, Verdict::Drop(DropReason::SpoofedAddress), "{spoofed} to {to}");
            }
        }
        assert_eq!(world.flows.borrow().len(), 0);
    }
}

#[test]
fn a_network_without_a_gateway_does_not_reach_the_host() {
    let mut world = scene::world();
    let flags = device_flags::INTERNAL | device_flags::ISOLATED_V4;
    world.devices.get_mut(&D).expect("it is there").flags = flags;

    for to in ["10.176.3.1:22", "192.0.2.1:22", "192.0.2.1:8080", "198.51.100.7:80"] {
        let sent = leave(&world, D, tcp("10.176.3.2:5000", to), false);
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::Internal), "{to}");
    }
}
