//! Networks, endpoints and publications as they come, change and go, seen by the command line and by those who use them.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
};

use netd_tests::lab::{
    NetdOptions, Offloads, Outcome,
    traffic::{IMPATIENCE, PATIENCE},
};
use serde_json::{Value, json};

use crate::{
    says::{self, inspected, names, text},
    town::{CLIENT, FRONT, HOST, INTERNET, Town, wait_until},
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
    assert_eq!(enters(&format!("curl -sS --max-time 10 http://{INTERNET}/")).ok(), format!("internet sees {HOST}\n"));
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
fn ports_open_and_close_while_the_container_runs() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let servers = (web.serve_http(80), web.echo_tcp(7), web.echo_udp(7), web.serve_bulk(9000));
    let url = format!("http://{FRONT}:8080/");
    assert!(town.client.asks_tcp(&format!("{FRONT}:8080"), IMPATIENCE).is_err());

    town.netd.run(["publish", "web", "8080:80", "8007:7", "8007:7/udp", "9000:9000"]).ok();

    assert_eq!(town.client.curl(&url).ok(), format!("web sees {CLIENT}\n"));
    assert_eq!(town.client.asks_udp(&format!("{FRONT}:8007"), 1, 64, PATIENCE), 1);
    let shown = town.netd.say("port web").ok();
    assert!(["8080", "8007", "9000"].iter().all(|port| shown.contains(port)), "{shown}");
    assert!(town.netd.say("port web 80").ok().contains(":8080"));

    town.netd.run(["unpublish", "web", "8080:80", "8007:7/udp"]).ok();

    assert!(town.client.asks_tcp(&format!("{FRONT}:8080"), IMPATIENCE).is_err());
    assert_eq!(town.client.asks_udp(&format!("{FRONT}:8007"), 1, 64, IMPATIENCE), 0);
    town.client.asks_tcp(&format!("{FRONT}:8007"), PATIENCE).expect("the others stay");
    town.client.transfers(&format!("{FRONT}:9000"), 100_000);
    let ports = inspected(&town.netd, "inspect web")["ports"].to_string();
    assert!(!ports.contains("8080") && ports.contains("9000"), "{ports}");
    drop(servers);
}

#[test]
fn a_client_that_keeps_sending_to_a_port_is_heard_no_more_once_it_is_closed() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7/udp"]);
    let _web = web.echo_udp(7);
    let pinging = town.client.pings_udp(&format!("{FRONT}:8007"), 50);
    let deadline = std::time::Instant::now() + PATIENCE;
    while pinging.answered() < 5 {
        assert!(std::time::Instant::now() < deadline, "the open port answers");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }

    town.netd.run(["unpublish", "web", "8007:7/udp"]).ok();

    // What is on its way yet has arrived after this.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let answered = pinging.answered();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(pinging.answered(), answered);
    assert!(town.netd.json("flows -f port=8007").as_array().is_some_and(Vec::is_empty));
    pinging.finish();
}

#[test]
fn without_a_cgroup_a_published_port_is_held_on_the_host_until_it_is_given_back() {
    let town = Town::with(Offloads::On, NetdOptions::default().arguments(["--cgroup", "none"]));
    town.network("blue");
    town.container("web", "blue", &["8080:80"]);
    let bind = || town.host.enter(|| TcpListener::bind(("0.0.0.0", 8080)));

    assert_eq!(bind().expect_err("the port is published").kind(), ErrorKind::AddrInUse);

    town.netd.say("unpublish web 8080:80").ok();
    bind().expect("the port is free again");
}

#[test]
fn a_port_without_a_number_on_the_host_gets_a_free_one_and_a_range_is_a_range() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["80", "8100-8102:7-9"]);
    let servers = (web.serve_http(80), web.echo_tcp(7), web.echo_tcp(9));

    let shown = town.netd.say("port web 80").ok();
    let port = shown.lines().find_map(|line| line.trim().strip_prefix("0.0.0.0:")).expect("it is published by IPv4");

    assert!(town.client.curl(&format!("http://{FRONT}:{port}/")).succeeded());
    town.client.asks_tcp(&format!("{FRONT}:8100"), PATIENCE).expect("the first of the range");
    town.client.asks_tcp(&format!("{FRONT}:8102"), PATIENCE).expect("the last of the range");
    drop(servers);
}

