//! The host and its own containers: between them there is no bridge but for what they do not know of each other yet.

use netd_tests::lab::{Offloads, traffic::PATIENCE};

use crate::{
    says::{self, counted},
    town::{HOST, Town},
};

/// Datagrams that must not be heard by others.
const DATAGRAMS: u64 = 200;

#[test]
fn the_host_and_its_containers_speak_past_the_bridge_and_no_other_container_hears_them() {
    for (kind, bridge_netfilter) in [(Offloads::On, "0"), (Offloads::Off, "1")] {
        let town = Town::new(kind);
        town.host.run(["sysctl", "-qw", &format!("net.bridge.bridge-nf-call-iptables={bridge_netfilter}")]).ok();
        town.netd.say("network create blue --ipv6").ok();
        let app = town.container("app", "blue", &[]);
        let other = town.container("other", "blue", &[]);
        let (_datagrams, _streams) = (app.echo_udp(7), app.echo_tcp(7));
        let at_host = town.host.echo_tcp(9);
        let ipv6 = says::text(&says::inspected(&town.netd, "inspect app"), "/networks/0/ip6");
        let gateway = says::gateway_of(&town.netd, "blue");
        town.host.asks_tcp(&town.at("app", 7), PATIENCE).expect("the two know each other");
        // The bridge forgets where the container is: to it, what is for the container is for everyone.
        let bridge = says::text(&says::inspected(&town.netd, "network inspect blue"), "/bridge");
        town.host.ip(&format!("link set {bridge} type bridge fdb_flush"));
        let before = (heard(&other), counted(&town.netd, "from_host", "to_device"));

        assert_eq!(town.host.asks_udp(&town.at("app", 7), DATAGRAMS, 1400, PATIENCE), DATAGRAMS);
        let after = (heard(&other), counted(&town.netd, "from_host", "to_device"));
        town.host.asks_tcp(&format!("[{ipv6}]:7"), PATIENCE).expect("the host reaches it by IPv6");
        assert_eq!(town.host.asks_udp(&town.at("app", 7), 3, 4000, PATIENCE), 3, "in fragments");
        for address in [HOST, &gateway] {
            app.asks_tcp(&format!("{address}:9"), PATIENCE).expect("the container reaches the host");
        }

        assert!(after.1 - before.1 >= DATAGRAMS, "{before:?} {after:?}");
        assert!(after.0 - before.0 < DATAGRAMS / 10, "{before:?} {after:?}");
        let seen: Vec<_> = at_host.peers().iter().map(ToString::to_string).collect();
        assert_eq!(seen, [town.address("app"), town.address("app")]);
        town.lab.assert_no_checksum_errors();
    }
}

/// Packets that a container has received on its network.
fn heard(container: &netd_tests::lab::Container) -> u64 {
    let told: serde_json::Value = serde_json::from_str(&container.ip("-j -s link show eth0")).expect("JSON");
    says::number(&told, "/0/stats64/rx/packets")
}
