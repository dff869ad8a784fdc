//! The program in an uplink's driver and the World in memory are the same about flows of the mesh: every verdict, byte and counter over
//! random frames.

use std::{collections::BTreeMap, process::Command};

use netd_common::{
    conntrack::Leg,
    frame::outer,
    packet::ETH,
    parse::tcp_flags::{ACK, FIN, RST, SYN},
    tables::{Hook, Instant},
    tuple::Address,
    verdict::Verdict,
};
use netd_tests::{
    kernel::{Kernel, XDP_DROP, XDP_PASS, XDP_TX, before_others, far_from_the_next_tick, in_the_scene},
    mesh::{Hosts, KNOCKED, OTHER_HOST, VTEPS, VTEPS_OF_IPV6, from_outside, of_both, whole},
    packets::{Build, ipv6_twin, left_to_the_device, tcp, udp},
    scene::{A, UPLINK, UPLINK_MACS},
    world::World,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A test run of a program for frames waits for a grace period of RCU.
const FRAMES: usize = 2_000;
const SEED: u64 = 0x006e_6574_6400_0002;
/// Clients that have spoken with the container; a further one has not.
const CLIENTS: usize = 8;

#[test]
fn two_thousand_random_frames_of_the_mesh_are_equal_in_the_driver_and_in_the_world() {
    are_equal_between(VTEPS);
}

#[test]
fn two_thousand_are_over_an_underlay_of_ipv6_and_the_checksum_around_each_holds() {
    are_equal_between(VTEPS_OF_IPV6);
}

fn are_equal_between(vteps: [Address; 2]) {
    let around = outer(vteps[0].is_v4());
    in_the_scene(|| {
        before_others();
        let [a, b, c, d, e, f] = OTHER_HOST.map(|byte| format!("{byte:02x}"));
        let neighbour = format!("neigh add {} lladdr {a}:{b}:{c}:{d}:{e}:{f} dev uplink nud permanent", vteps[1].ip());
        assert!(Command::new("ip").args(neighbour.split(' ')).status().is_ok_and(|status| status.success()));
        let hosts = opened(vteps);
        let world = &hosts.ingress;
        let mut kernel = Kernel::like(world);
        let mut random = StdRng::seed_from_u64(SEED);
        let mut seen = BTreeMap::<String, usize>::new();

        for i in 0..FRAMES {
            note_all(world, &mut kernel);
            let frame = frame(&mut random);
            let (returned, in_kernel) = kernel.run_early(UPLINK, &frame);
            if returned == XDP_TX {
                world.random.set(u16::from_be_bytes([in_kernel[18], in_kernel[19]]).into());
            }
            let mut in_world = frame.clone();
            let verdict = world.run_early(UPLINK, &mut in_world);

            let expected = match verdict {
                Verdict::Pass => XDP_PASS,
                Verdict::Tunnel(_) => XDP_TX,
                Verdict::Drop(_) => XDP_DROP,
                other => panic!("frame {i}: {other:?}"),
            };
            assert_eq!(returned, expected, "frame {i}: {verdict:?} {frame:02x?}");
            assert_eq!(in_kernel, in_world, "frame {i}: {verdict:?} {frame:02x?}");
            if returned == XDP_TX {
                whole(&in_kernel[around..]);
                whole(&in_kernel);
                assert!(
                    around == outer(true) || in_kernel[ETH + 46..ETH + 48] != [0, 0],
                    "IPv6 takes none without one"
                );
            }
            *seen.entry(format!("{verdict:?} of IPv{}", if frame[12] == 8 { 4 } else { 6 })).or_default() += 1;
        }

        println!("{seen:#?}");
        for ((hook, returned), (runs, took)) in &kernel.times {
            let each = took.as_nanos() / u128::from(*runs);
            println!("{} returning {returned}: {runs} runs, {each} ns each", hook.name());
        }
        assert_eq!(kernel.counters(Hook::UplinkXdp), world.counters.borrow()[&Hook::UplinkXdp]);
        assert_eq!(seen.len(), 4, "some of each family are passed on, some are not");
        assert!(seen.values().all(|count| *count > 200), "{seen:?}");
    });
}

/// The two hosts after some clients and the container have spoken, by TCP and by UDP, of both families.
fn opened(vteps: [Address; 2]) -> Hosts {
    let hosts = Hosts::between(vteps);
    hosts.ingress.clock.set(far_from_the_next_tick());
    for client in (0..CLIENTS).map(client) {
        for family in 0..2 {
            for of in [tcp as fn(&str, &str) -> Build, udp] {
                let (knocked, _) = hosts.knocks(from_outside(of(&client, KNOCKED))[family].clone());
                let (answered, _) =
                    hosts.answers(of_both(of("10.176.1.2:80", &client).flags(SYN | ACK))[family].clone());
                assert_eq!((knocked, answered), (Verdict::Peer(A), Verdict::Neighbour(UPLINK)));
            }
            hosts.enters(from_outside(tcp(&client, KNOCKED).flags(ACK))[family].clone());
        }
    }
    hosts
}

fn client(number: usize) -> String {
    format!("198.51.100.{}:{}", 7 + number, 4000 + 31 * number)
}

/// Has every flow noted in this tick, here and in the kernel, but for a few.
fn note_all(world: &World, kernel: &mut Kernel) {
    let clock = far_from_the_next_tick();
    let is_new = Instant::from_ns(clock) != Instant::from_ns(world.clock.get()) || kernel.flows().is_empty();
    world.clock.set(clock);
    if !is_new {
        return;
    }
    let now = Instant::from_ns(clock);
    for (n, (key, flow)) in world.flows.borrow_mut().iter_mut().enumerate() {
        assert!(flow.legs[0] & Leg::SEEN != 0);
        flow.last_seen = if n % 9 == 8 { Instant::default() } else { now };
        flow.noted = now.low_byte();
        kernel.put_flow(*key, *flow);
    }
}

fn frame(random: &mut StdRng) -> Vec<u8> {
    let from = client(random.random_range(0..=CLIENTS));
    let is_rare = |random: &mut StdRng| random.random_ratio(1, 20);
    let mut build = if random.random_bool(0.5) {
        let flags = if is_rare(random) { [SYN, SYN | ACK, FIN | ACK, RST][random.random_range(0..4)] } else { ACK };
        tcp(&from, KNOCKED).flags(flags)
    } else {
        udp(&from, KNOCKED)
    };
    build = build.tos(random.random()).payload(&filling(random, 1480));
    if is_rare(random) {
        build = build.ttl(random.random_range(0..3));
    }
    if is_rare(random) {
        build = build.ip_options(8);
    }
    if is_rare(random) {
        build = build.fragment(random.random(), random.random_range(0..4));
    }
    if is_rare(random) {
        build = build.without_udp_checksum();
    }
    let to = if is_rare(random) { [2, 9, 9, 9, 9, 9] } else { UPLINK_MACS[0] };
    let mut bytes = build.macs(UPLINK_MACS[1], to).bytes();
    let plain = bytes[14] == 0x45 && bytes[20] & 0x3f == 0 && bytes[21] == 0;
    if random.random_bool(0.5) {
        bytes = ipv6_twin(&bytes);
    } else if plain && is_rare(random) {
        bytes = left_to_the_device(bytes);
    }
    if is_rare(random) {
        bytes.truncate(random.random_range(ETH..=bytes.len()));
    } else if is_rare(random) {
        bytes.extend(filling(random, 40));
    }
    bytes
}

/// Fewer bytes than `most`, of any kind.
fn filling(random: &mut StdRng, most: usize) -> Vec<u8> {
    let length = random.random_range(0..most);
    (0..length).map(|_| random.random()).collect()
}
