//! Networks that span hosts by hand (`--driver vxlan`): netd's hosts with one another and with a plain Linux VTEP.

use std::time::Instant;

use netd_tests::lab::{
    Container, Host, Lab, Netd, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use crate::{
    says::{self, counted},
    town::wait_until,
};

/// Two hosts on one wire, each with netd.
struct Pair {
    daemons: [Netd; 2],
    hosts: [Host; 2],
    lab: Lab,
}

/// The hosts' addresses, of one family or the other.
const UNDERLAYS: [[&str; 2]; 2] = [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]];

impl Pair {
    fn new(kind: Offloads) -> Self {
        let lab = Lab::new();
        let hosts = [lab.host("one"), lab.host("two")];
        lab.wire(kind).from(&hosts[0], "eth0", "192.0.2.1/24").to(&hosts[1], "eth0", "192.0.2.2/24");
        for (host, address) in hosts.iter().zip(UNDERLAYS[1]) {
            host.ip(&format!("address add {address}/64 dev eth0 nodad"));
        }
        let daemons = [hosts[0].netd(), hosts[1].netd()];
        Self { daemons, hosts, lab }
    }

    /// Makes the network on both hosts, each the other's peer.
    fn network(&self, name: &str, vni: u32, [one, two]: [&str; 2], more: &str) {
        for (netd, peer) in self.daemons.iter().zip([two, one]) {
            netd.say(&format!("network create {name} -d vxlan --vni {vni} --peer {peer} {more}")).ok();
        }
    }

    /// A container on host `on`, at an address of a network.
    fn container(&self, on: usize, name: &str, spec: &str) -> Container {
        let container = self.hosts[on].container(name);
        self.daemons[on].run(["attach", name, "--netns", &container.netns(), "--network", spec]).ok();
        container
    }
}

const BOTH_FAMILIES: &str = "--subnet 10.9.0.0/24 --subnet fd09::/64";

#[test]
fn containers_of_two_hosts_reach_one_another_over_either_family_of_the_underlay() {
    for kind in Offloads::BOTH {
        let pair = Pair::new(kind);
        for (vni, underlay) in (42..).zip(UNDERLAYS) {
            pair.network("blue", vni, underlay, BOTH_FAMILIES);
            let (web, app) = (format!("web{vni}"), format!("app{vni}"));
            let names = [web.clone(), app.clone()];
            let web = pair.container(0, &web, "blue:ip=10.9.0.11,ip6=fd09::11");
            let app = pair.container(1, &app, "blue:ip=10.9.0.12,ip6=fd09::12");
            let (tcp, udp) = (app.echo_tcp(7), app.echo_udp(7));

            for (to, from) in [("10.9.0.12", "10.9.0.11"), ("fd09::12", "fd09::11")] {
                assert_eq!(web.pings(to, 3, PATIENCE), 3, "{kind:?} {underlay:?} {to}");
                let end = if to.contains(':') { format!("[{to}]:7") } else { format!("{to}:7") };
                web.asks_tcp(&end, PATIENCE).expect("TCP");
                assert_eq!(web.asks_udp(&end, 3, 1000, PATIENCE), 3);
                assert_eq!(web.asks_udp(&end, 3, 4000, PATIENCE), 3, "in fragments");
                assert_eq!(app.pings(from, 1, PATIENCE), 1, "and back");
            }
            let seen: Vec<_> = tcp.peers().iter().map(ToString::to_string).collect();
            assert_eq!(seen, ["10.9.0.11", "fd09::11"], "they come as themselves");
            drop(udp);
            let sent = counted(&pair.daemons[0], "from_container", "to_tunnel");
            let delivered = counted(&pair.daemons[1], "from_overlay", "to_peer");
            assert!(sent > 10 && delivered > 10, "the programs carry: {sent} {delivered}");
            for (netd, name) in pair.daemons.iter().zip(names) {
                netd.say(&format!("rm -f {name}")).ok();
                netd.say("network rm blue").ok();
            }
            for host in &pair.hosts {
                assert!(!host.ip("link show").contains("ndx-"), "nothing spans hosts any more");
            }
        }
        pair.lab.assert_no_checksum_errors();
    }
}

