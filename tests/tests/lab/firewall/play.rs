//! The town of the firewall's tests: a container that serves and asks, and what its host's operator does.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use netd_tests::lab::{
    Container, Host, NetdOptions, Offloads,
    traffic::{PATIENCE, Server},
};
use serde_json::Value;

use crate::{
    ipv6::{FRONT as FRONT6, INTERNET as INTERNET6, paved},
    says,
    town::{FRONT, INTERNET, NEIGHBOUR, Town, wait_until},
};

/// The share of packets on the fast path that a long flow has.
const FAST: f64 = 0.99;
/// Bytes of a long flow.
pub const LONG: u64 = 60 << 20;

/// A town with a container `app` of network `blue`, which serves and asks.
pub struct Play {
    pub app: Container,
    _servers: Vec<Server>,
    pub town: Town,
}

impl Play {
    /// With rules that are there before netd is.
    pub fn with(rules: &[&str]) -> Self {
        Self::on(Offloads::On, rules)
    }

    pub fn on(kind: Offloads, rules: &[&str]) -> Self {
        Self::starting(kind, &[], rules)
    }

    pub fn starting(kind: Offloads, arguments: &[&str], rules: &[&str]) -> Self {
        let town = Town::with(kind, NetdOptions::default().arguments(arguments));
        Self::in_town(town, "", rules, !rules.is_empty() && arguments.is_empty())
    }

    /// In a town with IPv6 in its streets, where the container has both families.
    pub fn of_both_families(rules: &[&str]) -> Self {
        Self::in_town(paved(Offloads::On), "--ipv6", rules, !rules.is_empty())
    }

    fn in_town(town: Town, options: &str, rules: &[&str], shown: bool) -> Self {
        for rule in rules {
            does(&town.host, rule);
        }
        town.netd.say(&format!("network create blue {options}")).ok();
        let app = town.container("app", "blue", &["8080:80", "8090:90"]);
        let servers = vec![
            app.echo_tcp(80),
            app.serve_bulk(90),
            town.internet.echo_tcp(7),
            town.internet.echo_udp(7),
            town.internet.serve_bulk(9),
        ];
        let play = Self { app, _servers: servers, town };
        wait_until("the rules are seen", || !shown || play.status().contains("shown\":true"));
        play
    }

    pub fn host(&self) -> &Host {
        &self.town.host
    }

    /// Has the host's operator do something.
    #[track_caller]
    pub fn does(&self, words: &str) {
        does(&self.town.host, words);
    }

    pub fn status(&self) -> String {
        self.town.netd.json("status")["firewall"].to_string()
    }

    pub fn shown(&self) -> u64 {
        says::number(&self.town.netd.json("status"), "/firewall/by_stack")
    }

    /// Published ports and masquerade work for all that is new.
    #[track_caller]
    pub fn goes_on(&self) {
        self.town.client.asks_tcp(&format!("{FRONT}:8080"), PATIENCE).expect("the port is published");
        self.app.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("the container gets out");
        assert_eq!(self.app.asks_udp(&format!("{INTERNET}:7"), 3, 100, PATIENCE), 3, "datagrams are answered");
        assert_eq!(self.app.pings(NEIGHBOUR, 2, PATIENCE), 2, "echoes are answered");
    }

    /// The same by IPv6.
    #[track_caller]
    pub fn goes_on_by_ipv6(&self) {
        self.town.client.asks_tcp(&format!("[{FRONT6}]:8080"), PATIENCE).expect("the port is published");
        self.app.asks_tcp(&format!("[{INTERNET6}]:7"), PATIENCE).expect("the container gets out");
        assert_eq!(self.app.asks_udp(&format!("[{INTERNET6}]:7"), 3, 100, PATIENCE), 3, "datagrams are answered");
        assert_eq!(self.app.pings(INTERNET6, 2, PATIENCE), 2, "echoes are answered");
    }

    /// Long flows in both directions are on the fast path; prints the share.
    #[track_caller]
    pub fn is_fast(&self, what: &str) {
        self.are_fast(what, self.app_connects(), self.client_connects());
    }

    /// The same by IPv6.
    #[track_caller]
    pub fn is_fast_by_ipv6(&self, what: &str) {
        self.are_fast(what, self.app_connects_by_ipv6(), self.client_connects_by_ipv6());
    }

