//! Encrypted networks: what leaves, what may leave, and what comes in clear.

use netd_common::{
    packet::{ETH, Label},
    tables::{DECRYPTED, EndpointKey, Hook, MeshEnd, TunnelKey, VtepKey, segment_flags},
    tuple::{Address, Mac, UDP, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, ipv6_twin, ping, tcp, udp},
    scene::{A, TUNNEL, UPLINK, container_mac},
    world::{Frame, World},
};

use crate::spanning::{THERE_MAC, VNI, VTEP, counted, host, sends};

/// The VXLAN device of networks that are not encrypted.
const IN_CLEAR: u32 = TUNNEL + 1;

/// A host whose network blue is encrypted, with keys for the other one or without.
fn encrypted(with_keys: bool) -> World {
    let mut world = host(false);
    world.segments.get_mut(&VNI).expect("a segment").flags |= segment_flags::ENCRYPTED;
    if with_keys {
        world.vteps.insert(VtepKey::with_keys(VTEP));
    }
    world
}

fn both_families(build: Build) -> [Vec<u8>; 2] {
    let bytes = build.bytes();
    [bytes.clone(), ipv6_twin(&bytes)]
}

/// A frame of the other host's comes out of a tunnel.
fn comes(world: &World, device: u32, mark: u32, bytes: &[u8]) -> (Verdict, Frame) {
    let tunnel = Some(TunnelKey { vtep: VTEP, vni: VNI });
    let mut frame = Frame { tunnel, mark, ..Frame::at(device, bytes.to_vec()) };
    frame.bytes[..6].copy_from_slice(&container_mac(A));
    frame.bytes[6..12].copy_from_slice(&THERE_MAC);
    (world.run(Hook::FromOverlay, &mut frame), frame)
}

#[test]
fn nothing_goes_to_a_host_for_which_there_are_no_keys_and_what_goes_is_marked_as_to_be_sealed() {
    for bytes in both_families(tcp("10.176.1.2:4000", "10.176.1.77:80").payload(b"secret")) {
        let world = encrypted(false);
        assert_eq!(sends(&world, THERE_MAC, bytes.clone()).0, Verdict::Drop(DropReason::NoKeys));

        let (verdict, frame) = sends(&encrypted(true), THERE_MAC, bytes.clone());
        assert_eq!((verdict, frame.label), (Verdict::Tunnel(TUNNEL), Label::Sealed));
        let (_, frame) = sends(&host(false), THERE_MAC, bytes);
        assert_eq!(frame.label, Label::Approved, "of another network");
    }
}

#[test]
fn what_comes_must_have_been_decrypted_and_by_the_device_of_encrypted_networks() {
    for bytes in both_families(tcp("10.176.1.77:80", "10.176.1.2:4000")) {
        let world = encrypted(true);
        assert_eq!(comes(&world, TUNNEL, DECRYPTED, &bytes).0, Verdict::Peer(A));
        assert_eq!(comes(&world, TUNNEL, DECRYPTED | 1, &bytes).0, Verdict::Peer(A), "others' marks are theirs");
        for (what, device, mark) in [
            ("in clear", TUNNEL, 0),
            ("with another mark", TUNNEL, !DECRYPTED),
            ("by the other device", IN_CLEAR, 0),
            ("by the other device, with a mark that somebody has given it", IN_CLEAR, DECRYPTED),
        ] {
            let verdict = comes(&world, device, mark, &bytes).0;
            assert_eq!(verdict, Verdict::Drop(DropReason::NotEncrypted), "{what}");
        }
        assert_eq!(counted(&world, Hook::FromOverlay, DropReason::NotEncrypted), 4);
        // Of a network that is not encrypted, what was encrypted all the same comes by a device that is not its.
        let verdict = comes(&host(false), IN_CLEAR, DECRYPTED, &bytes).0;
        assert_eq!(verdict, Verdict::Drop(DropReason::UnknownSegment));
    }
}

