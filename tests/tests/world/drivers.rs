//! What the driver of an uplink (XDP) passes on to the host of a container that publishes a port on every host.

use netd_common::{
    frame::outer,
    parse::tcp_flags::{ACK, FIN, RST, SYN},
    tables::{Flow, Routing, segment_flags},
    tuple::{Address, Mac},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    mesh::{
        CLIENT, Hosts, KNOCKED, OTHER_HOST, TUNNEL_PORT, VNI, VTEPS, VTEPS_OF_IPV6, from_outside, of_both, tunnels_as,
        whole,
    },
    packets::{Build, checksums_hold, ipv6_twin, left_to_the_device, tcp, udp},
    scene::{A, FOREIGN, TUNNEL, UPLINK, UPLINK_MACS, settings},
    world::{RouteTo, World},
};

mod sums;

/// The two hosts after a client and the container have spoken, by TCP and by UDP, of both families.
fn opened() -> Hosts {
    opened_between(VTEPS)
}

/// The same, over an underlay of either family.
fn over_both() -> [Hosts; 2] {
    [VTEPS, VTEPS_OF_IPV6].map(opened_between)
}

fn opened_between(vteps: [Address; 2]) -> Hosts {
    let hosts = Hosts::between(vteps);
    for family in 0..2 {
        for of in [tcp as fn(&str, &str) -> Build, udp] {
            assert_eq!(hosts.knocks(from_outside(of(CLIENT, KNOCKED))[family].clone()).0, Verdict::Peer(A));
            let answer = of_both(of("10.176.1.2:80", CLIENT).flags(SYN | ACK))[family].clone();
            assert_eq!(hosts.answers(answer).0, Verdict::Neighbour(UPLINK));
        }
        hosts.enters(from_outside(tcp(CLIENT, KNOCKED).flags(ACK))[family].clone());
    }
    hosts
}

fn segment() -> Build {
    tcp(CLIENT, KNOCKED).flags(ACK).payload(b"goes on")
}

/// What the driver makes of a frame.
fn early(world: &World, bytes: &[u8]) -> (Verdict, Vec<u8>) {
    let mut frame = bytes.to_vec();
    (world.run_early(UPLINK, &mut frame), frame)
}

#[track_caller]
fn is_left(world: &World, bytes: &[u8], why: &str) {
    assert_eq!(early(world, bytes), (Verdict::Pass, bytes.to_vec()), "{why}");
}

#[test]
fn it_passes_on_what_the_program_behind_it_would_in_the_headers_of_a_vxlan_device() {
    let hosts = opened();
    for build in [segment(), udp(CLIENT, KNOCKED), udp(CLIENT, KNOCKED).without_udp_checksum(), segment().tos(0xba)] {
        for frame in from_outside(build) {
            // IPv6 has no datagrams without a checksum, and its twin none.
            let (verdict, wrapped) = early(&hosts.ingress, &frame);

            assert_eq!(verdict, Verdict::Tunnel(TUNNEL));
            let inner = hosts.enters(frame.clone());
            assert_eq!(wrapped[outer(true)..], inner, "the same as behind it");
            whole(&inner);
            let port = u16::from_be_bytes([wrapped[34], wrapped[35]]);
            let expected = datagram(&inner, port).without_udp_checksum().bytes();
            assert_eq!(without_fragmentation(&wrapped), without_fragmentation(&expected));
            checksums_hold(&wrapped).expect("the outer header's");
            assert_eq!(hosts.arrives(&inner, VTEPS[0]).0, Verdict::Peer(A));
        }
    }
}

#[test]
fn over_ipv6_it_does_so_with_a_checksum() {
    let hosts = opened_between(VTEPS_OF_IPV6);
    for build in [segment(), udp(CLIENT, KNOCKED), segment().tos(0xba)] {
        for frame in from_outside(build) {
            let (verdict, wrapped) = early(&hosts.ingress, &frame);

            assert_eq!(verdict, Verdict::Tunnel(TUNNEL));
            let inner = hosts.enters(frame.clone());
            let port = u16::from_be_bytes([wrapped[54], wrapped[55]]);
            let mut expected = ipv6_twin(&datagram(&inner, port).bytes());
            expected[15] |= explicit_congestion(&inner) << 4;
            assert_eq!(wrapped, expected, "every byte of it, its checksum summed anew");
            assert_eq!(hosts.arrives(&inner, VTEPS_OF_IPV6[0]).0, Verdict::Peer(A));
        }
    }
}

