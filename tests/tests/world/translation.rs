//! What becomes of a packet's tuple on its way out and in.

use netd_common::{
    parse::tcp_flags::{ACK, SYN},
    tables::{Firewall, Hook, Routing},
    tuple::{Address, TCP, UDP},
    verdict::Verdict,
};
use netd_tests::{
    packets::{Build, ping, pong, tcp, udp},
    scene::{self, A, B, C, UPLINK},
    story::{Arrived, SERVER, enter, leave, of},
    world::{Frame, RouteTo, World},
};

#[test]
fn a_reply_reaches_its_sender_with_the_original_tuple() {
    for protocol in ["tcp", "udp"] {
        for offload in [false, true] {
            let world = scene::world();

            let out = leave(&world, A, of(protocol, "10.176.1.2:33000", "198.51.100.7:80"), offload);
            let back = enter(&world, of(protocol, &format!("{SERVER}:80"), &out.source()).flags(SYN | ACK), offload);

            assert_eq!(out.verdict, Verdict::Neighbour(UPLINK));
            assert!(out.source().starts_with("192.0.2.1:"), "{}", out.source());
            assert_eq!(back.verdict, Verdict::Peer(A));
            assert_eq!((back.source(), back.destination()), (format!("{SERVER}:80"), "10.176.1.2:33000".to_owned()));
            assert_eq!(&back.bytes[..12], [scene::container_mac(A), scene::bridge_mac(20)].concat());
        }
    }
}

#[test]
fn a_ping_and_its_reply_keep_the_identifier_that_the_container_chose() {
    let world = scene::world();

    let out = leave(&world, A, ping("10.176.1.2", SERVER, 0), false);
    let other = leave(&world, B, ping("10.176.1.3", SERVER, 0), false);
    let back = enter(&world, pong(SERVER, "192.0.2.1", other.identifier()), false);

    assert_eq!(out.identifier(), 0);
    assert_ne!(other.identifier(), 0, "two pings with one identifier must be kept apart");
    assert_eq!((back.verdict, back.identifier()), (Verdict::Peer(B), 0));
}

#[test]
fn a_client_outside_reaches_a_published_port_with_its_own_address() {
    for offload in [false, true] {
        let world = scene::world();

        let request = enter(&world, tcp("203.0.113.9:40000", "192.0.2.1:8080"), offload);
        let answer = leave(&world, A, tcp("10.176.1.2:80", "203.0.113.9:40000").flags(SYN | ACK), offload);

        assert_eq!(request.verdict, Verdict::Peer(A));
        assert_eq!((request.source(), request.destination()), ("203.0.113.9:40000".into(), "10.176.1.2:80".into()));
        assert_eq!(answer.verdict, Verdict::Neighbour(UPLINK));
        assert_eq!(answer.source(), "192.0.2.1:8080");
    }
}

#[test]
fn a_publication_on_one_address_leaves_transit_traffic_and_other_ports_alone() {
    let world = scene::world();

    let transit = enter(&world, tcp("203.0.113.9:40000", "203.0.113.5:8080"), false);
    let other_port = enter(&world, tcp("203.0.113.9:40000", "192.0.2.1:8081"), false);
    let other_protocol = enter(&world, udp("203.0.113.9:40000", "192.0.2.1:8080"), false);

    for untouched in [transit, other_port, other_protocol] {
        assert_eq!(untouched.verdict, Verdict::Pass);
    }
    assert_eq!(world.flows.borrow().len(), 0);
}

#[test]
fn one_client_port_to_two_published_ports_of_one_container_port_is_kept_apart() {
    let mut world = scene::world();
    scene::publish(&mut world, Address::ANY_V4, TCP, 8081..=8081, [10, 176, 1, 2], 80);

    let one = enter(&world, tcp("203.0.113.9:40000", "192.0.2.1:8080"), false);
    let two = enter(&world, tcp("203.0.113.9:40000", "192.0.2.1:8081"), false);
    let answer = leave(&world, A, tcp("10.176.1.2:80", &two.source()).flags(SYN | ACK), false);

    assert_ne!(one.source(), two.source());
    assert_eq!((answer.source(), answer.destination()), ("192.0.2.1:8081".into(), "203.0.113.9:40000".into()));
}

