//! What a first packet costs and whether it gets through, by how full the ports and the table are. What is measured is
//! printed: `cargo test -p netd-tests --test world fill -- --nocapture`.

use std::collections::BTreeMap;

use netd_common::{
    nat::PROBES,
    tables::PortRange,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::udp,
    scene::{self, A, B, UPLINK},
    story::{enter, keys, leave},
    world::World,
};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

const LEVELS: [usize; 5] = [10, 50, 75, 90, 100];
const SERVER: &str = "198.51.100.7:53";
/// First packets that are sent at each level.
const TRIED: u16 = 100;
/// Ports of the pool, and half the entries of the table.
const ROOM: usize = 2000;

/// What some first packets cost.
#[derive(Debug)]
struct Cost {
    level: usize,
    /// Candidates looked at, in all and at most in a search: where room had to be made there are two of them.
    probes: u64,
    most: u32,
    /// Those that got no port or no place.
    failures: usize,
    /// Of the flow table.
    lookups: u64,
}

impl Cost {
    fn print(&self, of: &str) {
        let each = |sum: u64| sum as f64 / f64::from(TRIED);
        println!(
            "{of:<26} {:>3} %: {:>5.2} probes (at most {:>2} a search), {:>6.2} lookups, {:>3} of {TRIED} refused",
            self.level,
            each(self.probes),
            self.most,
            each(self.lookups),
            self.failures
        );
    }
}

/// Sends first packets from the ephemeral range of a container, whose ports cannot stay, and takes their flows out again.
fn cost(world: &World, level: usize, refusal: DropReason) -> Cost {
    let (before, flows) = (world.searches.borrow().clone(), world.flows.borrow().clone());
    let ages = world.ages.borrow().clone();
    world.lookups.set(0);

    let verdicts =
        (0..TRIED).map(|i| leave(world, B, udp(&format!("10.176.1.3:{}", 40_000 + i), SERVER), false).verdict);
    let refused = verdicts.filter(|verdict| match verdict {
        Verdict::Neighbour(UPLINK) => false,
        refused => {
            assert_eq!(*refused, Verdict::Drop(refusal));
            true
        }
    });
    let failures = refused.count();

    let lookups = world.lookups.get();
    world.ages.replace(ages);
    let after = world.flows.replace(flows.clone());
    assert!(flows.iter().all(|(key, flow)| after.get(key).is_none_or(|now| now.becomes == flow.becomes)));
    let failed = if refusal == DropReason::PortsExhausted { PROBES } else { 1 };
    let (probes, most) = probes(&before, &world.searches.borrow(), failed);
    Cost { level, probes, most, failures, lookups }
}

/// Of the searches between two histograms, in all and at most; one that failed has tried `failed`.
fn probes(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>, failed: u32) -> (u64, u32) {
    let since = after.iter().map(|(tried, count)| (*tried, count - before.get(tried).copied().unwrap_or_default()));
    let since = since.filter(|(_, count)| *count > 0);
    let since: Vec<_> = since.map(|(tried, count)| (if tried == 0 { failed } else { tried }, count)).collect();
    let sum = since.iter().map(|(tried, count)| u64::from(*tried) * count).sum();
    (sum, since.iter().map(|(tried, _)| *tried).max().unwrap_or_default())
}

#[test]
fn ports_are_found_at_any_fill_level_of_the_pool() {
    let mut world = scene::world();
    let pool = PortRange { first: 20_000, last: 20_000 + ROOM as u16 - 1 };
    let settings = world.settings.as_mut().expect("the scene has settings");
    settings.pools = [pool, PortRange { first: 1, last: 0 }];
    settings.second = PortRange { first: 1, last: 0 };
    // Ports that flows keep lie anywhere.
    let mut ports: Vec<_> = (pool.first..=pool.last).collect();
    ports.shuffle(&mut StdRng::seed_from_u64(7));

    let mut taken = 0;
    for level in LEVELS {
        while taken < ROOM * level / 100 {
            let from = format!("10.176.1.2:{}", ports[taken]);
            assert_eq!(leave(&world, A, udp(&from, SERVER), false).source(), format!("192.0.2.1:{}", ports[taken]));
            taken += 1;
        }
        let cost = cost(&world, level, DropReason::PortsExhausted);
        cost.print("pool of ports");

        assert!(cost.most <= PROBES);
        match level {
            100 => assert_eq!(cost.failures, usize::from(TRIED)),
            90 => assert!(cost.failures <= usize::from(TRIED) / 5, "{cost:?}"),
            _ => assert_eq!(cost.failures, 0, "{cost:?}"),
        }
    }
}

#[test]
fn a_full_pool_is_refused_after_exactly_thirty_two_looks() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().expect("the scene has settings");
    settings.pools = [PortRange { first: 20_000, last: 20_099 }, PortRange::NONE];
    settings.second = PortRange::NONE;
    for port in 20_000..20_100 {
        assert_eq!(
            leave(&world, A, udp(&format!("10.176.1.2:{port}"), SERVER), false).verdict,
            Verdict::Neighbour(UPLINK)
        );
    }
    let (claims, cursors) = (world.claims.get(), world.cursors.borrow().values().sum::<u32>());

    let refused = leave(&world, B, udp("10.176.1.3:40000", SERVER), false).verdict;

    assert_eq!(refused, Verdict::Drop(DropReason::PortsExhausted));
    assert_eq!(world.claims.get() - claims, 32, "each look asks for the place of its answers");
    assert_eq!(world.cursors.borrow().values().sum::<u32>() - cursors, 33, "and goes on to the next");
}

#[test]
fn where_the_pool_is_full_the_hosts_own_range_serves() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().expect("the scene has settings");
    settings.pools = [PortRange { first: 20_000, last: 20_099 }, PortRange { first: 1, last: 0 }];
    settings.second = settings.ephemeral;
    for port in 20_000..20_100 {
        leave(&world, A, udp(&format!("10.176.1.2:{port}"), SERVER), false);
    }

    let cost = cost(&world, 100, DropReason::PortsExhausted);
    cost.print("pool full, second one free");

    assert_eq!(cost.failures, 0);
}

#[test]
fn a_table_that_fills_refuses_at_the_last_place_only_and_costs_no_more_before() {
    let mut world = scene::world();
    world.capacity = 2 * (ROOM + usize::from(TRIED));
    let full = world.capacity / 2;
    let mut made = 0;
    let mut costs = Vec::new();
    for level in LEVELS {
        while made < full * level / 100 {
            let from = format!("10.176.1.2:{}", 33_000 + made);
            let out = leave(&world, A, udp(&from, SERVER), false);
            enter(&world, udp(SERVER, &out.source()), false);
            made += 1;
        }
        let established = keys(&world);
        let cost = cost(&world, level, DropReason::TableFull);
        cost.print("table, all answered");
        assert_eq!(keys(&world), established);
        assert_eq!(cost.failures, if level == 100 { usize::from(TRIED) } else { 0 }, "{cost:?}");
        costs.push(cost);
    }
    let (empty, filled) = (costs[0].lookups, costs[3].lookups);
    assert!(filled <= empty + u64::from(TRIED), "{filled} lookups at 90 %, {empty} at 10 %");
}

#[test]
fn a_table_full_of_what_nobody_answered_takes_whatever_comes() {
    let mut world = scene::world();
    world.capacity = ROOM;
    for i in 0..ROOM / 2 {
        leave(&world, A, udp(&format!("10.176.1.2:{}", 33_000 + i), SERVER), false);
    }

    let cost = cost(&world, 100, DropReason::TableFull);
    cost.print("table, none answered");

    assert_eq!(cost.failures, 0);
}
