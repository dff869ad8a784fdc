//! What holds whatever comes, in whatever order.

use std::{hint::black_box, panic::catch_unwind};

use netd_common::{checksum::Delta, packet::Packet, tables::Hook, verdict::Verdict};
use netd_tests::{
    packets::{fragments, icmp_error, ipv6_twin, ping, pong, sctp, tcp, udp},
    scene::{self, A, B, C, E, H, UPLINK},
    world::{Frame, World},
};
use proptest::prelude::*;

/// What comes next.
#[derive(Clone, Debug)]
struct Next {
    bytes: Vec<u8>,
    hook: Hook,
    device: u32,
    came_by: u32,
    /// Seconds before it.
    after: u64,
}

/// Packets that mean something in the scene, of both families.
fn known() -> Vec<Vec<u8>> {
    let to_gateway = [
        tcp("10.176.1.2:33000", "198.51.100.7:80"),
        tcp("10.176.1.2:33000", "198.51.100.7:80").flags(0x11),
        udp("10.176.1.2:33000", "198.51.100.7:53"),
        ping("10.176.1.2", "198.51.100.7", 7),
        tcp("10.176.1.2:80", "203.0.113.9:40000").flags(0x12),
        tcp("10.176.1.2:33000", "192.0.2.1:8080"),
    ];
    let asked = to_gateway[2].clone().bytes();
    let from_outside = [
        tcp("203.0.113.9:40000", "192.0.2.1:8080"),
        tcp("203.0.113.9:40000", "192.0.2.1:8080").flags(0x14),
        udp("203.0.113.9:40000", "192.0.2.1:5353"),
        udp("198.51.100.7:53", "192.0.2.1:20000"),
        pong("198.51.100.7", "192.0.2.1", 7),
        sctp("203.0.113.9:40000", "192.0.2.1:5353", 1),
        icmp_error("203.0.113.1", "192.0.2.1", true, &asked, 28),
    ];
    let to_gateway = to_gateway.map(|build| build.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes());
    let from_outside = from_outside.map(|build| build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes());
    let pieces = fragments(&to_gateway[2], 8, 4711);
    let all: Vec<_> = to_gateway.into_iter().chain(from_outside).chain(pieces).collect();
    all.iter().cloned().chain(all.iter().map(|packet| ipv6_twin(packet))).collect()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let noise = (prop::collection::vec(any::<u8>(), 0..120), any::<bool>()).prop_flat_map(|(bytes, known_macs)| {
        prop::sample::select(vec![[8_u8, 0], [0x86, 0xdd], [8, 6], [1, 2]]).prop_map(move |ethertype| {
            let mut bytes = bytes.clone();
            if bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&ethertype);
                if known_macs {
                    bytes[..6].copy_from_slice(&scene::bridge_mac(20));
                    bytes[6..12].copy_from_slice(&scene::container_mac(A));
                }
            }
            bytes
        })
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let changed = (prop::sample::select(known()), changes).prop_map(|(mut bytes, changes)| {
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        bytes
    });
    prop_oneof![1 => noise, 3 => changed]
}

/// Mostly where a packet would turn up.
fn place() -> impl Strategy<Value = (Hook, u32, u32)> {
    let anywhere = (
        prop::sample::select(Hook::ALL.to_vec()),
        prop::sample::select(vec![A, B, C, E, H, UPLINK, 20, 99]),
        prop::sample::select(vec![0, A, 20, UPLINK, 99]),
    );
    let likely = prop::sample::select(vec![
        (Hook::FromContainer, A, A),
        (Hook::FromUplink, UPLINK, UPLINK),
        (Hook::ToUplink, UPLINK, 20),
        (Hook::ToUplink, UPLINK, 0),
    ]);
    prop_oneof![1 => anywhere, 3 => likely]
}

fn next() -> impl Strategy<Value = Next> {
    (bytes(), place(), prop_oneof![4 => 0..2_u64, 1 => 0..200_u64])
        .prop_map(|(bytes, (hook, device, came_by), after)| Next { bytes, hook, device, came_by, after })
}

/// Every half of a flow has its other half.
fn pairs_are_whole(world: &World) -> Result<(), TestCaseError> {
    let flows = world.flows.borrow();
    for (key, flow) in flows.iter() {
        let peer = flows.get(&flow.becomes.reversed(flow.becomes.zone));
        prop_assert!(peer.is_some_and(|peer| peer.becomes == key.reversed(key.zone)), "{key:?} {flow:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_sequence_of_packets_makes_a_panic_halves_a_flow_or_shortens_a_packet(
        sequence in prop::collection::vec(next(), 1..40),
    ) {
        let world = scene::world_of_both_families();
        for Next { bytes, hook, device, came_by, after } in sequence {
            world.sleep_seconds(after);
            let length = bytes.len();
            if hook == Hook::UplinkXdp {
                let mut in_driver = bytes.clone();
                let verdict = world.run_early(device, &mut in_driver);
                prop_assert!(matches!(verdict, Verdict::Pass | Verdict::Drop(_)));
                prop_assert_eq!(in_driver, bytes);
                continue;
            }
            let mut frame = Frame { came_by, ..Frame::at(device, bytes) };

            let _ = world.run(hook, &mut frame);

            prop_assert_eq!(frame.length(), length);
            pairs_are_whole(&world)?;
        }
    }
}

/// What the tests here and the fuzzer rely on: an overflow is a panic, in their own code and in the packet code.
#[test]
fn an_overflow_is_a_panic() {
    let most: Delta = bytemuck::cast(u32::MAX);

    assert!(catch_unwind(|| black_box(u32::MAX) + black_box(1)).is_err());
    assert!(catch_unwind(|| black_box(most).and(black_box(most))).is_err());
}
