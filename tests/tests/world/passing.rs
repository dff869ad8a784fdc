//! What does not belong to netd goes by untouched.

use std::net::Ipv6Addr;

use netd_common::{
    tables::{DeviceKind, Hook, device_flags},
    verdict::{DropReason, Verdict},
};
use netd_tests::{
    neighbours::arp,
    packets::{Build, tcp, udp},
    scene::{self, A, B, FOREIGN, UPLINK, UPLINK_MACS},
    story::{SERVER, enter, host_sends, leave},
    world::{Frame, World},
};

const BROADCAST: [u8; 6] = [0xff; 6];

#[test]
fn frames_of_protocols_that_netd_does_not_know_pass_at_every_hook() {
    // LLDP, PPPoE discovery and session, Q-in-Q, a VLAN whose tag is in the bytes, MPLS, MACsec, and STP, whose length stands there.
    let unknown = [0x88cc, 0x8863, 0x8864, 0x88a8, 0x8100, 0x8847, 0x88e5, 0x0026];
    let world = scene::world();
    for ethertype in unknown.map(u16::to_be_bytes) {
        for (hook, device, macs) in [
            (Hook::FromContainer, A, [scene::container_mac(A), BROADCAST]),
            (Hook::FromUplink, UPLINK, [UPLINK_MACS[1], UPLINK_MACS[0]]),
            (Hook::ToUplink, UPLINK, [UPLINK_MACS[0], UPLINK_MACS[1]]),
        ] {
            let mut bytes = tcp("203.0.113.9:40000", "192.0.2.1:8080").macs(macs[0], macs[1]).bytes();
            bytes[12..14].copy_from_slice(&ethertype);
            let came_by = if hook == Hook::ToUplink { 0 } else { device };
            let frame = Frame { came_by, ..Frame::at(device, bytes) };

            assert_untouched(&world, hook, frame);
        }
    }
}

#[test]
fn a_virtual_lan_on_an_uplink_or_among_containers_is_left_alone() {
    let world = scene::world();
    let published = tcp("203.0.113.9:40000", "192.0.2.1:8080").macs(UPLINK_MACS[1], UPLINK_MACS[0]).bytes();
    let outward =
        tcp("10.176.1.2:33000", "198.51.100.7:80").macs(scene::container_mac(A), scene::bridge_mac(20)).bytes();

    assert_untouched(&world, Hook::FromUplink, Frame { tag: Some(7), ..Frame::at(UPLINK, published) });
    assert_untouched(&world, Hook::FromContainer, Frame { tag: Some(7), ..Frame::at(A, outward) });
    assert_eq!(world.flows.borrow().len(), 0);
}

#[test]
fn what_the_host_sends_by_a_virtual_lan_is_not_given_another_port_once_more_beneath_it() {
    let world = scene::world();
    let server = "198.51.100.7:53";
    leave(&world, A, udp("10.176.1.2:5000", server), false);
    // The virtual LAN is an uplink too, and there the host is given another port than the container's.
    let moved = host_sends(&world, udp("192.0.2.1:5000", server), false).source();
    assert_ne!(moved, "192.0.2.1:5000");
    let flows = world.flows.borrow().len();

    let beneath = udp(&moved, server).macs(UPLINK_MACS[0], UPLINK_MACS[1]).bytes();
    assert_untouched(&world, Hook::ToUplink, Frame { tag: Some(7), came_by: 0, ..Frame::at(UPLINK, beneath) });

    assert_eq!(world.flows.borrow().len(), flows);
}

#[test]
fn a_virtual_lan_does_not_hide_in_whose_name_a_container_sends() {
    let world = scene::world();
    let spoofed = tcp("10.176.1.2:33000", "198.51.100.7:80").macs([2, 6, 6, 6, 6, 6], scene::bridge_mac(20)).bytes();

    let verdict = world.run(Hook::FromContainer, &mut Frame { tag: Some(7), ..Frame::at(A, spoofed) });

    assert_eq!(verdict, Verdict::Drop(DropReason::SpoofedMac));
}

/// Tag control information of no virtual LAN: a priority alone, and not even that.
const OF_NO_LAN: [u16; 2] = [0xa000, 0];

