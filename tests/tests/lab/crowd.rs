//! A host with more than most have, made, looked at, restarted and taken away, with the times. `NETD_CROWD=300,1000` in the
//! environment says how many networks and endpoints; without it there are fewer, as every run of the suite can afford.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use netd_tests::lab::{
    Container, Offloads,
    traffic::{IMPATIENCE, PATIENCE, Server},
};
use serde_json::{Value, json};

use crate::{
    says,
    town::{CLIENT, FRONT, INTERNET, Town, wait_until},
};

/// What a restart may take with 300 networks and 1,000 endpoints. A test tells it of the daemon's processor time alone: how long others
/// hold the processors meanwhile is not the daemon's doing.
const RESTART: Duration = Duration::from_secs(2);

/// Networks and endpoints.
fn crowd() -> (usize, usize) {
    let wish = std::env::var("NETD_CROWD").unwrap_or_else(|_| "15,50".to_owned());
    let numbers = wish.split_once(',').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.unwrap_or_else(|| panic!("NETD_CROWD is two numbers with a comma between, not {wish}"))
}

#[test]
fn a_crowd_survives_a_restart_without_a_lost_packet_and_goes_without_a_trace() {
    let (networks, endpoints) = crowd();
    let mut town = Town::new(Offloads::On);
    timed("namespaces", endpoints, || town.host.bare_namespaces("c", endpoints));
    spent(&town, "network create", networks, || {
        for n in 0..networks {
            town.netd.ask("POST", "/v1/networks", &json!({ "name": format!("n{n}") }));
        }
    });
    spent(&town, "attach", endpoints, || {
        for n in 0..endpoints {
            let network = format!("n{}", n % networks);
            let order = json!({ "name": format!("c{n}"), "netns": format!("/run/netns/c{n}"), "networks": [network] });
            town.netd.ask("POST", "/v1/endpoints", &order);
        }
    });
    timed("inspect", endpoints, || {
        for n in 0..endpoints {
            let endpoint = town.netd.ask("GET", &format!("/v1/endpoints/c{n}"), &Value::Null);
            assert_eq!(says::text(&endpoint, "/networks/0/network"), format!("n{}", n % networks));
        }
    });
    let listed = timed("ps and network ls", 2, || town.netd.listings());
    println!("the daemon has {} kB resident", says::resident(&town.netd));

    let first = town.host.existing_container("c0");
    let last = town.host.existing_container(&format!("c{}", endpoints - 1));
    let _echo = town.internet.echo_udp(7000);
    let pinging = last.pings_udp(&format!("{INTERNET}:7000"), 200);
    wait_until("the datagrams go", || pinging.answered() > 20);

    town.netd.kill();
    let before = town.netd.log().len();
    timed("restart", 1, || town.netd.start());
    let work = processor_time(&town);
    println!("restart: {work:?} of the daemon's processor time");
    assert!(work < RESTART, "a restart takes {work:?} of a processor");
    let since = town.netd.log().split_off(before.min(town.netd.log().len()));
    assert!(!since.contains("made true"), "a restart finds everything as it should be: {since}");
    let answered = pinging.answered();
    wait_until("the datagrams still go", || pinging.answered() > answered + 20);
    pinging.finish().assert_none_lost();
    assert_eq!(town.netd.listings(), listed);
    println!("the daemon has {} kB resident", says::resident(&town.netd));
    assert_eq!(first.pings(&says::gateway_of(&town.netd, "n0"), 1, PATIENCE), 1);

    // Those that stay are of the last networks: of the others nobody is left.
    let (staying, emptied) = (networks / 3, networks - networks / 3);
    let leaving: Vec<usize> = (0..endpoints).filter(|n| n % networks < emptied).collect();
    spent(&town, "detach", leaving.len(), || {
        for n in &leaving {
            town.netd.ask("DELETE", &format!("/v1/endpoints/c{n}"), &Value::Null);
        }
    });
    spent(&town, "network rm", emptied, || {
        for n in 0..emptied {
            town.netd.ask("DELETE", &format!("/v1/networks/n{n}"), &Value::Null);
        }
    });
    assert_eq!(says::names(&town.netd.json("network ls")).len(), staying);
    timed("uninstall", 1, || town.netd.say("uninstall").ok());
    let links = town.host.ip("-br link");
    assert!(!links.contains("ndb-") && !links.contains("ndv-"), "{links}");
}

