//! Hosts without etcd, hosts without others, and hosts that come back.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use netd_common::tuple::Mac;
use netd_tests::lab::{Container, traffic::Server};
use nix::sys::signal::Signal;

use crate::{
    cluster::{Cluster, LEASE, PATIENCE, comes_to_be_verified, done, options, patient_echo, vtep, wait_until},
    within::SECONDS,
};

/// Two connections that do nothing: one is open, one is closed by the server's side alone.
pub struct Kept {
    idle: TcpStream,
    half_closed: TcpStream,
    last_words: Receiver<String>,
    _servers: [Server; 2],
}

impl Kept {
    /// From one container to another, which is at this address.
    pub fn open(one: &Container, two: &Container, server: IpAddr) -> Self {
        let (half, last_words) = half_closing(two);
        let servers = [patient_echo(two, 7), half];
        let open = |port: u16| {
            let mut stream = None;
            wait_until("they reach each other", || {
                stream = one.connect(&format!("{server}:{port}"), Duration::from_secs(5)).ok();
                stream.is_some()
            });
            stream.expect("it is open")
        };
        let (idle, mut half_closed) = (open(7), open(8));
        half_closed.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        assert_eq!(half_closed.read(&mut [0]).expect("it ends in good order"), 0, "the server's side is closed");
        Self { idle, half_closed, last_words, _servers: servers }
    }

    /// What may still be said in the half-closed connection arrives.
    pub fn assert_half_closed_lives(&mut self) {
        self.half_closed.write_all(b"the rest").expect("this side is open");
        self.half_closed.shutdown(Shutdown::Write).expect("and closes");
        assert_eq!(self.last_words.recv_timeout(PATIENCE).as_deref(), Ok("the rest"));
    }

    /// The connection does what it did.
    pub fn assert_idle_lives(&mut self) {
        self.idle.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        self.idle.write_all(b"still there?").expect("the connection lives");
        let mut answer = [0; 12];
        self.idle.read_exact(&mut answer).expect("and is answered");
        assert_eq!(&answer, b"still there?");
    }
}

/// Two nodes with a container each, and such connections between them.
struct Pair {
    kept: Kept,
    cluster: Cluster,
}

impl Pair {
    fn new(members: usize) -> Self {
        let cluster = Cluster::new(2, members);
        done(&cluster.nodes[0].netd, "network create -d overlay web");
        wait_until("the network is everywhere", || cluster.nodes[1].netd.say("network inspect web").succeeded());
        let one = cluster.nodes[0].container("one", "web");
        let two = cluster.nodes[1].container("two", "web");
        let kept = Kept::open(&one, &two, cluster.nodes[1].address("two"));
        Self { kept, cluster }
    }

    /// A new connection from one to two.
    fn connects(&self) -> bool {
        let one = self.cluster.nodes[0].host.existing_container("one");
        let found = one.run("dig +short +tries=1 +time=5 @127.0.0.11 two".split(' ')).stdout;
        let Some(address) = found.lines().next() else { return false };
        one.asks_tcp(&format!("{address}:7"), Duration::from_secs(5)).is_ok()
    }
}

/// Closes its side of a connection to port 8 at once, and tells what comes by it until the other side closes.
fn half_closing(container: &Container) -> (Server, Receiver<String>) {
    let (tell, told) = channel();
    let server = container.serve_tcp(8, move |mut stream| {
        stream.set_read_timeout(None).expect("a socket can wait");
        stream.shutdown(Shutdown::Write).expect("it can be closed");
        let mut heard = String::new();
        if stream.read_to_string(&mut heard).is_ok() {
            // Whoever listens may be gone.
            let _ = tell.send(heard);
        }
    });
    (server, told)
}

