//! Containers that move among hosts, with one another's addresses, while things break.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::{
    cluster::{Cluster, LEASE, Node, PATIENCE, Placed, done, vtep, wait_until, wait_within},
    lossy::LOSSY,
    parting::Kept,
};

/// How many there are. `NETD_MOVING`, of 200 at most, where that is set.
fn containers() -> usize {
    std::env::var("NETD_MOVING").map_or(200, |count| count.parse().expect("a number of containers"))
}

/// How long a host is cut off at least that is out by then, in seconds. `NETD_CUT`, where that is set.
fn cut() -> u64 {
    std::env::var("NETD_CUT").map_or(0, |seconds| seconds.parse().expect("a number of seconds"))
}

/// How long a host is cut off that stays a node, in seconds, and what its lease is meanwhile.
const CUT_BRIEFLY: u64 = 5;
const LONG_LEASE: u64 = 60;

/// Whether each is tried with each in the end: `NETD_ALL_PAIRS`. It takes minutes.
fn is_each_with_each() -> bool {
    std::env::var_os("NETD_ALL_PAIRS").is_some()
}

/// Hosts that they are on.
const NODES: usize = 4;

/// The one that is cut off.
const CUT: usize = 2;

/// By which daemons are killed, and when: `NETD_SEED`, where that is set.
fn seed() -> u64 {
    std::env::var("NETD_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"))
}

/// How many daemons are killed in a round, at moments apart by this at most.
const KILLS: usize = 3;
const APART: Duration = Duration::from_secs(2);

/// Where a container is in a round, and the last byte of its address there: every address is somebody else's on another host.
fn place(container: usize, round: usize) -> (usize, usize) {
    ((container + round) % NODES, 10 + (container + 7 * round) % containers())
}

#[test]
fn after_any_move_every_map_is_exactly_what_the_others_have_and_all_connect() {
    // One node hears by a way that can lose what a watch tells.
    let lossy = |node| (node == 0).then(|| LOSSY.to_owned());
    let lease = |node| if node == CUT { LONG_LEASE } else { LEASE };
    let cluster = Cluster::with_leases(NODES, 3, lossy, Some(200), lease);
    let losing = cluster.faults.clone().expect("there is a way with losses").losing;
    done(&cluster.nodes[0].netd, "network create -d overlay web --subnet 10.50.0.0/24");
    wait_until("the network is everywhere", || {
        cluster.nodes.iter().all(|node| node.netd.say("network inspect web").succeeded())
    });
    // Two that stay where they are, the second on the host that is cut off, with connections that do nothing.
    let staying = [(0, 250), (CUT, 251)].map(|(n, last)| attached(&cluster, n, &format!("s{n}"), last));
    let [one, two] = &staying;
    let mut kept = Kept::open(&one.container, &two.container, two.address);
    let mut containers = Vec::new();
    let seed = seed();
    println!("NETD_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    for round in 0..4 {
        let (began, life) = (Instant::now(), cluster.nodes[CUT].status("/cluster/incarnation"));
        let killed: Vec<_> = (0..KILLS).map(|n| if n == 0 { CUT } else { chance.random_range(0..NODES) }).collect();
        let kills: Vec<_> = killed.iter().map(|node| (*node, chance.random_range(Duration::ZERO..APART))).collect();
        losing.store(round == 2, Ordering::SeqCst);
        containers = moved(&cluster, &containers, round, |cluster| match round {
            // A host is cut off for less than its lease, and is the node that it was.
            0 => {
                cluster.cut(CUT);
                thread::sleep(Duration::from_secs(CUT_BRIEFLY));
                cluster.join(CUT);
            }
            // etcd's leader is killed in the middle.
            1 => {
                let mut leader = None;
                wait_until("one leads", || {
                    leader = cluster.etcd.iter().find(|member| member.leads());
                    leader.is_some()
                });
                leader.expect("just seen").signal(nix::sys::signal::Signal::SIGKILL);
            }
            // A host is cut off through its lease, which is short by now, and longer where that is asked for.
            3 => {
                cluster.cut(CUT);
                let patient = Instant::now() + Duration::from_secs(cut());
                let is_out = |cluster: &Cluster| cluster.nodes[0].netd.say("node ls -f state=down -q").stdout == "c\n";
                cluster.wait_until("it is out", is_out);
                thread::sleep(patient.saturating_duration_since(Instant::now()));
                cluster.join(CUT);
            }
            // Daemons are killed in the middle of whatever they do, and come back.
            _ => {
                cluster.nodes[CUT].set_lease(LEASE);
                kills.iter().for_each(|(node, after)| {
                    thread::sleep(*after);
                    cluster.nodes[*node].netd.restart_beside_others();
                });
            }
        });
        // What was lost is not told again, but questions are from here on.
        losing.store(false, Ordering::SeqCst);
        cluster.assert_all_as_desired(containers.iter().chain(&staying));
        let settled = began.elapsed();
        let goes_on = cluster.nodes[CUT].status("/cluster/incarnation") == life;
        assert!(round != 0 || goes_on, "cut off for less than its lease it is the node that it was");
        assert!(round != 3 || !goes_on, "cut off through its lease it begins anew");
        assert_pairs_connect(&containers);
        let mut to_host = |host: usize| host + NODES * chance.random_range(0..self::containers() / NODES);
        assert_each_connects(
            &cluster,
            &containers,
            match round {
                3 if is_each_with_each() => (1..self::containers()).collect(),
                // To each other host.
                3 => (1..NODES).map(to_host).collect(),
                _ => vec![to_host(1 + round)],
            },
        );
        println!("round {round}: as desired after {settled:.1?}, connected after {:.1?}", began.elapsed());
        if round == 2 {
            wait_until("what was lost is counted", || cluster.nodes[0].status("/cluster/missed") > Some(0));
        }
    }
    kept.assert_idle_lives();
    kept.assert_half_closed_lives();
    cluster.lab.assert_no_checksum_errors();
}

