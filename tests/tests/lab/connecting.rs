//! Containers that join and leave networks while they live, the way out that follows, labels, filters and pruning.

use netd_tests::lab::{Container, Offloads, traffic::PATIENCE};
use serde_json::json;

use crate::{
    says::{self, inspected, names, text},
    town::{CLIENT, FRONT, HOST, INTERNET, Town, wait_until},
};

fn two_networks() -> Town {
    let town = Town::new(Offloads::On);
    town.netd.say("network create blue --subnet 10.200.1.0/24").ok();
    town.netd.say("network create green --subnet 10.200.2.0/24").ok();
    town
}

/// Device and next hop of every default route.
fn default_routes(container: &Container) -> Vec<String> {
    let routes = container.ip("route show default");
    routes.lines().map(|line| line.replace(" proto static", "").trim().to_owned()).collect()
}

#[test]
fn a_container_joins_and_leaves_a_network_while_it_lives() {
    let town = two_networks();
    let [web, app, right] = [("web", "blue"), ("app", "blue"), ("right", "green")]
        .map(|(name, network)| town.container(name, network, &[]));
    let before = town.host.snapshot();
    let _web = web.echo_udp(7);
    let steady = app.pings_udp(&format!("{}:7", town.address("web")), 20);

    let told = town.netd.say("network connect --ip 10.200.2.77 --alias db --alias sql green web").ok();

    assert_eq!(told, "eth1 10.200.2.77 green\n");
    let place = &inspected(&town.netd, "inspect web")["networks"][1];
    assert_eq!((text(place, "/ip"), text(place, "/ifname")), ("10.200.2.77".to_owned(), "eth1".to_owned()));
    assert_eq!(place["aliases"], json!(["db", "sql"]));
    assert_eq!(right.pings("10.200.2.77", 1, PATIENCE), 1);
    assert_eq!(web.pings(&town.address("right"), 1, PATIENCE), 1);
    assert_eq!(default_routes(&web), ["default via 10.200.1.1 dev eth0"]);
    let networks = town.netd.run(["network", "ls", "-q", "-f", "endpoint=web"]).ok();
    assert_eq!(networks, "blue\ngreen\n");

    town.netd.say("network connect green web").refused(["web", "green", "already"]);
    town.netd.say("network connect nowhere web").refused(["nowhere"]);
    town.netd.say("network connect green nobody").refused(["nobody"]);
    town.netd.say("network connect --ip 10.9.9.9 green app").refused(["10.9.9.9", "10.200.2.0/24"]);
    town.netd.say("network rm green").refused(["green", "web"]);

    town.netd.say("network disconnect green web").ok();

    town.netd.say("network disconnect green web").refused(["web", "green"]);
    assert_eq!(web.ifindex("eth1"), None);
    assert_eq!(inspected(&town.netd, "inspect web")["networks"].as_array().map(Vec::len), Some(1));
    town.host.assert_as_in(&before);
    // The network that stays goes on.
    steady.finish().assert_none_lost();
    assert_eq!(town.netd.say("network connect green web").ok().split(' ').next(), Some("eth1"));
}

#[test]
fn the_way_out_and_the_published_ports_follow_the_priority() {
    let town = two_networks();
    let _internet = town.internet.serve_http(80);
    let web = town.container("web", "blue", &["8080:80"]);
    let _web = web.serve_http(80);
    let reaches_and_is_reached = || {
        assert_eq!(web.curl(&format!("http://{INTERNET}/")).ok(), format!("internet sees {HOST}\n"));
        assert_eq!(town.client.curl(&format!("http://{FRONT}:8080/")).ok(), format!("web sees {CLIENT}\n"));
    };
    reaches_and_is_reached();

    town.netd.say("network connect --gw-priority 5 green web").ok();
    assert_eq!(default_routes(&web), ["default via 10.200.2.1 dev eth1"]);
    reaches_and_is_reached();

    town.netd.say("network disconnect green web").ok();
    assert_eq!(default_routes(&web), ["default via 10.200.1.1 dev eth0"]);
    reaches_and_is_reached();

    // Below what it has: nothing moves. Then its network goes, and its way out with it.
    town.netd.say("network connect --gw-priority -1 green web").ok();
    assert_eq!(default_routes(&web), ["default via 10.200.1.1 dev eth0"]);
    town.netd.say("network disconnect blue web").ok();
    assert_eq!(default_routes(&web), ["default via 10.200.2.1 dev eth1"]);
    reaches_and_is_reached();

    town.netd.say("network disconnect green web").ok();
    assert_eq!(default_routes(&web), [""; 0]);
    assert!(town.client.asks_tcp(&format!("{FRONT}:8080"), netd_tests::lab::traffic::IMPATIENCE).is_err());
    town.netd.say("network connect blue web").ok();
    reaches_and_is_reached();
    town.lab.assert_no_checksum_errors();
}

