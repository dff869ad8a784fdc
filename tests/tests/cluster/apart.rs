//! A network of several hosts that keeps its containers apart: what one may open to another is what all agree on, on whichever
//! hosts they are, and from whichever it was allowed.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use netd_tests::lab::{
    Container,
    traffic::{IMPATIENCE, Server},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    as_a_bridge::{BOTH_FAMILIES, at, reaches},
    cluster::{Cluster, LEASE, Node, PATIENCE, comes_to_be_verified, done, patient_echo, vtep, wait_until},
};

/// A container in `apart` that serves ports 80 and 81, and datagrams on 53.
struct Served {
    container: Container,
    ips: [String; 2],
    _servers: Vec<Server>,
}

fn served(node: &Node, name: &str) -> Served {
    let container = node.container(name, "apart");
    let shown = node.netd.say(&format!("inspect {name}")).json();
    let ip = |key: &str| shown.pointer(key).and_then(|ip| ip.as_str()).expect("it has one").to_owned();
    let ips = [ip("/0/networks/0/ip"), ip("/0/networks/0/ip6")];
    let servers = vec![container.echo_tcp(80), container.echo_tcp(81), container.echo_udp(53)];
    Served { container, ips, _servers: servers }
}

/// Whether one opens a port of another, in both families.
fn opens(from: &Served, to: &Served, port: u16) -> bool {
    to.ips.iter().all(|ip| from.container.asks_tcp(&at(ip, port), PATIENCE).is_ok())
}

/// Whether it does not, in either.
fn is_shut(from: &Served, to: &Served, port: u16) -> bool {
    to.ips.iter().all(|ip| from.container.asks_tcp(&at(ip, port), IMPATIENCE).is_err())
}

/// Waits until it does: another host hears of it a moment later.
#[track_caller]
fn comes_to_open(from: &Served, to: &Served, port: u16) {
    to.ips.iter().for_each(|ip| reaches(&from.container, &at(ip, port)));
}

/// Waits until it does no more.
#[track_caller]
fn comes_to_be_shut(from: &Served, to: &Served, port: u16) {
    wait_until("it is shut", || is_shut(from, to, port));
}

/// Whether what is said in an open connection is answered. TCP says it again for a while.
fn is_answered(mut open: &TcpStream, wait: Duration) -> bool {
    open.set_read_timeout(Some(wait)).expect("a socket has a timeout");
    let said = b"still there?";
    open.write_all(said).is_ok() && open.read_exact(&mut [0; 12]).is_ok()
}

fn network_everywhere(cluster: &Cluster) {
    done(&cluster.nodes[0].netd, &format!("network create -d overlay apart --no-icc {BOTH_FAMILIES}"));
    wait_until("the network is everywhere", || {
        cluster.nodes.iter().all(|node| node.netd.say("network inspect apart").succeeded())
    });
}

fn assert_verified(cluster: &Cluster) {
    for node in &cluster.nodes {
        comes_to_be_verified(&node.netd);
    }
}

