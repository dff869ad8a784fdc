//! Containers go out the way that the host itself would: by its rules, its marks, its routes with several ways, and not where it
//! refuses.

use std::{io::ErrorKind, thread, time::Duration};

use netd_common::tables::{LAYOUT, names};
use netd_tests::{
    kernel,
    lab::{
        Container, Node, Offloads,
        traffic::{IMPATIENCE, PATIENCE, Server},
    },
};

use crate::{
    ipv6::{HOST as HOST6, INTERNET as INTERNET6, pave},
    says,
    town::{CLIENT, FRONT, HOST, INTERNET, NEIGHBOUR, Town, wait_until},
};

/// A table of routes of the test's own, whose default route leads to the client.
const TABLE: &str = "100";

/// More than two ticks.
const QUIET: Duration = Duration::from_millis(2500);

#[test]
fn a_rule_for_a_source_sends_one_network_by_another_uplink_than_the_rest() {
    for kind in Offloads::BOTH {
        let play = Play::new(kind);
        play.town.network("green");
        let green = play.town.container("green", "green", &[]);
        let subnet = says::subnet_of(&play.town.netd, "green");

        play.town.host.ip(&format!("rule add from {subnet} lookup {TABLE}"));

        asks(&play.app, 7);
        asks(&green, 8);
        play.internet[0].assert_seen_only(HOST);
        play.client[1].assert_seen_only(FRONT);
        play.town.lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_mark_that_netfilter_sets_chooses_the_way_as_it_does_for_the_host() {
    let play = Play::new(Offloads::Off);
    // Of a datagram in fragments the first alone has a port, so netfilter marks no other.
    let rules = "add table ip m; add chain ip m p { type filter hook prerouting priority mangle; }; \
                 add rule ip m p tcp dport 8 meta mark set 1; add rule ip m p udp dport 8 meta mark set 1";
    play.town.host.run(["nft", rules]).ok();
    asks(&play.app, 7);

    play.town.host.ip(&format!("rule add fwmark 1 lookup {TABLE}"));
    wait_until("the daemon knows of the rule", || play.warns_of_rules());

    asks(&play.app, 7);
    asks_whole(&play.app, 8);
    play.internet[0].assert_seen_only(HOST);
    play.client[1].assert_seen_only(FRONT);
    assert!(play.internet[1].peers().is_empty() && play.client[0].peers().is_empty());
    let _published = play.app.echo_tcp(80);
    play.town.client.asks_tcp(&format!("{FRONT}:8080"), PATIENCE).expect("a published port answers");

    play.town.host.ip("rule del fwmark 1");
    wait_until("the daemon knows that the rule is gone", || !play.warns_of_rules());
    let fast = || says::counted(&play.town.netd, "from_container", "to_neighbour");
    let before = fast();
    asks(&play.app, 7);
    assert!(fast() > before, "without the rule the programs send again");
    play.town.lab.assert_no_checksum_errors();
}

#[test]
fn a_fwmark_rule_that_tells_netds_bit_chooses_the_way_of_containers_as_the_stack_would() {
    let play = Play::new(Offloads::Off);
    let fast = || says::counted(&play.town.netd, "from_container", "to_neighbour");
    let _published = play.app.echo_tcp(80);
    let mut seen_by = [0, 0];
    // What the stack finds for a packet with that bit and no other: the client by way of the table, the internet without.
    for (rule, by_table) in [
        ("fwmark 0x8000000/0x8000000", true),
        ("not fwmark 0x8000000/0x8000000", false),
        ("fwmark 0/0x8000000", false),
        ("not fwmark 0/0x8000000", true),
    ] {
        let before = fast();
        play.town.host.ip(&format!("rule add {rule} lookup {TABLE}"));
        let ways = if kernel_is_asked_with_marks() { "asked_with_mark" } else { "stack" };
        wait_until("the programs know of the rule", || play.ways() == ways);

        asks(&play.app, 7);
        play.town.client.asks_tcp(&format!("{FRONT}:8080"), PATIENCE).expect("a published port answers");

        let went_by_table = [&play.internet[0], &play.client[0]].map(|server| server.peers().len());
        assert_eq!(went_by_table[1] > seen_by[1], by_table, "{rule}");
        assert_eq!(went_by_table[0] > seen_by[0], !by_table, "{rule}");
        seen_by = went_by_table;
        assert_eq!(fast() > before, kernel_is_asked_with_marks(), "{rule}: on the fast path where the kernel is asked");
        assert_eq!(play.warns_of_rules(), !kernel_is_asked_with_marks(), "{rule}: it is said where it is slow");
        play.town.host.ip(&format!("rule del {rule} lookup {TABLE}"));
        wait_until("the programs know that it is gone", || play.ways() == "asked");
    }
    play.internet[0].assert_seen_only(HOST);
    play.client[0].assert_seen_only(FRONT);
    play.town.lab.assert_no_checksum_errors();
}

#[test]
fn a_fwmark_rule_for_packets_of_others_costs_containers_nothing_on_any_kernel() {
    let play = Play::new(Offloads::On);
    for rule in ["fwmark 1", "fwmark 0x80000/0xff0000", "not fwmark 0xca6c priority 40000"] {
        play.town.host.ip(&format!("rule add {rule} lookup {TABLE}"));
    }
    let fast = || says::counted(&play.town.netd, "from_container", "to_neighbour");

    let before = fast();
    asks(&play.app, 7);

    // Of a connection three at least, two datagrams, and two of three fragments each.
    assert!(fast() >= before + 11, "all by the programs");
    assert_eq!(play.ways(), "asked");
    assert!(!play.warns_of_rules(), "{}", warnings(&play.town));
    play.internet[0].assert_seen_only(HOST);
}

#[test]
fn of_several_ways_a_flow_keeps_one_with_all_its_fragments_and_leaves_as_its_uplinks_address() {
    let play = Play::new(Offloads::Off);
    let host = &play.town.host;
    host.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/fib_multipath_hash_policy"]).ok();
    host.ip(&format!("route replace default nexthop via {NEIGHBOUR} dev eth0 nexthop via {CLIENT} dev eth1"));

    let long = play.app.pings_udp(&format!("{INTERNET}:7"), 100);
    for _ in 0..24 {
        play.app.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("either way answers");
        assert_eq!(play.app.asks_udp(&format!("{INTERNET}:7"), 1, 4000, PATIENCE), 1, "a datagram in fragments");
    }
    // Across ticks, at which the way is asked for anew.
    wait_until("some hundred answers", || long.answered() > 300);

    long.finish().assert_none_lost();
    let [internet, client] = [&play.internet[0], &play.client[0]];
    internet.assert_seen_only(HOST);
    client.assert_seen_only(FRONT);
    play.town.lab.assert_no_checksum_errors();
}

#[test]
fn flows_that_go_on_are_told_of_whatever_changes_the_routing() {
    let play = Play::new(Offloads::On);
    let pin = play.town.host.path(format!("sys/fs/bpf/netd/{LAYOUT}/maps/{}", names::WAYS));
    for change in [
        format!("route add 203.0.113.0/24 via {NEIGHBOUR}"),
        format!("rule add to 203.0.113.0/24 lookup {TABLE}"),
        format!("nexthop add id 7 via {NEIGHBOUR} dev eth0"),
        format!("nexthop replace id 7 via {CLIENT} dev eth1"),
        "link set eth0 mtu 1400".to_owned(),
        "address add 192.0.2.9/24 dev eth0".to_owned(),
    ] {
        // What came before has been told of, and a tick has passed.
        let mut seen = kernel::routing_told(&pin);
        thread::sleep(QUIET);
        while kernel::routing_told(&pin) != seen {
            seen = kernel::routing_told(&pin);
            thread::sleep(QUIET);
        }

        play.town.host.ip(&change);

        wait_until(&format!("the programs are told of `ip {change}`"), || kernel::routing_told(&pin) > seen);
    }
}

#[test]
fn what_leaves_has_the_address_that_its_uplink_has_also_after_that_has_changed() {
    const LATER: &str = "192.0.2.9";
    const LATER6: &str = "2001:db8:1::9";
    let play = Play::new(Offloads::Off);
    let host = &play.town.host;
    pave(&play.town);
    play.town.netd.say("network create six --ipv6").ok();
    let six = play.town.container("six", "six", &[]);
    let [udp, ..] = &play.udp;
    let seen = |address: &str| udp.peers().iter().filter(|peer| peer.to_string() == address).count();
    let long = play.app.pings_udp(&format!("{INTERNET}:7"), 50);
    wait_until("some answers", || long.answered() > 10);
    udp.assert_seen_only(HOST);
    let udp6 = play.town.internet.echo_udp(9);
    let seen6 = |address: &str| udp6.peers().iter().filter(|peer| peer.to_string() == address).count();
    let long6 = six.pings_udp(&format!("[{INTERNET6}]:9"), 50);
    wait_until("some answers by IPv6", || long6.answered() > 10);
    udp6.assert_seen_only(HOST6);

    host.ip(&format!("address del {HOST}/24 dev eth0"));
    host.ip(&format!("address add {LATER}/24 dev eth0"));
    host.default_route(NEIGHBOUR);
    host.ip(&format!("address del {HOST6}/64 dev eth0"));
    host.ip(&format!("address add {LATER6}/64 dev eth0 nodad"));

    wait_until("the flow that goes on leaves as the new address", || seen(LATER) > 10);
    let (answered, before) = (long.answered(), seen(HOST));
    wait_until("it is answered there", || long.answered() > answered + 10);
    asks(&play.app, 7);
    assert_eq!(seen(HOST), before, "nothing leaves as the old one any more");
    assert_eq!(play.internet[0].peers().iter().map(ToString::to_string).collect::<Vec<_>>(), [LATER]);
    long.finish();
    wait_until("so does one by IPv6", || seen6(LATER6) > 10);
    let (answered, before) = (long6.answered(), seen6(HOST6));
    wait_until("it is answered there", || long6.answered() > answered + 10);
    let answer = six.asks_udp(&format!("[{INTERNET6}]:9"), 3, 64, PATIENCE);
    assert_eq!((answer, seen6(HOST6)), (3, before), "nothing leaves as the old one any more");
    long6.finish();
}

#[test]
fn where_the_host_refuses_to_route_the_container_hears_what_the_host_would_say() {
    let play = Play::new(Offloads::On);
    let host = &play.town.host;
    for (route, address) in [("blackhole", "203.0.113.1"), ("unreachable", "203.0.113.2"), ("prohibit", "203.0.113.3")]
    {
        host.ip(&format!("route add {route} {address}/32"));
    }
    // The kernel says so to one address six times at most, and then once a second.
    host.run(["sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit"]).ok();
    host.ip("route del default");
    host.ip(&format!("route add {INTERNET}/32 via {NEIGHBOUR}"));
    let cases = [
        ("203.0.113.1:7", ErrorKind::TimedOut),
        ("203.0.113.2:7", ErrorKind::HostUnreachable),
        ("203.0.113.3:7", ErrorKind::HostUnreachable),
        ("203.0.113.4:7", ErrorKind::NetworkUnreachable),
    ];

    for (address, kind) in cases {
        let wait = if kind == ErrorKind::TimedOut { IMPATIENCE } else { PATIENCE };
        let error = play.app.asks_tcp(address, wait).expect_err("nobody is there");
        assert_eq!(error.kind(), kind, "{address}: {error}");
    }
    assert_eq!(play.town.netd.json("flows").as_array().map(Vec::len), Some(0), "no flow is made for what goes nowhere");
    let error = play.app.asks_tcp("192.0.2.200:7", Duration::from_secs(10)).expect_err("nobody has this address");
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable), "{error}");
    play.app.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("what is routed arrives");
}

