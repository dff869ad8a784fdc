//! What netd is for on several hosts, on every kernel: `cargo xtask vm` runs it in a guest.

use netd_tests::lab::{Container, Node as Place, traffic::IMPATIENCE};

use crate::{
    cluster::{Cluster, PATIENCE, Placed, done, vtep, wait_until},
    strangers::{dropped, encapsulated, forge, mac_of, plain_vtep, vni_of},
};

#[test]
fn containers_of_two_hosts_find_each_other_by_name_and_connect_both_ways_and_nobody_else_comes_in() {
    let cluster = Cluster::new(2, 1);
    done(&cluster.nodes[0].netd, "network create -d overlay web");
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
    what_is_forged_is_dropped(&cluster, &containers);
    a_plain_linux_vtep_comes_into_the_network_of_its_number_alone(&cluster);
    cluster.lab.assert_no_checksum_errors();
}

fn what_is_forged_is_dropped(cluster: &Cluster, containers: &[Placed]) {
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let stranger = cluster.lab.host("stranger");
    cluster.add_to_street(&stranger, 151);
    let served = containers[0].container.echo_udp(9);
    let frame = |vni: u32| {
        encapsulated(vni, [mac_of(b, "two"), mac_of(a, "one")], (containers[1].address, containers[0].address), 9)
    };
    let web = frame(vni_of(a, "web"));
    for (sender, frame, reason) in
        [(&stranger, &web, "unknown_vtep"), (&b.host, &frame(0x00ff_ff00), "unknown_segment")]
    {
        let before = dropped(a, reason);
        forge(sender, vtep(0), frame);
        wait_until("it is counted", || dropped(a, reason) > before);
        assert!(served.peers().is_empty(), "{reason}: it arrived");
    }
    wait_until("what a node says in its own name arrives", || {
        forge(&b.host, vtep(0), &web);
        served.peers().contains(&containers[1].address)
    });
}

fn a_plain_linux_vtep_comes_into_the_network_of_its_number_alone(cluster: &Cluster) {
    let a = &cluster.nodes[0];
    let plain = cluster.lab.host("plain");
    cluster.add_to_street(&plain, 150);
    a.netd.say("network create -d vxlan hand --vni 42 --peer 192.0.2.150 --subnet 10.9.0.0/24").ok();
    let hand = a.container("hand", "hand:ip=10.9.0.11");
    let _served = [plain.echo_tcp(7), hand.echo_tcp(7)];
    let asks = |from: &Place, to: &str| wait_until(to, || from.asks_tcp(to, IMPATIENCE * 5).is_ok());
    plain_vtep(&plain, 42, 4789);
    asks(&hand, "10.9.0.100:7");
    asks(&plain, "10.9.0.11:7");

    // The same addresses by another number.
    plain.ip("link del vx0");
    plain_vtep(&plain, 43, 4789);
    let before = dropped(a, "unknown_segment");
    assert_eq!(plain.pings("10.9.0.11", 1, IMPATIENCE), 0);
    assert!(dropped(a, "unknown_segment") > before, "it is counted");
}

/// The addresses of a name.
fn named(container: &Container, name: &str) -> String {
    container.run(format!("dig +short +tries=3 +time=10 @127.0.0.11 {name}").split(' ')).ok().trim().to_owned()
}