/// A bridge of Linux has 1,023 ports: those for whom the first has none are at a further one, and nothing tells the two apart.
///
/// There are 1,100 endpoints, of which a run of the suite can afford that all are listed and a hundred and one are alive: the others'
/// namespaces go again. `NETD_CROWD` in the environment lets all of them live.
#[test]
fn one_network_has_more_endpoints_than_a_bridge_has_ports() {
    const ENDPOINTS: usize = 1100;
    /// As many as netd gives one bridge.
    const OF_THE_FIRST: usize = 1000;
    let all_live = std::env::var_os("NETD_CROWD").is_some();
    let mut town = Town::new(Offloads::On);
    let subnets = ["10.50.0.0/20", "fd00:50::/64"].map(|subnet| format!(" --subnet {subnet}")).concat();
    town.netd.say(&format!("network create wide{subnets}")).ok();
    timed("namespaces", ENDPOINTS, || town.host.bare_namespaces("c", ENDPOINTS));
    timed("attach", ENDPOINTS, || {
        for n in 0..ENDPOINTS {
            let ports = if n + 1 == ENDPOINTS { vec!["8080:80"] } else { vec![] };
            let order = json!({
                "name": format!("c{n}"), "netns": format!("/run/netns/c{n}"), "networks": ["wide"], "ports": ports,
            });
            town.netd.ask("POST", "/v1/endpoints", &order);
            if !all_live && (1..OF_THE_FIRST).contains(&n) {
                town.host.ip(&format!("netns del c{n}"));
            }
        }
    });
    let first = town.host.existing_container("c0");
    let last = town.host.existing_container(&format!("c{}", ENDPOINTS - 1));
    let (far, near) = (address(&last), address(&first));
    let servers = [last.echo_tcp(80), last.echo_udp(80), first.echo_tcp(80), first.echo_udp(80)];
    let _outside = town.internet.echo_udp(7000);
    let bridges = || town.host.ip("-br link").lines().filter(|line| line.starts_with("ndb-")).count();
    assert_eq!(bridges(), 2);

    for (from, to) in [(&first, &far), (&last, &near)] {
        for address in to {
            assert_eq!(from.pings(address, 2, PATIENCE), 2, "{address}");
            let server = if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") };
            from.asks_tcp(&server, PATIENCE).expect("it is on the network");
            assert_eq!(town.host.pings(address, 2, PATIENCE), 2, "of the host");
        }
        assert_eq!(from.asks_udp(&format!("{INTERNET}:7000"), 3, 3000, PATIENCE), 3, "fragments too");
    }
    assert!(hears_broadcast(&first, &last) && hears_broadcast(&last, &first));
    town.client.asks_tcp(&format!("{FRONT}:8080"), PATIENCE).expect("it is published");
    // A neighbour with a route reaches neither, whichever bridge they are at.
    town.client.ip(&format!("route add 10.50.0.0/20 via {FRONT}"));
    for address in [&far[0], &near[0]] {
        assert!(town.client.asks_tcp(&format!("{address}:80"), IMPATIENCE).is_err());
        assert_eq!(town.client.pings(address, 1, IMPATIENCE), 0);
    }
    let reached = |server: &Server| server.peers().contains(&CLIENT.parse().expect("an address"));
    assert_eq!(servers.each_ref().map(reached), [true, false, false, false], "by the published port alone");

    let pinging = last.pings_udp(&format!("{INTERNET}:7000"), 100);
    wait_until("the datagrams go", || pinging.answered() > 20);
    town.netd.kill();
    let before = town.netd.log().len();
    timed("restart", 1, || town.netd.start());
    let since = town.netd.log().split_off(before.min(town.netd.log().len()));
    assert!(!since.contains("made true"), "a restart finds everything as it should be: {since}");
    pinging.finish().assert_none_lost();
    assert_eq!(last.pings(&near[0], 1, PATIENCE), 1);

    timed("detach", ENDPOINTS - OF_THE_FIRST, || {
        for n in OF_THE_FIRST..ENDPOINTS {
            town.netd.ask("DELETE", &format!("/v1/endpoints/c{n}"), &Value::Null);
        }
    });
    assert_eq!(bridges(), 1, "a bridge without endpoints goes");
    assert!(!town.host.ip("-br link").contains("ndj-"));
    town.lab.assert_no_checksum_errors();
}

/// The addresses that a container was given: IPv4, IPv6.
fn address(container: &Container) -> [String; 2] {
    let listed: Value = serde_json::from_str(&container.ip("-j address show dev eth0")).expect("`ip -j` prints JSON");
    let addresses = listed[0]["addr_info"].as_array().expect("addresses");
    let of = |family: &str| addresses.iter().find(|a| a["family"] == family && a["scope"] == "global").cloned();
    ["inet", "inet6"].map(|family| says::text(&of(family).expect("an address"), "/local"))
}

/// Whether a broadcast of one container reaches another.
fn hears_broadcast(from: &Container, to: &Container) -> bool {
    let listener = to.enter(|| UdpSocket::bind("0.0.0.0:5000")).expect("the port is free");
    let sender = from.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a port is free");
    sender.set_broadcast(true).expect("a socket may broadcast");
    listener.set_read_timeout(Some(PATIENCE / 10)).expect("a socket can be given a timeout");
    // One of them may be lost where much goes on.
    (0..10).any(|_| {
        sender.send_to(b"all", "10.50.15.255:5000").expect("there is a way");
        listener.recv(&mut [0; 8]).is_ok_and(|length| length == 3)
    })
}

/// Does it, and prints how long it took in all and each.
fn timed<T>(what: &str, count: usize, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = work();
    let took = begin.elapsed();
    println!("{what}: {took:?}, {:?} each of {count}", took / count.max(1) as u32);
    done
}

/// The same, with the processor time that the daemon took each: what others do on the machine is not in it.
fn spent<T>(town: &Town, what: &str, count: usize, work: impl FnOnce() -> T) -> T {
    let begin = processor_time(town);
    let done = timed(what, count, work);
    println!("{what}: {:?} of the daemon's processor time each", (processor_time(town) - begin) / count.max(1) as u32);
    done
}

/// What the daemon has used of processors, to the hundredth of a second that proc_pid_stat(5) counts in.
fn processor_time(town: &Town) -> Duration {
    let stat = town.host.run(["cat", &format!("/proc/{}/stat", town.netd.id())]).ok();
    let after_name = stat.rsplit_once(')').expect("the name is in parentheses").1;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
