//! What goes on with a port of the mesh is passed on to another host by the driver of the uplink that it came by (XDP).

use std::{collections::BTreeSet, net::IpAddr, ops::Range, time::Duration};

use netd_common::{frame::outer, packet::ETH, parse::ETHERTYPE_IPV4, tuple::TCP};
use netd_tests::{
    lab::{Container, Host, Offloads, traffic::IMPATIENCE},
    packets::{ipv6_checksums_hold, sum},
};
use serde_json::{Value, json};

use crate::{
    as_a_bridge::{BOTH_FAMILIES, OUTSIDE, at, ipv6, street_of_both_families},
    cluster::{Cluster, Node, PATIENCE, comes_to_be_verified, done, options, vtep, vtep_of_ipv6, wait_until},
    encrypted::Capture,
    mesh::attached,
};

/// `XDP_ATTACHED_DRV` of linux/if_link.h, as `ip -j -d link` tells it.
const BY_THE_DRIVER: u64 = 1;

/// A network over two nodes, and a container of the second whose ports every node publishes.
fn with_a_port_of_the_mesh(cluster: &Cluster) -> Container {
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, &format!("network create -d overlay web {BOTH_FAMILIES}"));
    wait_until("the network is everywhere", || b.netd.say("network inspect web").succeeded());
    attached(b, "two", "--network web -p 8080:80 -p 5353:53/udp --publish-mode mesh")
}

/// What a node's status says of the program in its driver.
fn early(node: &Node) -> Value {
    let status = node.netd.json("status");
    let programs = status["programs"].as_array().expect("programs");
    programs.iter().find(|one| one["name"] == "uplink_xdp").expect("the program").clone()
}

/// Frames that it has passed on so far.
fn passed_on(node: &Node) -> u64 {
    early(node)["to_tunnel"].as_u64().expect("a number")
}

/// A client outside is served by the first node's address, its own address kept, of either family and by TCP and UDP, and the driver
/// has had part in it.
#[track_caller]
fn is_served_by_the_driver(node: &Node, outside: &Host, container: &Container) {
    let (served, datagrams) = (container.serve_bulk(80), container.echo_udp(53));
    wait_until("the program is there", || early(node)["devices"] == json!(["eth0"]));
    for host in [vtep(0).to_string(), ipv6(1)] {
        wait_until(&format!("{host} has the port"), || outside.connect(&at(&host, 8080), IMPATIENCE * 5).is_ok());
        let before = passed_on(node);
        outside.transfers(&at(&host, 8080), 300_000);
        let after = passed_on(node);
        assert!(after > before, "by TCP to {host}: {}", early(node));
        wait_until(&format!("datagrams to {host} are passed on too"), || {
            outside.asks_udp(&at(&host, 5353), 10, 1000, PATIENCE) == 10 && passed_on(node) > after
        });
        // As large as fits, and too large for the tunnel.
        assert_eq!(outside.asks_udp(&at(&host, 5353), 3, 1300, PATIENCE), 3, "{host}");
        wait_until(&format!("{host} in fragments"), || outside.asks_udp(&at(&host, 5353), 1, 4000, IMPATIENCE) == 1);
    }
    for peer in served.peers().iter().chain(&datagrams.peers()).map(ToString::to_string) {
        assert!(["192.0.2.150".to_owned(), ipv6(OUTSIDE)].contains(&peer), "the client comes as {peer}");
    }
}

#[test]
fn the_stack_passes_on_in_the_drivers_place_what_is_whole_and_nothing_else() {
    let (cluster, two, outside) = with_a_program_in_the_stack(Cluster::new(2, 1), vtep(0));
    is_served_by_the_driver(&cluster.nodes[0], &outside, &two);

    let a = &cluster.nodes[0];
    let capture = Capture::begin(&cluster.nodes[1].host, "-s 128 udp dst port 4789 and src host 192.0.2.1");
    let (served, before) = (two.serve_bulk(80), passed_on(a));
    outside.transfers("192.0.2.1:8080", 300_000);
    assert!(passed_on(a) > before, "{}", early(a));
    let datagrams = packets(&capture.end().0);
    for datagram in &datagrams {
        assert_eq!(sum(&datagram[ETH..ETH + 20]), 0xffff, "the outer header's checksum");
    }
    are_alike(datagrams, outer(true), &[0..16, 20..24, 26..34, 36..38, 40..64]);

    let near = cluster.lab.host("near");
    cluster.add_to_street(&near, 151);
    // What another client's connection says last may come late.
    wait_until("a checksum that is left to the device is left to who can tell", || {
        let before = passed_on(a);
        near.transfers("192.0.2.1:8080", 300_000);
        passed_on(a) == before
    });
    let seen: BTreeSet<_> = served.peers().iter().map(ToString::to_string).collect();
    assert_eq!(seen, ["192.0.2.150", "192.0.2.151"].map(str::to_owned).into());

    // Of the host's own rules the datagram would be seen.
    a.host.run(["nft", "add table ip own"]).ok();
    a.host.run(["nft", "add chain ip own after { type filter hook postrouting priority 0; }"]).ok();
    a.host.run(["nft", "add rule ip own after udp dport 9 drop"]).ok();
    wait_until("its rules see all", || {
        let before = passed_on(a);
        outside.transfers("192.0.2.1:8080", 100_000);
        passed_on(a) == before
    });
    a.host.run(["nft", "delete table ip own"]).ok();
    wait_until("where there are none, nobody need see anything", || {
        let before = passed_on(a);
        outside.transfers("192.0.2.1:8080", 100_000);
        passed_on(a) > before
    });

    let b = &cluster.nodes[1];
    done(&b.netd, "unpublish two 8080:80 5353:53/udp");
    wait_until("there is nothing to pass on", || early(a)["devices"] == json!([]));
    comes_to_be_verified(&b.netd);
    cluster.lab.assert_no_checksum_errors();
}

