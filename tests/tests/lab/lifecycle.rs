//! Networks and endpoints as they come, change and go, seen by the command line and by those who use them.

use std::net::Ipv4Addr;

use netd_tests::lab::{
    Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};
use serde_json::{Value, json};

use crate::{
    says::{self, inspected, names, text},
    town::{FRONT, HOST, INTERNET, Town, wait_until},
};

#[test]
fn a_network_comes_is_shown_and_goes() {
    let town = Town::new(Offloads::On);
    let before = town.host.snapshot();

    town.netd.say("network create blue --subnet 10.200.1.0/24 --ip-range 10.200.1.128/25 --label tier=front").ok();

    let blue = inspected(&town.netd, "network inspect blue");
    assert_eq!(text(&blue, "/name"), "blue");
    assert_eq!(text(&blue, "/driver"), "bridge");
    assert!(!text(&blue, "/id").is_empty());
    let subnet = json!({"subnet": "10.200.1.0/24", "gateway": "10.200.1.1", "ip_range": "10.200.1.128/25"});
    for (field, value) in subnet.as_object().expect("it is one") {
        assert_eq!(&blue["subnets"][0][field], value, "{blue}");
    }
    assert_eq!(names(&town.netd.json("network ls")), ["blue"]);
    assert_eq!(town.netd.say("network ls -q").ok(), "blue\n");
    assert!(town.netd.say("network ls").ok().lines().any(|line| line.starts_with("blue ")));
    town.container("web", "blue", &[]);
    let address: Ipv4Addr = town.address("web").parse().expect("an address");
    assert!(address.octets()[3] >= 128, "{address} is of the range for automatic addresses");

    town.netd.say("detach web").ok();
    town.host.existing_container("web").delete();
    town.netd.say("network rm blue").ok();

    assert_eq!(names(&town.netd.json("network ls")), [""; 0]);
    town.host.assert_as_in_but_for(&before, &["mount"]);
}

#[test]
fn automatic_subnets_avoid_each_other_and_what_the_host_routes() {
    let town = Town::before_netd();
    town.host.ip("route add 10.176.0.0/16 via 192.0.2.2");
    let mut town = town;
    town.netd.start();

    let subnets = ["blue", "green", "red"].map(|name| {
        town.network(name);
        says::subnet_of(&town.netd, name)
    });

    for subnet in &subnets {
        let (address, prefix) = subnet.split_once('/').expect("a subnet has a prefix length");
        let [first, second, ..] = address.parse::<Ipv4Addr>().expect("an address").octets();
        assert_eq!((prefix, first), ("24", 10));
        assert!((177..192).contains(&second), "{subnet} is in 10.176.0.0/12 and not where the host routes");
    }
    assert!(subnets[0] != subnets[1] && subnets[1] != subnets[2] && subnets[0] != subnets[2], "{subnets:?}");
}

#[test]
fn a_container_is_attached_by_path() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8080:80"]);

    let endpoint = inspected(&town.netd, "inspect web");
    let address = text(&endpoint, "/networks/0/ip");
    assert_eq!(text(&endpoint, "/name"), "web");
    assert_eq!(text(&endpoint, "/netns"), "/run/netns/web");
    assert_eq!(text(&endpoint, "/networks/0/network"), "blue");
    assert_eq!(text(&endpoint, "/networks/0/ifname"), "eth0");
    assert!(endpoint["networks"][0].get("ip6").is_some(), "{endpoint}");
    assert!(!text(&endpoint, "/id").is_empty());
    let ports = endpoint["ports"].as_array().expect("an array");
    let ipv4 = ports.iter().find(|port| port["host_ip"] == "0.0.0.0").expect("it is published by IPv4");
    assert_eq!((&ipv4["host_port"], &ipv4["port"], &ipv4["proto"]), (&json!(8080), &json!(80), &json!("tcp")));

    let link: Value = serde_json::from_str(&web.ip("-j address show dev eth0")).expect("`ip -j` prints JSON");
    assert_eq!(link[0]["address"], endpoint["networks"][0]["mac"]);
    assert_eq!(link[0]["addr_info"][0]["local"], json!(address));
    let gateway = says::gateway_of(&town.netd, "blue");
    assert!(web.ip("route show default").contains(&format!("via {gateway} dev eth0")));
}

#[test]
fn a_container_is_attached_by_process_id() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let process = town.host.spawn(["unshare", "--net", "sleep", "1000"]);
    let pid = process.id_inside().to_string();
    let enters = |words: &str| town.host.run(["nsenter", "--net", "-t", &pid].into_iter().chain(words.split(' ')));
    wait_until("the process has a network of its own", || enters("ip link show dev eth0").code() == 1);

    town.netd.run(["attach", "web", "--pid", &pid, "--network", "blue"]).ok();

    let _internet = town.internet.serve_http(80);
    enters("ip link set lo up").ok();
    assert_eq!(enters(&format!("curl -sS --max-time 60 http://{INTERNET}/")).ok(), format!("internet sees {HOST}\n"));
    assert_eq!(town.host.pings(&town.address("web"), 1, PATIENCE), 1);
}