    #[track_caller]
    fn are_fast(&self, what: &str, mut out: TcpStream, mut inward: TcpStream) {
        let counted = || {
            let status: Value = self.town.netd.json("status");
            (says::number(&status, "/firewall/fast"), says::number(&status, "/firewall/by_stack"))
        };
        let mut move_both = |bytes| {
            let before = counted();
            moves(&mut out, bytes);
            moves(&mut inward, bytes);
            let after = counted();
            (after.0 - before.0, after.1 - before.1)
        };
        // What comes before nf_conntrack can follow it is shown, and a direction that was not proved at once is at its next tick.
        let begun = Instant::now();
        while move_both(1 << 20).1 > 8 && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(100));
        }
        let mut share = 0.0;
        // A change of the ruleset, netd's own accept among them, has a flow prove itself once more: of some long ones the best counts.
        for _ in 0..3 {
            let (fast, shown) = move_both(LONG);
            share = f64::max(share, fast as f64 / (fast + shown) as f64);
            println!("{what}: {:.3} % of {} packets on the fast path", share * 100.0, fast + shown);
            if share > FAST {
                return;
            }
        }
        panic!("{what}: {:.3} % of the packets of a long flow are on the fast path", share * 100.0);
    }

    /// A connection of the container's to the outside, established.
    #[track_caller]
    pub fn app_connects(&self) -> TcpStream {
        connected(self.app.connect(&format!("{INTERNET}:7"), PATIENCE))
    }

    /// The same by IPv6.
    #[track_caller]
    pub fn app_connects_by_ipv6(&self) -> TcpStream {
        connected(self.app.connect(&format!("[{INTERNET6}]:7"), PATIENCE))
    }

    /// A connection of the client's to the published port by IPv6, established.
    #[track_caller]
    pub fn client_connects_by_ipv6(&self) -> TcpStream {
        connected(self.town.client.connect(&format!("[{FRONT6}]:8080"), PATIENCE))
    }

    /// A connection of the client's to the published port, established.
    #[track_caller]
    pub fn client_connects(&self) -> TcpStream {
        connected(self.town.client.connect(&format!("{FRONT}:8080"), PATIENCE))
    }
}

#[track_caller]
fn does(host: &Host, words: &str) {
    // nft wants its words as one; others do not mind.
    match words.strip_prefix("nft ") {
        Some(rules) => host.run(["nft", rules]).ok(),
        None => host.run(words.split_whitespace()).ok(),
    };
}

#[track_caller]
fn connected(stream: std::io::Result<TcpStream>) -> TcpStream {
    let mut stream = stream.expect("it connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
    asks(&mut stream).expect("it is answered");
    stream
}

/// A byte to an echo server and back.
pub fn asks(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// Many bytes to an echo server and back.
#[track_caller]
pub fn moves(stream: &mut TcpStream, bytes: u64) {
    let mut sending = stream.try_clone().expect("a socket can be had twice");
    let sender = thread::spawn(move || std::io::copy(&mut std::io::repeat(7).take(bytes), &mut sending));
    let received = std::io::copy(&mut stream.take(bytes), &mut std::io::sink()).expect("they come back");
    sender.join().expect("sending does not panic").expect("they are sent");
    assert_eq!(received, bytes);
}

/// Waits until a live connection hears nothing any more.
#[track_caller]
pub fn stops(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a socket can be given a timeout");
    let deadline = Instant::now() + PATIENCE;
    while asks(stream).is_ok() {
        assert!(Instant::now() < deadline, "a live flow goes on past the rule that stops it");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a datagram to a group reaches another container of the network.
pub fn hears_group(play: &Play, other: &Container) -> bool {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let address: Ipv4Addr = play.town.address("other").parse().expect("an address");
    let own: Ipv4Addr = play.town.address("app").parse().expect("an address");
    let listener = other.enter(|| {
        let socket = UdpSocket::bind((group, 5000)).expect("the port is free");
        socket.join_multicast_v4(&group, &address).expect("a group can be joined");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket can be given a timeout");
        socket
    });
    let sender = play.app.enter(|| UdpSocket::bind((own, 0)).expect("a port is free"));
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        sender.send_to(b"?", (group, 5000)).expect("there is a way");
        if listener.recv(&mut [0]).is_ok() {
            return true;
        }
    }
    false
}
