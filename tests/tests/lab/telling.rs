//! What the host's state is told as: flows, drops, what is attached where.

use netd_tests::lab::{Offloads, traffic::PATIENCE};
use serde_json::json;

use crate::{
    says::{self, text},
    town::{CLIENT, FRONT, HOST, INTERNET, Town},
};

#[test]
fn flows_are_shown_with_both_of_their_sides() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7"]);
    let _web = web.echo_tcp(7);
    let _internet = town.internet.echo_udp(7);
    assert_eq!(web.asks_udp(&format!("{INTERNET}:7"), 1, 64, PATIENCE), 1);
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("the published port answers");

    let address = town.address("web");
    assert!(says::shows_flow(&town.netd, &address, &format!("{INTERNET}:7")), "{}", town.netd.json("flows"));
    assert!(says::shows_flow(&town.netd, CLIENT, &format!("{FRONT}:8007")), "{}", town.netd.json("flows"));
    assert!(town.netd.say("flows").ok().contains(INTERNET));
}

#[test]
fn a_flow_that_is_ended_is_gone_and_what_was_dropped_is_told_by_its_reason() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let _internet = town.internet.echo_udp(7);
    assert_eq!(web.asks_udp(&format!("{INTERNET}:7"), 1, 64, PATIENCE), 1);
    let address = town.address("web");
    assert!(says::shows_flow(&town.netd, &address, &format!("{INTERNET}:7")));

    town.netd.say("flows rm").exits(2);
    let ended = town.netd.say("flows rm container=web protocol=udp").ok();

    assert_eq!(ended, "ended 1 flow\n");
    assert!(!says::shows_flow(&town.netd, &address, &format!("{INTERNET}:7")), "{}", town.netd.json("flows"));
    // A stray packet without a flow: the client knows a way to the container, netd lets nobody use it.
    town.client.ip(&format!("route add {address}/32 via {FRONT}"));
    assert_eq!(town.client.pings(&address, 1, std::time::Duration::from_secs(1)), 0);
    let drops = town.netd.json("drops");
    let told = drops.as_array().expect("an array").iter();
    assert!(told.clone().any(|d| d["hook"] == "to_container" && d["reason"] == "not_published"), "{drops}");
    assert_eq!(town.netd.say("drops -q -f hook=to_container -f reason=not_published").ok(), "not_published\n");
    assert_eq!(town.netd.say("drops -q -f hook=from_overlay").ok(), "");
    town.netd.say("drops -f colour=red").exits(2);
}

#[test]
fn a_source_port_that_a_socket_of_the_host_has_stays_the_hosts() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let _internet = (town.internet.serve_http(80), town.internet.serve_http(81));
    let _hosts = town.host.serve_http(5001);
    let sent_from = |own: &str, port: &str| {
        let url = format!("http://{INTERNET}:{port}/");
        app.run(["curl", "-sS", "--max-time", "60", "--local-port", own, &url]).ok();
        let flows = town.netd.run(["flows", "-f", &format!("port={port}"), "--format", "json"]).json();
        text(&flows, "/0/translated/src")
    };

    assert_eq!(sent_from("5002", "80"), format!("{HOST}:5002"));
    assert_ne!(sent_from("5001", "81"), format!("{HOST}:5001"));
}

#[test]
fn status_tells_what_is_attached_where() {
    let town = Town::new(Offloads::On);

    let status = town.netd.json("status");

    let mode = says::attach_mode(&town.netd);
    assert!(["tcx", "clsact"].contains(&mode.as_str()), "{status}");
    let programs = status["programs"].as_array().expect("an array");
    let named: Vec<_> = programs.iter().map(|program| text(program, "/name")).collect();
    for program in ["from_container", "to_container", "from_uplink", "to_uplink"] {
        assert!(named.iter().any(|name| name == program), "{program} is one of {named:?}");
    }
    let uplink = &programs[named.iter().position(|name| name == "from_uplink").expect("just seen")];
    assert_eq!(uplink["devices"], json!(["eth0", "eth1"]));
    assert!(says::number(uplink, "/verified_instructions") > 0);
}
