//! Where ports or the table's places are short.

use std::collections::BTreeSet;

use netd_common::{
    evict::{self, Evict},
    nat::PROBES,
    parse::tcp_flags::{ACK, FIN, SYN},
    tables::{ClaimError, PortRange, Scratch, Tables},
    tuple::{Tuple, UDP, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{tcp, udp},
    scene::{self, A, B, UPLINK},
    story::{enter, keys, leave},
    world::World,
};

#[test]
fn every_port_of_the_pools_is_used_before_a_flow_is_refused() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 99;
    settings.pools[1].last = settings.pools[1].first + 99;
    settings.second = PortRange::NONE;
    let open = |world: &World, i: u32| {
        let from = format!("10.176.1.2:{}", 33_000 + i);
        leave(world, A, udp(&from, "198.51.100.7:53"), false).verdict
    };

    let refused = (0..200).filter(|i| open(&world, *i) != Verdict::Neighbour(UPLINK)).count();

    assert_eq!(refused, 0);
    assert_eq!(open(&world, 200), Verdict::Drop(DropReason::PortsExhausted));
    world.sleep_seconds(60);
    assert_eq!(open(&world, 201), Verdict::Neighbour(UPLINK), "expired flows give their ports back");
}

#[test]
fn where_the_pools_are_exhausted_for_a_destination_the_hosts_own_range_serves() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 99;
    settings.pools[1] = PortRange::NONE;
    settings.second = PortRange { first: 40_000, last: 40_499 };
    world.sockets.insert((UDP, 40_007));
    let ports: Vec<u16> = (0..550)
        .map(|i| leave(&world, A, udp(&format!("10.176.1.2:{}", 33_000 + i), "198.51.100.7:53"), false))
        .map(|sent| sent.source_port())
        .collect();
    let elsewhere = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.8:53"), false).source_port();

    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 550, "no two flows share a port");
    assert!(ports[..90].iter().all(|port| *port < 32_768), "the pools come first: {ports:?}");
    assert_eq!(ports.iter().filter(|port| **port < 32_768).count(), 100);
    assert!(!ports.contains(&40_007), "a socket of the host has it");
    assert!(elsewhere < 32_768, "another destination has its own ports: {elsewhere}");
}

#[test]
fn a_host_whose_own_range_is_every_port_has_ports_for_its_containers() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools = [PortRange::NONE; 2];
    settings.second = PortRange { first: 1024, last: 65_535 };
    settings.ephemeral = settings.second;

    let sent = leave(&world, A, tcp("10.176.1.2:33000", "198.51.100.7:80"), false);

    assert_eq!(sent.verdict, Verdict::Neighbour(UPLINK));
    assert!(sent.source_port() >= 1024);
}

#[test]
fn where_the_search_for_a_port_starts_only_who_knows_the_secret_can_tell() {
    let starts = |secret: [u32; 2]| {
        let mut world = scene::world();
        world.settings.as_mut().unwrap().secret = secret;
        let to = (1..=32).map(|i| format!("198.51.100.{i}:53"));
        to.map(|to| leave(&world, A, udp("10.176.1.2:33000", &to), false).source_port()).collect::<Vec<_>>()
    };
    let one = starts([1, 2]);
    let apart = |others: &[u16]| one.iter().zip(others).filter(|(one, other)| one != other).count();

    assert_eq!(one, starts([1, 2]), "the same start for a destination");
    assert!(one.iter().collect::<BTreeSet<_>>().len() >= 30, "another for each: {one:?}");
    assert!(
        apart(&starts([1, 3])) >= 30 && apart(&starts([2, 2])) >= 30,
        "and others with either half of another secret"
    );
}