#[test]
fn a_tag_of_no_virtual_lan_is_as_none() {
    for tag in OF_NO_LAN.map(Some) {
        let world = scene::world();
        let published = tcp("203.0.113.9:40000", "192.0.2.1:8080").macs(UPLINK_MACS[1], UPLINK_MACS[0]).bytes();
        let outward =
            tcp("10.176.1.2:33000", "198.51.100.7:80").macs(scene::container_mac(A), scene::bridge_mac(20)).bytes();
        let mut frames =
            [(UPLINK, published), (A, outward)].map(|(device, bytes)| Frame { tag, ..Frame::at(device, bytes) });

        let inward = world.run(Hook::FromUplink, &mut frames[0]);
        let outward = world.run(Hook::FromContainer, &mut frames[1]);

        assert_eq!((inward, outward), (Verdict::Peer(A), Verdict::Neighbour(UPLINK)));
        assert_eq!(frames.each_ref().map(|frame| frame.tag), [None; 2], "it goes no further");
    }
}

#[test]
fn a_tag_of_no_virtual_lan_hides_nothing_that_a_container_sends() {
    let world = scene::world();
    let (own, bridge) = (scene::container_mac(A), scene::bridge_mac(20));
    let spoofed = tcp("10.176.1.3:33000", "198.51.100.7:80").macs(own, bridge).bytes();
    let claimed = arp(2, [own, bridge], (own, scene::address_of(B)), (bridge, scene::gateway_of(A)));
    let run = |tag: u16, bytes: &[u8]| {
        world.run(Hook::FromContainer, &mut Frame { tag: Some(tag), ..Frame::at(A, bytes.to_vec()) })
    };
    for tag in OF_NO_LAN {
        let spoof = Verdict::Drop(DropReason::SpoofedAddress);
        assert_eq!([&spoofed, &claimed].map(|bytes| run(tag, bytes)), [spoof; 2]);
        // Whoever gets it takes off as many as there are.
        assert_eq!(run(tag, &over(tag, &spoofed)), Verdict::Drop(DropReason::Malformed));
        assert_eq!(run(tag, &over(7, &spoofed)), Verdict::Pass, "beneath it is of a virtual LAN");
    }
}

/// A frame with one more tag, in its bytes.
fn over(tag: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat()
}

#[test]
fn what_a_promiscuous_uplink_overhears_is_not_answered() {
    let world = scene::world();
    let overheard = tcp("203.0.113.9:40000", "192.0.2.1:8080").macs(UPLINK_MACS[1], [2, 9, 9, 9, 9, 9]).bytes();

    for tag in [None, Some(0xa000)] {
        let frame = Frame { for_another: true, tag, ..Frame::at(UPLINK, overheard.clone()) };
        assert_untouched(&world, Hook::FromUplink, frame);
    }
    assert_eq!(world.flows.borrow().len(), 0);
}

#[test]
fn a_broadcast_opens_no_published_port() {
    let world = scene::world();
    for (to, mac) in
        [("192.0.2.255:5353", BROADCAST), ("192.0.2.1:5353", BROADCAST), ("224.0.0.251:5353", [1, 0, 0x5e, 0, 0, 0xfb])]
    {
        let bytes = udp("192.0.2.77:5353", to).macs(UPLINK_MACS[1], mac).bytes();

        assert_untouched(&world, Hook::FromUplink, Frame::at(UPLINK, bytes));
    }
    assert_eq!(world.flows.borrow().len(), 0);
}