#[test]
fn a_checksum_is_told_of_a_port_too_where_the_change_of_addresses_comes_to_nothing() {
    // 10.177 and 1.1 come to what 10.176 and 1.2 do.
    let (host, own) = (Address::v4([10, 177, 1, 1]), "10.177.1.1:7070");
    for (name, protocol) in [("tcp", TCP), ("udp", UDP)] {
        for offload in [false, true] {
            let mut world = scene::world();
            scene::publish(&mut world, host, protocol, 7070..=7070, [10, 176, 1, 2], 80);

            let knock = enter(&world, of(name, "203.0.113.9:40000", own), offload);
            let answer = leave(&world, A, of(name, "10.176.1.2:80", "203.0.113.9:40000").flags(SYN | ACK), offload);

            assert_eq!((knock.verdict, knock.destination()), (Verdict::Peer(A), "10.176.1.2:80".to_owned()));
            assert_eq!(answer.source(), own);
        }
    }
}

#[test]
fn every_port_of_a_range_leads_to_its_own_and_its_neighbours_to_none() {
    let mut world = scene::world();
    scene::publish(&mut world, Address::ANY_V4, TCP, 9001..=9999, [10, 176, 1, 2], 101);

    for (outside, inside) in [(9001, 101), (9002, 102), (9511, 611), (9512, 612), (9999, 1099)] {
        let request = enter(&world, tcp("203.0.113.9:40000", &format!("192.0.2.1:{outside}")), false);
        let answer = leave(&world, A, tcp(&request.destination(), "203.0.113.9:40000").flags(SYN | ACK), false);

        assert_eq!((request.verdict, request.destination()), (Verdict::Peer(A), format!("10.176.1.2:{inside}")));
        assert_eq!(answer.source(), format!("192.0.2.1:{outside}"));
    }
    for outside in ["192.0.2.1:9000", "192.0.2.1:10000"] {
        assert_eq!(enter(&world, tcp("203.0.113.9:40000", outside), false).verdict, Verdict::Pass);
    }
}

#[test]
fn two_containers_with_one_source_port_leave_by_two_ports() {
    let world = scene::world();

    let a = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);
    let b = leave(&world, B, udp("10.176.1.3:33000", "198.51.100.7:53"), false);

    assert_ne!(a.source(), b.source());
    assert_eq!(enter(&world, udp("198.51.100.7:53", &a.source()), false).verdict, Verdict::Peer(A));
    assert_eq!(enter(&world, udp("198.51.100.7:53", &b.source()), false).verdict, Verdict::Peer(B));
}

#[test]
fn a_source_port_is_kept_where_neither_the_host_nor_a_publication_can_want_it() {
    let mut world = scene::world();
    world.sockets.insert((TCP, 7000));
    let source_of = |port| leave(&world, A, tcp(&format!("10.176.1.2:{port}"), "198.51.100.7:80"), false).source();

    assert_eq!(source_of(5000), "192.0.2.1:5000");
    assert_ne!(source_of(33000), "192.0.2.1:33000", "of the host's ephemeral range");
    assert_ne!(source_of(8080), "192.0.2.1:8080", "published");
    assert_ne!(source_of(7000), "192.0.2.1:7000", "a socket of the host's own");
}

#[test]
fn a_packet_at_the_end_of_its_life_goes_to_the_stack_untranslated_from_a_container_and_translated_from_outside() {
    let world = scene::world();

    let out = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80").ttl(1), false);
    let inward = enter(&world, tcp("203.0.113.9:4000", "192.0.2.1:8080").ttl(1), false);

    assert_eq!((out.verdict, out.source()), (Verdict::Pass, "10.176.1.2:5000".into()));
    assert_eq!((inward.verdict, inward.destination()), (Verdict::Pass, "10.176.1.2:80".into()));
    assert_eq!((out.ttl(), inward.ttl()), (1, 1));
}

/// What the stack forwards for a container, at the uplink.
fn forwarded(world: &World, build: Build) -> Arrived {
    let mut frame = Frame { came_by: 20, ..Frame::at(UPLINK, build.bytes()) };
    let verdict = world.run(Hook::ToUplink, &mut frame);
    Arrived { verdict, bytes: frame.bytes }
}

#[test]
fn what_the_stack_forwards_for_a_container_leaves_translated_and_returns_to_it() {
    let world = scene::world();

    let out = forwarded(&world, tcp("10.176.1.2:33000", "198.51.100.7:80"));
    let back = enter(&world, tcp("198.51.100.7:80", &out.source()).flags(SYN | ACK), false);

    assert_eq!(out.verdict, Verdict::Pass);
    assert!(out.source().starts_with("192.0.2.1:"));
    assert_eq!((back.verdict, back.destination()), (Verdict::Peer(A), "10.176.1.2:33000".into()));
}

