//! What holds on network cards whose driver runs XDP, which a virtual machine's virtio-net is.

use netd_tests::lab::{
    Host,
    traffic::{IMPATIENCE, PATIENCE},
};
use serde_json::{Value, json};

use crate::{
    says,
    town::{FRONT, HOST, INTERNET, NEIGHBOUR, Town},
};

/// `XDP_ATTACHED_DRV` of linux/if_link.h, as `ip -j -d link` tells it.
const BY_THE_DRIVER: u64 = 1;

#[test]
#[ignore = "takes two network cards with a driver of their own: `cargo xtask vm` runs it in a guest that has them"]
fn a_driver_drops_the_clients_that_a_port_does_not_let_in_before_there_is_a_packet() {
    let mut town = Town::of_cards();
    town.network("blue");
    let from = format!("from={NEIGHBOUR},198.51.100.0/24");
    let web = town.container("web", "blue", &[&format!("8007:7,{from}"), &format!("8007:7/udp,{from}"), "8008:7"]);
    let servers = [web.echo_tcp(7), web.echo_udp(7)];
    let at = format!("{HOST}:8007");
    let speaks_as = |address: &str| {
        town.internet.ip(&format!("route replace 192.0.2.0/24 dev eth0 src {address}"));
    };

    assert_eq!(mode(&town.host, "eth0"), json!(BY_THE_DRIVER), "{}", town.host.ip("-d link show eth0"));
    assert_eq!(mode(&town.host, "eth1"), Value::Null, "a veth pair has no driver that it stands on");
    assert_eq!(early(&town)["attach"], "native XDP");
    assert_eq!(early(&town)["devices"], json!(["eth0"]));

    speaks_as(NEIGHBOUR);
    town.internet.asks_tcp(&at, PATIENCE).expect("it is named");
    assert_eq!(town.internet.asks_udp(&at, 3, 1000, PATIENCE), 3, "it is named");
    assert_eq!(early(&town)["dropped"], json!({}));
    servers.iter().for_each(|server| server.assert_seen_only(NEIGHBOUR));

    speaks_as(INTERNET);
    assert!(town.internet.asks_tcp(&at, IMPATIENCE).is_err(), "it is not named");
    assert_eq!(town.internet.asks_udp(&at, 20, 64, IMPATIENCE / 10), 0, "it is not named");
    assert!(says::number(&early(&town), "/dropped/source_denied") >= 21, "{}", early(&town));
    assert_eq!(program(&town, "from_uplink")["dropped"], json!({}), "none of it became a packet");
    town.internet.asks_tcp(&format!("{HOST}:8008"), PATIENCE).expect("another port is everybody's");
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("so is it by another device");

    town.netd.kill();
    assert!(town.internet.asks_tcp(&at, IMPATIENCE).is_err(), "with the daemon dead too");
    town.netd.start();
    town.netd.say(&format!("publish web 8007:7,from={INTERNET} 8007:7/udp,from={INTERNET}")).ok();
    town.internet.asks_tcp(&at, PATIENCE).expect("a change holds in the driver too");
    assert_eq!(mode(&town.host, "eth0"), json!(BY_THE_DRIVER));

    town.netd.say("publish web 8007:7 8007:7/udp").ok();
    assert_eq!(mode(&town.host, "eth0"), Value::Null, "where every port is everybody's there is nothing to drop");
    town.internet.asks_tcp(&at, PATIENCE).expect("it is everybody's");
    town.lab.assert_no_checksum_errors();
}

fn program(town: &Town, name: &str) -> Value {
    let status = town.netd.json("status");
    let programs = status["programs"].as_array().expect("programs");
    programs.iter().find(|one| one["name"] == name).expect("the program").clone()
}

fn early(town: &Town) -> Value {
    program(town, "uplink_xdp")
}

/// How XDP is attached to a device, as iproute2 tells it.
fn mode(host: &Host, device: &str) -> Value {
    let told = host.ip(&format!("-j -d link show {device}"));
    let links: Value = serde_json::from_str(&told).expect("iproute2 writes JSON");
    links[0]["xdp"]["mode"].clone()
}
