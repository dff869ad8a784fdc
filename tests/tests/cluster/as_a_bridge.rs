//! A network of several hosts does what a bridge does: its containers leave as their host, are published, kept apart from other
//! networks, named, and seen in `flows`.

use std::net::IpAddr;

use netd_tests::lab::{Container, Host, traffic::IMPATIENCE};

use crate::cluster::{Cluster, Node, PATIENCE, done, vtep, wait_until};

pub const BOTH_FAMILIES: &str = "--subnet 10.50.0.0/24 --subnet fd50::/64";

/// A host's second address on the street, of IPv6; hosts are numbered as their VTEPs end.
pub fn ipv6(number: usize) -> String {
    format!("2001:db8::{number}")
}

/// Gives every node one, and adds a host that is no node.
pub fn street_of_both_families(cluster: &Cluster) -> Host {
    let outside = cluster.lab.host("outside");
    cluster.add_to_street(&outside, OUTSIDE);
    for (number, host) in cluster.nodes.iter().map(|node| &node.host).chain([&outside]).enumerate() {
        let number = if number == cluster.nodes.len() { OUTSIDE } else { number + 1 };
        // A node whose VTEP it is has it.
        host.ip(&format!("address replace {}/64 dev eth0 nodad", ipv6(number)));
    }
    outside
}

/// The number of the host outside.
pub const OUTSIDE: usize = 150;

/// Where a port is, of an address of either family.
pub fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Waits until a client is answered.
#[track_caller]
pub fn reaches(from: &netd_tests::lab::Node, server: &str) {
    wait_until(&format!("{} reaches {server}", from.name()), || from.asks_tcp(server, IMPATIENCE * 5).is_ok());
}

fn attached(node: &Node, name: &str, words: &str) -> Container {
    let container = node.host.container(name);
    done(&node.netd, &format!("attach {name} --netns /run/netns/{name} {words}"));
    container
}

fn ipv6_of(node: &Node, endpoint: &str) -> String {
    let shown = node.netd.say(&format!("inspect {endpoint}")).json();
    shown.pointer("/0/networks/0/ip6").and_then(|ip| ip.as_str()).expect("it has one").to_owned()
}

#[test]
fn masquerade_publishing_isolation_names_and_flows_are_those_of_a_bridge_in_both_families() {
    let cluster = Cluster::new(2, 1);
    let outside = street_of_both_families(&cluster);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, &format!("network create -d overlay web {BOTH_FAMILIES}"));
    done(&a.netd, "network create -d overlay other");
    done(&a.netd, "network create -d overlay inner --internal");
    wait_until("they are everywhere", || b.netd.say("network inspect web other inner").succeeded());
    let one = attached(a, "one", "--network web");
    let two = attached(b, "two", "--network web -p 8080:80");
    let three = attached(b, "three", "--network other");
    let [hidden, far] = [attached(a, "hidden", "--network inner"), attached(b, "far", "--network inner")];
    let served = two.echo_tcp(80);

    // To the outside as the container's own host, in each family.
    let (server, datagrams) = (outside.echo_tcp(7), outside.echo_udp(7));
    for (address, host) in [("192.0.2.150".to_owned(), vtep(0).to_string()), (ipv6(OUTSIDE), ipv6(1))] {
        let before = server.peers().len();
        reaches(&one, &at(&address, 7));
        let seen: Vec<String> = server.peers().iter().skip(before).map(IpAddr::to_string).collect();
        assert!(!seen.is_empty() && seen.iter().all(|peer| *peer == host), "as its host {host}: {seen:?}");
        assert_eq!(one.asks_udp(&at(&address, 7), 3, 1000, PATIENCE), 3);
        // Of IPv6 the first answer is too large for the network, which the server is told.
        wait_until("in fragments", || one.asks_udp(&at(&address, 7), 1, 4000, IMPATIENCE) == 1);
    }
    drop(datagrams);

    // Published on its own host, the client's address kept; to a container of another host by that host's address.
    for (host, client) in [(vtep(1).to_string(), "192.0.2.150".to_owned()), (ipv6(2), ipv6(OUTSIDE))] {
        let before = served.peers().len();
        reaches(&outside, &at(&host, 8080));
        assert!(served.peers()[before..].iter().all(|peer| peer.to_string() == client), "{:?}", served.peers());
        reaches(&one, &at(&host, 8080));
    }
    assert!(outside.asks_tcp("192.0.2.1:8080", IMPATIENCE).is_err(), "on the other host it is not");

    // Names of both families, of this network alone.
    let asks = |kind: &str, name: &str| {
        one.run(format!("dig +short +tries=1 +time=20 @127.0.0.11 {kind} {name}").split(' ')).stdout.trim().to_owned()
    };
    wait_until("its name is known", || asks("A", "two") == b.address("two").to_string());
    wait_until("by IPv6 too", || asks("AAAA", "two") == ipv6_of(b, "two"));
    assert_eq!(asks("A", "three"), "", "another network's");

    // Networks are apart, here and elsewhere, and an internal one has no way out but reaches its other hosts.
    let (echo_of_three, echo_of_far) = (three.echo_tcp(7), far.echo_tcp(7));
    assert!(one.asks_tcp(&at(&b.address("three").to_string(), 7), IMPATIENCE).is_err());
    assert!(two.asks_tcp(&at(&b.address("three").to_string(), 7), IMPATIENCE).is_err());
    reaches(&hidden, &at(&b.address("far").to_string(), 7));
    assert!(hidden.asks_tcp("192.0.2.150:7", IMPATIENCE).is_err());
    assert!(echo_of_three.peers().is_empty() && !echo_of_far.peers().is_empty());

    // Flows say who.
    let of = |node: &Node, filter: &str| {
        let flows = node.netd.say(&format!("flows --format json {filter}")).json();
        flows.as_array().map_or(0, Vec::len)
    };
    assert!(of(a, "network=web container=one address=192.0.2.150") > 0, "what left");
    assert!(of(b, "network=web container=two port=8080") > 0, "what came");

    a.netd.say("network create -d overlay apart --snat-ip 192.0.2.1").refused(["--snat-ip"]);
    cluster.lab.assert_no_checksum_errors();
}
