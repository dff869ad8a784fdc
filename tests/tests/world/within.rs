//! Containers that knock at a published port by an address of the host.

use netd_common::{
    parse::tcp_flags::{ACK, SYN},
    tables::Routing,
    tuple::{Address, TCP, UDP},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{icmp_error, ping, tcp, udp},
    scene::{self, A, B, C, D},
    story::{SERVER, keys, leave, of},
    world::World,
};

/// A container of network blue is published as port 9000 of every address, by TCP and UDP, and as 9001 of 192.0.2.1.
fn world() -> World {
    let mut world = scene::world();
    for protocol in [TCP, UDP] {
        scene::publish(&mut world, Address::ANY_V4, protocol, 9000..=9000, [10, 176, 1, 2], 90);
        scene::publish(&mut world, Address::v4(scene::HOST), protocol, 9001..=9001, [10, 176, 1, 2], 91);
    }
    world
}

#[test]
fn a_neighbour_a_stranger_and_the_container_itself_reach_it_and_are_answered_by_whom_they_dialled() {
    for (from, address) in [(B, "10.176.1.3"), (C, "10.176.2.2"), (A, "10.176.1.2")] {
        let gateway = if from == C { "10.176.2.1" } else { "10.176.1.1" };
        for dialled in ["192.0.2.1:9000", &format!("{gateway}:9000"), "192.0.2.1:9001"] {
            for (protocol, offload) in [("tcp", false), ("tcp", true), ("udp", false), ("udp", true)] {
                let world = world();
                let inside = if dialled.ends_with("9000") { "10.176.1.2:90" } else { "10.176.1.2:91" };

                let request = leave(&world, from, of(protocol, &format!("{address}:5000"), dialled), offload);
                let answer = leave(&world, A, of(protocol, inside, &request.source()).flags(SYN | ACK), offload);

                assert_eq!(request.verdict, Verdict::Peer(A), "{address} to {dialled}");
                assert_eq!((request.source(), request.destination()), ("10.176.1.1:5000".into(), inside.into()));
                assert_eq!(answer.verdict, Verdict::Peer(from));
                assert_eq!((answer.source(), answer.destination()), (dialled.into(), format!("{address}:5000")));
                assert_eq!((request.ttl(), answer.ttl()), (64, 64), "there is no hop between");
            }
        }
    }
}

#[test]
fn two_that_use_one_port_are_told_apart_and_the_hosts_own_ports_are_left_to_it() {
    let mut world = world();
    world.sockets.insert((TCP, 7000));
    let knock = |from, source: &str| leave(&world, from, tcp(source, "192.0.2.1:9000"), false).source();

    assert_eq!(knock(B, "10.176.1.3:5000"), "10.176.1.1:5000");
    assert_ne!(knock(C, "10.176.2.2:5000"), "10.176.1.1:5000", "the other's");
    assert_ne!(knock(B, "10.176.1.3:33000"), "10.176.1.1:33000", "of the host's ephemeral range");
    assert_ne!(knock(B, "10.176.1.3:7000"), "10.176.1.1:7000", "a socket of the host's own");
}

#[test]
fn a_place_that_the_host_knows_no_way_to_is_not_its_own() {
    let mut world = world();
    world.routes.retain(|(_, bits, _)| *bits != 96);
    for protocol in ["tcp", "udp"] {
        let away = leave(&world, B, of(protocol, "10.176.1.3:5000", &format!("{SERVER}:9000")), false);
        let here = leave(&world, B, of(protocol, "10.176.1.3:5000", "192.0.2.1:9000"), false);

        assert_eq!((away.verdict, away.destination()), (Verdict::Host(20), format!("{SERVER}:9000")));
        assert_eq!(here.verdict, Verdict::Peer(A));
    }
}

#[test]
fn where_only_the_stack_can_route_it_is_reached_all_the_same() {
    let mut world = world();
    world.settings.as_mut().unwrap().routing = Routing::ByStack as u32;

    for dialled in ["192.0.2.1:9000", "192.0.2.1:9001", "10.176.1.1:9000", "10.176.2.1:9000"] {
        let request = leave(&world, C, tcp("10.176.2.2:5000", dialled), false);
        let answer = leave(&world, A, tcp(&request.destination(), &request.source()).flags(SYN | ACK), false);

        assert_eq!((request.verdict, answer.verdict), (Verdict::Peer(A), Verdict::Peer(C)), "{dialled}");
        assert_eq!(answer.source(), dialled);
    }
}

#[test]
fn what_is_not_published_there_is_the_hosts_own() {
    let world = world();

    for knock in [
        tcp("10.176.1.3:5000", "192.0.2.1:9002"),
        tcp("10.176.1.3:5000", "10.176.1.1:9001"),
        tcp("10.176.1.3:5000", "192.0.2.1:9000").flags(ACK),
        ping("10.176.1.3", "192.0.2.1", 9000),
        ping("10.176.1.3", "10.176.1.1", 9000),
    ] {
        assert_eq!(leave(&world, B, knock.clone(), false).verdict, Verdict::Host(20), "{knock:?}");
    }
    let transit = leave(&world, B, tcp("10.176.1.3:5000", "198.51.100.7:9000"), false);
    assert_eq!(transit.destination(), format!("{SERVER}:9000"));
}

#[test]
fn an_internal_network_reaches_no_other_by_the_hosts_address_either() {
    let world = world();

    let knock = leave(&world, D, tcp("10.176.3.2:5000", "10.176.3.1:9000"), false);

    assert_eq!(knock.verdict, Verdict::Drop(DropReason::Internal));
    assert_eq!(keys(&world), []);
}

#[test]
fn an_error_about_a_knock_reaches_who_knocked_and_quotes_what_it_sent() {
    let world = world();
    let sent = udp("10.176.2.2:5000", "192.0.2.1:9000");
    let original = sent.clone().bytes();
    let arrived = leave(&world, C, sent, false);

    let error = leave(&world, A, icmp_error("10.176.1.2", "10.176.1.1", false, &arrived.bytes, 28), false);

    assert_eq!(error.verdict, Verdict::Peer(C));
    assert_eq!(&error.bytes[26..34], &[192, 0, 2, 1, 10, 176, 2, 2]);
    let quote = &error.bytes[error.l4() + 8..];
    assert_eq!((&quote[12..20], &quote[20..28]), (&original[26..34], &original[34..42]));
}

#[test]
fn a_flow_goes_to_neither_end_once_it_is_gone() {
    let mut world = world();
    let request = leave(&world, C, udp("10.176.2.2:5000", "192.0.2.1:9000"), false);
    let endpoints = world.endpoints.clone();

    world.endpoints.retain(|key, _| key.address != Address::v4([10, 176, 2, 2]));
    world.sleep_seconds(2);
    let answer = leave(&world, A, udp("10.176.1.2:90", &request.source()), false);
    assert_eq!(answer.verdict, Verdict::Drop(DropReason::NoEndpoint));

    world.endpoints = endpoints;
    world.endpoints.retain(|key, _| key.address != Address::v4([10, 176, 1, 2]));
    world.sleep_seconds(2);
    let request = leave(&world, C, udp("10.176.2.2:5000", "192.0.2.1:9000"), false);
    assert_eq!(request.verdict, Verdict::Drop(DropReason::NoEndpoint));
}
