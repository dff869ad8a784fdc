//! A port that every host publishes: the client's host and the container's in memory, and the tunnel between them.

use netd_common::{
    packet::ETH,
    parse::tcp_flags::{ACK, SYN},
    tables::{EndpointKey, Flow, Hook, MeshEnd, TunnelKey, Via, VtepKey},
    tuple::{Address, Zone},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    mesh::{
        CLIENT, CONTAINER, Hosts, KNOCKED, VNI, VTEPS, VTEPS_OF_IPV6, containers_host, ends, from_outside, of_both,
        whole,
    },
    packets::{Build, checksums_hold, icmp_error, sum, tcp, udp},
    scene::{A, C, HOST, TUNNEL, UPLINK, bridge_mac, container_mac},
    world::Frame,
};

#[test]
fn a_client_reaches_a_container_of_another_host_as_itself_and_is_answered_by_whom_it_asked() {
    for of in [tcp as fn(&str, &str) -> Build, udp] {
        let knock = from_outside(of(CLIENT, KNOCKED));
        let answer = of_both(of("10.176.1.2:80", CLIENT).flags(SYN | ACK));
        let seen = of_both(of(CLIENT, "10.176.1.2:80"));
        let heard = of_both(of(KNOCKED, CLIENT).flags(SYN | ACK));
        for family in 0..2 {
            let hosts = Hosts::new();

            let (verdict, bytes) = hosts.knocks(knock[family].clone());
            assert_eq!(verdict, Verdict::Peer(A));
            assert_eq!(ends(&bytes), ends(&seen[family]), "as the client itself");
            let (verdict, bytes) = hosts.answers(answer[family].clone());
            assert_eq!(verdict, Verdict::Neighbour(UPLINK));
            assert_eq!(ends(&bytes), ends(&heard[family]), "from where it knocked");
            assert_eq!([hosts.ingress.flows.borrow().len(), hosts.container.flows.borrow().len()], [2, 2]);
        }
    }
}

#[test]
fn one_client_may_knock_at_two_hosts_with_one_port() {
    let hosts = Hosts::new();
    let third = Address::v4([192, 0, 2, 10]);
    let mut container = containers_host();
    container.vteps.insert(VtepKey { address: third, vni: VNI });
    let place = EndpointKey { address: Address::ANY_V6, zone: Zone::of_vtep(third), pad: 0 };
    container.mesh.insert(place, MeshEnd { vtep: third, ..MeshEnd::default() });
    let hosts = Hosts { container, ..hosts };
    let passed_on = hosts.enters(from_outside(tcp(CLIENT, KNOCKED))[0].clone());

    let first = hosts.arrives(&passed_on, VTEPS[0]);
    let second = hosts.arrives(&passed_on, third);

    assert_eq!((first.0, second.0), (Verdict::Peer(A), Verdict::Peer(A)));
    let [a, b] = [&first.1, &second.1].map(|bytes| u16::from_be_bytes([bytes[34], bytes[35]]));
    assert!(a == 4000 && b != 4000, "the container sees two connections: {a} {b}");
    for (port, vtep) in [(a, VTEPS[0]), (b, third)] {
        let answer = tcp("10.176.1.2:80", &format!("198.51.100.7:{port}")).flags(SYN | ACK);
        let mut frame = Frame::at(A, answer.macs(container_mac(A), bridge_mac(20)).bytes());
        assert_eq!(hosts.container.run(Hook::FromContainer, &mut frame), Verdict::Tunnel(TUNNEL));
        assert_eq!(frame.sent_to.map(|to| to.vtep), Some(vtep), "each back to its own host");
        assert_eq!(ends(&frame.bytes).1, [0, 80, 0x0f, 0xa0], "to the port that the client has");
    }
}

#[test]
fn what_opens_nothing_or_comes_by_a_host_that_is_gone_ends() {
    let mut hosts = Hosts::new();
    let passed_on = hosts.enters(from_outside(tcp(CLIENT, KNOCKED))[0].clone());
    let mut late = passed_on.clone();
    late.truncate(ETH + 40);
    // An ACK of nothing: the flag's byte and what it does to the checksum.
    let ack = tcp(CLIENT, "10.176.1.2:80").flags(ACK).macs(bridge_mac(20), container_mac(A)).bytes();
    assert_eq!(hosts.arrives(&ack, VTEPS[0]).0, Verdict::Drop(DropReason::NoFlow));

    // To one who had the address before.
    let mut stale = passed_on.clone();
    stale[..6].copy_from_slice(&[2, 0, 0, 0, 9, 2]);
    assert_eq!(hosts.arrives(&stale, VTEPS[0]).0, Verdict::Drop(DropReason::NoEndpoint));

    assert_eq!(hosts.arrives(&passed_on, VTEPS[0]).0, Verdict::Peer(A));
    hosts.container.mesh.clear();
    let answer = tcp("10.176.1.2:80", CLIENT).flags(SYN | ACK).bytes();
    assert_eq!(hosts.leaves(answer).0, Verdict::Drop(DropReason::NoEndpoint));
    hosts.ingress.mesh.clear();
    let mut again = Frame::at(UPLINK, from_outside(tcp(CLIENT, KNOCKED))[0].clone());
    assert_eq!(hosts.ingress.run(Hook::FromUplink, &mut again), Verdict::Drop(DropReason::NoEndpoint));
}

