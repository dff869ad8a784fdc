//! How a flow begins, stays one pair, and ends.

use netd_common::{
    parse::{
        sctp_chunk::{HEARTBEAT, INIT},
        tcp_flags::{ACK, FIN, RST, SYN},
    },
    tables::{Span, Tables, Timeout},
    tuple::{Address, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, icmp_error, ipv6_twin, ping, sctp, tcp, udp},
    scene::{self, A, UPLINK},
    story::{SERVER, enter, enters, keys, leave, leaves},
    world::{RouteTo, World},
};

/// Four ticks of 2³⁰ ns, in whole seconds.
const EPOCH: u64 = 5;

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
        world.sleep_seconds(EPOCH);
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
fn a_flow_lives_as_long_as_the_half_that_was_noted_last_whenever_that_is() {
    for offset in 0..EPOCH {
        let world = scene::world();
        world.sleep_seconds(offset);
        let out = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);
        enter(&world, udp("198.51.100.7:53", &out.source()), false);
        world.sleep_seconds(3);
        let last = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);

        // Past the 113 ticks of what was noted first, and not of what was noted last.
        world.sleep_seconds(120);
        let error = enter(&world, icmp_error("203.0.113.1", "192.0.2.1", true, &last.bytes, 28), false);
        let answer = enter(&world, udp("198.51.100.7:53", &out.source()), false);
        world.sleep_seconds(125);
        let late = enter(&world, udp("198.51.100.7:53", &out.source()), false);

        assert_eq!(error.verdict, Verdict::Peer(A), "{offset}");
        assert_eq!(answer.verdict, Verdict::Peer(A), "{offset}");
        assert_eq!(late.verdict, Verdict::Pass, "{offset}");
    }
}

#[test]
fn another_way_is_taken_a_tick_after_it_is_told_of_and_an_epoch_after_it_is_not() {
    let set_out = || {
        let mut world = scene::world();
        let before = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);
        assert_eq!(before.verdict, Verdict::Neighbour(UPLINK));
        world.routes.push((Address::v4([198, 51, 100, 0]), 120, RouteTo::Refused));
        world
    };
    let goes_on = |world: &World| leave(world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false).verdict;

    let told = set_out();
    told.tell_of_routing();
    told.sleep_seconds(2);
    assert_eq!(goes_on(&told), Verdict::Pass);

    let untold = set_out();
    untold.sleep_seconds(EPOCH);
    assert_eq!(goes_on(&untold), Verdict::Pass);
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
fn each_state_of_each_protocol_has_the_time_that_is_its_own() {
    let tcp = |outward, flags| (outward, between(tcp, outward, "80").flags(flags));
    let (udp, sctp) = (
        |outward| (outward, between(udp, outward, "53")),
        |outward, chunk| (outward, between(|from, to| sctp(from, to, chunk), outward, "2905")),
    );
    let asked = (true, ping("10.176.1.2", SERVER, 4711));
    let open = [tcp(true, SYN), tcp(false, SYN | ACK), tcp(true, ACK)];
    let closed = [tcp(true, FIN | ACK), tcp(false, FIN | ACK)];
    let cases = [
        (Timeout::SynSent, open[..1].to_vec()),
        (Timeout::SynReceived, open[..2].to_vec()),
        (Timeout::Established, open.to_vec()),
        (Timeout::Closing, [&open[..], &closed[..1]].concat()),
        (Timeout::TimeWait, [&open[..], &closed[..]].concat()),
        (Timeout::Reset, [&open[..], &[tcp(false, RST)]].concat()),
        (Timeout::UdpUnreplied, vec![udp(true)]),
        (Timeout::UdpReplied, vec![udp(true), udp(false)]),
        (Timeout::Echo, vec![asked.clone()]),
        (Timeout::EchoV6, vec![asked]),
        (Timeout::SctpOpening, vec![sctp(true, INIT)]),
        (Timeout::SctpOpening, vec![sctp(true, HEARTBEAT)]),
        (Timeout::SctpEstablished, vec![sctp(true, INIT), sctp(false, INIT + 1)]),
    ];
    for (timeout, story) in cases {
        let mut world = scene::world_of_both_families();
        let own = Span::at_least_seconds(77);
        world.settings.as_mut().unwrap().timeouts[timeout as usize] = own;

        for (outward, build) in story {
            let bytes = if timeout == Timeout::EchoV6 { ipv6_twin(&build.bytes()) } else { build.bytes() };
            let said = if outward { leaves(&world, A, bytes) } else { enters(&world, bytes) };
            assert_ne!(said.verdict, Verdict::Pass, "{timeout:?}");
        }

        let flows = world.flows.borrow();
        assert_eq!(flows.len(), 2, "{timeout:?}");
        assert!(flows.values().all(|half| half.deadline == world.now().after(own)), "{timeout:?}: {flows:?}");
    }
}

/// From a container to a port of the server, or what answers it.
fn between(build: impl Fn(&str, &str) -> Build, outward: bool, port: &str) -> Build {
    let server = format!("{SERVER}:{port}");
    if outward { build("10.176.1.2:5000", &server) } else { build(&server, "192.0.2.1:5000") }
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
