//! SCTP: its addresses change, its ports and its checksum, which covers no address, stay.

use netd_common::{
    parse::sctp_chunk::{HEARTBEAT, INIT},
    tables::Hook,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, fragments, icmp_error, sctp},
    scene::{self, A, B, UPLINK},
    story::{Arrived, SERVER, arrive, enter, leave},
};

const DATA: u8 = 0;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;

/// From the transport header on.
fn segment(packet: &Arrived) -> &[u8] {
    &packet.bytes[packet.l4()..]
}

fn payload(build: &Build) -> Vec<u8> {
    build.clone().bytes()[34..].to_vec()
}

#[test]
fn an_association_of_a_container_leaves_as_the_host_with_its_own_port_and_every_byte_after_the_addresses() {
    let world = scene::world();
    let sent = sctp("10.176.1.2:33000", "198.51.100.7:2905", INIT);

    let out = leave(&world, A, sent.clone(), false);
    let answer = sctp("198.51.100.7:2905", "192.0.2.1:33000", INIT_ACK);
    let back = enter(&world, answer.clone(), false);
    let data = leave(&world, A, sctp("10.176.1.2:33000", "198.51.100.7:2905", DATA), false);

    assert_eq!((out.verdict, out.source().as_str()), (Verdict::Neighbour(UPLINK), "192.0.2.1:33000"));
    assert_eq!(segment(&out), payload(&sent));
    assert_eq!((back.verdict, back.destination().as_str()), (Verdict::Peer(A), "10.176.1.2:33000"));
    assert_eq!(segment(&back), payload(&answer));
    assert_eq!(data.verdict, Verdict::Neighbour(UPLINK));
}

#[test]
fn an_association_whose_answers_would_be_anothers_is_refused_by_that_name_and_disturbs_nobody() {
    let world = scene::world();
    leave(&world, A, sctp("10.176.1.2:33000", "198.51.100.7:2905", INIT), false);
    let flows = world.flows.borrow().len();

    let second = leave(&world, B, sctp("10.176.1.3:33000", "198.51.100.7:2905", INIT), false);
    let published = leave(&world, A, sctp("10.176.1.2:5353", "198.51.100.7:2905", INIT), false);
    let other_port = leave(&world, B, sctp("10.176.1.3:33001", "198.51.100.7:2905", INIT), false);
    let back = enter(&world, sctp("198.51.100.7:2905", "192.0.2.1:33000", INIT_ACK), false);

    assert_eq!(second.verdict, Verdict::Drop(DropReason::TupleTaken));
    assert_eq!(published.verdict, Verdict::Drop(DropReason::TupleTaken), "the port is published");
    assert_eq!(other_port.verdict, Verdict::Neighbour(UPLINK));
    assert_eq!((back.verdict, world.flows.borrow().len()), (Verdict::Peer(A), flows + 2));
}

#[test]
fn only_what_may_open_an_association_makes_a_flow() {
    for (chunk, opens) in [(INIT, true), (HEARTBEAT, true), (DATA, false), (INIT_ACK, false), (ABORT, false)] {
        let world = scene::world();

        let out = leave(&world, A, sctp("10.176.1.2:33000", "198.51.100.7:2905", chunk), false);

        let expected = if opens { Verdict::Neighbour(UPLINK) } else { Verdict::Drop(DropReason::NoFlow) };
        assert_eq!(out.verdict, expected, "chunk {chunk}");
    }
}

#[test]
fn a_published_port_takes_associations_in_with_the_clients_address() {
    let world = scene::world();
    let sent = sctp("203.0.113.9:40000", "192.0.2.1:5353", INIT);

    let request = enter(&world, sent.clone(), false);
    let answer = leave(&world, B, sctp("10.176.1.3:5353", "203.0.113.9:40000", INIT_ACK), false);

    assert_eq!((request.verdict, request.destination().as_str()), (Verdict::Peer(B), "10.176.1.3:5353"));
    assert_eq!(segment(&request), payload(&sent));
    assert_eq!((answer.verdict, answer.source().as_str()), (Verdict::Neighbour(UPLINK), "192.0.2.1:5353"));
}

#[test]
fn an_error_about_a_containers_association_reaches_it_and_quotes_what_it_sent() {
    let world = scene::world();
    let sent = sctp("10.176.1.2:33000", "198.51.100.7:2905", INIT);
    let out = leave(&world, A, sent.clone(), false);

    for quoted in [28, 36, 60] {
        let error = enter(&world, icmp_error("203.0.113.1", "192.0.2.1", true, &out.bytes, quoted), false);

        assert_eq!(error.verdict, Verdict::Peer(A));
        let quote = &error.bytes[error.l4() + 8..];
        assert_eq!(&quote[12..], &sent.clone().bytes()[26..14 + quote.len()]);
    }
}

#[test]
fn fragments_go_the_way_of_their_first() {
    let world = scene::world();
    let sent = sctp("10.176.1.2:33000", "198.51.100.7:2905", INIT);
    let sent = sent.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes();

    let out: Vec<_> = fragments(&sent, 24, 4711)
        .into_iter()
        .map(|fragment| arrive(&world, Hook::FromContainer, A, fragment, false).verdict)
        .collect();

    assert_eq!(out, [Verdict::Neighbour(UPLINK); 2]);
}

#[test]
fn protocols_whose_answers_could_be_the_hosts_own_are_refused() {
    let world = scene::world();
    // GRE, ESP, AH, IP in IP, UDP-Lite.
    for protocol in [47, 50, 51, 4, 136] {
        let out = leave(&world, A, sctp("10.176.1.2:1", &format!("{SERVER}:1"), INIT).protocol(protocol), false);

        assert_eq!(out.verdict, Verdict::Drop(DropReason::Untranslatable), "protocol {protocol}");
    }
    assert_eq!(world.flows.borrow().len(), 0);
}
