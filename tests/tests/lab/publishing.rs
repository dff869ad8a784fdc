//! Published ports: ranges, and who reaches them from where.

use std::time::{Duration, Instant};

use netd_tests::lab::{
    Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};
use serde_json::json;

use crate::{
    says::inspected,
    town::{CLIENT, FRONT, Town},
};

#[test]
fn ten_thousand_ports_in_one_range_are_one_command_and_one_line() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let listed = |town: &Town| {
        let begin = Instant::now();
        let listing = town.netd.json("ps");
        (begin.elapsed(), listing)
    };
    let (before, _) = (0..3).map(|_| listed(&town)).min_by_key(|(took, _)| *took).expect("three listings");

    let begin = Instant::now();
    town.netd.say("publish web 8000-17999:20000-29999").ok();
    let took = begin.elapsed();

    assert!(took < Duration::from_millis(100), "publishing took {took:?}");
    let (after, listing) = (0..3).map(|_| listed(&town)).min_by_key(|(took, _)| *took).expect("three listings");
    assert!(after < before + Duration::from_millis(10), "`ps` takes {after:?}, and took {before:?}");
    let ports = &listing[0]["ports"];
    assert_eq!(ports.as_array().map(Vec::len), Some(1), "{ports}");
    assert_eq!(
        (&ports[0]["host_port"], &ports[0]["port"], &ports[0]["count"]),
        (&json!(8000), &json!(20000), &json!(10_000))
    );
    assert_eq!(town.netd.say("port web").ok(), "20000-29999/tcp -> 0.0.0.0:8000-17999\n");
    assert_eq!(town.netd.say("port web 20007").ok(), "0.0.0.0:8007\n");
    for (outside, inside) in [(8000, 20_000), (12_345, 24_345), (17_999, 29_999)] {
        let server = web.echo_tcp(inside);
        town.client.asks_tcp(&format!("{FRONT}:{outside}"), PATIENCE).expect("every port of the range is published");
        server.assert_seen_only(CLIENT);
    }
    for outside in [7999, 18_000] {
        assert!(town.client.asks_tcp(&format!("{FRONT}:{outside}"), IMPATIENCE).is_err(), "{outside} is outside of it");
    }

    town.netd.say("unpublish web 8000-17999:20000-29999").ok();
    assert_eq!(inspected(&town.netd, "inspect web")["ports"], json!([]));
    let _server = web.echo_tcp(20_000);
    assert!(town.client.asks_tcp(&format!("{FRONT}:8000"), IMPATIENCE).is_err(), "it is closed again");
}
