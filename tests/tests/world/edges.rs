//! Situations that other dataplanes have stumbled over, and that no other file here is about. `tests/CASES.md` numbers them.

use netd_common::{
    checksum::Delta,
    nat,
    packet::ETH,
    parse::{
        self, ETHERTYPE_IPV4, ETHERTYPE_IPV6,
        tcp_flags::{ACK, FIN, RST, SYN},
    },
    tables::{Device, EndpointKey, Hook, PortRange, Scratch},
    tuple::{Address, Port, TCP, UDP, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, checksums_hold, ipv6_twin, other, padding, sum, tcp, twin, udp, with_extensions},
    scene::{self, A, B, UPLINK},
    story::{SERVER, enter, host_sends, leave},
    world::{Frame, Summed, World},
};

#[test]
fn where_one_destination_has_no_ports_left_others_have_and_live_flows_go_on() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools = [PortRange { first: 20_000, last: 20_099 }, PortRange::NONE];
    settings.second = PortRange::NONE;
    let to = |port: u32, server: &str| leave(&world, A, udp(&format!("10.176.1.2:{port}"), server), false);
    let open: Vec<_> = (0..100).map(|i| to(33_000 + i, "198.51.100.7:53")).collect();

    let refused = to(34_000, "198.51.100.7:53");

    assert_eq!(refused.verdict, Verdict::Drop(DropReason::PortsExhausted));
    let counters = world.counters.borrow()[&Hook::FromContainer];
    assert_eq!(counters.dropped[DropReason::PortsExhausted as usize], 1);
    for elsewhere in ["198.51.100.7:54", "198.51.100.8:53"] {
        assert_eq!(to(34_000, elsewhere).verdict, Verdict::Neighbour(UPLINK));
    }
    for (i, sent) in open.iter().enumerate() {
        let back = enter(&world, udp("198.51.100.7:53", &sent.source()), false);
        assert_eq!((back.verdict, back.destination()), (Verdict::Peer(A), format!("10.176.1.2:{}", 33_000 + i)));
    }
}

#[test]
fn a_port_of_the_pools_that_is_published_or_a_sockets_is_never_picked() {
    for (protocol, kind) in [(TCP, "tcp"), (UDP, "udp")] {
        let mut world = scene::world();
        let settings = world.settings.as_mut().unwrap();
        settings.pools = [PortRange { first: 20_000, last: 20_019 }, PortRange::NONE];
        settings.second = PortRange::NONE;
        scene::publish(&mut world, Address::ANY_V4, protocol, 20_003..=20_003, [10, 176, 1, 2], 80);
        scene::publish(&mut world, Address::v4(scene::HOST), protocol, 20_004..=20_005, [10, 176, 1, 3], 80);
        world.sockets.extend([(protocol, 20_010), (protocol, 20_011)]);

        let sent = (0..20).map(|i| {
            let from = format!("10.176.1.2:{}", 33_000 + i);
            leave(&world, A, netd_tests::story::of(kind, &from, "198.51.100.7:53"), false)
        });
        let ports: Vec<_> =
            sent.filter(|sent| sent.verdict == Verdict::Neighbour(UPLINK)).map(|sent| sent.source_port()).collect();

        assert!(ports.len() > 10, "{ports:?}");
        assert!([20_003, 20_004, 20_005, 20_010, 20_011].iter().all(|port| !ports.contains(port)), "{ports:?}");
    }
}

#[test]
fn a_port_that_is_published_while_a_flow_has_it_goes_on_answering_the_flow() {
    let mut world = scene::world();
    let sent = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80"), false);
    assert_eq!(sent.source(), "192.0.2.1:5000");

    scene::publish(&mut world, Address::ANY_V4, TCP, 5000..=5000, [10, 176, 1, 3], 80);

    let answer = enter(&world, tcp("198.51.100.7:80", "192.0.2.1:5000").flags(SYN | ACK), false);
    let client = enter(&world, tcp("203.0.113.9:4000", "192.0.2.1:5000"), false);
    assert_eq!((answer.verdict, answer.destination()), (Verdict::Peer(A), "10.176.1.2:5000".into()));
    assert_eq!((client.verdict, client.destination()), (Verdict::Peer(B), "10.176.1.3:80".into()));
}

