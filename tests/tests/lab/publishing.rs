//! Published ports: ranges, and who reaches them from where.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use netd_tests::lab::{
    Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};
use serde_json::json;

use crate::{
    says::{self, inspected},
    town::{CLIENT, FRONT, HOST, Town, dial, wait_until},
};

/// How often each is timed.
const ROUNDS: usize = 12;

/// Entries of the kernel's table of publications.
fn publications(town: &Town) -> usize {
    let path = format!("sys/fs/bpf/netd/{}/maps/PUBLICATIONS", netd_common::tables::LAYOUT);
    netd_tests::kernel::publications(&town.host.path(path))
}

#[test]
fn ten_thousand_ports_in_one_range_are_one_command_and_one_line() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let timed = |words: &str| {
        let begin = Instant::now();
        town.netd.say(words).ok();
        begin.elapsed()
    };
    let range = "8000-17999:20000-29999";
    let bare = publications(&town);

    // The best of some tries, each beside the other's: the machine has other work too.
    let [mut one, mut many, mut before, mut after] = [Duration::MAX; 4];
    let mut entries = BTreeSet::new();
    for _ in 0..ROUNDS {
        one = one.min(timed("publish web 8000:20000"));
        entries.insert(("one", publications(&town) - bare));
        timed("unpublish web 8000:20000");
        before = before.min(timed("ps --format json"));
        many = many.min(timed(&format!("publish web {range}")));
        entries.insert(("ten thousand", publications(&town) - bare));
        after = after.min(timed("ps --format json"));
        timed(&format!("unpublish web {range}"));
    }
    let resident = says::resident(&town.netd);
    timed(&format!("publish web {range}"));
    let grown = says::resident(&town.netd).saturating_sub(resident);

    println!("publishing one port took {one:?}, ten thousand {many:?}; `ps` took {before:?}, and then {after:?}");
    println!("entries of the map of publications: {entries:?}; the daemon has {grown} kB more resident");
    assert!(many < one * 8, "ten thousand ports took {many:?}, one {one:?}: each has a cost of its own");
    assert!(after < before * 8, "`ps` took {before:?}, and then {after:?}: each port has a cost of its own");
    assert_eq!(entries, [("one", 1), ("ten thousand", 1)].into(), "one entry whatever the range, each time");
    assert!(grown < 1000, "a range has the daemon keep {grown} kB: each of ten thousand ports has a cost of its own");
    let listing = town.netd.json("ps");
    let ports = &listing[0]["ports"];
    assert_eq!(ports.as_array().map(Vec::len), Some(1), "{ports}");
    assert_eq!(
        (&ports[0]["host_port"], &ports[0]["port"], &ports[0]["count"]),
        (&json!(8000), &json!(20000), &json!(10_000))
    );
    assert_eq!(town.netd.say("port web").ok(), "20000-29999/tcp -> 0.0.0.0:8000-17999\n");
    assert_eq!(town.netd.say("port web 20007").ok(), "0.0.0.0:8007\n");
    for (outside, inside) in [(8000, 20_000), (12_345, 24_345), (17_999, 29_999)] {
        let server = web.echo_tcp(inside);
        town.client.asks_tcp(&format!("{FRONT}:{outside}"), PATIENCE).expect("every port of the range is published");
        server.assert_seen_only(CLIENT);
    }
    for outside in [7999, 18_000] {
        assert!(town.client.asks_tcp(&format!("{FRONT}:{outside}"), IMPATIENCE).is_err(), "{outside} is outside of it");
    }

    town.netd.say("unpublish web 8000-17999:20000-29999").ok();
    assert_eq!(inspected(&town.netd, "inspect web")["ports"], json!([]));
    let _server = web.echo_tcp(20_000);
    assert!(town.client.asks_tcp(&format!("{FRONT}:8000"), IMPATIENCE).is_err(), "it is closed again");
}

#[test]
fn a_port_that_a_process_has_is_refused_with_its_name_in_a_range_too() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let _web = town.container("web", "blue", &[]);
    let _held = town.host.echo_tcp(8050);

    town.netd.say("publish web 8000-8099:8000-8099").refused(["8050"]);

    assert_eq!(inspected(&town.netd, "inspect web")["ports"], json!([]));
    assert_eq!(town.host.run(dial("bind tcp 0.0.0.0:8000")).stdout, "bound\n");
}

#[test]
fn ports_stay_kept_and_reached_while_the_daemon_is_dead() {
    let mut town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7"]);
    let _server = web.echo_tcp(7);

    town.netd.kill();

    assert_eq!(town.host.run(dial("tcp 127.0.0.1:8007")).stdout, "127.0.0.1:8007 hello\n");
    assert_eq!(town.host.run(dial("bind tcp 0.0.0.0:8007")).stdout, format!("error {}\n", nix::libc::EADDRINUSE));
}

