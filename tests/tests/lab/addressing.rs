//! Addresses that do not collide: what the host uses is avoided, what comes later is told, and a network moves out of its way.

use std::fs;

use netd_tests::lab::{
    NetdOptions, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};

use crate::{
    promise::Vigil,
    says,
    town::{INTERNET, Town, wait_until},
};

#[test]
fn a_cloud_that_the_host_routes_is_avoided_and_one_that_comes_later_is_told_and_made_way_for() {
    let town = Town::before_netd();
    town.host.ip("route add 10.176.0.0/16 via 192.0.2.2");
    town.host.ip("route add 10.177.0.0/24 via 192.0.2.2 table 77");
    town.host.ip("rule add to 10.177.1.0/24 lookup main");
    let mut netd = town.netd;
    netd.start();
    netd.say("network create blue").ok();
    assert_eq!(
        says::subnet_of(&netd, "blue"),
        "10.177.2.0/24",
        "after what is routed, in any table, and what rules name"
    );
    let web = town.host.container("web");
    netd.run(["attach", "web", "--netns", &web.netns(), "--network", "blue"]).ok();
    assert_eq!(says::address_of(&netd, "web"), "10.177.2.2");
    let registry = town.internet.echo_tcp(7);
    town.internet.ip("address add 10.177.2.80/32 dev lo");

    // The company's cloud has this very range, and now the host has a way there.
    town.host.ip("route add 10.177.2.80/28 via 192.0.2.2");

    let vigil = Vigil::over(&netd);
    let line = "network blue (10.177.2.0/24) overlaps 10.177.2.80/28, which the host routes by eth0";
    wait_until("the status names both", || netd.json("status")["warnings"].to_string().contains(line));
    let warned = says::told(&netd, "type=warning");
    let told = warned.iter().find(|(_, message)| message.contains(line));
    vigil.assert_promise(told.unwrap_or_else(|| panic!("no event names both: {warned:?}")).0);

    let conflicts = || -> Vec<String> {
        let findings = netd.say("doctor").stdout;
        findings.lines().filter(|line| line.contains("WARNING  subnets")).map(str::to_owned).collect()
    };
    assert!(conflicts().iter().any(|found| found.contains(line)), "{:?}", netd.say("doctor").stdout);

    netd.say("network renumber blue").refused(["blue", "web", "--recreate"]);
    netd.say("network renumber blue --recreate").ok();

    assert_eq!(says::address_of(&netd, "web"), "10.177.3.2");
    assert!(web.ip("address show dev eth0").contains("10.177.3.2/24"));
    assert!(!web.ip("address show dev eth0").contains("10.177.2.2"));
    assert!(web.ip("route show default").contains("via 10.177.3.1"));
    for registry in ["10.177.2.80:7", &format!("{INTERNET}:7")] {
        web.asks_tcp(registry, PATIENCE).expect("the container reaches what the host reaches");
    }
    town.host.asks_tcp("10.177.2.80:7", PATIENCE).expect("the host reaches its cloud");
    drop(registry);
    assert_eq!(netd.json("status")["warnings"].to_string(), "[]");
    assert_eq!(conflicts(), Vec::<String>::new());
}

#[test]
fn the_subnets_of_resolvers_and_of_interfaces_are_avoided_and_default_routes_are_not() {
    let town = Town::before_netd();
    let mut netd = town.netd;
    let resolvers = town.host.path("/etc/resolv.conf");
    fs::remove_file(&resolvers).expect("the host has one");
    fs::write(&resolvers, "nameserver 10.176.0.53\n").expect("the host's own /etc can be written");
    town.host.ip("address add 10.176.1.7/24 dev eth1");
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        town.host.ip(&format!("route add {half} via 192.0.2.2"));
    }
    netd.start();

    netd.say("network create blue").ok();

    assert_eq!(says::subnet_of(&netd, "blue"), "10.176.2.0/24");
    netd.say("network create red --subnet 10.176.0.0/24").refused(["10.176.0.53", "resolver", "--force"]);
    netd.say("network create red --subnet 10.176.0.0/24 --force").ok();
    assert_eq!(says::subnet_of(&netd, "red"), "10.176.0.0/24");
    assert!(
        netd.json("status")["warnings"].to_string().contains("network red (10.176.0.0/24) overlaps 10.176.0.53/32")
    );
}