/// Every container where it is in this round. `meanwhile` happens while they move.
fn moved(cluster: &Cluster, before: &[Placed], round: usize, meanwhile: impl Fn(&Cluster) + Sync) -> Vec<Placed> {
    thread::scope(|scope| {
        let moving: Vec<_> = (0..NODES)
            .map(|n| {
                scope.spawn(move || {
                    let node = &cluster.nodes[n];
                    for placed in before.iter().filter(|placed| placed.node == n) {
                        detached(node, placed.container.name());
                    }
                })
            })
            .collect();
        scope.spawn(|| meanwhile(cluster));
        moving.into_iter().for_each(|thread| thread.join().expect("they detach"));
        let moving: Vec<_> = (0..NODES)
            .map(|n| {
                scope.spawn(move || {
                    let here = (0..containers()).filter(|container| place(*container, round).0 == n);
                    here.map(|container| attached(cluster, n, &format!("c{container}"), place(container, round).1))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut all: Vec<_> = moving.into_iter().flat_map(|thread| thread.join().expect("they attach")).collect();
        all.sort_by_key(|placed| placed.container.name()[1..].parse::<usize>().expect("its number"));
        all
    })
}

/// A container at the address that ends so.
fn attached(cluster: &Cluster, n: usize, name: &str, last: usize) -> Placed {
    let node = &cluster.nodes[n];
    let container = match node.host.path(format!("/run/netns/{name}")).exists() {
        true => node.host.existing_container(name),
        false => node.host.container(name),
    };
    let address = format!("10.50.0.{last}");
    let attach = format!("attach {name} --netns /run/netns/{name} --network web:ip={address}");
    // What was there before may be leaving yet, and while etcd has no leader, or the host no etcd, nobody comes.
    // A daemon that is killed may have done it all the same.
    let patience = PATIENCE * 2 + Duration::from_secs(cut());
    wait_within(patience, &format!("{name} has {address} on {}", node.host.name()), || {
        node.netd.say(&attach).succeeded() || inspected(node, name).is_some_and(|found| found == address)
    });
    Placed { node: n, container, address: address.parse().expect("an address") }
}

fn detached(node: &Node, name: &str) {
    wait_within(PATIENCE * 2, &format!("{name} is not on {} any more", node.host.name()), || {
        node.netd.say(&format!("detach {name}")).succeeded() || !listed(node, name)
    });
}

/// Whether an endpoint is there, or may be, since no daemon says so.
fn listed(node: &Node, name: &str) -> bool {
    let listing = node.netd.say("ps -q");
    !listing.succeeded() || listing.stdout.lines().any(|line| line == name)
}

/// The address of an endpoint, as far as a daemon says so.
fn inspected(node: &Node, name: &str) -> Option<String> {
    let shown = node.netd.say(&format!("inspect {name}"));
    let shown: Value = serde_json::from_str(&shown.stdout).ok()?;
    Some(shown.pointer("/0/networks/0/ip")?.as_str()?.to_owned())
}

/// Two containers of each host to two of each.
fn assert_pairs_connect(containers: &[Placed]) {
    let of = |n: usize| containers.iter().filter(move |placed| placed.node == n).take(2);
    let some: Vec<&Placed> = (0..NODES).flat_map(of).collect();
    let _servers: Vec<_> = some.iter().map(|placed| placed.container.echo_tcp(7)).collect();
    for from in &some {
        for to in &some {
            let answer = from.container.asks_tcp(&format!("{}:7", to.address), PATIENCE);
            let (name, there) = (from.container.name(), vtep(to.node));
            assert!(answer.is_ok(), "{name} to {} at {there}: {answer:?}", to.address);
        }
    }
}

/// Each container to the one that comes so many after it, for each of these numbers; everybody comes as who they are.
/// All namespaces of a machine share its 1,024 neighbours (`gc_thresh3`), so that one number's are forgotten before the next.
fn assert_each_connects(cluster: &Cluster, containers: &[Placed], offsets: Vec<usize>) {
    let listeners: Vec<_> = containers.iter().map(listening).collect();
    for offset in offsets {
        forget_neighbours(cluster);
        let other = |n: usize| (n + offset) % containers.len();
        thread::scope(|scope| {
            for (n, from) in containers.iter().enumerate() {
                scope.spawn(move || from.container.enter(|| assert_connects(from, &containers[other(n)])));
            }
        });
        for (n, from) in containers.iter().enumerate() {
            let (to, listener) = (&containers[other(n)], &listeners[other(n)]);
            let mut met = Vec::new();
            // A client is content with the SYN-ACK: the listener hears of it a moment later.
            wait_until(&format!("{} has come to {}, and nobody else", from.address, to.address), || {
                met.extend(accepted(listener));
                met == [from.address]
            });
        }
    }
}

/// Those of all containers.
fn forget_neighbours(cluster: &Cluster) {
    thread::scope(|scope| {
        for node in &cluster.nodes {
            let each = "for name in /run/netns/*; do ip -n \"${name##*/}\" neigh flush all; done";
            scope.spawn(|| node.host.run(["sh", "-c", each]).ok());
        }
    });
}

/// Where each of them is asked.
const PORT: u16 = 9000;

fn listening(placed: &Placed) -> TcpListener {
    let listener =
        placed.container.bound(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("the port is free");
    listener.set_nonblocking(true).expect("a socket can be told not to block");
    listener
}

/// On a thread of `from`'s network.
fn assert_connects(from: &Placed, to: &Placed) {
    let connected = TcpStream::connect_timeout(&SocketAddr::new(to.address, PORT), PATIENCE);
    let (name, there) = (from.container.name(), vtep(to.node));
    assert!(connected.is_ok(), "{name} to {} at {there}: {connected:?}", to.address);
}

/// Who has connected.
fn accepted(listener: &TcpListener) -> Vec<IpAddr> {
    std::iter::from_fn(|| match listener.accept() {
        Ok((_, peer)) => Some(peer.ip()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            None
        }
    })
    .collect()
}
