//! Published ports that are for some clients alone.

use std::{
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use netd_tests::lab::{
    NetdOptions, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};
use serde_json::json;

use crate::{
    ipv6::paved,
    says::inspected,
    town::{CLIENT, FRONT, HOST, Town, dial, wait_until},
};

/// Of the client.
const THEIRS: &str = "198.51.100.0/24";
/// Of nobody in the town.
const NOBODYS: &str = "203.0.113.128/25";

fn denied(town: &Town, program: &str) -> u64 {
    let status = town.netd.json("status");
    let programs = status["programs"].as_array().expect("programs");
    let found = programs.iter().find(|one| one["name"] == program).expect("the program");
    found["dropped"]["source_denied"].as_u64().unwrap_or_default()
}

/// Whether a connection that is open still carries a line.
fn goes_on(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 2];
    stream.write_all(b"?\n").is_ok() && stream.read_exact(&mut answer).is_ok()
}

#[test]
fn a_port_is_reached_by_the_clients_that_it_names_and_others_are_dropped_and_counted() {
    for kind in Offloads::BOTH {
        let town = Town::new(kind);
        town.network("blue");
        let from = format!("from={THEIRS},203.0.113.7");
        let ports = [format!("8007:7,{from}"), format!("8007:7/udp,{from}"), "8008:7".to_owned()];
        let web = town.container("web", "blue", &ports.each_ref().map(String::as_str));
        let servers = [web.echo_tcp(7), web.echo_udp(7)];

        town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("it is named");
        assert_eq!(town.client.asks_udp(&format!("{FRONT}:8007"), 1, 64, PATIENCE), 1);
        servers.iter().for_each(|server| server.assert_seen_only(CLIENT));
        assert!(town.internet.asks_tcp(&format!("{HOST}:8007"), IMPATIENCE).is_err());
        assert_eq!(town.internet.asks_udp(&format!("{HOST}:8007"), 1, 64, IMPATIENCE), 0);
        assert!(denied(&town, "from_uplink") >= 2, "{}", town.netd.json("status"));
        town.internet.asks_tcp(&format!("{HOST}:8008"), PATIENCE).expect("another port is everybody's");

        let listed = inspected(&town.netd, "inspect web");
        assert_eq!(listed["ports"][0]["from"], json!([THEIRS, "203.0.113.7/32"]));
        let exposed = town.netd.json("exposure");
        assert_eq!(exposed[0]["addresses"], json!([HOST, FRONT, "127.0.0.1"]));
        assert_eq!((&exposed[0]["from"], &exposed[2]["from_by"]), (&listed["ports"][0]["from"], &json!("nothing")));
        let table = town.netd.say("exposure").ok();
        assert!(table.lines().any(|line| line.starts_with("8007/tcp") && line.contains("203.0.113.7/32")), "{table}");
        assert!(table.lines().any(|line| line.starts_with("8008/tcp") && line.contains("anyone")), "{table}");
        let said = town.netd.say("port web").ok();
        assert!(said.starts_with("7/tcp -> 0.0.0.0:8007 from 198.51.100.0/24,203.0.113.7/32\n"), "{said}");
        town.lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_change_of_the_sources_holds_for_live_flows_too() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7", "8007:7/udp"]);
    let _servers = [web.echo_tcp(7), web.echo_udp(7)];
    let at = format!("{FRONT}:8007");
    let mut open = town.client.connect(&at, PATIENCE).expect("it is everybody's");
    assert!(goes_on(&mut open));
    let pings = town.client.pings_udp(&at, 50);
    wait_until("datagrams are answered", || pings.answered() > 2);

    town.netd.say(&format!("publish web 8007:7,from={THEIRS} 8007:7/udp,from={THEIRS}")).ok();
    assert!(goes_on(&mut open), "whom the change lets in stays");
    let before = pings.answered();
    wait_until("datagrams are still answered", || pings.answered() > before);

    town.netd.say(&format!("publish web 8007:7,from={NOBODYS} 8007:7/udp,from={NOBODYS}")).ok();
    assert!(!goes_on(&mut open), "whom it does not let in is ended");
    // So are conversations of datagrams.
    pings.stops_being_answered();
    drop(pings);
    assert_eq!(town.client.asks_udp(&at, 3, 64, IMPATIENCE), 0);
    assert!(town.client.asks_tcp(&at, IMPATIENCE).is_err());
    assert_eq!(
        inspected(&town.netd, "inspect web")["ports"].as_array().map(Vec::len),
        Some(2),
        "they are the same ports"
    );

    town.netd.say("publish web 8007:7").ok();
    town.client.asks_tcp(&at, PATIENCE).expect("it is everybody's again");
    town.netd.say("publish web 8007:7").refused(["8007/tcp", "web already"]);
}

#[test]
fn the_host_and_its_containers_count_by_their_addresses() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create blue --subnet 10.99.0.0/24").ok();
    town.netd.say("network create red --subnet 10.98.0.0/24").ok();
    let ports = ["8007:7,from=10.99.0.0/24,192.0.2.1", "8008:7/udp,from=127.0.0.1"];
    let web = town.container("web", "blue", &ports);
    let (near, far) = (town.container("near", "blue", &[]), town.container("far", "red", &[]));
    let _servers = [web.echo_tcp(7), web.echo_udp(7)];
    let refused = format!("error {}\n", nix::libc::ECONNREFUSED);

    near.asks_tcp(&format!("{HOST}:8007"), PATIENCE).expect("of the network that is named");
    web.asks_tcp(&format!("{HOST}:8007"), PATIENCE).expect("the container itself");
    assert!(far.asks_tcp(&format!("{HOST}:8007"), IMPATIENCE).is_err());
    assert!(denied(&town, "from_container") > 0);

    assert_eq!(town.host.run(dial(&format!("tcp {HOST}:8007"))).stdout, format!("{HOST}:8007 hello\n"));
    assert_eq!(town.host.run(dial("tcp 127.0.0.1:8007")).stdout, refused, "the loopback is not named");
    assert_eq!(town.host.run(dial(&format!("udp {HOST}:8008"))).stdout, refused);
    let talk = town.host.spawn(dial("talk udp 127.0.0.1:8008"));
    wait_until("it is answered", || talk.log().contains("hello"));
    town.netd.say(&format!("publish web 8008:7/udp,from={HOST}")).ok();
    let said = talk.wait();
    let ends = [nix::libc::ECONNABORTED, nix::libc::EDESTADDRREQ].map(|number| format!("error {number}\n"));
    assert!(ends.iter().any(|end| said.stdout.ends_with(end)), "{said}");
}

