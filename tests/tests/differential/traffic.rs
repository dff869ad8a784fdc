//! Random packets at every hook, many of them of flows that are there already.

use std::net::Ipv4Addr;

use netd_common::{
    packet::ETH,
    parse::tcp_flags,
    tables::Hook,
    tuple::{Address, Tuple, Zone, echo},
};
use netd_tests::{
    neighbours::{self, Discovery},
    packets::{self, Build, ping, pong, tcp, udp},
    scene::{self, A, B, C, D, E, F, G, H, UPLINK},
    world::{Frame, World},
};
use rand::{Rng, rngs::StdRng};

pub fn packet(random: &mut StdRng, world: &World, v6: bool) -> (Hook, Frame) {
    if random.random_ratio(1, 12) {
        return (Hook::DnsLo, Frame::at(scene::LOOPBACK, within_a_container(random)));
    }
    let hook = pick(
        random,
        &[
            Hook::FromContainer,
            Hook::FromContainer,
            Hook::FromUplink,
            Hook::FromUplink,
            Hook::ToUplink,
            Hook::ToContainer,
            Hook::FromOverlay,
            Hook::FromHost,
        ],
    );
    let known = world.flows.borrow().keys().nth(random.random_range(0..64)).map(of_ipv4);
    let (device, came_by) = match hook {
        Hook::FromUplink | Hook::FromL3Uplink => (UPLINK, 0),
        Hook::FromContainer => (pick(random, &[A, A, B, C, D, E, E, F, G, H]), 0),
        Hook::ToUplink | Hook::ToL3Uplink => {
            (UPLINK, pick(random, &[0, 0, 20, 20, 30, 40, 70, 80, UPLINK, scene::FOREIGN]))
        }
        Hook::ToContainer => (pick(random, &[A, C, E]), pick(random, &[0, B, F, 20, 30, 80, UPLINK, scene::FOREIGN])),
        Hook::DnsLo | Hook::UplinkXdp => (scene::LOOPBACK, 0),
        Hook::FromOverlay => (scene::TUNNEL, 0),
        Hook::FromHost => (pick(random, &[20, 30, 80]), pick(random, &[0, 0, 0, UPLINK])),
    };
    if hook == Hook::FromContainer && random.random_ratio(1, 12) {
        return (hook, Frame { came_by, ..Frame::at(device, about_neighbours(random, device, v6)) });
    }
    let build = match known {
        Some(tuple)
            if (hook, came_by) == (Hook::ToUplink, 0) && tuple.zone == Zone::HOST && random.random_bool(0.7) =>
        {
            of_tuple(random, &tuple.reversed(Zone::HOST))
        }
        Some(tuple) if random.random_ratio(1, 8) && is_seen_at(hook, &tuple) => error_about(random, &tuple),
        Some(tuple) if random.random_bool(0.4) && is_seen_at(hook, &tuple) => of_tuple(random, &tuple),
        _ => anything(random, hook, device),
    };
    let mut bytes = decorate(random, build, hook, device).bytes();
    if v6 {
        bytes = packets::ipv6_twin(&bytes);
        if random.random_ratio(1, 8) {
            bytes = packets::with_extensions(&bytes, &extensions(random));
        }
    }
    if random.random_ratio(1, 20) {
        let header = if v6 { 40 } else { 20 };
        bytes.truncate(random.random_range(ETH + header..=bytes.len()));
    }
    if random.random_ratio(1, 40) {
        let ethertype = pick(random, &[[0x81, 0x00], [0x86, 0xdd], [0x88, 0xcc], [0x08, 0x06]]);
        bytes[12..14].copy_from_slice(&ethertype);
        // A test run takes no packet shorter than the header that its ethertype promises.
        bytes.resize(bytes.len().max(ETH + 40), 0);
    }
    let destination: [u8; 6] = bytes[..6].try_into().expect("six bytes");
    let for_another = device == UPLINK && destination[0] & 1 == 0 && destination != scene::UPLINK_MACS[0];
    (hook, Frame { came_by, for_another, ..Frame::at(device, bytes) })
}

