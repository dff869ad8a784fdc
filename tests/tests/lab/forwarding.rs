//! Names that are no container's: whom the resolver asks for them, and what it does when those do not answer.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata::A},
};
use netd_tests::lab::{Host, Node, Offloads};

use crate::{
    names::{dig, status},
    town::{INTERNET, NEIGHBOUR, Town, wait_until},
};

const ANSWER: &str = "198.18.0.7";
const OTHER: &str = "198.18.0.8";
/// The name that is asked for after all others.
const LAST: &str = "last.";

#[test]
fn what_is_no_containers_name_is_asked_of_the_hosts_servers_and_kept() {
    let town = Town::new(Offloads::On);
    let server = Upstream::serve(&town.internet, INTERNET, ANSWER, 3_600);
    resolv_conf(&town.host, &[INTERNET]);
    town.network("blue");
    let web = town.container("web", "blue", &[]);

    comes_to_find(&web, "example.com", ANSWER);
    assert!(server.asked().iter().all(|name| name == "example.com.") && !server.asked().is_empty());
    server.forget(&town.internet, INTERNET);
    for way in ["", "+tcp ", "+noedns "] {
        assert_eq!(dig(&web, &format!("{way}example.com")), [ANSWER], "{way}");
    }

    assert_eq!(server.asked(), [""; 0], "the rest was kept");
    assert_eq!(dig(&web, "web").len(), 1);
}

#[test]
fn the_hosts_servers_are_followed_while_containers_ask() {
    let town = Town::new(Offloads::On);
    let _servers = [
        Upstream::serve(&town.internet, INTERNET, ANSWER, 3_600),
        Upstream::serve(&town.internet, NEIGHBOUR, OTHER, 60),
    ];
    resolv_conf(&town.host, &[INTERNET]);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    comes_to_find(&web, "example.com", ANSWER);

    resolv_conf(&town.host, &[NEIGHBOUR]);

    // What the former server said does not count.
    comes_to_find(&web, "example.com", OTHER);
}

#[test]
fn a_server_that_fails_or_is_dead_costs_a_moment_and_a_kept_answer_outlives_them_all() {
    let town = Town::new(Offloads::On);
    let (first, alive) =
        (Upstream::serve(&town.internet, INTERNET, ANSWER, 1), Upstream::serve(&town.internet, NEIGHBOUR, OTHER, 1));
    resolv_conf(&town.host, &[INTERNET, NEIGHBOUR]);
    town.network("blue");
    let web = town.container("web", "blue", &[]);

    for (code, name) in [(ResponseCode::ServFail, "fails.example"), (ResponseCode::Refused, "refuses.example")] {
        first.say(code);
        comes_to_find(&web, name, OTHER);
    }
    first.stay_silent();
    comes_to_find(&web, "example.com", OTHER);
    for name in ["fails.example.", "refuses.example.", "example.com."] {
        assert!(first.asked().contains(&name.to_owned()), "it was asked first: {:?}", first.asked());
    }

    alive.stay_silent();
    // Until the answer's second is over.
    thread::sleep(Duration::from_millis(1_100));
    assert_eq!(dig(&web, "example.com"), [OTHER], "stale, and better than nothing");
    assert_eq!(status(&web, "unknown.example"), ("SERVFAIL".to_owned(), 0));
}

#[test]
fn a_containers_own_servers_go_before_its_networks_and_an_internal_network_asks_none() {
    let town = Town::new(Offloads::On);
    let hosts = Upstream::serve(&town.internet, NEIGHBOUR, "198.18.0.9", 60);
    let [networks, own] = [("203.0.113.81", OTHER), ("203.0.113.82", ANSWER)].map(|(address, answer)| {
        town.internet.ip(&format!("address add {address}/32 dev lo"));
        Upstream::serve(&town.internet, address, answer, 60)
    });
    resolv_conf(&town.host, &[NEIGHBOUR]);
    town.netd.say("network create blue --dns 203.0.113.81").ok();
    town.netd.say("network create vault --internal --dns 203.0.113.81").ok();
    let (web, safe) = (town.container("web", "blue", &[]), town.container("safe", "vault", &[]));
    let app = town.host.container("app");
    town.netd.say("attach app --netns /run/netns/app --network blue --dns 203.0.113.82").ok();

    comes_to_find(&web, "example.com", OTHER);
    comes_to_find(&app, "example.com", ANSWER);
    assert_eq!(status(&safe, "example.com"), ("NXDOMAIN".to_owned(), 0));

    assert_eq!([&networks, &own, &hosts].map(|server| server.asked().is_empty()), [false, false, true]);
}

/// Asks until this is the answer: who asks others gives up after some seconds, in which they may have stood still.
#[track_caller]
fn comes_to_find(node: &Node, name: &str, address: &str) {
    wait_until(&format!("{name} is {address}"), || dig(node, name) == [address]);
}

/// A server of names that has one answer for all, and knows what it was asked.
pub struct Upstream {
    asked: Arc<Mutex<Vec<String>>>,
    says: Arc<Mutex<ResponseCode>>,
    silent: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    pub fn serve(node: &Node, address: &str, answer: &str, ttl: u32) -> Self {
        let place: IpAddr = address.parse().expect("an address");
        let answer: Ipv4Addr = answer.parse().expect("an address");
        let socket = node.bound(|| UdpSocket::bind((place, 53))).expect("the port is free");
        socket.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
        let (asked, silent, stop) = (Arc::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut upstream = Self { asked, says: Arc::default(), silent, stop, thread: None };
        let (asked, silent) = (Arc::clone(&upstream.asked), Arc::clone(&upstream.silent));
        let (says, stop) = (Arc::clone(&upstream.says), Arc::clone(&upstream.stop));
        upstream.thread = Some(thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(mut message) = Message::from_vec(&buffer[..length]) else { continue };
                let name = message.queries[0].name().clone();
                asked.lock().expect("nobody panics").push(name.to_string());
                if silent.load(Ordering::Relaxed) {
                    continue;
                }
                message.metadata.message_type = MessageType::Response;
                message.metadata.response_code = *says.lock().expect("nobody panics");
                if message.metadata.response_code == ResponseCode::NoError {
                    message.answers.push(Record::from_rdata(name, ttl, RData::A(A(answer))));
                }
                let _ = socket.send_to(&message.to_vec().expect("it was read"), client);
            }
        }));
        upstream
    }

    /// Says this to everyone from now on.
    pub fn say(&self, code: ResponseCode) {
        *self.says.lock().expect("nobody panics") = code;
    }

    fn stay_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Forgets what it was asked so far, by whoever else has asked before: it takes them in turn.
    fn forget(&self, by: &Node, at: &str) {
        let socket = by.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a port is free");
        let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04last\0\0\x01\0\x01";
        wait_until("its turn comes", || {
            socket.send_to(question, (at, 53)).expect("there is a way");
            self.asked.lock().expect("nobody panics").iter().any(|name| name == LAST)
        });
        self.asked.lock().expect("nobody panics").clear();
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody panics").iter().filter(|name| *name != LAST).cloned().collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes these the host's servers, in the host's own view of `/etc/resolv.conf`.
fn resolv_conf(host: &Host, servers: &[&str]) {
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\\n")).collect();
    let mounted = "grep -q ' /etc/resolv.conf ' /proc/self/mountinfo || mount --bind /run/resolv.conf /etc/resolv.conf";
    host.run(["sh", "-c", &format!("printf '{lines}' > /run/resolv.conf && {{ {mounted}; }}")]).ok();
    wait_until("the host sees it", || host.run(["cat", "/etc/resolv.conf"]).ok().contains(servers[0]));
}
