//! Packets of IPv6 in fragments (RFC 8200 section 4.5).

use netd_common::{
    packet::ETH,
    tables::Hook,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{all_hold, icmpv6_error, ipv6_fragments, ipv6_twin, reassembled, tcp, twin, udp},
    scene::{self, A, B, UPLINK},
    story::{enters, leaves},
    world::World,
};

/// Bytes of a datagram that takes three fragments.
const LENGTH: usize = 4000;
/// Of each of them, the last aside.
const PART: usize = 1448;

fn pieces(from: &str, to: &str, identification: u16) -> Vec<Vec<u8>> {
    let whole = ipv6_twin(&udp(from, to).payload(&[7; LENGTH]).bytes());
    let pieces = ipv6_fragments(&whole, PART, identification);
    assert_eq!((pieces.len(), reassembled(&pieces)), (3, whole));
    pieces
}

/// For the published port of container B, or for one of the host's own.
fn knocks(port: u16, identification: u16) -> Vec<Vec<u8>> {
    pieces("203.0.113.9:4000", &format!("192.0.2.1:{port}"), identification)
}

fn enter(world: &World, piece: &[u8]) -> Verdict {
    enters(world, piece.to_vec()).verdict
}

#[test]
fn a_datagram_in_fragments_is_translated_as_one_both_ways() {
    let world = scene::world_of_both_families();

    let out = pieces("10.176.1.2:33000", "198.51.100.7:53", 4711).into_iter().map(|piece| leaves(&world, A, piece));
    let out: Vec<_> = out.collect();
    let port = u16::from_be_bytes([out[0].bytes[62], out[0].bytes[63]]);
    let back =
        pieces("198.51.100.7:53", &format!("192.0.2.1:{port}"), 9).into_iter().map(|piece| enters(&world, piece));
    let back: Vec<_> = back.collect();

    let ends = [([192, 0, 2, 1], [198, 51, 100, 7]), ([198, 51, 100, 7], [10, 176, 1, 2])];
    for ((pieces, verdict), (from, to)) in
        [(&out, Verdict::Neighbour(UPLINK)), (&back, Verdict::Peer(A))].into_iter().zip(ends)
    {
        assert!(pieces.iter().all(|piece| piece.verdict == verdict), "{pieces:?}");
        assert!(pieces.iter().all(|piece| piece.bytes[22..54] == [twin(from), twin(to)].concat()));
        let whole = reassembled(&pieces.iter().map(|piece| piece.bytes.clone()).collect::<Vec<_>>());
        assert_eq!((whole.len(), all_hold(&whole)), (ETH + 40 + 8 + LENGTH, Ok(())));
    }
    assert_eq!(back[0].bytes[64..66], 33_000_u16.to_be_bytes());
}

#[test]
fn a_fragment_whose_first_is_lost_goes_nowhere_from_a_container_and_is_the_hosts_from_outside() {
    let world = scene::world_of_both_families();
    let sent = pieces("10.176.1.2:33000", "198.51.100.7:53", 4711);
    let got = knocks(5353, 4711);

    let orphans = [1, 2].map(|piece| leaves(&world, A, sent[piece].clone()).verdict);
    let inward = enters(&world, got[1].clone());

    assert_eq!(orphans, [Verdict::Drop(DropReason::Fragment); 2]);
    assert_eq!((inward.verdict, &inward.bytes[ETH..]), (Verdict::Pass, &got[1][ETH..]));
    assert!(world.flows.borrow().is_empty());
}

#[test]
fn fragments_that_overtake_their_first_are_counted_as_lost_once_it_is_a_containers() {
    let world = scene::world_of_both_families();
    let (published, hosts) = (knocks(5353, 4711), knocks(9999, 4712));
    let lost = || world.counters.borrow()[&Hook::FromUplink].dropped[DropReason::FragmentOvertook as usize];

    let early = [&hosts[1], &hosts[0], &published[2], &published[1]].map(|piece| enter(&world, piece));
    assert_eq!((early, lost()), ([Verdict::Pass; 4], 0), "they may be the host's own");
    let late = [&published[0], &published[2]].map(|piece| enter(&world, piece));

    assert_eq!((late, lost()), ([Verdict::Peer(B); 2], 2));
}

#[test]
fn an_identification_that_comes_again_is_not_taken_for_the_old_packets() {
    let world = scene::world_of_both_families();
    assert_eq!([0, 1, 2].map(|piece| enter(&world, &knocks(5353, 4711)[piece])), [Verdict::Peer(B); 3]);

    // At once with a first of its own, which speaks for what follows; and long after, where that is lost.
    assert_eq!([0, 1].map(|piece| enter(&world, &knocks(9999, 4711)[piece])), [Verdict::Pass; 2]);
    assert_eq!([0, 1].map(|piece| enter(&world, &knocks(5353, 4711)[piece])), [Verdict::Peer(B); 2]);
    world.sleep_seconds(10);
    assert_eq!([2, 0, 1].map(|piece| enter(&world, &knocks(9999, 4711)[piece])), [Verdict::Pass; 3]);
}

#[test]
fn a_first_fragment_of_no_flow_ends_what_an_earlier_one_with_its_identification_said() {
    // One that ends within its header, and an error about nothing of ours.
    let tcp = ipv6_twin(&tcp("203.0.113.9:4000", "192.0.2.1:9999").payload(&[7; LENGTH]).bytes());
    let about = ipv6_twin(&udp("192.0.2.1:5555", "203.0.113.7:53").payload(&[7; 500]).bytes());
    let error = icmpv6_error([203, 0, 113, 9], scene::HOST, false, &about, 500);
    for hosts in [ipv6_fragments(&tcp, 16, 4711), ipv6_fragments(&error, 256, 4711)] {
        let world = scene::world_of_both_families();
        assert_eq!([0, 1].map(|piece| enter(&world, &knocks(5353, 4711)[piece])), [Verdict::Peer(B); 2]);

        for piece in &hosts[..2] {
            let left = enters(&world, piece.clone());
            assert_eq!((left.verdict, &left.bytes[ETH..]), (Verdict::Pass, &piece[ETH..]));
        }
    }
}

#[test]
fn two_senders_with_one_identification_are_kept_apart() {
    let world = scene::world_of_both_families();
    let of_a = pieces("10.176.1.2:5000", "198.51.100.7:53", 4711);
    let of_b = pieces("10.176.1.3:6000", "198.51.100.7:53", 4711);

    let sent = [(A, &of_a[0]), (B, &of_b[0]), (A, &of_a[1]), (B, &of_b[1])];
    let verdicts = sent.map(|(device, piece)| leaves(&world, device, piece.clone()).verdict);

    assert_eq!(verdicts, [Verdict::Neighbour(UPLINK); 4]);
}