#[test]
fn while_etcd_is_away_what_is_known_goes_on_and_changes_are_refused_with_the_reason() {
    let mut pair = Pair::new(3);
    for member in &pair.cluster.etcd {
        member.signal(Signal::SIGSTOP);
    }
    wait_until("that is told", || pair.cluster.nodes[0].netd.say("status").stdout.contains("etcd away"));

    pair.kept.assert_idle_lives();
    wait_until("names and new connections go on", || pair.connects());
    let [a, b] = &mut pair.cluster.nodes[..] else { panic!("two nodes") };
    a.netd.say("network create -d overlay more").refused(["etcd is away"]);
    a.netd.say("network rm web").exits(1);
    a.host.container("three");
    a.netd.say("attach three --netns /run/netns/three --network web").refused(["etcd is away"]);
    a.netd.say("overlay verify").refused(["etcd is away"]);
    a.netd.say("network create plain").ok();
    a.netd.say("attach three --netns /run/netns/three --network plain").ok();
    // What goes here goes, and the others hear of it later.
    b.container("brief", "bridge");
    b.netd.say("detach brief").ok();
    let ways = a.map();
    a.netd.kill();
    a.netd.start();
    assert_eq!(a.map(), ways, "a daemon that starts without etcd knows the ways that its host has");
    assert_eq!(a.netd.say("network inspect web").code(), 0);
    pair.kept.assert_idle_lives();

    for member in &pair.cluster.etcd {
        member.signal(Signal::SIGCONT);
    }
    let back = pair.cluster.since_now();
    let [a, b] = &pair.cluster.nodes[..] else { panic!("two nodes") };
    wait_until("both are back", || [a, b].iter().all(|node| !node.netd.say("status").stdout.contains("etcd away")));
    wait_until("changes are made", || a.netd.say("network create -d overlay more").succeeded());
    wait_until("and everywhere", || b.netd.say("network inspect more").succeeded());
    wait_until("every map is right", || a.netd.say("overlay verify").succeeded());
    back.assert_within(SECONDS, "etcd is back, changes are made and every map is right", &pair.cluster);
    pair.kept.assert_idle_lives();
    pair.kept.assert_half_closed_lives();
    wait_until("they connect", || pair.connects());
}

#[test]
fn when_etcd_comes_back_after_every_lease_has_ended_no_datagram_between_hosts_is_lost() {
    let pair = Pair::new(1);
    let [a, b] = &pair.cluster.nodes[..] else { panic!("two nodes") };
    let incarnations = || [a, b].map(|node| node.status("/cluster/incarnation"));
    let before = incarnations();
    let _echo = b.host.existing_container("two").echo_udp(9);
    let one = a.host.existing_container("one");
    let pinging = one.pings_udp(&format!("{}:9", b.address("two")), 50);

    pair.cluster.etcd[0].signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(2 * LEASE));
    pair.cluster.etcd[0].signal(Signal::SIGCONT);
    wait_until("both have begun anew", || incarnations().iter().zip(&before).all(|(now, before)| now > before));
    wait_until("both are back", || [a, b].iter().all(|node| !node.netd.say("status").stdout.contains("etcd away")));
    // Longer than what a host has kept of the other by itself.
    thread::sleep(Duration::from_secs(LEASE + 1));

    pinging.finish().assert_none_lost();
    wait_until("every map is right", || [a, b].iter().all(|node| node.netd.say("overlay verify").succeeded()));
}

#[test]
fn a_host_that_is_cut_off_is_out_within_its_lease_and_right_again_within_seconds() {
    let mut pair = Pair::new(1);
    let far = pair.cluster.nodes[1].address("two");

    // For less than its lease.
    pair.cluster.cut(1);
    thread::sleep(Duration::from_secs(1));
    pair.cluster.join(1);
    pair.kept.assert_idle_lives();
    pair.cluster.wait_until("it is there", |cluster| cluster.nodes[0].map() == [(far, vtep(1))].into());

    // For more it is out, and what it changes meanwhile is known when it is back.
    let cut = pair.cluster.since_now();
    pair.cluster.cut(1);
    pair.cluster.wait_until("it is out", |cluster| cluster.nodes[0].map().is_empty());
    cut.assert_within(Duration::from_secs(LEASE) + SECONDS, "a host that is cut off is out", &pair.cluster);
    let [a, b] = &pair.cluster.nodes[..] else { panic!("two nodes") };
    wait_until("that is listed", || a.netd.say("node ls -f state=down -q").stdout == "b\n");
    let left = || a.netd.say("events --until 0s -f type=node -f action=leave -f node=b").ok().lines().count();
    wait_until("it is told, below the heading", || left() >= 2);
    a.host.container("heir");
    a.netd.say(&format!("attach heir --netns /run/netns/heir --network web:ip={far}")).refused(["two on node b"]);
    wait_until("its names are nobody's", || !pair.connects());
    assert!(b.map().len() == 1, "the host that is cut off keeps what it knows");

    let joined = pair.cluster.since_now();
    pair.cluster.join(1);
    pair.cluster.wait_until("it is back", |cluster| cluster.nodes[0].map() == [(far, vtep(1))].into());
    joined.assert_within(SECONDS, "a host that was cut off is right again", &pair.cluster);
    pair.kept.assert_idle_lives();
    pair.kept.assert_half_closed_lives();
    wait_until("they connect", || pair.connects());
    comes_to_be_verified(&pair.cluster.nodes[1].netd);
}

