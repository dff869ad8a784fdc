//! Ports that are published for some clients alone: 443 of the scene, for 198.51.100.0/24 and the containers of network blue.

use netd_common::{
    tables::Hook,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::ipv6_twin,
    scene::{self, A, B, C, UPLINK},
    story::{enter, leave, of},
    world::{Frame, World},
};

const DENIED: Verdict = Verdict::Drop(DropReason::SourceDenied);

fn knock(world: &World, protocol: &str, from: &str) -> Verdict {
    enter(world, of(protocol, from, "192.0.2.1:443"), false).verdict
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
