//! What is published where ranges lie beside and around one another: each is one entry, and each port is its own range's.

use netd_common::{
    tables::{Publication, PublicationKey, Publications},
    tuple::{Address, Port, TCP, UDP, Zone},
};
use netd_tests::{scene, world::World};
use proptest::prelude::*;

const ANY: Address = Address::ANY_V4;

/// Disjoint ranges, made of what cuts all ports into pieces: of some pieces nothing is published, and many are one port.
fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let edge = prop_oneof![any::<u16>(), 0..64_u16, (0..16_u32).prop_map(|bit| 1 << bit), 32_700..32_800_u16];
    let piece = (edge, 0..3_u8);
    prop::collection::vec(piece, 1..200).prop_map(|mut pieces| {
        pieces.sort_unstable();
        pieces.dedup_by_key(|(first, _)| *first);
        let last = |n: usize| pieces.get(n + 1).map_or(u16::MAX, |(next, _)| next - 1);
        let range = |(n, (first, kind)): (usize, &(u16, u8))| match kind {
            0 => None,
            1 => Some((*first, *first)),
            _ => Some((*first, last(n))),
        };
        pieces.iter().enumerate().filter_map(range).collect()
    })
}

/// A host on which these are published, each to its own container's port.
fn publishing(ranges: &[(u16, u16)]) -> World {
    let mut world = scene::world();
    world.publications.clear();
    for (n, (first, last)) in ranges.iter().enumerate() {
        let to = Publication::new(Zone(1), Address::v4([10, 176, 1, 2]), *first, n as u16).up_to(*last);
        let before = world.publications.insert(PublicationKey::of(ANY, TCP, &to), to);
        assert_eq!(before, None, "{first}-{last} has the place of {before:?}");
    }
    world
}

proptest! {
    #[test]
    fn each_of_disjoint_ranges_is_one_entry_and_every_port_finds_its_own(ranges in ranges(), more in any::<[u16; 8]>()) {
        let world = publishing(&ranges);

        prop_assert_eq!(world.publications.len(), ranges.len());
        let edges = ranges.iter().flat_map(|(first, last)| [*first, *last, first.wrapping_sub(1), last.wrapping_add(1)]);
        for port in edges.chain(more) {
            let own = ranges.iter().find(|(first, last)| (*first..=*last).contains(&port));
            let found = world.publication(&mut PublicationKey::new(ANY, TCP, Port::new(port)));
            prop_assert_eq!(found.map(|to| (to.first.number(), to.last.number())), own.copied(), "{}", port);
            prop_assert_eq!(world.publication(&mut PublicationKey::new(ANY, UDP, Port::new(port))), None);
        }
    }
}

#[test]
fn every_port_of_a_crowded_table_is_found() {
    // Of each size one, and single ports at both ends of each.
    let ranges = (1..15).flat_map(|bit| {
        let (first, last) = (1_u16 << bit, (1_u16 << (bit + 1)) - 1);
        if bit == 1 { vec![(first, last)] } else { vec![(first, first), (first + 1, last - 1), (last, last)] }
    });
    let ranges: Vec<_> = ranges.chain([(0, 0), (32_768, 65_534)]).collect();
    let world = publishing(&ranges);

    for port in 0..=u16::MAX {
        let own = ranges.iter().find(|(first, last)| (*first..=*last).contains(&port));
        let found = world.publication(&mut PublicationKey::new(ANY, TCP, Port::new(port)));
        assert_eq!(found.map(|to| (to.first.number(), to.last.number())), own.copied(), "{port}");
    }
}
