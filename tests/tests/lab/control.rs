//! How long what is asked of a daemon takes, printed.

use std::time::{Duration, Instant};

use netd_tests::lab::{Netd, Offloads};
use serde_json::{Value, json};

use crate::{says, town::Town};

/// How often each request is made.
const TIMES: usize = 20;

#[test]
fn what_is_asked_of_the_daemon_takes_moments() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    town.host.bare_namespaces("c", TIMES);

    let created = times(|n| _ = town.netd.ask("POST", "/v1/networks", &json!({ "name": format!("n{n}") })));
    let attached = times(|n| attach(&town.netd, &format!("c{n}"), "blue"));
    let detached = times(|n| _ = town.netd.ask("DELETE", &format!("/v1/endpoints/c{n}"), &Value::Null));
    let removed = times(|n| _ = town.netd.ask("DELETE", &format!("/v1/networks/n{n}"), &Value::Null));

    for (what, times) in
        [("network create", created), ("attach", attached), ("detach", detached), ("network rm", removed)]
    {
        println!("{what}: {:?} (median of {TIMES}), {:?} to {:?}", times[TIMES / 2], times[0], times[TIMES - 1]);
    }
    assert_eq!(
        (says::names(&town.netd.json("ps")), says::names(&town.netd.json("network ls"))),
        (vec![], vec!["blue".into()])
    );
    assert!(!town.host.ip("link").contains("ndv-"), "what was detached is gone when the reply comes");
}

fn attach(netd: &Netd, name: &str, network: &str) {
    let order = json!({ "name": name, "netns": format!("/run/netns/{name}"), "networks": [network] });
    netd.ask("POST", "/v1/endpoints", &order);
}

/// How long each took, the shortest first.
fn times(mut what: impl FnMut(usize)) -> Vec<Duration> {
    let time = |n| {
        let begin = Instant::now();
        what(n);
        begin.elapsed()
    };
    let mut times: Vec<_> = (0..TIMES).map(time).collect();
    times.sort();
    times
}
