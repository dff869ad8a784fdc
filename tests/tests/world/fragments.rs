//! Packets in fragments.

use netd_common::{
    tables::Hook,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{checksums_hold, fragments, icmp_error, ping, pong, reassembled, tcp, udp},
    scene::{self, A, B, UPLINK},
    story::{SERVER, arrive, leave},
};

#[test]
fn a_datagram_in_fragments_is_translated_as_one_both_ways() {
    let world = scene::world();
    let sent = udp("10.176.1.2:33000", "198.51.100.7:53").payload(&[7; 4000]);
    let sent = fragments(&sent.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes(), 1480, 4711);

    let out: Vec<_> = sent.iter().map(|f| arrive(&world, Hook::FromContainer, A, f.clone(), false)).collect();
    let source = out[0].source();
    let answer = udp("198.51.100.7:53", &source).payload(&[9; 4000]).bytes();
    let back = fragments(&answer, 1480, 9).into_iter().map(|f| arrive(&world, Hook::FromUplink, UPLINK, f, false));
    let back: Vec<_> = back.collect();

    assert!(out.iter().all(|fragment| fragment.verdict == Verdict::Neighbour(UPLINK)), "{out:?}");
    assert!(back.iter().all(|fragment| fragment.verdict == Verdict::Peer(A)));
    for whole in [&out, &back] {
        let whole = reassembled(&whole.iter().map(|f| f.bytes.clone()).collect::<Vec<_>>());
        assert_eq!((whole.len(), checksums_hold(&whole)), (14 + 20 + 8 + 4000, Ok(())));
    }
    assert_eq!(back[2].end(16, 0).split(':').next(), Some("10.176.1.2"));
}

#[test]
fn a_fragment_without_its_first_goes_nowhere_from_a_container_and_is_the_hosts_from_outside() {
    let world = scene::world();
    leave(&world, A, udp("10.176.1.2:33000", "198.51.100.7:53"), false);
    let sent = udp("10.176.1.2:33000", "198.51.100.7:53").payload(&[7; 4000]);
    let sent = fragments(&sent.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes(), 1480, 4711);
    let received = fragments(&udp("203.0.113.9:4000", "192.0.2.1:5353").payload(&[7; 4000]).bytes(), 1480, 4711);

    let orphan = arrive(&world, Hook::FromContainer, A, sent[1].clone(), false);
    let inward = arrive(&world, Hook::FromUplink, UPLINK, received[1].clone(), false);

    assert_eq!(orphan.verdict, Verdict::Drop(DropReason::Fragment));
    assert_eq!((inward.verdict, inward.bytes == received[1]), (Verdict::Pass, true));
}

#[test]
fn fragments_that_came_before_their_first_are_counted_as_lost_once_it_is_a_containers() {
    let world = scene::world();
    let of = |port, id| {
        fragments(&udp("203.0.113.9:4000", &format!("192.0.2.1:{port}")).payload(&[7; 4000]).bytes(), 1480, id)
    };
    let (published, hosts) = (of(5353, 4711), of(9999, 4712));
    let run = |bytes: &Vec<u8>| arrive(&world, Hook::FromUplink, UPLINK, bytes.clone(), false).verdict;
    let lost = || world.counters.borrow()[&Hook::FromUplink].dropped[DropReason::FragmentOvertook as usize];

    assert_eq!([&hosts[1], &hosts[0], &published[2], &published[1]].map(run), [Verdict::Pass; 4]);
    assert_eq!(lost(), 0, "they may be the host's own");
    assert_eq!([&published[0], &published[0], &published[2]].map(run), [Verdict::Peer(B); 3]);

    assert_eq!(lost(), 2);
    assert_eq!(run(&of(5353, 4713)[1]), Verdict::Pass);
    world.sleep_seconds(10);
    assert_eq!((run(&of(5353, 4713)[0]), lost()), (Verdict::Peer(B), 2), "an identification comes again");
}

