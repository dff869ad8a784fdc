//! Ports that are published for some clients alone: 443 of the scene, for 198.51.100.0/24 and the containers of network blue.

use netd_common::{
    parse::tcp_flags::{ACK, SYN},
    tables::Hook,
    tuple::{Address, UDP},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, ipv6_twin, tcp},
    scene::{self, A, B, C, UPLINK},
    story::{enter, leave, of},
    world::{Frame, World},
};

const DENIED: Verdict = Verdict::Drop(DropReason::SourceDenied);

fn knock(world: &World, protocol: &str, from: &str) -> Verdict {
    enter(world, of(protocol, from, "192.0.2.1:443"), false).verdict
}

/// What the uplink's driver makes of a frame, which stays as it is.
fn early(world: &World, bytes: &[u8]) -> Verdict {
    let mut frame = bytes.to_vec();
    let verdict = world.run_early(UPLINK, &mut frame);
    assert_eq!(frame, bytes);
    verdict
}

#[test]
fn clients_of_the_list_come_in_and_others_are_dropped_before_a_flow_is_made() {
    for protocol in ["tcp", "udp"] {
        let world = scene::world();

        assert_eq!(knock(&world, protocol, "203.0.113.9:4000"), DENIED);
        assert_eq!(knock(&world, protocol, "198.51.99.255:4000"), DENIED);
        assert_eq!(world.flows.borrow().len(), 0);

        assert_eq!(knock(&world, protocol, "198.51.100.7:4000"), Verdict::Peer(A));
        assert_eq!(world.flows.borrow().len(), 2);
        let open = enter(&world, of(protocol, "203.0.113.9:4000", "192.0.2.1:8080"), false).verdict;
        assert_eq!(open, if protocol == "tcp" { Verdict::Peer(A) } else { Verdict::Pass }, "another port is another's");
    }
}

#[test]
fn so_are_those_of_ipv6() {
    let world = scene::world_of_both_families();
    let knock = |from: &str| {
        let build = of("tcp", from, "192.0.2.1:443").macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]);
        world.run(Hook::FromUplink, &mut Frame::at(UPLINK, ipv6_twin(&build.bytes())))
    };

    assert_eq!(knock("203.0.113.9:4000"), DENIED);
    assert_eq!(knock("198.51.100.7:4000"), Verdict::Peer(A));
}

#[test]
fn containers_count_by_their_own_addresses() {
    let world = scene::world();
    let knock = |device, from: &str| leave(&world, device, of("tcp", from, "192.0.2.1:443"), false).verdict;

    assert_eq!(knock(C, "10.176.2.2:4000"), DENIED, "of another network");
    assert_eq!(knock(B, "10.176.1.3:4000"), Verdict::Peer(A), "of a network of the list");
    assert_eq!(knock(A, "10.176.1.2:4000"), Verdict::Peer(A), "the container itself");
}

#[test]
fn a_list_without_ranges_lets_nobody_in() {
    let mut world = scene::world();
    world.sources.clear();

    assert_eq!(knock(&world, "tcp", "198.51.100.7:4000"), DENIED);
}

#[test]
fn what_a_container_asked_for_is_answered_by_whom_its_own_port_denies() {
    let world = scene::world();
    leave(&world, A, of("udp", "10.176.1.2:443", "203.0.113.9:4000"), false);

    // Its port is kept for the publication, so it left by another.
    let port =
        world.flows.borrow().values().find_map(|flow| (flow.direction == 0).then(|| flow.becomes.src_port.number()));
    let answer = of("udp", "203.0.113.9:4000", &format!("192.0.2.1:{}", port.expect("a flow")));

    assert_eq!(enter(&world, answer, false).verdict, Verdict::Peer(A));
}

#[test]
fn a_driver_drops_first_packets_of_denied_clients_and_nothing_else() {
    let world = scene::world();
    let early = |build: Build| early(&world, &build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes());
    for protocol in ["tcp", "udp"] {
        let to = |from: &str, to: &str| of(protocol, from, to);
        assert_eq!(early(to("203.0.113.9:4000", "192.0.2.1:443")), DENIED);
        assert_eq!(early(to("198.51.100.7:4000", "192.0.2.1:443")), Verdict::Pass, "it is of the list");
        assert_eq!(early(to("203.0.113.9:4000", "192.0.2.1:8080")), Verdict::Pass, "a port of everybody's");
        assert_eq!(early(to("203.0.113.9:4000", "192.0.2.77:443")), Verdict::Pass, "in transit");
        assert_eq!(early(to("203.0.113.9:4000", "192.0.2.1:443").ip_options(8)), Verdict::Pass, "options");
        assert_eq!(early(to("203.0.113.9:4000", "192.0.2.1:443").fragment(true, 0)), Verdict::Pass, "a fragment");
    }
    let denied = || tcp("203.0.113.9:4000", "192.0.2.1:443");
    assert_eq!(early(denied().flags(ACK)), Verdict::Pass, "what opens nothing is refused by the host");
    let to_group = denied().macs(scene::UPLINK_MACS[1], [0xff; 6]).bytes();
    assert_eq!(self::early(&world, &to_group), Verdict::Pass);
    let whole = denied().macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes();
    let twin = ipv6_twin(&whole);
    assert_eq!(self::early(&scene::world_of_both_families(), &twin), DENIED);
    for bytes in [&whole, &twin] {
        (0..53).for_each(|length| {
            assert_eq!(self::early(&world, &bytes[..length]), Verdict::Pass, "{length} bytes of it")
        });
    }
}

#[test]
fn a_driver_leaves_the_answers_to_a_container_that_asked_before_its_port_was_published() {
    let mut world = scene::world();
    leave(&world, A, of("udp", "10.176.1.2:7000", "203.0.113.9:4000"), false);
    scene::publish(&mut world, Address::ANY_V4, UDP, 7000..=7000, [10, 176, 1, 2], 7000);
    world.publications.values_mut().for_each(|to| *to = to.with_sources(scene::LIST));
    let answer = |port: u16| {
        let build = of("udp", &format!("203.0.113.9:{port}"), "192.0.2.1:7000");
        early(&world, &build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes())
    };

    assert_eq!(answer(4000), Verdict::Pass);
    assert_eq!(answer(4001), DENIED);
}

/// What of an uplink's packets a driver drops, `from_uplink` drops for the same reason.
#[test]
fn a_driver_drops_nothing_that_the_program_behind_it_lets_in() {
    let ends = ["203.0.113.9", "198.51.100.7", "192.0.2.1", "10.176.1.2", "192.0.2.77", "127.0.0.1"];
    let mut dropped = 0;
    for (protocol, from, to) in ["tcp", "udp"]
        .into_iter()
        .flat_map(|p| ends.into_iter().flat_map(move |f| ends.into_iter().map(move |t| (p, f, t))))
    {
        for (port, flags) in [443, 8080, 5353, 80].into_iter().flat_map(|port| [SYN, ACK, SYN | ACK].map(|f| (port, f)))
        {
            let world = scene::world();
            let build = of(protocol, &format!("{from}:4000"), &format!("{to}:{port}")).flags(flags);
            let early = early(&world, &build.clone().macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes());
            if early == DENIED {
                dropped += 1;
                assert_eq!(enter(&world, build, false).verdict, DENIED, "{protocol} {from} {to}:{port}");
            }
        }
    }
    assert!(dropped > 4, "{dropped}");
}
