//! The flow table, from outside: listed, and rid of what has expired or lost its container.
//!
//! The programs write it at the same time. A walk of a hash map starts over when the entry it stands on goes: it may
//! show an entry twice, so walks are bounded and nothing is deleted during one.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aya::maps::MapError;
use netd_common::{
    tables::{Flow, Instant},
    tuple::{Address, Tuple, Zone},
};
use nix::time::{ClockId, clock_gettime};

use super::tables::{Hash, Wire, removed};

/// The flow table.
pub struct Flows {
    map: Hash<Tuple, Flow>,
    capacity: u32,
}

impl Flows {
    /// The table in `map`, with room for `capacity` entries.
    pub const fn new(map: Hash<Tuple, Flow>, capacity: u32) -> Self {
        Self { map, capacity }
    }

    /// Calls `each` once with every entry, expired ones included; the moment it began.
    pub fn each(&self, each: &mut dyn FnMut(&Tuple, &Flow)) -> Result<Instant> {
        let now = now()?;
        let mut seen = BTreeSet::new();
        for entry in self.walk() {
            let (key, flow) = entry?;
            if seen.insert(key) {
                each(&key, &flow);
            }
        }
        Ok(now)
    }

    /// Takes away both halves of every flow to or from an address of a zone; how many entries.
    pub fn forget(&mut self, zone: Zone, address: Address) -> Result<usize> {
        let concerns = |tuple: &Tuple| tuple.zone == zone && (tuple.src == address || tuple.dst == address);
        let mut going = BTreeSet::new();
        for entry in self.walk() {
            let (key, flow) = entry?;
            if concerns(&key) || concerns(&flow.becomes) {
                going.insert(key);
                going.insert(other_half(&flow));
            }
        }
        self.take_out(going)
    }

    /// Takes away what has expired; how many entries. A pair lives as long as the half that lives longer.
    pub fn collect(&mut self) -> Result<usize> {
        let now = now()?;
        let mut going = BTreeSet::new();
        for entry in self.walk() {
            let (key, flow) = entry?;
            if has_expired(&flow, now) {
                going.insert(key);
            }
        }
        // Looked at again, since a packet may have come in between; and the other half with it.
        let mut expired = BTreeSet::new();
        for key in going {
            let Some(flow) = self.get(&key)?.filter(|flow| has_expired(flow, now)) else { continue };
            let peer = other_half(&flow);
            match self.get(&peer)? {
                // Another flow may have the peer's place: it is a half of ours only if it leads back.
                Some(half) if other_half(&half) == key => {
                    if has_expired(&half, now) {
                        expired.extend([key, peer]);
                    }
                }
                _ => {
                    expired.insert(key);
                }
            }
        }
        self.take_out(expired)
    }

    fn walk(&self) -> impl Iterator<Item = Result<(Tuple, Flow)>> {
        // Twice the capacity is room for some starting over, and an end.
        let bounded = self.map.iter().take(self.capacity as usize * 2);
        bounded.map(|entry| entry.map(|(Wire(key), Wire(flow))| (key, flow)).context("cannot read the flow table"))
    }

    fn get(&self, key: &Tuple) -> Result<Option<Flow>> {
        match self.map.get(&Wire(*key), 0) {
            Ok(Wire(flow)) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("cannot read the flow table"),
        }
    }

    fn take_out(&mut self, keys: BTreeSet<Tuple>) -> Result<usize> {
        let mut count = 0;
        for key in keys {
            if self.get(&key)?.is_some() {
                removed(self.map.remove(&Wire(key)))?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The key of a flow's other direction.
fn other_half(flow: &Flow) -> Tuple {
    flow.becomes.reversed(flow.becomes.zone)
}

fn has_expired(flow: &Flow, now: Instant) -> bool {
    flow.deadline < now
}

/// This moment by the clock that the programs read.
fn now() -> Result<Instant> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    let ns = u64::try_from(time.tv_sec()).unwrap_or_default() * 1_000_000_000
        + u64::try_from(time.tv_nsec()).unwrap_or_default();
    Ok(Instant::from_ns(ns))
}
