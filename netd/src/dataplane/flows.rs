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

    /// Takes away both halves of the flows with these keys; how many entries.
    pub fn forget_these(&mut self, keys: &[Tuple]) -> Result<usize> {
        let mut going = BTreeSet::new();
        for key in keys {
            if let Some(flow) = self.get(key)? {
                going.extend([*key, other_half(&flow)]);
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

#[cfg(test)]
mod tests {
    use netd_common::{
        tables::Span,
        tuple::{Port, UDP},
    };

    use super::*;

    #[test]
    fn a_pair_goes_when_both_halves_are_past_their_time() {
        let mut flows = Flows::with(&[]);
        let (past, future) = (Instant::default(), now().unwrap().after(Span::at_least_seconds(60)));
        flows.insert_pair(1, past, past);
        flows.insert_pair(2, past, future);
        flows.insert_pair(3, future, future);

        assert_eq!(flows.collect().unwrap(), 2);
        assert_eq!(flows.keys(), [request(2), answer(2), request(3), answer(3)].into());
        assert_eq!(flows.collect().unwrap(), 0);
    }

    #[test]
    fn a_half_alone_goes_by_its_own_time() {
        let (past, future) = (Instant::default(), now().unwrap().after(Span::at_least_seconds(60)));
        let mut flows = Flows::with(&[(request(1), half(1, past)), (request(2), half(2, future))]);

        assert_eq!(flows.collect().unwrap(), 1);
        assert_eq!(flows.keys(), [request(2)].into());
    }

    #[test]
    fn a_place_that_another_flow_took_does_not_keep_a_half_alive() {
        let (past, future) = (Instant::default(), now().unwrap().after(Span::at_least_seconds(60)));
        let mut flows = Flows::with(&[(request(1), half(1, past)), (answer(1), half(9, future))]);

        assert_eq!(flows.collect().unwrap(), 1);
        assert_eq!(flows.keys(), [answer(1)].into());
    }

    #[test]
    fn both_halves_go_with_an_address_and_no_other_zone_is_touched() {
        let future = now().unwrap().after(Span::at_least_seconds(60));
        let mut flows = Flows::with(&[]);
        flows.insert_pair(1, future, future);
        flows.insert_pair(2, future, future);

        assert_eq!(flows.forget(Zone(7), Address::v4([10, 0, 0, 1])).unwrap(), 0);
        assert_eq!(flows.forget(Zone(5), Address::v4([10, 0, 0, 1])).unwrap(), 2);
        assert_eq!(flows.keys(), [request(2), answer(2)].into());
    }

    #[test]
    fn every_entry_is_told_once_with_the_present_moment() {
        let future = now().unwrap().after(Span::at_least_seconds(60));
        let mut flows = Flows::with(&[]);
        flows.insert_pair(1, future, future);

        let mut told = Vec::new();
        let moment = flows.each(&mut |key, flow| told.push((*key, *flow))).unwrap();

        told.sort_by_key(|(key, _)| *key);
        assert_eq!(told, [(request(1), half(1, future)), (answer(1), answer_half(1, future))]);
        assert!(moment <= now().unwrap() && moment < future);
    }

    /// Container `n` of zone 5 asks a server outside.
    fn request(n: u8) -> Tuple {
        let (src, dst) = (Address::v4([10, 0, 0, n]), Address::v4([192, 0, 2, 1]));
        Tuple {
            src,
            dst,
            src_port: Port::new(4000),
            dst_port: Port::new(53),
            protocol: UDP,
            zone: Zone(5),
            ..Tuple::default()
        }
    }

    fn masqueraded(n: u8) -> Tuple {
        Tuple { src: Address::v4([198, 51, 100, n]), zone: Zone::HOST, ..request(n) }
    }

    fn answer(n: u8) -> Tuple {
        masqueraded(n).reversed(Zone::HOST)
    }

    fn half(n: u8, deadline: Instant) -> Flow {
        Flow { becomes: masqueraded(n), deadline, ..Flow::default() }
    }

    fn answer_half(n: u8, deadline: Instant) -> Flow {
        Flow { becomes: request(n).reversed(Zone(5)), deadline, direction: 1, ..Flow::default() }
    }

    impl Flows {
        fn with(entries: &[(Tuple, Flow)]) -> Self {
            assert!(nix::unistd::Uid::effective().is_root(), "needs root: run `sudo -E cargo test -p netd`");
            let mut flows = Self::new(Hash::create(64, 0).unwrap(), 64);
            for (key, flow) in entries {
                flows.map.insert(Wire(*key), Wire(*flow), 0).unwrap();
            }
            flows
        }

        fn insert_pair(&mut self, n: u8, request_deadline: Instant, answer_deadline: Instant) {
            self.map.insert(Wire(request(n)), Wire(half(n, request_deadline)), 0).unwrap();
            self.map.insert(Wire(answer(n)), Wire(answer_half(n, answer_deadline)), 0).unwrap();
        }

        fn keys(&self) -> BTreeSet<Tuple> {
            self.map.keys().map(|key| key.unwrap().0).collect()
        }
    }
}
