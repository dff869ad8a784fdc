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

/// Where the collector stands in the table.
#[derive(Debug, Default)]
pub struct Collector {
    walk: Walk,
    /// Entries that the table has, by the part that was read last and what went since.
    entries: u64,
    pressed: bool,
}

impl Collector {
    /// Looks at the next part of the table.
    pub fn turn(&mut self, flows: &Flows, program: &SchedClassifier) -> Result<Collected> {
        let now = now()?;
        let wanted = (self.entries / TURNS).clamp(CHUNKS.0, CHUNKS.1) as u32;
        let from = self.walk.buckets();
        let read = flows.read(&mut self.walk, wanted)?;
        let part = Part { entries: read.len() as u64, from, to: self.walk.buckets() };
        self.entries = part.tells_of(u64::from(flows.capacity())).unwrap_or(self.entries);
        self.pressed = is_pressed(self.pressed, self.entries, u64::from(flows.capacity()));
        let which = if self.pressed { Evict::Weak } else { Evict::Expired };
        let over = over(&read, now, which);
        let mut gone = 0;
        for keys in over.chunks(COLLECT_MAX as usize) {
            gone += run(program, which, keys)?;
        }
        self.entries = self.entries.saturating_sub(2 * gone as u64);
        Ok(Collected { flows: gone, under_pressure: self.pressed })
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
    /// Entries that a table with room for `capacity` has if all of it is as full as this part, which is as true as a hash is even: a
    /// table that fills within seconds is known as full by the next part that is read, not when a walk has counted all of it. `None` of
    /// a rest that may be too small to tell.
    fn tells_of(&self, capacity: u64) -> Option<u64> {
        // As the kernel makes them (`htab_map_alloc`).
        let buckets = capacity.next_power_of_two();
        let to = match (self.from, self.to) {
            (0, 0) => buckets,
            (_, 0) => return None,
            (_, to) => to,
        };
        let passed = to.checked_sub(self.from).filter(|passed| *passed > 0)?;
        Some(self.entries * buckets / passed)
    }
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
    fn few_entries_are_counted_and_the_rest_of_a_walk_tells_nothing() {
        assert_eq!(Part { entries: 7, from: 0, to: 0 }.tells_of(65_536), Some(7));
        assert_eq!(Part { entries: 7, from: 65_530, to: 0 }.tells_of(65_536), None);
        assert_eq!(Part { entries: 7, from: 9, to: 9 }.tells_of(65_536), None);
    }
}
