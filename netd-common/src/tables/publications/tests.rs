//! What the table of publications finds.

extern crate std;

use std::{cell::Cell, collections::BTreeMap, vec::Vec};

use super::*;
use crate::tuple::TCP;

const ANY: Address = Address::ANY_V4;

/// A table that counts how often it is looked at.
#[derive(Default)]
struct Table {
    entries: BTreeMap<PublicationKey, Publication>,
    looks: Cell<u32>,
}

impl Table {
    fn of(ranges: &[(u16, u16)]) -> Self {
        let mut table = Self::default();
        for (first, last) in ranges {
            let to = Publication::new(Zone(1), Address::v4([10, 176, 0, 2]), *first, *first).up_to(*last);
            table.entries.insert(PublicationKey::of(ANY, TCP, &to), to);
        }
        assert_eq!(table.entries.len(), ranges.len(), "each range has a place of its own");
        table
    }

    /// The range that a port is in, and how many looks that took.
    fn find(&self, port: u16) -> (Option<(u16, u16)>, u32) {
        self.looks.set(0);
        let found = self.publication(&mut PublicationKey::new(ANY, TCP, Port::new(port)));
        (found.map(|to| (to.first.number(), to.last.number())), self.looks.get())
    }
}

impl Publications for Table {
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        self.looks.set(self.looks.get() + 1);
        question.answers().find_map(|key| self.entries.get(&key))
    }
}

#[test]
fn a_range_of_any_length_is_one_entry() {
    for (first, last) in [(8000, 8000), (8000, 17_999), (0, 65_535), (1, 65_534), (65_535, 65_535), (32_767, 32_768)] {
        let table = Table::of(&[(first, last)]);

        for port in [first, first.midpoint(last), last] {
            assert_eq!(table.find(port), (Some((first, last)), 1), "{port}");
        }
        for port in [first.checked_sub(1), last.checked_add(1)].into_iter().flatten() {
            assert_eq!(table.find(port).0, None, "{port}");
        }
    }
}

#[test]
fn what_is_published_nowhere_near_takes_one_look() {
    assert_eq!(Table::default().find(80), (None, 1));
    assert_eq!(Table::of(&[(8000, 8009), (40_000, 49_999)]).find(80), (None, 1));
    // The block of every port: there is none around it.
    assert_eq!(Table::of(&[(1, 65_534)]).find(65_535), (None, 1));
}

#[test]
fn a_port_beside_small_ranges_is_found_in_the_large_one_around_them() {
    // Each begins where the one before ends, so their blocks lie in one another.
    let nested: Vec<_> = (0..15).map(|power| ((1 << power) - 1, (1 << (power + 1)) - 2)).collect();
    let table = Table::of(&nested);

    for (first, last) in nested {
        for port in [first, last] {
            let (found, looks) = table.find(port);
            assert_eq!(found, Some((first, last)), "{port}");
            assert!(looks <= 17, "{looks} looks at {port}");
        }
    }
    assert_eq!(table.find(65_535).0, None);
}

#[test]
fn another_address_or_protocol_and_the_note_beside_an_address_are_other_questions() {
    let table = Table::of(&[(8000, 8009)]);
    let asked = PublicationKey::new(ANY, TCP, Port::new(8005));

    for mut other in [PublicationKey { protocol: 17, ..asked }, PublicationKey { address: Address::ANY_V6, ..asked }] {
        assert_eq!(table.publication(&mut other), None);
    }
    assert_eq!(table.publication(&mut asked.somewhere()), None);
}

#[test]
fn a_key_comes_back_from_the_map_as_it_went_in() {
    let address = Address::v4([192, 0, 2, 1]);
    let to = Publication::new(Zone(1), address, 8005, 80).up_to(8011);
    let key = PublicationKey::of(address, TCP, &to);

    assert_eq!((key.port.number(), key.bits()), (8000, PublicationKey::ALL - 4));
    assert_eq!(PublicationKey::from_map(key.bits(), key.place()), key);
}

#[test]
fn a_range_leads_to_as_many_ports_in_order() {
    let to = Publication::new(Zone(1), Address::v4([10, 176, 0, 2]), 8000, 80);

    assert_eq!([8000, 8001, 9000].map(|port| to.port(Port::new(port)).number()), [80, 81, 1080]);
    assert_eq!(Publication::new(Zone(1), to.address, 80, 8000).port(Port::new(81)).number(), 8001);
}