#[test]
fn a_command_runs_in_a_network_of_its_own() {
    let town = Town::new(Offloads::On);
    town.network("blue");

    let run = "run -d --name web --network blue -p 8080:80 -- busybox httpd -f -p 80 -h /etc";
    town.netd.say(run).ok();

    let page = || town.client.curl(&format!("http://{FRONT}:8080/hostname"));
    wait_until("the web server answers", || page().succeeded());
    assert_eq!(town.netd.say("ps -q").ok(), "web\n");
    assert!(town.host.ip("netns list").contains("netd-web"));
    let inside = town.netd.say("exec web -- ip -o address show dev eth0").ok();
    assert!(inside.contains(&town.address("web")), "{inside}");
    town.netd.run(["exec", "web", "--", "sh", "-c", "exit 9"]).exits(9);

    town.netd.say("rm web").refused(["web"]);
    assert!(page().succeeded(), "what is refused changes nothing");
    town.netd.say("rm -f web").ok();

    assert_eq!(names(&town.netd.json("ps")), [""; 0]);
    assert!(!town.host.ip("netns list").contains("netd-web"));
    assert!(!town.host.path("/run/netd/logs/web.log").exists());
    assert!(!page().succeeded());
}

#[test]
fn a_command_in_the_foreground_tells_its_own_status() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    town.container("taken", "blue", &[]);
    let before = town.host.snapshot();
    let run = |words: &[&str]| town.netd.run(["run", "--rm", "--network", "blue", "--"].iter().chain(words));

    assert_eq!(run(&["sh", "-c", "echo here; echo there >&2"]).ok(), "here\n");
    run(&["sh", "-c", "exit 7"]).exits(7);
    run(&["sh", "-c", "kill -9 $$"]).exits(137);
    names_the_thing(run(&["/no/such/command"]).exits(127), "/no/such/command");
    names_the_thing(run(&["/etc/passwd"]).exits(126), "/etc/passwd");
    names_the_thing(town.netd.say("run --network nowhere -- true").exits(125), "nowhere");
    names_the_thing(town.netd.say("run --name taken --network blue -- true").exits(125), "taken");
    names_the_thing(town.netd.say("exec nobody -- true").exits(125), "nobody");

    assert_eq!(names(&town.netd.json("ps")), ["taken"]);
    town.host.assert_as_in(&before);
}

#[test]
fn an_interrupted_command_is_taken_away_with_its_network() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let mut running = town.netd.spawn(["run", "--rm", "--name", "job", "--network", "blue", "--", "sleep", "1000"]);
    wait_until("the command is listed", || names(&town.netd.json("ps")) == ["job"]);
    assert!(running.ended().is_none());

    running.signal(nix::sys::signal::Signal::SIGTERM);

    running.wait().exits(128 + 15);
    assert_eq!(names(&town.netd.json("ps")), [""; 0]);
    assert!(!town.host.ip("netns list").contains("netd-job"));
}

#[test]
fn a_command_killed_before_it_begins_leaves_nothing() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let before = town.host.snapshot();

    // So many ports that there is time between the process and its network. Where the command has begun all the same, once more.
    let killed = (0..20).map(|_| run_and_kill(&town)).find(|outcome| outcome.code() == 125);

    let killed = killed.expect("one of twenty is killed before it begins");
    names_the_thing(&killed, "the process that was to become the command is gone");
    assert_eq!(names(&town.netd.json("ps")), [""; 0]);
    town.host.assert_as_in_but_for(&before, &["mount"]);
}

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
        app.run(["curl", "-sS", "--max-time", "10", "--local-port", own, &url]).ok();
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
    assert_eq!(web.curl("http://203.0.113.130/").ok(), "late sees 203.0.113.129\n");
    server.assert_seen_only("203.0.113.129");
    town.lab.assert_no_checksum_errors();
}

/// Kills a command's process as soon as there is one; takes away what a command that has begun leaves.
fn run_and_kill(town: &Town) -> Outcome {
    let words = "run --name job --network blue -p 20000-20999:20000-20999 -- sleep 1000";
    let running = town.netd.spawn(words.split(' '));
    let parent = running.id_inside().to_string();
    let child = || town.host.run(["cat", &format!("/proc/{parent}/task/{parent}/children")]).stdout;
    wait_until("a process waits for its network", || !child().trim().is_empty());
    town.host.run(["kill", "-9", child().trim()]).ok();
    let outcome = running.wait();
    if outcome.code() != 125 {
        town.netd.say("rm -f job").ok();
    }
    outcome
}

#[track_caller]
fn names_the_thing(outcome: &Outcome, thing: &str) {
    assert!(outcome.stderr.contains(thing), "{outcome} but should name {thing}");
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