/// A host with netd at 192.0.2.1, and one with nothing but Linux at 192.0.2.2.
fn beside_a_plain_host(kind: Offloads) -> (Netd, Host, Host, Lab) {
    let lab = Lab::new();
    let (host, plain) = (lab.host("host"), lab.host("plain"));
    lab.wire(kind).from(&host, "eth0", "192.0.2.1/24").to(&plain, "eth0", "192.0.2.2/24");
    (host.netd(), host, plain, lab)
}

/// A plain Linux VTEP as people make one, at 10.9.0.100, whose only peer is 192.0.2.1.
fn plain_vtep(plain: &Host, device: &str, vni: u32, port: u16) {
    plain_vtep_at(plain, device, (vni, port), 100, "192.0.2.1");
}

/// The same, whose last byte and whose peer are these. By `dstport 0` where the kernel's own port, 8472, is meant.
pub fn plain_vtep_at(plain: &Host, device: &str, (vni, port): (u32, u16), last: u8, peer: &str) {
    let dstport = if port == 8472 { 0 } else { port };
    plain.ip(&format!("link add {device} type vxlan id {vni} dev eth0 dstport {dstport}"));
    assert!(plain.ip(&format!("-d link show {device}")).contains(&format!("dstport {port}")));
    plain.ip(&format!("address add 10.9.0.{last}/24 dev {device}"));
    plain.ip(&format!("-6 address add fd09::{last}/64 dev {device} nodad"));
    plain.ip(&format!("link set {device} up"));
    let flood = format!("bridge fdb append 00:00:00:00:00:00 dev {device} dst {peer}");
    plain.run(flood.split(' ')).ok();
}

pub fn attached(netd: &Netd, host: &Host, name: &str, spec: &str) -> Container {
    let container = host.container(name);
    netd.run(["attach", name, "--netns", &container.netns(), "--network", spec]).ok();
    container
}

#[test]
fn a_plain_linux_vtep_and_a_container_reach_one_another_on_either_port() {
    for kind in Offloads::BOTH {
        let (netd, host, plain, lab) = beside_a_plain_host(kind);
        for (port, given) in [(4789, ""), (8472, "--vxlan-port 8472")] {
            netd.say(&format!("network create blue -d vxlan --vni 42 --peer 192.0.2.2 {given} {BOTH_FAMILIES}")).ok();
            plain_vtep(&plain, "vx0", 42, port);
            let name = format!("web{port}");
            let web = attached(&netd, &host, &name, "blue:ip=10.9.0.11,ip6=fd09::11");
            let (_there, _here) = (plain.echo_tcp(7), web.echo_tcp(7));
            let _datagrams = plain.echo_udp(7);

            for (theirs, ours) in [("10.9.0.100", "10.9.0.11"), ("fd09::100", "fd09::11")] {
                let at = |address: &str| {
                    if address.contains(':') { format!("[{address}]:7") } else { format!("{address}:7") }
                };
                assert_eq!(web.pings(theirs, 2, PATIENCE), 2, "{kind:?} {port} {theirs}");
                assert_eq!(plain.pings(ours, 2, PATIENCE), 2, "{kind:?} {port} {ours}");
                web.asks_tcp(&at(theirs), PATIENCE).expect("to the plain host");
                plain.asks_tcp(&at(ours), PATIENCE).expect("from the plain host");
                assert_eq!(web.asks_udp(&at(theirs), 3, 4000, PATIENCE), 3);
            }
            netd.say(&format!("rm -f {name}")).ok();
            netd.say("network rm blue").ok();
            plain.ip("link del vx0");
        }
        lab.assert_no_checksum_errors();
    }
}

