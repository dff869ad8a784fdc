//! `netd doctor`: a host as it should be is fine, and what is wrong is named with what to do.

mod ailments;
mod servers;
mod strangers;

use std::{fs, time::Duration};

use netd_tests::lab::{Node, Offloads};
use serde_json::Value;

use crate::{
    forwarding::Upstream,
    says::text,
    town::{Town, wait_until},
};

/// How long something may take to be found, where the machine has much else to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// The findings, and how the command ended.
#[track_caller]
fn findings(town: &Town) -> (Vec<Value>, i32) {
    let outcome = town.netd.say("doctor --format json");
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    (found.as_array().cloned().unwrap_or_default(), outcome.code())
}

/// A town whose host has a resolver that answers, 127.0.0.1, and which lacks nothing.
fn healthy_town() -> (Town, Upstream) {
    let town = Town::new(Offloads::On);
    let resolver = with_a_resolver(&town);
    (town, resolver)
}

fn with_a_resolver(town: &Town) -> Upstream {
    // A link to the machine's own file, on a file system of this host's own.
    let resolvers = town.host.path("/etc/resolv.conf");
    fs::remove_file(&resolvers).expect("the host has one");
    fs::write(&resolvers, "nameserver 127.0.0.1\n").expect("the host's own /etc can be written");
    // A new network namespace has it on where the machine has loaded br_netfilter.
    town.host.run(["sysctl", "-qew", "net.bridge.bridge-nf-call-iptables=0"]).ok();
    serve_names(&town.host, "127.0.0.1")
}

/// Answers questions for names at an address of a node.
fn serve_names(node: &Node, address: &str) -> Upstream {
    Upstream::serve(node, address, "198.18.0.7", 60)
}

/// What was found that is worse than a note, as `check: what`.
fn wrong(found: &[Value]) -> Vec<String> {
    let bad = found.iter().filter(|finding| matches!(text(finding, "/severity").as_str(), "warning" | "problem"));
    bad.map(|finding| format!("{}: {}", text(finding, "/check"), text(finding, "/found"))).collect()
}

#[test]
fn a_host_is_fine_until_something_is_wrong_and_then_it_is_named() {
    let (mut town, resolver) = healthy_town();
    town.network("blue");
    let _web = town.container("web", "blue", &["8080:80"]);

    // A resolver on a machine with much else to do may answer too late for it.
    let mut found = Vec::new();
    wait_until("nothing is wrong", || {
        let (said, code) = findings(&town);
        found = said;
        code == 0 && wrong(&found).is_empty()
    });
    let checks: Vec<String> = found.iter().map(|finding| text(finding, "/check")).collect();
    let every = ["kernel", "hooks", "state", "subnets", "mtu", "forwarding", "firewall", "programs", "ports", "dns"];
    assert_eq!(checks, every);
    assert!(found.iter().all(|finding| text(finding, "/severity") == "fine"), "not even a note: {found:?}");

    let subnet = crate::says::subnet_of(&town.netd, "blue");
    town.host.ip(&format!("route add {subnet} via 192.0.2.2 metric 77"));
    town.host.ip("link set eth0 mtu 1280");
    drop(resolver);

    for word in [format!("subnets: network blue ({subnet}) overlaps"), "dns: 127.0.0.1 does not answer".to_owned()] {
        wait_until(&word, || {
            let (found, code) = findings(&town);
            code == 1 && wrong(&found).iter().any(|found| found.contains(&word))
        });
    }
    let table = town.netd.say("doctor").exits(1).stdout.clone();
    assert!(table.contains("WARNING  subnets"), "{table}");

    town.netd.kill();
    let outcome = town.netd.say("doctor");
    assert!(outcome.exits(1).stdout.contains("PROBLEM  daemon"), "{outcome}");
}
