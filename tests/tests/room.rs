//! The flow table in the kernel when it is full, and its collector.

use netd_common::{
    evict::Evict,
    parse::tcp_flags::{ACK, FIN, SYN},
    tables::{Flow, Hook, Instant},
    tuple::{TCP, Tuple},
};
use netd_tests::{
    kernel::{Kernel, in_the_scene},
    packets::{Build, tcp, udp},
    scene::{self, A, UPLINK},
    world::Frame,
};

/// What a program returns for a packet that it sends on by a neighbour (`TC_ACT_REDIRECT`).
const REDIRECTED: i32 = 7;
/// What it returns for one that it drops (`TC_ACT_SHOT`).
const DROPPED: i32 = 2;
const ENTRIES: u32 = 512;
const SERVER: &str = "198.51.100.7:80";

#[test]
fn with_no_daemon_short_connections_of_many_times_the_tables_size_all_get_through() {
    in_the_scene(|| {
        let mut kernel = Kernel::with_room_for(ENTRIES, &scene::world());
        for i in 0..ENTRIES * 4 {
            let from = format!("10.176.1.2:{}", 33_000 + i);
            assert_eq!(connect_and_close(&mut kernel, &from), REDIRECTED, "connection {i}");
        }
    });
}

#[test]
fn with_no_daemon_short_connections_get_through_beside_as_many_long_ones() {
    in_the_scene(|| {
        let mut kernel = Kernel::with_room_for(ENTRIES, &scene::world());
        let from = |i: u32| format!("10.176.1.2:{}", 33_000 + i);
        for i in 0..ENTRIES / 4 {
            assert_eq!(connect(&mut kernel, &from(i)).0, REDIRECTED, "long connection {i}");
        }
        for i in ENTRIES / 4..ENTRIES * 4 {
            assert_eq!(connect_and_close(&mut kernel, &from(i)), REDIRECTED, "connection {i}");
        }
        for i in 0..ENTRIES / 4 {
            assert_eq!(leave(&mut kernel, tcp(&from(i), SERVER).flags(ACK)).0, REDIRECTED, "long connection {i}");
        }
    });
}

#[test]
fn a_full_table_refuses_what_is_new_and_keeps_what_is_established() {
    in_the_scene(|| {
        let mut kernel = Kernel::with_room_for(ENTRIES, &scene::world());
        let from = |i: u32| format!("10.176.1.2:{}", 33_000 + i);
        for i in 0..ENTRIES / 2 {
            assert_eq!(connect(&mut kernel, &from(i)).0, REDIRECTED, "connection {i}");
        }
        let before = kernel.flows();

        let refused = (1000..1100).filter(|i| leave(&mut kernel, tcp(&from(*i), SERVER)).0 == DROPPED).count();

        assert_eq!(refused, 100);
        let after = kernel.flows();
        assert!(before.keys().eq(after.keys()), "a flow that lives went");
        for i in 0..ENTRIES / 2 {
            assert_eq!(leave(&mut kernel, tcp(&from(i), SERVER).flags(ACK)).0, REDIRECTED, "connection {i}");
        }
    });
}

#[test]
fn the_collector_takes_both_halves_of_what_is_over_and_nothing_that_a_packet_has_renewed() {
    in_the_scene(|| {
        let mut kernel = Kernel::like(&scene::world());
        for i in 0..100 {
            assert_eq!(leave(&mut kernel, udp(&format!("10.176.1.2:{}", 33_000 + i), "198.51.100.7:53")).0, REDIRECTED);
        }
        let flows = kernel.flows();
        let firsts: Vec<Tuple> = flows.iter().filter(|(_, flow)| flow.direction == 0).map(|(key, _)| *key).collect();
        assert_eq!((flows.len(), firsts.len()), (200, 100));
        // The clock cannot be set: past deadlines stand for time that has gone by. One half alone of the last ten.
        let (expired, renewed) = firsts.split_at(90);
        let pair = |key: &Tuple| [*key, flows[key].becomes.reversed(flows[key].becomes.zone)];
        for key in expired.iter().flat_map(pair).chain(renewed.iter().copied()) {
            kernel.put_flow(key, Flow { deadline: Instant::default(), ..flows[&key] });
        }

        let gone: u32 = firsts.chunks(64).map(|keys| kernel.collect(Evict::Expired, keys)).sum();

        assert_eq!(gone, 90);
        let left = kernel.flows();
        assert!(
            left.keys().copied().eq(flows.keys().copied().filter(|key| renewed.iter().any(|k| pair(k).contains(key))))
        );
        assert_eq!(firsts.chunks(64).map(|keys| kernel.collect(Evict::Expired, keys)).sum::<u32>(), 0);
        assert_eq!(
            renewed.chunks(64).map(|keys| kernel.collect(Evict::Weak, keys)).sum::<u32>(),
            10,
            "nobody answered"
        );
        assert_eq!(kernel.flows().len(), 0);
    });
}

#[test]
fn where_room_is_short_the_collector_leaves_what_is_established() {
    in_the_scene(|| {
        let mut kernel = Kernel::like(&scene::world());
        connect(&mut kernel, "10.176.1.2:33000");
        connect_and_close(&mut kernel, "10.176.1.2:33001");
        leave(&mut kernel, tcp("10.176.1.2:33002", SERVER));
        let keys: Vec<Tuple> = kernel.flows().into_keys().collect();

        let gone: u32 = keys.chunks(64).map(|keys| kernel.collect(Evict::Weak, keys)).sum();

        assert_eq!((keys.len(), gone), (6, 2));
        let left = kernel.flows();
        assert!(left.len() == 2 && left.keys().any(|key| key.protocol == TCP && key.src_port.number() == 33_000));
    });
}

/// A container's packet to its gateway: what the program returned, and the bytes.
fn leave(kernel: &mut Kernel, build: Build) -> (i32, Vec<u8>) {
    let bytes = build.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes();
    kernel.run(Hook::FromContainer, &Frame { came_by: 0, ..Frame::at(A, bytes) })
}

fn enter(kernel: &mut Kernel, build: Build) {
    let bytes = build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes();
    kernel.run(Hook::FromUplink, &Frame { came_by: 0, ..Frame::at(UPLINK, bytes) });
}

/// What the SYN met, and what the connection's source is outside.
fn connect(kernel: &mut Kernel, from: &str) -> (i32, String) {
    let (returned, bytes) = leave(kernel, tcp(from, SERVER));
    let source = format!("192.0.2.1:{}", u16::from_be_bytes([bytes[34], bytes[35]]));
    if returned == REDIRECTED {
        enter(kernel, tcp(SERVER, &source).flags(SYN | ACK));
        leave(kernel, tcp(from, SERVER).flags(ACK));
    }
    (returned, source)
}

fn connect_and_close(kernel: &mut Kernel, from: &str) -> i32 {
    let (returned, source) = connect(kernel, from);
    if returned == REDIRECTED {
        leave(kernel, tcp(from, SERVER).flags(FIN | ACK));
        enter(kernel, tcp(SERVER, &source).flags(FIN | ACK));
    }
    returned
}