#[test]
fn an_identification_that_comes_again_is_not_taken_for_the_old_packets() {
    let world = scene::world();
    let of = |port| udp("203.0.113.9:4000", &format!("192.0.2.1:{port}")).payload(&[7; 2000]).bytes();
    let published = fragments(&of(5353), 1480, 4711);
    let hosts = fragments(&of(9999), 1480, 4711);
    let run = |bytes: &Vec<u8>| arrive(&world, Hook::FromUplink, UPLINK, bytes.clone(), false).verdict;
    assert_eq!((run(&published[0]), run(&published[1])), (Verdict::Peer(B), Verdict::Peer(B)));

    assert_eq!((run(&hosts[0]), run(&hosts[1])), (Verdict::Pass, Verdict::Pass), "at once");
    assert_eq!((run(&published[0]), run(&published[1])), (Verdict::Peer(B), Verdict::Peer(B)));
    world.sleep_seconds(10);
    assert_eq!(run(&hosts[1]), Verdict::Pass, "its first is lost");
}

#[test]
fn a_first_fragment_that_ends_within_its_header_is_another_packets_all_the_same() {
    let world = scene::world();
    let of = |port| tcp("203.0.113.9:4000", &format!("192.0.2.1:{port}")).payload(&[7; 2000]).bytes();
    let (published, hosts) = (fragments(&of(8080), 1480, 4711), fragments(&of(9999), 16, 4711));
    let run = |bytes: &Vec<u8>| arrive(&world, Hook::FromUplink, UPLINK, bytes.clone(), false);
    assert_eq!([&published[0], &published[1]].map(|piece| run(piece).verdict), [Verdict::Peer(A); 2]);

    for piece in &hosts[..3] {
        let left = run(piece);
        assert_eq!((left.verdict, &left.bytes), (Verdict::Pass, piece), "the host has the rest of its packet");
    }
}

#[test]
fn so_is_the_first_fragment_of_an_error_about_nothing_of_ours() {
    let world = scene::world();
    let asked = leave(&world, A, ping("10.176.1.2", SERVER, 4711), false);
    let identifier = u16::from_be_bytes([asked.bytes[38], asked.bytes[39]]);
    let answer = fragments(&pong(SERVER, "192.0.2.1", identifier).payload(&[7; 2000]).bytes(), 1480, 4711);
    let about = udp("192.0.2.1:5555", "203.0.113.7:53").payload(&[7; 500]).bytes();
    let error = fragments(&icmp_error(SERVER, "192.0.2.1", false, &about, 500).bytes(), 256, 4711);
    let run = |bytes: &Vec<u8>| arrive(&world, Hook::FromUplink, UPLINK, bytes.clone(), false);
    assert_eq!([&answer[0], &answer[1]].map(|piece| run(piece).verdict), [Verdict::Peer(A); 2]);

    for piece in &error[..2] {
        let left = run(piece);
        assert_eq!((left.verdict, &left.bytes), (Verdict::Pass, piece), "the host has the rest of its error");
    }
}

#[test]
fn two_senders_with_one_identification_are_kept_apart() {
    let world = scene::world();
    let of = |from: &str, device| {
        let build = udp(from, "198.51.100.7:53").payload(&[7; 2000]);
        fragments(&build.macs(scene::container_mac(device), scene::bridge_mac(20)).bytes(), 1480, 4711)
    };
    let (of_a, of_b) = (of("10.176.1.2:5000", A), of("10.176.1.3:6000", B));
    let run = |device, bytes: &Vec<u8>| arrive(&world, Hook::FromContainer, device, bytes.clone(), false).verdict;

    let verdicts = [run(A, &of_a[0]), run(B, &of_b[0]), run(A, &of_a[1]), run(B, &of_b[1])];

    assert_eq!(verdicts, [Verdict::Neighbour(UPLINK); 4]);
}
