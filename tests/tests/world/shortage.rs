//! Where ports or the table's places are short.

use netd_common::{
    parse::tcp_flags::{ACK, FIN, SYN},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{tcp, udp},
    scene::{self, A, B, UPLINK},
    story::{enter, leave},
    world::World,
};

#[test]
fn every_port_of_the_pools_is_used_before_a_flow_is_refused() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 99;
    settings.pools[1].last = settings.pools[1].first + 99;
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
fn where_ports_are_short_closed_connections_give_theirs_up_and_open_ones_do_not() {
    let mut world = scene::world();
    let settings = world.settings.as_mut().unwrap();
    settings.pools[0].last = settings.pools[0].first + 99;
    settings.pools[1] = Default::default();
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
    settings.pools[1] = Default::default();

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
    assert_eq!(world.flows.borrow().len(), 20);
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
