//! Networks that span hosts: two hosts in memory, and what is said to a container whose packet goes nowhere.

use netd_common::{
    packet::ETH,
    tables::{
        Device, EndpointKey, Hook, PeerKey, Remote, RemoteKey, Segment, StationKey, TunnelKey, VtepKey, segment_flags,
    },
    tuple::{Address, Mac, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, checksums_hold, icmp_error, ipv6_checksums_hold, ipv6_twin, ping, sum, tcp, twin, udp},
    scene::{self, A, B, TUNNEL, bridge_mac, container_mac},
    world::{Frame, Summed, World},
};

pub const VNI: u32 = 42;
pub const THERE: [u8; 4] = [10, 176, 1, 77];
pub const THERE_MAC: [u8; 6] = [2, 0, 0, 0, 9, 77];
pub const VTEP: Address = Address::v4([192, 0, 2, 9]);
const PEERS: [Address; 2] = [VTEP, Address::v4([192, 0, 2, 10])];

/// The scene's host, whose network blue spans hosts: by a table, or by hand.
pub fn host(by_hand: bool) -> World {
    let mut world = scene::world_of_both_families();
    for container in [A, B] {
        world.devices.get_mut(&container).expect("a container").vni = VNI;
    }
    let Device { gateway_ipv4, gateway_ipv6, gateway_mac, .. } = world.devices[&A];
    let flags = if by_hand { segment_flags::LEARNS } else { 0 };
    let peers = if by_hand { 2 } else { 0 };
    let (zone, bridge) = (Zone(1), 20);
    let segment = Segment {
        tunnel: TUNNEL,
        bridge,
        underlay_mtu: 1550,
        peers,
        flags,
        port: 4789,
        zone,
        gateway_mac,
        gateway_ipv4,
        gateway_ipv6,
    };
    world.segments.insert(VNI, segment);
    for (index, address) in (0..).zip(PEERS) {
        world.vteps.insert(VtepKey { address, vni: VNI });
        if by_hand {
            world.peers.insert(PeerKey { vni: VNI, index }, address);
        }
    }
    if !by_hand {
        let remote = Remote { vtep: VTEP, incarnation: 1, mac: Mac(THERE_MAC), pad: 0 };
        for address in [Address::v4(THERE), Address::v6(twin(THERE))] {
            world.remotes.insert(RemoteKey { address, vni: VNI }, remote);
        }
    }
    world
}

/// Container A sends a frame to a link-layer address.
pub fn sends(world: &World, to: [u8; 6], bytes: Vec<u8>) -> (Verdict, Frame) {
    let mut frame = Frame::at(A, bytes);
    frame.bytes[..6].copy_from_slice(&to);
    frame.bytes[6..12].copy_from_slice(&container_mac(A));
    (world.run(Hook::FromContainer, &mut frame), frame)
}

/// A frame comes from a VTEP.
pub fn comes(world: &World, vtep: Address, vni: u32, to: [u8; 6], bytes: Vec<u8>) -> (Verdict, Frame) {
    let mut frame = Frame { tunnel: Some(TunnelKey { vtep, vni }), ..Frame::at(TUNNEL, bytes) };
    frame.bytes[..6].copy_from_slice(&to);
    frame.bytes[6..12].copy_from_slice(&THERE_MAC);
    (world.run(Hook::FromOverlay, &mut frame), frame)
}

pub fn counted(world: &World, hook: Hook, reason: DropReason) -> u64 {
    world.counters.borrow().get(&hook).map_or(0, |counters| counters.dropped[reason as usize])
}

pub fn both_families(build: Build) -> [Vec<u8>; 2] {
    let bytes = build.bytes();
    [bytes.clone(), ipv6_twin(&bytes)]
}

pub fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(container_mac(A).iter().chain(&sender).chain(&[0; 6]).chain(&target));
    bytes
}

/// Container A asks for a neighbour.
pub fn solicitation(asker: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    bytes.extend(asker);
    bytes.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, target[13], target[14], target[15]]);
    bytes.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(target);
    bytes.extend([1, 1]);
    bytes.extend(container_mac(A));
    let checksum = icmpv6_checksum(&bytes);
    bytes[56..58].copy_from_slice(&checksum);
    bytes
}

