//! Fuzzing: bytes of no kind at all, and bytes that say schedules of packets. `cargo xtask fuzz` runs them longer.
//!
//! By bolero, since it does both that are wanted of one target: under `cargo test`, with the stable compiler, it plays the
//! seeds and what once failed (`__fuzz__/TARGET/corpus` and `crashes`) and then goes on at random for a bounded time, and
//! with its own command and a nightly compiler libFuzzer, AFL and honggfuzz take the same targets and seeds.

mod place;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use netd_common::{
    parse::{self, Part, Transport},
    tables::Hook,
    tuple::Tuple,
};
use netd_tests::{
    scene::UPLINK,
    schedule::{Schedule, Step},
    world::Frame,
};

use self::place::Place;

const TIME: Duration = Duration::from_secs(3);

/// The first two bytes say where the packet turns up, the others are the packet.
#[test]
fn parser() {
    bolero::check!(name = "parser").with_test_time(TIME).for_each(|bytes: &[u8]| {
        let [place, came_by, packet @ ..] = bytes else { return };
        agrees_with_another_parser(packet);
        Place::new([*place, *came_by]).meets(packet);
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

/// A seed's name begins with that of the hook it is for.
#[test]
fn there_is_a_seed_of_the_parser_for_every_hook() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/__fuzz__/parser/corpus");
    let mut met = BTreeSet::new();
    for seed in fs::read_dir(seeds).expect("the seeds are in the repository") {
        let path = seed.expect("it is readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let bytes = fs::read(&path).expect("it is readable");
        let hook = Place::new([bytes[0], bytes[1]]).hook;
        assert!(name.starts_with(&format!("{}-", hook.name())), "{name} is for {hook:?}");
        met.insert(hook);
    }
    assert_eq!(met, Hook::ALL.into());
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
