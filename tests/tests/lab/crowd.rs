//! A host with more than most have, made, looked at, restarted and taken away, with the times. `NETD_CROWD=300,1000` in the
//! environment says how many networks and endpoints; without it there are fewer, as every run of the suite can afford.

use std::time::{Duration, Instant};

use netd_tests::lab::{Offloads, traffic::PATIENCE};
use serde_json::{Value, json};

use crate::{
    says,
    town::{INTERNET, Town, wait_until},
};

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
    println!("the daemon has {} kB resident", resident(&town));

    let first = town.host.existing_container("c0");
    let last = town.host.existing_container(&format!("c{}", endpoints - 1));
    let _echo = town.internet.echo_udp(7000);
    let pinging = last.pings_udp(&format!("{INTERNET}:7000"), 200);
    wait_until("the datagrams go", || pinging.answered() > 20);

    town.netd.kill();
    let before = town.netd.log().len();
    timed("restart", 1, || town.netd.start());
    let since = town.netd.log().split_off(before.min(town.netd.log().len()));
    assert!(!since.contains("made true"), "a restart finds everything as it should be: {since}");
    let answered = pinging.answered();
    wait_until("the datagrams still go", || pinging.answered() > answered + 20);
    pinging.finish().assert_none_lost();
    assert_eq!(town.netd.listings(), listed);
    println!("the daemon has {} kB resident", resident(&town));
    assert_eq!(first.pings(&says::gateway_of(&town.netd, "n0"), 1, PATIENCE), 1);

    spent(&town, "detach", endpoints / 2, || {
        for n in 0..endpoints / 2 {
            town.netd.ask("DELETE", &format!("/v1/endpoints/c{n}"), &Value::Null);
        }
    });
    timed("uninstall", 1, || town.netd.say("uninstall").ok());
    let links = town.host.ip("-br link");
    assert!(!links.contains("ndb-") && !links.contains("ndv-"), "{links}");
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

/// Memory of the daemon.
fn resident(town: &Town) -> u64 {
    let status = town.host.run(["cat", &format!("/proc/{}/status", town.netd.id())]).ok();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells what is resident");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
