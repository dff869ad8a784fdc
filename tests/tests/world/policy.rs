//! Who may send what, and to whom.

use netd_common::{
    packet::Label,
    parse::tcp_flags::ACK,
    tables::{Device, DeviceKind, Hook},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    neighbours,
    packets::{self, Build, tcp, udp},
    scene::{self, A, B, C, D, E, UPLINK},
    story::{enter, leave},
    world::Frame,
};

/// Interface index of a side of a join.
const JOIN: u32 = 90;

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
fn a_packet_that_was_cut_anew_is_not_the_hosts_own_though_nobody_knows_by_what_device_it_came() {
    let world = scene::world_of_both_families();
    let packet = packets::ipv6_twin(&udp("203.0.113.9:4000", "10.176.1.2:53").bytes());
    let delivered =
        |came_by, label| world.run(Hook::ToContainer, &mut Frame { came_by, label, ..Frame::at(A, packet.clone()) });
    let mut from_outside = Frame::at(UPLINK, packet.clone());

    assert_eq!(world.run(Hook::FromUplink, &mut from_outside), Verdict::Pass, "to no place that is published");
    assert_eq!(delivered(UPLINK, from_outside.label), Verdict::Drop(DropReason::NotPublished));
    assert_eq!(delivered(0, from_outside.label), Verdict::Drop(DropReason::NotPublished));
    assert_eq!(delivered(0, Label::Approved), Verdict::Pass, "a part of what was published");
    assert_eq!(delivered(0, Label::None), Verdict::Pass, "the host's own");
}

#[test]
fn what_the_host_itself_sends_to_a_container_goes_out_of_its_veth_and_the_rest_by_the_bridge() {
    let world = scene::world_of_both_families();
    let sent = |came_by, to: u32, build: Build| {
        let bytes = build.macs(scene::bridge_mac(20), scene::container_mac(to)).bytes();
        [bytes.clone(), packets::ipv6_twin(&bytes)].map(|bytes| {
            let mut frame = Frame { came_by, ..Frame::at(20, bytes.clone()) };
            let verdict = world.run(Hook::FromHost, &mut frame);
            assert_eq!(frame.bytes, bytes, "as it is");
            verdict
        })
    };
    let to_a = || tcp("10.176.1.1:5000", "10.176.1.2:80");

    assert_eq!(sent(0, A, to_a()), [Verdict::Device(A); 2]);
    assert_eq!(sent(0, A, to_a().flags(ACK).payload(&[7; 1440])), [Verdict::Device(A); 2]);
    for (came_by, to, build) in [
        (UPLINK, A, to_a()),
        (0, B, to_a()),
        (0, A, tcp("10.176.1.1:5000", "10.176.1.77:80")),
        (0, C, tcp("10.176.1.1:5000", "10.176.2.2:80")),
        (0, A, to_a().payload(&[7; 1461])),
    ] {
        assert_eq!(sent(came_by, to, build.clone()), [Verdict::Pass; 2], "{came_by} {to} {build:?}");
    }
    let mut frame =
        Frame::at(20, neighbours::arp(1, [[0; 6], [0xff; 6]], ([0; 6], [10, 176, 1, 1]), ([0; 6], [10, 176, 1, 2])));
    frame.came_by = 0;
    assert_eq!(world.run(Hook::FromHost, &mut frame), Verdict::Pass);
}

/// A network of more containers than a bridge has ports has further bridges, and what is to their containers is judged at the join.
#[test]
fn what_has_passed_a_join_has_been_judged_there_and_a_join_lets_through_what_a_container_may_get() {
    for (bridge, container, inside) in [(30, C, Verdict::Pass), (80, E, Verdict::Drop(DropReason::NotAllowed))] {
        let mut world = scene::world();
        let join = Device { ifindex: JOIN, kind: DeviceKind::Join as u8, ..world.devices[&bridge] };
        world.devices.insert(JOIN, join);
        let delivered = |at, came_by| {
            let mut frame = Frame::at(at, tcp("10.176.1.2:1", "10.176.2.2:80").bytes());
            frame.came_by = came_by;
            world.run(Hook::ToContainer, &mut frame)
        };

        assert_eq!(delivered(container, JOIN), Verdict::Pass);
        assert_eq!(delivered(JOIN, 0), Verdict::Pass, "from the host");
        assert_eq!(delivered(JOIN, JOIN + 1), Verdict::Drop(DropReason::NotPublished), "of no network");
        assert_eq!(delivered(JOIN, bridge), inside, "back by the gateway");
        assert_eq!(delivered(JOIN, 20), Verdict::Drop(DropReason::Isolated));
        assert_eq!(delivered(JOIN, UPLINK), Verdict::Drop(DropReason::NotPublished));
    }
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
fn what_comes_from_the_wire_for_loopback_goes_nowhere() {
    let world = scene::world();

    let published = enter(&world, tcp("203.0.113.9:4000", "127.0.0.1:8080"), false);

    assert_eq!(published.verdict, Verdict::Drop(DropReason::LoopbackFromWire));
    assert_eq!(world.flows.borrow().len(), 0);
}
