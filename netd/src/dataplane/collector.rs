//! Takes flows out of the table that are over, a part of it at a time.
//!
//! The daemon only says which may be: whether one may go at that moment is decided in the kernel, by the code that makes
//! flows. Correctness does not wait for any of this ([`netd_common::evict::make_room`]); memory comes back earlier.

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use netd_common::{
    evict::{COLLECT_MAX, CollectOrder, Evict, GRACE},
    tables::{Flow, Instant},
    tuple::Tuple,
};

use super::{
    flows::{Flows, now},
    syscall::Walk,
};
use crate::reconcile::Collected;

/// Turns in which the whole table is looked at, as far as [`CHUNKS`] allows.
const TURNS: u64 = 10;
/// Entries looked at in a turn: at least, and at most.
const CHUNKS: (u64, u64) = (4096, 65_536);
/// Fill of the table in percent from which on flows that are worth less than a new one go before their time, and at which
/// that ends.
const PRESSURE: (u64, u64) = (80, 75);

/// Share of the table's room, one in so many, by which a part must say more than is known to be believed: parts of an even hash differ
/// from each other, those of [`CHUNKS`]' least by 1.6 percent (one standard deviation).
const DOUBT: u64 = 20;

/// Where the collector stands in the table.
#[derive(Debug, Default)]
pub struct Collector {
    walk: Walk,
    count: Count,
    pressed: bool,
}

impl Collector {
    /// Looks at the next part of the table.
    pub fn turn(&mut self, flows: &Flows, program: &SchedClassifier) -> Result<Collected> {
        let now = now()?;
        let wanted = (self.count.entries / TURNS).clamp(CHUNKS.0, CHUNKS.1) as u32;
        let from = self.walk.buckets();
        let read = flows.read(&mut self.walk, wanted)?;
        let capacity = u64::from(flows.capacity());
        self.count.read(&Part { entries: read.len() as u64, from, to: self.walk.buckets() }, capacity);
        self.pressed = is_pressed(self.pressed, self.count.entries, capacity);
        let which = if self.pressed { Evict::Weak } else { Evict::Expired };
        let over = over(&read, now, which);
        let mut gone = 0;
        for keys in over.chunks(COLLECT_MAX as usize) {
            gone += run(program, which, keys)?;
        }
        self.count.lost(2 * gone as u64);
        if self.walk.is_at_the_beginning() {
            self.count.end_walk();
        }
        Ok(Collected { flows: gone, under_pressure: self.pressed })
    }
}

/// How many entries the table has.
#[derive(Debug, Default)]
struct Count {
    /// By the last whole walk and what went since, or by a part that says far more.
    entries: u64,
    /// Read in this walk, less those that went.
    counted: u64,
    /// Those that went in this walk.
    gone: u64,
}

impl Count {
    /// Takes in the next part. A table that fills within seconds is known as full by it, not when a walk has counted all.
    fn read(&mut self, part: &Part, capacity: u64) {
        self.counted += part.entries;
        self.entries = self.entries.max(self.counted);
        // What went in this walk lacks in the parts before, which this one does not speak of.
        let told = part.tells_of(capacity).map_or(0, |told| told.saturating_sub(self.gone));
        if told > self.entries + capacity / DOUBT {
            self.entries = told;
        }
    }

    fn lost(&mut self, entries: u64) {
        self.gone += entries;
        self.counted = self.counted.saturating_sub(entries);
        self.entries = self.entries.saturating_sub(entries);
    }

    fn end_walk(&mut self) {
        *self = Self { entries: self.counted, counted: 0, gone: 0 };
    }
}

/// A part of the table: entries in a run of its buckets.
struct Part {
    entries: u64,
    /// The first bucket, and the first one after it; 0 after the last.
    from: u64,
    to: u64,
}

impl Part {
    /// Entries that a table with room for `capacity` has if all of it is as full as this part, which is as true as a hash is even. `None`
    /// of a rest that may be too small to tell.
    fn tells_of(&self, capacity: u64) -> Option<u64> {
        let buckets = buckets(capacity);
        let to = match (self.from, self.to) {
            (0, 0) => buckets,
            (_, 0) => return None,
            (_, to) => to,
        };
        let passed = to.checked_sub(self.from).filter(|passed| *passed > 0)?;
        Some(self.entries * buckets / passed)
    }
}

/// Buckets of a hash map with room for `capacity` entries, as the kernel makes them (`htab_map_alloc`).
const fn buckets(capacity: u64) -> u64 {
    capacity.next_power_of_two()
}

/// Whether room is short, which stays so until there is some again.
fn is_pressed(was: bool, entries: u64, capacity: u64) -> bool {
    entries * 100 > capacity * if was { PRESSURE.1 } else { PRESSURE.0 }
}

/// The tuples of those that may be over.
fn over(read: &[(Tuple, Flow)], now: Instant, which: Evict) -> Vec<Tuple> {
    let now = if which == Evict::Expired { now.before(GRACE) } else { now };
    let over = read.iter().filter(|(key, flow)| which.takes(key.protocol, flow, now));
    over.map(|(key, _)| *key).collect()
}

