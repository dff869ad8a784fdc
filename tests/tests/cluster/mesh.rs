//! Ports that every node publishes (`--publish-mode mesh`), wherever their container runs.

use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

use netd_tests::lab::{Container, traffic::IMPATIENCE};

use crate::{
    as_a_bridge::{BOTH_FAMILIES, OUTSIDE, at, ipv6, reaches, street_of_both_families},
    cluster::{Cluster, Node, PATIENCE, comes_to_be_verified, done, options, patient_echo, vtep, wait_until},
};

const MESH: &str = "--network web -p 8080:80 -p 5353:53/udp --publish-mode mesh";

pub fn attached(node: &Node, name: &str, words: &str) -> Container {
    let container = match node.host.path(format!("/run/netns/{name}")).exists() {
        true => node.host.existing_container(name),
        false => node.host.container(name),
    };
    wait_until(&format!("{name} is attached"), || {
        node.netd.say(&format!("attach {name} --netns /run/netns/{name} {words}")).succeeded()
    });
    container
}

fn with_a_network(nodes: usize) -> Cluster {
    let cluster = Cluster::new(nodes, 1);
    done(&cluster.nodes[0].netd, &format!("network create -d overlay web {BOTH_FAMILIES}"));
    wait_until("the network is everywhere", || {
        cluster.nodes.iter().all(|node| node.netd.say("network inspect web").succeeded())
    });
    cluster
}

#[test]
fn a_port_of_the_mesh_is_reached_on_every_node_and_the_client_stays_who_it_is() {
    let cluster = with_a_network(3);
    let outside = street_of_both_families(&cluster);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let two = attached(b, "two", MESH);
    let (served, datagrams) = (two.serve_bulk(80), two.echo_udp(53));

    for node in 0..3 {
        for host in [vtep(node).to_string(), ipv6(node + 1)] {
            wait_until(&format!("{host} has the port"), || outside.connect(&at(&host, 8080), IMPATIENCE * 5).is_ok());
            outside.transfers(&at(&host, 8080), 300_000);
            assert_eq!(outside.asks_udp(&at(&host, 5353), 3, 1000, PATIENCE), 3, "{host}");
            // Of IPv6 the first is too large for the tunnel, which its sender is told.
            wait_until(&format!("{host} in fragments"), || {
                outside.asks_udp(&at(&host, 5353), 1, 4000, IMPATIENCE) == 1
            });
        }
    }
    for peer in served.peers().iter().chain(&datagrams.peers()).map(ToString::to_string) {
        assert!(["192.0.2.150".to_owned(), ipv6(OUTSIDE)].contains(&peer), "the client comes as {peer}");
    }

    // A container of another node, of another network even, by an address of its own host.
    c.netd.say("network create plain").ok();
    let asker = attached(c, "asker", "--network plain");
    asker.transfers("192.0.2.3:8080", 100_000);

    // A process of each node, by every address of its own node, which is what it takes its peer for.
    drop(served);
    let _echo = two.echo_tcp(80);
    for (number, node) in cluster.nodes.iter().enumerate() {
        for host in [vtep(number).to_string(), "127.0.0.1".to_owned(), ipv6(number + 1), "::1".to_owned()] {
            let (tcp, udp) = (at(&host, 8080), at(&host, 5353));
            let dials = |words: [&str; 2]| node.host.run([env!("CARGO_BIN_EXE_dial"), words[0], words[1]]).stdout;
            wait_until(&format!("{tcp} on {}", node.host.name()), || dials(["tcp", &tcp]) == format!("{tcp} hello\n"));
            if !host.contains(':') {
                let is_heard = || dials(["datagram", &udp]) == format!("{udp} hello\n");
                wait_until(&format!("a datagram to {udp} on {}", node.host.name()), is_heard);
            }
        }
    }

    // It is said where it leads, and nobody else may have it.
    let flows = a.netd.say("flows --format json container=two network=web").json();
    assert!(
        flows.as_array().is_some_and(|flows| !flows.is_empty()),
        "the node where it came in knows to whom: {flows}"
    );
    assert_eq!(b.netd.say("inspect two").json().pointer("/0/ports/0/publish_mode"), Some(&"mesh".into()));
    a.host.container("rival");
    a.netd
        .say("attach rival --netns /run/netns/rival --network web -p 8080:80 --publish-mode mesh")
        .refused(["8080", "two on node b"]);
    comes_to_be_verified(&b.netd);
    cluster.lab.assert_no_checksum_errors();
}

#[test]
fn what_came_in_elsewhere_outlives_the_daemons_and_ends_with_the_publication() {
    let mut cluster = with_a_network(3);
    let outside = street_of_both_families(&cluster);
    let two = attached(&cluster.nodes[1], "two", MESH);
    let _echo = patient_echo(&two, 80);
    reaches(&outside, "192.0.2.1:8080");
    let mut open = outside.connect("192.0.2.1:8080", PATIENCE).expect("it is open");
    let mut still_there = || {
        open.write_all(b"still there?")?;
        open.read_exact(&mut [0; 12])
    };
    still_there().expect("it is answered");

    for node in [0, 1] {
        cluster.nodes[node].netd.kill();
        still_there().expect("the programs carry on");
        cluster.nodes[node].netd.start();
        still_there().expect("and go on when the daemon is back");
    }
    reaches(&outside, "192.0.2.1:8080");

    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    done(&b.netd, "unpublish two 8080:80");
    wait_until("it is nobody's any more", || outside.connect("192.0.2.1:8080", IMPATIENCE).is_err());
    wait_until("what was open has ended", || {
        thread::sleep(Duration::from_millis(100));
        open.set_read_timeout(Some(IMPATIENCE)).expect("a socket has a timeout");
        open.write_all(b"still there?").is_err() || open.read_exact(&mut [0; 12]).is_err()
    });

    // The container comes back elsewhere, and a process that has the port keeps it on its own node.
    done(&b.netd, "detach two");
    let own = a.host.echo_tcp(8080);
    let two = attached(c, "two", MESH);
    let moved = two.echo_tcp(80);
    reaches(&outside, "192.0.2.2:8080");
    assert!(moved.peers().iter().all(|peer| peer.to_string() == "192.0.2.150") && !moved.peers().is_empty());
    reaches(&outside, "192.0.2.1:8080");
    assert!(!own.peers().is_empty(), "the process was asked");
    drop(own);
    a.netd.say("network create plain").ok();
    let _first = attached(a, "first", "--network plain -p 8080:80");
    wait_until("what hides a port is no difference", || b.netd.say("overlay verify").succeeded());
    cluster.lab.assert_no_checksum_errors();
}

