//! Two CPUs, the second of which comes between any two steps that the first takes in the flow table: each race is run at
//! every one of them.

use std::cell::Cell;

use netd_common::{
    conntrack::Leg,
    parse::tcp_flags::{ACK, SYN},
    tables::Hook,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, tcp, udp},
    scene::{self, A, B, UPLINK},
    story::{Arrived, enter, keys, leave},
    world::{Frame, World},
};

/// More than any packet takes.
const STEPS: u32 = 80;

#[test]
fn two_first_packets_of_one_flow_leave_by_one_port() {
    for step in 0..STEPS {
        let world = scene::world();
        let packet = || udp("10.176.1.2:33000", "198.51.100.7:53");
        let mut second = None;

        let first = leave_while(&world, A, packet(), step, || second = Some(leave(&world, A, packet(), false)));

        let second = second.unwrap_or_else(|| leave(&world, A, packet(), false));
        assert_eq!(first.source(), second.source(), "step {step}");
        assert_eq!(world.flows.borrow().len(), 2, "step {step}");
    }
}

#[test]
fn two_flows_that_want_one_port_get_two() {
    for step in 0..STEPS {
        let world = scene::world();
        let of = |address: &str| udp(&format!("{address}:5000"), "198.51.100.7:53");

        race_for_a_port(&world, step, of("10.176.1.2"), of("10.176.1.3"));
    }
}

#[test]
fn two_flows_that_find_one_port_of_an_expired_one_get_two() {
    for step in 0..STEPS {
        let world = scene::world();
        let of = |address: &str| udp(&format!("{address}:5000"), "198.51.100.7:53");
        assert_eq!(leave(&world, A, of("10.176.1.2"), false).source(), "192.0.2.1:5000");
        world.sleep_seconds(40);

        race_for_a_port(&world, step, of("10.176.1.2"), of("10.176.1.3"));
    }
}

fn race_for_a_port(world: &World, step: u32, of_a: Build, of_b: Build) {
    let mut of_a = Some(of_a);
    let mut second = None;

    let first = leave_while(world, B, of_b, step, || second = of_a.take().map(|of_a| leave(world, A, of_a, false)));

    let second = second.or_else(|| of_a.take().map(|of_a| leave(world, A, of_a, false))).expect("it runs once");
    assert_ne!(first.source(), second.source(), "step {step}");
    for (device, out) in [(B, first), (A, second)] {
        let back = enter(world, udp("198.51.100.7:53", &out.source()), false);
        assert_eq!(back.verdict, Verdict::Peer(device), "step {step}");
    }
}

#[test]
fn a_port_that_another_cpu_is_freeing_is_not_taken_from_under_it() {
    let world = scene::world();
    let of = |address: &str| udp(&format!("{address}:5000"), "198.51.100.7:53");
    assert_eq!(leave(&world, A, of("10.176.1.2"), false).source(), "192.0.2.1:5000");
    world.sleep_seconds(40);
    begin_to_end(&world);
    let ending = keys(&world);

    let out = leave(&world, B, of("10.176.1.3"), false);

    assert_eq!(out.verdict, Verdict::Neighbour(UPLINK));
    assert_ne!(out.source(), "192.0.2.1:5000", "what comes to its place would go with it");
    assert!(ending.iter().all(|half| keys(&world).contains(half)), "it is the other CPU's to take out");
}

#[test]
fn a_packet_whose_flow_another_cpu_is_taking_out_does_not_leave_by_its_name() {
    let packet = || udp("10.176.1.2:5000", "198.51.100.7:53");
    for step in 0..STEPS {
        let world = scene::world();
        leave(&world, A, packet(), false);
        world.sleep_seconds(40);
        begin_to_end(&world);
        let ending = keys(&world);
        let take_out = || world.flows.borrow_mut().retain(|key, _| !ending.iter().any(|(of, _)| of == key));

        let out = leave_while(&world, A, packet(), step, take_out);

        // Where the other CPU is not done before the last try, the packet is lost.
        if out.verdict == Verdict::Neighbour(UPLINK) {
            let back = enter(&world, udp("198.51.100.7:53", &out.source()), false);
            assert_eq!(back.verdict, Verdict::Peer(A), "step {step}");
        } else {
            assert_eq!(out.verdict, Verdict::Drop(DropReason::PortsExhausted), "step {step}");
        }
    }
}

