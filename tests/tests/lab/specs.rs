//! What a specification of a port comes to where none of the host is needed.

use netd_tests::lab::{Offloads, traffic::PATIENCE};

use crate::town::{FRONT, Town};

#[test]
fn a_port_of_the_host_that_is_asked_for_on_a_routed_network_is_ignored_with_a_warning() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create seen --subnet 10.77.0.0/24 --gateway-mode routed").ok();
    town.client.ip(&format!("route add 10.77.0.0/24 via {FRONT}"));
    let web = town.container("web", "seen", &[]);
    let _server = web.echo_tcp(80);

    let asked = town.netd.say("publish web 8080:80");

    asked.ok();
    assert_eq!(asked.stderr.lines().count(), 1, "{}", asked.stderr);
    for word in ["warning", "seen is routed", "8080", "10.77.0.2:80"] {
        assert!(asked.stderr.contains(word), "{word}: {}", asked.stderr);
    }
    town.client.asks_tcp("10.77.0.2:80", PATIENCE).expect("clients come to the container's own address");
    let refused = town.client.asks_tcp(&format!("{FRONT}:8080"), PATIENCE).expect_err("the host has no such port");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    let own = town.host.container("own");
    let attach = format!("attach own --netns {} --network seen -p 8081:80", own.netns());
    assert!(town.netd.say(&attach).stderr.contains("8081"), "`attach` says so too");
}