/// What a container says and asks of who is at which link-layer address, some of it of others.
fn about_neighbours(random: &mut StdRng, device: u32, v6: bool) -> Vec<u8> {
    let own = scene::container_mac(device);
    let other = pick(random, &scene::CONTAINERS);
    let mac = if random.random_ratio(1, 8) { scene::container_mac(other) } else { own };
    let from = if random.random_ratio(1, 8) { other } else { device };
    let (from, target) = (scene::address_of(from), scene::address_of(other));
    if !v6 {
        let target = pick(random, &[target, target, [10, 176, 4, 1], [10, 176, 4, 77]]);
        return neighbours::arp(random.random_range(1..=2), [own, [0xff; 6]], (mac, from), ([0; 6], target));
    }
    let mut message = Discovery::solicitation(own, from, target);
    message.kind = pick(random, &[133, 134, 135, 135, 135, 135, 136, 136, 137, 143]);
    message.option = pick(random, &[Some((1, mac)), Some((1, mac)), Some((2, mac)), Some((14, mac)), None]);
    message.hop_limit = pick(random, &[255, 255, 1]);
    if random.random_ratio(1, 3) {
        message.macs[1] = scene::container_mac(other);
        message.ends[1] = message.target;
    }
    message.bytes()
}

/// One to five extension headers, most of which can be skipped.
fn extensions(random: &mut StdRng) -> Vec<(u8, Vec<u8>)> {
    let one = |random: &mut StdRng| {
        let mut header = packets::padding(8 * random.random_range(1..=6));
        let kind = pick(random, &[0, 43, 60, 60, 60, 51]);
        if kind == 43 {
            header[3] = pick(random, &[0, 0, 1]);
        }
        (kind, header)
    };
    (0..pick(random, &[1, 1, 1, 2, 3, 4, 5])).map(|_| one(random)).collect()
}

/// What a container sends to itself, some of it to the resolver and from it.
fn within_a_container(random: &mut StdRng) -> Vec<u8> {
    let end = |random: &mut StdRng| {
        let address = pick(random, &["127.0.0.1", "127.0.0.11", "127.0.0.11", "127.0.0.12", "10.176.1.2"]);
        let port = pick(random, &[53, 53, 716, 717, 718, 724, 725, 40_000, 40_001]);
        format!("{address}:{port}")
    };
    let (from, to) = (end(random), end(random));
    let build = if random.random_bool(0.5) { with_flags(random, tcp(&from, &to)) } else { udp(&from, &to) };
    let build = if random.random_ratio(1, 10) { build.ip_options(8) } else { build };
    let mut bytes = build.payload(&[3; 29]).bytes();
    if random.random_ratio(1, 20) {
        bytes.truncate(random.random_range(ETH + 20..=bytes.len()));
    }
    bytes
}

/// The tuple of which this is the twin; of IPv4 the tuple itself.
fn of_ipv4(tuple: &Tuple) -> Tuple {
    let of = |address: Address| if address.is_v4() { address } else { Address::v4(address.v4_bytes()) };
    Tuple { src: of(tuple.src), dst: of(tuple.dst), ..*tuple }
}

/// Whether a packet with this tuple may come by this hook: one of a network from its container, one of the host's zone from outside.
fn is_seen_at(hook: Hook, tuple: &Tuple) -> bool {
    (tuple.zone == Zone::HOST) == (hook == Hook::FromUplink)
}

fn of_tuple(random: &mut StdRng, tuple: &Tuple) -> Build {
    let (from, to) = (
        format!("{}:{}", tuple.src.ip(), tuple.src_port.number()),
        format!("{}:{}", tuple.dst.ip(), tuple.dst_port.number()),
    );
    match tuple.protocol {
        6 => with_flags(random, tcp(&from, &to)),
        17 => udp(&from, &to),
        132 => packets::sctp(&from, &to, pick(random, &[0, 1, 4, 6])),
        _ if tuple.echo == echo::REQUEST => {
            ping(&tuple.src.ip().to_string(), &tuple.dst.ip().to_string(), tuple.src_port.number())
        }
        _ => pong(&tuple.src.ip().to_string(), &tuple.dst.ip().to_string(), tuple.dst_port.number()),
    }
}

/// An error about a packet to which one with this tuple would be the answer.
fn error_about(random: &mut StdRng, tuple: &Tuple) -> Build {
    let quoted = of_tuple(random, &tuple.reversed(tuple.zone)).payload(&[9; 40]);
    let quoted = if random.random_ratio(1, 5) { quoted.ip_options(8) } else { quoted }.bytes();
    let from = if random.random_bool(0.5) { tuple.src.ip().to_string() } else { "203.0.113.1".to_owned() };
    let length = pick(random, &[20, 27, 28, 28, 28, 36, 60, 100]);
    packets::icmp_error(&from, &tuple.dst.ip().to_string(), random.random(), &quoted, length)
}

