//! ICMPv6 errors about packets of a flow, and those of the host's own of both families, verified by what their receivers once sent.

use netd_common::{
    packet::ETH,
    parse::sctp_chunk::INIT,
    tuple::Address,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, all_hold, icmp_error, icmpv6_error, ipv6_twin, ping, sctp, tcp, twin, udp},
    scene::{self, A, B, H, HOST, UPLINK},
    story::{Arrived, enters, leaves, leaves_host},
    world::{RouteTo, World},
};

const CLIENT: [u8; 4] = [203, 0, 113, 9];
const SERVER: [u8; 4] = [198, 51, 100, 7];
/// A router on the way.
const ROUTER: [u8; 4] = [203, 0, 113, 1];
/// Bytes that every error quotes here, and more than there are.
const QUOTED: [usize; 2] = [48, 400];

#[test]
fn an_error_about_a_containers_packet_reaches_it_and_quotes_what_it_sent() {
    let cases = [
        tcp("10.176.1.2:33000", "198.51.100.7:80").payload(&[7; 33]),
        udp("10.176.1.2:33000", "198.51.100.7:53"),
        udp("10.176.1.2:33000", "198.51.100.7:53").without_udp_checksum(),
        ping("10.176.1.2", "198.51.100.7", 4711),
        sctp("10.176.1.2:33000", "198.51.100.7:5000", INIT),
    ];
    for (sent, quoted) in cases.iter().flat_map(|sent| QUOTED.map(|quoted| (sent, quoted))) {
        let world = scene::world_of_both_families();
        // Another has the identifier already.
        leaves(&world, B, ipv6_twin(&ping("10.176.1.3", "198.51.100.7", 4711).bytes()));
        let original = ipv6_twin(&sent.clone().bytes());
        let out = leaves(&world, A, original.clone());
        assert_eq!((out.verdict, ends(&out)), (Verdict::Neighbour(UPLINK), [HOST, SERVER].map(twin)));

        let error = enters(&world, icmpv6_error(ROUTER, HOST, true, &out.bytes, quoted));

        assert_eq!(error.verdict, Verdict::Peer(A));
        assert_eq!(ends(&error), [ROUTER, [10, 176, 1, 2]].map(twin), "the router's stays");
        assert_eq!(error.bytes[54..56], [2, 0]);
        assert_eq!(error.bytes[58..62], 1280_u32.to_be_bytes());
        quotes(&error, &original, quoted);
    }
}

#[test]
fn a_container_says_nothing_of_its_neighbours_flows() {
    let world = scene::world_of_both_families();
    leaves(&world, B, ipv6_twin(&udp("10.176.1.3:5000", "198.51.100.7:53").bytes()));
    let about = ipv6_twin(&udp("198.51.100.7:53", "10.176.1.3:5000").bytes());

    for too_big in [false, true] {
        let by = |container| {
            let error = icmpv6_error(scene::address_of(container), SERVER, too_big, &about, 48);
            leaves(&world, container, error).verdict
        };
        assert_eq!((by(A), by(B)), (Verdict::Drop(DropReason::SpoofedAddress), Verdict::Neighbour(UPLINK)));
    }
}

#[test]
fn an_error_by_a_container_leaves_as_the_hosts_and_quotes_what_the_client_sent() {
    let cases = [
        (tcp("203.0.113.9:40000", "192.0.2.1:8080").payload(&[7; 33]), A, HOST),
        (udp("203.0.113.9:40000", "192.0.2.1:5353"), B, HOST),
        (udp("203.0.113.9:40000", "192.0.2.1:5353").without_udp_checksum(), B, HOST),
        (sctp("203.0.113.9:40000", "192.0.2.1:5353", INIT), B, HOST),
        // In a routed network, where pings come in.
        (ping("203.0.113.9", "10.176.5.2", 4711), H, scene::address_of(H)),
    ];
    for ((sent, container, dialled), quoted) in cases.iter().flat_map(|case| QUOTED.map(|quoted| (case, quoted))) {
        let world = scene::world_of_both_families();
        let original = ipv6_twin(&sent.clone().bytes());
        let arrived = enters(&world, original.clone());
        let own = scene::address_of(*container);
        assert_eq!((arrived.verdict, ends(&arrived)), (Verdict::Peer(*container), [CLIENT, own].map(twin)));

        let error = leaves(&world, *container, icmpv6_error(own, CLIENT, false, &arrived.bytes, quoted));

        assert_eq!(error.verdict, Verdict::Neighbour(UPLINK));
        assert_eq!(ends(&error), [*dialled, CLIENT].map(twin));
        assert_eq!(error.bytes[54..56], [1, 4]);
        quotes(&error, &original, quoted);
    }
}