#[test]
fn what_a_tunnel_of_the_host_sends_and_gets_is_not_tracked() {
    let world = scene::world();
    let tunnels = [
        udp("192.0.2.1:50000", "198.51.100.7:4789"),
        other("192.0.2.1", SERVER, 47, &[1; 60]),
        other("192.0.2.1", SERVER, 50, &[2; 60]),
    ];
    let back = [udp("198.51.100.7:50000", "192.0.2.1:4789"), other(SERVER, "192.0.2.1", 47, &[1; 60])];

    for sent in tunnels {
        let before = sent.clone().bytes();
        let out = host_sends(&world, sent, false);
        assert_eq!((out.verdict, &out.bytes[14..]), (Verdict::Pass, &before[14..]));
    }
    for got in back {
        let before = got.clone().bytes();
        let inward = enter(&world, got, false);
        assert_eq!((inward.verdict, &inward.bytes[14..]), (Verdict::Pass, &before[14..]));
    }
    assert_eq!(world.flows.borrow().len(), 0);
}

#[test]
fn after_stray_segments_a_syn_of_the_same_tuple_opens_a_flow_as_ever() {
    let world = scene::world();
    let (from, to) = ("10.176.1.2:33000", "198.51.100.7:80");
    for flags in [FIN | ACK, ACK, RST] {
        assert_eq!(leave(&world, A, tcp(from, to).flags(flags), false).verdict, Verdict::Drop(DropReason::NoFlow));
    }

    let syn = leave(&world, A, tcp(from, to), false);
    let answer = enter(&world, tcp(to, &syn.source()).flags(SYN | ACK), false);

    assert!(syn.source().starts_with("192.0.2.1:"), "{}", syn.source());
    assert_eq!((answer.verdict, answer.destination()), (Verdict::Peer(A), from.to_owned()));
}

#[test]
fn the_port_of_a_closed_connection_is_nobody_elses_until_its_time_wait_is_over() {
    let mut world = scene::world();
    let (from, to) = ("10.176.1.2:5000", "198.51.100.7:80");
    let closed = open_and_close(&world, from, to);

    // The container is gone, and the next one has its address.
    let key = EndpointKey { address: Address::v4([10, 176, 1, 2]), zone: Zone(1), pad: 0 };
    let next = Device { ifindex: 23, ..world.devices.remove(&A).expect("A") };
    world.devices.insert(23, next);
    world.endpoints.get_mut(&key).expect("A").device = 23;
    let meanwhile = leave(&world, B, tcp("10.176.1.3:5000", to), false);
    world.sleep_seconds(100);
    let late = leave(&world, B, tcp("10.176.1.3:5001", to), false);
    world.sleep_seconds(30);
    let after = leave(&world, B, tcp("10.176.1.3:5000", to).flags(SYN), false);

    assert_eq!(closed.source(), "192.0.2.1:5000");
    assert_ne!(meanwhile.source(), closed.source(), "it waits");
    assert_eq!(late.source(), "192.0.2.1:5001", "others are free");
    assert_eq!(after.source(), closed.source(), "it is free again");
}

#[test]
fn a_syn_that_is_sent_again_stays_in_its_flow() {
    let world = scene::world();
    let syn = || tcp("10.176.1.2:33000", "198.51.100.7:80");

    let sent: Vec<_> = (0..4)
        .map(|_| {
            world.sleep_seconds(1);
            leave(&world, A, syn(), false).source()
        })
        .collect();

    assert!(sent.iter().all(|source| *source == sent[0]), "{sent:?}");
    assert_eq!(world.flows.borrow().len(), 2);
}

