//! Ways in which what a host knows of the others could be what was and is no more: none of them lasts.

use std::{collections::BTreeSet, net::IpAddr, sync::atomic::Ordering, thread, time::Duration};

use netd_tests::lab::{Container, traffic::IMPATIENCE};
use serde_json::Value;

use crate::{
    cluster::{Cluster, LEASE, Node, Placed, comes_to_be_verified, done, options, vtep, wait_until},
    lossy::LOSSY,
    strangers::mac_of,
};

/// Whether a container reaches another's port 7.
fn reaches(from: &Container, to: IpAddr) -> bool {
    from.asks_tcp(&format!("{to}:7"), IMPATIENCE * 5).is_ok()
}

fn everywhere(cluster: &Cluster, network: &str) {
    wait_until(&format!("{network} is everywhere"), || {
        cluster.nodes.iter().all(|node| node.netd.say(&format!("network inspect {network}")).succeeded())
    });
}

fn placed(cluster: &Cluster, node: usize, name: &str) -> Placed {
    let container = cluster.nodes[node].container(name, "web");
    Placed { node, container, address: cluster.nodes[node].address(name) }
}

fn id_and_vni(node: &Node, network: &str) -> (Value, Value) {
    let inspected = node.netd.say(&format!("network inspect {network}")).json();
    (inspected[0]["id"].clone(), inspected[0]["segment"]["vni"].clone())
}

#[test]
fn a_network_made_anew_with_the_same_number_while_a_host_was_away_is_another_one_to_that_host() {
    let cluster = Cluster::new(2, 1);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, "network create -d overlay web --subnet 10.50.0.0/24");
    everywhere(&cluster, "web");
    let old = b.container("old", "web");
    let before = id_and_vni(b, "web");

    cluster.cut(1);
    wait_until("b is out", || a.netd.say("node ls -f state=down -q").stdout == "b\n");
    done(&a.netd, "node rm b");
    done(&a.netd, "network rm web");
    done(&a.netd, "network create -d overlay web --subnet 10.50.0.0/24");
    let after = id_and_vni(a, "web");
    assert!(after.0 != before.0 && after.1 == before.1, "the number is free, and is taken: {before:?} {after:?}");
    let new = a.container("new", "web:ip=10.50.0.77");
    let served = new.echo_tcp(7);
    cluster.join(1);

    let line = "network web was removed and made anew elsewhere and ends at this host: detach what is in it here";
    wait_until("b says so", || b.netd.say("status").stdout.contains(line));
    wait_until("both are there", || cluster.nodes.iter().all(|node| node.status("/cluster/nodes") == Some(2)));
    assert!(b.map().is_empty() && a.map().is_empty(), "neither is sent to the other");
    assert!(!reaches(&old, [10, 50, 0, 77].into()) && served.peers().is_empty(), "nor comes there");
    let found = old.run("dig +short +tries=1 +time=5 @127.0.0.11 new".split(' ')).stdout;
    assert!(!found.contains("10.50.0.77"), "nor is it named: {found}");
    let verified = b.netd.say("overlay verify");
    let told = &verified.exits(1).stdout;
    assert!(told.contains(&format!("node b says: {line}\n")) && !told.contains("node b: lacks"), "{verified}");

    done(&b.netd, "detach old");
    wait_until("b has the new one", || id_and_vni(b, "web") == after);
    let next = b.container("next", "web");
    wait_until("they reach each other", || reaches(&next, [10, 50, 0, 77].into()));
    comes_to_be_verified(&b.netd);
}

