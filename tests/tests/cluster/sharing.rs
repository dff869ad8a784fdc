//! Networks of several hosts: made once, there everywhere, with names and addresses that all agree on.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use crate::cluster::{Cluster, Node, Placed, vtep, wait_until};

/// The names in a listing.
fn names(node: &Node, words: &str) -> Vec<String> {
    let listed = node.netd.json(words);
    let listed = listed.as_array().expect("a listing is an array");
    listed.iter().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_network_made_on_one_host_is_on_all_and_its_names_lead_to_containers_wherever_they_are() {
    let cluster = Cluster::new(3, 1);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    a.netd.say("network create -d overlay web --label tier=front").ok();
    wait_until("the network is everywhere", || [b, c].iter().all(|node| names(node, "network ls") == ["web"]));
    let ids: BTreeSet<_> = cluster
        .nodes
        .iter()
        .map(|node| node.netd.say("network inspect web").json()[0]["id"].clone().to_string())
        .collect();
    assert_eq!(ids.len(), 1, "it is one network: {ids:?}");

    let containers: Vec<_> = ["one", "two", "db"]
        .iter()
        .zip(0..)
        .map(|(name, node)| {
            let container = cluster.nodes[node].container(name, "web:alias=all");
            Placed { node, address: cluster.nodes[node].address(name), container }
        })
        .collect();
    let servers: Vec<_> = containers.iter().map(|placed| placed.container.serve_http(80)).collect();
    cluster.assert_all_as_desired(&containers);

    for from in &containers {
        for to in &containers {
            let name = to.container.name();
            let found = from.container.run(format!("dig +short +tries=1 +time=5 @127.0.0.11 {name}").split(' ')).ok();
            assert_eq!(found.trim(), to.address.to_string(), "{name} from {}", from.container.name());
        }
        let all = from.container.run("dig +short +tries=1 +time=5 @127.0.0.11 all.web".split(' ')).ok();
        assert_eq!(all.lines().count(), 3, "an alias leads to all: {all}");
    }
    for from in &containers {
        for to in &containers {
            let answer = from.container.curl(&format!("http://{}/", to.address));
            assert!(answer.succeeded(), "{} to {}: {answer}", from.container.name(), to.container.name());
        }
    }
    drop(servers);
    assert_eq!(names(b, "ps"), ["two"]);
    assert_eq!(names(b, "ps --all-nodes"), ["one", "two", "db"]);
    assert_eq!(names(a, "ps --all-nodes -f node=c"), ["db"]);
    cluster.lab.assert_no_checksum_errors();
}

/// How many networks are made at the same time.
const NETWORKS: usize = 12;

#[test]
fn hosts_that_choose_at_the_same_time_never_choose_the_same() {
    let cluster = Cluster::new(3, 1);
    // Each chooses while it hears of what the others have chosen.
    let making: Vec<_> = (0..NETWORKS)
        .map(|n| cluster.nodes[n % 3].netd.spawn(["network", "create", "-d", "overlay", &format!("net{n}")]))
        .collect();
    making.into_iter().for_each(|command| drop(command.wait().ok()));
    wait_until("all networks are everywhere", || {
        cluster.nodes.iter().all(|node| names(node, "network ls").len() == NETWORKS)
    });
    let networks = cluster.nodes[0].netd.json("network ls");
    for pointer in ["/subnets/0/subnet", "/segment/vni"] {
        let chosen: BTreeSet<_> = networks
            .as_array()
            .expect("a listing")
            .iter()
            .map(|one| one.pointer(pointer).map(Value::to_string))
            .collect();
        assert!(chosen.len() == NETWORKS && !chosen.contains(&None), "{pointer}: {chosen:?}");
    }
    let same: Vec<_> =
        cluster.nodes.iter().map(|node| node.netd.spawn(["network", "create", "-d", "overlay", "same"])).collect();
    let made = same.into_iter().map(|command| command.wait()).filter(|outcome| outcome.succeeded()).count();
    assert_eq!(made, 1, "one name, one network");

    let attaching: Vec<_> = (0..24)
        .map(|n| {
            let (node, name) = (&cluster.nodes[n % 3], format!("c{n}"));
            node.host.container(&name);
            node.netd.spawn(["attach", &name, "--netns", &format!("/run/netns/{name}"), "--network", "net0"])
        })
        .collect();
    attaching.into_iter().for_each(|command| drop(command.wait().ok()));
    let addresses: BTreeSet<IpAddr> = (0..24).map(|n| cluster.nodes[n % 3].address(&format!("c{n}"))).collect();
    assert_eq!(addresses.len(), 24, "each has an address of its own: {addresses:?}");

    let taken = cluster.nodes[0].address("c0");
    cluster.nodes[1].host.container("thief");
    let stolen = cluster.nodes[1].netd.say(&format!("attach thief --netns /run/netns/thief --network net0:ip={taken}"));
    stolen.refused([&*taken.to_string(), "c0 on node a"]);
    cluster.nodes[1].netd.say("network rm net0").exits(1);
    wait_until("who is in it is known", || names(&cluster.nodes[0], "ps --all-nodes").len() == 24);
}

#[test]
fn a_network_is_removed_when_nobody_is_in_it_anywhere() {
    let cluster = Cluster::new(2, 1);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    a.netd.say("network create -d overlay web").ok();
    wait_until("the network is everywhere", || names(b, "network ls") == ["web"]);
    let _db = b.container("db", "web");

    a.netd.say("network rm web").refused(["web", "db on node b"]);
    a.netd.say("network renumber web").refused(["web", "several hosts"]);
    a.netd.say("network prune").ok();
    assert_eq!(names(a, "network ls"), ["web"], "others are in it");
    b.netd.say("detach db").ok();
    a.netd.say("network rm web").ok();

    wait_until("it is gone everywhere", || [a, b].iter().all(|node| names(node, "network ls").is_empty()));
    assert!(b.host.ip("-br link show").lines().all(|line| !line.starts_with("ndb-")), "and its bridge with it");
}

#[test]
fn a_node_that_is_drained_takes_no_more_and_one_that_is_removed_leaves_its_addresses() {
    let mut cluster = Cluster::new(2, 1);
    cluster.nodes[0].netd.say("network create -d overlay web").ok();
    wait_until("the network is everywhere", || names(&cluster.nodes[1], "network ls") == ["web"]);
    let _db = cluster.nodes[1].container("db", "web");
    let address = cluster.nodes[1].address("db");

    cluster.nodes[0].netd.say("node drain b").ok();
    cluster.nodes[1].host.container("more");
    let more = "attach more --netns /run/netns/more --network web";
    wait_until("b is drained", || cluster.nodes[1].netd.say("node ls -f state=drained -q").stdout == "b\n");
    cluster.nodes[1].netd.say(more).refused(["node b", "drained"]);
    cluster.nodes[0].netd.say("node drain --undo b").ok();
    wait_until("b takes some again", || {
        cluster.nodes[1].netd.say("node ls -f state=ready").stdout.contains("b (this host)")
    });
    cluster.nodes[1].netd.say(more).ok();

    let inspected = cluster.nodes[0].netd.say("node inspect b").json();
    assert_eq!((&inspected[0]["state"], &inspected[0]["vtep"]), (&"ready".into(), &vtep(1).to_string().into()));
    assert_eq!(inspected[0]["addresses"].as_array().map(Vec::len), Some(2), "{inspected}");
    cluster.nodes[0].netd.say("node inspect nowhere").refused(["no node nowhere"]);
    cluster.nodes[0].netd.say("node rm b").refused(["node b", "is there"]);
    cluster.nodes[0].netd.say("node rm nowhere").refused(["no node nowhere"]);
    cluster.nodes[1].netd.kill();
    wait_until("b is out", || cluster.nodes[0].netd.say("node ls -f state=down -q").stdout == "b\n");
    assert_eq!(cluster.nodes[0].map(), [].into(), "nobody is sent where nobody is");
    cluster.nodes[0].host.container("heir");
    let heir = format!("attach heir --netns /run/netns/heir --network web:ip={address}");
    cluster.nodes[0].netd.say(&heir).refused([&*address.to_string(), "db on node b"]);
    cluster.nodes[0].netd.say("node rm b").ok();
    cluster.nodes[0].netd.say(&heir).ok();

    cluster.nodes[1].netd.start();
    wait_until("b hears of its loss", || {
        cluster.nodes[1].netd.say("status").stdout.contains("which is heir's on node a")
    });
    let other = cluster.nodes[1].address("more");
    wait_until("what b still has is reached there", || cluster.nodes[0].map() == [(other, vtep(1))].into());
}

#[test]
fn two_hosts_cannot_be_one_node() {
    let cluster = Cluster::new(2, 1);
    let third = cluster.lab.host("third");
    cluster.add_to_street(&third, 3);
    let netd = third.netd_with(crate::cluster::options("a", vtep(2), &[cluster.etcd[0].url.clone()]));

    wait_until("it is told why", || {
        netd.say("status").stdout.contains("the name a is taken by the host with VTEP 192.0.2.1")
    });
    netd.say("network create -d overlay web").refused(["the name a is taken"]);
    netd.say("network create plain").ok();
    assert_eq!(cluster.nodes[0].status("/cluster/nodes"), Some(2), "and a is who it was");
}
