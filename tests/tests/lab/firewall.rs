//! The host's own firewall, whoever wrote it: what it names is stopped, and everything else goes on.

mod named;
mod operator;
mod play;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use netd_tests::lab::{
    Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use self::play::{LONG, Play, asks, hears_group, moves, stops};
use crate::{
    ipv6, says,
    town::{FRONT, INTERNET, wait_until},
};

/// How long after a change of the ruleset every flow has proved itself again: a tick of the programs, and the daemon's look.
const TOLD: Duration = Duration::from_secs(4);

#[test]
fn a_forward_policy_of_drop_cuts_neither_published_ports_nor_masquerade() {
    for command in ["iptables-nft", "iptables-legacy"] {
        let play = Play::with(&[&format!("{command} -P FORWARD DROP")]);

        play.goes_on();

        play.is_fast(command);
        let listed = play.host().run([command, "-S", "FORWARD"]).ok();
        assert_eq!(listed.lines().count(), 2, "{listed}");
    }
}

#[test]
fn the_accept_is_put_back_when_it_is_flushed_and_no_flow_stops() {
    let play = Play::with(&["iptables-nft -P FORWARD DROP"]);
    let mut out = play.app_connects();
    let mut inward = play.client_connects();

    for flush in ["iptables-nft -F", "iptables-nft -F FORWARD"] {
        play.does(flush);
        let (begin, mut back) = (Instant::now(), None);
        while begin.elapsed() < Duration::from_secs(3) || back.is_none() {
            assert!(begin.elapsed() < PATIENCE, "it is put back");
            asks(&mut out).expect("an established flow goes on");
            asks(&mut inward).expect("an established flow goes on");
            let is_there = || play.host().run(["iptables-nft", "-S", "FORWARD"]).ok().contains("netd");
            back = back.or_else(|| is_there().then(|| begin.elapsed()));
            thread::sleep(Duration::from_millis(50));
        }
        println!("{flush}: the accept is back after {:?}", back.expect("it is put back"));
        play.goes_on();
    }
    play.does("nft flush ruleset");
    play.goes_on();
    asks(&mut out).expect("an established flow goes on");
    asks(&mut inward).expect("an established flow goes on");
}

#[test]
fn a_drop_stops_exactly_what_it_names_live_flows_included() {
    let play = Play::with(&[]);
    let other = play.town.container("other", "blue", &["9090:80"]);
    let _others = other.echo_tcp(80);
    let mut out = play.app_connects();
    let mut inward = play.client_connects();
    let (app, others_address) = (play.town.address("app"), play.town.address("other"));

    play.does("nft add table inet guard");
    play.does("nft add chain inet guard forward { type filter hook forward priority 0 ; }");
    play.does(&format!("nft add rule inet guard forward ip saddr {app} drop"));
    stops(&mut out);
    stops(&mut inward);
    let fresh = play.app.asks_tcp(&format!("{INTERNET}:7"), IMPATIENCE);
    assert!(fresh.is_err(), "what is new is stopped too");
    other.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("the rule names another container");
    play.town.client.asks_tcp(&format!("{FRONT}:9090"), PATIENCE).expect("the rule names another container");

    play.does("nft flush ruleset");
    play.goes_on();
    play.does("nft add table inet guard");
    play.does("nft add chain inet guard forward { type filter hook forward priority 0 ; }");
    play.does(&format!("nft add rule inet guard forward ip daddr {others_address} drop"));
    play.is_fast("a bare nft drop of another container");
    play.does("nft flush ruleset");

    // A published port of one container, by what the firewall sees: the container's own address and port.
    play.does(
        "iptables-legacy -I FORWARD -d PLACE -p tcp --dport 80 -j DROP".replace("PLACE", &others_address).as_str(),
    );
    wait_until("a rule of the older iptables is seen", || play.status().contains("shown\":true"));
    assert!(play.town.client.asks_tcp(&format!("{FRONT}:9090"), IMPATIENCE).is_err());
    play.goes_on();
    play.is_fast("an iptables drop of another container");
}

#[test]
fn so_it_is_by_ipv6() {
    for command in ["ip6tables-nft", "ip6tables-legacy"] {
        let play = Play::of_both_families(&[&format!("{command} -P FORWARD DROP")]);
        play.goes_on_by_ipv6();
        play.is_fast_by_ipv6(command);
        let mut out = play.app_connects_by_ipv6();
        let mut inward = play.client_connects_by_ipv6();
        let app = says::text(&says::inspected(&play.town.netd, "inspect app"), "/networks/0/ip6");

        play.does(&format!("{command} -F"));
        let accept = || play.host().run([command, "-S", "FORWARD"]).ok().contains("netd");
        wait_until("the accept is put back", accept);
        asks(&mut out).expect("an established flow goes on");
        asks(&mut inward).expect("an established flow goes on");
        play.goes_on_by_ipv6();

        play.does(&format!("{command} -I FORWARD -s {app} -p tcp -j DROP"));
        stops(&mut out);
        stops(&mut inward);
        assert!(
            play.app.asks_tcp(&format!("[{}]:7", ipv6::INTERNET), IMPATIENCE).is_err(),
            "what is new is stopped too"
        );
        assert_eq!(play.app.asks_udp(&format!("[{}]:7", ipv6::INTERNET), 3, 100, PATIENCE), 3, "and nothing else");
        play.goes_on();
    }
    let play = Play::of_both_families(&[
        "nft add table ip6 guard",
        "nft add chain ip6 guard forward { type filter hook forward priority 0 ; }",
        "nft add rule ip6 guard forward ct state invalid counter drop",
        "nft add rule ip6 guard forward tcp dport 80 reject with tcp reset",
    ]);
    let refused = play.town.client.connect(&format!("[{}]:8080", ipv6::FRONT), PATIENCE).expect_err("it is rejected");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the client is told: {refused}");
    let mut out = play.app_connects_by_ipv6();
    moves(&mut out, LONG);
    play.does("nft add rule ip6 guard forward tcp dport 1 drop");
    thread::sleep(TOLD);
    asks(&mut out).expect("a change of the ruleset loses no connection");
    moves(&mut out, 1 << 20);
    play.town.lab.assert_no_checksum_errors();
}

#[test]
fn a_reject_that_names_a_container_is_heard_by_who_is_rejected() {
    let play = Play::with(&[
        "nft add table inet guard",
        "nft add chain inet guard forward { type filter hook forward priority 0 ; }",
        "nft add rule inet guard forward tcp dport 80 reject with tcp reset",
    ]);

    let refused = play.town.client.connect(&format!("{FRONT}:8080"), PATIENCE).expect_err("it is rejected");

    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the client is told: {refused}");
    play.app.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("the rule names another port");
    play.town.lab.assert_no_checksum_errors();
}

#[test]
fn a_change_of_the_ruleset_loses_no_connection_that_nf_conntrack_has_lost_sight_of() {
    let rules = [
        "nft add table inet guard",
        "nft add chain inet guard forward { type filter hook forward priority 0 ; policy drop ; }",
        "nft add rule inet guard forward ct state invalid counter drop",
        "nft add rule inet guard forward ct state established,related accept",
        "nft add rule inet guard forward ct state new accept",
    ];
    for kind in Offloads::BOTH {
        let play = Play::on(kind, &rules);
        let tracked = || {
            // Whoever lists them has the kernel look which have expired: it does so by itself once a minute.
            play.host().run(["cat", "/proc/net/nf_conntrack"]).ok();
            let count = play.host().sysctl("netfilter/nf_conntrack_count").expect("the kernel has nf_conntrack");
            count.parse::<u32>().expect("a number")
        };
        for timeout in ["time_wait", "close", "last_ack", "fin_wait", "close_wait"] {
            let sysctl = format!("net.netfilter.nf_conntrack_tcp_timeout_{timeout}=1");
            play.host().run(["sysctl", "-qw", &sysctl]).ok();
        }
        let before = tracked();
        let mut out = play.app_connects();
        let mut inward = play.client_connects();
        play.app.transfers(&format!("{INTERNET}:9"), LONG);
        play.town.client.transfers(&format!("{FRONT}:8090"), LONG);
        moves(&mut out, LONG);
        moves(&mut inward, LONG);

        for number in 0..3 {
            play.does(&format!("nft add rule inet guard forward tcp dport {number} drop"));
            thread::sleep(TOLD);
            asks(&mut out).expect("the connection lives");
            asks(&mut inward).expect("the connection lives");
            moves(&mut out, 1 << 20);
            moves(&mut inward, 1 << 20);
        }
        play.is_fast("ct state invalid drop");
        let liberal = play.host().sysctl("netfilter/nf_conntrack_tcp_be_liberal");
        assert_eq!(liberal.as_deref(), Some("0"), "the host's own sysctl is left alone");
        assert!(tracked() >= before + 2, "nf_conntrack follows them: {:?}", tracked());
        drop((out, inward));
        wait_until("nf_conntrack has forgotten all of them", || tracked() <= before);
        play.town.lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_firewall_that_is_not_asked_and_one_that_always_is() {
    let play = Play::starting(Offloads::On, &["--firewall", "full"], &["nft add table inet guard", CHAIN, DROP_ALL]);
    play.goes_on();
    assert!(play.status().contains("\"mode\":\"full\""), "{}", play.status());
    assert_eq!(play.shown(), 0);

    let play = Play::starting(Offloads::On, &["--firewall", "off"], &[]);
    play.goes_on();
    let fast = says::number(&play.town.netd.json("status"), "/firewall/fast");
    play.app.transfers(&format!("{INTERNET}:9"), 1 << 20);
    assert_eq!(
        says::number(&play.town.netd.json("status"), "/firewall/fast"),
        fast,
        "every packet takes the stack's way"
    );
    assert!(play.shown() > 0);
}

#[test]
fn connections_live_and_new_ones_begin_while_the_daemon_is_dead() {
    let mut play =
        Play::with(&["iptables-nft -P FORWARD DROP", "iptables-nft -A FORWARD -m conntrack --ctstate INVALID -j DROP"]);
    play.goes_on();
    let mut out = play.app_connects();
    moves(&mut out, 1 << 20);

    play.town.netd.kill();

    moves(&mut out, 8 << 20);
    play.app.transfers(&format!("{INTERNET}:9"), 1 << 20);
    play.town.client.transfers(&format!("{FRONT}:8090"), 1 << 20);
    play.town.netd.start();
    moves(&mut out, 8 << 20);
    play.goes_on();
}

#[test]
fn strict_reverse_path_filters_and_br_netfilter_stop_nothing() {
    for sysctls in [
        &["net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1", "net.ipv4.conf.eth1.rp_filter=1"][..],
        &["net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1"],
        &["net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0"],
    ] {
        let play = Play::of_both_families(&["iptables-nft -P FORWARD DROP", "ip6tables-nft -P FORWARD DROP"]);
        for sysctl in sysctls {
            play.host().run(["sysctl", "-qw", sysctl]).ok();
        }

        play.goes_on();
        play.goes_on_by_ipv6();

        let other = play.town.container("other", "blue", &[]);
        let _echo = other.echo_udp(7);
        let v6 = says::text(&says::inspected(&play.town.netd, "inspect other"), "/networks/0/ip6");
        let v4 = play.town.address("other");
        for (address, there) in [(&v4, format!("{v4}:7")), (&v6, format!("[{v6}]:7"))] {
            assert_eq!(play.app.asks_udp(&there, 3, 100, PATIENCE), 3, "first packets inside a network: {sysctls:?}");
            assert_eq!(play.app.asks_udp(&there, 3, 4000, PATIENCE), 3, "fragments inside a network: {sysctls:?}");
            assert_eq!(play.app.pings(address, 3, PATIENCE), 3, "{sysctls:?}");
        }
        assert!(hears_group(&play, &other), "a group inside a network: {sysctls:?}");
        play.is_fast(&format!("{sysctls:?}"));
    }
}

#[test]
fn uninstall_takes_the_accept_with_it() {
    let mut play = Play::with(&["iptables-nft -P FORWARD DROP", "iptables-legacy -P FORWARD DROP"]);
    let ours = |play: &Play, command: &str| play.host().run([command, "-S", "FORWARD"]).ok().contains("netd");
    assert!(ours(&play, "iptables-nft") && ours(&play, "iptables-legacy"));

    play.town.netd.say("uninstall").ok();
    play.town.netd.wait();

    assert!(!ours(&play, "iptables-nft") && !ours(&play, "iptables-legacy"));
}

#[test]
fn the_accept_of_a_mark_that_was_configured_goes_with_the_next_mark_and_with_uninstall() {
    let mut play = Play::with(&["iptables-nft -P FORWARD DROP"]);
    let file = play.host().path("/etc/netd/netd.toml");
    let accepts = |play: &Play| {
        let listed = play.host().run(["iptables-nft", "-S", "FORWARD"]).ok();
        listed.lines().filter(|line| line.contains("netd")).map(str::to_owned).collect::<Vec<_>>()
    };

    fs::write(&file, "[daemon]\nmark = 0x1000000\n").expect("the host has /etc/netd");
    play.town.netd.terminate();
    play.town.netd.start();

    play.goes_on();
    let listed = accepts(&play);
    assert!(listed.len() == 1 && listed[0].contains("0x1000000/0x1000000"), "{listed:#?}");
    play.town.netd.kill();
    fs::remove_file(&file).expect("it is there");
    play.town.netd.say("uninstall").ok();
    assert_eq!(accepts(&play), [""; 0]);
}

#[test]
fn a_port_that_input_would_deny_is_published_with_a_warning() {
    let play = Play::with(&[]);
    play.does("iptables-nft -P INPUT DROP");
    play.does("iptables-nft -A INPUT -p tcp --dport 8081 -j ACCEPT");
    let seen = || says::inspected(&play.town.netd, "inspect app")["ports"][0]["input"].is_string();
    wait_until("the rules are seen", seen);

    let denied = play.town.netd.say("publish app 8082:80");
    let allowed = play.town.netd.say("publish app 8081:80");

    assert!(denied.stderr.contains("8082") && denied.stderr.contains("INPUT"), "{}", denied.stderr);
    assert_eq!(denied.stderr.lines().count(), 1, "{}", denied.stderr);
    assert_eq!(allowed.stderr, "");
    let doctor = play.town.netd.run(["doctor"]);
    assert!(doctor.stdout.contains("port 8082") && !doctor.stdout.contains("port 8081"), "{}", doctor.stdout);
    play.town.client.asks_tcp(&format!("{FRONT}:8082"), PATIENCE).expect("as with Docker, INPUT does not see it");
}

const CHAIN: &str = "nft add chain inet guard forward { type filter hook forward priority 0 ; policy drop ; }";
const DROP_ALL: &str = "nft add rule inet guard forward counter drop";
