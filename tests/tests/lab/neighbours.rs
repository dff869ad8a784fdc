//! Netd beside other engines, and on a bridge that the host's own interface is a port of.

use netd_tests::lab::{
    Container, Host, Lab, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use crate::{
    says,
    town::{CLIENT, FRONT, HOST, INTERNET, Town},
};

#[test]
fn another_engines_containers_go_out_and_are_reached_as_without_netd_and_not_by_netds_containers() {
    for kind in Offloads::BOTH {
        let town = Town::new(kind);
        town.network("blue");
        let app = town.container("app", "blue", &["8080:80"]);
        let foreign = another_engine(&town.host);
        let (_outside, _inside) = (town.internet.echo_udp(7), app.serve_http(80));
        let outside = town.internet.echo_tcp(7);
        let server = foreign.echo_tcp(7);

        foreign.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("the other engine masquerades");
        assert_eq!(foreign.asks_udp(&format!("{INTERNET}:7"), 3, 1400, PATIENCE), 3);
        town.client.asks_tcp(&format!("{FRONT}:7007"), PATIENCE).expect("the other engine publishes");
        town.host.asks_tcp("172.17.0.2:7", PATIENCE).expect("the host reaches it");
        assert!(app.asks_tcp("172.17.0.2:7", IMPATIENCE).is_err(), "engines keep to themselves");

        outside.assert_seen_only(HOST);
        let seen: Vec<_> = server.peers().iter().map(ToString::to_string).collect();
        assert_eq!(seen, [CLIENT, "172.17.0.1"]);
        let uplinks = says::names(&town.netd.json("status")["uplinks"]);
        assert_eq!(uplinks, ["eth0", "eth1"], "the other engine's bridge is none");
        assert_eq!(town.client.curl(&format!("http://{FRONT}:8080/")).ok(), format!("app sees {CLIENT}\n"));
        town.lab.assert_no_checksum_errors();
    }
}

#[test]
fn of_an_interface_in_a_bridge_the_bridge_is_the_uplink() {
    for kind in Offloads::BOTH {
        let lab = Lab::new();
        let (host, internet) = (lab.host("host"), lab.host("internet"));
        lab.wire(kind).from(&host, "eth0", "192.0.2.1/24").to(&internet, "eth0", "192.0.2.2/24");
        internet.ip(&format!("address add {INTERNET}/32 dev lo"));
        host.ip("link add br0 type bridge");
        host.ip("address del 192.0.2.1/24 dev eth0");
        host.ip("link set eth0 master br0");
        host.ip("address add 192.0.2.1/24 dev br0");
        host.ip("link set br0 up");
        host.default_route("192.0.2.2");
        let netd = host.netd();
        let app = host.container("app");
        netd.say(&format!("attach app --netns {} -p 8080:80 -p 8007:7/udp", app.netns())).ok();
        let servers = [internet.echo_tcp(7), internet.echo_udp(7)];
        let (_web, _echo) = (app.serve_http(80), app.echo_udp(7));

        app.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("the container reaches the outside");
        assert_eq!(app.asks_udp(&format!("{INTERNET}:7"), 3, 4000, PATIENCE), 3);
        assert_eq!(app.pings(INTERNET, 2, PATIENCE), 2);
        assert_eq!(internet.curl("http://192.0.2.1:8080/").ok(), "app sees 192.0.2.2\n");
        assert_eq!(internet.asks_udp("192.0.2.1:8007", 3, 4000, PATIENCE), 3);

        servers.iter().for_each(|server| server.assert_seen_only(HOST));
        assert_eq!(says::names(&netd.json("status")["uplinks"]), ["br0"]);
        assert!(says::counted(&netd, "from_container", "to_neighbour") > 0, "the programs forward, not the stack");
        assert!(says::counted(&netd, "from_uplink", "to_peer") > 0, "the programs deliver");
        lab.assert_no_checksum_errors();
    }
}

/// What Docker makes of a host: a bridge, a container in it at 172.17.0.2, its port 7 published as 7007, forwarding, and rules.
fn another_engine(host: &Host) -> Container {
    let foreign = host.container("foreign");
    host.ip("link add docker0 type bridge");
    host.ip("address add 172.17.0.1/16 dev docker0");
    host.ip("link set docker0 up");
    host.ip("link add vethd type veth peer name eth0 netns foreign");
    host.ip("link set vethd master docker0 up");
    foreign.ip("address add 172.17.0.2/16 dev eth0");
    foreign.ip("link set eth0 up");
    foreign.default_route("172.17.0.1");
    host.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).ok();
    let rules = "add table ip d; \
        add chain ip d out { type nat hook postrouting priority srcnat; }; \
        add rule ip d out ip saddr 172.17.0.0/16 oifname != docker0 masquerade; \
        add chain ip d in { type nat hook prerouting priority dstnat; }; \
        add rule ip d in fib daddr type local tcp dport 7007 dnat to 172.17.0.2:7";
    host.run(["nft", rules]).ok();
    foreign
}
