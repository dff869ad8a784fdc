//! The host's own sockets beside masqueraded flows.

use netd_common::{
    packet::{ETH, Packet},
    parse::tcp_flags::{ACK, SYN},
    tables::{Hook, PublicationKey, SourceList},
    tuple::{Address, Port, Tuple, UDP, Zone, echo},
    verdict::Verdict,
};
use netd_tests::{
    packets::{Build, icmp_error, ipv6_twin, ping, pong, tcp, udp},
    scene::{self, A, B, UPLINK},
    story::{Arrived, SERVER, enter, enters, host_sends, leave, leaves, leaves_host, of},
    world::Frame,
};

#[test]
fn a_socket_of_the_host_that_takes_a_containers_tuple_later_gets_its_own_answers() {
    for protocol in ["tcp", "udp"] {
        for offload in [false, true] {
            let world = scene::world();
            let server = format!("{SERVER}:80");
            let kept = leave(&world, A, of(protocol, "10.176.1.2:5000", &server), offload);
            assert_eq!(kept.source(), "192.0.2.1:5000");

            let first = host_sends(&world, of(protocol, "192.0.2.1:5000", &server), offload);
            let next = host_sends(&world, of(protocol, "192.0.2.1:5000", &server).flags(ACK), offload);
            let answer = enter(&world, of(protocol, &server, &first.source()).flags(SYN | ACK), offload);
            let containers = enter(&world, of(protocol, &server, "192.0.2.1:5000").flags(SYN | ACK), offload);

            assert_eq!(
                (first.verdict, answer.verdict),
                (Verdict::Pass, Verdict::Pass),
                "the host's packets are its stack's"
            );
            assert_ne!(first.source(), kept.source());
            assert!(first.source().starts_with("192.0.2.1:"), "{}", first.source());
            assert_eq!(next.source(), first.source());
            assert_eq!((answer.source(), answer.destination()), (server, "192.0.2.1:5000".to_owned()));
            assert_eq!(
                (containers.verdict, containers.destination()),
                (Verdict::Peer(A), "10.176.1.2:5000".to_owned())
            );
        }
    }
}

#[test]
fn a_ping_of_the_hosts_with_the_identifier_of_a_containers_is_answered_to_the_host() {
    let [server, host, container] = [SERVER, "192.0.2.1", "10.176.1.2"];
    // Where the identifier stands, and whose packet it is, by family.
    for (is_v6, at) in [(false, ETH + 20 + 4), (true, ETH + 40 + 4)] {
        let world = scene::world_of_both_families();
        let of_family = |build: Build| if is_v6 { ipv6_twin(&build.bytes()) } else { build.bytes() };
        let identifier = |arrived: &Arrived| u16::from_be_bytes([arrived.bytes[at], arrived.bytes[at + 1]]);
        let answered = |identifier| enters(&world, of_family(pong(server, host, identifier)));
        assert_eq!(identifier(&leaves(&world, A, of_family(ping(container, server, 1)))), 1);

        let first = leaves_host(&world, of_family(ping(host, server, 1)));
        let next = leaves_host(&world, of_family(ping(host, server, 1)));

        assert_eq!((first.verdict, identifier(&next)), (Verdict::Pass, identifier(&first)));
        assert_ne!(identifier(&first), 1);
        let hosts = answered(identifier(&first));
        assert_eq!((hosts.verdict, identifier(&hosts)), (Verdict::Pass, 1));
        let containers = answered(1);
        assert_eq!((containers.verdict, identifier(&containers)), (Verdict::Peer(A), 1));
        let in_nobodys_way = leaves_host(&world, of_family(ping(host, server, 2)));
        assert_eq!((in_nobodys_way.verdict, identifier(&in_nobodys_way)), (Verdict::Pass, 2));
    }
}