#[test]
fn a_reset_gives_a_connection_the_same_time_whoever_sends_it() {
    for by_container in [true, false] {
        let world = scene::world();
        let (from, to) = ("10.176.1.2:5000", "198.51.100.7:80");
        let syn = leave(&world, A, tcp(from, to), false);
        enter(&world, tcp(to, &syn.source()).flags(SYN | ACK), false);
        leave(&world, A, tcp(from, to).flags(ACK), false);

        if by_container {
            leave(&world, A, tcp(from, to).flags(RST), false);
        } else {
            enter(&world, tcp(to, &syn.source()).flags(RST), false);
        }

        let deadlines: Vec<_> = world.flows.borrow().values().map(|flow| flow.deadline).collect();
        let now = netd_common::tables::Instant::from_ns(world.clock.get());
        let left: Vec<_> = deadlines.iter().map(|deadline| deadline.seconds_since(now)).collect();
        assert!(left.iter().all(|left| (10..13).contains(left)), "by the container: {by_container}: {left:?}");
        world.sleep_seconds(20);
        assert_eq!(enter(&world, tcp(to, &syn.source()).flags(ACK), false).verdict, Verdict::Pass, "it is over");
    }
}

#[test]
fn who_sent_before_the_port_was_published_is_led_in_from_then_on() {
    let mut world = scene::world();
    let datagram = || udp("203.0.113.9:4000", "192.0.2.1:7000");
    assert_eq!(enter(&world, datagram(), false).verdict, Verdict::Pass);

    scene::publish(&mut world, Address::ANY_V4, UDP, 7000..=7000, [10, 176, 1, 2], 53);

    let inward = enter(&world, datagram(), false);
    assert_eq!((inward.verdict, inward.destination()), (Verdict::Peer(A), "10.176.1.2:53".into()));
}

#[test]
fn a_routed_packet_has_one_hop_less_to_live_and_a_switched_one_has_not() {
    let world = scene::world();

    let out = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53").ttl(64), false);
    let back = enter(&world, udp("198.51.100.7:53", &out.source()).ttl(57), false);
    let inward = enter(&world, udp("203.0.113.9:4000", "192.0.2.1:5353").ttl(57), false);
    let inside = udp("10.176.1.2:33000", "10.176.1.3:53").ttl(1);
    let inside = inside.macs(scene::container_mac(A), scene::container_mac(B)).bytes();
    let mut switched = Frame::at(A, inside.clone());
    let verdict = world.run(Hook::FromContainer, &mut switched);

    assert_eq!((out.ttl(), back.ttl(), inward.ttl()), (63, 56, 56));
    assert_eq!((verdict, switched.bytes[22]), (Verdict::Peer(B), 1));
    assert_eq!(switched.bytes, inside, "a switch changes nothing");
}

#[test]
fn a_datagram_without_a_checksum_stays_without_one() {
    let world = scene::world();

    let out = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53").without_udp_checksum(), false);
    let back = enter(&world, udp("198.51.100.7:53", &out.source()).without_udp_checksum(), false);
    let inward = enter(&world, udp("203.0.113.9:4000", "192.0.2.1:5353").without_udp_checksum(), false);
    let answer = leave(&world, B, udp("10.176.1.3:53", "203.0.113.9:4000").without_udp_checksum(), false);

    assert_eq!((inward.destination(), answer.source()), ("10.176.1.3:53".into(), "192.0.2.1:5353".into()));
    for arrived in [out, back, inward, answer] {
        assert_eq!(&arrived.bytes[arrived.l4() + 6..arrived.l4() + 8], [0, 0]);
    }
}