#[test]
fn what_one_may_open_to_another_is_allowed_and_denied_from_any_host_and_nothing_else_passes() {
    let cluster = Cluster::new(3, 1);
    network_everywhere(&cluster);
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    assert_eq!(
        c.netd.say("network inspect apart").json().pointer("/0/icc"),
        Some(&false.into()),
        "it is so everywhere"
    );
    let (web, db, near) = (served(a, "web"), served(b, "db"), served(a, "near"));
    wait_until("they know each other", || a.map().len() == 2 && b.map().len() == 4);

    // Nothing, here or elsewhere, by TCP, UDP or echo.
    for (from, to) in [(&web, &db), (&db, &web), (&web, &near)] {
        assert!(is_shut(from, to, 80));
        assert_eq!(from.container.asks_udp(&at(&to.ips[0], 53), 1, 100, IMPATIENCE), 0);
        assert!(!from.container.run(["ping", "-c", "1", "-W", "1", &to.ips[0]]).succeeded());
    }

    // From the host of neither: one port, one way.
    done(&c.netd, "allow web db:80");
    comes_to_open(&web, &db, 80);
    assert!(is_shut(&web, &db, 81) && is_shut(&db, &web, 80) && is_shut(&near, &db, 80));
    assert_eq!(web.container.asks_udp(&at(&db.ips[0], 53), 1, 100, IMPATIENCE), 0);
    let allows = b.netd.say("inspect db").json().pointer("/0/allows").cloned();
    assert_eq!(allows, Some(serde_json::json!([{ "from": "web@a", "port": 80, "proto": "tcp" }])));
    assert_verified(&cluster);
    let told = |node: &Node, action: &str| {
        let words = format!("events --until 0s -f type=endpoint -f action={action} --format json");
        let events = node.netd.say(&words).ok();
        let of = |line: &str| serde_json::from_str::<Value>(line).ok()?["endpoint"].as_str().map(str::to_owned);
        events.lines().filter_map(of).collect::<Vec<_>>()
    };
    wait_until("it is told once, where it is applied", || {
        [a, b, c].map(|node| told(node, "allow")) == [vec!["db@b"], vec!["db"], vec![]]
    });

    // What somebody takes out of a host's table is named by every other until it is put back.
    wait_until("the difference is said", || {
        b.clear_allowances();
        let verified = c.netd.say("overlay verify");
        let line = format!("node b: lacks what {} may open to {} of network apart (80/tcp)", web.ips[0], db.ips[0]);
        verified.code() == 1 && verified.stdout.contains(&line)
    });
    comes_to_open(&web, &db, 80);
    assert_verified(&cluster);

    // Everything, and between two of one host: the same words.
    done(&b.netd, "allow near db");
    done(&c.netd, "allow web near:81");
    comes_to_open(&near, &db, 81);
    comes_to_open(&web, &near, 81);
    wait_until("datagrams pass", || near.container.asks_udp(&at(&db.ips[1], 53), 1, 100, IMPATIENCE) == 1);
    wait_until("echo passes", || near.container.run(["ping", "-c", "1", "-W", "1", &db.ips[0]]).succeeded());
    assert!(is_shut(&web, &near, 80) && is_shut(&db, &near, 81));

    // A connection that is open ends with what allowed it, on whichever host that is said.
    let _patient = [patient_echo(&db.container, 7), patient_echo(&near.container, 7)];
    done(&c.netd, "allow web db:7");
    done(&c.netd, "allow web near:7");
    comes_to_open(&web, &db, 7);
    comes_to_open(&web, &near, 7);
    let open = [&db, &near].map(|to| web.container.connect(&at(&to.ips[0], 7), PATIENCE).expect("it is open"));
    open.iter().for_each(|open| assert!(is_answered(open, PATIENCE)));
    done(&b.netd, "deny web db:7");
    wait_until("it is told at both ends", || [a, b].iter().all(|node| told(node, "deny").len() == 1));
    assert!(told(c, "deny").is_empty(), "and nowhere else");
    done(&c.netd, "deny web near");
    open.iter().for_each(|open| wait_until("the flow is over", || !is_answered(open, IMPATIENCE)));
    comes_to_be_shut(&web, &near, 81);
    assert!(opens(&web, &db, 80), "what was not denied stays");
    assert_verified(&cluster);

    // What cannot be is said by its name.
    c.netd.say("allow web nobody").refused(["there is no endpoint nobody"]);
    c.netd.say("allow web db@a").refused(["there is no endpoint db on node a"]);
    c.netd.say("allow web db@zoo").refused(["there is no node zoo"]);
    c.netd.say("allow web web").refused(["web reaches itself"]);
    c.netd.say("deny web db:81").refused(["web was not allowed to reach db:81/tcp"]);
    c.netd.say("deny near db:80").refused(["but everything of it: deny that first"]);
    let other = served(c, "db");
    wait_until("it is known", || a.map().len() == 4);
    a.netd.say("allow near db").refused(["db is on nodes b, c: say which, as db@NODE"]);
    done(&a.netd, "allow web db@c:80");
    comes_to_open(&web, &other, 80);
    assert_verified(&cluster);
    cluster.lab.assert_no_checksum_errors();
}

