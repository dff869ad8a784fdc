//! Stories of packets through one host in memory.

use netd_common::{
    packet::Packet,
    parse::tcp_flags::{ACK, FIN, RST, SYN},
    tables::{Hook, Instant},
    tuple::{TCP, Tuple, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{
        Build, checksums_hold, fragments, icmp_error, left_to_the_device, ping, pong, reassembled,
        summed_by_the_device, tcp, udp,
    },
    scene::{self, A, B, C, D, UPLINK},
    world::{Frame, Summed, World},
};
use proptest::prelude::*;

const SERVER: &str = "198.51.100.7";

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
    let (key, to) = world.publications.iter().map(|(k, p)| (*k, *p)).find(|(k, _)| k.port.number() == 8080).unwrap();
    let second = netd_common::tables::PublicationKey { port: netd_common::tuple::Port::new(8081), ..key };
    world.publications.insert(second, to);

    let one = enter(&world, tcp("203.0.113.9:40000", "192.0.2.1:8080"), false);
    let two = enter(&world, tcp("203.0.113.9:40000", "192.0.2.1:8081"), false);
    let answer = leave(&world, A, tcp("10.176.1.2:80", &two.source()).flags(SYN | ACK), false);

    assert_ne!(one.source(), two.source());
    assert_eq!((answer.source(), answer.destination()), ("192.0.2.1:8081".into(), "203.0.113.9:40000".into()));
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
fn only_a_syn_opens_a_connection() {
    for flags in [ACK, FIN | ACK, RST, RST | ACK, SYN | ACK, 0] {
        let world = scene::world();

        let out = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80").flags(flags), false);
        let inward = enter(&world, tcp("203.0.113.9:4000", "192.0.2.1:8080").flags(flags), false);

        assert_eq!(out.verdict, Verdict::Drop(DropReason::NoFlow), "flags {flags:#x}");
        assert_eq!(inward.verdict, Verdict::Pass, "flags {flags:#x}");
        assert_eq!(world.flows.borrow().len(), 0);
    }
}

#[test]
fn either_half_that_is_lost_is_put_back_with_the_same_port() {
    for lost in [Zone::HOST, Zone(1)] {
        let world = scene::world();
        let out = leave(&world, A, tcp("10.176.1.2:33000", "198.51.100.7:80"), false);
        enter(&world, tcp("198.51.100.7:80", &out.source()).flags(SYN | ACK), false);
        let whole = keys(&world);

        world.flows.borrow_mut().retain(|key, _| key.zone != lost);
        world.sleep_seconds(2);
        if lost == Zone::HOST {
            leave(&world, A, tcp("10.176.1.2:33000", "198.51.100.7:80").flags(ACK), false);
        } else {
            enter(&world, tcp("198.51.100.7:80", &out.source()).flags(ACK), false);
        }

        assert_eq!(keys(&world), whole);
        let again = leave(&world, A, tcp("10.176.1.2:33000", "198.51.100.7:80").flags(ACK), false);
        assert_eq!((again.verdict, again.source()), (Verdict::Neighbour(UPLINK), out.source()));
    }
}

#[test]
fn an_unanswered_datagram_is_forgotten_after_its_timeout_and_an_established_connection_is_not() {
    let world = scene::world();
    let datagram = leave(&world, A, udp("10.176.1.2:5000", "198.51.100.7:53"), false);
    let syn = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80"), false);
    enter(&world, tcp("198.51.100.7:80", &syn.source()).flags(SYN | ACK), false);
    leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80").flags(ACK), false);

    world.sleep_seconds(24 * 3600);

    let late = enter(&world, udp("198.51.100.7:53", &datagram.source()), false);
    let data = enter(&world, tcp("198.51.100.7:80", &syn.source()).flags(ACK), false);
    assert_eq!(late.verdict, Verdict::Pass);
    assert_eq!(data.verdict, Verdict::Peer(A));
}

#[test]
fn what_a_container_opened_leaves_as_the_address_that_its_uplink_has() {
    let mut world = scene::world();
    let build = || udp("10.176.1.2:33000", "198.51.100.7:53");
    let before = leave(&world, A, build(), false);
    assert!(before.source().starts_with("192.0.2.1:"), "{}", before.source());

    world.devices.get_mut(&UPLINK).expect("the uplink").ipv4 = [192, 0, 2, 9];
    world.sleep_seconds(2);

    let after = leave(&world, A, build(), false);
    let back = enter(&world, udp("198.51.100.7:53", &after.source()), false);
    let late = enter(&world, udp("198.51.100.7:53", &before.source()), false);
    assert_eq!(after.verdict, Verdict::Neighbour(UPLINK));
    assert!(after.source().starts_with("192.0.2.9:"), "{}", after.source());
    assert_eq!((back.verdict, back.destination()), (Verdict::Peer(A), "10.176.1.2:33000".to_owned()));
    assert_eq!(late.verdict, Verdict::Pass, "both halves of the old flow are gone");
    assert_eq!(world.flows.borrow().len(), 2);
}

#[test]
fn a_new_syn_on_a_closed_connection_opens_another() {
    let world = scene::world();
    let (from, to) = ("10.176.1.2:5000", "198.51.100.7:80");
    let first = leave(&world, A, tcp(from, to), false);
    enter(&world, tcp(to, &first.source()).flags(SYN | ACK), false);
    leave(&world, A, tcp(from, to).flags(FIN | ACK), false);
    enter(&world, tcp(to, &first.source()).flags(FIN | ACK), false);

    let second = leave(&world, A, tcp(from, to), false);

    assert_eq!(second.verdict, Verdict::Neighbour(UPLINK));
    assert_eq!(world.flows.borrow().len(), 2);
    assert!(world.flows.borrow().values().all(|flow| flow.legs[1] == 0), "the new flow has seen no answer");
}

#[test]
fn data_after_a_reset_keeps_the_connection() {
    let world = scene::world();
    let (from, to) = ("10.176.1.2:5000", "198.51.100.7:80");
    let syn = leave(&world, A, tcp(from, to), false);
    enter(&world, tcp(to, &syn.source()).flags(SYN | ACK), false);
    leave(&world, A, tcp(from, to).flags(ACK), false);
    enter(&world, tcp(to, &syn.source()).flags(RST), false);
    enter(&world, tcp(to, &syn.source()).flags(ACK), false);

    world.sleep_seconds(3600);

    assert_eq!(enter(&world, tcp(to, &syn.source()).flags(ACK), false).verdict, Verdict::Peer(A));
}

#[test]
fn networks_are_isolated_and_an_internal_one_has_no_way_out() {
    let world = scene::world();

    let across = leave(&world, A, tcp("10.176.1.2:5000", "10.176.2.2:80"), false);
    let outward = leave(&world, D, tcp("10.176.3.2:5000", "198.51.100.7:80"), false);
    let uncovered = leave(&world, A, tcp("10.176.1.2:5000", "198.18.0.1:80"), false);

    assert_eq!(across.verdict, Verdict::Drop(DropReason::Isolated));
    assert_eq!(outward.verdict, Verdict::Drop(DropReason::Internal));
    assert_eq!(uncovered.verdict, Verdict::Drop(DropReason::UncoveredDevice));
    assert_eq!(world.flows.borrow().len(), 0);
}

#[test]
fn the_slow_path_delivers_to_a_container_only_from_its_network_and_from_the_host() {
    let world = scene::world();
    let delivered = |came_by| {
        let mut frame = Frame::at(C, tcp("10.176.1.2:1", "10.176.2.2:80").bytes());
        frame.came_by = came_by;
        world.run(Hook::ToContainer, &mut frame)
    };

    assert_eq!(delivered(0), Verdict::Pass, "from the host");
    assert_eq!(delivered(30), Verdict::Pass, "from its own bridge");
    assert_eq!(delivered(A), Verdict::Drop(DropReason::Isolated));
    assert_eq!(delivered(20), Verdict::Drop(DropReason::Isolated));
    assert_eq!(delivered(UPLINK), Verdict::Drop(DropReason::NotPublished));
    assert_eq!(delivered(scene::FOREIGN), Verdict::Drop(DropReason::NotPublished));
}

#[test]
fn a_container_cannot_send_in_anothers_name() {
    let world = scene::world();
    let sent = |build: Build, source: [u8; 6]| {
        let bytes = build.macs(source, scene::bridge_mac(20)).bytes();
        world.run(Hook::FromContainer, &mut Frame::at(A, bytes))
    };

    let other_address = sent(tcp("10.176.1.3:5000", "198.51.100.7:80"), scene::container_mac(A));
    let other_mac = sent(tcp("10.176.1.2:5000", "198.51.100.7:80"), scene::container_mac(B));

    assert_eq!(other_address, Verdict::Drop(DropReason::SpoofedAddress));
    assert_eq!(other_mac, Verdict::Drop(DropReason::SpoofedMac));
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

#[test]
fn what_the_stack_forwards_for_a_container_leaves_translated_and_returns_to_it() {
    let world = scene::world();
    let mut frame = Frame::at(UPLINK, tcp("10.176.1.2:33000", "198.51.100.7:80").bytes());
    frame.came_by = 20;

    let verdict = world.run(Hook::ToUplink, &mut frame);
    let out = Arrived { verdict, bytes: frame.bytes };
    let back = enter(&world, tcp("198.51.100.7:80", &out.source()).flags(SYN | ACK), false);

    assert_eq!(out.verdict, Verdict::Pass);
    assert!(out.source().starts_with("192.0.2.1:"));
    assert_eq!((back.verdict, back.destination()), (Verdict::Peer(A), "10.176.1.2:33000".into()));
}

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
    let world = scene::world();
    let sent = udp("203.0.113.9:40000", "192.0.2.1:5353");
    let original = sent.clone().bytes();
    let arrived = enter(&world, sent, false);
    assert_eq!(arrived.verdict, Verdict::Peer(B));

    let error = leave(&world, B, icmp_error("10.176.1.3", "203.0.113.9", false, &arrived.bytes, 28), false);

    assert_eq!(error.verdict, Verdict::Neighbour(UPLINK));
    assert_eq!(&error.bytes[26..34], &[192, 0, 2, 1, 203, 0, 113, 9]);
    let quote = &error.bytes[error.l4() + 8..];
    assert_eq!((&quote[12..20], &quote[20..28]), (&original[26..34], &original[34..42]));
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
fn a_datagram_in_fragments_is_translated_as_one_both_ways() {
    let world = scene::world();
    let sent = udp("10.176.1.2:33000", "198.51.100.7:53").payload(&[7; 4000]);
    let sent = fragments(&sent.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes(), 1480, 4711);

    let out: Vec<_> = sent.iter().map(|f| arrive(&world, Hook::FromContainer, A, f.clone(), false)).collect();
    let source = out[0].source();
    let answer = udp("198.51.100.7:53", &source).payload(&[9; 4000]).bytes();
    let back = fragments(&answer, 1480, 9).into_iter().map(|f| arrive(&world, Hook::FromUplink, UPLINK, f, false));
    let back: Vec<_> = back.collect();

    assert!(out.iter().all(|fragment| fragment.verdict == Verdict::Neighbour(UPLINK)), "{out:?}");
    assert!(back.iter().all(|fragment| fragment.verdict == Verdict::Peer(A)));
    for whole in [&out, &back] {
        let whole = reassembled(&whole.iter().map(|f| f.bytes.clone()).collect::<Vec<_>>());
        assert_eq!((whole.len(), checksums_hold(&whole)), (14 + 20 + 8 + 4000, Ok(())));
    }
    assert_eq!(back[2].end(16, 0).split(':').next(), Some("10.176.1.2"));
}

#[test]
fn a_fragment_without_its_first_goes_nowhere_from_a_container_and_is_the_hosts_from_outside() {
    let world = scene::world();
    leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);
    let sent = udp("10.176.1.2:33000", "198.51.100.7:53").payload(&[7; 4000]);
    let sent = fragments(&sent.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes(), 1480, 4711);
    let received = fragments(&udp("203.0.113.9:4000", "192.0.2.1:5353").payload(&[7; 4000]).bytes(), 1480, 4711);

    let orphan = arrive(&world, Hook::FromContainer, A, sent[1].clone(), false);
    let inward = arrive(&world, Hook::FromUplink, UPLINK, received[1].clone(), false);

    assert_eq!(orphan.verdict, Verdict::Drop(DropReason::Fragment));
    assert_eq!((inward.verdict, inward.bytes == received[1]), (Verdict::Pass, true));
}

#[test]
fn an_identification_that_comes_again_is_not_taken_for_the_old_packets() {
    let world = scene::world();
    let of = |port| udp("203.0.113.9:4000", &format!("192.0.2.1:{port}")).payload(&[7; 2000]).bytes();
    let published = fragments(&of(5353), 1480, 4711);
    let hosts = fragments(&of(9999), 1480, 4711);
    let run = |bytes: &Vec<u8>| arrive(&world, Hook::FromUplink, UPLINK, bytes.clone(), false).verdict;
    assert_eq!((run(&published[0]), run(&published[1])), (Verdict::Peer(B), Verdict::Peer(B)));

    world.sleep_seconds(10);

    assert_eq!((run(&hosts[0]), run(&hosts[1])), (Verdict::Pass, Verdict::Pass));
}

#[test]
fn every_port_of_the_pools_is_used_before_a_flow_is_refused() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 99;
    settings.pools[1].last = settings.pools[1].first + 99;
    let open = |world: &World, i: u32| {
        let from = format!("10.176.1.2:{}", 33_000 + i);
        leave(world, A, udp(&from, "198.51.100.7:53"), false).verdict
    };

    let refused = (0..200).filter(|i| open(&world, *i) != Verdict::Neighbour(UPLINK)).count();

    assert_eq!(refused, 0);
    assert_eq!(open(&world, 200), Verdict::Drop(DropReason::PortsExhausted));
    world.sleep_seconds(60);
    assert_eq!(open(&world, 201), Verdict::Neighbour(UPLINK), "expired flows give their ports back");
}