#[test]
fn a_checksum_that_comes_to_zero_is_written_as_all_ones() {
    let world = scene::world();
    // The flow first, so that the port is known; then the payload that makes the sum come out so.
    let first = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53").payload(&[0, 0]), false);
    let at = first.l4();
    let checksum = [first.bytes[at + 6], first.bytes[at + 7]];

    // One's complement: what the checksum field lacks to zero is what the payload must add.
    let out = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53").payload(&checksum), false);

    assert_eq!(&out.bytes[at + 6..at + 8], [0xff, 0xff], "zero would say that there is none");
    assert_eq!(sum(&out.bytes[14..34]), 0xffff);
    assert_eq!(checksums_hold(&out.bytes), Ok(()));
}

#[test]
fn a_packet_of_many_segments_whose_length_does_not_fit_its_field_is_translated_like_any_other() {
    let world = scene::world();
    let (from, to) = ("10.176.1.2:33000", "198.51.100.7:80");
    let syn = leave(&world, A, tcp(from, to), false);
    enter(&world, tcp(to, &syn.source()).flags(SYN | ACK), false);
    let data = tcp(from, to).flags(ACK).payload(&[7; 60_000]);
    let whole = data.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes();
    let length = [whole[16], whole[17]];

    // As the kernel writes packets of more than 65,535 bytes (BIG TCP): the length is zero, and the header summed with it.
    let mut frame = Frame { segment_size: 1400, ..Frame::at(A, with_length(whole, [0, 0])) };
    let verdict = world.run(Hook::FromContainer, &mut frame);

    assert_eq!(verdict, Verdict::Neighbour(UPLINK));
    assert_eq!(&frame.bytes[16..18], [0, 0]);
    assert_eq!(sum(&frame.bytes[14..34]), 0xffff, "the header's checksum holds");
    assert_eq!(checksums_hold(&with_length(frame.bytes, length)), Ok(()));
}

#[test]
fn so_is_one_of_ipv6_whose_length_a_header_of_its_own_says_and_what_it_is_cut_into_fits() {
    let world = scene::world_of_both_families();
    let (from, to) = ("10.176.1.2:33000", "198.51.100.7:80");
    let sent = |build: Build, segment_size, extensions: &[(u8, Vec<u8>)]| {
        let plain = ipv6_twin(&build.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes());
        let mut frame = Frame { segment_size, ..Frame::at(A, with_extensions(&plain, extensions)) };
        (world.run(Hook::FromContainer, &mut frame), frame.bytes)
    };
    let syn = sent(tcp(from, to), 0, &[]).1;
    let answer = tcp(to, "192.0.2.1:0").flags(SYN | ACK).bytes();
    let mut answer = ipv6_twin(&answer);
    answer[56..58].copy_from_slice(&syn[54..56]);
    assert_eq!(world.run(Hook::FromUplink, &mut Frame::at(UPLINK, answer)), Verdict::Peer(A));
    assert_eq!(sent(tcp(from, to).flags(ACK), 0, &[]).0, Verdict::Neighbour(UPLINK));
    // As the kernel writes packets of more than 65,535 bytes (BIG TCP): RFC 2675 section 2.
    let data = tcp(from, to).flags(ACK).payload(&vec![7; 60_000]);
    let jumbo = |segment_size| {
        let plain = ipv6_twin(&data.clone().macs(scene::container_mac(A), scene::bridge_mac(20)).bytes());
        let mut bytes = with_extensions(&plain, &[(0, vec![0, 0, 0xc2, 4, 0, 1, 0x38, 0x80])]);
        bytes.extend([7; 20_000]);
        bytes[18..20].copy_from_slice(&[0, 0]);
        let mut frame = Frame { segment_size, ..Frame::at(A, bytes.clone()) };
        (world.run(Hook::FromContainer, &mut frame), frame.bytes, bytes)
    };

    let (fits, bytes, before) = jumbo(1440);

    assert_eq!(fits, Verdict::Neighbour(UPLINK), "1500 bytes each, without that header");
    assert_eq!((&bytes[14..21], &bytes[54..62]), (&before[14..21], &before[54..62]), "it stays");
    assert_eq!((bytes[21], &bytes[22..38]), (63, &twin(scene::HOST)[..]));
    assert_eq!(bytes[62..64], syn[54..56], "the port of its flow");
    assert_eq!(jumbo(1441).0, Verdict::Pass, "the stack says that they are too large");
    // Of any other header the pieces have theirs.
    assert_eq!(sent(data.clone(), 1432, &[(0, padding(8))]).0, Verdict::Neighbour(UPLINK));
    assert_eq!(sent(data, 1433, &[(0, padding(8))]).0, Verdict::Pass);
}