#[test]
fn an_address_that_is_used_anew_here_or_elsewhere_has_another_random_link_layer_address() {
    let cluster = Cluster::new(2, 1);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, "network create -d overlay web --subnet 10.50.0.0/24");
    everywhere(&cluster, "web");
    let client = a.container("client", "web");

    let mut macs = Vec::new();
    for (n, node) in [b, b, a, b].into_iter().enumerate() {
        let name = format!("user{n}");
        let container = node.container(&name, "web:ip=10.50.0.77");
        let mac = mac_of(node, &name);
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        assert!(container.ip("link show dev eth0").contains(&text), "the container has it: {text}");
        assert_eq!(mac[0] & 0b11, 0b10, "locally administered, of one station: {text}");
        // Docker's would be the same one for the address wherever it is.
        assert!(!mac.ends_with(&[10, 50, 0, 77]), "not made of the address: {text}");
        // Who has asked of the last one before finds this one.
        let _served = container.echo_tcp(7);
        wait_until("it is reached", || reaches(&client, [10, 50, 0, 77].into()));
        wait_until(&format!("it is known by its own link-layer address {text}"), || {
            client.ip("neigh show 10.50.0.77").contains(&text)
        });
        macs.push(mac);
        done(&node.netd, &format!("detach {name}"));
    }

    let distinct: BTreeSet<_> = macs.iter().collect();
    assert_eq!(distinct.len(), macs.len(), "each has its own: {macs:?}");
}

#[test]
fn an_etcd_that_was_put_back_to_an_earlier_copy_leads_every_host_to_what_is_so() {
    let mut cluster = Cluster::new(3, 1);
    done(&cluster.nodes[0].netd, "network create -d overlay web");
    everywhere(&cluster, "web");
    let stays = placed(&cluster, 0, "stays");
    let _went = placed(&cluster, 1, "went");
    let [keeps, copy] = ["/run/etcd", "/run/etcd.copy"];
    cluster.etcd[0].stop();
    cluster.etcd[0].copies(keeps, copy);
    cluster.etcd[0].start();
    cluster.wait_until("all are back", |cluster| {
        cluster.nodes.iter().all(|node| !node.netd.say("status").stdout.contains("etcd away"))
    });

    // Of what follows the copy knows nothing: one goes, another comes, and there are revisions enough to be had twice.
    for _ in 0..50 {
        cluster.etcd[0].put("/somebody/elses", "");
    }
    wait_until("it is detached", || cluster.nodes[1].netd.say("detach went").succeeded());
    let comes = placed(&cluster, 1, "comes");
    let before = cluster.nodes[0].status("/cluster/revision");
    cluster.nodes[2].netd.kill();
    cluster.etcd[0].stop();
    cluster.etcd[0].copies(copy, keeps);
    cluster.etcd[0].start();
    cluster.nodes[2].netd.start();
    cluster.wait_until("revisions come again", |cluster| cluster.nodes[0].status("/cluster/revision") < before);
    let container = cluster.nodes[2].host.container("later");
    wait_until("a third is attached", || {
        cluster.nodes[2].netd.say("attach later --netns /run/netns/later --network web").succeeded()
    });
    let later = Placed { node: 2, container, address: cluster.nodes[2].address("later") };

    wait_until("what etcd says is what is so", || cluster.nodes[0].netd.say("overlay verify").succeeded());
    let all = [stays, comes, later];
    cluster.assert_all_as_desired(&all);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let _served = all[to].container.echo_tcp(7);
        wait_until("they reach each other", || reaches(&all[from].container, all[to].address));
    }
    done(&cluster.nodes[0].netd, "network create -d overlay more");
    everywhere(&cluster, "more");
}

#[test]
fn two_nodes_that_have_exchanged_their_addresses_are_each_reached_by_its_new_one() {
    let mut cluster = Cluster::new(3, 1);
    done(&cluster.nodes[0].netd, "network create -d overlay web");
    everywhere(&cluster, "web");
    let (one, two, three) = (placed(&cluster, 0, "one"), placed(&cluster, 1, "two"), placed(&cluster, 2, "three"));
    let _servers = [&two, &three].map(|placed| placed.container.echo_tcp(7));
    wait_until("they reach each other", || [&two, &three].iter().all(|to| reaches(&one.container, to.address)));

    let urls = [cluster.etcd[0].url.clone()];
    for (node, other) in [(1, 2), (2, 1)] {
        let node = &mut cluster.nodes[node];
        node.netd.kill();
        node.host.ip("address flush dev eth0");
        node.host.ip(&format!("address add {}/24 dev eth0", vtep(other)));
    }
    for (node, name, other) in [(1, "b", 2), (2, "c", 1)] {
        let node = &mut cluster.nodes[node];
        node.netd = node.host.netd_stopped(options(name, vtep(other), &urls));
        node.netd.start();
    }

    let expected = [(two.address, vtep(2)), (three.address, vtep(1))].into();
    cluster.wait_until("the ways are exchanged", |cluster| cluster.nodes[0].map() == expected);
    wait_until("they reach each other", || [&two, &three].iter().all(|to| reaches(&one.container, to.address)));
    wait_until("and these two each other", || reaches(&two.container, three.address));
    wait_until("it is as it should be", || cluster.nodes[0].netd.say("overlay verify").succeeded());
}