#[test]
fn an_error_about_what_came_goes_back_sealed() {
    for bytes in both_families(udp("10.176.1.77:80", "10.176.1.99:4000")) {
        let (verdict, frame) = comes(&encrypted(true), TUNNEL, DECRYPTED, &bytes);
        assert_eq!((verdict, frame.label), (Verdict::Tunnel(TUNNEL), Label::Sealed));
        let (verdict, _) = comes(&encrypted(false), TUNNEL, DECRYPTED, &bytes);
        assert_eq!(verdict, Verdict::Drop(DropReason::NoKeys));
    }
}

#[test]
fn a_client_of_the_mesh_is_led_into_the_tunnel_sealed_or_not_at_all() {
    for with_keys in [true, false] {
        let mut world = encrypted(with_keys);
        world.devices.remove(&A);
        let container = Address::v4([10, 176, 1, 2]);
        let key = EndpointKey { address: container, zone: Zone(1), pad: 0 };
        world.endpoints.remove(&key);
        world.mesh.insert(key, MeshEnd { vtep: VTEP, vni: VNI, mac: Mac(THERE_MAC), pad: 0 });
        let port = netd_common::tables::PublicationKey::new(Address::ANY_V4, UDP, netd_common::tuple::Port::new(8000));
        let to = netd_common::tables::Publication::new(Zone(1), container, 8000, 80);
        world.publications.insert(port, to);

        let mut frame = Frame::at(UPLINK, udp("198.51.100.7:4000", "192.0.2.1:8000").bytes());
        let verdict = world.run(Hook::FromUplink, &mut frame);

        if with_keys {
            assert_eq!((verdict, frame.label), (Verdict::Tunnel(TUNNEL), Label::Sealed));
        } else {
            assert_eq!(verdict, Verdict::Drop(DropReason::NoKeys));
        }
    }
}

#[test]
fn what_is_to_be_sealed_leaves_by_an_uplink_as_esp_alone() {
    const ESP: u8 = 50;
    const FRAGMENT: u8 = 44;
    let outer = udp("192.0.2.1:40000", "192.0.2.9:4790").payload(&[7; 64]).bytes();
    let v4 = |protocol: u8| {
        let mut bytes = outer.clone();
        bytes[ETH + 9] = protocol;
        bytes
    };
    let v6 = |next: u8, fragment_of: u8| {
        let mut bytes = ipv6_twin(&outer);
        bytes[ETH + 6] = next;
        bytes[ETH + 40] = fragment_of;
        bytes
    };
    let cases = [
        ("ESP", v4(ESP), true),
        ("a datagram in clear", v4(17), false),
        ("ESP", v6(ESP, 0), true),
        ("a fragment of ESP", v6(FRAGMENT, ESP), true),
        ("a datagram in clear", v6(17, ESP), false),
        ("a fragment of one", v6(FRAGMENT, 17), false),
    ];
    for (what, bytes, leaves) in cases {
        for layer3 in [false, true] {
            let bytes = if layer3 { bytes[ETH..].to_vec() } else { bytes.clone() };
            let mut frame = Frame { label: Label::Sealed, came_by: 0, layer3, ..Frame::at(UPLINK, bytes) };
            let hook = if layer3 { Hook::ToL3Uplink } else { Hook::ToUplink };
            let verdict = encrypted(true).run(hook, &mut frame);
            let expected = if leaves { Verdict::Pass } else { Verdict::Drop(DropReason::NotEncrypted) };
            assert_eq!(verdict, expected, "{what}, layer 3: {layer3}");
        }
    }
}

#[test]
fn what_is_too_large_with_esp_around_it_is_refused_and_what_just_fits_is_not() {
    // 1550 less 50 of VXLAN and 37 of ESP.
    let sized = |length: usize| ping("10.176.1.2", "10.176.1.77", 7).payload(&vec![0; length - 28]).bytes();
    let world = encrypted(true);
    let dont_cut = |mut bytes: Vec<u8>| {
        bytes[ETH + 6] |= 0x40;
        bytes
    };

    assert_eq!(sends(&world, THERE_MAC, dont_cut(sized(1463))).0, Verdict::Tunnel(TUNNEL));
    assert_eq!(sends(&world, THERE_MAC, dont_cut(sized(1464))).0, Verdict::Peer(A), "its sender is told");
    assert_eq!(counted(&world, Hook::FromContainer, DropReason::TooBig), 1);
}