#[test]
fn what_the_table_knows_goes_to_its_host_and_is_delivered_there_as_it_was_sent() {
    for bytes in both_families(tcp("10.176.1.2:4000", "10.176.1.77:80").payload(b"odd")) {
        let world = host(false);
        let (verdict, frame) = sends(&world, THERE_MAC, bytes.clone());
        assert_eq!(verdict, Verdict::Tunnel(TUNNEL));
        assert_eq!(frame.bytes[ETH..], bytes[ETH..], "as it was");
    }
    for bytes in both_families(tcp("10.176.1.77:80", "10.176.1.2:4000").payload(b"odd")) {
        let world = host(false);
        assert_eq!(comes(&world, VTEP, VNI, container_mac(A), bytes).0, Verdict::Peer(A));
    }
}

#[test]
fn a_tag_of_no_virtual_lan_comes_off_what_another_host_sends_and_one_of_a_virtual_lan_is_dropped() {
    let comes_with = |tag: u16| {
        let world = host(false);
        let bytes = tcp("10.176.1.77:80", "10.176.1.2:4000").macs(THERE_MAC, container_mac(A)).bytes();
        let tunnel = Some(TunnelKey { vtep: VTEP, vni: VNI });
        let mut frame = Frame { tunnel, tag: Some(tag), ..Frame::at(TUNNEL, bytes) };
        (world.run(Hook::FromOverlay, &mut frame), frame.tag)
    };

    assert_eq!([0, 0xa000].map(comes_with), [(Verdict::Peer(A), None); 2]);
    assert_eq!(comes_with(7), (Verdict::Drop(DropReason::Untranslatable), Some(7)));
}

#[test]
fn a_container_that_asks_for_one_of_another_host_is_answered_at_once() {
    let world = host(false);

    let (verdict, frame) = sends(&world, [0xff; 6], arp([10, 176, 1, 2], THERE));

    assert_eq!(verdict, Verdict::Peer(A), "back to the asker");
    assert_eq!((&frame.bytes[..6], &frame.bytes[20..22]), (&container_mac(A)[..], &[0, 2][..]));
    assert_eq!((&frame.bytes[22..28], &frame.bytes[28..32]), (&THERE_MAC[..], &THERE[..]));
    for (target, why) in [([10, 176, 1, 1], "the gateway"), ([10, 176, 1, 3], "here"), ([10, 176, 1, 99], "nobody")] {
        assert_eq!(sends(&world, [0xff; 6], arp([10, 176, 1, 2], target)).0, Verdict::Pass, "{why}");
    }
}

#[test]
fn a_neighbour_solicitation_becomes_the_advertisement_with_its_checksum() {
    let world = host(false);
    let (asker, target) = (twin([10, 176, 1, 2]), twin(THERE));

    let (verdict, frame) = sends(&world, [0x33, 0x33, 0xff, 0, 0, 1], solicitation(asker, target));

    assert_eq!(verdict, Verdict::Peer(A));
    assert_eq!((&frame.bytes[22..38], &frame.bytes[38..54]), (&target[..], &asker[..]));
    assert_eq!(
        (frame.bytes[54], frame.bytes[58], &frame.bytes[78..86]),
        (136, 0x60, &[[2, 1].as_slice(), &THERE_MAC].concat()[..])
    );
    ipv6_checksums_hold(&frame.bytes).expect("its checksum holds");
}