#[test]
fn a_network_leaves_as_the_address_it_was_given_and_the_operator_hears_if_the_host_has_it_not() {
    for kind in Offloads::BOTH {
        let play = Play::new(kind);
        let town = &play.town;
        town.host.ip("address add 192.0.2.50/24 dev eth0");
        pave(town);
        town.host.ip("address add 2001:db8:1::50/64 dev eth0 nodad");
        town.netd.say("network create special --ipv6 --snat-ip 192.0.2.50 --snat-ip 2001:db8:1::50").ok();
        let special = town.container("special", "special", &["8090:80"]);
        let (_web, servers) = (special.serve_http(80), [town.internet.echo_tcp(9), town.internet.echo_udp(9)]);

        special.asks_tcp(&format!("{INTERNET}:9"), PATIENCE).expect("it answers");
        assert_eq!(special.asks_udp(&format!("{INTERNET}:9"), 3, 4000, PATIENCE), 3);
        assert_eq!(special.pings(INTERNET, 2, PATIENCE), 2);
        let servers6 = [town.internet.echo_tcp(11), town.internet.echo_udp(11)];
        special.asks_tcp(&format!("[{INTERNET6}]:11"), PATIENCE).expect("it answers by IPv6");
        assert_eq!(special.asks_udp(&format!("[{INTERNET6}]:11"), 3, 4000, PATIENCE), 3);
        assert_eq!(special.pings(INTERNET6, 2, PATIENCE), 2);
        asks(&play.app, 7);

        servers.iter().for_each(|server| server.assert_seen_only("192.0.2.50"));
        servers6.iter().for_each(|server| server.assert_seen_only("2001:db8:1::50"));
        play.internet[0].assert_seen_only(HOST);
        assert_eq!(town.client.curl(&format!("http://{FRONT}:8090/")).ok(), format!("special sees {CLIENT}\n"));
        wait_until("the daemon knows that they are there", || !warnings(town).contains("leaves as"));
        town.host.ip("address del 192.0.2.50/24 dev eth0");
        wait_until("the daemon warns", || warnings(town).contains("leaves as 192.0.2.50, which is no address"));
        town.host.ip("address del 2001:db8:1::50/64 dev eth0");
        wait_until("and by IPv6", || warnings(town).contains("leaves as 2001:db8:1::50, which is no address"));
        town.netd.say("network create wrong --snat-ip 10.0.0.1 --snat-ip 10.0.0.2").refused(["10.0.0.1", "10.0.0.2"]);
        town.lab.assert_no_checksum_errors();
    }
}

