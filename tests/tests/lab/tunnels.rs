//! Uplinks of layer 3, as of a VPN or a dialled line: what netd is for holds by them as it does by Ethernet. The core has the
//! first two cases; these are the rest.

use std::fs;

use netd_tests::lab::{NetdOptions, Offloads, traffic::PATIENCE};

use crate::{
    cases::{self, on_both_kinds_of_tunnel},
    ipv6, says,
    town::{CLIENT, FRONT, HOST, INTERNET, Town, dial},
};

#[test]
fn networks_stay_isolated() {
    on_both_kinds_of_tunnel(cases::networks_are_isolated_from_each_other_and_from_outside);
}

#[test]
fn the_host_and_its_containers_reach_published_ports() {
    on_both_kinds_of_tunnel(cases::containers_reach_a_published_port_by_the_hosts_addresses_and_the_gateways);
    on_both_kinds_of_tunnel(
        cases::the_host_reaches_a_published_port_by_each_of_its_addresses_and_is_told_what_it_dialled,
    );
}

#[test]
fn so_it_is_by_ipv6() {
    on_both_kinds_of_tunnel(ipv6::leaves_by_the_address_of_its_host);
    on_both_kinds_of_tunnel(ipv6::is_reached_by_either_family);
}

#[test]
fn errors_find_their_way_in_and_out() {
    on_both_kinds_of_tunnel(|town| {
        town.network("blue");
        let app = town.container("app", "blue", &["8009:9/udp"]);
        let refused = format!("error {}\n", nix::libc::ECONNREFUSED);

        assert_eq!(app.run(dial(&format!("udp {INTERNET}:9"))).stdout, refused, "nobody is there, beyond the tunnel");
        assert_eq!(
            town.client.run(dial(&format!("udp {FRONT}:8009"))).stdout,
            refused,
            "nor behind the published port"
        );
    });
}

#[test]
fn the_hosts_own_traffic_stays_its_own() {
    on_both_kinds_of_tunnel(|town| {
        town.network("blue");
        let _app = town.container("app", "blue", &["8080:80"]);
        let (theirs, ours) = (town.internet.echo_tcp(7), [town.host.echo_tcp(7), town.host.echo_udp(7)]);

        town.host.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("the host reaches the outside");
        town.client.asks_tcp(&format!("{FRONT}:7"), PATIENCE).expect("the outside reaches the host");
        assert_eq!(town.client.asks_udp(&format!("{FRONT}:7"), 3, 4000, PATIENCE), 3, "in fragments too");

        theirs.assert_seen_only(HOST);
        ours.iter().for_each(|server| server.assert_seen_only(CLIENT));
    });
}

#[test]
fn a_device_that_becomes_one_of_ethernet_gets_the_programs_for_it_and_a_new_daemon_takes_the_old_ones_over() {
    let mut town = Town::of_tunnels(Offloads::Off, NetdOptions::default());
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let _server = town.internet.echo_tcp(7);
    let pin = |name: &str| {
        let index = town.host.ifindex("eth0").expect("there is eth0");
        let links = fs::read_dir(town.host.path(format!("/sys/fs/bpf/netd/{}/links", netd_common::tables::LAYOUT)))
            .expect("links are pinned");
        links.flatten().any(|entry| entry.file_name().to_string_lossy() == format!("{name}@{index}"))
    };
    assert!(pin("from_l3_uplink") && pin("to_l3_uplink") && !pin("from_uplink"));
    let before = says::counted(&town.netd, "from_l3_uplink", "to_peer");

    town.netd.kill();
    town.netd.start();

    app.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("it answers as before");
    assert!(says::counted(&town.netd, "from_l3_uplink", "to_peer") > before);
    town.host.ip("link del eth0");
    town.host.ip("link add eth0 type veth peer name beyond");
    town.host.ip("address add 192.0.2.1/24 dev eth0");
    town.host.ip("link set eth0 up");
    crate::town::wait_until("the new device has its programs", || pin("from_uplink") && pin("to_uplink"));
    assert!(!pin("from_l3_uplink"));
}