#[test]
fn a_packet_for_who_is_gone_is_answered_by_icmp_and_counted_with_the_checksum_left_to_the_device_or_not() {
    let world = host(false);
    for build in [tcp("10.176.1.2:4000", "10.176.1.88:80").payload(b"data"), udp("10.176.1.2:4000", "10.176.1.88:80")] {
        for (v6, bytes) in both_families(build).into_iter().enumerate() {
            let (verdict, frame) = sends(&world, [2, 0, 0, 0, 9, 88], bytes.clone());
            assert_eq!(verdict, Verdict::Peer(A), "back to its sender");
            let l4 = if v6 == 1 { 54 } else { 34 };
            assert_eq!(frame.bytes[l4..l4 + 2], if v6 == 1 { [1, 3] } else { [3, 1] });
            let quoted = &frame.bytes[l4 + 8..];
            assert_eq!(quoted[..16], bytes[ETH..ETH + 16], "it quotes what was sent");
            if v6 == 1 { ipv6_checksums_hold(&frame.bytes) } else { checksums_hold(&frame.bytes) }.expect("whole");
            // A device that still has the quoted sum to make comes to what is there.
            let at = l4 + 8 + if v6 == 1 { 40 } else { 20 };
            let field = at + if quoted[if v6 == 1 { 6 } else { 9 }] == 6 { 16 } else { 6 };
            let there = u16::from_be_bytes([frame.bytes[field], frame.bytes[field + 1]]);
            assert_eq!(!sum(&frame.bytes[at..]) % 0xffff, there % 0xffff);
        }
    }
    assert_eq!(counted(&world, Hook::FromContainer, DropReason::NoEndpoint), 4);
    let echo = sends(&world, [2, 0, 0, 0, 9, 88], ping("10.176.1.2", "10.176.1.88", 7).bytes());
    assert_eq!(echo.0, Verdict::Peer(A));
    let error = icmp_error("10.176.1.2", "10.176.1.88", false, &tcp("10.176.1.88:1", "10.176.1.2:2").bytes(), 28);
    assert_eq!(
        sends(&world, [2, 0, 0, 0, 9, 88], error.bytes()).0,
        Verdict::Drop(DropReason::NoEndpoint),
        "no error about one"
    );
}

#[test]
fn a_container_that_keeps_an_old_link_layer_address_is_told_the_new_one() {
    let world = host(false);

    let (verdict, frame) = sends(&world, [2, 0, 0, 0, 9, 1], tcp("10.176.1.2:4000", "10.176.1.77:80").bytes());

    assert_eq!(verdict, Verdict::Device(A), "as a frame of another kind");
    assert_eq!((&frame.bytes[12..14], &frame.bytes[20..22], frame.bytes.len()), (&[8, 6][..], &[0, 2][..], 60));
    assert_eq!((&frame.bytes[22..28], &frame.bytes[28..32]), (&THERE_MAC[..], &THERE[..]));
    assert_eq!(counted(&world, Hook::FromContainer, DropReason::NoEndpoint), 1);
}

#[test]
fn what_reaches_the_wrong_host_is_answered_and_never_given_to_who_has_the_address_now() {
    let world = host(false);
    for (v6, bytes) in both_families(tcp("10.176.1.77:80", "10.176.1.2:4000")).into_iter().enumerate() {
        // The address is A's, the link-layer address that of one who had it before.
        let (verdict, frame) = comes(&world, VTEP, VNI, [2, 0, 0, 0, 9, 2], bytes);

        assert_eq!(verdict, Verdict::Tunnel(TUNNEL), "back to its host");
        assert_eq!((&frame.bytes[..6], &frame.bytes[6..12]), (&THERE_MAC[..], &[2, 0, 0, 0, 9, 2][..]));
        if v6 == 1 { ipv6_checksums_hold(&frame.bytes) } else { checksums_hold(&frame.bytes) }.expect("whole");
    }
    assert_eq!(counted(&world, Hook::FromOverlay, DropReason::NoEndpoint), 2);
}

#[test]
fn what_is_too_large_for_the_underlay_is_answered_with_what_fits() {
    let world = host(false);
    let [v4, v6] = both_families(udp("10.176.1.2:4000", "10.176.1.77:80").payload(&[1; 1600]));
    let with_flags = |flags: u8| {
        let mut bytes = v4.clone();
        bytes[20] = flags;
        settle_header(&mut bytes);
        bytes
    };
    let (uncut, may_be_cut) = (with_flags(0x40), with_flags(0));

    let (verdict, frame) = sends(&world, THERE_MAC, uncut);
    assert_eq!(
        (verdict, &frame.bytes[34..36], &frame.bytes[40..42]),
        (Verdict::Peer(A), &[3, 4][..], &1500_u16.to_be_bytes()[..])
    );
    checksums_hold(&frame.bytes).expect("whole");
    let (verdict, frame) = sends(&world, THERE_MAC, v6);
    assert_eq!((verdict, frame.bytes[54], &frame.bytes[58..62]), (Verdict::Peer(A), 2, &1500_u32.to_be_bytes()[..]));
    assert_eq!(
        sends(&world, THERE_MAC, may_be_cut).0,
        Verdict::Tunnel(TUNNEL),
        "what may be cut the host's stack cuts"
    );
    assert_eq!(counted(&world, Hook::FromContainer, DropReason::TooBig), 2);
}

