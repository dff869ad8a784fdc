//! Fuzzing: bytes of no kind at all, and bytes that say schedules of packets. `cargo xtask fuzz` runs them longer.
//!
//! By bolero, since it does both that are wanted of one target: under `cargo test`, with the stable compiler, it plays the
//! seeds and what once failed (`__fuzz__/TARGET/corpus` and `crashes`) and then goes on at random for a bounded time, and
//! with its own command and a nightly compiler libFuzzer, AFL and honggfuzz take the same targets and seeds.

use std::time::Duration;

use netd_common::{
    packet::ETH,
    parse::{self, Part, Transport},
    tables::Hook,
    tuple::Tuple,
};
use netd_tests::{
    scene::{self, A, UPLINK},
    schedule::{Schedule, Step},
    world::Frame,
};

const TIME: Duration = Duration::from_secs(3);

/// The first byte says where the packet turns up, the others are the packet.
#[test]
fn parser() {
    bolero::check!(name = "parser").with_test_time(TIME).for_each(|bytes: &[u8]| {
        let Some((place, packet)) = bytes.split_first() else { return };
        agrees_with_another_parser(packet);
        let hook = Hook::ALL[usize::from(place & 3)];
        let device = if matches!(hook, Hook::FromContainer | Hook::ToContainer) { A } else { UPLINK };
        let mut packet = packet.to_vec();
        if place & 4 != 0 && packet.len() >= ETH {
            packet[..6].copy_from_slice(&scene::bridge_mac(20));
            packet[6..12].copy_from_slice(&scene::container_mac(A));
        }
        let mut frame = Frame { came_by: u32::from(place >> 3), ..Frame::at(device, packet) };
        let length = frame.bytes.len();

        let _ = scene::world().run(hook, &mut frame);

        assert_eq!(frame.bytes.len(), length);
    });
}

/// The first byte says how large the table is, the others are steps.
#[test]
fn sequences() {
    bolero::check!(name = "sequences").with_test_time(TIME).for_each(|bytes: &[u8]| {
        let Some((capacity, steps)) = bytes.split_first() else { return };
        if let Err(fault) = Schedule::new(usize::from(capacity % 64)).play(&Step::all(steps)) {
            panic!("{fault}");
        }
    });
}

/// What both take for a whole TCP or UDP packet they read alike.
fn agrees_with_another_parser(packet: &[u8]) {
    let Ok(ethertype) = <[u8; 2]>::try_from(packet.get(12..14).unwrap_or_default()) else { return };
    let mut tuple = Tuple::default();
    let mut frame = Frame::at(UPLINK, packet.to_vec());
    let Ok(Some(h)) = parse::ip(&mut frame, ethertype, &mut tuple) else { return };
    let Ok(theirs) = etherparse::SlicedPacket::from_ethernet(packet) else { return };
    let ports = match &theirs.transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(etherparse::TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => return,
    };
    if h.part == Part::Whole && matches!(h.transport, Transport::Tcp | Transport::Udp) {
        assert_eq!((tuple.src_port.number(), tuple.dst_port.number()), ports);
    }
}
