//! A network that keeps its containers apart: what was allowed passes, and what answers it, and nothing else.

use std::net::Ipv4Addr;

use netd_common::{
    parse::tcp_flags::{ACK, FIN, SYN},
    tables::{Hook, device_flags},
    tuple::UDP,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, fragments, icmp_error, ipv6_twin, other, ping, pong, tcp, udp},
    scene::{self, A, B, E, F, G, UPLINK},
    story::{enter, leave},
    world::{Frame, World},
};

const REFUSED: Verdict = Verdict::Drop(DropReason::NotAllowed);

/// What becomes of what one container sends to another by its link-layer address, in both families.
fn sends(world: &World, from: u32, to: u32, build: Build) -> Verdict {
    let bytes = build.macs(scene::container_mac(from), scene::container_mac(to)).bytes();
    let sent = |bytes: Vec<u8>| {
        let before = bytes.clone();
        let mut frame = Frame::at(from, bytes);
        let verdict = world.run(Hook::FromContainer, &mut frame);
        assert_eq!(frame.bytes, before, "nothing is translated");
        verdict
    };
    let (v6, v4) = (sent(ipv6_twin(&bytes)), sent(bytes));
    assert_eq!(v4, v6, "both families are treated alike");
    v4
}

fn end(container: u32, port: u16) -> String {
    format!("{}:{port}", Ipv4Addr::from(scene::address_of(container)))
}

fn at(container: u32) -> String {
    Ipv4Addr::from(scene::address_of(container)).to_string()
}

#[test]
fn an_allowed_port_is_open_and_its_answers_pass_and_nothing_else_does() {
    let world = scene::world_of_both_families();
    let opening = || tcp(&end(E, 5000), &end(F, 80));

    assert_eq!(sends(&world, F, E, tcp(&end(F, 80), &end(E, 5000)).flags(SYN | ACK)), REFUSED, "before it was asked");
    assert_eq!(sends(&world, E, F, opening()), Verdict::Peer(F));
    assert_eq!(sends(&world, F, E, tcp(&end(F, 80), &end(E, 5000)).flags(SYN | ACK)), Verdict::Peer(E));
    assert_eq!(sends(&world, E, F, opening().flags(ACK)), Verdict::Peer(F));
    assert_eq!(sends(&world, E, F, opening().flags(FIN | ACK)), Verdict::Peer(F));

    for (from, to, refused) in [
        (E, F, tcp(&end(E, 5000), &end(F, 81))),
        (E, F, udp(&end(E, 5000), &end(F, 80))),
        (E, F, ping(&at(E), &at(F), 7)),
        (F, E, tcp(&end(F, 5000), &end(E, 80))),
        (F, E, tcp(&end(F, 80), &end(E, 5001))),
        (F, G, udp(&end(F, 5000), &end(G, 80))),
        (G, E, udp(&end(G, 5000), &end(E, 80))),
    ] {
        assert_eq!(sends(&world, from, to, refused.clone()), REFUSED, "{refused:?}");
    }
    let counted = world.counters.borrow()[&Hook::FromContainer].dropped[DropReason::NotAllowed as usize];
    assert_eq!(counted, 16);
}

#[test]
fn where_everything_is_allowed_every_protocol_passes_and_answers_do() {
    let world = scene::world_of_both_families();

    for (asks, answers) in [
        (udp(&end(E, 5000), &end(G, 53)), udp(&end(G, 53), &end(E, 5000))),
        (tcp(&end(E, 5000), &end(G, 22)), tcp(&end(G, 22), &end(E, 5000)).flags(SYN | ACK)),
        (ping(&at(E), &at(G), 7), pong(&at(G), &at(E), 7)),
    ] {
        assert_eq!(sends(&world, G, E, answers.clone()), REFUSED, "{answers:?} answers nothing");
        assert_eq!(sends(&world, E, G, asks.clone()), Verdict::Peer(G), "{asks:?}");
        assert_eq!(sends(&world, G, E, answers.clone()), Verdict::Peer(E), "{answers:?}");
    }
    // Nothing tells an answer of it.
    assert_eq!(sends(&world, E, G, other(&at(E), &at(G), 47, &[1; 40])), Verdict::Peer(G));
    assert_eq!(sends(&world, G, E, other(&at(G), &at(E), 47, &[1; 40])), REFUSED);
}

#[test]
fn what_is_denied_again_ends_with_its_flow() {
    let mut world = scene::world_of_both_families();
    let asks = || udp(&end(E, 5000), &end(G, 53));
    assert_eq!(sends(&world, E, G, asks()), Verdict::Peer(G));

    world.allowances.clear();

    assert_eq!(sends(&world, E, G, asks()), Verdict::Peer(G), "a flow that lives goes on");
    world.flows.borrow_mut().clear();
    assert_eq!(sends(&world, E, G, asks()), REFUSED);
}

