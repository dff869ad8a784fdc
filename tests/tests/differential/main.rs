//! The programs in the kernel and the World in memory are the same: every verdict, byte and counter over random packets.

mod traffic;

use std::{collections::BTreeMap, net::Ipv4Addr};

use netd_common::{
    dns,
    packet::ETH,
    tables::{Firewall, Hook},
    tuple::{Address, Port, TCP, Tuple, UDP, Zone, echo},
    verdict::Verdict,
};
use netd_tests::{
    kernel::{Kernel, XDP_DROP, XDP_PASS, before_others, far_from_the_next_tick, in_the_scene},
    packets::{self, checksums_hold, tcp},
    scene,
    world::{Frame, World},
};
use rand::{SeedableRng, rngs::StdRng};

use self::traffic::packet;

const PACKETS: usize = 20_000;
const SEED: u64 = 0x006e_6574_6400_0001;

#[test]
fn twenty_thousand_random_packets_are_equal_in_the_kernel_and_in_the_world() {
    packets_are_equal(false, Firewall::default());
}

#[test]
fn so_are_their_twins_of_ipv6() {
    packets_are_equal(true, Firewall::default());
}

#[test]
fn so_are_those_that_the_hosts_firewall_must_see() {
    packets_are_equal(false, Firewall { mark: 1 << 27, generation: 7, flags: 0 });
}

fn packets_are_equal(v6: bool, firewall: Firewall) {
    in_the_scene(|| {
        before_others();
        let mut world = scene::world_of_both_families();
        let mut layer3 = scene::world_of_both_families();
        for world in [&mut world, &mut layer3] {
            world.settings.as_mut().expect("the scene has settings").firewall = firewall;
        }
        // Of both families.
        let _bound = std::net::UdpSocket::bind("[::]:5000").expect("the namespace is empty");
        let _listening = std::net::TcpListener::bind("[::]:1024").expect("the namespace is empty");
        world.sockets.extend([(UDP, 5000), (TCP, 1024)]);
        let resolver = Ipv4Addr::from(dns::RESOLVER);
        // The first port is a server's own here, on every address.
        let _own = std::net::UdpSocket::bind(("0.0.0.0", dns::FIRST_SOCKET)).expect("the namespace is empty");
        let _asked = std::net::UdpSocket::bind((resolver, dns::FIRST_SOCKET + 1)).expect("the namespace is empty");
        let _asked_by_tcp = std::net::TcpListener::bind((resolver, dns::FIRST_SOCKET)).expect("the namespace is empty");
        let at = Address::from(resolver);
        world.sockets_at.extend([(UDP, at, dns::FIRST_SOCKET + 1), (TCP, at, dns::FIRST_SOCKET)]);
        let (_connected, tuples): (Vec<_>, Vec<_>) = CONNECTED.map(|ends| connected(v6, ends)).into_iter().unzip();
        world.connected.extend(tuples);
        layer3.connected = world.connected.clone();
        (layer3.sockets, layer3.sockets_at) = (world.sockets.clone(), world.sockets_at.clone());
        let mut kernel = Kernel::like(&world);
        let mut random = StdRng::seed_from_u64(SEED);
        let mut seen = BTreeMap::<String, usize>::new();

        for i in 0..PACKETS {
            let (hook, frame) = packet(&mut random, &world, v6);
            world.clock.set(far_from_the_next_tick());
            if hook == Hook::FromUplink {
                let mut in_world = frame.bytes.clone();
                let early = world.run_early(frame.device, &mut in_world);
                let returned = if early == Verdict::Pass { XDP_PASS } else { XDP_DROP };
                let in_kernel = kernel.run_early(frame.device, &frame.bytes);
                assert_eq!(in_kernel, (returned, in_world), "packet {i}: {early:?} {frame:02x?}");
                *seen.entry(format!("{:?} {early:?}", Hook::UplinkXdp)).or_default() += 1;
            }
            let mut in_world = frame.clone();
            let verdict = world.run(hook, &mut in_world);
            layer3.clock.set(world.clock.get());
            without_ethernet(&layer3, hook, &frame, (verdict, &in_world.bytes))
                .unwrap_or_else(|e| panic!("packet {i} at {hook:?}: {e}: {frame:02x?}"));
            let (returned, bytes) = kernel.run(hook, &frame);

            assert_eq!(returned, expected_return(verdict), "packet {i} at {hook:?}: {verdict:?} {frame:02x?}");
            assert_eq!(bytes, in_world.bytes, "packet {i} at {hook:?}: {verdict:?} {frame:02x?}");
            let held = match (frame.bytes[12], frame.bytes[ETH] >> 4) {
                _ if matches!(verdict, Verdict::Drop(_)) => Ok(()),
                (0x08, 4) if frame.bytes[13] == 0 => checksums_hold(&bytes),
                (0x86, 6) => packets::ipv6_checksums_hold(&bytes),
                _ => Ok(()),
            };
            held.unwrap_or_else(|e| panic!("packet {i} at {hook:?}: {e} {bytes:02x?}"));
            let what = format!("{hook:?} {verdict:?}");
            *seen
                .entry(what.split('(').take(if what.contains("Drop") { 2 } else { 1 }).collect::<Vec<_>>().join(" "))
                .or_default() += 1;
        }

        println!("{seen:#?}");
        for ((hook, returned), (runs, took)) in &kernel.times {
            println!(
                "{} returning {returned}: {runs} runs, {} ns each",
                hook.name(),
                took.as_nanos() / u128::from(*runs)
            );
        }
        let mut by_layer3 = layer3.counters.borrow().clone();
        for (here, there) in Hook::of_uplink(false).into_iter().zip(Hook::of_uplink(true)) {
            let counters = by_layer3.remove(&there).expect("packets without Ethernet");
            assert!(counters.passed > 1_000, "{there:?} {counters:?}");
            assert!(here == Hook::ToUplink || counters.to_peer + counters.shown > 100, "{there:?} {counters:?}");
        }
        for hook in Hook::ALL.into_iter().filter(|hook| !Hook::of_uplink(true).contains(hook)) {
            assert_eq!(kernel.counters(hook), world.counters.borrow()[&hook], "{hook:?}");
        }
        let flows = world.flows.borrow();
        for (key, flow) in kernel.flows() {
            assert_eq!(flows.get(&key), Some(&flow), "{key:?}");
        }
        assert_eq!(kernel.flows().len(), flows.len());
        assert!(flows.keys().all(|key| key.src.is_v4() != v6), "every flow is of the family that was sent");
        assert!(flows.len() > 200, "only {} flows: the packets are too alike", flows.len());
        assert!(seen.len() >= 16, "only {} kinds of verdict: {seen:?}", seen.len());
    });
}