#[test]
fn sources_are_of_either_family() {
    let town = paved(Offloads::On);
    town.netd.say("network create blue --ipv6").ok();
    let web = town.container("web", "blue", &["8007:7,from=2001:db8:2::/64"]);
    let server = web.echo_tcp(7);

    town.client.asks_tcp("[2001:db8:2::1]:8007", PATIENCE).expect("it is named");
    server.assert_seen_only("2001:db8:2::2");
    assert!(town.internet.asks_tcp("[2001:db8:1::1]:8007", IMPATIENCE).is_err());
    assert!(town.client.asks_tcp(&format!("{FRONT}:8007"), IMPATIENCE).is_err(), "no range of IPv4 is named");
}

#[test]
fn a_port_that_says_nothing_is_for_whom_its_network_and_else_the_configuration_lets_in() {
    let mut town = Town::before_netd();
    std::fs::write(town.host.path("run/netd.toml"), format!("[publish]\nfrom = \"{NOBODYS}\"\n")).expect("a file");
    town.netd = town.host.netd_with(NetdOptions::default().arguments(["--config", "/run/netd.toml"]));
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7", "8008:7,from=0.0.0.0/0"]);
    let _server = web.echo_tcp(7);
    let reached = |port: u16, wait| town.client.asks_tcp(&format!("{FRONT}:{port}"), wait).is_ok();

    assert!(!reached(8007, IMPATIENCE), "the configuration names others");
    assert!(reached(8008, PATIENCE), "the port itself comes first");

    town.netd.say(&format!("network set blue --from {THEIRS}")).ok();
    assert!(reached(8007, PATIENCE), "the network comes before the configuration");
    assert_eq!(inspected(&town.netd, "network inspect blue")["from"], json!([THEIRS]));

    town.netd.say("network set blue --from default").ok();
    assert!(!reached(8007, IMPATIENCE));
    town.netd.say("network set blue --from 192.0.2.1/24").refused(["192.0.2.1/24", "192.0.2.0/24"]);
    assert_eq!(town.netd.say("network set blue").code(), 2);
    town.netd.say(&format!("network create red --from {NOBODYS},{THEIRS}")).ok();
    assert_eq!(inspected(&town.netd, "network inspect red")["from"], json!([THEIRS, NOBODYS]));
}