#[test]
fn where_ports_are_short_closed_connections_give_theirs_up_and_open_ones_do_not() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 99;
    settings.pools[1] = Default::default();
    let to = "198.51.100.7:80";
    let connect = |port: u32, close: bool| {
        let from = format!("10.176.1.2:{port}");
        let syn = leave(&world, A, tcp(&from, to), false);
        if syn.verdict == Verdict::Neighbour(UPLINK) {
            enter(&world, tcp(to, &syn.source()).flags(SYN | ACK), false);
            leave(&world, A, tcp(&from, to).flags(if close { FIN | ACK } else { ACK }), false);
            enter(&world, tcp(to, &syn.source()).flags(if close { FIN | ACK } else { ACK }), false);
        }
        syn
    };
    let open: Vec<_> = (0..10).map(|i| connect(33_000 + i, false)).collect();

    let refused = (0..500).filter(|i| connect(34_000 + i, true).verdict != Verdict::Neighbour(UPLINK)).count();

    assert_eq!(refused, 0);
    for syn in open {
        assert_eq!(enter(&world, tcp(to, &syn.source()).flags(ACK), false).verdict, Verdict::Peer(A));
    }
}

#[test]
fn ports_that_were_kept_in_the_pools_do_not_hold_up_the_search_for_others() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 199;
    settings.pools[1] = Default::default();

    let open = |port: u32| leave(&world, A, udp(&format!("10.176.1.2:{port}"), "198.51.100.7:53"), false).verdict;
    // Those from below the ephemeral range keep their ports, which are of the pool; the others look for one.
    let refused = (0..95).filter(|i| {
        open(20_000 + 2 * i) != Verdict::Neighbour(UPLINK) || open(33_000 + i) != Verdict::Neighbour(UPLINK)
    });

    assert_eq!(refused.count(), 0);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_those_that_are_alive() {
    let mut world = scene::world();
    let old = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);
    enter(&world, udp("198.51.100.7:53", &old.source()), false);
    world.capacity = 3;

    let refused = leave(&world, B, udp("10.176.1.3:33000", "198.51.100.7:53"), false);

    assert_eq!(refused.verdict, Verdict::Drop(DropReason::TableFull));
    assert_eq!(world.flows.borrow().len(), 2, "no half stays behind");
    assert_eq!(enter(&world, udp("198.51.100.7:53", &old.source()), false).verdict, Verdict::Peer(A));
}

