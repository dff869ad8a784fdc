//! What a packet costs whose flow is there: one look at the flow table, and none where a hook has decided about it before. What changes
//! the state of its flow costs two more, one for each half.

use netd_common::{
    packet::Label,
    parse::tcp_flags::{ACK, FIN, SYN},
    tables::{EndpointKey, Hook, NextHop},
    tuple::{Address, Zone},
    verdict::Verdict,
};
use netd_tests::{
    packets::{Build, tcp, udp, with_macs},
    scene::{self, A, UPLINK},
    story::{enter, host_sends, leave},
    world::{Frame, World},
};

/// How often the flow table is looked at while something happens.
fn looks(world: &World, happens: impl FnOnce() -> Verdict) -> (Verdict, u64) {
    let before = world.lookups.get();
    let verdict = happens();
    (verdict, world.lookups.get() - before)
}

/// A packet at a hook of a device, after whatever another hook has noted on it.
fn meets(world: &World, hook: Hook, (device, came_by): (u32, u32), label: Label, bytes: Vec<u8>) -> Verdict {
    world.run(hook, &mut Frame { came_by, label, ..Frame::at(device, bytes) })
}

#[test]
fn a_packet_of_an_established_flow_costs_one_lookup_outward_and_inward() {
    for of in [tcp as fn(&str, &str) -> Build, udp] {
        let world = scene::world();
        let (inside, server) = ("10.176.1.2:33000", "198.51.100.7:80");
        let outside = leave(&world, A, of(inside, server), false).source();
        let (client, own) = ("203.0.113.9:4000", "10.176.1.2:443");
        let out = || leave(&world, A, of(inside, server).flags(ACK), false).verdict;
        let back = || enter(&world, of(server, &outside).flags(ACK), false).verdict;
        let knock = || enter(&world, of("198.51.100.9:4000", "192.0.2.1:443").flags(ACK), false).verdict;
        let answer = || leave(&world, A, of(own, "198.51.100.9:4000").flags(ACK), false).verdict;
        enter(&world, of(server, &outside).flags(SYN | ACK), false);
        enter(&world, of("198.51.100.9:4000", "192.0.2.1:443"), false);
        leave(&world, A, of(own, "198.51.100.9:4000").flags(SYN | ACK), false);
        // They note what is new.
        let first = [out(), back(), knock(), answer()];
        let (leaves, arrives) = (Verdict::Neighbour(UPLINK), Verdict::Peer(A));
        assert_eq!(first, [leaves, arrives, arrives, leaves], "not of {client}, who is not of the list");

        assert_eq!(looks(&world, out), (leaves, 1), "outward");
        assert_eq!(looks(&world, back), (arrives, 1), "its answer");
        assert_eq!(looks(&world, knock), (arrives, 1), "inward");
        assert_eq!(looks(&world, answer), (leaves, 1), "its answer");
    }
}

#[test]
fn a_connection_costs_two_looks_more_for_each_packet_that_changes_its_state() {
    for published in [false, true] {
        let world = scene::world();
        let (container, outside) = ("10.176.1.2:443", "198.51.100.9:4000");
        let own = if published { "192.0.2.1:443" } else { "192.0.2.1:4000" };
        let (container, outside) =
            if published { (container, outside) } else { ("10.176.1.2:4000", "198.51.100.9:443") };
        let sent = |by_container: bool, flags| {
            let (verdict, looks) = looks(&world, || match by_container {
                true => leave(&world, A, tcp(container, outside).flags(flags), false).verdict,
                false => enter(&world, tcp(outside, own).flags(flags), false).verdict,
            });
            assert_eq!(verdict, if by_container { Verdict::Neighbour(UPLINK) } else { Verdict::Peer(A) });
            looks
        };
        let client = !published;
        let story = [
            (client, SYN),
            (!client, SYN | ACK),
            (client, ACK),
            (client, ACK),
            (!client, ACK),
            (!client, FIN | ACK),
            (client, FIN | ACK),
            (!client, ACK),
        ];

        assert_eq!(story.map(|(by_container, flags)| sent(by_container, flags)), [1, 3, 3, 1, 1, 3, 3, 1]);
        assert_eq!(world.claims.get(), 2, "of each half its place, once");
    }
}

#[test]
fn an_answer_to_a_container_comes_back_by_what_was_noted_of_its_device_when_it_asked() {
    let asked = |world: &World, happens: &dyn Fn() -> Verdict, verdict| {
        let before = world.questions.take();
        assert_eq!((happens(), before), (verdict, 0));
        world.questions.take()
    };
    let (leaves, arrives) = (Verdict::Neighbour(UPLINK), Verdict::Peer(A));

    let world = scene::world();
    let out = || leave(&world, A, tcp("10.176.1.2:4000", "198.51.100.9:443"), false).verdict;
    let back = || enter(&world, tcp("198.51.100.9:443", "192.0.2.1:4000").flags(SYN | ACK), false).verdict;
    assert_eq!(asked(&world, &out, leaves), 1);
    let endpoint = EndpointKey { address: Address::v4([10, 176, 1, 2]), zone: Zone(1), pad: 0 };
    let endpoint = world.endpoints[&endpoint];
    let answers = world.flows.borrow().values().find(|half| half.direction == 1).copied().expect("its answers' half");
    assert_eq!(answers.next, NextHop::peer(endpoint.device, endpoint.mtu, endpoint.mac, endpoint.gateway_mac));
    assert_eq!(asked(&world, &back, arrives), 0, "the answer comes by what is noted");
}

#[test]
fn at_the_hooks_behind_them_it_costs_none_and_at_an_uplink_one_where_the_stack_has_routed_it() {
    let world = scene::world();
    let build = udp("10.176.1.2:33000", "198.51.100.7:53");
    let outside = leave(&world, A, build.clone(), false).bytes;
    let routed = with_macs(build.clone().bytes(), scene::UPLINK_MACS[0], scene::UPLINK_MACS[1]);
    let inward =
        udp("198.51.100.7:53", "10.176.1.2:33000").macs(scene::bridge_mac(20), scene::container_mac(A)).bytes();
    let meets = |hook, at, label, bytes: &Vec<u8>| looks(&world, || meets(&world, hook, at, label, bytes.clone()));

    assert_eq!(meets(Hook::ToUplink, (UPLINK, A), Label::Approved, &outside), (Verdict::Pass, 0));
    assert_eq!(meets(Hook::ToContainer, (A, UPLINK), Label::Approved, &inward), (Verdict::Pass, 0));
    assert_eq!(meets(Hook::FromHost, (20, 0), Label::None, &inward), (Verdict::Device(A), 0));
    assert_eq!(meets(Hook::ToUplink, (UPLINK, 20), Label::None, &routed), (Verdict::Pass, 1), "translated here");
}

#[test]
fn a_packet_of_the_hosts_own_costs_none_but_where_it_opens_something_or_has_once_been_in_a_containers_way() {
    let world = scene::world();
    let sends = |build: Build| looks(&world, || host_sends(&world, build, false).verdict);
    let goes_on = || tcp("192.0.2.1:5000", "198.51.100.7:80").flags(ACK);

    assert_eq!(sends(goes_on()), (Verdict::Pass, 0));
    assert_eq!(
        sends(tcp("192.0.2.1:5000", "198.51.100.7:80").flags(SYN)),
        (Verdict::Pass, 1),
        "whose would be the answers?"
    );
    world.guards.set(true);
    assert_eq!(sends(goes_on()), (Verdict::Pass, 1));
    assert!(world.flows.borrow().keys().all(|key| key.zone == Zone::HOST));
}