#[test]
fn an_answer_that_nobody_waits_for_goes_nowhere() {
    let hosts = Hosts::new();
    let answer = tcp("10.176.1.2:80", CLIENT).flags(SYN | ACK).macs(container_mac(A), bridge_mac(20)).bytes();
    let mut frame = Frame { tunnel: Some(TunnelKey { vtep: VTEPS[1], vni: VNI }), ..Frame::at(TUNNEL, answer) };

    assert_eq!(hosts.ingress.run(Hook::FromOverlay, &mut frame), Verdict::Drop(DropReason::NoFlow));
}

#[test]
fn a_way_that_narrows_is_told_to_the_container_through_the_tunnel() {
    for family in 0..2 {
        let hosts = Hosts::new();
        assert_eq!(hosts.knocks(from_outside(udp(CLIENT, KNOCKED))[family].clone()).0, Verdict::Peer(A));
        let (_, heard) = hosts.answers(of_both(udp("10.176.1.2:80", CLIENT).payload(&[7; 400]))[family].clone());
        // A router beyond the client's host cannot pass the answer on, and quotes it.
        let answer = udp(KNOCKED, CLIENT).payload(&[7; 400]).bytes();
        let error = icmp_error("203.0.113.1", "192.0.2.1", true, &answer, 28);
        let error = from_outside(error)[family].clone();
        if family == 1 {
            // The twin of an IPv4 error is none of IPv6.
            continue;
        }

        let (verdict, bytes) = hosts.knocks(error);

        assert_eq!(verdict, Verdict::Peer(A));
        assert_eq!(bytes[26..34], [203, 0, 113, 1, 10, 176, 1, 2], "the router's word, to the container");
        assert_eq!(bytes[54..62], [10, 176, 1, 2, 198, 51, 100, 7], "about what it sent");
        assert!(heard.len() > 400);
    }
}

#[test]
fn what_is_too_large_for_the_tunnel_is_the_stacks_to_refuse_or_cut_around_the_encapsulation() {
    let mut hosts = Hosts::new();
    hosts.ingress.segments.get_mut(&VNI).expect("blue").underlay_mtu = 1500;

    let mut frame = Frame::at(UPLINK, large(true));
    assert_eq!(hosts.ingress.run(Hook::FromUplink, &mut frame), Verdict::Pass);
    assert_eq!(frame.bytes[30..34], CONTAINER, "as the container would have got it");
    assert_eq!(hosts.enters(large(false))[30..34], CONTAINER);
}

/// A datagram of 1500 bytes from outside. The scene's tunnel carries 1500: the tests have one that carries less.
fn large(uncut: bool) -> Vec<u8> {
    let mut bytes = from_outside(udp(CLIENT, KNOCKED).payload(&[1; 1472]))[0].clone();
    bytes[20] = if uncut { 0x40 } else { 0 };
    bytes[24..26].fill(0);
    let checksum = (!sum(&bytes[14..34])).to_be_bytes();
    bytes[24..26].copy_from_slice(&checksum);
    bytes
}

#[test]
fn the_stack_is_to_refuse_what_may_be_cut_too_where_no_stack_cuts_around_the_encapsulation() {
    let mut hosts = Hosts::between(VTEPS_OF_IPV6);
    hosts.ingress.segments.get_mut(&VNI).expect("blue").underlay_mtu = 1500;

    let mut frame = Frame::at(UPLINK, large(false));
    assert_eq!(hosts.ingress.run(Hook::FromUplink, &mut frame), Verdict::Pass);

    assert_eq!((&frame.bytes[30..34], frame.bytes[20]), (&CONTAINER[..], 0x40), "it may not be cut any more");
    checksums_hold(&frame.bytes).expect("whole");
}

#[test]
fn a_container_that_knocks_at_its_host_is_answered_through_it() {
    let hosts = Hosts::new();
    let knock = tcp("10.176.2.2:4000", KNOCKED).macs(container_mac(C), bridge_mac(30)).bytes();
    let mut frame = Frame::at(C, knock);

    assert_eq!(hosts.ingress.run(Hook::FromContainer, &mut frame), Verdict::Tunnel(TUNNEL));
    whole(&frame.bytes);
    assert_eq!(frame.bytes[26..34], [HOST, CONTAINER].concat(), "as the address it knocked at");
    let port = u16::from_be_bytes([frame.bytes[34], frame.bytes[35]]);
    assert_eq!(hosts.arrives(&frame.bytes, VTEPS[0]).0, Verdict::Peer(A));

    let (verdict, bytes) = hosts.answers(tcp("10.176.1.2:80", &format!("192.0.2.1:{port}")).flags(SYN | ACK).bytes());
    assert_eq!((verdict, ends(&bytes)), (Verdict::Peer(C), ends(&tcp(KNOCKED, "10.176.2.2:4000").bytes())));
}

#[test]
fn no_flow_of_the_mesh_asks_for_the_hosts_firewall() {
    let mut hosts = Hosts::new();
    let settings = hosts.ingress.settings.as_mut().expect("the scene has settings");
    settings.firewall.generation = 7;

    assert_eq!(hosts.knocks(from_outside(tcp(CLIENT, KNOCKED))[0].clone()).0, Verdict::Peer(A));

    let flows = hosts.ingress.flows.borrow();
    let into: Vec<&Flow> = flows.values().filter(|flow| flow.via == Via::Tunnel as u8).collect();
    assert!(matches!(into[..], [flow] if flow.generation == 0), "nothing leads the stack there: {into:?}");
}