#[test]
fn a_port_without_an_address_is_published_where_the_configuration_says() {
    let mut town = Town::before_netd();
    std::fs::write(town.host.path("run/netd.toml"), format!("[publish]\naddress = \"{HOST}\"\n")).expect("a file");
    town.netd = town.host.netd_with(NetdOptions::default().arguments(["--config", "/run/netd.toml"]));
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7", "0.0.0.0:8008:7"]);
    let _server = web.echo_tcp(7);

    assert_eq!(town.netd.say("port web").ok(), format!("7/tcp -> {HOST}:8007\n7/tcp -> 0.0.0.0:8008\n"));
    town.internet.asks_tcp(&format!("{HOST}:8007"), PATIENCE).expect("it is published there");
    assert!(town.client.asks_tcp(&format!("{FRONT}:8007"), IMPATIENCE).is_err());
    town.client.asks_tcp(&format!("{FRONT}:8008"), PATIENCE).expect("an address that is given comes first");
}

/// A town whose daemon meets frames on veths as if their driver had it: by the stack, which sees what a driver would.
fn town_with_generic_xdp() -> Town {
    Town::with(Offloads::On, NetdOptions::default().variable("NETD_FORCE_GENERIC_XDP", "1"))
}

fn early_devices(town: &Town) -> serde_json::Value {
    let status = town.netd.json("status");
    let programs = status["programs"].as_array().expect("programs");
    programs.iter().find(|one| one["name"] == "uplink_xdp").expect("the program")["devices"].clone()
}

#[test]
fn denied_clients_are_dropped_before_there_is_a_packet_where_the_driver_does_it() {
    let mut town = town_with_generic_xdp();
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7", "8007:7/udp"]);
    let _servers = [web.echo_tcp(7), web.echo_udp(7)];
    let at = format!("{HOST}:8007");
    assert_eq!(early_devices(&town), json!([]), "where every port is everybody's there is nothing to drop");

    town.netd.say(&format!("publish web 8007:7,from={THEIRS} 8007:7/udp,from={THEIRS}")).ok();
    assert_eq!(early_devices(&town), json!(["eth0", "eth1"]));
    assert!(town.internet.asks_tcp(&at, IMPATIENCE).is_err());
    assert_eq!(town.internet.asks_udp(&at, 3, 64, IMPATIENCE), 0);
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("it is named");
    assert_eq!(town.client.asks_udp(&format!("{FRONT}:8007"), 3, 64, PATIENCE), 3);
    assert!(denied(&town, "uplink_xdp") >= 4, "{}", town.netd.json("status"));
    assert_eq!(denied(&town, "from_uplink"), 0, "nothing is left to the program behind it");

    town.netd.kill();
    assert!(town.internet.asks_tcp(&at, IMPATIENCE).is_err(), "with the daemon dead too");
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("it is named still");
    town.netd.start();
    assert_eq!(early_devices(&town), json!(["eth0", "eth1"]), "a daemon that starts takes it over");
    std::fs::remove_file(pin_of(&town, "eth0")).expect("a pin");
    wait_until("what others take away comes back", || early_devices(&town) == json!(["eth0", "eth1"]));

    town.netd.say("publish web 8007:7 8007:7/udp").ok();
    assert_eq!(early_devices(&town), json!([]));
    town.internet.asks_tcp(&at, PATIENCE).expect("it is everybody's again");
    town.netd.say(&format!("publish web 8007:7,from={THEIRS}")).ok();
    town.netd.say("uninstall").ok();
    assert!(!town.host.ip("-d link show eth0").contains("xdp"), "uninstall takes it away");
}