#[test]
fn a_reserved_port_is_neither_kept_nor_picked() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 9;
    settings.pools[1] = PortRange::NONE;
    world.reserved.extend([5000, 20_003]);

    let kept = leave(&world, A, udp("10.176.1.2:5001", "198.51.100.7:53"), false).source_port();
    let ports: BTreeSet<u16> = (0..9)
        .map(|i| leave(&world, A, udp(&format!("10.176.1.2:{}", 33_000 + i), "198.51.100.7:53"), false).source_port())
        .collect();
    let moved = leave(&world, B, udp("10.176.1.3:5000", "198.51.100.9:53"), false).source_port();

    assert_eq!(kept, 5001);
    assert_ne!(moved, 5000);
    assert_eq!(ports.len(), 9);
    assert!(!ports.contains(&20_003), "{ports:?}");
}

#[test]
fn a_block_of_the_hosts_ports_does_not_hold_up_the_search_for_others() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools = [PortRange { first: 20_000, last: 21_999 }, PortRange::NONE];
    settings.second = PortRange::NONE;
    world.reserved.extend(20_000..21_000);

    let refused = (0..400)
        .map(|i| leave(&world, A, udp(&format!("10.176.1.2:{}", 33_000 + i), "198.51.100.7:53"), false).verdict)
        .filter(|verdict| *verdict != Verdict::Neighbour(UPLINK))
        .count();

    assert_eq!(refused, 0);
    let searches = world.searches.borrow();
    assert_eq!(searches.values().sum::<u64>(), 400);
    assert_eq!(searches.get(&0), None, "none failed: {searches:?}");
}

/// What a map answers that is locked or has no memory for the moment (EBUSY, ENOMEM, and since 6.15 EDEADLK and ETIMEDOUT).
const OF_THE_MOMENT: [i32; 4] = [-16, -12, -35, -110];

#[test]
fn what_the_kernel_refuses_for_the_moment_is_tried_again_and_costs_no_port() {
    for (refusal, times) in OF_THE_MOMENT.iter().flat_map(|refusal| (1..PROBES).map(move |times| (refusal, times))) {
        // The refusal meets the answer's place, or the flow's own after it.
        for granted in [0, 1] {
            let world = scene::world();
            world.refusal.set(*refusal);
            world.granted.set(granted);
            world.busy.set(times);

            let sent = leave(&world, A, udp("10.176.1.2:5000", "198.51.100.7:53"), false);

            let case = format!("{refusal}, {times} times after {granted}");
            assert_eq!((sent.verdict, sent.source_port()), (Verdict::Neighbour(UPLINK), 5000), "{case}");
            assert_eq!((world.flows.borrow().len(), world.busy.get()), (2, 0), "{case}");
        }
    }
}

#[test]
fn a_table_that_is_full_and_a_place_that_is_taken_are_told_from_what_is_of_the_moment() {
    assert_eq!(OF_THE_MOMENT.map(ClaimError::of), [ClaimError::Busy; 4]);
    assert_eq!([-17, -7].map(ClaimError::of), [ClaimError::Taken, ClaimError::Full], "EEXIST and E2BIG");
}

#[test]
fn a_kernel_that_goes_on_refusing_is_not_taken_for_a_lack_of_ports_and_leaves_no_half() {
    // The refusal meets the answer's place, or the flow's own after it.
    for granted in [0, 1] {
        let world = scene::world();
        let alive = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);
        enter(&world, udp("198.51.100.7:53", &alive.source()), false);
        let whole = keys(&world);
        world.granted.set(granted);
        world.busy.set(1000);

        let refused = leave(&world, B, udp("10.176.1.3:5000", "198.51.100.7:53"), false);
        let tried = 1000 - world.busy.get();
        let answer = enter(&world, udp("198.51.100.7:53", &alive.source()), false);
        world.busy.set(0);
        let later = leave(&world, B, udp("10.176.1.3:5000", "198.51.100.7:53"), false);

        assert_eq!(refused.verdict, Verdict::Drop(DropReason::TableFull), "{granted}");
        assert_eq!(tried, PROBES, "{granted}: a bounded number of tries");
        assert_eq!(answer.verdict, Verdict::Peer(A), "{granted}");
        assert_eq!((later.verdict, later.source_port()), (Verdict::Neighbour(UPLINK), 5000), "{granted}");
        assert!(whole.iter().all(|key| keys(&world).contains(key)), "{granted}");
        assert_eq!(world.flows.borrow().len(), 4, "{granted}");
    }
}

