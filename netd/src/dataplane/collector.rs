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
    /// Entries read in this walk, less those that went.
    counted: u64,
    /// Entries that the table has, by the last whole walk and what went since.
    entries: u64,
    pressed: bool,
}

impl Collector {
    /// Looks at the next part of the table.
    pub fn turn(&mut self, flows: &Flows, program: &SchedClassifier) -> Result<Collected> {
        let now = now()?;
        let wanted = (self.entries / TURNS).clamp(CHUNKS.0, CHUNKS.1) as u32;
        let read = flows.read(&mut self.walk, wanted)?;
        self.counted += read.len() as u64;
        // A fill that has grown since the last walk counts at once.
        self.entries = self.entries.max(self.counted);
        self.pressed = is_pressed(self.pressed, self.entries, u64::from(flows.capacity()));
        let which = if self.pressed { Evict::Weak } else { Evict::Expired };
        let over = over(&read, now, which);
        let mut gone = 0;
        for keys in over.chunks(COLLECT_MAX as usize) {
            gone += run(program, which, keys)?;
        }
        self.counted = self.counted.saturating_sub(2 * gone as u64);
        self.entries = self.entries.saturating_sub(2 * gone as u64);
        if self.walk.is_at_the_beginning() {
            self.entries = self.counted;
            self.counted = 0;
        }
        Ok(Collected { flows: gone, under_pressure: self.pressed })
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
}
