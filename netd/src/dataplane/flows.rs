//! The flow table, from outside: listed, and rid of what has lost its container. What has expired, `collector` takes out.
//!
//! The programs write it at the same time.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aya::maps::MapError;
use netd_common::{
    conntrack::timeout,
    tables::{Flow, Instant, Timeout},
    tuple::{Address, Tuple, Zone},
};
use nix::time::{ClockId, clock_gettime};

use super::{
    syscall::Walk,
    tables::{Hash, Wire, removed},
};

/// Entries read at once.
const CHUNK: u32 = 4096;

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
        let mut walk = Walk::default();
        loop {
            self.read(&mut walk, CHUNK)?.iter().for_each(|(key, flow)| each(key, flow));
            if walk.is_at_the_beginning() {
                return Ok(now);
            }
        }
    }

    /// Takes away both halves of every flow to or from an address of a zone; how many entries.
    ///
    /// A connection that the container has opened and both sides have closed stays: its port must rest (RFC 9293 section
    /// 3.6.1), whoever has the address next.
    pub fn forget(&mut self, zone: Zone, address: Address) -> Result<usize> {
        let concerns = |tuple: &Tuple| tuple.zone == zone && (tuple.src == address || tuple.dst == address);
        let mut going = BTreeSet::new();
        self.each(&mut |key, flow| {
            let opened_inside = (flow.direction == 0) == (key.zone == zone);
            let rests = opened_inside && timeout(key.protocol, flow.legs) == Timeout::TimeWait;
            if !rests && (concerns(key) || concerns(&flow.becomes)) {
                going.insert(*key);
                going.insert(other_half(flow));
            }
        })?;
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

    /// Reads some entries more.
    pub fn read(&self, walk: &mut Walk, count: u32) -> Result<Vec<(Tuple, Flow)>> {
        let read = walk.next(&self.map, count).context("cannot read the flow table")?;
        Ok(read.into_iter().map(|(Wire(key), Wire(flow))| (key, flow)).collect())
    }

    /// Entries that fit, two a flow.
    pub const fn capacity(&self) -> u32 {
        self.capacity
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

/// This moment by the clock that the programs read.
pub fn now() -> Result<Instant> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    let ns = u64::try_from(time.tv_sec()).unwrap_or_default() * 1_000_000_000
        + u64::try_from(time.tv_nsec()).unwrap_or_default();
    Ok(Instant::from_ns(ns))
}

#[cfg(test)]
mod tests {
    use netd_common::{
        conntrack::Leg,
        tables::Span,
        tuple::{Port, TCP, UDP},
    };

    use super::*;

    #[test]
    fn the_port_of_a_closed_connection_rests_when_its_container_goes() {
        let future = now().unwrap().after(Span::at_least_seconds(60));
        let mut flows = Flows::with(&[]);
        let closed = [Leg::SEEN | Leg::ACKED | Leg::FIN; 2];
        let tcp = |tuple: Tuple| Tuple { protocol: TCP, ..tuple };
        let insert = |flows: &mut Flows, n, legs| {
            let (front, back) = (half(n, future), answer_half(n, future));
            let front = Flow { becomes: tcp(front.becomes), legs, ..front };
            let back = Flow { becomes: tcp(back.becomes), legs, ..back };
            flows.map.insert(Wire(tcp(request(n))), Wire(front), 0).unwrap();
            flows.map.insert(Wire(tcp(answer(n))), Wire(back), 0).unwrap();
        };
        insert(&mut flows, 1, closed);
        insert(&mut flows, 2, [Leg::SEEN | Leg::ACKED; 2]);

        assert_eq!(flows.forget(Zone(5), Address::v4([10, 0, 0, 1])).unwrap(), 0);
        assert_eq!(flows.forget(Zone(5), Address::v4([10, 0, 0, 2])).unwrap(), 2);
        assert_eq!(flows.keys(), [tcp(request(1)), tcp(answer(1))].into());
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
