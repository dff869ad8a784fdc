//! Who reaches whom on a network that spans hosts: the table of `netd_tests::reach`, on the same host and across, and what `flows` says of it.

use netd_tests::{
    lab::Host,
    reach::{NETWORKS, Place, Side},
};
use serde_json::Value;

use crate::{
    as_a_bridge::ipv6,
    cluster::{Cluster, Node, vtep, wait_until},
};

/// The last byte of the client's addresses that is beside a host.
const BESIDE: usize = 150;

#[test]
fn everybody_on_any_host_reaches_whom_the_table_says_and_nobody_else() {
    let cluster = Cluster::new(2, 1);
    let clients = ["near", "far"].map(|name| cluster.lab.host(name));
    for (number, client) in (BESIDE..).zip(&clients) {
        cluster.add_to_street(client, number);
        client.ip(&format!("address add {}/64 dev eth0 nodad", ipv6(number)));
    }
    let sides: Vec<Side> = (0..2).map(|n| side(&cluster.nodes[n], n, &clients[n])).collect();
    let place = Place::new(&sides, "overlay", env!("CARGO_BIN_EXE_dial"));
    wait_until("every map is right", || cluster.nodes[0].netd.say("overlay verify").succeeded());

    place.assert_everybody_reaches_whom_the_table_says();

    cluster.nodes.iter().enumerate().for_each(|(n, node)| assert_flows_say_whose_they_are(node, n));
    cluster.lab.assert_no_checksum_errors();
}

fn side<'a>(node: &'a Node, number: usize, client: &'a Host) -> Side<'a> {
    let address = ipv6(number + 1);
    node.host.ip(&format!("address add {address}/64 dev eth0 nodad"));
    wait_until("the daemon sees the address", || node.netd.json("status")["uplinks"].to_string().contains(&address));
    Side {
        netd: &node.netd,
        host: &node.host,
        client,
        front: [vtep(number).to_string(), address],
        outside: [format!("192.0.2.{}", BESIDE + number), ipv6(BESIDE + number)],
    }
}

/// On each host what left, and what came to a port there, is listed under the network's name, with the container's.
#[track_caller]
fn assert_flows_say_whose_they_are(node: &Node, number: usize) {
    let all = node.netd.say("flows --format json").json();
    let flows = all.as_array().expect("flows");
    for (name, options) in NETWORKS.iter().filter(|(_, options)| !options.contains("--internal")) {
        let of_it = |flow: &&Value| flow["network"] == *name;
        let ours = format!("{name}-app{number}");
        assert!(flows.iter().filter(of_it).any(|flow| flow["container"] == ours), "{ours} ({options}): {all}");
    }
    let strange = flows.iter().filter(|flow| {
        let (network, container) = (flow["network"].as_str().unwrap_or(""), flow["container"].as_str().unwrap_or(""));
        !container.starts_with(network)
    });
    assert_eq!(strange.count(), 0, "a container is listed under another's network: {all}");
}