/// An address and a port.
type End = ([u8; 4], u16);

/// The ends of UDP sockets of the host that are connected, at published ports: their own and the other's.
const CONNECTED: [(End, End); 3] = [
    ((scene::HOST, 5353), ([198, 51, 100, 7], 5000)),
    ((scene::HOST, 443), ([203, 0, 113, 9], 33_000)),
    (([10, 176, 1, 1], 443), ([10, 176, 1, 2], 1024)),
];

/// Such a socket, and the tuple of the packets that it gets.
fn connected(v6: bool, (own, to): (End, End)) -> (std::net::UdpSocket, Tuple) {
    let of = |v4: [u8; 4]| if v6 { Address::v6(packets::twin(v4)) } else { Address::v4(v4) };
    let socket = std::net::UdpSocket::bind((of(own.0).ip(), own.1)).expect("the port is free");
    socket.connect((of(to.0).ip(), to.1)).expect("there is a way");
    let (src, dst) = (of(to.0), of(own.0));
    let (src_port, dst_port) = (Port::new(to.1), Port::new(own.1));
    (socket, Tuple { src, dst, src_port, dst_port, protocol: UDP, echo: echo::NONE, zone: Zone::HOST })
}

/// Plays the packet to a world whose uplink is of layer 3: without its Ethernet header, where an uplink would have sent or received
/// it so. Nothing else may differ. A test run always gives a program an Ethernet header, so this is the World's alone to show.
fn without_ethernet(
    layer3: &World,
    hook: Hook,
    frame: &Frame,
    (verdict, bytes): (Verdict, &[u8]),
) -> Result<(), String> {
    let [ingress, egress] = Hook::of_uplink(true);
    let at = match hook {
        Hook::FromUplink => ingress,
        Hook::ToUplink => egress,
        _ => hook,
    };
    let says = [(&[0x08, 0x00], 4), (&[0x86, 0xdd], 6)]
        .map(|(ethertype, version)| frame.bytes[12..ETH] == *ethertype && frame.bytes[ETH] >> 4 == version);
    let plain = frame.bytes[..6] == scene::UPLINK_MACS[0] && says.contains(&true);
    let mut bare = frame.clone();
    if at == hook || !plain {
        return if layer3.run(hook, &mut bare) == verdict { Ok(()) } else { Err("not the same state".to_owned()) };
    }
    bare.bytes.drain(..ETH);
    bare.layer3 = true;
    let decided = layer3.run(at, &mut bare);
    let expected = if matches!(verdict, Verdict::Peer(_)) { bytes } else { &bytes[ETH..] };
    if decided == verdict && bare.bytes == expected {
        return Ok(());
    }
    Err(format!("without Ethernet {decided:?} {:02x?}, with it {verdict:?} {bytes:02x?}", bare.bytes))
}

fn expected_return(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass | Verdict::Show => -1,
        Verdict::Drop(_) => 2,
        Verdict::Peer(_) | Verdict::Neighbour(_) | Verdict::Tunnel(_) | Verdict::Device(_) | Verdict::Host(_) => 7,
    }
}

#[test]
fn the_oracle_finds_a_wrong_checksum() {
    let mut bytes = tcp("10.0.0.1:1", "10.0.0.2:2").payload(b"odd").bytes();
    assert_eq!(packets::checksums_hold(&bytes), Ok(()));

    *bytes.last_mut().unwrap() ^= 1;

    assert_eq!(packets::checksums_hold(&bytes), Err("transport checksum"));
}
