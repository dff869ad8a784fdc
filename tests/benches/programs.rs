//! What the loaded programs cost: nanoseconds a packet by path, as `BPF_PROG_TEST_RUN` tells them, and with a thousand flows
//! beside a million, with the memory of the flow table. Each run is timed by itself, so each figure has the cost of
//! reading the clock in it, which the path of nothing to do shows.
//!
//! With `NETD_BPF_AGAINST` instead: the programs beside those of that other object, packet by packet in turn, so that what the
//! machine does meanwhile meets both. The mean is of the quicker half: what the code costs, finer than the clock of a virtual
//! machine tells one run, and without most of what was in its way.

use std::{path::Path, time::Duration};

use netd_common::{
    parse::tcp_flags::{ACK, FIN, SYN},
    tables::Hook,
};
use netd_tests::{
    kernel::{Kernel, in_the_scene},
    packets::{tcp, udp},
    paths::PATHS,
    scene::{self, A, UPLINK},
    world::Frame,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const RUNS: u32 = 20_000;
/// Each from another port, below those that the host takes for itself.
const CONNECTIONS: u32 = 10_000;
/// Flows whose cost is compared.
const FLOWS: [u32; 2] = [1_000, 1_000_000];
const SERVERS: u32 = 65_536;
/// Neither of the ephemeral range nor published.
const FIRST_PORT: u32 = 1024;
/// Flows of which each has one packet a tick.
const NOTED: u32 = 50_000;
/// Longer than a tick.
const TICK: Duration = Duration::from_millis(1200);
/// Longer than four.
const EPOCH: Duration = Duration::from_millis(4_800);
/// What a program returns that has redirected its packet (`TC_ACT_REDIRECT`).
const REDIRECTED: i32 = 7;

fn main() {
    in_the_scene(|| {
        if let Ok(other) = std::env::var("NETD_BPF_AGAINST") {
            return against(Path::new(&other));
        }
        by_path();
        by_flows();
    });
}

fn by_path() {
    println!("{:<44} {:>10} {:>10}", "path", "median ns", "p99 ns");
    for path in PATHS {
        let mut kernel = Kernel::like(&scene::world());
        for (hook, frame) in (path.before)() {
            kernel.run(hook, &frame);
        }
        let mut times: Vec<_> = (0..RUNS).map(|n| kernel.timed(path.hook, &(path.packet)(n)).as_nanos()).collect();
        let [median, p99] = percentiles(&mut times);
        println!("{:<44} {median:>10} {p99:>10}", path.name);
    }
}

fn against(other: &Path) {
    let own = std::env::var("NETD_BPF_OBJECT").expect("NETD_BPF_OBJECT is unset: run `cargo xtask bench --programs`");
    let objects = [other, Path::new(&own)];
    println!("{:<44} {:>6} {:>10} {:>10} {:>8}", "path", "", "that, ns", "this, ns", "ratio");
    for path in PATHS {
        let mut kernels = objects.map(|object| Kernel::of(object, &scene::world()));
        for kernel in &mut kernels {
            for (hook, frame) in (path.before)() {
                kernel.run(hook, &frame);
            }
        }
        compare(path.name, &mut kernels, (0..RUNS).map(|n| vec![(path.hook, (path.packet)(n))]));
    }
    for (name, published) in [("masquerade, a whole connection", false), ("published, a whole connection", true)] {
        let mut kernels = objects.map(|object| Kernel::of(object, &scene::world()));
        compare(name, &mut kernels, (0..CONNECTIONS).map(|n| connection(n, published)));
    }
    let mut kernels = objects.map(|object| Kernel::of(object, &scene::world()));
    for kernel in &mut kernels {
        fill(kernel, NOTED);
    }
    // The next packet of each is the first of a later tick, and of a later epoch.
    for (name, wait) in [("masquerade, first of a tick", TICK), ("masquerade, first of an epoch", EPOCH)] {
        std::thread::sleep(wait);
        compare(name, &mut kernels, (0..NOTED).map(|n| vec![(Hook::FromContainer, flow(n))]));
    }
}

/// Times the packets of each story by both programs, of which every other time another one goes first.
fn compare(name: &str, kernels: &mut [Kernel; 2], stories: impl Iterator<Item = Vec<(Hook, Frame)>>) {
    let mut times = [Vec::new(), Vec::new()];
    for (n, story) in stories.enumerate() {
        for i in [n % 2, (n + 1) % 2] {
            let took: Duration = story.iter().map(|(hook, frame)| kernels[i].timed(*hook, frame)).sum();
            times[i].push(took.as_nanos());
        }
    }
    let [that, this] = times.each_mut().map(|times| {
        times.sort_unstable();
        let quicker = &times[..times.len() / 2];
        let mean = quicker.iter().sum::<u128>() as f64 / quicker.len() as f64;
        [mean, times[times.len() / 10] as f64, times[times.len() / 2] as f64]
    });
    for (i, figure) in ["mean", "p10", "p50"].into_iter().enumerate() {
        let ratio = this[i] / that[i];
        println!("{:<44} {figure:>6} {:>10.1} {:>10.1} {ratio:>8.3}", if i == 0 { name } else { "" }, that[i], this[i]);
    }
}

fn by_flows() {
    println!("\n{:>10} {:>10} {:>10} {:>16} {:>14}", "flows", "median ns", "p99 ns", "table, MiB", "bytes a flow");
    for flows in FLOWS {
        let mut kernel = Kernel::with_room_for(2 * FLOWS[1], &scene::world());
        let empty = kernel.flow_table_bytes();
        fill(&mut kernel, flows);
        let full = kernel.flow_table_bytes();
        let mut random = StdRng::seed_from_u64(7);
        // Each twice: the first of a tick notes itself, which with fewer flows is rarer. The others come between, so that the
        // second finds no flow in a near cache that would not be there anyway.
        let packets: Vec<_> = (0..RUNS).map(|_| flow(random.random_range(0..flows))).collect();
        for packet in &packets {
            kernel.run(Hook::FromContainer, packet);
        }
        let times = packets.iter().map(|packet| kernel.timed(Hook::FromContainer, packet).as_nanos());
        let mut times: Vec<_> = times.collect();
        let [median, p99] = percentiles(&mut times);
        let each = (full - empty) as f64 / f64::from(flows);
        println!("{flows:>10} {median:>10} {p99:>10} {:>16.1} {each:>14.0}", full as f64 / f64::from(1 << 20));
    }
}

/// Opens flows by their first packets, as containers do.
fn fill(kernel: &mut Kernel, flows: u32) {
    for n in 0..flows {
        let (returned, _) = kernel.run(Hook::FromContainer, &flow(n));
        assert_eq!(returned, REDIRECTED, "flow {n}");
    }
}

/// A packet of the flow of this number: one of 65,536 servers, by one of some ports that may stay.
fn flow(n: u32) -> Frame {
    let from = format!("10.176.1.2:{}", FIRST_PORT + n / SERVERS);
    let build = udp(&from, &format!("198.51.{}.{}:53", n >> 8 & 255, n & 255));
    Frame::at(A, build.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes())
}

/// The packets of the connection of this number, each as its hook meets it: opened, a request, its answer, and closed by the server.
fn connection(n: u32, published: bool) -> Vec<(Hook, Frame)> {
    let port = FIRST_PORT + n;
    let (container, outside, own) = if published {
        ("10.176.1.2:443".to_owned(), format!("198.51.100.9:{port}"), "192.0.2.1:443".to_owned())
    } else {
        (format!("10.176.1.2:{port}"), "198.51.100.9:443".to_owned(), format!("192.0.2.1:{port}"))
    };
    let packet = |by_client: bool, flags| {
        if by_client != published {
            let build = tcp(&container, &outside).flags(flags).macs(scene::container_mac(A), scene::bridge_mac(20));
            (Hook::FromContainer, Frame::at(A, build.bytes()))
        } else {
            let build = tcp(&outside, &own).flags(flags).macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]);
            (Hook::FromUplink, Frame::at(UPLINK, build.bytes()))
        }
    };
    let client = |flags| packet(true, flags);
    let server = |flags| packet(false, flags);
    vec![
        client(SYN),
        server(SYN | ACK),
        client(ACK),
        client(ACK),
        server(ACK),
        server(FIN | ACK),
        client(FIN | ACK),
        server(ACK),
    ]
}

fn percentiles(times: &mut [u128]) -> [u128; 2] {
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() * 99 / 100]]
}