fn pin_of(town: &Town, device: &str) -> std::path::PathBuf {
    let index = town.host.ifindex(device).expect("the device");
    let links = format!("sys/fs/bpf/netd/{}/links/uplink_xdp@{index}", netd_common::tables::LAYOUT);
    town.host.path(links)
}

#[test]
fn xdp_is_off_on_a_veth_unless_it_is_asked_for() {
    for (arguments, devices) in [(vec![], json!([])), (vec!["--xdp", "native"], json!(["eth0", "eth1"]))] {
        let town = Town::with(Offloads::On, NetdOptions::default().arguments(arguments));
        town.network("blue");
        let web = town.container("web", "blue", &[&format!("8007:7,from={THEIRS}")]);
        let _server = web.echo_tcp(7);

        assert_eq!(early_devices(&town), devices);
        assert!(town.internet.asks_tcp(&format!("{HOST}:8007"), IMPATIENCE).is_err());
        town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("it is named");
    }
}

/// How often each is measured: the best counts, since the machine has other work too.
const ROUNDS: usize = 5;

#[test]
fn a_flood_from_a_denied_source_does_not_hold_an_allowed_client_up() {
    for early in ["0", "1"] {
        let town = Town::with(Offloads::On, NetdOptions::default().variable("NETD_FORCE_GENERIC_XDP", early));
        town.network("blue");
        let from = format!("from={THEIRS}");
        let web = town.container("web", "blue", &[&format!("9000:9000,{from}"), &format!("8007:7/udp,{from}")]);
        let server = web.serve_bulk(9000);
        let _full = web.enter(|| UdpSocket::bind("0.0.0.0:7")).expect("a socket");
        let bulk = || {
            let begin = Instant::now();
            town.client.transfers(&format!("{FRONT}:9000"), 150_000_000);
            begin.elapsed()
        };
        bulk();
        let (mut quiet, mut denied_one, mut let_in) = (Duration::MAX, Duration::MAX, Duration::MAX);
        let (mut sent, mut dropped) = (0, 0);
        let program = if early == "1" { "uplink_xdp" } else { "from_uplink" };

        for _ in 0..ROUNDS {
            quiet = quiet.min(bulk());
            let before = denied(&town, program);
            let (took, flooded) = beside_a_flood(&town, bulk);
            denied_one = denied_one.min(took);
            (sent, dropped) = (sent + flooded, dropped + denied(&town, program) - before);
            town.netd.say("publish web 8007:7/udp").ok();
            let_in = let_in.min(beside_a_flood(&town, bulk).0);
            town.netd.say(&format!("publish web 8007:7/udp,{from}")).ok();
        }

        println!(
            "{program}: 150 MB in {quiet:?}, beside a flood that is denied in {denied_one:?}, let in in {let_in:?}"
        );
        println!("{program}: of {sent} datagrams that were sent {dropped} were dropped");
        assert!(sent > 10_000, "{sent} datagrams are no flood");
        assert!(dropped > 10_000, "of {sent} that were sent {dropped} were dropped as denied");
        // Who floods has a processor of the machine's for itself, and here it is the client's too.
        assert!(denied_one < quiet * 4, "150 MB in {quiet:?}, and in {denied_one:?} beside a flood that is denied");
        // The stack's own XDP has packets made and copied first, which a driver's does not.
        if early == "0" {
            assert!(denied_one < let_in * 3 / 2, "beside a flood {denied_one:?} where denied, {let_in:?} where let in");
        }
        assert_eq!(server.peers().iter().filter(|peer| peer.to_string() != CLIENT).count(), 0);
    }
}

/// Does `work` while the internet sends what it can to a published port; what that returns, and how many datagrams were sent.
fn beside_a_flood<T>(town: &Town, work: impl FnOnce() -> T) -> (T, u64) {
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let socket = town.internet.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    socket.connect(format!("{HOST}:8007")).expect("a way there");
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // What finds no room is not sent.
                sent.fetch_add(u64::from(socket.send(&[0; 64]).is_ok()), Ordering::Relaxed);
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    });
    (done, sent.into_inner())
}