#[test]
fn fragments_go_where_their_first_goes_and_errors_where_their_flow_goes() {
    let world = scene::world_of_both_families();
    let whole = udp(&end(E, 5000), &end(G, 53)).payload(&[7; 2000]);
    let whole = whole.macs(scene::container_mac(E), scene::container_mac(G)).bytes();
    for fragment in fragments(&whole, 1480, 4711) {
        assert_eq!(world.run(Hook::FromContainer, &mut Frame::at(E, fragment)), Verdict::Peer(G));
    }

    assert_eq!(sends(&world, E, G, udp(&end(E, 5000), &end(G, 53))), Verdict::Peer(G));
    let about = udp(&end(E, 5000), &end(G, 53)).bytes();
    assert_eq!(sends(&world, G, E, icmp_error(&at(G), &at(E), false, &about, 28)), Verdict::Peer(E));
    let nothing = udp(&end(E, 5001), &end(G, 53)).bytes();
    assert_eq!(sends(&world, G, E, icmp_error(&at(G), &at(E), false, &nothing, 28)), REFUSED);
    assert_eq!(sends(&world, F, E, icmp_error(&at(F), &at(E), false, &nothing, 28)), REFUSED);
}

#[test]
fn an_error_about_a_flow_is_its_other_ends_to_send_and_no_third_containers() {
    let world = scene::world_of_both_families();
    assert_eq!(sends(&world, E, G, udp(&end(E, 5000), &end(G, 53))), Verdict::Peer(G));
    let about = udp(&end(E, 5000), &end(G, 53)).bytes();

    for too_big in [false, true] {
        let error = |from| icmp_error(&at(from), &at(E), too_big, &about, 28);
        assert_eq!(sends(&world, F, E, error(F)), REFUSED);
        assert_eq!(sends(&world, G, E, error(G)), Verdict::Peer(E));
    }
}

#[test]
fn neither_the_gateway_nor_another_link_layer_address_is_a_way_around() {
    let world = scene::world_of_both_families();
    let to_f = || tcp(&end(E, 5000), &end(F, 81));

    // By the gateway the stack would route it back; there the way into a container is closed.
    let routed = leave(&world, E, to_f(), false);
    let mut frame = Frame::at(F, routed.bytes.clone());
    frame.came_by = scene::bridge_of(E);
    assert_eq!((routed.verdict, world.run(Hook::ToContainer, &mut frame)), (Verdict::Pass, REFUSED));
    // The host itself speaks to every container.
    frame.came_by = 0;
    assert_eq!(world.run(Hook::ToContainer, &mut frame), Verdict::Pass);
    // What is allowed to one is not a way to another.
    assert_eq!(sends(&world, E, F, tcp(&end(E, 5000), &end(G, 22))), REFUSED);
    assert_eq!(sends(&world, E, G, to_f()), REFUSED);
    assert_eq!(sends(&world, E, G, tcp(&end(E, 5000), "198.51.100.7:80")), REFUSED);
}

#[test]
fn it_costs_nothing_where_containers_speak_freely_and_the_way_out_stays_open() {
    let world = scene::world();
    let bytes = tcp("10.176.1.2:5000", "10.176.1.3:80").macs(scene::container_mac(A), scene::container_mac(B)).bytes();

    assert_eq!(world.run(Hook::FromContainer, &mut Frame::at(A, bytes)), Verdict::Peer(B));
    assert_eq!((world.flows.borrow().len(), world.lookups.get()), (0, 0));

    let sent = leave(&world, E, tcp(&end(E, 5000), "198.51.100.7:80"), false);
    assert_eq!((sent.verdict, sent.source()), (Verdict::Neighbour(UPLINK), "192.0.2.1:5000".into()));
    let answer = enter(&world, tcp("198.51.100.7:80", "192.0.2.1:5000").flags(SYN | ACK), false);
    assert_eq!(answer.verdict, Verdict::Peer(E));
}

#[test]
fn an_allowance_is_of_its_own_network() {
    let mut world = scene::world_of_both_families();
    // The same addresses in another network that keeps its containers apart.
    for container in [E, F, G] {
        let device = world.devices.get_mut(&container).expect("it is there");
        device.zone.0 = 9;
    }
    let endpoints = std::mem::take(&mut world.endpoints);
    world.endpoints = endpoints
        .into_iter()
        .map(|(mut key, endpoint)| {
            key.zone.0 = if key.zone.0 == 4 { 9 } else { key.zone.0 };
            (key, endpoint)
        })
        .collect();

    assert_eq!(sends(&world, E, G, udp(&end(E, 5000), &end(G, 53))), REFUSED);
    assert!(world.allowances.iter().all(|key| key.protocol != UDP));
    assert!(world.devices[&E].has(device_flags::NO_ICC));
}