/// What a VXLAN device makes of a frame.
fn datagram(inner: &[u8], port: u16) -> Build {
    assert!(settings().ephemeral.contains(port), "{port}");
    let vxlan = [0x08, 0, 0, 0, 0, 0, VNI as u8, 0];
    let [from, to] = [0, 1].map(|host| VTEPS[host].ip());
    udp(&format!("{from}:{port}"), &format!("{to}:{TUNNEL_PORT}"))
        .macs(UPLINK_MACS[0], OTHER_HOST)
        .tos(explicit_congestion(inner))
        .payload(&[&vxlan[..], inner].concat())
}

/// What its outer header tells of congestion, of those that the tests send.
fn explicit_congestion(inner: &[u8]) -> u8 {
    if inner[12] == 8 && inner[15] == 0xba { 2 } else { 0 }
}

#[test]
fn the_outer_source_is_the_hosts_address_of_the_moment() {
    let mut hosts = opened();
    let frame = from_outside(segment())[0].clone();
    assert_eq!(early(&hosts.ingress, &frame).1[26..30], VTEPS[0].v4_bytes());

    // The daemon follows the address of the underlay.
    tunnels_as(&mut hosts.ingress, Address::v4([192, 0, 2, 77]));
    let (verdict, wrapped) = early(&hosts.ingress, &frame);

    assert_eq!((verdict, &wrapped[26..30]), (Verdict::Tunnel(TUNNEL), &[192, 0, 2, 77][..]));
    checksums_hold(&wrapped).expect("the outer header's");
}

/// Without the fields of an IPv4 header that are about fragments, and its checksum.
fn without_fragmentation(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[18..22].fill(0);
    frame[24..26].fill(0);
    frame
}

#[test]
fn flows_differ_in_their_outer_port_and_each_keeps_its_own() {
    let hosts = opened();
    let port = |build: Build| early(&hosts.ingress, &from_outside(build)[0]).1[34..36].to_vec();

    assert_eq!(port(segment()), port(segment().payload(b"another")));
    assert_ne!(port(segment()), port(udp(CLIENT, KNOCKED)));
}

#[test]
fn what_opens_or_ends_a_connection_and_what_is_due_to_be_noted_is_left_to_the_program_behind_it() {
    let unopened = Hosts::new();
    for build in [segment(), udp(CLIENT, KNOCKED), tcp(CLIENT, KNOCKED)] {
        for frame in from_outside(build) {
            is_left(&unopened.ingress, &frame, "there is no flow");
        }
    }
    let frame = from_outside(udp(CLIENT, KNOCKED))[0].clone();
    unopened.enters(frame.clone());
    is_left(&unopened.ingress, &frame, "nobody has answered");

    let hosts = opened();
    for flags in [SYN, SYN | ACK, FIN | ACK, RST, RST | ACK] {
        is_left(&hosts.ingress, &from_outside(segment().flags(flags))[0], "it decides about the connection");
    }
    let segment = from_outside(segment())[0].clone();
    assert_eq!(early(&hosts.ingress, &segment).0, Verdict::Tunnel(TUNNEL));
    let flows = hosts.ingress.flows.borrow().clone();
    hosts.ingress.sleep_seconds(2);
    is_left(&hosts.ingress, &segment, "the first of a tick");
    assert_eq!(*hosts.ingress.flows.borrow(), flows, "it notes nothing itself");
    hosts.enters(segment.clone());
    assert_eq!(early(&hosts.ingress, &segment).0, Verdict::Tunnel(TUNNEL), "the next one");
    hosts.ingress.sleep_seconds(600_000);
    is_left(&hosts.ingress, &segment, "it is over");
}

