//! What a published port is not: a way for who comes in another's name, nor for what is on its way to another host.

use std::net::UdpSocket;

use netd_tests::lab::{
    Node, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use crate::{
    ipv6::{paved, paved_router},
    says,
    town::{CLIENT, FRONT, INTERNET, Town},
};

const CLIENT6: &str = "2001:db8:2::2";
const FRONT6: &str = "[2001:db8:2::1]";
const INTERNET6: &str = "[2001:db8:ffff::80]";

#[test]
fn who_comes_from_the_wire_in_a_containers_or_the_hosts_name_reaches_nobody() {
    let town = paved(Offloads::On);
    town.netd.say("network create blue --subnet 10.99.0.0/24 --subnet fd00:99::/64").ok();
    let web = town.container("web", "blue", &["8007:7/udp"]);
    let _beside = town.container("beside", "blue", &[]);
    let server = web.echo_udp(7);
    let lies = [
        ("10.99.0.3", FRONT, "another container"),
        ("10.99.0.1", FRONT, "the gateway"),
        ("192.0.2.1", FRONT, "the host"),
        ("fd00:99::3", FRONT6, "another container"),
        ("fd00:99::1", FRONT6, "the gateway"),
        ("2001:db8:1::1", FRONT6, "the host"),
    ];

    for (source, front, whose) in lies {
        let before = counted(&town);
        let prefix = if source.contains(':') { "128 nodad" } else { "32" };
        let (address, rest) = prefix.split_once(' ').unwrap_or((prefix, ""));
        town.client.ip(&format!("address add {source}/{address} dev lo {rest}"));
        let place = if source.contains(':') { format!("[{source}]:0") } else { format!("{source}:0") };
        let socket = town.client.enter(|| UdpSocket::bind(&place)).expect("it is the client's own idea");
        crate::town::wait_until("they are dropped and counted", || {
            for _ in 0..3 {
                town.client.enter(|| socket.send_to(b"?", format!("{front}:8007"))).expect("it is sent");
            }
            counted(&town) >= before + 3
        });
        assert!(server.peers().is_empty(), "{source}, {whose}: {:?}", server.peers());
    }

    assert_eq!(town.client.asks_udp(&format!("{FRONT}:8007"), 1, 64, PATIENCE), 1);
    let own = town.client.enter(|| UdpSocket::bind(format!("[{CLIENT6}]:0"))).expect("a port is free");
    own.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
    own.send_to(b"?", format!("{FRONT6}:8007")).expect("it is sent");
    assert_eq!(own.recv(&mut [0; 8]).expect("in its own name it is heard"), 1);
}

fn counted(town: &Town) -> u64 {
    let status = town.netd.json("status");
    let programs = status["programs"].as_array().expect("a daemon has programs");
    let program = programs.iter().find(|one| one["name"] == "from_uplink").expect("one is from_uplink");
    program["dropped"]["spoofed_address"].as_u64().unwrap_or_default()
}

/// A host that routes for others too, as a router with containers does.
#[test]
fn what_is_on_its_way_through_the_host_to_a_port_that_it_publishes_goes_on() {
    let town = paved_router();
    town.netd.say("network create blue --ipv6").ok();
    let ports = ["8007:7", "8007:7/udp", "9000-9199:9000-9199"];
    let web = town.container("web", "blue", &ports);
    let inside = [web.echo_tcp(7), web.echo_udp(7), web.echo_tcp(9100)];
    town.internet.ip(&format!("route add {CLIENT}/32 via 192.0.2.1"));
    town.internet.ip(&format!("-6 route add {CLIENT6}/128 via 2001:db8:1::1"));
    let outside = [town.internet.echo_tcp(8007), town.internet.echo_udp(8007), town.internet.echo_tcp(9100)];

    for (internet, front) in [(INTERNET, FRONT), (INTERNET6, FRONT6)] {
        for port in [8007, 9100] {
            town.client.asks_tcp(&format!("{internet}:{port}"), PATIENCE).expect("it is the internet's");
        }
        assert_eq!(asks_udp(&town.client, &format!("{internet}:8007")), Some(1));
        town.client.asks_tcp(&format!("{front}:8007"), PATIENCE).expect("and this the container's");
    }

    let seen = |servers: &[netd_tests::lab::traffic::Server; 3]| servers.each_ref().map(|server| server.peers().len());
    assert_eq!(seen(&inside), [2, 0, 0], "at the host's own addresses alone");
    let peers = outside.iter().flat_map(netd_tests::lab::traffic::Server::peers).map(|peer| peer.to_string());
    assert!(peers.into_iter().all(|peer| [CLIENT, CLIENT6].contains(&peer.as_str())), "nothing is translated");
    assert!(town.client.asks_tcp(&format!("{FRONT}:9100"), IMPATIENCE).is_ok());
    assert_eq!(says::counted(&town.netd, "from_uplink", "to_neighbour"), 0);
}

fn asks_udp(node: &Node, server: &str) -> Option<usize> {
    let bound = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = node.enter(|| UdpSocket::bind(bound)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.connect(server).ok()?;
    socket.send(b"?").ok()?;
    socket.recv(&mut [0; 8]).ok()
}
