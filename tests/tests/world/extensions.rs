//! Extension headers of IPv6 (RFC 8200 section 4): skipped on the way to the transport header, within bounds.

use netd_common::{
    parse::{EXTENSION_BYTES, EXTENSIONS},
    tables::Hook,
    tuple::Address,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{ipv6_twin, padding, tcp, twin, udp, with_extensions},
    scene::{self, A, B, UPLINK},
    world::{Frame, World},
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

#[test]
fn what_stands_behind_extension_headers_is_translated_and_nothing_else_of_the_packet_is() {
    let longest = padding(EXTENSION_BYTES);
    for extensions in [
        vec![(HOP_BY_HOP, padding(8))],
        vec![(OPTIONS, padding(24))],
        vec![(HOP_BY_HOP, padding(8)), (OPTIONS, padding(8)), (ROUTING, at_its_end()), (OPTIONS, padding(16))],
        vec![(OPTIONS, longest)],
    ] {
        for build in [tcp("10.176.1.2:33000", "198.51.100.7:80"), udp("10.176.1.2:33000", "198.51.100.7:53")] {
            let world = scene::world_of_both_families();
            let plain = ipv6_twin(&build.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes());

            let translated = run(&world, Hook::FromContainer, A, with_extensions(&plain, &extensions));

            let expected = run(&scene::world_of_both_families(), Hook::FromContainer, A, plain);
            assert_eq!(translated, (Verdict::Neighbour(UPLINK), with_extensions(&expected.1, &extensions)));
        }
    }
}

#[test]
fn a_published_port_is_reached_behind_them_and_answers_are() {
    let world = scene::world_of_both_families();
    let extensions = [(HOP_BY_HOP, padding(16)), (OPTIONS, padding(8))];
    let knock = ipv6_twin(
        &udp("203.0.113.9:4000", "192.0.2.1:5353").macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes(),
    );

    let (verdict, bytes) = run(&world, Hook::FromUplink, UPLINK, with_extensions(&knock, &extensions));

    assert_eq!(verdict, Verdict::Peer(B));
    let l4 = 14 + 40 + 16 + 8;
    assert_eq!((&bytes[38..54], &bytes[l4 + 2..l4 + 4]), (&twin([10, 176, 1, 3])[..], &53_u16.to_be_bytes()[..]));
    let answer = udp("10.176.1.3:53", "203.0.113.9:4000").macs(scene::container_mac(B), scene::bridge_mac(20)).bytes();
    let (verdict, bytes) = run(&world, Hook::FromContainer, B, with_extensions(&ipv6_twin(&answer), &extensions));
    assert_eq!((verdict, &bytes[22..38]), (Verdict::Neighbour(UPLINK), &twin(scene::HOST)[..]));
}

#[test]
fn beyond_the_bounds_nothing_is_guessed() {
    let one_too_many = vec![(OPTIONS, padding(8)); EXTENSIONS + 1];
    let too_long = vec![(OPTIONS, padding(EXTENSION_BYTES)), (OPTIONS, padding(8))];
    let mut under_way = at_its_end();
    under_way[3] = 1;
    for extensions in [one_too_many, too_long, vec![(ROUTING, under_way)], vec![(51, padding(24))]] {
        let world = scene::world_of_both_families();
        let sent =
            udp("10.176.1.2:33000", "198.51.100.7:53").macs(scene::container_mac(A), scene::bridge_mac(20)).bytes();
        let got = udp("203.0.113.9:4000", "192.0.2.1:5353").macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes();

        let out = run(&world, Hook::FromContainer, A, with_extensions(&ipv6_twin(&sent), &extensions));
        let inward = with_extensions(&ipv6_twin(&got), &extensions);

        assert_eq!(out.0, Verdict::Drop(DropReason::Untranslatable));
        assert_eq!(run(&world, Hook::FromUplink, UPLINK, inward.clone()), (Verdict::Pass, inward), "it is the host's");
        assert!(world.flows.borrow().is_empty());
    }
}

#[test]
fn fragments_of_a_packet_go_together_whatever_stands_before_their_transport_header() {
    let world = scene::world_of_both_families();
    let build = udp("10.176.1.2:33000", "198.51.100.7:53").payload(&[7; 40]);
    let plain = ipv6_twin(&build.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes());
    let first = [(HOP_BY_HOP, padding(8)), (FRAGMENT, fragment(0, true)), (OPTIONS, padding(8))];
    let mut later = plain[..54].to_vec();
    later.extend([7; 16]);
    // What follows the header of a later fragment is not what its number says.
    later[20] = OPTIONS;
    let later = with_extensions(&later, &[(HOP_BY_HOP, padding(8)), (FRAGMENT, fragment(7, false))]);

    let out = [with_extensions(&plain, &first), later].map(|bytes| run(&world, Hook::FromContainer, A, bytes));

    let host = Address::v6(twin(scene::HOST));
    for (verdict, bytes) in out {
        assert_eq!(verdict, Verdict::Neighbour(UPLINK));
        assert_eq!(Address::v6(bytes[22..38].try_into().expect("16 bytes")), host);
    }
}

fn run(world: &World, hook: Hook, device: u32, bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
    let mut frame = Frame::at(device, bytes);
    (world.run(hook, &mut frame), frame.bytes)
}

/// A routing header without segments left.
fn at_its_end() -> Vec<u8> {
    vec![0, 0, 4, 0, 0, 0, 0, 0]
}

/// A fragment header (RFC 8200 section 4.5); the offset in units of eight bytes.
fn fragment(offset: u16, more: bool) -> Vec<u8> {
    let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
    vec![0, 0, a, b, 0, 0, 0x12, 0x67]
}