#[test]
fn what_the_stack_moves_to_another_uplink_leaves_as_that_ones_address() {
    let mut world = scene::world();
    let first = forwarded(&world, tcp("10.176.1.2:33000", "198.51.100.7:80"));
    assert!(first.source().starts_with("192.0.2.1:"));

    world.devices.get_mut(&UPLINK).unwrap().ipv4 = [192, 0, 2, 99];
    world.sleep_seconds(2);
    let moved = forwarded(&world, tcp("10.176.1.2:33000", "198.51.100.7:80"));

    assert_eq!(moved.verdict, Verdict::Pass);
    assert!(moved.source().starts_with("192.0.2.99:"), "{}", moved.source());
}

#[test]
fn where_routes_depend_on_marks_the_stack_finds_the_way_and_answers_come_straight_in() {
    let mut world = scene::world();
    world.settings.as_mut().unwrap().routing = Routing::ByStack as u32;
    let sent = tcp("10.176.1.2:33000", "198.51.100.7:80");

    let to_stack = leave(&world, A, sent.clone(), false);
    let out = forwarded(&world, sent);
    let back = enter(&world, tcp("198.51.100.7:80", &out.source()).flags(SYN | ACK), false);
    let published = enter(&world, tcp("203.0.113.9:40000", "192.0.2.1:8080"), false);
    let answer = tcp("10.176.1.2:80", "203.0.113.9:40000").flags(SYN | ACK);
    let answer_to_stack = leave(&world, A, answer.clone(), false);

    assert_eq!((to_stack.verdict, to_stack.source()), (Verdict::Pass, "10.176.1.2:33000".into()));
    assert_eq!((back.verdict, back.destination()), (Verdict::Peer(A), "10.176.1.2:33000".into()));
    assert_eq!((published.verdict, answer_to_stack.verdict), (Verdict::Peer(A), Verdict::Pass));
    assert_eq!(forwarded(&world, answer).source(), "192.0.2.1:8080");
}

#[test]
fn where_a_rule_picks_the_way_by_netds_mark_programs_ask_with_it_and_the_stacks_packets_have_it() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.routing = Routing::AskedWithMark as u32;
    settings.firewall = Firewall { mark: 0x0800_0000, ..Firewall::default() };
    let other = Address::v4([192, 0, 2, 253]);
    world.marked_routes.insert(0x0800_0000, vec![(Address::ANY_V4, 96, RouteTo::Device(UPLINK, 900, Some(other)))]);

    let short = leave(&world, A, tcp("10.176.1.2:33000", "198.51.100.7:80"), false);
    let way = world.flows.borrow().values().find(|flow| flow.direction == 0).unwrap().next.address();
    let long = udp("10.176.1.2:33001", "198.51.100.7:80").payload(&[0; 1000]);
    let long = long.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes();
    let mut to_stack = Frame::at(A, long);
    let verdict = world.run(Hook::FromContainer, &mut to_stack);

    assert_eq!((short.verdict, way), (Verdict::Neighbour(UPLINK), other));
    assert_eq!((verdict, to_stack.mark), (Verdict::Pass, 0x0800_0000));
}

#[test]
fn a_network_with_an_address_of_its_own_leaves_as_that_by_every_uplink_and_path() {
    let mut world = scene::world();
    world.devices.get_mut(&20).unwrap().ipv4 = [192, 0, 2, 50];

    let fast = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80"), false);
    let slow = forwarded(&world, tcp("10.176.1.3:5001", "198.51.100.7:80"));
    let other_network = leave(&world, C, tcp("10.176.2.2:5000", "198.51.100.7:80"), false);
    let back = enter(&world, tcp("198.51.100.7:80", &fast.source()).flags(SYN | ACK), false);

    assert_eq!((fast.source(), slow.source()), ("192.0.2.50:5000".into(), "192.0.2.50:5001".into()));
    assert!(other_network.source().starts_with("192.0.2.1:"));
    assert_eq!((back.verdict, back.destination()), (Verdict::Peer(A), "10.176.1.2:5000".into()));
}

#[test]
fn a_way_that_the_routing_refuses_is_the_stacks_to_answer_and_makes_no_flow() {
    let mut world = scene::world();
    world.routes.push((Address::v4([198, 51, 100, 0]), 120, RouteTo::Refused));

    let out = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80"), false);

    assert_eq!((out.verdict, out.source()), (Verdict::Pass, "10.176.1.2:5000".into()));
    assert_eq!(world.flows.borrow().len(), 0);
}
