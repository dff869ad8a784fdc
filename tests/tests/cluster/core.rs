//! What netd is for on several hosts, on every kernel: `cargo xtask vm` runs it in a guest.

use netd_tests::lab::Container;

use crate::cluster::{Cluster, PATIENCE, Placed, wait_until};

#[test]
fn containers_of_two_hosts_find_each_other_by_name_and_connect_both_ways() {
    let cluster = Cluster::new(2, 1);
    cluster.nodes[0].netd.say("network create -d overlay web").ok();
    wait_until("the network is everywhere", || cluster.nodes[1].netd.say("network inspect web").succeeded());
    let containers: Vec<Placed> = ["one", "two"]
        .iter()
        .zip(0..)
        .map(|(name, node)| {
            let container = cluster.nodes[node].container(name, "web");
            Placed { node, address: cluster.nodes[node].address(name), container }
        })
        .collect();
    cluster.assert_all_as_desired(&containers);

    for (from, to) in [(0, 1), (1, 0)] {
        let [from, to] = [&containers[from], &containers[to]];
        let _server = to.container.serve_bulk(7);
        assert_eq!(named(&from.container, to.container.name()), to.address.to_string());
        assert_eq!(from.container.pings(&to.address.to_string(), 1, PATIENCE), 1);
        from.container.transfers(&format!("{}:7", to.address), 300_000);
    }
    cluster.lab.assert_no_checksum_errors();
}

/// The addresses of a name.
fn named(container: &Container, name: &str) -> String {
    container.run(format!("dig +short +tries=3 +time=10 @127.0.0.11 {name}").split(' ')).ok().trim().to_owned()
}