#[test]
fn where_ports_are_short_closed_connections_give_theirs_up_and_open_ones_do_not() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 99;
    settings.pools[1] = PortRange::NONE;
    settings.second = PortRange::NONE;
    let to = "198.51.100.7:80";
    let connect = |port: u32, close: bool| {
        let from = format!("10.176.1.2:{port}");
        let syn = leave(&world, A, tcp(&from, to), false);
        if syn.verdict == Verdict::Neighbour(UPLINK) {
            enter(&world, tcp(to, &syn.source()).flags(SYN | ACK), false);
            leave(&world, A, tcp(&from, to).flags(if close { FIN | ACK } else { ACK }), false);
            enter(&world, tcp(to, &syn.source()).flags(if close { FIN | ACK } else { ACK }), false);
        }
        syn
    };
    let open: Vec<_> = (0..10).map(|i| connect(33_000 + i, false)).collect();

    let refused = (0..500).filter(|i| connect(34_000 + i, true).verdict != Verdict::Neighbour(UPLINK)).count();

    assert_eq!(refused, 0);
    for syn in open {
        assert_eq!(enter(&world, tcp(to, &syn.source()).flags(ACK), false).verdict, Verdict::Peer(A));
    }
}

#[test]
fn ports_that_were_kept_in_the_pools_do_not_hold_up_the_search_for_others() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 199;
    settings.pools[1] = PortRange::NONE;

    let open = |port: u32| leave(&world, A, udp(&format!("10.176.1.2:{port}"), "198.51.100.7:53"), false).verdict;
    // Those from below the ephemeral range keep their ports, which are of the pool; the others look for one.
    let refused = (0..95).filter(|i| {
        open(20_000 + 2 * i) != Verdict::Neighbour(UPLINK) || open(33_000 + i) != Verdict::Neighbour(UPLINK)
    });

    assert_eq!(refused.count(), 0);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_those_that_are_alive() {
    let mut world = scene::world();
    let old = leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);
    enter(&world, udp("198.51.100.7:53", &old.source()), false);
    world.capacity = 3;

    let refused = leave(&world, B, udp("10.176.1.3:33000", "198.51.100.7:53"), false);

    assert_eq!(refused.verdict, Verdict::Drop(DropReason::TableFull));
    assert_eq!(world.flows.borrow().len(), 2, "no half stays behind");
    assert_eq!(enter(&world, udp("198.51.100.7:53", &old.source()), false).verdict, Verdict::Peer(A));
}

#[test]
fn in_a_full_table_what_nobody_answered_makes_room_and_what_is_established_stays() {
    let mut world = scene::world();
    world.capacity = 20;
    let alive = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80"), false);
    enter(&world, tcp("198.51.100.7:80", &alive.source()).flags(SYN | ACK), false);
    leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80").flags(ACK), false);

    let flood = (0..200).map(|i| enter(&world, tcp(&format!("203.0.113.9:{}", 1000 + i), "192.0.2.1:8080"), false));
    let refused = flood.filter(|syn| syn.verdict != Verdict::Peer(A)).count();

    assert_eq!(refused, 0);
    assert_eq!(world.searches.borrow().get(&0), None, "no port was looked for in vain");
    assert_eq!(world.flows.borrow().len(), 20);
    let data = enter(&world, tcp("198.51.100.7:80", &alive.source()).flags(ACK), false);
    assert_eq!(data.verdict, Verdict::Peer(A));
}