#[test]
fn a_container_joins_two_networks() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    town.network("green");
    let [left, right] =
        [("left", "blue"), ("right", "green")].map(|(name, network)| town.container(name, network, &[]));
    let both = town.host.container("both");

    town.netd.say("attach both --netns /run/netns/both --network blue --network green").ok();

    let endpoint = inspected(&town.netd, "inspect both");
    let [in_blue, in_green] = ["/networks/0/ip", "/networks/1/ip"].map(|pointer| text(&endpoint, pointer));
    assert_eq!(text(&endpoint, "/networks/1/ifname"), "eth1");
    assert_eq!(both.pings(&town.address("left"), 1, PATIENCE), 1);
    assert_eq!(both.pings(&town.address("right"), 1, PATIENCE), 1);
    assert_eq!(left.pings(&in_blue, 1, PATIENCE), 1);
    assert_eq!(right.pings(&in_green, 1, PATIENCE), 1);
    assert_eq!(left.pings(&town.address("right"), 1, IMPATIENCE), 0);
}

#[test]
fn addresses_and_names_are_what_was_asked_for() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create blue --subnet 10.200.1.0/24").ok();
    let web = town.host.container("web");

    let spec = "blue:ip=10.200.1.77,mac=02:00:00:00:00:77,ifname=net7";
    town.netd.run(["attach", "web", "--netns", &web.netns(), "--network", spec]).ok();

    let endpoint = inspected(&town.netd, "inspect web");
    assert_eq!(text(&endpoint, "/networks/0/ip"), "10.200.1.77");
    assert_eq!(text(&endpoint, "/networks/0/mac"), "02:00:00:00:00:77");
    assert!(web.ip("-o address show dev net7").contains("10.200.1.77/24"));
    assert!(web.ip("-o link show dev net7").contains("02:00:00:00:00:77"));
}

#[test]
fn without_a_network_an_endpoint_joins_the_one_called_bridge() {
    let town = Town::new(Offloads::On);
    let web = town.host.container("web");

    town.netd.run(["attach", "web", "--netns", &web.netns()]).ok();

    assert_eq!(text(&inspected(&town.netd, "inspect web"), "/networks/0/network"), "bridge");
    assert_eq!(names(&town.netd.json("network ls")), ["bridge"]);
    assert_eq!(web.pings(INTERNET, 1, PATIENCE), 1);
}

#[test]
fn a_detached_container_has_no_network_and_the_others_go_on() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let before = town.host.snapshot();
    let [web, app, third] = ["web", "app", "third"].map(|name| town.host.container(name));
    town.netd.run(["attach", "web", "--netns", &web.netns(), "--network", "blue", "-p", "8080:80"]).ok();
    town.netd.run(["attach", "app", "--netns", &app.netns(), "--network", "blue"]).ok();
    let _web = web.serve_http(80);
    assert!(town.client.curl(&format!("http://{FRONT}:8080/")).succeeded());

    town.netd.say("detach web").ok();

    assert_eq!(web.ip("-o link show").lines().count(), 1, "only lo is left");
    assert_eq!(names(&town.netd.json("ps")), ["app"]);
    assert!(town.client.asks_tcp(&format!("{FRONT}:8080"), IMPATIENCE).is_err());
    assert_eq!(app.pings(INTERNET, 1, PATIENCE), 1);
    town.netd.run(["attach", "third", "--netns", &third.netns(), "--network", "blue", "-p", "8080:80"]).ok();
    town.netd.say("detach app").ok();
    town.netd.say("detach third").ok();
    [web, app, third].into_iter().for_each(netd_tests::lab::Container::delete);
    town.host.assert_as_in_but_for(&before, &["mount"]);
}

#[test]
fn an_endpoint_whose_namespace_is_gone_can_be_detached() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let before = town.host.snapshot();

    town.container("web", "blue", &["8080:80"]).delete();

    wait_until("the veth goes with the namespace", || names_of_veths(&town) == names_in(&before));
    assert_eq!(names(&town.netd.json("ps")), ["web"]);
    town.netd.say("detach web").ok();
    assert_eq!(names(&town.netd.json("ps")), [""; 0]);
    town.container("web", "blue", &["8080:80"]);
}

#[test]
fn an_uplink_that_appears_later_counts_too() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8080:80"]);
    let _web = web.serve_http(80);

    let late = town.lab.host("late");
    town.lab.wire(Offloads::Off).from(&town.host, "eth2", "203.0.113.129/25").to(&late, "eth0", "203.0.113.130/25");

    wait_until("the port is published there", || late.curl("http://203.0.113.129:8080/").succeeded());
    let server = late.serve_http(80);
    wait_until("containers leave by it", || web.curl("http://203.0.113.130/").stdout == "late sees 203.0.113.129\n");
    server.assert_seen_only("203.0.113.129");
    town.lab.assert_no_checksum_errors();
}

fn names_of_veths(town: &Town) -> Vec<String> {
    names_in(&town.host.snapshot())
}

fn names_in(snapshot: &netd_tests::lab::Snapshot) -> Vec<String> {
    snapshot
        .lines()
        .filter(|line| line.starts_with("link ") && line.contains(".ifname = "))
        .map(str::to_owned)
        .collect()
}