#[test]
fn in_a_full_table_what_nobody_answered_makes_room_and_what_is_established_stays() {
    let mut world = scene::world();
    world.capacity = 20;
    let alive = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80"), false);
    enter(&world, tcp("198.51.100.7:80", &alive.source()).flags(SYN | ACK), false);
    leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80").flags(ACK), false);

    let flood = (0..200).map(|i| enter(&world, tcp(&format!("203.0.113.9:{}", 1000 + i), "192.0.2.1:8080"), false));
    let refused = flood.filter(|syn| syn.verdict != Verdict::Peer(A)).count();

    assert_eq!(refused, 0);
    assert_eq!(world.flows.borrow().len(), 20);
    let data = enter(&world, tcp("198.51.100.7:80", &alive.source()).flags(ACK), false);
    assert_eq!(data.verdict, Verdict::Peer(A));
}

#[test]
fn short_flows_of_many_times_the_tables_size_get_through_without_a_collector() {
    let mut world = scene::world();
    world.capacity = 40;
    for i in 0..400 {
        let (from, to) = (format!("10.176.1.2:{}", 33_000 + i), "198.51.100.7:53");
        let out = leave(&world, A, udp(&from, to), false);
        assert_eq!(out.verdict, Verdict::Neighbour(UPLINK), "flow {i}");
        assert_eq!(enter(&world, udp(to, &out.source()), false).verdict, Verdict::Peer(A), "answer {i}");
        world.sleep_seconds(7);
    }
    assert!(world.flows.borrow().len() <= 40);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_a_panic_and_no_hook_shortens_a_packet(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        ethertype in prop::sample::select(vec![[8u8, 0], [0x86, 0xdd], [8, 6], [1, 2]]),
        hook in prop::sample::select(Hook::ALL.to_vec()),
        device in prop::sample::select(vec![A, B, UPLINK, 20, 99]),
        known_macs in any::<bool>(),
    ) {
        let world = scene::world();
        let mut bytes = bytes;
        if bytes.len() >= 14 {
            bytes[12..14].copy_from_slice(&ethertype);
            if known_macs {
                bytes[..6].copy_from_slice(&scene::bridge_mac(20));
                bytes[6..12].copy_from_slice(&scene::container_mac(A));
            }
        }
        let length = bytes.len();
        let mut frame = Frame::at(device, bytes);

        let _ = world.run(hook, &mut frame);

        prop_assert_eq!(frame.length(), length);
    }

    /// Under any schedule of openings, answers and waiting, no two flows answer on one tuple, and each answer reaches the
    /// container that asked.
    #[test]
    fn no_two_flows_ever_share_a_reply(steps in prop::collection::vec((0u8..3, 0u16..6, 0u16..3, 0u64..40), 1..120)) {
        let mut world = scene::world();
        let settings = world.settings.as_mut().unwrap();
        settings.pools[0].last = settings.pools[0].first + 3;
        settings.pools[1].last = settings.pools[1].first + 3;
        for (action, port, destination, wait) in steps {
            let (device, own) = if port % 2 == 0 { (A, "10.176.1.2") } else { (B, "10.176.1.3") };
            let (from, to) = (format!("{own}:{}", 33_000 + port / 2), format!("198.51.100.7:{}", 53 + destination));
            match action {
                0 => world.sleep_seconds(wait),
                _ => {
                    let out = leave(&world, device, udp(&from, &to), false);
                    if out.verdict == Verdict::Neighbour(UPLINK) && action == 1 {
                        let back = enter(&world, udp(&to, &out.source()), false);
                        prop_assert_eq!(back.verdict, Verdict::Peer(device));
                        prop_assert_eq!(back.destination(), from);
                    }
                }
            }
            let now = Instant::from_ns(world.clock.get());
            let flows = world.flows.borrow();
            for (key, flow) in flows.iter().filter(|(_, flow)| now <= flow.deadline) {
                let peer = flows.get(&flow.becomes.reversed(flow.becomes.zone));
                prop_assert!(peer.is_some_and(|peer| peer.becomes == key.reversed(key.zone)), "half a pair: {key:?}");
            }
        }
    }
}

