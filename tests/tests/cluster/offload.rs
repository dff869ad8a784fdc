//! Devices that carry small packets of a tunnel and lose large ones: the doctor tries each tunnel, and says what to do.

use serde_json::Value;

use crate::cluster::{Cluster, Node, done, vtep, wait_until};

/// What the doctor has to say of tunnels: how bad, what was found, and what to do.
fn said(node: &Node) -> (String, String, String) {
    let outcome = node.netd.run(["doctor", "--format", "json"]);
    let findings: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome}"));
    let mut of_tunnels =
        findings.as_array().expect("findings").iter().filter(|finding| finding["check"] == "tunnels").cloned();
    let finding = of_tunnels.next().expect("a finding of tunnels");
    let text = |key: &str| finding[key].as_str().expect("a text").to_owned();
    (text("severity"), text("found"), text("remedy"))
}

/// Has a node lose what comes by tunnels and is longer than this.
fn lose_longer_than(node: &Node, length: u32) {
    let rules = format!(
        "table ip fault {{ chain in {{ type filter hook input priority -300; udp dport 4789 meta length > {length} drop; }}; }}"
    );
    node.host.run(["nft", &rules]).ok();
}

fn lose_nothing(node: &Node) {
    node.host.run(["nft", "delete", "table", "ip", "fault"]).ok();
}

fn cut_by_device(node: &Node, word: &str) {
    let features = ["tx-udp_tnl-segmentation", word, "tx-udp_tnl-csum-segmentation", word];
    node.host.run(["ethtool", "-K", "eth0"].iter().chain(&features)).ok();
}

#[test]
fn the_doctor_sends_large_tcp_by_each_tunnel_and_its_remedies_help() {
    let mut cluster = Cluster::new(2, 1);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    assert!(said(a).1.contains("no network has containers here and on node b"));
    done(&a.netd, "network create -d overlay web");
    wait_until("it is everywhere", || b.netd.say("network inspect web").succeeded());
    let [one, two] = [a.container("one", "web"), b.container("two", "web")];
    let far = format!("{}:7", b.address("two"));
    wait_until("they know each other", || a.map().len() == 1 && b.map().len() == 1);
    let _server = two.serve_bulk(7);
    let there = format!("to node b ({}) by eth0", vtep(1));
    let fine = ("fine".to_owned(), format!("large TCP gets through {there}"), String::new());
    let is_found =
        |what: &str| wait_until(&format!("{what} {there}"), || said(a).1.starts_with(&format!("{what} {there}")));
    is_found("large TCP gets through");

    // The device at the other end takes what one packet holds, and nothing that is still to be cut.
    lose_longer_than(b, 1600);
    is_found("large TCP does not get through");
    wait_until("and what to do", || {
        let (severity, _, remedy) = said(a);
        let both = ["ethtool -K eth0 tx-udp_tnl-segmentation off", "tunnel-offload"];
        severity == "warning" && both.iter().all(|remedied| remedy.contains(remedied))
    });
    cut_by_device(a, "off");
    is_found("large TCP gets through");
    one.transfers(&far, 1_000_000);
    cut_by_device(a, "on");
    is_found("large TCP does not get through");

    // The way takes less than it says, or nothing.
    lose_nothing(b);
    lose_longer_than(b, 1400);
    is_found("packets of 1450 bytes do not get through");
    lose_nothing(b);
    lose_longer_than(b, 0);
    is_found("TCP is not answered");
    lose_nothing(b);

    // The other remedy: nothing is left to any device.
    lose_longer_than(b, 1600);
    let a = &mut cluster.nodes[0];
    let path = a.host.path("/etc/netd/netd.toml");
    let config = std::fs::read_to_string(&path).expect("the node has one");
    std::fs::write(&path, format!("[daemon]\ntunnel-offload = false\n{config}")).expect("it is the Lab's");
    a.netd.kill();
    a.netd.start();
    wait_until("the daemon knows the others", || a.map().len() == 1);
    wait_until("large TCP gets through", || said(a) == fine);
    one.transfers(&far, 1_000_000);
    let features = a.host.run(["ethtool", "-k", "ndx-4789"]).ok();
    assert!(features.contains("tx-checksumming: off"), "{features}");
    a.host.run(["ethtool", "-K", "ndx-4789", "tx", "on"]).ok();
    wait_until("it is mended", || a.host.run(["ethtool", "-k", "ndx-4789"]).ok().contains("tx-checksumming: off"));
    cluster.lab.assert_no_checksum_errors();
}
