//! What a specification of a port comes to: which port of the host is chosen, and where none is needed.

use std::collections::BTreeSet;

use netd_tests::lab::{
    Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use crate::town::{FRONT, Town};

#[test]
fn a_port_of_the_host_that_is_asked_for_on_a_routed_network_is_ignored_with_a_warning() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create seen --subnet 10.77.0.0/24 --gateway-mode routed").ok();
    town.client.ip(&format!("route add 10.77.0.0/24 via {FRONT}"));
    let web = town.container("web", "seen", &[]);
    let _server = web.echo_tcp(80);

    let asked = town.netd.say("publish web 8080:80");

    asked.ok();
    assert_eq!(asked.stderr.lines().count(), 1, "{}", asked.stderr);
    for word in ["warning", "seen is routed", "8080", "10.77.0.2:80"] {
        assert!(asked.stderr.contains(word), "{word}: {}", asked.stderr);
    }
    town.client.asks_tcp("10.77.0.2:80", PATIENCE).expect("clients come to the container's own address");
    let refused = town.client.asks_tcp(&format!("{FRONT}:8080"), PATIENCE).expect_err("the host has no such port");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    let own = town.host.container("own");
    let attach = format!("attach own --netns {} --network seen -p 8081:80", own.netns());
    assert!(town.netd.say(&attach).stderr.contains("8081"), "`attach` says so too");
}

#[test]
fn a_port_is_chosen_of_the_ephemeral_range_but_reserved_ones_and_none_twice_at_once() {
    let town = Town::new(Offloads::On);
    let set = |name: &str, value: &str| {
        town.host.run(["sysctl", "-qw", &format!("net.ipv4.{name}={value}")]).ok();
    };
    set("ip_local_port_range", "41000 41009");
    set("ip_local_reserved_ports", "41006,41008");
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let _server = web.echo_tcp(80);
    let taken = town.host.echo_tcp(41007);
    crate::town::wait_until("the daemon knows the range", || {
        let port = chosen(&town, "80");
        town.netd.say("unpublish web 80").ok();
        (41_000..=41_009).contains(&port)
    });

    let mut ports = Vec::new();
    for _ in 0..7 {
        ports.push(chosen(&town, "80"));
        town.client.asks_tcp(&format!("{FRONT}:{}", ports[ports.len() - 1]), PATIENCE).expect("it is published");
        town.netd.say("unpublish web 80").ok();
    }

    let expected: BTreeSet<u16> = [41_000, 41_001, 41_002, 41_003, 41_004, 41_005, 41_009].into();
    assert_eq!(ports.iter().copied().collect::<BTreeSet<_>>(), expected, "each after the last: {ports:?}");
    drop(taken);

    let _held = town.host.echo_tcp(8001);
    assert_eq!(chosen(&town, "8000-8002:80"), 8000, "the first of those that are named");
    assert_eq!(chosen(&town, "8000-8002:81"), 8002, "a process of the host has the one between");
    let full = town.netd.say("publish web 8000-8002:82");
    full.refused(["free", "tcp"]);
    town.netd.say("unpublish web 8000-8002:80").ok();
    assert!(town.client.asks_tcp(&format!("{FRONT}:8000"), IMPATIENCE).is_err(), "it is closed again");
}

/// The port of the host that a specification without one comes to.
#[track_caller]
fn chosen(town: &Town, spec: &str) -> u16 {
    town.netd.say(&format!("publish web {spec}")).ok();
    let port = spec.rsplit(':').next().unwrap_or(spec);
    let said = town.netd.say(&format!("port web {port}")).ok();
    let place = said.lines().find_map(|line| line.trim().strip_prefix("0.0.0.0:"));
    place.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port of the host in {said}"))
}