#[test]
fn addresses_of_the_host_that_lead_to_no_route_are_avoided_too() {
    let town = Town::before_netd();
    let mut netd = town.netd;
    town.host.ip("address add 10.176.0.1/32 dev lo");
    town.host.ip("link add spare0 type veth peer name spare1");
    town.host.ip("address add 10.176.1.7/24 dev spare0");
    assert!(!town.host.ip("route show table main").contains("10.176."), "nothing is routed there");
    netd.start();

    netd.say("network create blue").ok();

    assert_eq!(says::subnet_of(&netd, "blue"), "10.176.2.0/24");
    let taken = [("10.176.0.0/24", "10.176.0.1/32", "lo"), ("10.176.1.128/25", "10.176.1.0/24", "spare0")];
    for (subnet, with, device) in taken {
        let line = format!("overlaps {with}, where the host's {device} has an address");
        netd.say(&format!("network create red --subnet {subnet}")).refused([line.as_str(), "--force"]);
    }
    assert_eq!(netd.json("status")["warnings"].to_string(), "[]", "a network's own addresses are in nobody's way");

    town.host.ip("address add 10.176.2.77/32 dev lo");
    let line = "network blue (10.176.2.0/24) overlaps 10.176.2.77/32, where the host's lo has an address";
    wait_until("an address that comes later is told of", || netd.json("status")["warnings"].to_string().contains(line));
}

#[test]
fn a_network_moves_with_everybody_in_it_and_its_ports() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create blue --subnet 10.201.1.0/24 --subnet fd00:1::/64").ok();
    let web = town.container("web", "blue", &["8080:7"]);
    let app = town.container("app", "blue", &[]);
    let _server = web.echo_tcp(7);

    let said = town.netd.say("network renumber blue --subnet 10.202.0.0/16 --subnet fd00:2::/64 --recreate").ok();

    assert_eq!(said, "10.202.0.0/16 10.202.0.1\nfd00:2::/64 fd00:2::1\n");
    app.asks_tcp("10.202.0.2:7", PATIENCE).expect("a neighbour is at its new address");
    app.asks_tcp("[fd00:2::2]:7", PATIENCE).expect("by both families");
    town.client.asks_tcp(&format!("{}:8080", crate::town::FRONT), PATIENCE).expect("its port is where it was");
    assert!(app.asks_tcp("10.201.1.2:7", IMPATIENCE).is_err());
    town.netd.say("detach app").ok();
    town.netd.say("detach web").ok();
    town.netd.say("network renumber blue --subnet 10.203.0.0/24").ok();
    assert_eq!(says::subnet_of(&town.netd, "blue"), "10.203.0.0/24");
}

#[test]
fn what_is_configured_holds_and_what_nobody_knows_is_refused_with_its_line() {
    let town = Town::before_netd();
    let mut netd = town.netd;
    let write = |text: &str| fs::write(town.host.path("/etc/netd/netd.toml"), text).expect("the host has /etc/netd");
    write("[pools]\nipv4 = [{ base = \"172.30.0.0/23\", size = 24 }]\n\n[brige]\nmtu = 1400\n");
    netd.start_without_waiting();
    netd.wait().refused(["/etc/netd/netd.toml, line 4", "brige"]);

    write("[pools]\nipv4 = [{ base = \"172.30.0.0/23\", size = 24 }]\n\n[bridge]\nmtu = 1400\nipv6 = true\n");
    netd.start();

    netd.say("network create blue").ok();
    assert_eq!(says::subnet_of(&netd, "blue"), "172.30.0.0/24");
    let web = town.host.container("web");
    netd.run(["attach", "web", "--netns", &web.netns()]).ok();
    let bridge = says::inspected(&netd, "network inspect bridge");
    assert_eq!((says::text(&bridge, "/subnets/0/subnet").as_str(), &bridge["mtu"]), ("172.30.1.0/24", &1400.into()));
    assert!(says::text(&bridge, "/subnets/1/subnet").starts_with("fd"));
    netd.say("network create green").refused(["172.30.0.0/23", "network blue", "network bridge"]);
    netd.terminate();
    let elsewhere = town.host.netd_stopped(NetdOptions::default().arguments(["--config", "/run/none.toml"]));
    let mut elsewhere = elsewhere;
    elsewhere.start_without_waiting();
    elsewhere.wait().refused(["/run/none.toml"]);
}