/// What the doctor says of a peer: how bad, and what was found.
fn said_of_the_peer(netd: &Netd) -> (String, String) {
    let findings = netd.run(["doctor", "--format", "json"]);
    let findings: serde_json::Value = serde_json::from_str(&findings.stdout).unwrap_or_else(|_| panic!("{findings}"));
    let finding = findings.as_array().expect("findings").iter().find(|finding| finding["check"] == "tunnels");
    let finding = finding.expect("a finding of tunnels");
    (says::text(finding, "/severity"), says::text(finding, "/found"))
}

#[test]
fn the_doctor_sends_large_tcp_to_whom_a_plain_vtep_was_heard_to_have_and_says_what_it_could_not_try() {
    let (netd, host, plain, lab) = beside_a_plain_host(Offloads::On);
    netd.say(&format!("network create blue -d vxlan --vni 42 --peer 192.0.2.2 {BOTH_FAMILIES}")).ok();
    plain_vtep(&plain, "vx0", 42, 4789);
    let web = attached(&netd, &host, "web", "blue:ip=10.9.0.11,ip6=fd09::11");
    let comes_to_say = |severity: &str, found: &str| {
        let deadline = Instant::now() + PATIENCE * 2;
        let says_so = || {
            // Its neighbours are forgotten after a while.
            let reached = web.pings("10.9.0.100", 1, PATIENCE) == 1;
            let (how_bad, what) = said_of_the_peer(&netd);
            reached && how_bad == severity && what.starts_with(found)
        };
        while !says_so() {
            assert!(Instant::now() < deadline, "{found}: {:?}", said_of_the_peer(&netd));
        }
    };

    let (severity, found) = said_of_the_peer(&netd);
    assert_eq!(severity, "fine");
    assert!(
        found.starts_with("no container of blue has spoken by IPv4 of late with a station of peer 192.0.2.2"),
        "{found}"
    );
    comes_to_say("fine", "large TCP gets through to peer 192.0.2.2 by eth0");

    plain.run(["nft", "table ip fault { chain in { type filter hook input priority -300; udp dport 4789 meta length > 1600 drop; }; }"]).ok();
    comes_to_say("warning", "large TCP does not get through to peer 192.0.2.2 by eth0");
    host.run("ethtool -K eth0 tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off".split(' ')).ok();
    comes_to_say("fine", "large TCP gets through to peer 192.0.2.2 by eth0");

    plain.run(["nft", "table ip fault { chain in { iifname vx0 meta l4proto tcp drop; }; }"]).ok();
    comes_to_say("note", "TCP is not answered to peer 192.0.2.2 by eth0: 10.9.0.100 in network blue says nothing");
    lab.assert_no_checksum_errors();
}

#[test]
fn who_asks_first_is_heard_and_a_station_that_moves_is_found_again() {
    let (netd, host, plain, _lab) = beside_a_plain_host(Offloads::Off);
    netd.say("network create blue -d vxlan --vni 42 --peer 192.0.2.2 --subnet 10.9.0.0/24").ok();
    let web = attached(&netd, &host, "web", "blue:ip=10.9.0.11");
    plain_vtep(&plain, "vx0", 42, 4789);

    // The plain side asks by broadcast for an address that nobody has told it of.
    assert_eq!(plain.pings("10.9.0.11", 2, PATIENCE), 2);
    assert!(plain.ip("neigh show dev vx0").contains("10.9.0.11"));

    // Another station takes the address over, with another link-layer address.
    plain.ip("link del vx0");
    plain_vtep(&plain, "vx1", 42, 4789);
    wait_until("the container finds it", || web.pings("10.9.0.100", 1, IMPATIENCE) == 1);
}

