//! A node whose watch loses events, and the second field report: one host alone that cannot reach one service.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use netd_tests::lab::{
    Container, Host,
    traffic::{IMPATIENCE, Server},
};

use crate::{
    cluster::{Cluster, comes_to_be_verified, done, vtep, wait_until},
    strangers::dropped,
    within::SECONDS,
};

/// Where the way with losses begins.
pub const LOSSY: &str = "http://192.0.2.200:2379";

/// How often a daemon reads everything anew.
const READ: Duration = Duration::from_secs(10);

#[test]
fn a_host_that_was_not_told_of_a_move_reaches_the_service_within_seconds_all_the_same() {
    let cluster = Cluster::with(3, 1, |node| (node == 0).then(|| LOSSY.to_owned()), Some(200));
    let Faults { losing, withheld, .. } = cluster.faults.clone().expect("there is a way with losses");
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    done(&b.netd, "network create -d overlay web");
    wait_until("the network is everywhere", || [a, c].iter().all(|n| n.netd.say("network inspect web").succeeded()));
    let client = a.container("client", "web");
    let neighbour = c.container("neighbour", "web");
    let before = b.container("db", "web");
    let address = b.address("db");
    let serving = before.serve_http(80);
    wait_until("everybody reaches the service", || [&client, &neighbour].iter().all(|from| reaches(from, "db")));

    // The service moves, and somebody else has its address where it was. One host alone is not told, and cannot look.
    let known = a.map();
    withheld.store(true, Ordering::SeqCst);
    losing.store(true, Ordering::SeqCst);
    drop(serving);
    done(&b.netd, "detach db");
    b.host.container("other");
    b.netd.say(&format!("attach other --netns /run/netns/other --network web:ip={address}")).ok();
    let heir = b.host.existing_container("other").echo_tcp(80);
    let after = c.container("db", "web");
    let _serving = after.serve_http(80);
    wait_until("who was told reaches it", || reaches(&neighbour, "db"));

    // What that host knows is what was, and its containers do not reach the service, while all others do. Nor are they taken to who
    // has the address now and would answer: they are told that nobody is there.
    assert_eq!(a.map(), known, "what a host cannot look at it does not know");
    let refused = dropped(b, "no_endpoint");
    for _ in 0..3 {
        assert_eq!(found(&client, "db"), Some(address.to_string()));
        assert!(!reaches(&client, "db") && reaches(&neighbour, "db"));
    }
    assert!(heir.peers().is_empty(), "{:?}", heir.peers());
    wait_until("it is counted where the service was", || dropped(b, "no_endpoint") > refused);
    wait_until("who was told reaches the heir", || {
        neighbour.asks_tcp(&format!("{address}:80"), IMPATIENCE * 5).is_ok()
    });

    withheld.store(false, Ordering::SeqCst);
    let looks = cluster.since_now();
    wait_until("who was not told reaches it too", || reaches(&client, "db"));
    looks.assert_within(READ + SECONDS, "a host that was not told reaches the service", &cluster);
    let others = [(address, vtep(1)), (c.address("db"), vtep(2)), (c.address("neighbour"), vtep(2))];
    assert_eq!(a.map(), others.into());
    losing.store(false, Ordering::SeqCst);
    comes_to_be_verified(&a.netd);
    for _ in 0..10 {
        assert!(reaches(&client, "db"), "and goes on to");
    }
}

/// As a browser does: by name, anew each time.
fn reaches(from: &Container, name: &str) -> bool {
    found(from, name).is_some_and(|address| from.curl(&format!("http://{address}/")).succeeded())
}

/// Where a name leads.
fn found(from: &Container, name: &str) -> Option<String> {
    let found = from.run(format!("dig +short +tries=1 +time=5 @127.0.0.11 {name}").split(' ')).stdout;
    found.lines().next().map(str::to_owned)
}

/// What a way to etcd does to what goes by it.
#[derive(Clone, Default)]
pub struct Faults {
    /// Whether watches tell nothing.
    pub losing: Arc<AtomicBool>,
    /// Watches that were there before this was last raised tell nothing any more, and do not end.
    pub silenced: Arc<AtomicU64>,
    /// Milliseconds that each transaction takes longer.
    pub slow: Arc<AtomicU64>,
    /// Whether nothing that is there can be read. Who waits for it too long asks anew.
    pub withheld: Arc<AtomicBool>,
}

/// Passes on what comes to port 2379 of a host to the first member that is there, with these faults.
pub fn lossy_way(host: &Host, members: Vec<String>) -> (Server, Faults) {
    let faults = Faults::default();
    let (known, inside) = (faults.clone(), host.clone());
    let server = host.serve_tcp(2379, move |client| {
        let member = inside.enter(|| members.iter().find_map(|member| TcpStream::connect(member).ok()));
        // Without one the connection ends, as if the client had asked it.
        let Some(member) = member else { return };
        let (up, from) = (member.try_clone(), client.try_clone());
        let (Ok(mut up), Ok(from)) = (up, from) else { return };
        // Whoever watches says nothing for as long as it watches.
        from.set_read_timeout(None).expect("a socket has a timeout, or none");
        let is_watch = Arc::new(AtomicBool::new(false));
        let (seen, slow, withheld) = (Arc::clone(&is_watch), Arc::clone(&known.slow), Arc::clone(&known.withheld));
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            while let Ok(data) = from.fill_buf() {
                if data.is_empty() {
                    break;
                }
                if data.starts_with(b"POST /v3/watch") {
                    seen.store(true, Ordering::SeqCst);
                }
                if data.starts_with(b"POST /v3/kv/txn") {
                    thread::sleep(Duration::from_millis(slow.load(Ordering::SeqCst)));
                }
                while data.starts_with(b"POST /v3/kv/range") && withheld.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(10));
                }
                let length = data.len();
                if up.write_all(data).is_err() {
                    break;
                }
                from.consume(length);
            }
            // The other way may have ended first.
            let _ = up.shutdown(Shutdown::Both);
        });
        // Either end may go at any time.
        let _ = answers(&member, &client, &is_watch, &known);
        let _ = client.shutdown(Shutdown::Both);
    });
    (server, faults)
}

/// Hands answers over as they come, those to a watch chunk by chunk.
fn answers(member: &TcpStream, client: &TcpStream, is_watch: &AtomicBool, faults: &Faults) -> io::Result<()> {
    let (mut member, mut client) = (BufReader::new(member), client);
    loop {
        let data = member.fill_buf()?;
        if data.is_empty() {
            return Ok(());
        }
        if is_watch.load(Ordering::SeqCst) {
            break;
        }
        let length = data.len();
        client.write_all(data)?;
        member.consume(length);
    }
    let since = faults.silenced.load(Ordering::SeqCst);
    let mut line = Vec::new();
    while line != b"\r\n" {
        line.clear();
        member.read_until(b'\n', &mut line)?;
        client.write_all(&line)?;
    }
    loop {
        let mut chunk = Vec::new();
        member.read_until(b'\n', &mut chunk)?;
        let size = std::str::from_utf8(&chunk).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let size = size.ok_or(io::ErrorKind::InvalidData)?;
        let start = chunk.len();
        chunk.resize(start + size + 2, 0);
        member.read_exact(&mut chunk[start..])?;
        if !faults.losing.load(Ordering::SeqCst) && faults.silenced.load(Ordering::SeqCst) == since {
            client.write_all(&chunk)?;
        }
        if size == 0 {
            return Ok(());
        }
    }
}
