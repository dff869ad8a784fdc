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

#[test]
fn what_is_no_containers_name_is_asked_of_the_hosts_servers_and_kept() {
    let town = Town::new(Offloads::On);
    let server = Upstream::serve(&town.internet, INTERNET, ANSWER, 3_600);
    resolv_conf(&town.host, &[INTERNET]);
    town.network("blue");
    let web = town.container("web", "blue", &[]);

    for way in ["", "+tcp ", "+noedns "] {
        assert_eq!(dig(&web, &format!("{way}example.com")), [ANSWER], "{way}");
    }

    assert_eq!(server.asked(), ["example.com."], "once: the rest was kept");
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
    assert_eq!(dig(&web, "example.com"), [ANSWER]);

    resolv_conf(&town.host, &[NEIGHBOUR]);

    assert_eq!(dig(&web, "example.com"), [OTHER], "what the former server said does not count");
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
        assert_eq!(dig(&web, name), [OTHER], "{code}");
    }
    first.stay_silent();
    assert_eq!(dig(&web, "example.com"), [OTHER]);
    for name in ["fails.example.", "refuses.example.", "example.com."] {
        assert!(first.asked().contains(&name.to_owned()), "it was asked first: {:?}", first.asked());
    }

    alive.stay_silent();
    // Until the answer's second is over.
    thread::sleep(Duration::from_millis(1_100));
    assert_eq!(dig(&web, "example.com"), [OTHER], "stale, and better than nothing");
    assert_eq!(status(&web, "+time=8 unknown.example"), ("SERVFAIL".to_owned(), 0));
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

    assert_eq!(dig(&web, "example.com"), [OTHER]);
    assert_eq!(dig(&app, "example.com"), [ANSWER]);
    assert_eq!(status(&safe, "example.com"), ("NXDOMAIN".to_owned(), 0));

    assert_eq!([networks.asked().len(), own.asked().len(), hosts.asked().len()], [1, 1, 0]);
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

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody panics").clone()
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