/// Has the kernel look at these once more and take out those that may go; how many did.
fn run(program: &SchedClassifier, which: Evict, keys: &[Tuple]) -> Result<usize> {
    let order = CollectOrder { which: which as u32, count: keys.len() as u32, pad: [0; 2] };
    let mut packet = bytemuck::bytes_of(&order).to_vec();
    packet.extend_from_slice(bytemuck::cast_slice(keys));
    let options = TestRunOptions { data_in: Some(&packet), ..Default::default() };
    Ok(program.test_run(options).context("cannot run the collector")?.return_value as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_above_four_fifths_and_ends_at_three_quarters() {
        assert!(!is_pressed(false, 800, 1000));
        assert!(is_pressed(false, 801, 1000));
        assert!(is_pressed(true, 751, 1000));
        assert!(!is_pressed(true, 750, 1000));
    }

    #[test]
    fn a_table_that_has_filled_at_once_is_known_as_full_by_the_first_part_that_is_read() {
        let capacity = 1_000_000;
        let (buckets, read) = (1 << 20, 4096);

        // A full table has 4096 entries in as many of its buckets as are so full.
        let part = Part { entries: read, from: 0, to: read * buckets / capacity };
        assert!(is_pressed(false, part.tells_of(capacity).unwrap(), capacity));
        // In the middle of a walk it is the same.
        let part = Part { from: 500_000, to: 500_000 + part.to, ..part };
        assert!(is_pressed(false, part.tells_of(capacity).unwrap(), capacity));
        // One that is half full has them in twice as many.
        let part = Part { from: 0, to: 2 * read * buckets / capacity, ..part };
        assert_eq!(part.tells_of(capacity).map(|entries| entries / 10_000), Some(50));
    }

    #[test]
    fn a_table_has_a_bucket_for_each_entry_and_a_power_of_two_of_them() {
        let rule = [(1, 1), (3, 4), (65_536, 65_536), (65_537, 131_072), (1_000_000, 1 << 20), (4_194_304, 4_194_304)];
        for (capacity, expected) in rule {
            assert_eq!(buckets(capacity), expected, "{capacity}");
        }
        // So half of the buckets with half of the entries are those of a full table, wherever they begin.
        for capacity in [65_536, 100_000, 1_000_000] {
            let half = buckets(capacity) / 2;
            let parts = [0, half / 3, half - 1].map(|from| Part { entries: capacity / 2, from, to: from + half });
            assert_eq!(parts.map(|part| part.tells_of(capacity)), [Some(capacity); 3], "{capacity}");
        }
    }

    #[test]
    fn few_entries_are_counted_and_the_rest_of_a_walk_tells_nothing() {
        assert_eq!(Part { entries: 7, from: 0, to: 0 }.tells_of(65_536), Some(7));
        assert_eq!(Part { entries: 7, from: 65_530, to: 0 }.tells_of(65_536), None);
        assert_eq!(Part { entries: 7, from: 9, to: 9 }.tells_of(65_536), None);
    }

    const CAPACITY: u64 = 1_000_000;
    const BUCKETS: u64 = 1 << 20;

    /// Ten parts of a table that is so many percent full, of which none went meanwhile.
    fn parts(percent: u64) -> impl Iterator<Item = Part> {
        let bound = |at: u64| if at == 10 { 0 } else { BUCKETS * at / 10 };
        (0..10).map(move |at| Part { entries: CAPACITY / 1000 * percent, from: bound(at), to: bound(at + 1) })
    }

    fn counted(percent: u64) -> Count {
        let mut count = Count::default();
        parts(percent).for_each(|part| count.read(&part, CAPACITY));
        count.end_walk();
        count
    }

    #[test]
    fn a_walk_in_which_enough_goes_ends_the_pressure_though_the_parts_to_come_are_as_full_as_before() {
        let mut count = counted(85);
        let mut pressed = false;
        let pressed: Vec<_> = parts(85)
            .map(|part| {
                count.read(&part, CAPACITY);
                pressed = is_pressed(pressed, count.entries, CAPACITY);
                count.lost(if pressed { CAPACITY / 20 } else { 0 });
                pressed
            })
            .collect();
        assert_eq!(pressed, [true, true, false, false, false, false, false, false, false, false]);
    }

    #[test]
    fn a_table_that_fills_in_the_middle_of_a_walk_is_known_as_full_by_the_next_part_and_until_it_is_not() {
        let mut count = counted(10);
        let (few, many) = (parts(10).take(5), parts(99).skip(5));
        let known: Vec<_> = few
            .chain(many)
            .map(|part| {
                count.read(&part, CAPACITY);
                count.entries * 100 / CAPACITY
            })
            .collect();
        assert_eq!(known, [10, 10, 10, 10, 10, 99, 99, 99, 99, 99]);
        count.end_walk();
        count.read(&parts(99).next().unwrap(), CAPACITY);
        assert_eq!(count.entries * 100 / CAPACITY, 99);
    }

    #[test]
    fn a_part_that_is_a_little_fuller_than_the_table_makes_no_pressure() {
        let mut count = counted(78);
        parts(82).take(1).for_each(|part| count.read(&part, CAPACITY));
        assert!(!is_pressed(false, count.entries, CAPACITY), "{count:?}");
    }
}