#[test]
fn over_ipv6_it_does_so_in_datagrams_whose_checksum_holds() {
    let (cluster, two, outside) = with_a_program_in_the_stack(Cluster::over_ipv6(2, 1), vtep_of_ipv6(0));
    let a = &cluster.nodes[0];
    // So that the VXLAN device's are summed too.
    Offloads::Off.apply(&a.host, "eth0");
    is_served_by_the_driver(a, &outside, &two);

    let capture = Capture::begin(&cluster.nodes[1].host, "udp dst port 4789 and src host 2001:db8::1");
    let (_servers, before) = ((two.serve_bulk(80), two.echo_udp(53)), passed_on(a));
    outside.transfers("192.0.2.1:8080", 300_000);
    wait_until("much of both is passed on", || {
        outside.asks_udp("192.0.2.1:5353", 30, 999, PATIENCE) == 30 && passed_on(a) >= before + 20
    });
    let datagrams = packets(&capture.end().0);
    for datagram in &datagrams {
        assert_ne!(datagram[60..62], [0, 0], "IPv6 takes none without a checksum");
        ipv6_checksums_hold(datagram).unwrap_or_else(|e| panic!("{e}: {datagram:02x?}"));
    }
    are_alike(datagrams, outer(false), &[0..18, 20..54, 56..58, 62..84]);

    done(&cluster.nodes[1].netd, "unpublish two 8080:80 5353:53/udp");
    wait_until("there is nothing to pass on", || early(a)["devices"] == json!([]));
    comes_to_be_verified(&cluster.nodes[1].netd);
    cluster.lab.assert_no_checksum_errors();
}

/// The cluster with a program at the first node as a driver would have that has XDP: on a veth the stack does it. And a container of
/// the second node, and a client outside.
fn with_a_program_in_the_stack(mut cluster: Cluster, own: IpAddr) -> (Cluster, Container, Host) {
    let urls = [cluster.etcd[0].url.clone()];
    let a = &mut cluster.nodes[0];
    a.netd.kill();
    a.netd = a.host.netd_with(options("a", own, &urls).variable("NETD_FORCE_GENERIC_XDP", "1"));
    let two = with_a_port_of_the_mesh(&cluster);
    let outside = street_of_both_families(&cluster);
    // Of a sender on another machine checksums are whole.
    Offloads::Off.apply(&outside, "eth0");
    (cluster, two, outside)
}

/// Fails unless the VXLAN device and the program have sent datagrams with so many bytes of headers, and nothing but the source port
/// tells whose one is: all have these bytes in common, the headers but for length, identification, checksum and source port, and the
/// link header within.
#[track_caller]
fn are_alike(mut datagrams: Vec<Vec<u8>>, around: usize, common: &[Range<usize>]) {
    // What ended before may still say so, by IPv6.
    datagrams.retain(|datagram| datagram[around + 12..around + ETH] == ETHERTYPE_IPV4);
    let udp = around - 16;
    let of_connection = |datagram: &&Vec<u8>| datagram[around + ETH + 9] == TCP;
    let ports: BTreeSet<_> = datagrams.iter().filter(of_connection).map(|datagram| &datagram[udp..udp + 2]).collect();
    assert!(ports.len() > 1, "one connection by the VXLAN device's port and by the driver's");
    let headers = |datagram: &Vec<u8>| common.iter().flat_map(|field| &datagram[field.clone()]).copied().collect();
    let alike: BTreeSet<Vec<u8>> = datagrams.iter().map(headers).collect();
    assert_eq!(alike.len(), 1, "nothing else tells who has sent it: {alike:02x?}");
}

/// The packets of a capture (libpcap's file format, of this machine's byte order).
fn packets(capture: &[u8]) -> Vec<Vec<u8>> {
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;
    let mut packets = Vec::new();
    let mut rest = &capture[FILE_HEADER..];
    while let Some((header, after)) = rest.split_at_checked(PACKET_HEADER) {
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
        packets.push(after[..length].to_vec());
        rest = &after[length..];
    }
    packets
}

/// Run by `cards::…`, where a guest has cards.
pub fn a_driver_of_its_own_passes_on(mut cluster: Cluster) {
    let two = with_a_port_of_the_mesh(&cluster);
    let outside = street_of_both_families(&cluster);
    is_served_by_the_driver(&cluster.nodes[0], &outside, &two);
    let node = &mut cluster.nodes[0];
    assert_eq!(mode(&node.host, "eth0"), json!(BY_THE_DRIVER), "{}", node.host.ip("-d link show eth0"));
    assert_eq!(early(node)["attach"], "native XDP");

    let _served = two.serve_bulk(80);
    node.netd.kill();
    outside.transfers("192.0.2.1:8080", 100_000);
    assert_eq!(mode(&node.host, "eth0"), json!(BY_THE_DRIVER), "with the daemon dead too");
    node.netd.start();
    let before = passed_on(node);
    outside.transfers("192.0.2.1:8080", 100_000);
    wait_until("it goes on", || {
        std::thread::sleep(Duration::from_millis(100));
        outside.transfers("192.0.2.1:8080", 100_000);
        passed_on(node) > before
    });
    cluster.lab.assert_no_checksum_errors();
}

/// How XDP is attached to a device, as iproute2 tells it.
fn mode(host: &Host, device: &str) -> Value {
    let told = host.ip(&format!("-j -d link show {device}"));
    let links: Value = serde_json::from_str(&told).expect("iproute2 writes JSON");
    links[0]["xdp"]["mode"].clone()
}