#[test]
fn processes_of_containers_and_of_other_hosts_in_the_cgroup_are_let_through() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7"]);

    // In the container's own network the port is its own, and 127.0.0.1 is its own.
    assert_eq!(web.run(dial("bind tcp 0.0.0.0:8007")).stdout, "bound\n");
    let refused = format!("error {}\n", nix::libc::ECONNREFUSED);
    assert_eq!(web.run(dial("tcp 127.0.0.1:8007")).stdout, refused);
}

#[test]
fn the_loopback_is_unreachable_from_the_wire_whatever_the_neighbours_routes() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["127.0.0.1:8008:7", "8007:7"]);
    let _server = web.echo_tcp(7);
    // The neighbour takes 127/8 for a network like any other, and this host for the way there.
    town.client.ip("address flush dev lo");
    let sysctl = "/proc/sys/net/ipv4/conf/eth0/route_localnet";
    town.client.enter(|| std::fs::write(sysctl, "1")).expect("the sysctl can be written");
    town.client.ip(&format!("route add 127.0.0.0/8 via {FRONT}"));

    for port in [8007, 8008] {
        assert!(town.client.asks_tcp(&format!("127.0.0.1:{port}"), IMPATIENCE).is_err(), "127.0.0.1:{port}");
    }

    assert!(says::counted(&town.netd, "from_uplink", "dropped/loopback_from_wire") > 0, "they came, and were dropped");
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("the published port itself is reached");
    let refused =
        town.client.asks_tcp(&format!("{FRONT}:8008"), PATIENCE).expect_err("published on the loopback alone");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_port_on_one_address_leaves_the_same_port_of_another_to_the_host() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[&format!("{FRONT}:8100:7"), &format!("{FRONT}:8100:7/udp")]);
    let servers = [web.echo_tcp(7), web.echo_udp(7)];
    let listener = town.host.enter(|| std::net::TcpListener::bind((HOST, 8100))).expect("another address is free");

    town.client.asks_tcp(&format!("{FRONT}:8100"), PATIENCE).expect("the container answers");
    assert_eq!(town.client.asks_udp(&format!("{FRONT}:8100"), 1, 64, PATIENCE), 1);
    servers.iter().for_each(|server| server.assert_seen_only(CLIENT));
    let knock = town.internet.connect(&format!("{HOST}:8100"), PATIENCE).expect("the host's own process has it");
    let (_, peer) = listener.accept().expect("a connection is there");
    assert_eq!(peer, knock.local_addr().expect("a connected socket has an address"));
    let said = town.host.run(dial(&format!("tcp {FRONT}:8100"))).stdout;
    assert_eq!(said, format!("{FRONT}:8100 hello\n"));
}

#[test]
fn a_client_with_no_family_in_common_is_refused_at_once() {
    let town = Town::new(Offloads::On);
    town.host.ip("address add 2001:db8:2::1/64 dev eth1 nodad");
    town.client.ip("address add 2001:db8:2::2/64 dev eth0 nodad");
    town.netd.say("network create four --subnet 10.4.0.0/24").ok();
    town.netd.say("network create six --subnet fd00:6::/64").ok();
    let containers = [town.container("old", "four", &["8004:7"]), town.container("young", "six", &["8006:7"])];
    let _servers = containers.each_ref().map(|container| container.echo_tcp(7));

    for (open, closed) in [
        (format!("{FRONT}:8004"), "[2001:db8:2::1]:8004".to_owned()),
        ("[2001:db8:2::1]:8006".to_owned(), format!("{FRONT}:8006")),
    ] {
        town.client.asks_tcp(&open, PATIENCE).expect("the family that the container has");
        let refused = town.client.asks_tcp(&closed, PATIENCE).expect_err("the one that it lacks");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{closed}");
    }
}

#[test]
fn datagrams_of_a_client_that_talked_to_the_host_before_come_to_the_container_once_it_is_published() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let inside = web.echo_udp(7);
    let own = town.host.echo_udp(9007);
    let talk = town.client.enter(|| std::net::UdpSocket::bind((CLIENT, 4007))).expect("the port is free");
    talk.connect((FRONT, 9007)).expect("there is a route");
    talk.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
    let answered = || talk.send(b"hello").and_then(|_| talk.recv(&mut [0; 16])).is_ok_and(|length| length == 5);
    assert!(answered() && own.peers().len() == 1, "the host's own server answers");

    drop(own);
    wait_until("its port is free", || town.netd.say("publish web 9007:7/udp").succeeded());

    assert!(answered(), "the same client, from the same port");
    inside.assert_seen_only(CLIENT);
    town.netd.say("detach web").ok();
    talk.set_read_timeout(Some(IMPATIENCE)).expect("a socket can be given a timeout");
    assert!(!answered(), "and nobody answers for a container that is gone");
    assert!(!says::shows_flow(&town.netd, CLIENT, &format!("{FRONT}:9007")));
}