#[test]
fn a_host_that_returns_under_another_address_is_reached_there() {
    let mut pair = Pair::new(1);
    let far = pair.cluster.nodes[1].address("two");
    let urls = [pair.cluster.etcd[0].url.clone()];
    let b = &mut pair.cluster.nodes[1];

    b.netd.kill();
    b.host.ip("address flush dev eth0");
    b.host.ip("address add 192.0.2.77/24 dev eth0");
    let returned = pair.cluster.since_now();
    let b = &mut pair.cluster.nodes[1];
    b.netd = b.host.netd_with(options("b", [192, 0, 2, 77].into(), &urls));

    pair.cluster
        .wait_until("it is reached there", |cluster| cluster.nodes[0].map() == [(far, [192, 0, 2, 77].into())].into());
    returned.assert_within(SECONDS, "a host that returns under another address is reached there", &pair.cluster);
    wait_until("it is connected to", || pair.connects());
    pair.kept.assert_idle_lives();
    comes_to_be_verified(&pair.cluster.nodes[0].netd);
}

#[test]
fn the_host_where_a_container_was_says_so_to_who_does_not_know_yet_and_counts_it() {
    let pair = Pair::new(1);
    let [a, b] = &pair.cluster.nodes[..] else { panic!("two nodes") };
    let (one, address) = (a.host.existing_container("one"), b.address("two"));
    let refused = || {
        let programs = b.netd.json("status")["programs"].as_array().expect("programs").clone();
        let program = programs.into_iter().find(|one| one["name"] == "from_overlay").expect("from_overlay");
        program["dropped"]["no_endpoint"].as_u64().unwrap_or(0)
    };
    assert_eq!((one.pings(&address.to_string(), 1, PATIENCE), refused()), (1, 0));

    // What the map says is wrong, until the daemon mends it.
    let (nobody, vni) = (IpAddr::from([10, 176, 0, 200]), a.netd.say("network inspect web").json());
    let vni = vni[0]["segment"]["vni"].as_u64().and_then(|vni| vni.try_into().ok()).expect("it has one");
    wait_until("the wrong host says so", || {
        a.believe(vni, nobody, Mac([2, 0, 0, 0, 0, 200]), vtep(1));
        let said = one.run(["ping", "-c1", "-W2", &nobody.to_string()]).stdout;
        said.contains("10.176.0.1 icmp_seq=1 Destination Host Unreachable")
    });
    assert!(refused() > 0, "it is counted");
    wait_until("the map is mended", || a.map().len() == 1);

    // A daemon that hears nothing of what happens: what is sent to who was there is not given to who has the address next, by
    // another link-layer address.
    let signal = |word: &str| drop(a.host.run(["kill", word, &a.netd.id().to_string()]).ok());
    signal("-STOP");
    done(&b.netd, "detach two");
    let heir = b.container("heir", &format!("web:ip={address}"));
    let served = heir.echo_tcp(7);
    let again = one.asks_tcp(&format!("{address}:7"), Duration::from_secs(5));
    assert!(again.is_err() && served.peers().is_empty(), "{again:?}");
    signal("-CONT");
    wait_until("it is known", || one.asks_tcp(&format!("{address}:7"), Duration::from_secs(5)).is_ok());
}

#[test]
fn an_entry_that_somebody_takes_away_is_put_back_and_the_difference_is_said_until_then() {
    let pair = Pair::new(1);
    let [a, b] = &pair.cluster.nodes[..] else { panic!("two nodes") };
    let ways = a.map();

    wait_until("the difference is said", || {
        a.clear_map();
        let verified = b.netd.say("overlay verify");
        verified.code() == 1 && verified.stdout.starts_with(&format!("node a: lacks the way to {}", b.address("two")))
    });
    wait_until("it is put back", || a.map() == ways);
    // Until its daemon looks, which may be sooner than it is asked.
    wait_until("whom a does not let in is said", || {
        a.clear_vteps();
        let verified = b.netd.say("overlay verify");
        verified.code() == 1 && verified.stdout.contains("node a: lets nothing of 192.0.2.2 into network web")
    });
    comes_to_be_verified(&b.netd);

    // A daemon that does nothing does not answer.
    a.host.run(["kill", "-STOP", &a.netd.id().to_string()]).ok();
    let verified = b.netd.say("overlay verify");
    a.host.run(["kill", "-CONT", &a.netd.id().to_string()]).ok();
    assert_eq!((verified.code(), verified.stdout.as_str()), (1, "node a does not answer\n"), "{verified}");
}