#[test]
fn traffic_of_the_host_that_is_in_nobodys_way_leaves_as_it_is() {
    let world = scene::world();
    leave(&world, A, udp("10.176.1.2:5000", "198.51.100.7:53"), false);
    for build in [
        ping("192.0.2.1", "198.51.100.7", 5000),
        udp("192.0.2.1:5001", "198.51.100.7:53"),
        udp("192.0.2.1:5000", "198.51.100.7:54"),
        udp("192.0.2.1:5000", "198.51.100.8:53"),
        tcp("192.0.2.1:5000", "198.51.100.7:53"),
        tcp("192.0.2.1:5000", "198.51.100.7:53").flags(ACK),
    ] {
        let bytes = build.macs(scene::UPLINK_MACS[0], scene::UPLINK_MACS[1]).bytes();
        let mut frame = Frame { came_by: 0, ..Frame::at(UPLINK, bytes.clone()) };
        assert_eq!(world.run(Hook::ToUplink, &mut frame), Verdict::Pass);
        assert_eq!(frame.bytes, bytes);
        assert_eq!(frame.length(), bytes.len());
    }
    assert!(!world.guards.get());
    assert!(world.flows.borrow().keys().all(|key| key.zone == Zone::HOST || key.zone == Zone(1)));
    assert_eq!(world.flows.borrow().len(), 2);
}

#[test]
fn answers_of_the_host_to_clients_of_a_published_port_are_its_own() {
    let world = scene::world();
    enter(&world, tcp("203.0.113.9:40000", "192.0.2.1:8080"), false);

    let sent = host_sends(&world, tcp("192.0.2.1:8080", "203.0.113.9:40000"), false);

    assert_eq!((sent.verdict, sent.source()), (Verdict::Pass, "192.0.2.1:8080".to_owned()));
}

#[test]
fn an_error_about_a_moved_flow_of_the_host_quotes_what_the_host_sent() {
    let world = scene::world();
    leave(&world, A, udp("10.176.1.2:5000", "198.51.100.7:53"), false);
    let sent = host_sends(&world, udp("192.0.2.1:5000", "198.51.100.7:53"), false);
    let quoted = udp(&sent.source(), "198.51.100.7:53");

    let error = enter(&world, icmp_error("198.51.100.7", "192.0.2.1", false, &quoted.bytes(), 28), false);

    assert_eq!(error.verdict, Verdict::Pass);
    let quoted_port = &error.bytes[14 + 20 + 8 + 20..][..2];
    assert_eq!(quoted_port, 5000u16.to_be_bytes());
}

/// A socket of the host's that a process has connected before its port was published, or at a port that the kernel has picked from a
/// published range: no program is asked when it does.
#[test]
fn a_datagram_that_answers_a_connected_socket_of_the_host_is_the_hosts_where_its_port_is_published() {
    let mut world = scene::world();
    let asked = |from: [u8; 4], to: [u8; 4]| Tuple {
        src: Address::v4(from),
        dst: Address::v4(to),
        src_port: Port::new(53),
        dst_port: Port::new(9000),
        protocol: UDP,
        echo: echo::NONE,
        zone: Zone::HOST,
    };
    world.connected.extend([asked([198, 51, 100, 7], scene::HOST), asked([10, 176, 1, 3], [10, 176, 1, 1])]);
    for list in [SourceList::ANYONE, scene::LIST] {
        scene::publish(&mut world, Address::ANY_V4, UDP, 9000..=9000, [10, 176, 1, 2], 90);
        let key = PublicationKey::new(Address::ANY_V4, UDP, Port::new(9000));
        world.publications.entry(key).and_modify(|to| *to = to.with_sources(list));
        let outside = udp("198.51.100.7:53", "192.0.2.1:9000");
        let mut frame = outside.clone().macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes();
        let early = world.run_early(UPLINK, &mut frame);

        assert_eq!(early, Verdict::Pass);
        assert_eq!(enter(&world, outside, false).verdict, Verdict::Pass);
        assert_eq!(leave(&world, B, udp("10.176.1.3:53", "10.176.1.1:9000"), false).verdict, Verdict::Host(20));
    }
    assert_eq!(world.flows.borrow().len(), 0);

    for (from, port) in [("198.51.100.7", 54), ("198.51.100.8", 53)] {
        let client = enter(&world, udp(&format!("{from}:{port}"), "192.0.2.1:9000"), false);
        assert_eq!((client.verdict, client.destination()), (Verdict::Peer(A), "10.176.1.2:90".to_owned()));
    }
    let by_tcp = enter(&world, tcp("198.51.100.7:53", "192.0.2.1:8080"), false).verdict;
    assert_eq!(by_tcp, Verdict::Peer(A), "a segment says itself whether it answers");
}
