//! Networks of several hosts: made once, there everywhere, with names and addresses that all agree on.

use std::{collections::BTreeSet, fs, net::IpAddr, time::Duration};

use netd_tests::lab::{Container, traffic::IMPATIENCE};
use serde_json::Value;

use crate::{
    as_a_bridge::reaches,
    cluster::{Cluster, LEASE, Node, Placed, done, vtep, wait_until},
    within::SECONDS,
};

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
    done(&a.netd, "network create -d overlay web --label tier=front");
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
            wait_until(&format!("{name} is found from {}", from.container.name()), || {
                let asks = format!("dig +short +tries=1 +time=20 @127.0.0.11 {name}");
                from.container.run(asks.split(' ')).stdout.trim() == to.address.to_string()
            });
        }
        wait_until("an alias leads to all", || {
            let all = from.container.run("dig +short +tries=1 +time=20 @127.0.0.11 all.web".split(' ')).stdout;
            all.lines().filter(|line| !line.starts_with(';')).count() == 3
        });
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
    a_living_container_joins_and_leaves(&cluster, &containers);
    what_a_compose_file_makes_is_on_all(&cluster, &containers);
    cluster.lab.assert_no_checksum_errors();
}

/// What a container finds by a name.
fn found(from: &Container, name: &str) -> String {
    from.run(format!("dig +short +tries=1 +time=5 @127.0.0.11 {name}").split(' ')).stdout.trim().to_owned()
}

/// A container that is in a network of its host alone joins the one of all while it lives, and leaves it.
fn a_living_container_joins_and_leaves(cluster: &Cluster, others: &[Placed]) {
    let [a, _, c] = &cluster.nodes[..] else { panic!("three nodes") };
    c.netd.say("network create plain --subnet 10.99.0.0/24").ok();
    let late = c.container("late", "plain");
    let served = late.echo_tcp(7);

    let told = c.netd.say("network connect --alias sql web late").ok();
    let address = told.split(' ').nth(1).expect("a device, an address, a network").to_owned();
    for placed in others {
        for name in ["late", "sql", "late.web"] {
            wait_until("its names are known everywhere", || found(&placed.container, name) == address);
        }
        reaches(&placed.container, &format!("{address}:7"));
    }
    let seen: BTreeSet<IpAddr> = served.peers().into_iter().collect();
    assert_eq!(seen, others.iter().map(|placed| placed.address).collect(), "they come as themselves");
    assert_eq!(found(&late, "one"), others[0].address.to_string());
    let _there = others[0].container.echo_tcp(7);
    reaches(&late, &format!("{}:7", others[0].address));

    c.netd.say("network disconnect web late").ok();
    for placed in others {
        wait_until("it is called nothing anywhere", || {
            ["late", "sql"].map(|name| found(&placed.container, name)) == [""; 2]
        });
        assert!(placed.container.asks_tcp(&format!("{address}:7"), IMPATIENCE).is_err(), "nor is it there");
    }
    cluster.assert_all_as_desired(others);
    assert_eq!(names(c, "ps -f network=plain"), ["late"], "it lives");
    assert_eq!(names(a, "ps --all-nodes -f network=web"), ["one", "two", "db"]);
    c.netd.say("detach late").ok();
}