/// A packet after a hook.
#[derive(Debug)]
struct Arrived {
    verdict: Verdict,
    bytes: Vec<u8>,
}

impl Arrived {
    fn l4(&self) -> usize {
        14 + usize::from(self.bytes[14] & 0x0f) * 4
    }

    fn end(&self, address: usize, port: usize) -> String {
        let a = &self.bytes[14 + address..];
        let p = &self.bytes[self.l4() + port..];
        format!("{}.{}.{}.{}:{}", a[0], a[1], a[2], a[3], u16::from_be_bytes([p[0], p[1]]))
    }

    fn source(&self) -> String {
        self.end(12, 0)
    }

    fn destination(&self) -> String {
        self.end(16, 2)
    }

    fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.bytes[self.l4() + 4], self.bytes[self.l4() + 5]])
    }

    fn ttl(&self) -> u8 {
        self.bytes[22]
    }
}

fn of(protocol: &str, from: &str, to: &str) -> Build {
    if protocol == "tcp" { tcp(from, to).payload(b"odd") } else { udp(from, to) }
}

/// A container sends a packet to its gateway; with `offload` its checksum is left to the device.
fn leave(world: &World, device: u32, build: Build, offload: bool) -> Arrived {
    let bridge = match device {
        A | B => 20,
        C => 30,
        _ => 40,
    };
    let bytes = build.macs(scene::container_mac(device), scene::bridge_mac(bridge)).bytes();
    arrive(world, Hook::FromContainer, device, bytes, offload)
}

/// A packet comes by the uplink.
fn enter(world: &World, build: Build, offload: bool) -> Arrived {
    let bytes = build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes();
    arrive(world, Hook::FromUplink, UPLINK, bytes, offload)
}

fn arrive(world: &World, hook: Hook, device: u32, bytes: Vec<u8>, offload: bool) -> Arrived {
    let mut frame = Frame::at(device, bytes);
    if offload {
        frame.bytes = left_to_the_device(frame.bytes);
        frame.summed = Summed::Partial;
    }
    let verdict = world.run(hook, &mut frame);
    let bytes = if offload { summed_by_the_device(frame.bytes) } else { frame.bytes };
    checksums_hold(&bytes).unwrap_or_else(|e| panic!("{e} after {hook:?}: {verdict:?} {bytes:02x?}"));
    Arrived { verdict, bytes }
}

fn keys(world: &World) -> Vec<(Tuple, Tuple)> {
    world.flows.borrow().iter().map(|(key, flow)| (*key, flow.becomes)).collect()
}
