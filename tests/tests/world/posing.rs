//! A container that would be taken for its host where hosts know one another by their addresses: at the port of a tunnel.

use netd_common::{
    tables::{Hook, Routing, VtepKey},
    tuple::Port,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, fragments, ipv6_twin, tcp, udp},
    scene::{self, A, B, H, UPLINK},
    story::{enter, leave, leaves},
    world::{Frame, World},
};

use crate::spanning::{VNI, VTEP};

const REFUSED: Verdict = Verdict::Drop(DropReason::UnknownVtep);
const OUT: Verdict = Verdict::Neighbour(UPLINK);

/// The scene's host with tunnels by these ports.
fn host(ports: &[u16]) -> World {
    let mut world = scene::world_of_both_families();
    world.vteps.insert(VtepKey { address: VTEP, vni: VNI });
    world.vteps.extend(ports.iter().map(|port| VtepKey::with_port(Port::new(*port))));
    world
}

/// What becomes of a container's packet to beyond its network, in both families.
fn sends(world: &World, from: u32, build: Build) -> Verdict {
    let bytes = build.bytes();
    let (v6, v4) = (leaves(world, from, ipv6_twin(&bytes)).verdict, leaves(world, from, bytes).verdict);
    assert_eq!(v4, v6, "both families are treated alike");
    v4
}

/// What becomes of it at the uplink to which the stack has routed it.
fn routed(world: &World, from: u32, build: Build) -> Verdict {
    assert_eq!(sends(world, from, build.clone()), Verdict::Pass);
    let at_uplink = |bytes| {
        let mut frame = Frame { came_by: scene::bridge_of(from), ..Frame::at(UPLINK, bytes) };
        world.run(Hook::ToUplink, &mut frame)
    };
    let bytes = build.bytes();
    let (v6, v4) = (at_uplink(ipv6_twin(&bytes)), at_uplink(bytes));
    assert_eq!(v4, v6, "both families are treated alike");
    v4
}

#[test]
fn nothing_leaves_in_the_hosts_name_to_the_port_of_a_tunnel() {
    let world = host(&[4789, 8472]);

    for port in [4789, 8472] {
        assert_eq!(sends(&world, A, udp("10.176.1.2:5000", &format!("192.0.2.9:{port}"))), REFUSED);
    }
    assert_eq!(world.flows.borrow().len(), 0);
    assert_eq!(world.counters.borrow()[&Hook::FromContainer].dropped[DropReason::UnknownVtep as usize], 4);
    assert_eq!(sends(&world, A, udp("10.176.1.2:5000", "192.0.2.9:4790")), OUT);
    assert_eq!(sends(&world, A, udp("10.176.1.2:4789", "192.0.2.9:53")), OUT);
    assert_eq!(sends(&world, A, tcp("10.176.1.2:5000", "192.0.2.9:4789")), OUT, "VXLAN goes by UDP");
    assert_eq!(sends(&host(&[]), A, udp("10.176.1.2:5000", "192.0.2.9:4789")), OUT, "there is no tunnel");
    assert_eq!(sends(&world, H, udp("10.176.5.2:5000", "192.0.2.9:4789")), OUT, "in its own name");
}

#[test]
fn nor_in_fragments() {
    let world = host(&[4789]);
    let whole = udp("10.176.1.2:5000", "192.0.2.9:4789").payload(&[7; 4000]).bytes();

    let verdicts = fragments(&whole, 1480, 4711).into_iter().map(|bytes| leaves(&world, A, bytes).verdict);

    let later = Verdict::Drop(DropReason::Fragment);
    assert_eq!(verdicts.collect::<Vec<_>>(), [REFUSED, later, later]);
}

#[test]
fn nor_by_the_stacks_way() {
    let mut world = host(&[4789]);
    world.settings.as_mut().expect("it has settings").routing = Routing::ByStack as u32;

    assert_eq!(routed(&world, A, udp("10.176.1.2:5000", "192.0.2.9:4789")), REFUSED);
    assert_eq!(world.flows.borrow().len(), 0);
    assert_eq!(routed(&world, A, udp("10.176.1.2:5000", "192.0.2.9:4790")), Verdict::Pass);
}

#[test]
fn a_flow_to_the_port_that_was_there_before_the_tunnel_is_over_a_tick_later() {
    for by_stack in [false, true] {
        let mut world = host(&[]);
        if by_stack {
            world.settings.as_mut().expect("it has settings").routing = Routing::ByStack as u32;
        }
        let packet = || udp("10.176.1.2:5000", "192.0.2.9:4789");
        let sent = |world: &World| if by_stack { routed(world, A, packet()) } else { sends(world, A, packet()) };
        assert_eq!(sent(&world), if by_stack { Verdict::Pass } else { OUT });

        world.vteps.insert(VtepKey::with_port(Port::new(4789)));
        world.sleep_seconds(2);

        assert_eq!(sent(&world), REFUSED);
        assert_eq!(world.flows.borrow().len(), 0);
    }
}

#[test]
fn a_client_that_comes_from_that_port_is_answered() {
    let world = host(&[4789]);
    enter(&world, udp("203.0.113.9:4789", "192.0.2.1:5353"), false);

    for seconds in [0, 2] {
        world.sleep_seconds(seconds);
        let answer = leave(&world, B, udp("10.176.1.3:53", "203.0.113.9:4789"), false);
        assert_eq!((answer.verdict, answer.source()), (OUT, "192.0.2.1:5353".to_owned()));
    }
}
