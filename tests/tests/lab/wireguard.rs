//! What peers of WireGuard may have, on kernels that have it.

use netd_tests::lab::Offloads;

use crate::{
    says,
    town::{Town, wait_until},
};

/// Thirty-two bytes that are nobody's key.
const PEER: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

#[test]
#[ignore = "takes a kernel with WireGuard: `cargo xtask vm` runs it in a guest"]
fn networks_keep_clear_of_what_a_peer_of_wireguard_may_have_and_a_claim_that_comes_later_is_told_of() {
    let town = Town::new(Offloads::On);
    let allow = |nets: &str| {
        town.host.run(["wg", "set", "wg0", "peer", PEER, "allowed-ips", nets]).ok();
    };
    let wants = ["10.176.0.0/24", "10.176.1.0/24"];
    town.host.ip("link add wg0 type wireguard");
    allow(&format!("0.0.0.0/0,{}", wants[0]));

    town.netd.say("network create blue").ok();
    assert_eq!(says::subnet_of(&town.netd, "blue"), wants[1], "no route leads there, and still it is somebody's");
    town.netd.say("network create red --subnet 10.176.0.128/25").refused(["10.176.0.0/24", "WireGuard device wg0"]);

    assert_eq!(town.netd.json("status")["warnings"], serde_json::json!([]));
    allow(&wants.join(","));
    let warnings = || town.netd.json("status")["warnings"].to_string();
    wait_until("the claim is told of", || warnings().contains("network blue (10.176.1.0/24) overlaps 10.176.1.0/24"));
    assert!(warnings().contains("wg0"), "{}", warnings());
}
