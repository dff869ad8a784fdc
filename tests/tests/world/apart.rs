//! A network that spans hosts and keeps its containers apart: what was allowed passes the host that it leaves and the host that it
//! comes to, each by what that one knows itself.

use netd_common::{
    packet::ETH,
    parse::tcp_flags::{ACK, SYN},
    tables::{AllowanceKey, EndpointKey, Hook, RemoteKey, device_flags, segment_flags},
    tuple::{Address, Mac, Port, TCP, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    packets::{Build, fragments, icmp_error, ipv6_checksums_hold, ipv6_twin, other, ping, tcp, twin, udp},
    scene::{A, B, TUNNEL, container_mac},
    world::World,
};

use crate::spanning::{
    THERE, THERE_MAC, VNI, VTEP, arp, both_families, comes, counted, host, sends as sends_frame, solicitation,
};

const REFUSED: Verdict = Verdict::Drop(DropReason::NotAllowed);
const HERE: [u8; 4] = [10, 176, 1, 2];
const BESIDE: [u8; 4] = [10, 176, 1, 3];

/// A host of blue, which keeps its containers apart. In both families something is allowed from the first to the second: a port, or
/// everything.
fn apart(allowed: &[([u8; 4], [u8; 4], Option<u16>)]) -> World {
    let mut world = host(false);
    for container in [A, B] {
        world.devices.get_mut(&container).expect("a container").flags |= device_flags::NO_ICC;
    }
    world.segments.get_mut(&VNI).expect("blue").flags |= segment_flags::NO_ICC;
    for (src, dst, port) in allowed {
        for [src, dst] in [[*src, *dst].map(Address::v4), [*src, *dst].map(|ip| Address::v6(twin(ip)))] {
            world.allowances.insert(match port {
                Some(port) => AllowanceKey::of_port(Zone(1), src, dst, TCP, Port::new(*port)),
                None => AllowanceKey::of_everything(Zone(1), src, dst),
            });
        }
    }
    world
}

/// What becomes of what A sends to the container of another host, in both families: as it is, or refused.
fn sends(world: &World, build: Build) -> Verdict {
    let [v4, v6] = both_families(build).map(|bytes| {
        let (verdict, frame) = sends_frame(world, THERE_MAC, bytes.clone());
        assert_eq!(frame.bytes[ETH..], bytes[ETH..], "nothing is translated");
        verdict
    });
    assert_eq!(v4, v6, "both families are treated alike");
    v4
}

/// What becomes of what that container sends to A, at A's host.
fn arrives(world: &World, build: Build) -> Verdict {
    let [v4, v6] = both_families(build).map(|bytes| comes(world, VTEP, VNI, container_mac(A), bytes).0);
    assert_eq!(v4, v6, "both families are treated alike");
    v4
}

#[test]
fn an_allowed_port_is_open_from_host_to_host_and_its_answers_pass_and_nothing_else_does() {
    let (near, far) = (apart(&[(HERE, THERE, Some(80))]), apart(&[(THERE, HERE, Some(80))]));
    let out = || tcp("10.176.1.2:5000", "10.176.1.77:80");
    let back = || tcp("10.176.1.77:80", "10.176.1.2:5000").flags(SYN | ACK);
    // The far host's A is who is asked there.
    let asked = || tcp("10.176.1.77:5000", "10.176.1.2:80");
    let answers = || tcp("10.176.1.2:80", "10.176.1.77:5000").flags(SYN | ACK);

    assert_eq!((arrives(&near, back()), sends(&far, answers())), (REFUSED, REFUSED), "before it was asked");
    assert_eq!((sends(&near, out()), arrives(&far, asked())), (Verdict::Tunnel(TUNNEL), Verdict::Peer(A)));
    assert_eq!((arrives(&near, back()), sends(&far, answers())), (Verdict::Peer(A), Verdict::Tunnel(TUNNEL)));
    assert_eq!(
        (sends(&near, out().flags(ACK)), arrives(&far, asked().flags(ACK))),
        (Verdict::Tunnel(TUNNEL), Verdict::Peer(A))
    );

    for refused in [
        tcp("10.176.1.2:5000", "10.176.1.77:81"),
        udp("10.176.1.2:5000", "10.176.1.77:80"),
        ping("10.176.1.2", "10.176.1.77", 7),
        other("10.176.1.2", "10.176.1.77", 47, &[1; 40]),
    ] {
        assert_eq!(sends(&near, refused.clone()), REFUSED, "{refused:?}");
    }
    for refused in [
        tcp("10.176.1.77:5000", "10.176.1.2:81"),
        udp("10.176.1.77:5000", "10.176.1.2:80"),
        ping("10.176.1.77", "10.176.1.2", 7),
        other("10.176.1.77", "10.176.1.2", 47, &[1; 40]),
        tcp("10.176.1.78:5000", "10.176.1.2:80"),
    ] {
        assert_eq!(arrives(&far, refused.clone()), REFUSED, "{refused:?}");
    }
    let opens_nothing = Verdict::Drop(DropReason::NoFlow);
    assert_eq!(sends(&near, tcp("10.176.1.2:5001", "10.176.1.77:80").flags(ACK)), opens_nothing);
    assert_eq!(arrives(&far, tcp("10.176.1.77:5001", "10.176.1.2:80").flags(ACK)), opens_nothing);
    assert_eq!(counted(&far, Hook::FromOverlay, DropReason::NotAllowed), 10);
}

#[test]
fn each_host_refuses_by_what_it_knows_itself() {
    let (asked, asking) = (apart(&[]), apart(&[]));

    assert_eq!(arrives(&asked, tcp("10.176.1.77:5000", "10.176.1.2:80")), REFUSED);
    assert_eq!(sends(&asking, tcp("10.176.1.2:5000", "10.176.1.77:80")), REFUSED);
    assert!(asked.flows.borrow().is_empty() && asking.flows.borrow().is_empty());
}

#[test]
fn everything_may_be_allowed_and_what_has_no_ports_then_needs_it_each_way() {
    let world = apart(&[(HERE, THERE, None)]);

    assert_eq!(sends(&world, other("10.176.1.2", "10.176.1.77", 47, &[1; 40])), Verdict::Tunnel(TUNNEL));
    assert_eq!(arrives(&world, other("10.176.1.77", "10.176.1.2", 47, &[1; 40])), REFUSED);
    assert_eq!(sends(&world, udp("10.176.1.2:5000", "10.176.1.77:53")), Verdict::Tunnel(TUNNEL));
    assert_eq!(arrives(&world, udp("10.176.1.77:53", "10.176.1.2:5000")), Verdict::Peer(A));
}

#[test]
fn what_is_denied_again_ends_with_its_flow_at_either_host() {
    let mut world = apart(&[(HERE, THERE, Some(80)), (THERE, HERE, Some(80))]);
    let out = || tcp("10.176.1.2:5000", "10.176.1.77:80");
    let into = || tcp("10.176.1.77:5000", "10.176.1.2:80");
    assert_eq!((sends(&world, out()), arrives(&world, into())), (Verdict::Tunnel(TUNNEL), Verdict::Peer(A)));

    world.allowances.clear();
    world.flows.borrow_mut().clear();

    assert_eq!((sends(&world, out()), arrives(&world, into())), (REFUSED, REFUSED));
}

#[test]
fn errors_and_fragments_go_where_their_flow_goes() {
    let world = apart(&[(HERE, THERE, None), (THERE, HERE, None)]);
    let error = |port: u16| {
        let about = udp(&format!("10.176.1.2:{port}"), "10.176.1.77:53").bytes();
        icmp_error("10.176.1.77", "10.176.1.2", false, &about, 28)
    };
    assert_eq!(sends(&world, udp("10.176.1.2:5000", "10.176.1.77:53")), Verdict::Tunnel(TUNNEL));
    assert_eq!((arrives(&world, error(5000)), arrives(&world, error(5001))), (Verdict::Peer(A), REFUSED));

    let whole = udp("10.176.1.77:6000", "10.176.1.2:53").payload(&[7; 2000]).bytes();
    for fragment in fragments(&whole, 1480, 4711) {
        assert_eq!(comes(&world, VTEP, VNI, container_mac(A), fragment).0, Verdict::Peer(A));
    }
    assert_eq!(arrives(&world, udp("10.176.1.77:6000", "10.176.1.2:53")), Verdict::Peer(A));
    let about = udp("10.176.1.77:6000", "10.176.1.2:53").bytes();
    assert_eq!(sends(&world, icmp_error("10.176.1.2", "10.176.1.77", false, &about, 28)), Verdict::Tunnel(TUNNEL));

    let whole = udp("10.176.1.2:6001", "10.176.1.77:53").payload(&[7; 1400]).bytes();
    for fragment in fragments(&whole, 700, 4712) {
        assert_eq!(sends_frame(&world, THERE_MAC, fragment).0, Verdict::Tunnel(TUNNEL));
    }
}

#[test]
fn an_error_from_another_host_is_of_the_flows_other_end_or_of_the_gateway_there() {
    let world = apart(&[(HERE, THERE, None)]);
    assert_eq!(sends(&world, udp("10.176.1.2:5000", "10.176.1.77:53")), Verdict::Tunnel(TUNNEL));
    let about = udp("10.176.1.2:5000", "10.176.1.77:53").bytes();

    for (from, verdict) in
        [("10.176.1.77", Verdict::Peer(A)), ("10.176.1.1", Verdict::Peer(A)), ("10.176.1.78", REFUSED)]
    {
        assert_eq!(arrives(&world, icmp_error(from, "10.176.1.2", false, &about, 28)), verdict, "{from}");
    }
}

#[test]
fn one_that_has_moved_is_followed_and_one_that_is_gone_is_answered_for() {
    let mut world = apart(&[(HERE, THERE, Some(80))]);
    let out = || tcp("10.176.1.2:5000", "10.176.1.77:80");
    assert_eq!(sends(&world, out()), Verdict::Tunnel(TUNNEL));

    // To another host: the flow goes on there, that host knows whether it does.
    for remote in world.remotes.values_mut() {
        remote.vtep = Address::v4([192, 0, 2, 10]);
    }
    let (verdict, frame) = sends_frame(&world, THERE_MAC, out().flags(ACK).bytes());
    assert_eq!(
        (verdict, frame.sent_to.map(|to| to.vtep)),
        (Verdict::Tunnel(TUNNEL), Some(Address::v4([192, 0, 2, 10])))
    );

    // Gone: its sender hears of that at once.
    world.remotes.clear();
    assert_eq!(sends_frame(&world, THERE_MAC, out().flags(ACK).bytes()).0, Verdict::Peer(A));

    // And here, where somebody else asks for one that is not there any more.
    assert_eq!(
        comes(&world, VTEP, VNI, [2, 0, 0, 0, 9, 2], tcp("10.176.1.77:1", "10.176.1.99:80").bytes()).0,
        Verdict::Tunnel(TUNNEL)
    );
    assert_eq!(counted(&world, Hook::FromOverlay, DropReason::NoEndpoint), 1);
}

#[test]
fn containers_of_one_host_are_kept_apart_there_too_by_whatever_address_they_try() {
    let world = apart(&[(HERE, BESIDE, Some(80))]);
    let beside = |bytes: Vec<u8>| sends_frame(&world, container_mac(B), bytes).0;

    for (build, expected) in [
        (tcp("10.176.1.2:5000", "10.176.1.3:80"), Verdict::Peer(B)),
        (tcp("10.176.1.2:5000", "10.176.1.3:81"), REFUSED),
        (udp("10.176.1.2:5000", "10.176.1.3:80"), REFUSED),
    ] {
        for bytes in both_families(build) {
            assert_eq!(beside(bytes), expected);
        }
    }
    // One container's link-layer address and another's address, here or there.
    assert_eq!(beside(tcp("10.176.1.2:5000", "10.176.1.77:80").bytes()), REFUSED);
    // A link-local source is the bridge's, whose ports are apart.
    let mut link_local = ipv6_twin(&udp("10.176.1.2:5000", "10.176.1.3:80").bytes());
    link_local[22..38].copy_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(beside(link_local), Verdict::Pass);
}

#[test]
fn who_asks_for_a_neighbour_is_answered_on_its_own_host_and_nothing_of_it_crosses() {
    let world = apart(&[]);
    for (target, mac) in [(THERE, THERE_MAC), (BESIDE, container_mac(B))] {
        let (verdict, frame) = sends_frame(&world, [0xff; 6], arp(HERE, target));
        assert_eq!((verdict, &frame.bytes[22..28]), (Verdict::Peer(A), &mac[..]));
        // To everybody who may be meant, and to the one that is known already.
        for to in [[0x33, 0x33, 0xff, 0, 0, 1], mac] {
            let (verdict, frame) = sends_frame(&world, to, solicitation(twin(HERE), twin(target)));
            assert_eq!((verdict, &frame.bytes[6..12], frame.bytes[54]), (Verdict::Peer(A), &mac[..], 136));
            ipv6_checksums_hold(&frame.bytes).expect("its checksum holds");
        }
    }
    // An address that nobody has, and what asks for nothing, the bridge has, whose ports are apart.
    assert_eq!(sends_frame(&world, [0xff; 6], arp(HERE, [10, 176, 1, 99])).0, Verdict::Pass);
    let mut silent = solicitation(twin(HERE), twin(THERE));
    silent[54] = 200;
    assert_eq!(sends_frame(&world, THERE_MAC, silent).0, Verdict::Pass);

    // From another host nobody is asked.
    let mut asked = arp(THERE, HERE);
    asked[22..28].copy_from_slice(&THERE_MAC);
    assert_eq!(comes(&world, VTEP, VNI, container_mac(A), asked).0, REFUSED);
    let mut asked = solicitation(twin(THERE), twin(HERE));
    asked[38..54].copy_from_slice(&twin(HERE));
    assert_eq!(comes(&world, VTEP, VNI, container_mac(A), asked).0, REFUSED);
}

#[test]
fn a_container_that_keeps_an_old_link_layer_address_is_told_the_new_one_if_it_may_ask_at_all() {
    let (world, closed) = (apart(&[(HERE, THERE, Some(80))]), apart(&[]));
    let out = || tcp("10.176.1.2:5000", "10.176.1.77:80").bytes();

    assert_eq!(sends_frame(&world, [2, 0, 0, 0, 9, 1], out()).0, Verdict::Device(A));
    assert_eq!(sends_frame(&closed, [2, 0, 0, 0, 9, 1], out()).0, REFUSED);
}

#[test]
fn an_allowance_is_of_its_own_network() {
    let mut world = apart(&[(THERE, HERE, Some(80))]);
    // Network green has the same addresses as blue, and the next VNI.
    world.segments.insert(VNI + 1, netd_common::tables::Segment { zone: Zone(9), ..world.segments[&VNI] });
    world.vteps.insert(netd_common::tables::VtepKey { address: VTEP, vni: VNI + 1 });
    let blue = EndpointKey { address: Address::v4(HERE), zone: Zone(1), pad: 0 };
    let green = world.endpoints[&EndpointKey { address: Address::v4(BESIDE), ..blue }];
    world.endpoints.insert(EndpointKey { zone: Zone(9), ..blue }, green);
    let asks = || tcp("10.176.1.77:5000", "10.176.1.2:80").bytes();

    assert_eq!(comes(&world, VTEP, VNI, container_mac(A), asks()).0, Verdict::Peer(A));
    assert_eq!(comes(&world, VTEP, VNI + 1, container_mac(B), asks()).0, REFUSED);
    assert!(world.remotes.contains_key(&RemoteKey { address: Address::v4(THERE), vni: VNI }));
    assert_eq!(world.endpoints[&blue].mac, Mac(container_mac(A)));
}