#[test]
fn the_words_of_a_link_pass_in_both_directions() {
    let group = |bytes: [u8; 6]| bytes;
    let words: [(&str, Build, [u8; 6]); 5] = [
        ("DHCP asked for", udp("0.0.0.0:68", "255.255.255.255:67"), BROADCAST),
        ("DHCP answered", udp("192.0.2.254:67", "192.0.2.1:68"), UPLINK_MACS[0]),
        ("mDNS", udp("192.0.2.77:5353", "224.0.0.251:5353"), group([1, 0, 0x5e, 0, 0, 0xfb])),
        ("IGMP", udp("192.0.2.77:1", "224.0.0.22:1").protocol(2).ip_options(4), group([1, 0, 0x5e, 0, 0, 0x16])),
        ("VRRP", udp("192.0.2.77:1", "224.0.0.18:1").protocol(112), group([1, 0, 0x5e, 0, 0, 0x12])),
    ];
    for (name, word, to) in words {
        let world = scene::world();
        let inward = word.clone().macs(UPLINK_MACS[1], to).bytes();
        let outward = word.macs(UPLINK_MACS[0], to).bytes();

        assert_untouched(&world, Hook::FromUplink, Frame::at(UPLINK, inward));
        assert_untouched(&world, Hook::ToUplink, Frame { came_by: 0, ..Frame::at(UPLINK, outward) });
        assert_eq!(world.flows.borrow().len(), 0, "{name}");
    }
}

#[test]
fn a_containers_words_to_its_link_pass_to_the_bridge() {
    let (own, world) = (scene::container_mac(A), scene::world());
    let words = [
        (udp("0.0.0.0:68", "255.255.255.255:67"), BROADCAST),
        (udp("10.176.1.2:5353", "224.0.0.251:5353"), [1, 0, 0x5e, 0, 0, 0xfb]),
        (udp("10.176.1.2:1", "224.0.0.22:1").protocol(2).ip_options(4), [1, 0, 0x5e, 0, 0, 0x16]),
        (udp("10.176.1.2:1", "224.0.0.18:1").protocol(112), [1, 0, 0x5e, 0, 0, 0x12]),
    ];
    for (word, to) in words {
        assert_untouched(&world, Hook::FromContainer, Frame::at(A, word.macs(own, to).bytes()));
    }
}

#[test]
fn the_words_of_a_link_pass_by_ipv6_too_in_both_directions_and_from_containers() {
    let [mdns, dhcp] =
        [5353_u16, 547].map(|port| [&[0x14, 0xe9][..], &port.to_be_bytes(), &[0, 12, 1, 1, 0, 0, 0, 0]].concat());
    // With a router alert before it (RFC 3810 section 5).
    let report = [&[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 1, 1, 0, 0, 0, 1, 4, 0, 0, 0][..], &[0xff; 16]].concat();
    let about_neighbours =
        |kind: u8| [&[kind, 0, 1, 1, 0, 0, 0, 0][..], &link_local(0x77), &[1, 1, 2, 0, 0, 0, 0, 0x77]].concat();
    let words = [
        ("mDNS", 17, "ff02::fb", mdns, true),
        ("DHCP", 17, "ff02::1:2", dhcp, true),
        ("MLD", 0, "ff02::16", report, true),
        ("VRRP", 112, "ff02::12", vec![0x31, 7, 100, 1, 0, 100, 1, 1], true),
        ("a router asked for", 58, "ff02::2", vec![133, 0, 1, 1, 0, 0, 0, 0], true),
        ("a router advertised", 58, "ff02::1", vec![134, 0, 1, 1, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0], false),
        ("a neighbour asked for", 58, "ff02::1:ff00:77", about_neighbours(135), false),
        ("a neighbour advertised", 58, "ff02::1", about_neighbours(136), false),
    ];
    for (name, next, to, payload, from_container) in words {
        // A report goes no further than the link (RFC 3810 section 5); who believes a neighbour looks that it is one (RFC 4861).
        let hops = if name == "MLD" { 1 } else { 255 };
        let to: Ipv6Addr = to.parse().expect("an address");
        let [.., a, b, c, d] = to.octets();
        let group = [0x33, 0x33, a, b, c, d];
        let said = |by: u8, mac: [u8; 6]| {
            [&group[..], &mac, &[0x86, 0xdd], &header(by, to, (next, hops), &payload), &payload].concat()
        };
        let world = scene::world_of_both_families();

        assert_untouched(&world, Hook::FromUplink, Frame::at(UPLINK, said(0x77, UPLINK_MACS[1])));
        assert_untouched(&world, Hook::ToUplink, Frame { came_by: 0, ..Frame::at(UPLINK, said(0x78, UPLINK_MACS[0])) });
        if from_container {
            assert_untouched(&world, Hook::FromContainer, Frame::at(A, said(A as u8, scene::container_mac(A))));
        }
        assert_eq!(world.flows.borrow().len(), 0, "{name}");
    }
}

