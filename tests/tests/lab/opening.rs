//! Ports that open and close while their container runs.

use std::{io::ErrorKind, net::TcpListener};

use netd_tests::lab::{
    NetdOptions, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use crate::{
    says::inspected,
    town::{CLIENT, FRONT, Town, wait_until},
};

#[test]
fn ports_open_and_close_while_the_container_runs() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let servers = (web.serve_http(80), web.echo_tcp(7), web.echo_udp(7), web.serve_bulk(9000));
    let url = format!("http://{FRONT}:8080/");
    assert!(town.client.asks_tcp(&format!("{FRONT}:8080"), IMPATIENCE).is_err());

    town.netd.run(["publish", "web", "8080:80", "8007:7", "8007:7/udp", "9000:9000"]).ok();

    assert_eq!(town.client.curl(&url).ok(), format!("web sees {CLIENT}\n"));
    assert_eq!(town.client.asks_udp(&format!("{FRONT}:8007"), 1, 64, PATIENCE), 1);
    let shown = town.netd.say("port web").ok();
    assert!(["8080", "8007", "9000"].iter().all(|port| shown.contains(port)), "{shown}");
    assert!(town.netd.say("port web 80").ok().contains(":8080"));

    town.netd.run(["unpublish", "web", "8080:80", "8007:7/udp"]).ok();

    assert!(town.client.asks_tcp(&format!("{FRONT}:8080"), IMPATIENCE).is_err());
    assert_eq!(town.client.asks_udp(&format!("{FRONT}:8007"), 1, 64, IMPATIENCE), 0);
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("the others stay");
    town.client.transfers(&format!("{FRONT}:9000"), 100_000);
    let ports = inspected(&town.netd, "inspect web")["ports"].to_string();
    assert!(!ports.contains("8080") && ports.contains("9000"), "{ports}");
    drop(servers);
}

#[test]
fn a_client_that_keeps_sending_to_a_port_is_heard_no_more_once_it_is_closed() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7/udp"]);
    let _web = web.echo_udp(7);
    let pinging = town.client.pings_udp(&format!("{FRONT}:8007"), 50);
    wait_until("the open port answers", || pinging.answered() >= 5);

    town.netd.run(["unpublish", "web", "8007:7/udp"]).ok();

    pinging.stops_being_answered();
    assert!(town.netd.json("flows -f port=8007").as_array().is_some_and(Vec::is_empty));
}

#[test]
fn without_a_cgroup_a_published_port_is_held_on_the_host_until_it_is_given_back() {
    let town = Town::with(Offloads::On, NetdOptions::default().arguments(["--cgroup", "none"]));
    town.network("blue");
    town.container("web", "blue", &["8080:80"]);
    let bind = || town.host.enter(|| TcpListener::bind(("0.0.0.0", 8080)));

    assert_eq!(bind().expect_err("the port is published").kind(), ErrorKind::AddrInUse);

    town.netd.say("unpublish web 8080:80").ok();
    // A program that the daemon is just starting may have a copy of the socket yet.
    town.host.bound(|| TcpListener::bind(("0.0.0.0", 8080))).expect("the port is free again");
}

#[test]
fn a_port_without_a_number_on_the_host_gets_a_free_one_and_a_range_is_a_range() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["80", "8100-8102:7-9"]);
    let servers = (web.serve_http(80), web.echo_tcp(7), web.echo_tcp(9));

    let shown = town.netd.say("port web 80").ok();
    let port = shown.lines().find_map(|line| line.trim().strip_prefix("0.0.0.0:")).expect("it is published by IPv4");

    assert!(town.client.curl(&format!("http://{FRONT}:{port}/")).succeeded());
    town.client.asks_tcp(&format!("{FRONT}:8100"), PATIENCE).expect("the first of the range");
    town.client.asks_tcp(&format!("{FRONT}:8102"), PATIENCE).expect("the last of the range");
    drop(servers);
}
