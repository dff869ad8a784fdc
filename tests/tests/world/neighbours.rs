//! Who is at which link-layer address: a container speaks of itself alone, and where containers are kept apart the program
//! answers in their place.

use netd_common::{
    tables::Hook,
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    neighbours::{Discovery, arp},
    packets::{ipv6_checksums_hold, twin},
    scene::{self, A, B, E, F, address_of, container_mac},
    world::{Frame, World},
};

const NOBODY: [u8; 6] = [0; 6];
const EVERYBODY: [u8; 6] = [0xff; 6];

fn said(world: &World, from: u32, bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
    let mut frame = Frame::at(from, bytes);
    let verdict = world.run(Hook::FromContainer, &mut frame);
    (verdict, frame.bytes)
}

/// The link-local address that is made of a link-layer address (RFC 4291 appendix A).
fn link_local(mac: [u8; 6]) -> [u8; 16] {
    let [a, b, c, d, e, f] = mac;
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

#[test]
fn a_container_answers_arp_for_itself_alone() {
    let world = scene::world();
    let (own, its, gateway) = (container_mac(A), address_of(A), scene::gateway_of(A));
    let bridge = scene::bridge_mac(scene::bridge_of(A));
    let cases = [
        ("its own address", arp(2, [own, bridge], (own, its), (bridge, gateway)), Verdict::Pass),
        ("a question", arp(1, [own, EVERYBODY], (own, its), (NOBODY, address_of(B))), Verdict::Pass),
        ("a probe", arp(1, [own, EVERYBODY], (own, [0; 4]), (NOBODY, its)), Verdict::Pass),
        ("a neighbour's address", arp(2, [own, bridge], (own, address_of(B)), (bridge, gateway)), spoofed_address()),
        ("the gateway's address", arp(2, [own, EVERYBODY], (own, gateway), (NOBODY, its)), spoofed_address()),
        ("a question in its name", arp(1, [own, EVERYBODY], (own, gateway), (NOBODY, its)), spoofed_address()),
        ("another station", arp(2, [own, bridge], (container_mac(B), its), (bridge, gateway)), spoofed_mac()),
        ("from another station", arp(2, [container_mac(B), bridge], (own, its), (bridge, gateway)), spoofed_mac()),
    ];
    for (what, bytes, verdict) in cases {
        assert_eq!(said(&world, A, bytes).0, verdict, "{what}");
    }
}

#[test]
fn a_container_advertises_itself_alone_and_is_no_router() {
    let world = scene::world_of_both_families();
    let (own, its, gateway) = (container_mac(A), address_of(A), scene::gateway_of(A));
    let says = || Discovery::advertisement([own, [0x33, 0x33, 0, 0, 0, 1]], [its, gateway], its);
    let asks = || Discovery::solicitation(own, its, address_of(B));
    let of = |target: [u8; 16]| Discovery { target, ..says() };
    let cases = [
        ("its own address", says(), Verdict::Pass),
        ("its own link-local address", of(link_local(own)), Verdict::Pass),
        (
            "one that tells nothing of a station",
            of(twin([1; 4]).map(|b| if b == 0xfd { 0xfe } else { b })),
            spoofed_address(),
        ),
        ("a question", asks(), Verdict::Pass),
        ("an unsolicited one", Discovery { option: None, ..says() }, Verdict::Pass),
        ("a neighbour's address", of(twin(address_of(B))), spoofed_address()),
        ("the gateway's address", of(twin(gateway)), spoofed_address()),
        ("a neighbour's link-local address", of(link_local(container_mac(B))), spoofed_address()),
        ("another station", Discovery { option: Some((2, container_mac(B))), ..says() }, spoofed_mac()),
        ("a question for another", Discovery { option: Some((1, container_mac(B))), ..asks() }, spoofed_mac()),
        (
            "in a neighbour's name",
            Discovery { ends: [twin(address_of(B)), twin(gateway)], ..says() },
            spoofed_address(),
        ),
        ("in the gateway's name", Discovery { ends: [twin(gateway), twin(its)], ..asks() }, spoofed_address()),
        (
            "from a neighbour's link-local address",
            Discovery { ends: [link_local(container_mac(B)), twin(its)], ..asks() },
            spoofed_address(),
        ),
        ("a router's advertisement", Discovery { kind: 134, ..says() }, Verdict::Drop(DropReason::SpoofedRouter)),
        ("a redirect", Discovery { kind: 137, ..says() }, Verdict::Drop(DropReason::SpoofedRouter)),
        ("a question for routers", Discovery { kind: 133, ..asks() }, Verdict::Pass),
    ];
    for (what, message, verdict) in cases {
        assert_eq!(said(&world, A, message.bytes()).0, verdict, "{what}");
    }
}

#[test]
fn an_option_behind_others_and_a_header_before_hide_nothing() {
    let world = scene::world_of_both_families();
    let (own, its) = (container_mac(A), address_of(A));
    let says = Discovery::advertisement([own, EVERYBODY], [its, scene::gateway_of(A)], its).bytes();
    let with_options = |options: &[u8]| {
        let mut bytes = says[..86 - 8].to_vec();
        bytes.extend(options);
        said(&world, A, bytes).0
    };
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let of = |mac: [u8; 6]| [&[2, 1][..], &mac].concat();

    assert_eq!(with_options(&[&nonce[..], &of(own)].concat()), Verdict::Pass);
    assert_eq!(with_options(&[&nonce[..], &of(container_mac(B))].concat()), spoofed_mac());
    assert_eq!(with_options(&[14, 0, 0, 0, 0, 0, 0, 0]), Verdict::Drop(DropReason::Malformed));
    assert_eq!(with_options(&nonce.repeat(5)), Verdict::Drop(DropReason::Malformed));

    for header in [0, 43, 60] {
        let mut hidden = says.clone();
        hidden[20] = header;
        hidden.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(said(&world, A, hidden.clone()).0, spoofed_address(), "behind header {header}");
        // A multicast listener's report: it goes no further than the link.
        hidden[21] = 1;
        assert_eq!(said(&world, A, hidden).0, Verdict::Pass, "with a hop limit of 1 nobody believes it");
    }
}

#[test]
fn where_containers_are_kept_apart_the_program_answers_for_them() {
    let world = scene::world_of_both_families();
    let (own, its, other) = (container_mac(E), address_of(E), container_mac(F));

    let asked = arp(1, [own, EVERYBODY], (own, its), (NOBODY, address_of(F)));
    let answer = arp(2, [other, own], (other, address_of(F)), (own, its));
    assert_eq!(said(&world, E, asked), (Verdict::Peer(E), answer));

    let asked = Discovery::solicitation(own, its, address_of(F)).bytes();
    let (verdict, answer) = said(&world, E, asked);
    let mut expected = Discovery::advertisement([other, own], [address_of(F), its], address_of(F)).bytes();
    // It was asked for, and stands above what is known.
    expected[58] = 0x60;
    expected[56..58].copy_from_slice(&answer[56..58]);
    assert_eq!((verdict, &answer), (Verdict::Peer(E), &expected));
    assert_eq!(ipv6_checksums_hold(&answer), Ok(()));
}

#[test]
fn questions_for_the_gateway_oneself_and_nobody_are_the_bridges() {
    let world = scene::world_of_both_families();
    for (asker, target) in [(E, scene::gateway_of(E)), (E, address_of(E)), (E, [10, 176, 4, 77]), (A, address_of(B))] {
        let (own, its) = (container_mac(asker), address_of(asker));
        let by_arp = arp(1, [own, EVERYBODY], (own, its), (NOBODY, target));
        let by_discovery = Discovery::solicitation(own, its, target).bytes();
        for asked in [by_arp, by_discovery] {
            assert_eq!(said(&world, asker, asked.clone()), (Verdict::Pass, asked), "{target:?}");
        }
    }
}

#[test]
fn the_hosts_loopback_is_out_of_reach_and_counted() {
    let world = scene::world_of_both_families();
    let knock = netd_tests::packets::tcp("10.176.1.2:5000", "127.0.0.1:80");
    let knock = knock.macs(container_mac(A), scene::bridge_mac(scene::bridge_of(A))).bytes();
    let mut knock6 = netd_tests::packets::ipv6_twin(&knock);
    knock6[38..54].copy_from_slice(&std::net::Ipv6Addr::LOCALHOST.octets());

    for knock in [knock, knock6] {
        assert_eq!(said(&world, A, knock).0, Verdict::Drop(DropReason::LoopbackFromWire));
    }
    let counters = world.counters.borrow()[&Hook::FromContainer];
    assert_eq!(counters.dropped[DropReason::LoopbackFromWire as usize], 2);
}

const fn spoofed_address() -> Verdict {
    Verdict::Drop(DropReason::SpoofedAddress)
}

const fn spoofed_mac() -> Verdict {
    Verdict::Drop(DropReason::SpoofedMac)
}