#[test]
fn nothing_comes_in_from_a_stranger_or_of_another_segment() {
    let (netd, host, plain, _lab) = beside_a_plain_host(Offloads::Off);
    plain.ip("address add 192.0.2.3/24 dev eth0");
    netd.say("network create blue -d vxlan --vni 42 --peer 192.0.2.2 --subnet 10.9.0.0/24").ok();
    let web = attached(&netd, &host, "web", "blue:ip=10.9.0.11");
    let dropped = |reason: &str| {
        let status = netd.json("status");
        let programs = status["programs"].as_array().expect("programs").clone();
        let program = programs.iter().find(|program| program["name"] == "from_overlay").expect("from_overlay").clone();
        program["dropped"][reason].as_u64().unwrap_or(0)
    };

    // A stranger: the right segment, another source address.
    plain.ip("link add vx0 type vxlan id 42 dev eth0 local 192.0.2.3 dstport 4789");
    plain.ip("address add 10.9.0.100/24 dev vx0");
    plain.ip("link set vx0 up");
    plain.run("bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.1".split(' ')).ok();
    assert_eq!(plain.pings("10.9.0.11", 2, IMPATIENCE), 0);
    assert!(dropped("unknown_vtep") > 0, "it is counted");
    plain.ip("link del vx0");

    // A peer, of the same subnet in another segment.
    plain_vtep(&plain, "vx0", 43, 4789);
    assert_eq!(plain.pings("10.9.0.11", 2, IMPATIENCE), 0);
    assert!(dropped("unknown_segment") > 0, "it is counted");
    assert_eq!(web.pings("10.9.0.100", 1, IMPATIENCE), 0);
    plain.ip("link del vx0");

    plain_vtep(&plain, "vx0", 42, 4789);
    assert_eq!(plain.pings("10.9.0.11", 2, PATIENCE), 2, "the peer itself comes in");
}

#[test]
fn packets_are_as_large_as_the_underlay_takes_and_larger_ones_are_refused() {
    let pair = Pair::new(Offloads::Off);
    pair.network("blue", 42, UNDERLAYS[0], "--subnet 10.9.0.0/24");
    pair.network("green", 43, UNDERLAYS[1], "--subnet 10.9.1.0/24");
    let web = pair.container(0, "web", "blue:ip=10.9.0.11");
    let app = pair.container(1, "app", "blue:ip=10.9.0.12");
    let green = [pair.container(0, "web6", "green:ip=10.9.1.11"), pair.container(1, "app6", "green:ip=10.9.1.12")];
    let large = |container: &Container, to: &str, mtu: u32| {
        let size = (mtu - 28).to_string();
        container.run(["ping", "-c1", "-W2", "-M", "do", "-s", &size, to]).succeeded()
    };

    for underlay in [1400, 1500, 9000] {
        for host in &pair.hosts {
            host.ip(&format!("link set eth0 mtu {underlay}"));
        }
        for ([from, at], to, overhead) in [([&web, &app], "10.9.0.12", 50), (green.each_ref(), "10.9.1.12", 70)] {
            let mtu = underlay - overhead;
            for container in [from, at] {
                wait_until("the network follows", || {
                    container.ip("link show dev eth0").contains(&format!("mtu {mtu} "))
                });
            }
            wait_until("as large as it takes", || large(from, to, mtu));
            assert!(!large(from, to, mtu + 1), "{underlay} to {to}");
        }
    }

    // What a container sends that believes in more than the underlay has is answered by its gateway.
    web.ip("link set eth0 mtu 1450");
    pair.hosts.iter().for_each(|host| drop(host.ip("link set eth0 mtu 1500")));
    pair.daemons.iter().for_each(|netd| drop(netd.say("network set blue --mtu 4000").ok()));
    wait_until("what the user says", || web.ip("link show dev eth0").contains("mtu 4000 "));
    let said = web.run(["ping", "-c1", "-W60", "-M", "do", "-s", "2000", "10.9.0.12"]);
    assert!(
        !said.succeeded() && said.stdout.contains("10.9.0.1 ") || said.stdout.contains("mtu = 1450"),
        "{}",
        said.stdout
    );
    assert_eq!(web.asks_udp("10.9.0.12:9", 0, 10, IMPATIENCE), 0);
    let server = app.echo_tcp(7);
    web.asks_tcp("10.9.0.12:7", PATIENCE).expect("TCP finds its size");
    drop(server);
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let (netd, host, _plain, _lab) = beside_a_plain_host(Offloads::On);
    let before = host.ip("link show");
    let create = |more: &str| netd.say(&format!("network create blue -d vxlan --subnet 10.9.0.0/24 {more}"));

    create("--peer 192.0.2.2").refused(["--vni"]);
    create("--vni 42").refused(["--peer"]);
    create("--vni 42 --peer 192.0.2.1").refused(["192.0.2.1", "this host's own"]);
    create("--vni 16777216 --peer 192.0.2.2").refused(["16777216"]);
    create("--vni 42 --peer here").refused(["here"]);
    netd.say("network create blue --vni 42").refused(["--vni", "bridge"]);
    netd.say("network create blue -d overlay").refused(["cluster"]);
    host.ip("link add theirs type vxlan id 7 dev eth0 dstport 4789");
    create("--vni 42 --peer 192.0.2.2").refused(["4789", "theirs"]);
    host.ip("link del theirs");
    assert_eq!(host.ip("link show"), before);

    create("--vni 42 --peer 192.0.2.2").ok();
    netd.say("network create red -d vxlan --vni 42 --peer 192.0.2.2").refused(["42", "blue"]);
    let network = says::inspected(&netd, "network inspect blue");
    assert_eq!((network["driver"].as_str(), network["segment"]["vni"].as_u64()), (Some("vxlan"), Some(42)));
    host.ip("link add theirs type vxlan id 7 dev eth0 dstport 4789");
    wait_until("the clash is told", || netd.json("status")["warnings"].to_string().contains("theirs"));
}

