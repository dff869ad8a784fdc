//! Stories of what a container asks 127.0.0.11, in memory.

use netd_common::{
    dns::{FIRST_SOCKET, SOCKETS},
    parse::tcp_flags::{ACK, SYN},
    tables::Hook,
    tuple::{Address, TCP, UDP},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, checksums_hold, fragments, left_to_the_device, ping, summed_by_the_device, tcp, udp},
    scene::{self, LOOPBACK},
    world::{Frame, Summed, World},
};
use proptest::prelude::*;

const CLIENT: &str = "127.0.0.1:40000";
const RESOLVER: &str = "127.0.0.11:53";

#[test]
fn a_question_reaches_the_resolvers_socket_and_the_answer_comes_from_where_it_was_asked() {
    for (protocol, build) in [(UDP, udp as fn(&str, &str) -> Build), (TCP, tcp)] {
        for offload in [false, true] {
            let world = container(&[(protocol, 719)]);

            let asked = sent(&world, build(CLIENT, RESOLVER), offload);
            let answered = sent(&world, build("127.0.0.11:719", CLIENT), offload);

            assert_eq!(asked, (Verdict::Pass, build(CLIENT, "127.0.0.11:719").payload(b"name").bytes()));
            assert_eq!(answered, (Verdict::Pass, build(RESOLVER, CLIENT).payload(b"name").bytes()));
        }
    }
}

#[test]
fn the_containers_own_server_on_one_of_the_ports_is_passed_over() {
    let mut world = container(&[(UDP, 718)]);
    world.sockets.insert((UDP, 717));

    assert_eq!(sent(&world, udp(CLIENT, RESOLVER), false).1, expected(udp(CLIENT, "127.0.0.11:718")));
}

#[test]
fn a_question_is_dropped_while_there_is_no_socket() {
    let world = container(&[(TCP, 717)]);

    let (verdict, _) = sent(&world, udp(CLIENT, RESOLVER), false);

    assert_eq!(verdict, Verdict::Drop(DropReason::NoResolver));
}

#[test]
fn what_a_container_says_to_itself_otherwise_stays_as_it_is() {
    let world = container(&[(UDP, 717), (TCP, 717)]);
    let last = FIRST_SOCKET + SOCKETS;
    let cases = [
        udp(CLIENT, "127.0.0.1:53"),
        udp(CLIENT, "127.0.0.11:5353"),
        udp(CLIENT, "127.0.0.11:717"),
        udp("127.0.0.1:717", CLIENT),
        udp("127.0.0.11:716", CLIENT),
        udp(&format!("127.0.0.11:{last}"), CLIENT),
        tcp("10.176.1.2:53", "10.176.1.2:40000").flags(SYN | ACK),
        ping("127.0.0.1", "127.0.0.11", 53),
    ];
    for build in cases {
        let before = expected(build.clone());

        assert_eq!(sent(&world, build, false), (Verdict::Pass, before));
    }
}

#[test]
fn a_long_answer_in_fragments_has_its_port_in_the_first() {
    let world = container(&[(UDP, 717)]);
    let whole = udp("127.0.0.11:717", CLIENT).payload(&[5; 3000]).bytes();
    let becomes = udp(RESOLVER, CLIENT).payload(&[5; 3000]).bytes();

    let after: Vec<_> = fragments(&whole, 1480, 7)
        .into_iter()
        .map(|bytes| {
            let mut frame = Frame::at(LOOPBACK, bytes);
            assert_eq!(world.run(Hook::DnsLo, &mut frame), Verdict::Pass);
            frame.bytes
        })
        .collect();

    assert_eq!(after, fragments(&becomes, 1480, 7));
}

proptest! {
    #[test]
    fn nothing_but_a_question_without_a_socket_is_ever_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let world = container(&[(UDP, 717), (TCP, 717)]);
        let mut frame = Frame::at(LOOPBACK, bytes);

        prop_assert_eq!(world.run(Hook::DnsLo, &mut frame), Verdict::Pass);
    }
}

/// A container's namespace with these sockets of the resolver.
fn container(sockets: &[(u8, u16)]) -> World {
    let mut world = scene::world();
    let at = |(protocol, port): &(u8, u16)| (*protocol, Address::v4([127, 0, 0, 11]), *port);
    world.sockets_at.extend(sockets.iter().map(at));
    world
}

fn expected(build: Build) -> Vec<u8> {
    build.payload(b"name").bytes()
}

/// What becomes of a packet at the loopback device, its checksum complete in the end.
fn sent(world: &World, build: Build, offload: bool) -> (Verdict, Vec<u8>) {
    let bytes = expected(build);
    let mut frame = Frame::at(LOOPBACK, bytes);
    if offload {
        frame.bytes = left_to_the_device(frame.bytes);
        frame.summed = Summed::Partial;
    }
    let verdict = world.run(Hook::DnsLo, &mut frame);
    let bytes = if offload { summed_by_the_device(frame.bytes) } else { frame.bytes };
    checksums_hold(&bytes).expect("checksums are right");
    (verdict, bytes)
}