#[test]
fn what_may_be_cut_is_its_senders_to_make_smaller_too_where_the_hosts_know_one_another_by_ipv6() {
    let mut world = host(false);
    for remote in world.remotes.values_mut() {
        remote.vtep = Address::v6(twin([192, 0, 2, 9]));
    }
    let mut bytes = udp("10.176.1.2:4000", "10.176.1.77:80").payload(&[1; 1600]).bytes();
    bytes[20] = 0;
    settle_header(&mut bytes);

    let (verdict, frame) = sends(&world, THERE_MAC, bytes);

    let (kind, fits) = (&frame.bytes[34..36], &frame.bytes[40..42]);
    assert_eq!((verdict, kind, fits), (Verdict::Peer(A), &[3, 4][..], &1480_u16.to_be_bytes()[..]));
    checksums_hold(&frame.bytes).expect("whole");
}

#[test]
fn a_stranger_another_segment_and_the_gateways_name_are_dropped_with_their_reasons() {
    let world = host(false);
    let bytes = || tcp("10.176.1.77:80", "10.176.1.2:4000").bytes();
    let mac = container_mac(A);
    let stranger = Address::v4([192, 0, 2, 66]);

    assert_eq!(comes(&world, stranger, VNI, mac, bytes()).0, Verdict::Drop(DropReason::UnknownVtep));
    assert_eq!(comes(&world, VTEP, VNI + 1, mac, bytes()).0, Verdict::Drop(DropReason::UnknownSegment));
    let gateway = tcp("10.176.1.1:80", "10.176.1.2:4000").bytes();
    assert_eq!(comes(&world, VTEP, VNI, mac, gateway).0, Verdict::Drop(DropReason::SpoofedAddress));
    assert_eq!(comes(&world, VTEP, VNI, [0xff; 6], bytes()).0, Verdict::Drop(DropReason::NoEndpoint));
    let mut plain = Frame::at(TUNNEL, bytes());
    assert_eq!(world.run(Hook::FromOverlay, &mut plain), Verdict::Drop(DropReason::UnknownSegment));
}

#[test]
fn two_networks_with_one_subnet_and_two_segments_never_meet() {
    let mut world = host(false);
    // Network green has the same addresses as blue, and the next VNI; its container is B.
    world.segments.insert(VNI + 1, Segment { zone: Zone(9), ..world.segments[&VNI] });
    world.vteps.insert(VtepKey { address: VTEP, vni: VNI + 1 });
    let blue = EndpointKey { address: Address::v4([10, 176, 1, 2]), zone: Zone(1), pad: 0 };
    let green = world.endpoints[&EndpointKey { address: Address::v4([10, 176, 1, 3]), ..blue }];
    world.endpoints.insert(EndpointKey { zone: Zone(9), ..blue }, green);
    let bytes = || tcp("10.176.1.77:80", "10.176.1.2:4000").bytes();

    assert_eq!(comes(&world, VTEP, VNI, container_mac(A), bytes()).0, Verdict::Peer(A));
    assert_eq!(comes(&world, VTEP, VNI + 1, container_mac(B), bytes()).0, Verdict::Peer(B));
    assert_eq!(comes(&world, VTEP, VNI + 1, container_mac(A), bytes()).0, Verdict::Tunnel(TUNNEL), "refused");
}