#[test]
fn of_two_that_publish_one_port_everywhere_at_once_one_is_refused_with_whose_it_is() {
    let cluster = with_a_network(2);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let _both = [attached(a, "one", "--network web"), attached(b, "two", "--network web")];
    let publish = |node: &Node, name: &str, port: u16| {
        let spec = format!("{port}:80");
        node.netd.spawn(["publish", name, &spec, "--publish-mode", "mesh"])
    };

    let mut met = 0;
    for port in 8080..8088 {
        let at_once = [publish(a, "one", port), publish(b, "two", port)];
        let [first, second] = at_once.map(|command| command.wait());
        if [&first, &second].iter().any(|outcome| outcome.stderr.contains("has not answered")) {
            continue;
        }
        met += 1;
        let (refused, winner) = if first.succeeded() { (second, "one on node a") } else { (first, "two on node b") };
        refused.refused([&*port.to_string(), winner]);
    }
    assert!(met > 0, "etcd has answered both at least once");
    assert!(a.netd.say("status").stdout.lines().all(|line| !line.contains("leads to")), "nobody's port is hidden");
    comes_to_be_verified(&b.netd);
}

#[test]
fn denied_clients_of_the_mesh_are_dropped_in_the_driver_of_whichever_node_they_knock_at() {
    let mut cluster = with_a_network(2);
    let outside = street_of_both_families(&cluster);
    let friend = cluster.lab.host("friend");
    cluster.add_to_street(&friend, 151);
    // As a driver would that has XDP: on a veth the stack does it.
    let urls = [cluster.etcd[0].url.clone()];
    let a = &mut cluster.nodes[0];
    a.netd.kill();
    a.netd = a.host.netd_with(options("a", vtep(0), &urls).variable("NETD_FORCE_GENERIC_XDP", "1"));
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let two = attached(b, "two", "--network web -p 8080:80,from=192.0.2.151/32 --publish-mode mesh");
    let served = two.echo_tcp(80);
    let denied = |program: &str| {
        let status = a.netd.json("status");
        let programs = status["programs"].as_array().expect("programs");
        let found = programs.iter().find(|one| one["name"] == program).expect("the program");
        found["dropped"]["source_denied"].as_u64().unwrap_or(0)
    };

    wait_until("a, which has no such container, lets who is named in", || {
        friend.asks_tcp("192.0.2.1:8080", IMPATIENCE * 5).is_ok()
    });
    assert!(outside.asks_tcp("192.0.2.1:8080", IMPATIENCE).is_err());
    assert!(denied("uplink_xdp") > 0 && denied("from_uplink") == 0, "{}", a.netd.json("status"));
    served.assert_seen_only("192.0.2.151");
}

#[test]
fn whom_a_network_lets_in_holds_on_nodes_that_did_not_make_it() {
    let cluster = Cluster::new(2, 1);
    let (outside, friend) = (cluster.lab.host("outside"), cluster.lab.host("friend"));
    cluster.add_to_street(&outside, OUTSIDE);
    cluster.add_to_street(&friend, 151);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, "network create -d overlay web --from 192.0.2.151");
    let two = attached(b, "two", "--network web -p 8080:80 --publish-mode mesh");
    done(&b.netd, "publish two 8081:80");
    let served = patient_echo(&two, 80);

    for server in ["192.0.2.1:8080", "192.0.2.2:8080", "192.0.2.2:8081"] {
        reaches(&friend, server);
        assert!(outside.asks_tcp(server, IMPATIENCE).is_err(), "{server} is open to everybody");
    }
    served.assert_seen_only("192.0.2.151");
    for node in [a, b] {
        let network = node.netd.say("network inspect web").json();
        assert_eq!(network.pointer("/0/from"), Some(&serde_json::json!(["192.0.2.151/32"])), "{network}");
        node.netd.say("network set web --from default").refused(["web", "several hosts"]);
    }
}

#[test]
fn what_no_node_could_publish_is_refused_with_the_reason() {
    let cluster = with_a_network(1);
    let node = &cluster.nodes[0];
    node.netd.say("network create plain").ok();
    let _of_one_host = attached(node, "one", "--network plain");
    let _of_all = attached(node, "two", "--network web");
    let publish = |what: &str| node.netd.say(&format!("publish {what} --publish-mode mesh"));

    publish("one 8080:80").refused(["plain", "this host alone"]);
    publish("two 192.0.2.1:8080:80").refused(["192.0.2.1", "every address"]);
    publish("two 1000-3000:1000-3000").refused(["2001 ports"]);
    publish("two 8080:80").ok();
    assert_eq!(node.netd.say("publish two 8080:80").code(), 0, "and back to its own host alone");
}
