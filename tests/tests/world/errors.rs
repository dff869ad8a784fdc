//! ICMP errors about packets of a flow.

use netd_common::{
    parse::{
        sctp_chunk::INIT,
        tcp_flags::{ACK, SYN},
    },
    tables::Hook,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, checksums_hold, icmp_error, ping, sctp, tcp, udp},
    scene::{self, A, B, UPLINK},
    story::{Arrived, SERVER, enter, leave},
    world::{Frame, World},
};

#[test]
fn an_error_about_a_containers_packet_reaches_it_and_quotes_what_it_sent() {
    let cases = [
        (tcp("10.176.1.2:33000", "198.51.100.7:80").payload(&[7; 33]), 28),
        (tcp("10.176.1.2:33000", "198.51.100.7:80").payload(&[7; 33]).ip_options(12), 200),
        (udp("10.176.1.2:33000", "198.51.100.7:53"), 28),
        (udp("10.176.1.2:33000", "198.51.100.7:53").without_udp_checksum(), 28),
        (ping("10.176.1.2", SERVER, 4711), 28),
    ];
    for (sent, quoted) in cases {
        let world = scene::world();
        leave(&world, B, ping("10.176.1.3", SERVER, 4711), false);
        let original = sent.clone().bytes();
        let out = leave(&world, A, sent, false);

        let error = enter(&world, icmp_error("203.0.113.1", "192.0.2.1", true, &out.bytes, quoted), false);

        assert_eq!(error.verdict, Verdict::Peer(A));
        assert_eq!(
            &error.bytes[26..34],
            &[203, 0, 113, 1, 10, 176, 1, 2],
            "the router's address stays, the host's does not"
        );
        let quote = &error.bytes[error.l4() + 8..];
        // But for the time to live that netd counted down, and the header checksum over it.
        let mut expected = original[14..14 + quote.len()].to_vec();
        expected[8..12].copy_from_slice(&quote[8..12]);
        assert_eq!(quote, expected);
        checksums_hold(&[&[0; 14], quote].concat()[..14 + usize::from(quote[0] & 15) * 4 + 8]).unwrap();
    }
}

#[test]
fn an_error_by_a_container_leaves_as_the_hosts_and_quotes_what_the_client_sent() {
    let cases = [
        (udp("203.0.113.9:40000", "192.0.2.1:5353"), B, "10.176.1.3"),
        (udp("203.0.113.9:40000", "192.0.2.1:5353").without_udp_checksum(), B, "10.176.1.3"),
        (sctp("203.0.113.9:40000", "192.0.2.1:5353", INIT), B, "10.176.1.3"),
        (tcp("203.0.113.9:40000", "192.0.2.1:8080"), A, "10.176.1.2"),
        (tcp("203.0.113.9:40000", "192.0.2.1:8080").ip_options(12), A, "10.176.1.2"),
    ];
    for (sent, container, own) in cases {
        for quoted in [28, 200] {
            let world = scene::world();
            let original = sent.clone().bytes();
            let arrived = enter(&world, sent.clone(), false);
            assert_eq!(arrived.verdict, Verdict::Peer(container));
            let quoted = quoted.max(usize::from(original[14] & 15) * 4 + 8);

            let error = leave(&world, container, icmp_error(own, "203.0.113.9", false, &arrived.bytes, quoted), false);

            assert_eq!(error.verdict, Verdict::Neighbour(UPLINK));
            assert_eq!(&error.bytes[26..34], &[192, 0, 2, 1, 203, 0, 113, 9]);
            let quote = &error.bytes[error.l4() + 8..];
            let mut expected = original[14..14 + quote.len()].to_vec();
            expected[8..12].copy_from_slice(&quote[8..12]);
            assert_eq!(quote, expected, "what the client sent, its time to live aside");
        }
    }
}