#[test]
fn the_way_out_by_ipv6_follows_the_priority_too() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create blue --ipv6").ok();
    town.netd.say("network create green --ipv6").ok();
    town.network("probe");
    let probe = text(&inspected(&town.netd, "network inspect probe"), "/bridge");
    let web = town.container("web", "blue", &[]);
    let default = || {
        let routes = web.ip("-6 route show default");
        routes.lines().map(|line| line.split(" dev ").nth(1).unwrap_or(line)[..4].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(default(), ["eth0"]);

    for (words, device) in [
        ("network connect --gw-priority 5 green web", "eth1"),
        ("network disconnect green web", "eth0"),
        ("network connect --gw-priority 5 green web", "eth1"),
        ("network disconnect blue web", "eth1"),
    ] {
        town.netd.say(words).ok();
        assert_eq!(default(), [device], "{words}");
        // When it has looked at the host again the daemon has found that what it made is what it wants.
        town.host.ip(&format!("link del {probe}"));
        wait_until("the daemon looks again", || town.host.ifindex(&probe).is_some());
        assert_eq!(default(), [device], "{words}");
    }
    let repairs = town.netd.say("events --until 0s -f type=repair").ok();
    // A look that the deletion comes into the middle of may fail at the bridge, and nowhere else.
    let others_fail = repairs.lines().any(|line| line.contains("fail") && !line.contains(&probe));
    assert!(!repairs.contains("web") && !others_fail && repairs.contains(&probe), "{repairs}");
}

#[test]
fn an_attach_says_aliases_and_priorities_and_a_restart_keeps_them() {
    let mut town = two_networks();
    let web = town.host.container("web");
    let specs = ["blue:alias=db", "green:gw-priority=7,alias=db,alias=cache"];
    let words = ["attach", "web", "--netns", &web.netns(), "--label", "tier=front", "--label", "canary"];
    town.netd.run(words.into_iter().chain(specs.iter().flat_map(|spec| ["--network", *spec]))).ok();
    let told = inspected(&town.netd, "inspect web");
    assert_eq!(told["labels"], json!({"tier": "front", "canary": ""}));
    assert_eq!(told["networks"][1]["gw_priority"], json!(7));
    assert_eq!(told["networks"][1]["aliases"], json!(["db", "cache"]));
    assert_eq!(default_routes(&web), ["default via 10.200.2.1 dev eth1"]);

    town.netd.kill();
    town.netd.start();

    assert_eq!(inspected(&town.netd, "inspect web"), told);
    assert_eq!(default_routes(&web), ["default via 10.200.2.1 dev eth1"]);
    for wrong in ["blue:gw-priority=high", "blue:alias=a/b", "blue:gw-priority=1,gw-priority=2"] {
        let free = town.host.container("free");
        let outcome = town.netd.run(["attach", "free", "--netns", &free.netns(), "--network", wrong]);
        outcome.refused([]);
        free.delete();
    }
}

#[test]
fn listings_are_filtered_by_what_things_are() {
    let town = two_networks();
    town.netd.say("network create red --label tier=front --label canary").ok();
    let web = town.host.container("web");
    town.netd.run(["attach", "web", "--netns", &web.netns(), "--network", "red", "--label", "tier=front"]).ok();
    town.container("app", "blue", &[]);

    let cases = [
        ("network ls -q -f label=tier", "red\n"),
        ("network ls -q -f label=tier=front -f label=canary", "red\n"),
        ("network ls -q -f label=tier=back", ""),
        ("network ls -q -f name=blue -f name=red", "blue\nred\n"),
        ("network ls -q -f driver=bridge -f name=e", "blue\ngreen\nred\n"),
        ("network ls -q -f driver=overlay", ""),
        ("ps -q -f label=tier=front", "web\n"),
        ("ps -q -f network=blue", "app\n"),
        ("ps -q -f network=blue -f network=red", "app\nweb\n"),
        ("ps -q -f name=w -f network=blue", ""),
        ("ps -q -f state=attached", "app\nweb\n"),
    ];
    for (words, expected) in cases {
        assert_eq!(town.netd.say(words).ok(), expected, "{words}");
    }
    for words in ["network ls -f colour=red", "ps -f colour=red", "network prune --filter name=red"] {
        assert!(town.netd.say(words).exits(2).stderr.contains("filter by"), "{words}");
    }
    let impossible = [
        ("network ls -f driver=brigde", "bridge, overlay or vxlan"),
        ("network ls -f internal=maybe", "true or false"),
        ("ps -f state=up", "attached, running, exited or gone"),
        ("node ls -f state=up", "ready, drained or down"),
        ("drops -f hook=from_nowhere", "there is no hook from_nowhere"),
        ("drops -f reason=nothing", "there is no reason nothing"),
        ("events -f type=nework", "repair, warning or lost"),
        ("events -f action=atach", "an action of an event"),
    ];
    for (words, told) in impossible {
        assert!(town.netd.say(words).exits(2).stderr.contains(told), "{words}: no empty list, it is a slip");
    }
    assert_eq!(town.netd.say("drops -q -f hook=from_l3_uplink").ok(), "", "a hook that nothing here needs is one too");
}

#[test]
fn pruning_takes_the_networks_that_nobody_is_in() {
    let town = two_networks();
    town.netd.say("network create red --label keep").ok();
    let default = town.host.container("default");
    town.netd.run(["attach", "default", "--netns", &default.netns()]).ok();
    town.netd.say("detach default").ok();
    town.container("web", "blue", &[]);

    assert_eq!(town.netd.say("network prune --filter label=keep").ok(), "red\n");
    assert_eq!(town.netd.say("network prune").ok(), "green\n");
    assert_eq!(town.netd.say("network prune -f").ok(), "");

    assert_eq!(names(&town.netd.json("network ls")), ["blue", "bridge"]);
    assert_eq!(says::subnet_of(&town.netd, "blue"), "10.200.1.0/24");
}

#[test]
fn what_a_user_gives_is_shown_as_far_as_a_line_shows_it() {
    let town = two_networks();
    let long = "n".repeat(5000);
    let outcome = town.netd.run(["network", "create", &long]);
    outcome.refused(["nnnn…", "63 at most"]);
    assert!(outcome.stderr.len() < 300, "{outcome}");
    town.netd.run(["network", "create", "two\nlines"]).refused(["two\\nlines"]);
    let free = town.host.container("free");
    for name in ["all", "default", "lo", "eth%d", "a:b"] {
        let spec = format!("blue:ifname={name}");
        let attach = ["attach", "free", "--netns", &free.netns(), "--network", &spec];
        town.netd.run(attach).refused([name, "not a name that an interface can have"]);
    }
}