#[test]
fn a_devices_sum_of_a_whole_packet_of_ipv6_stays_true() {
    let address = |text: &str| Address::new(text.parse::<std::net::IpAddr>().expect("an address"));
    let (from, to, host) = (address("fd00::2"), address("2001:db8:ffff::7"), address("2001:db8::1"));
    let build = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from.bytes(), to.bytes(), 64).udp(33_000, 53);
    let mut bytes = Vec::new();
    build.write(&mut bytes, b"datagram").expect("a vector takes all");
    let mut s = Scratch::default();
    let mut frame = Frame::at(A, bytes.clone());
    frame.summed = Summed::Complete(sum(&bytes[ETH..]).to_be_bytes());
    let h = parse::ip(&mut frame, parse::ETHERTYPE_IPV6, &mut s.key).expect("it is whole").expect("it is IP");
    s.flow.becomes = s.key;
    s.flow.becomes.src = host;
    s.flow.becomes.src_port = Port::new(20_001);
    s.flow.address_delta = Delta::NONE.and_address(from, host);
    s.flow.port_delta = Delta::NONE.and_port(Port::new(33_000), Port::new(20_001));

    nat::rewrite(&mut frame, &h, &s, nat::Ttl::Decrement).expect("it is translated");

    let Summed::Complete(told) = frame.summed else { panic!("it stays summed") };
    assert_eq!((frame.bytes[21], &frame.bytes[22..38]), (63, &host.bytes()[..]));
    assert_eq!(u16::from_be_bytes(told) % 0xffff, sum(&frame.bytes[ETH..]) % 0xffff);
}

fn with_length(mut packet: Vec<u8>, length: [u8; 2]) -> Vec<u8> {
    packet[16..18].copy_from_slice(&length);
    packet[24..26].copy_from_slice(&[0, 0]);
    let checksum = !sum(&packet[14..34]);
    packet[24..26].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// A connection of container A from its first packet to its last; its SYN as it left.
fn open_and_close(world: &World, from: &str, to: &str) -> netd_tests::story::Arrived {
    let syn = leave(world, A, tcp(from, to), false);
    enter(world, tcp(to, &syn.source()).flags(SYN | ACK), false);
    leave(world, A, tcp(from, to).flags(ACK), false);
    leave(world, A, tcp(from, to).flags(FIN | ACK), false);
    enter(world, tcp(to, &syn.source()).flags(FIN | ACK), false);
    leave(world, A, tcp(from, to).flags(ACK), false);
    syn
}

#[test]
fn what_had_no_ethernet_header_enters_its_container_with_one_of_its_own_family() {
    let knock = tcp("198.51.100.9:4000", "192.0.2.1:443").bytes();
    for (knock, ethertype) in [(knock.clone(), ETHERTYPE_IPV4), (ipv6_twin(&knock), ETHERTYPE_IPV6)] {
        let world = scene::world_of_both_families();
        let mut packet = Frame { layer3: true, ..Frame::at(UPLINK, knock[ETH..].to_vec()) };

        let verdict = world.run(Hook::FromL3Uplink, &mut packet);

        assert_eq!(verdict, Verdict::Peer(A));
        assert_eq!(packet.bytes[12..ETH], ethertype);
    }
}