#[test]
fn in_a_full_table_what_was_answered_and_not_acknowledged_for_seconds_makes_room_too() {
    let mut world = scene::world();
    world.capacity = 20;
    let alive = leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80"), false);
    enter(&world, tcp("198.51.100.7:80", &alive.source()).flags(SYN | ACK), false);
    leave(&world, A, tcp("10.176.1.2:5000", "198.51.100.7:80").flags(ACK), false);

    let syn = |client: &str| enter(&world, tcp(client, "192.0.2.1:8080"), false).verdict;
    let answer = |client: &str| leave(&world, A, tcp("10.176.1.2:80", client).flags(SYN | ACK), false).verdict;

    for i in 0..200 {
        let client = format!("203.0.113.9:{}", 1000 + i);
        assert_eq!((syn(&client), answer(&client)), (Verdict::Peer(A), Verdict::Neighbour(UPLINK)), "{i}");
        world.sleep_seconds(1);
    }
    let (slow, others) = ("203.0.113.10:1", (0..7).map(|i| format!("203.0.113.9:{}", 5000 + i)));
    assert_eq!((syn(slow), answer(slow)), (Verdict::Peer(A), Verdict::Neighbour(UPLINK)));
    world.sleep_seconds(2);
    assert!(others.map(|client| syn(&client)).all(|verdict| verdict == Verdict::Peer(A)));

    let handshake = enter(&world, tcp(slow, "192.0.2.1:8080").flags(ACK), false);
    assert_eq!(handshake.verdict, Verdict::Peer(A), "it may take a while");
    let data = enter(&world, tcp("198.51.100.7:80", &alive.source()).flags(ACK), false);
    assert_eq!(data.verdict, Verdict::Peer(A));
}

#[test]
fn short_flows_of_many_times_the_tables_size_get_through_without_a_collector() {
    let mut world = scene::world();
    world.capacity = 40;
    for i in 0..400 {
        let (from, to) = (format!("10.176.1.2:{}", 33_000 + i), "198.51.100.7:53");
        let out = leave(&world, A, udp(&from, to), false);
        assert_eq!(out.verdict, Verdict::Neighbour(UPLINK), "flow {i}");
        assert_eq!(enter(&world, udp(to, &out.source()), false).verdict, Verdict::Peer(A), "answer {i}");
        world.sleep_seconds(7);
    }
    assert!(world.flows.borrow().len() <= 40);
}

#[test]
fn a_flow_for_which_the_queue_of_ages_has_no_place_is_collected_all_the_same() {
    let mut world = scene::world();
    world.capacity = 8;
    let open = |port: u16| leave(&world, A, udp(&format!("10.176.1.2:{port}"), "198.51.100.7:53"), false);
    let take = |port: u16, which| {
        let of_it = |key: &&_| tuple_is(key, port);
        let evicted_key = *world.flows.borrow().keys().find(of_it).expect("it is there");
        evict::collect(&world, &mut Scratch { evicted_key, ..Scratch::default() }, world.now(), which)
    };
    // Two that live, and behind them the places of two that are gone.
    for port in [5001, 5002] {
        let out = open(port);
        assert_eq!(enter(&world, udp("198.51.100.7:53", &out.source()), false).verdict, Verdict::Peer(A));
    }
    for port in [5003, 5004] {
        open(port);
        assert!(take(port, Evict::Weak));
    }

    assert_eq!(open(5005).verdict, Verdict::Neighbour(UPLINK));

    assert!(!world.ages.borrow().iter().any(|key| tuple_is(key, 5005)), "it has no place");
    world.sleep_seconds(10);
    assert!(!take(5005, Evict::Expired), "it lives");
    world.sleep_seconds(60);
    assert!(take(5005, Evict::Expired));
    assert_eq!(world.flows.borrow().len(), 4, "both halves are gone");
}

/// Whether it is that of a container's packet from a port.
fn tuple_is(key: &Tuple, port: u16) -> bool {
    key.src_port.number() == port && key.zone != Zone::HOST
}