#[test]
fn an_allowance_goes_with_either_endpoint_and_outlives_daemons_etcd_and_leases() {
    let mut cluster = Cluster::new(3, 1);
    network_everywhere(&cluster);
    let [a, b, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let (web, db) = (served(a, "web"), served(b, "db"));
    done(&a.netd, "allow web db:80");
    let _patient = patient_echo(&db.container, 7);
    done(&a.netd, "allow web db:7");
    comes_to_open(&web, &db, 80);
    comes_to_open(&web, &db, 7);
    let kept = web.container.connect(&at(&db.ips[0], 7), PATIENCE).expect("it is open");

    // Daemons dead at both ends, and the host cut off through its lease: who may speak still may, and nobody else.
    for node in [0, 1] {
        cluster.nodes[node].netd.kill();
    }
    assert!(opens(&web, &db, 80) && is_shut(&web, &db, 81) && is_shut(&db, &web, 80));
    assert!(is_answered(&kept, PATIENCE), "the flow goes on");
    wait_until("both are out", || cluster.nodes[2].status("/cluster/nodes") == Some(1));
    assert!(opens(&web, &db, 80) && is_shut(&web, &db, 81));

    // etcd is away, and the daemons come back meanwhile: what is refused says why, and what was allowed holds.
    cluster.etcd[0].signal(Signal::SIGSTOP);
    for node in [0, 1] {
        cluster.nodes[node].netd.start();
    }
    cluster.nodes[0].netd.say("allow web db:81").refused(["etcd"]);
    assert!(opens(&web, &db, 80) && is_shut(&web, &db, 81));
    assert!(is_answered(&kept, PATIENCE), "the flow goes on");
    cluster.etcd[0].signal(Signal::SIGCONT);
    wait_until("all are back", || cluster.nodes.iter().all(|node| node.status("/cluster/nodes") == Some(3)));
    assert!(opens(&web, &db, 80) && is_shut(&web, &db, 81));
    assert!(is_answered(&kept, PATIENCE), "the flow goes on");

    // Cut off through its lease and joined again: an open connection has waited.
    cluster.cut(1);
    thread::sleep(Duration::from_secs(LEASE));
    wait_until("it is out", || cluster.nodes[2].status("/cluster/nodes") == Some(2));
    cluster.join(1);
    wait_until("it is back", || cluster.nodes.iter().all(|node| node.status("/cluster/nodes") == Some(3)));
    assert!(is_answered(&kept, PATIENCE), "the flow goes on");
    comes_to_open(&web, &db, 80);
    assert_verified(&cluster);

    // To another host with its address: it is another endpoint, of which nobody has allowed anything.
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let address = web.ips.clone();
    done(&a.netd, "detach web");
    drop(web);
    let keep = format!("apart:ip={},ip6={}", address[0], address[1]);
    let container = c.container("web", &keep);
    let _servers = container.echo_tcp(80);
    let moved = Served { container, ips: address, _servers: Vec::new() };
    wait_until("it is there", || {
        b.map().get(&moved.ips[0].parse().expect("an address")).is_some_and(|at| *at == vtep(2))
    });
    wait_until("nothing of it is left", || {
        b.netd.say("inspect db").json().pointer("/0/allows") == Some(&serde_json::json!([]))
    });
    assert!(is_shut(&moved, &db, 80));
    done(&a.netd, "allow web db:80");
    comes_to_open(&moved, &db, 80);
    assert_verified(&cluster);

    // A network is removed as any other.
    drop((moved, db, kept));
    done(&b.netd, "detach db");
    done(&c.netd, "detach web");
    wait_until("it is removed", || a.netd.say("network rm apart").succeeded());
}