/// An address of the uplink's that is not its first.
const SECOND: [u8; 4] = [192, 0, 2, 50];

/// The scene's host with a second address, as which network red leaves.
fn host_with_two_addresses() -> World {
    let mut world = scene::world_of_both_families();
    for (address, bits) in [(Address::v4(SECOND), 128), (Address::v6(twin(SECOND)), 128)] {
        world.addresses.insert(address);
        world.routes.push((address, bits, RouteTo::Local));
    }
    let red = world.devices.get_mut(&30).expect("the scene has it");
    (red.ipv4, red.ipv6) = (SECOND, twin(SECOND));
    world
}

#[test]
fn an_error_of_the_hosts_own_comes_from_the_address_that_its_sender_dialled() {
    for family in [as_it_is, twin_of] {
        let world = host_with_two_addresses();
        let opened = leaves(&world, 31, family(tcp("10.176.2.2:33000", "198.51.100.7:80")));
        let l4 = opened.bytes.len() - 20;
        let port = u16::from_be_bytes([opened.bytes[l4], opened.bytes[l4 + 1]]);
        // A client at the end of its hops, and a server whose answer is.
        let cases = [
            (tcp("203.0.113.9:40000", "192.0.2.50:8080"), CLIENT, SECOND),
            (udp("203.0.113.9:40000", "192.0.2.1:5353"), CLIENT, HOST),
            (tcp("198.51.100.7:80", &format!("192.0.2.50:{port}")).flags(0x12), SERVER, SECOND),
            // It has its own address outside too, and the host is a router before it.
            (tcp("203.0.113.9:40000", "10.176.5.2:80"), CLIENT, HOST),
        ];
        for ((sent, sender, source), too_big) in cases.iter().flat_map(|case| [true, false].map(|big| (case, big))) {
            let original = family(sent.clone().ttl(1));
            let to_stack = enters(&world, original.clone());
            assert_eq!(to_stack.verdict, Verdict::Pass, "{original:02x?}");

            // The stack takes the first address of the uplink.
            let error = leaves_host(&world, error_of(HOST, *sender, too_big, &to_stack.bytes));

            assert_eq!(error.verdict, Verdict::Pass);
            let expected = error_of(*source, *sender, too_big, &original);
            assert_eq!(error.bytes[ETH..], expected[ETH..], "as if the sender's packet itself had been refused");
        }
    }
}

fn as_it_is(build: Build) -> Vec<u8> {
    build.bytes()
}

fn twin_of(build: Build) -> Vec<u8> {
    ipv6_twin(&build.bytes())
}

/// An error about a packet of either family that quotes all that must be.
fn error_of(from: [u8; 4], to: [u8; 4], too_big: bool, about: &[u8]) -> Vec<u8> {
    if about[ETH] >> 4 == 6 {
        return icmpv6_error(from, to, too_big, about, 48);
    }
    let [from, to] = [from, to].map(|address| std::net::Ipv4Addr::from(address).to_string());
    icmp_error(&from, &to, too_big, about, 28).bytes()
}

/// The addresses of a packet of IPv6.
fn ends(packet: &Arrived) -> [[u8; 16]; 2] {
    [22, 38].map(|at| packet.bytes[at..at + 16].try_into().expect("16 bytes"))
}

/// What the error quotes is what was sent, but for the hops that are left; nothing of it is missing.
#[track_caller]
fn quotes(error: &Arrived, original: &[u8], quoted: usize) {
    let quote = &error.bytes[ETH + 48..];
    let mut expected = original[ETH..original.len().min(ETH + quoted)].to_vec();
    expected[7] = quote[7];
    assert_eq!(quote, expected);
    all_hold(&[&original[..ETH], quote].concat()).expect("so do those of what it quotes");
}