/// The link-local address made of the link-layer address 02:00:00:00:00:`last` (RFC 4291 appendix A).
fn link_local(last: u8) -> [u8; 16] {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, last]
}

fn header(by: u8, to: Ipv6Addr, (next, hops): (u8, u8), payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, high, low, next, hops][..], &link_local(by), &to.octets()].concat()
}

#[test]
fn the_hosts_tunnels_leave_without_a_flow_and_return_to_it() {
    let world = scene::world();
    for (name, tunnel) in [
        ("VXLAN", udp("192.0.2.1:41234", "198.51.100.7:4789")),
        ("WireGuard", udp("192.0.2.1:51820", "198.51.100.7:51820")),
        ("GRE", udp("192.0.2.1:1", "198.51.100.7:1").protocol(47)),
        ("ESP", udp("192.0.2.1:1", "198.51.100.7:1").protocol(50)),
    ] {
        let out = tunnel.clone().macs(UPLINK_MACS[0], UPLINK_MACS[1]).bytes();
        let back = tunnel.turned().macs(UPLINK_MACS[1], UPLINK_MACS[0]).bytes();

        assert_untouched(&world, Hook::ToUplink, Frame { came_by: 0, ..Frame::at(UPLINK, out) });
        assert_untouched(&world, Hook::FromUplink, Frame::at(UPLINK, back));
        assert_eq!(world.flows.borrow().len(), 0, "{name}");
    }
}

#[test]
fn another_engines_containers_are_forwarded_as_if_netd_were_not_there() {
    let mut world = scene::world();
    no_router(&mut world);
    let of_another = tcp("172.17.0.2:40000", "198.51.100.7:80").macs(UPLINK_MACS[0], UPLINK_MACS[1]).bytes();

    assert_untouched(&world, Hook::ToUplink, Frame { came_by: FOREIGN, ..Frame::at(UPLINK, of_another) });
}

#[test]
fn a_host_that_routes_for_containers_alone_routes_nothing_else_whatever_the_way_out() {
    let mut world = scene::world();
    // By another uplink, by a device that netd knows nothing of, and back where it came from.
    let beyond = ["203.0.113.5:22", "198.18.4.4:22", "192.0.2.77:22"];
    let run = |world: &World, to: &str| enter(world, tcp("192.0.2.66:40000", to), false).verdict;
    for to in beyond {
        assert_eq!(run(&world, to), Verdict::Pass, "it was a router before");
    }

    no_router(&mut world);

    for to in beyond {
        assert_eq!(run(&world, to), Verdict::Drop(DropReason::NotARouter), "{to}");
    }
    assert_eq!(run(&world, "192.0.2.1:22"), Verdict::Pass, "the host's own");
    assert_eq!(run(&world, "10.176.1.1:22"), Verdict::Pass, "an address of the host on another device");
    assert_eq!(
        run(&world, "10.176.1.2:22"),
        Verdict::Pass,
        "the container's own hook refuses it, with a better reason"
    );
    assert_eq!(run(&world, "192.0.2.1:8080"), Verdict::Peer(A));
    let out = leave(&world, B, tcp("10.176.1.3:5000", &format!("{SERVER}:80")), false);
    assert_eq!(out.verdict, Verdict::Neighbour(UPLINK));
}

fn no_router(world: &mut World) {
    let uplink = world.devices.get_mut(&UPLINK).expect("the scene has an uplink");
    assert!(uplink.is(DeviceKind::Uplink));
    uplink.flags |= device_flags::NOT_A_ROUTER_V4;
}

#[track_caller]
fn assert_untouched(world: &World, hook: Hook, frame: Frame) {
    let mut after = frame.clone();

    let verdict = world.run(hook, &mut after);

    assert_eq!((verdict, &after.bytes), (Verdict::Pass, &frame.bytes), "at {hook:?}");
}
