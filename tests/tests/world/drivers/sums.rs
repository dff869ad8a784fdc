//! The checksum of a datagram over an underlay of IPv6, which the driver's program tells from headers alone.

use netd_common::{frame::outer, packet::ETH, parse::tcp_flags::ACK, tuple::Address, verdict::Verdict};
use netd_tests::{
    mesh::{CLIENT, KNOCKED, VTEPS_OF_IPV6, from_outside, tunnels_as},
    packets::{Build, ipv6_checksums_hold, other, sum, tcp, udp},
    scene::TUNNEL,
};
use proptest::prelude::*;

use super::{early, is_left, opened, opened_between, over_both, segment};

const UDP: usize = ETH + 40;
const CHECKSUM: usize = UDP + 6;

/// Whether the checksum of a datagram over IPv6 holds, summed over all that it carries.
fn holds(wrapped: &[u8]) -> bool {
    let told = |at: usize| usize::from(u16::from_be_bytes([wrapped[at], wrapped[at + 1]]));
    assert_eq!([told(ETH + 4), told(UDP + 4)], [wrapped.len() - UDP; 2], "the lengths are the frame's");
    told(CHECKSUM) != 0 && ipv6_checksums_hold(wrapped).is_ok()
}

/// Whether the segment of a TCP or UDP packet comes to nothing but for its checksum.
fn comes_to_nothing(frame: &[u8], is_tcp: bool) -> bool {
    let l4 = ETH + if frame[ETH] >> 4 == 4 { 20 } else { 40 };
    let field = if is_tcp { 16 } else { 6 };
    let mut segment = frame[l4..].to_vec();
    segment[field..field + 2].fill(0);
    sum(&segment).is_multiple_of(0xffff)
}

proptest! {
    #[test]
    fn it_holds_for_any_packet(
        payload in prop::collection::vec(any::<u8>(), 0..1300),
        is_tcp in any::<bool>(),
        (tos, ttl) in (any::<u8>(), 2_u8..),
        address in any::<[u8; 8]>(),
        filling in prop::collection::vec(any::<u8>(), 0..46),
    ) {
        let mut hosts = opened_between(VTEPS_OF_IPV6);
        let [.., a, b, c, d, e, f, g, h] = VTEPS_OF_IPV6[0].bytes();
        let [i, j, k, l, m, n, o, p] = address;
        tunnels_as(&mut hosts.ingress, Address::v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]));
        let build = if is_tcp { tcp(CLIENT, KNOCKED).flags(ACK) } else { udp(CLIENT, KNOCKED) };
        for frame in from_outside(build.payload(&payload).tos(tos).ttl(ttl)) {
            if comes_to_nothing(&frame, is_tcp) {
                // Its checksum is the pseudo-header's sum, as one is that a device has yet to make.
                is_left(&hosts.ingress, &frame, "it may be a device's to make");
                continue;
            }
            let (verdict, wrapped) = early(&hosts.ingress, &frame);

            prop_assert_eq!(verdict, Verdict::Tunnel(TUNNEL));
            prop_assert!(holds(&wrapped), "{:02x?}", wrapped);
            let filled = [&frame[..], &filling].concat();
            prop_assert_eq!(early(&hosts.ingress, &filled).1, wrapped);
        }
    }
}

#[test]
fn around_a_packet_whose_own_is_wrong_it_is_wrong_too() {
    let hosts = opened_between(VTEPS_OF_IPV6);
    for mut frame in [segment(), udp(CLIENT, KNOCKED)].into_iter().flat_map(from_outside) {
        *frame.last_mut().expect("it has bytes") ^= 1;

        let (verdict, wrapped) = early(&hosts.ingress, &frame);

        assert_eq!(verdict, Verdict::Tunnel(TUNNEL));
        assert!(!holds(&wrapped), "the container would not have taken it");
    }
}

#[test]
fn one_that_comes_to_nothing_is_sent_as_all_ones() {
    let mut hosts = opened_between(VTEPS_OF_IPV6);
    let frame = from_outside(segment())[0].clone();
    let before = early(&hosts.ingress, &frame).1;
    // What the sum lacks, put into the host's own address.
    let mut own = VTEPS_OF_IPV6[0].bytes();
    assert_eq!(own[2..4], [0, 0]);
    own[2..4].copy_from_slice(&before[CHECKSUM..CHECKSUM + 2]);
    tunnels_as(&mut hosts.ingress, Address::v6(own));

    let wrapped = early(&hosts.ingress, &frame).1;

    assert_eq!(wrapped[CHECKSUM..CHECKSUM + 2], [0xff; 2], "zero would say that there is none");
    assert!(holds(&wrapped));
}

#[test]
fn what_does_not_tell_its_sum_is_left_over_ipv6() {
    let [(client, client_port), (host, port)] = [CLIENT, KNOCKED].map(|end| end.split_once(':').expect("a port"));
    let [from, to] = [client_port, port].map(|port| port.parse::<u16>().expect("a number").to_be_bytes());
    // Four bytes more than it says that it has.
    let ends_early = [&from[..], &to, &[0, 12, 0x12, 0x34], b"datagram"].concat();
    let untold = [udp(CLIENT, KNOCKED).without_udp_checksum(), other(client, host, 17, &ends_early)];
    for (build, why) in untold.into_iter().zip(["it has no checksum", "bytes that none covers"]) {
        let frame = from_outside(build)[0].clone();

        assert_eq!(early(&opened().ingress, &frame).0, Verdict::Tunnel(TUNNEL), "over IPv4 it need not");
        is_left(&opened_between(VTEPS_OF_IPV6).ingress, &frame, why);
    }
}

#[test]
fn what_fills_an_ethernet_frame_is_cut_off() {
    for hosts in over_both() {
        for frame in from_outside(segment()) {
            let padded = [&frame[..], &[7; 11]].concat();
            let [unfilled, filled] = [&frame, &padded].map(|frame| early(&hosts.ingress, frame));

            assert_eq!(unfilled, filled);
            assert_eq!(filled.0, Verdict::Tunnel(TUNNEL));
        }
    }
}

#[test]
fn a_packet_is_as_large_as_fits_with_the_headers_around_it() {
    let sized = |size: usize| -> Build { udp(CLIENT, KNOCKED).payload(&vec![1; size - 28]) };
    for (hosts, v4) in over_both().into_iter().zip([true, false]) {
        let fits = 1500 - outer(v4);
        assert_eq!(early(&hosts.ingress, &from_outside(sized(fits))[0]).0, Verdict::Tunnel(TUNNEL), "{fits}");
        is_left(&hosts.ingress, &from_outside(sized(fits + 1))[0], "too large for the way");
    }
}