fn with_flags(random: &mut StdRng, build: Build) -> Build {
    use tcp_flags::{ACK, FIN, RST, SYN};
    build.flags(pick(random, &[SYN, SYN, SYN | ACK, ACK, ACK, ACK | FIN, RST, RST | ACK, 0]))
}

fn anything(random: &mut StdRng, hook: Hook, device: u32) -> Build {
    let own = Ipv4Addr::from(match device {
        UPLINK => [198, 51, 100, 7],
        container => scene::address_of(container),
    });
    let inside: &[&str] = match device {
        E | F | G => {
            &["10.176.4.2", "10.176.4.3", "10.176.4.4", "10.176.4.4", "10.176.4.1", "10.176.4.77", "10.176.5.2"]
        }
        _ => &[
            "10.176.1.2",
            "10.176.1.3",
            "10.176.2.2",
            "10.176.3.2",
            "10.176.5.2",
            "10.176.1.1",
            "10.176.2.1",
            "10.176.1.77",
        ],
    };
    let outside = ["198.51.100.7", "203.0.113.9", "192.0.2.77", "198.18.4.4", "192.0.2.1"];
    let from = match hook {
        Hook::FromContainer if random.random_bool(0.95) => own.to_string(),
        Hook::FromUplink if random.random_bool(0.95) => pick(random, &outside).to_owned(),
        _ => pick(random, inside).to_owned(),
    };
    let to = match hook {
        Hook::FromUplink => pick(
            random,
            &["192.0.2.1", "192.0.2.1", "192.0.2.1", "10.176.1.2", "10.176.5.2", "127.0.0.1", "203.0.113.5"],
        )
        .to_owned(),
        _ if random.random_bool(0.5) => pick(random, &outside).to_owned(),
        _ => pick(random, inside).to_owned(),
    };
    let sport = pick(random, &[1024u16, 5000, 20_000, 33_000, 33_001, 45_000, 61_001]);
    let dport = pick(random, &[53u16, 80, 443, 5353, 5353, 8080, 8080, 8100, 8163, 20_005]);
    let id = pick(random, &[0u16, 1, 7, 4711]);
    match random.random_range(0..9) {
        8 => packets::sctp(&format!("{from}:{sport}"), &format!("{to}:{dport}"), pick(random, &[0, 1, 1, 2, 4, 6])),
        0..=3 => with_flags(random, tcp(&format!("{from}:{sport}"), &format!("{to}:{dport}"))).payload(&[7; 33]),
        4..=5 => udp(&format!("{from}:{sport}"), &format!("{to}:{dport}")),
        6 => ping(&from, &to, id),
        _ => pong(&from, &to, id),
    }
}

fn decorate(random: &mut StdRng, mut build: Build, hook: Hook, device: u32) -> Build {
    let apart = matches!(device, E | F | G);
    let destination = if random.random_bool(if apart { 0.3 } else { 0.7 }) {
        scene::bridge_mac(scene::bridge_of(device))
    } else if apart {
        scene::container_mac(pick(random, &[E, F, G, G]))
    } else {
        pick(random, &[scene::container_mac(A), scene::container_mac(B), [0xff; 6], [2, 9, 9, 9, 9, 9]])
    };
    build = match hook {
        Hook::FromContainer if random.random_ratio(1, 30) => build.macs([2, 6, 6, 6, 6, 6], destination),
        Hook::FromContainer => build.macs(scene::container_mac(device), destination),
        Hook::FromHost => build.macs(scene::bridge_mac(device), scene::container_mac(pick(random, &[A, A, B, C, E]))),
        _ if random.random_ratio(1, 30) => {
            build.macs(scene::UPLINK_MACS[1], pick(random, &[[0xff; 6], [2, 9, 9, 9, 9, 9]]))
        }
        _ => build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]),
    };
    if random.random_ratio(1, 12) {
        build = build.ip_options(pick(random, &[4, 12, 40]));
    }
    if random.random_ratio(1, 25) {
        build = build.ttl(pick(random, &[0, 1, 2]));
    }
    if random.random_ratio(1, 25) {
        build = build.fragment(random.random(), random.random_range(0..4));
    }
    if random.random_ratio(1, 6) {
        build = build.without_udp_checksum();
    }
    if random.random_ratio(1, 30) {
        build = build.payload(&[1; 1600]);
    }
    build
}

fn pick<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    from[random.random_range(0..from.len())]
}