/// A container `app` of network `blue` that publishes port 8080, and echo servers on ports 7 and 8 of [`INTERNET`], which the
/// client has too.
struct Play {
    app: Container,
    internet: [Server; 2],
    client: [Server; 2],
    /// The internet's two, and the client's.
    udp: [Server; 4],
    town: Town,
}

impl Play {
    fn new(kind: Offloads) -> Self {
        let town = Town::new(kind);
        town.network("blue");
        let app = town.container("app", "blue", &["8080:80"]);
        town.client.ip(&format!("address add {INTERNET}/32 dev lo"));
        town.host.ip(&format!("route add default via {CLIENT} table {TABLE}"));
        let tcp = |node: &Node| [7, 8].map(|port| node.echo_tcp(port));
        let (internet, client) = (tcp(&town.internet), tcp(&town.client));
        let udp = [(&*town.internet, 7), (&town.internet, 8), (&town.client, 7), (&town.client, 8)];
        Self { app, internet, client, udp: udp.map(|(node, port)| node.echo_udp(port)), town }
    }

    /// Who finds the ways out.
    fn ways(&self) -> String {
        self.town.netd.json("status")["routing"].as_str().unwrap_or_default().to_owned()
    }

    fn warns_of_rules(&self) -> bool {
        warnings(&self.town).contains("ip rule")
    }
}

/// Whether `bpf_fib_lookup` takes a mark here: since kernel 6.10.
fn kernel_is_asked_with_marks() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel has a release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(10))
}

fn warnings(town: &Town) -> String {
    town.netd.json("status")["warnings"].to_string()
}

/// Asks the server that is called the internet, wherever it is, by TCP, and by UDP whole and in fragments.
#[track_caller]
fn asks(container: &Container, port: u16) {
    asks_whole(container, port);
    assert_eq!(container.asks_udp(&format!("{INTERNET}:{port}"), 2, 4000, PATIENCE), 2, "fragments are answered");
}

#[track_caller]
fn asks_whole(container: &Container, port: u16) {
    let server = format!("{INTERNET}:{port}");
    container.asks_tcp(&server, PATIENCE).unwrap_or_else(|error| panic!("{server} answers: {error}"));
    assert_eq!(container.asks_udp(&server, 2, 64, PATIENCE), 2, "{server} answers");
}