#[test]
fn by_hand_who_is_unknown_is_looked_for_at_every_peer_and_who_is_heard_of_at_one_for_five_minutes() {
    let world = host(true);
    let bytes = || tcp("10.176.1.2:4000", "10.176.1.77:80").bytes();
    let to_all = |frame: &Frame| frame.copies.iter().map(|(_, to, _)| to.vtep).collect::<Vec<_>>();

    let (verdict, frame) = sends(&world, THERE_MAC, bytes());
    assert_eq!((verdict, to_all(&frame)), (Verdict::Pass, PEERS.to_vec()));
    let (verdict, frame) = sends(&world, [0xff; 6], arp([10, 176, 1, 2], THERE));
    assert_eq!((verdict, to_all(&frame)), (Verdict::Pass, PEERS.to_vec()), "a question too");
    let (_, frame) = sends(&world, [0xff; 6], arp([10, 176, 1, 2], [10, 176, 1, 1]));
    assert_eq!(to_all(&frame), [], "but not for the gateway, which is everywhere");

    let answer = tcp("10.176.1.77:80", "10.176.1.2:4000").bytes();
    assert_eq!(comes(&world, PEERS[1], VNI, container_mac(A), answer).0, Verdict::Peer(A));
    let (verdict, frame) = sends(&world, THERE_MAC, bytes());
    assert_eq!((verdict, to_all(&frame)), (Verdict::Tunnel(TUNNEL), vec![]));
    assert_eq!(world.stations.borrow()[&StationKey { vni: VNI, mac: Mac(THERE_MAC), pad: 0 }].vtep, PEERS[1]);
    world.sleep_seconds(310);
    assert_eq!(sends(&world, THERE_MAC, bytes()).0, Verdict::Pass, "forgotten");

    let group = comes(&world, VTEP, VNI, [0xff; 6], tcp("10.176.1.77:80", "10.176.1.2:4000").bytes());
    assert_eq!(group.0, Verdict::Device(20), "to every container here");
    let mut forged = Frame { tunnel: Some(TunnelKey { vtep: VTEP, vni: VNI }), ..Frame::at(TUNNEL, bytes()) };
    forged.bytes[6..12].copy_from_slice(&bridge_mac(20));
    assert_eq!(world.run(Hook::FromOverlay, &mut forged), Verdict::Drop(DropReason::SpoofedMac));
}

#[test]
fn by_hand_nobody_answers_in_the_place_of_one_who_is_at_another_peer() {
    let world = host(true);
    for bytes in both_families(tcp("10.176.1.77:80", "10.176.1.2:4000")) {
        let (verdict, _) = comes(&world, VTEP, VNI, [2, 0, 0, 0, 9, 2], bytes);

        assert_eq!(verdict, Verdict::Drop(DropReason::NoEndpoint));
    }
}

#[test]
fn a_device_that_has_summed_the_packet_is_told_what_became_of_it() {
    let world = host(false);
    for bytes in both_families(tcp("10.176.1.77:80", "10.176.1.2:4000").payload(b"four")) {
        let told = sum(&bytes[ETH..]).to_be_bytes();
        let mut frame = Frame { tunnel: Some(TunnelKey { vtep: VTEP, vni: VNI }), ..Frame::at(TUNNEL, bytes) };
        frame.summed = Summed::Complete(told);
        frame.bytes[..6].copy_from_slice(&[2, 0, 0, 0, 9, 2]);

        assert_eq!(world.run(Hook::FromOverlay, &mut frame), Verdict::Tunnel(TUNNEL));

        let Summed::Complete(told) = frame.summed else { panic!("it is still summed") };
        let is = sum(&frame.bytes[ETH..]);
        assert_eq!(u16::from_be_bytes(told) % 0xffff, is % 0xffff);
    }
}

fn icmpv6_checksum(bytes: &[u8]) -> [u8; 2] {
    let length = (bytes.len() - 54) as u8;
    let pseudo = [&bytes[22..54], &[0, 0, 0, length, 0, 0, 0, 58], &bytes[54..]].concat();
    (!sum(&pseudo)).to_be_bytes()
}

fn settle_header(bytes: &mut [u8]) {
    bytes[24..26].fill(0);
    let checksum = (!sum(&bytes[14..34])).to_be_bytes();
    bytes[24..26].copy_from_slice(&checksum);
}