#[test]
fn a_node_that_has_another_name_is_told_what_the_old_one_keeps_and_has_it_when_that_is_removed() {
    let mut cluster = Cluster::new(2, 1);
    done(&cluster.nodes[0].netd, "network create -d overlay web");
    everywhere(&cluster, "web");
    let (one, two) = (placed(&cluster, 0, "one"), placed(&cluster, 1, "two"));
    let _served = two.container.echo_tcp(7);
    wait_until("they reach each other", || reaches(&one.container, two.address));

    let urls = [cluster.etcd[0].url.clone()];
    let node = &mut cluster.nodes[1];
    node.netd.kill();
    node.netd = node.host.netd_stopped(options("renamed", vtep(1), &urls));
    node.netd.start();

    let line = format!("two has {} of network web, which is two's on node b: attach two anew", two.address);
    cluster.wait_until("it is told", |cluster| cluster.nodes[1].netd.say("status").stdout.contains(&line));
    cluster.wait_until("the old one is out", |cluster| {
        cluster.nodes[0].netd.say("node ls -f state=down -q").stdout == "b\n"
    });
    done(&cluster.nodes[0].netd, "node rm b");
    cluster.wait_until("it has it", |cluster| cluster.nodes[0].map() == [(two.address, vtep(1))].into());
    wait_until("they reach each other", || reaches(&one.container, two.address));
    wait_until("it is as it should be", || cluster.nodes[0].netd.say("overlay verify").succeeded());
}

#[test]
fn a_host_whose_watch_has_gone_silent_listens_anew() {
    let cluster = Cluster::with(2, 1, |node| (node == 0).then(|| LOSSY.to_owned()), Some(200));
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, "network create -d overlay web");
    everywhere(&cluster, "web");
    let faults = cluster.faults.clone().expect("there is a way with losses");

    // Those that are open are silent for good; those to come are not.
    faults.silenced.fetch_add(1, Ordering::SeqCst);
    let _first = b.container("first", "web");
    wait_until("a full read finds it", || a.map().len() == 1 && a.status("/cluster/missed") > Some(0));
    let missed = a.status("/cluster/missed");

    let _next = b.container("next", "web");
    wait_until("it is heard of", || a.map().len() == 2);
    // For two full reads, of which the second counts what the first has found.
    thread::sleep(Duration::from_secs(21));
    assert_eq!(a.status("/cluster/missed"), missed, "the watch has told of it");
}

#[test]
fn a_host_of_many_endpoints_stays_a_node_though_etcd_takes_longer_for_them_than_its_lease_lives() {
    let mut cluster = Cluster::with(2, 1, |node| (node == 1).then(|| LOSSY.to_owned()), Some(200));
    done(&cluster.nodes[0].netd, "network create -d overlay web");
    everywhere(&cluster, "web");
    let count = 24;
    let _all: Vec<_> = (0..count).map(|n| cluster.nodes[1].container(&format!("c{n}"), "web")).collect();
    wait_until("all are known", || cluster.nodes[0].map().len() == count);

    cluster.nodes[1].netd.kill();
    wait_until("it is out", || cluster.nodes[0].map().is_empty());
    // Each record takes half a second: all of them twice the lease and more.
    cluster.faults.as_ref().expect("there is a way with losses").slow.store(500, Ordering::SeqCst);
    assert!(count as u64 / 2 > 2 * LEASE);
    cluster.nodes[1].netd.start();

    wait_until("all are known again", || cluster.nodes[0].map().len() == count);
}