#[test]
fn what_spans_hosts_is_healed_and_carries_on_without_a_daemon() {
    let mut pair = Pair::new(Offloads::Off);
    pair.network("blue", 42, UNDERLAYS[0], "--subnet 10.9.0.0/24");
    let web = pair.container(0, "web", "blue:ip=10.9.0.11");
    let _app = pair.container(1, "app", "blue:ip=10.9.0.12");
    assert_eq!(web.pings("10.9.0.12", 1, PATIENCE), 1);

    pair.hosts[1].ip("link del ndx-4789");
    wait_until("the device is made again", || web.pings("10.9.0.12", 1, IMPATIENCE) == 1);
    let mended = || pair.daemons[0].say("events --until 0s -f type=repair").stdout.matches("ndx-4789").count();
    let before = mended();
    pair.hosts[0].ip("link set ndx-4789 type vxlan learning");
    wait_until("it learns nothing again", || pair.hosts[0].ip("-d link show ndx-4789").contains("nolearning"));
    wait_until("that is told", || mended() > before);

    pair.daemons[0].kill();
    pair.hosts[0].ip("neigh flush all");
    assert_eq!(web.pings("10.9.0.12", 2, PATIENCE), 2, "the programs carry on");
    pair.daemons[0].start();
    assert_eq!(web.pings("10.9.0.12", 1, PATIENCE), 1);

    for netd in &mut pair.daemons {
        netd.say("uninstall").ok();
    }
    for host in &pair.hosts {
        assert!(!host.ip("link show").contains("nd"), "nothing is left");
    }
}

#[test]
fn the_hosts_addresses_may_change_under_a_network() {
    let pair = Pair::new(Offloads::Off);
    pair.network("blue", 42, UNDERLAYS[0], "--subnet 10.9.0.0/24");
    let web = pair.container(0, "web", "blue:ip=10.9.0.11");
    let _app = pair.container(1, "app", "blue:ip=10.9.0.12");
    assert_eq!(web.pings("10.9.0.12", 1, PATIENCE), 1);

    // One host is renumbered, and the other is told.
    pair.hosts[0].ip("address del 192.0.2.1/24 dev eth0");
    pair.hosts[0].ip("address add 192.0.2.7/24 dev eth0");
    pair.daemons[1].say("rm -f app").ok();
    pair.daemons[1].say("network rm blue").ok();
    pair.daemons[1].say("network create blue -d vxlan --vni 42 --peer 192.0.2.7 --subnet 10.9.0.0/24").ok();
    let _other = pair.container(1, "other", "blue:ip=10.9.0.13");

    assert_eq!(web.pings("10.9.0.13", 2, PATIENCE), 2, "with the address that the host has now");
}