#[test]
fn a_container_says_nothing_of_its_neighbours_flows() {
    for shown in [0, 7] {
        let mut world = scene::world();
        world.settings.as_mut().expect("it has settings").firewall.generation = shown;
        // What it opened, and what was opened to it.
        leave(&world, B, udp("10.176.1.3:5000", "198.51.100.7:53"), false);
        enter(&world, udp("203.0.113.9:40000", "192.0.2.1:5353"), false);
        let cases = [
            (SERVER, udp("198.51.100.7:53", "10.176.1.3:5000").bytes()),
            ("203.0.113.9", udp("203.0.113.9:40000", "10.176.1.3:53").bytes()),
        ];

        for ((to, about), too_big) in cases.iter().flat_map(|case| [false, true].map(|too_big| (case, too_big))) {
            let error = |own: &str| icmp_error(own, to, too_big, about, 28);
            assert_eq!(leave(&world, A, error("10.176.1.2"), false).verdict, Verdict::Drop(DropReason::SpoofedAddress));
            let of_its_own = leave(&world, B, error("10.176.1.3"), false).verdict;
            assert_eq!(of_its_own, if shown == 0 { Verdict::Neighbour(UPLINK) } else { Verdict::Pass });
        }
    }
}

#[test]
fn an_error_about_nothing_of_ours_is_the_hosts_from_outside_and_goes_nowhere_from_a_container() {
    let world = scene::world();
    let unknown = tcp("192.0.2.1:5555", "198.51.100.7:80").bytes();

    let inward = enter(&world, icmp_error("203.0.113.1", "192.0.2.1", true, &unknown, 28), false);
    let truncated = enter(&world, icmp_error("203.0.113.1", "192.0.2.1", true, &unknown, 15), false);
    let outward = leave(&world, A, icmp_error("10.176.1.2", "203.0.113.1", false, &unknown, 28), false);

    assert_eq!((inward.verdict, truncated.verdict), (Verdict::Pass, Verdict::Pass));
    assert_eq!(outward.verdict, Verdict::Drop(DropReason::NoFlow));
}

#[test]
fn an_error_of_the_hosts_own_about_what_it_had_to_route_for_a_container_quotes_what_the_sender_sent() {
    let world = scene::world();
    let opened = leave(&world, A, tcp("10.176.1.2:33000", "198.51.100.7:80"), false);
    // A client at the end of its hops, and a server whose answer is.
    let cases = [
        udp("203.0.113.9:40000", "192.0.2.1:5353").ttl(1),
        tcp("198.51.100.7:80", &opened.source()).flags(SYN | ACK).ttl(1),
    ];
    for sent in cases {
        let original = sent.clone().bytes();
        let to_stack = enter(&world, sent, false);
        assert_eq!((to_stack.verdict, to_stack.ttl()), (Verdict::Pass, 1));
        let client = original[26..30].iter().map(u8::to_string).collect::<Vec<_>>().join(".");

        let error = by_host(&world, icmp_error("192.0.2.1", &client, true, &to_stack.bytes, 28));

        assert_eq!(error.verdict, Verdict::Pass);
        assert_eq!(&error.bytes[26..34], [&[192, 0, 2, 1], &original[26..30]].concat());
        assert_eq!(&error.bytes[error.l4() + 8..], &original[14..42], "nothing of the container is told");
    }
}

#[test]
fn an_error_of_the_hosts_own_about_its_own_traffic_is_left_as_it_is() {
    let world = scene::world();
    let about = udp("203.0.113.9:40000", "192.0.2.1:9").bytes();
    let error = icmp_error("192.0.2.1", "203.0.113.9", false, &about, 28);

    assert_eq!(by_host(&world, error.clone()).bytes, error.bytes());
}

fn by_host(world: &World, build: Build) -> Arrived {
    let mut frame = Frame { came_by: 0, ..Frame::at(UPLINK, build.bytes()) };
    let verdict = world.run(Hook::ToUplink, &mut frame);
    checksums_hold(&frame.bytes).unwrap();
    Arrived { verdict, bytes: frame.bytes }
}