/// Another CPU has ended the flow that there is, and not removed it yet.
fn begin_to_end(world: &World) {
    for half in world.flows.borrow_mut().values_mut() {
        (half.last_seen, half.deadline) = Default::default();
    }
}

#[test]
fn an_answer_that_meets_the_eviction_of_its_flow_leaves_the_next_one_alone() {
    for step in 0..STEPS {
        let mut world = scene::world();
        world.capacity = 2;
        let out = leave(&world, A, udp("10.176.1.2:5000", "198.51.100.7:53"), false);
        let mut next = None;

        let answer = udp("198.51.100.7:53", &out.source()).macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes();
        let verdict = world.run_with_another(Hook::FromUplink, &mut Frame::at(UPLINK, answer), step, || {
            next = Some(leave(&world, B, udp("10.176.1.3:5000", "198.51.100.7:53"), false));
        });

        let Some(next) = next.filter(|next| next.verdict == Verdict::Neighbour(UPLINK)) else { continue };
        let legs: Vec<_> = world.flows.borrow().values().map(|half| half.legs).collect();
        assert!(
            verdict != Verdict::Peer(A) || legs == [[Leg::SEEN, 0]; 2],
            "step {step}: it was no answer to that one"
        );
        let back = enter(&world, udp("198.51.100.7:53", &next.source()), false);
        assert_eq!((back.verdict, back.destination()), (Verdict::Peer(B), "10.176.1.3:5000".to_owned()), "step {step}");
        let names = keys(&world).into_iter().filter(|(key, _)| key.zone.0 != 0).map(|(_, becomes)| becomes.src_port);
        let names: Vec<_> = names.collect();
        assert_eq!(names.len(), 1, "step {step}: no half of the other stays behind");
    }
}

#[test]
fn a_packet_that_comes_too_late_for_its_flow_leaves_by_the_name_that_the_tuple_has_meanwhile() {
    for step in 0..STEPS {
        let world = scene::world();
        let packet = || udp("10.176.1.3:53", "203.0.113.9:40000");
        enter(&world, udp("203.0.113.9:40000", "192.0.2.1:5353"), false);
        world.sleep_seconds(3600);
        let mut meanwhile = None;

        let mut frame = Frame::at(B, packet().macs(scene::container_mac(B), scene::bridge_mac(20)).bytes());
        let verdict = world.run_with_another(Hook::FromContainer, &mut frame, step, || {
            meanwhile = Some(leave(&world, B, packet(), false));
        });

        let late = Arrived { verdict, bytes: frame.bytes };
        let next = meanwhile.unwrap_or_else(|| leave(&world, B, packet(), false));
        assert_eq!((late.verdict, late.source()), (Verdict::Neighbour(UPLINK), next.source()), "step {step}");
        assert_ne!(late.source(), "192.0.2.1:5353", "step {step}");
    }
}

#[test]
fn the_end_of_a_handshake_is_not_undone_by_an_answer_that_crosses_it() {
    for step in 0..STEPS {
        let world = scene::world();
        let (from, to) = ("10.176.1.2:33000", "198.51.100.7:80");
        let out = leave(&world, A, tcp(from, to), false);
        let syn_ack =
            tcp(to, &out.source()).flags(SYN | ACK).macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes();
        let acked = Cell::new(false);
        let ack = || {
            acked.set(true);
            leave(&world, A, tcp(from, to).flags(ACK), false);
        };

        let _ = world.run_with_another(Hook::FromUplink, &mut Frame::at(UPLINK, syn_ack), step, ack);
        if !acked.get() {
            ack();
        }

        world.sleep_seconds(3600);
        let data = enter(&world, tcp(to, &out.source()).flags(ACK), false);
        assert_eq!(data.verdict, Verdict::Peer(A), "step {step}");
    }
}

/// A container sends a packet to its gateway while another CPU does `meanwhile` before a step of it.
fn leave_while(world: &World, device: u32, build: Build, step: u32, meanwhile: impl FnOnce()) -> Arrived {
    let bytes = build.macs(scene::container_mac(device), scene::bridge_mac(20)).bytes();
    let mut frame = Frame::at(device, bytes);
    let verdict = world.run_with_another(Hook::FromContainer, &mut frame, step, meanwhile);
    Arrived { verdict, bytes: frame.bytes }
}
