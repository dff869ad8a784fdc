//! Packets as large as the underlay takes.

use netd_tests::lab::Container;

use crate::cluster::{Cluster, wait_until};

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
    a.netd.say("network create -d overlay web").ok();
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
        a.netd.say(&format!("network create -d overlay {name} {options}")).ok();
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
    let said = three.run(["ping", "-c1", "-W5", "-M", "do", "-s", "1400", &far]).stdout;
    assert!(said.contains("mtu = 1250"), "{said}");
    let _server = four.serve_bulk(7);
    three.transfers(&format!("{far}:7"), 1_000_000);

    a.host.ip("route del 192.0.2.2/32 dev eth0");
    a.host.ip("route del 203.0.113.0/24");
    wait_until("and back", || has_mtu(&one, 1450));
}
