//! Packets as large as the underlay takes.

use std::net::IpAddr;

use netd_tests::lab::Container;

use crate::{
    as_a_bridge::{BOTH_FAMILIES, ipv6},
    cluster::{Cluster, Node, done, options, vtep, wait_until},
};

/// Whether a packet of so many bytes that may not be cut gets there and back.
fn passes(from: &Container, to: &str, mtu: u32) -> bool {
    let size = (mtu - 28).to_string();
    from.run(["ping", "-c1", "-W5", "-M", "do", "-s", &size, to]).succeeded()
}

fn has_mtu(container: &Container, mtu: u32) -> bool {
    container.ip("link show dev eth0").contains(&format!("mtu {mtu} "))
}

#[test]
fn packets_that_may_not_be_cut_are_as_large_as_the_underlay_takes() {
    let cluster = Cluster::new(2, 1);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, "network create -d overlay web");
    wait_until("it is everywhere", || b.netd.say("network inspect web").succeeded());
    let [one, two] = [a.container("one", "web"), b.container("two", "web")];
    let (far, near) = (b.address("two").to_string(), a.address("one").to_string());
    let _server = two.serve_bulk(7);
    wait_until("they know each other", || a.map().len() == 1 && b.map().len() == 1);

    for underlay in [1400, 1500, 9000] {
        for node in 0..2 {
            cluster.set_mtu(node, underlay);
        }
        let mtu = underlay - 50;
        for container in [&one, &two] {
            wait_until(&format!("a container follows to {mtu}"), || has_mtu(container, mtu));
        }
        wait_until(&format!("{underlay}: as large as it takes"), || {
            passes(&one, &far, mtu) && passes(&two, &near, mtu)
        });
        assert!(!passes(&one, &far, mtu + 1), "{underlay}: not larger");
        one.transfers(&format!("{far}:7"), 3_000_000);
    }
    cluster.lab.assert_no_checksum_errors();
}

#[test]
fn the_way_to_a_node_says_how_large_and_who_was_given_more_by_the_user_is_told() {
    let cluster = Cluster::new(3, 1);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    for (name, options) in [("web", ""), ("fixed", "--mtu 1450")] {
        done(&a.netd, &format!("network create -d overlay {name} {options}"));
        let inspect = format!("network inspect {name}");
        wait_until("it is everywhere", || [b, c].iter().all(|node| node.netd.say(&inspect).succeeded()));
    }
    let [one, two] = [a.container("one", "web"), b.container("two", "web")];
    let [three, four] = [a.container("three", "fixed"), b.container("four", "fixed")];
    wait_until("a knows two and four", || a.map().len() == 2);
    assert!(has_mtu(&one, 1450));

    // Not the device's, nor the default's: that to another node alone. One elsewhere counts for what leaves.
    a.host.ip("route add 203.0.113.0/24 via 192.0.2.9 mtu 1400");
    wait_until("the network follows the way out", || has_mtu(&one, 1400));
    a.host.ip("route add 192.0.2.2/32 dev eth0 mtu 1300");
    wait_until("the network follows the way to the node", || has_mtu(&one, 1250));
    assert!(has_mtu(&two, 1450) && has_mtu(&three, 1450), "from there the way is wider, and the user's word stands");

    // What is sent in that belief is answered by the gateway, and TCP finds its size.
    let far = b.address("four").to_string();
    let said = three.run(["ping", "-c1", "-W60", "-M", "do", "-s", "1400", &far]).stdout;
    assert!(said.contains("mtu = 1250"), "{said}");
    let _server = four.serve_bulk(7);
    three.transfers(&format!("{far}:7"), 1_000_000);

    a.host.ip("route del 192.0.2.2/32 dev eth0");
    a.host.ip("route del 203.0.113.0/24");
    wait_until("and back", || has_mtu(&one, 1450));
}

/// What a container is told of a packet of so many bytes that may not be cut.
fn told(from: &Container, to: IpAddr, mtu: u32) -> String {
    let size = (mtu - if to.is_ipv4() { 28 } else { 48 }).to_string();
    from.run(["ping", "-c1", "-W20", "-M", "do", "-s", &size, &to.to_string()]).stdout
}

fn addresses(node: &Node, endpoint: &str) -> [IpAddr; 2] {
    let shown = node.netd.say(&format!("inspect {endpoint}")).json();
    let address = |key: &str| shown.pointer(key).and_then(|ip| ip.as_str()?.parse().ok()).expect("it has one");
    ["/0/networks/0/ip", "/0/networks/0/ip6"].map(address)
}

#[test]
fn a_narrow_way_between_two_hosts_says_its_size_and_leaves_the_others_theirs_over_either_underlay() {
    let mut cluster = Cluster::new(3, 1);
    let urls = [cluster.etcd[0].url.clone()];
    done(&cluster.nodes[0].netd, &format!("network create -d overlay web {BOTH_FAMILIES}"));
    wait_until("it is everywhere", || {
        cluster.nodes.iter().all(|node| node.netd.say("network inspect web").succeeded())
    });
    let containers: Vec<Container> =
        (0..3).map(|n| cluster.nodes[n].container(["one", "two", "three"][n], "web")).collect();
    let [one, two, three] = &containers[..] else { panic!("three") };

    for (number, node) in (1..).zip(&cluster.nodes) {
        node.host.ip(&format!("address add {}/64 dev eth0 nodad", ipv6(number)));
    }
    // Each narrower than what a container has been told of before, which it remembers.
    let underlays = [
        ([0, 1, 2].map(vtep), 50, [1400, 1360, 1500]),
        ([1, 2, 3].map(|n| ipv6(n).parse().expect("an address")), 70, [1370, 1360, 1500]),
    ];
    for (ends, overhead, ways) in underlays {
        for ((node, name), end) in cluster.nodes.iter_mut().zip(["a", "b", "c"]).zip(ends) {
            node.netd.kill();
            node.netd = node.host.netd_with(options(name, end, &urls));
        }
        let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
        wait_until("they know where the others are", || {
            [a, b, c].iter().all(|node| node.map().len() == 4 && node.map().values().all(|end| ends.contains(end)))
        });
        let wide = 1500 - overhead;
        let prefix = if ends[1].is_ipv4() { 32 } else { 128 };
        for way in ways {
            a.host.ip(&format!("route replace {}/{prefix} dev eth0 mtu {way}", ends[1]));
            let narrow = way - overhead;
            wait_until(&format!("{narrow} from a, and {wide} where no way is narrow"), || {
                has_mtu(one, narrow) && has_mtu(two, wide) && has_mtu(three, wide)
            });
            for family in 0..2 {
                let [first, second, third] =
                    [(a, "one"), (b, "two"), (c, "three")].map(|(node, name)| addresses(node, name)[family]);
                let whole = |from: &Container, to, mtu| {
                    wait_until(&format!("{mtu} over {overhead} pass to {to}"), || {
                        told(from, to, mtu).contains(" 0% packet loss")
                    });
                };
                whole(two, third, wide);
                whole(three, second, wide);
                whole(one, second, narrow);
                whole(one, third, narrow);
                for from in [two, three].into_iter().filter(|_| narrow < wide) {
                    let size = if family == 0 { format!("mtu = {narrow}") } else { format!("mtu={narrow}") };
                    wait_until(&format!("{size} is said of {first}"), || told(from, first, narrow + 1).contains(&size));
                }
            }
        }
        a.host.ip(&format!("route del {}/{prefix} dev eth0", ends[1]));
    }
    cluster.lab.assert_no_checksum_errors();
}