/// A Compose file of one host with a network that all have and one that it makes for all.
fn what_a_compose_file_makes_is_on_all(cluster: &Cluster, others: &[Placed]) {
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let file = "
services:
  api:
    command: busybox httpd -f -p 80 -h /etc
    networks: {web: {aliases: [front]}, inner: {}}
networks:
  web: {external: true}
  inner: {driver: overlay}
";
    let directory = b.host.path("/run/shop");
    fs::create_dir_all(&directory).expect("a Lab's /run can be written");
    fs::write(directory.join("compose.yaml"), file).expect("a Lab's /run can be written");

    b.netd.say("up -f /run/shop/compose.yaml").ok();

    wait_until("its network is everywhere", || {
        cluster.nodes.iter().all(|node| node.netd.say("network inspect shop_inner").succeeded())
    });
    let near = a.container("near", "shop_inner");
    for (from, name) in others.iter().flat_map(|placed| [(&placed.container, "api"), (&placed.container, "front")]) {
        wait_until("its service is called so everywhere", || !found(from, name).is_empty());
        wait_until("and serves", || from.curl(&format!("http://{}/hostname", found(from, name))).succeeded());
    }
    wait_until("in the network that it made too", || {
        near.curl(&format!("http://{}/hostname", found(&near, "api"))).succeeded()
    });
    assert_ne!(found(&near, "api"), found(&others[0].container, "api"), "each network has an address of its own");

    a.netd.say("detach near").ok();
    wait_until("nobody else is in it", || b.netd.say("down -f /run/shop/compose.yaml").succeeded());
    wait_until("it is gone everywhere", || {
        cluster.nodes.iter().all(|node| names(node, "network ls -f driver=overlay") == ["web"])
    });
    wait_until("and what it was called", || others.iter().all(|placed| found(&placed.container, "api").is_empty()));
    cluster.assert_all_as_desired(others);
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
    // What etcd has not answered in time is asked for once more, if it has not been done.
    for (n, outcome) in making.into_iter().map(|command| command.wait()).enumerate() {
        if !outcome.succeeded() {
            assert!(outcome.stderr.contains("etcd is away"), "{outcome}");
            cluster.nodes[n % 3].netd.say(&format!("network create -d overlay net{n}"));
        }
    }
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
    // Where etcd has answered all in time.
    let met = (0..8).map(|n| format!("same{n}")).find_map(|name| {
        let create = |node: &Node| node.netd.spawn(["network", "create", "-d", "overlay", &name]);
        let same: Vec<_> = cluster.nodes.iter().map(create).collect();
        let told: Vec<_> = same.into_iter().map(|command| command.wait()).collect();
        let is_away = told.iter().any(|outcome| outcome.stderr.contains("etcd is away"));
        (!is_away).then(|| told.iter().filter(|outcome| outcome.succeeded()).count())
    });
    assert_eq!(met, Some(1), "one name, one network");

    let attaching: Vec<_> = (0..24)
        .map(|n| {
            let (node, name) = (&cluster.nodes[n % 3], format!("c{n}"));
            node.host.container(&name);
            node.netd.spawn(["attach", &name, "--netns", &format!("/run/netns/{name}"), "--network", "net0"])
        })
        .collect();
    for (n, outcome) in attaching.into_iter().map(|command| command.wait()).enumerate() {
        if !outcome.succeeded() {
            assert!(outcome.stderr.contains("etcd is away"), "{outcome}");
            done(&cluster.nodes[n % 3].netd, &format!("attach c{n} --netns /run/netns/c{n} --network net0"));
        }
    }
    let addresses: BTreeSet<IpAddr> = (0..24).map(|n| cluster.nodes[n % 3].address(&format!("c{n}"))).collect();
    assert_eq!(addresses.len(), 24, "each has an address of its own: {addresses:?}");

    let taken = cluster.nodes[0].address("c0");
    cluster.nodes[1].host.container("thief");
    let stolen = cluster.nodes[1].netd.say(&format!("attach thief --netns /run/netns/thief --network net0:ip={taken}"));
    stolen.refused([&*taken.to_string(), "c0 on node a"]);
    cluster.nodes[1].netd.say("network rm net0").exits(1);
    wait_until("who is in it is known", || names(&cluster.nodes[0], "ps --all-nodes").len() == 24);
}

/// The ranges that a node uses beside those of networks of all, as another says.
fn used(on: &Node, node: &str) -> Vec<String> {
    let shown = on.netd.say(&format!("node inspect {node}")).json();
    shown[0]["uses"].as_object().into_iter().flat_map(|uses| uses.keys().cloned()).collect()
}