#[test]
fn what_the_host_must_answer_or_a_driver_does_not_understand_is_left() {
    let mut hosts = opened();
    let frame = |build: Build| from_outside(build)[0].clone();
    is_left(&hosts.ingress, &frame(segment().ttl(1)), "its time is up");
    is_left(&hosts.ingress, &frame(segment().ip_options(8)), "options");
    is_left(&hosts.ingress, &frame(udp(CLIENT, KNOCKED).fragment(true, 0)), "a fragment");
    let mut to_another = frame(segment());
    to_another[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    is_left(&hosts.ingress, &to_another, "for another station");
    let mut tagged = frame(segment());
    tagged[12..14].copy_from_slice(&[0x81, 0x00]);
    is_left(&hosts.ingress, &tagged, "of a virtual LAN");
    for twin in from_outside(segment()) {
        for length in 0..twin.len() {
            is_left(&hosts.ingress, &twin[..length], "it is cut short");
        }
        for bytes in 0..20_u8 {
            let mut filled = twin.clone();
            if twin[12] == 0x08 {
                filled[17] = 20 + bytes
            } else {
                filled[19] = bytes
            }
            is_left(&hosts.ingress, &filled, "its packet ends within the TCP header, and the rest fills the frame");
        }
    }

    // The scene's tunnel takes 1500 bytes, the route of the datagram as many with the headers around it.
    let large = frame(udp(CLIENT, KNOCKED).payload(&[1; 1430]));
    is_left(&hosts.ingress, &large, "too large for the way");
    hosts.ingress.segments.get_mut(&VNI).expect("blue").underlay_mtu = 1450;
    is_left(&hosts.ingress, &frame(udp(CLIENT, KNOCKED).payload(&[1; 1380])), "too large for the tunnel");
    assert_eq!(early(&hosts.ingress, &frame(udp(CLIENT, KNOCKED).payload(&[1; 1300]))).0, Verdict::Tunnel(TUNNEL));
}

#[test]
fn a_checksum_that_is_left_to_the_device_is_left_too() {
    let hosts = opened();
    for build in [segment(), udp(CLIENT, KNOCKED)] {
        is_left(&hosts.ingress, &left_to_the_device(from_outside(build)[0].clone()), "its sender is on this machine");
    }
}

#[test]
fn where_rules_would_see_the_datagram_or_the_way_is_another_all_is_left() {
    let frame = from_outside(segment())[0].clone();
    let left = |why: &str, change: fn(&mut World)| {
        for mut hosts in over_both() {
            assert_eq!(early(&hosts.ingress, &frame).0, Verdict::Tunnel(TUNNEL));
            change(&mut hosts.ingress);
            is_left(&hosts.ingress, &frame, why);
        }
    };

    left("the host's firewall", |host| host.settings.as_mut().expect("settings").firewall.generation = 7);
    left("marks", |host| host.settings.as_mut().expect("settings").routing = Routing::AskedWithMark as u32);
    left("the daemon says so", |host| tunnels_as(host, Address::ANY_V6));
    left("a host that is known by another family", |host| {
        let is_v4 = host.devices[&UPLINK].tunnels_as().expect("it passes on").is_v4();
        tunnels_as(host, if is_v4 { VTEPS_OF_IPV6[0] } else { VTEPS[0] });
    });
    left("encrypted", |host| host.segments.get_mut(&VNI).expect("blue").flags |= segment_flags::ENCRYPTED);
    left("a port that nobody has said", |host| host.segments.get_mut(&VNI).expect("blue").port = 0);
    left("a segment that is gone", |host| host.segments.clear());
    left("a host that is gone", |host| host.mesh.clear());
    left("a neighbour that is not known", |host| host.neighbours.clear());
    left("by another device", |host| routes(host, RouteTo::Device(FOREIGN, 1500, None)));
    left("a way that is refused", |host| routes(host, RouteTo::Refused));
    left("a place that is another's", |host| {
        host.flows.borrow_mut().values_mut().for_each(|flow: &mut Flow| flow.check ^= 1);
    });
    left("another device's address", |host| {
        host.neighbours.values_mut().for_each(|macs| macs[1] = Mac([2, 9, 9, 9, 9, 9]));
    });
}

/// Gives both underlays this route.
fn routes(host: &mut World, to: RouteTo) {
    host.routes.extend([VTEPS[1], VTEPS_OF_IPV6[1]].map(|vtep| (vtep, 128, to)));
}

#[test]
fn a_client_that_may_not_come_is_dropped_before_and_one_that_is_there_goes_on() {
    let mut hosts = opened();
    for publication in hosts.ingress.publications.values_mut() {
        *publication = publication.with_sources(netd_tests::scene::LIST);
    }
    hosts.ingress.sources.clear();
    let other = |build: Build| early(&hosts.ingress, &from_outside(build)[0]).0;

    let denied = Verdict::Drop(DropReason::SourceDenied);
    assert_eq!([tcp, udp].map(|of| other(of("198.51.100.9:4000", KNOCKED))), [denied; 2]);
    assert_eq!(
        [segment(), udp(CLIENT, KNOCKED)].map(other),
        [Verdict::Tunnel(TUNNEL); 2],
        "its flow is the daemon's to end"
    );
}