/// The subnet of a network.
fn subnet(node: &Node, network: &str) -> String {
    node.netd.say(&format!("network inspect {network}")).json()[0]["subnets"][0]["subnet"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_network_of_all_keeps_away_from_what_another_host_uses_also_from_one_that_is_away() {
    let mut cluster = Cluster::new(2, 1);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    // What the first node would take next, if it knew of itself alone.
    b.host.ip("link add elsewhere type bridge");
    b.host.ip("link set elsewhere up");
    b.host.ip("route add 10.176.0.0/24 dev elsewhere");
    b.netd.say("network create own --subnet 10.176.1.0/24").ok();
    let both = ["10.176.0.0/24".to_owned(), "10.176.1.0/24".to_owned()];
    wait_until("a knows what b uses", || both.iter().all(|range| used(a, "b").contains(range)));

    done(&a.netd, "network create -d overlay first");
    assert_eq!(subnet(a, "first"), "10.176.2.0/24");
    wait_until("it is on b", || names(b, "network ls").contains(&"first".to_owned()));
    let status = b.netd.say("status").stdout;
    assert!(!status.contains("overlaps"), "and in nobody's way: {status}");
    let given = "network create -d overlay given --subnet";
    a.netd.say(&format!("{given} 10.176.0.128/25")).refused(["10.176.0.0/24", "node b", "by elsewhere"]);
    a.netd.say(&format!("{given} 10.176.0.0/23")).refused(["node b"]);
    a.netd.say(&format!("{given} 10.176.1.0/24")).refused(["node b", "network own"]);

    cluster.nodes[1].netd.kill();
    let a = &cluster.nodes[0];
    wait_until("b is out", || a.netd.say("node ls -f state=down -q").stdout == "b\n");
    done(&a.netd, "network create -d overlay second");
    assert_eq!(subnet(a, "second"), "10.176.3.0/24", "it may come back");
    a.netd.say(&format!("{given} 10.176.1.0/24")).refused(["network own", "`netd node rm b`"]);

    cluster.nodes[1].netd.start();
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    wait_until("it is on b too", || names(b, "network ls").contains(&"second".to_owned()));
    crate::cluster::comes_to_be_verified(&a.netd);
    // What is not used any more is free.
    b.host.ip("link del elsewhere");
    wait_until("a knows", || used(a, "b").iter().all(|range| range != "10.176.0.0/24"));
    done(&a.netd, "network create -d overlay third");
    assert_eq!(subnet(a, "third"), "10.176.0.0/24");
    cluster.nodes[1].netd.kill();
    let a = &cluster.nodes[0];
    wait_until("b is out", || a.netd.say("node ls -f state=down -q").stdout == "b\n");
    done(&a.netd, "node rm b");
    done(&a.netd, "network create -d overlay fourth");
    assert_eq!(subnet(a, "fourth"), "10.176.1.0/24", "and so is what a node used that is removed");
}

#[test]
fn a_network_is_removed_when_nobody_is_in_it_anywhere() {
    let cluster = Cluster::new(2, 1);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, "network create -d overlay web");
    wait_until("the network is everywhere", || names(b, "network ls") == ["web"]);
    let _db = b.container("db", "web");

    a.netd.say("network rm web").refused(["web", "db on node b"]);
    a.netd.say("network renumber web").refused(["web", "several hosts"]);
    done(&a.netd, "network prune");
    assert_eq!(names(a, "network ls"), ["web"], "others are in it");

    // One that a host cannot have is said once, in that host's words, and is there when it can.
    b.netd.say("network create own --subnet 10.77.0.0/24").ok();
    a.netd.say("network create -d overlay late --subnet 10.77.0.0/25 --force").ok();
    let _first = a.container("first", "late");
    let line = "network late of all nodes is not here: subnet 10.77.0.0/25 overlaps";
    wait_until("b says so", || b.netd.say("status").stdout.contains(line));
    for node in [a, b] {
        let verified = node.netd.say("overlay verify");
        let told = &verified.exits(1).stdout;
        assert!(told.starts_with(&format!("node b says: {line}")) && told.lines().count() == 1, "{verified}");
    }
    b.netd.say("network rm own").ok();
    wait_until("it is there too", || a.netd.say("overlay verify").succeeded());
    assert!(b.netd.say("network inspect late").succeeded());
    a.netd.say("detach first").ok();
    wait_until("it is removed", || a.netd.say("network rm late").succeeded());

    b.netd.say("detach db").ok();
    a.netd.say("network rm web").ok();

    wait_until("it is gone everywhere", || [a, b].iter().all(|node| names(node, "network ls").is_empty()));
    assert!(b.host.ip("-br link show").lines().all(|line| !line.starts_with("ndb-")), "and its bridge with it");
}

#[test]
fn a_node_that_is_drained_takes_no_more_and_one_that_is_removed_leaves_its_addresses() {
    let mut cluster = Cluster::new(2, 1);
    done(&cluster.nodes[0].netd, "network create -d overlay web");
    wait_until("the network is everywhere", || names(&cluster.nodes[1], "network ls") == ["web"]);
    let _db = cluster.nodes[1].container("db", "web");
    let address = cluster.nodes[1].address("db");

    done(&cluster.nodes[0].netd, "node drain b");
    cluster.nodes[1].host.container("more");
    let more = "attach more --netns /run/netns/more --network web";
    wait_until("b is drained", || cluster.nodes[1].netd.say("node ls -f state=drained -q").stdout == "b\n");
    cluster.nodes[1].netd.say(more).refused(["node b", "drained"]);
    done(&cluster.nodes[0].netd, "node drain --undo b");
    wait_until("b takes some again", || {
        cluster.nodes[1].netd.say("node ls -f state=ready").stdout.contains("b (this host)")
    });
    cluster.nodes[1].netd.say(more).ok();

    wait_until("a knows all of it", || {
        let inspected = cluster.nodes[0].netd.say("node inspect b").json();
        (&inspected[0]["state"], &inspected[0]["vtep"]) == (&"ready".into(), &vtep(1).to_string().into())
            && inspected[0]["addresses"].as_array().map(Vec::len) == Some(2)
    });
    cluster.nodes[0].netd.say("node inspect nowhere").refused(["no node nowhere"]);
    cluster.nodes[0].netd.say("node rm b").refused(["node b", "is there"]);
    cluster.nodes[0].netd.say("node rm nowhere").refused(["no node nowhere"]);
    cluster.nodes[1].netd.kill();
    let died = cluster.since_now();
    wait_until("b is out", || cluster.nodes[0].netd.say("node ls -f state=down -q").stdout == "b\n");
    died.assert_within(Duration::from_secs(LEASE) + SECONDS, "a node that dies is out", &cluster);
    assert_eq!(cluster.nodes[0].map(), [].into(), "nobody is sent where nobody is");
    cluster.nodes[0].host.container("heir");
    let heir = format!("attach heir --netns /run/netns/heir --network web:ip={address}");
    cluster.nodes[0].netd.say(&heir).refused([&*address.to_string(), "db on node b"]);
    done(&cluster.nodes[0].netd, "node rm b");
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
