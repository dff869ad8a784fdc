//! Encrypted networks: what is on the wire, what is refused, and keys that change, are lost and outlive a daemon.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use netd_tests::lab::{
    Host,
    traffic::{IMPATIENCE, UdpPinging},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    as_a_bridge::ipv6,
    cluster::{Cluster, Node, PATIENCE, comes_to_be_verified, done, vtep, vtep_of_ipv6, wait_until, wait_within},
    strangers::{dropped, encapsulated, mac_of, vni_of},
};

/// What nobody on the wire may read.
const MARKER: &[u8] = b"between us alone";
/// The UDP port of encrypted networks.
const PORT: u16 = 4790;

/// How long things may take that take several words with etcd, in an emulated machine.
const LONG: std::time::Duration = std::time::Duration::from_secs(180);

/// What of one kind is on a host's wire.
pub struct Capture {
    host: Host,
    process: netd_tests::lab::Running,
}

impl Capture {
    /// Of what this expression of tcpdump's says.
    pub fn begin(host: &Host, what: &str) -> Self {
        let file = host.path("/run/capture.pcap");
        // That of an earlier one would say that this has begun.
        let _ = std::fs::remove_file(&file);
        let options = "tcpdump -i eth0 -n -U --immediate-mode -s 0 -w /run/capture.pcap";
        let process = host.spawn(options.split(' ').chain(what.split(' ')));
        wait_until("the capture has begun", || std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24));
        Self { host: host.clone(), process }
    }

    /// Every byte, and a line for each packet.
    pub fn end(self) -> (Vec<u8>, String) {
        let file = self.host.path("/run/capture.pcap");
        let length = || std::fs::metadata(&file).map_or(0, |file| file.len());
        // What is on the way to the file is not lost with the process.
        let mut before = 0;
        wait_until("the capture rests", || {
            std::thread::sleep(IMPATIENCE * 2);
            std::mem::replace(&mut before, length()) == length()
        });
        self.process.signal(Signal::SIGINT);
        self.process.wait();
        let file = std::fs::read(self.host.path("/run/capture.pcap")).expect("the capture is there");
        (file, self.host.run("tcpdump -n -r /run/capture.pcap".split(' ')).stdout)
    }
}

fn holds(capture: &[u8], what: &[u8]) -> bool {
    capture.windows(what.len()).any(|window| window == what)
}

/// Says something to a server, in clear as far as the container goes.
fn tells(from: &netd_tests::lab::Node, to: &str) {
    from.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
        socket.send_to(MARKER, to).expect("it is sent");
    });
}

fn encryption(node: &Node, what: &str) -> Value {
    let outcome = node.netd.run(["status", "--format", "json"]);
    let status: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
    status["cluster"]["encryption"][what].clone()
}

/// Whether every node has keys with every other, of this generation and no other.
fn is_settled(cluster: &Cluster, generation: u64) -> bool {
    let numbers = |node: &Node| ["generation", "oldest"].map(|what| encryption(node, what).as_u64());
    let others = cluster.nodes.len() as u64 - 1;
    cluster.nodes.iter().all(|node| {
        numbers(node) == [Some(generation); 2]
            && encryption(node, "waiting") == serde_json::json!([])
            && encryption(node, "associations").as_u64() == Some(2 * others)
    })
}

/// The security parameters indexes of a host.
fn indexes(host: &Host) -> BTreeSet<String> {
    let listed = host.ip("xfrm state list");
    listed.lines().filter_map(|line| Some(line.split_once("spi ")?.1.split(' ').next()?.to_owned())).collect()
}

/// How often the kernel has refused a packet that came, for lack of encryption.
fn refused(host: &Host) -> u64 {
    let listed = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/xfrm_stat").expect("it is readable"));
    let of = |name: &str| listed.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    ["XfrmInTmplMismatch", "XfrmInNoPols", "XfrmInNoStates"].iter().filter_map(|name| of(name)).sum()
}

/// Whether the kernel can encrypt between hosts at all.
fn kernel_encrypts(host: &Host) -> bool {
    let key = "0x0102030405060708090a0b0c0d0e0f1011121314";
    let association = "src 198.51.100.1 dst 198.51.100.2 proto esp spi 0x100 reqid 7 mode transport";
    let words = format!("unshare --net ip xfrm state add {association} aead rfc4106(gcm(aes)) {key} 128");
    host.run(words.split(' ')).succeeded()
}

#[test]
fn a_kernel_without_esp_is_refused_by_name_at_the_network_and_at_who_would_join_it() {
    let cluster = Cluster::new(2, 1);
    if kernel_encrypts(&cluster.nodes[0].host) {
        drop(cluster);
        return what_goes_between_hosts_is_encrypted_or_does_not_go();
    }
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };

    a.netd.say("network create -d overlay secret --encrypted").refused(["secret", "kernel cannot", "no ESP"]);
    a.netd.say("network create -d overlay secret -o encrypted").refused(["secret", "kernel cannot", "no ESP"]);
    assert_eq!(a.netd.say("network ls -q").stdout, "", "nothing is left of it");
    a.netd.say("network create alone --encrypted").refused(["--encrypted", "bridge"]);
    a.netd.say("network create hand -d vxlan --vni 7 --peer 192.0.2.9 --encrypted").refused(["--encrypted", "vxlan"]);
    a.netd.say("overlay rekey").refused(["no network is encrypted"]);

    // One that a node with another kernel has made.
    let name = "secret";
    let record = serde_json::json!({
        "id": "0123456789ab", "vni": 5000, "internal": false, "encrypted": true, "created": 1,
        "subnets": [{ "subnet": "10.60.0.0/24", "gateway": "10.60.0.1" }],
    });
    cluster.etcd[0].put(&format!("/netd/v1/networks/{name}"), &record.to_string());
    wait_until("it is known", || b.netd.say("network inspect secret").succeeded());
    b.host.container("one");
    b.netd.say("attach one --netns /run/netns/one --network secret").refused(["secret", "kernel cannot", "no ESP"]);
    let status = b.netd.say("status").stdout;
    assert!(status.contains("encrypted networks: this host has no part in them"), "{status}");
    wait_until("the others say so", || {
        let verified = a.netd.say("overlay verify");
        verified.code() == 1 && verified.stdout.contains("node b has no part in encrypted networks")
    });
    assert!(!b.host.ip("-br link show").contains("ndx-4790"), "nothing carries it here");
    assert_eq!(b.netd.say("network inspect secret").json().pointer("/0/segment/encrypted"), Some(&true.into()));
    let examined = b.netd.say("doctor").stdout;
    assert!(examined.contains("this host has no part in encrypted networks: its kernel cannot do it"), "{examined}");

    // Others go on.
    a.netd.say("network create -d overlay plain").ok();
    wait_until("it is everywhere", || b.netd.say("network inspect plain").succeeded());
    let (one, _two) = (a.container("first", "plain"), b.container("second", "plain"));
    let address = b.address("second").to_string();
    wait_until("they reach each other", || one.pings(&address, 1, IMPATIENCE) == 1);
}

#[test]
#[ignore = "takes a kernel with ESP: run it in a guest, by `cargo xtask vm --kernel 6.1 -- CLUSTER-TESTS between_hosts_is_encrypted --ignored`"]
fn what_goes_between_hosts_is_encrypted_or_does_not_go() {
    is_encrypted_or_does_not_go(Cluster::new(2, 1), vtep(0));
}

#[test]
#[ignore = "takes a kernel with ESP: run it in a guest, by `cargo xtask vm --kernel 6.1 -- CLUSTER-TESTS between_hosts_is_encrypted --ignored`"]
fn what_goes_between_hosts_is_encrypted_over_ipv6_too_or_does_not_go() {
    is_encrypted_or_does_not_go(Cluster::over_ipv6(2, 1), vtep_of_ipv6(0));
}

/// From node a, whose tunnels end at `near`, to node b and back.
fn is_encrypted_or_does_not_go(mut cluster: Cluster, near: IpAddr) {
    let stranger = cluster.lab.host("stranger");
    cluster.add_to_street(&stranger, 150);
    stranger.ip(&format!("address add {}/64 dev eth0 nodad", ipv6(150)));
    let from_a = format!("host {near}");
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    done(&a.netd, "network create -d overlay secret --encrypted");
    a.netd.say("network create -d overlay plain").ok();
    wait_until("they are everywhere", || b.netd.say("network inspect secret plain").succeeded());
    wait_within(LONG, "all have keys", || is_settled(&cluster, 1));
    let (one, two) = (a.container("one", "secret"), b.container("two", "secret"));
    let (three, four) = (a.container("three", "plain"), b.container("four", "plain"));
    let [to, in_clear] = ["two", "four"].map(|name| format!("{}:7", b.address(name)));
    let (served, _bulk, heard) = (two.echo_udp(7), two.serve_bulk(8), four.echo_udp(7));
    wait_until("they are known", || a.map().len() == 2 && b.map().len() == 2);

    assert_told_of(a);

    let capture = Capture::begin(&b.host, &from_a);
    assert_eq!(one.pings(&b.address("two").to_string(), 3, PATIENCE), 3);
    one.transfers(&format!("{}:8", b.address("two")), 300_000);
    tells(&one, &to);
    wait_until("it is heard", || !served.peers().is_empty());
    let (bytes, lines) = capture.end();
    assert!(!holds(&bytes, MARKER) && lines.contains("ESP("), "{lines}");
    assert!(!lines.contains(".4789:") && !lines.contains(".4790:"), "nothing of it in clear: {lines}");
    let capture = Capture::begin(&b.host, &from_a);
    tells(&three, &in_clear);
    wait_until("it is heard", || !heard.peers().is_empty());
    assert!(holds(&capture.end().0, MARKER), "of another network it is seen");

    what_comes_in_clear_is_dropped(&cluster, &stranger, near);
    keys_change_and_nothing_is_lost(&cluster, || one.pings_udp(&to, 20));
    what_is_lost_stops_traffic_until_it_is_made_anew(&cluster, &one, &to, &from_a);

    let before = cluster.nodes.iter().map(|node| indexes(&node.host)).collect::<Vec<_>>();
    let pings = one.pings_udp(&to, 20);
    wait_until("some are answered", || pings.answered() > 20);
    cluster.nodes[1].netd.kill();
    let answered = pings.answered();
    wait_until("more are answered", || pings.answered() > answered + 20);
    cluster.nodes[1].netd.start();
    wait_within(LONG, "it is among the nodes", || {
        is_settled(&cluster, encryption(&cluster.nodes[0], "generation").as_u64().unwrap_or(0))
    });
    pings.finish().assert_none_lost();
    assert_eq!(cluster.nodes.iter().map(|node| indexes(&node.host)).collect::<Vec<_>>(), before, "taken over");
    who_has_no_keys_is_named(&cluster, near);
}

/// What a node with keys says of encryption.
fn assert_told_of(node: &Node) {
    let inspected = node.netd.say("network inspect secret").json();
    assert_eq!(inspected.pointer("/0/segment/encrypted"), Some(&true.into()), "{inspected}");
    assert_eq!(inspected.pointer("/0/segment/port"), Some(&PORT.into()), "{inspected}");
    let status = node.netd.say("status").stdout;
    let line = "encrypted networks: by UDP port 4790 in ESP, keys number 1 since ";
    assert!(status.contains(line) && status.contains(", 2 security associations\n"), "{status}");
    let examined = node.netd.say("doctor");
    assert!(!examined.stdout.contains("encrypted networks"), "{examined}");
    comes_to_be_verified(&node.netd);
}

/// A node that has no keys is named, and nothing else is held up by it.
fn who_has_no_keys_is_named(cluster: &Cluster, near: IpAddr) {
    let third: IpAddr = if near.is_ipv4() { vtep(8) } else { vtep_of_ipv6(8) };
    let etcd = &cluster.etcd[0];
    let session = serde_json::json!({ "id": "c".repeat(32), "vtep": third, "port": PORT });
    etcd.put("/netd/v1/sessions/ghost", &session.to_string());
    let node = serde_json::json!({
        "incarnation": 1, "host": "ghost", "vtep": third, "vxlan_port": 4789, "encrypted_port": PORT, "version": "0.0.9",
        "understands": ["encrypted", "no-icc"],
    });
    etcd.put("/netd/v1/nodes/ghost", &node.to_string());

    let a = &cluster.nodes[0];
    wait_within(LONG, "it is told", || encryption(a, "waiting") == serde_json::json!(["ghost"]));
    assert!(a.netd.say("status").stdout.contains("; no keys yet with ghost"));
    let examined = a.netd.say("doctor").stdout;
    assert!(examined.contains("no keys are agreed on with node ghost yet"), "{examined}");
    let line = "node ghost cannot read yet what node a encrypts";
    wait_until("it is named", || {
        let verified = a.netd.say("overlay verify");
        verified.code() == 1 && verified.stdout.contains(line)
    });
}

fn what_comes_in_clear_is_dropped(cluster: &Cluster, stranger: &Host, near: IpAddr) {
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let vni = vni_of(a, "secret");
    let macs = [mac_of(b, "two"), mac_of(a, "one")];
    let frame = encapsulated(vni, macs, (b.address("two"), a.address("one")), 7);
    let heard = a.host.existing_container("one").echo_udp(7);
    let send_as = |from: &Host, source: IpAddr, port: u16| {
        from.enter(|| {
            let socket = UdpSocket::bind((source, 0)).expect("a port is free");
            socket.send_to(&frame, (near, port)).expect("it is sent");
        });
    };
    let any: IpAddr = if near.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let send = |from: &Host, port: u16| send_as(from, any, port);

    let before = dropped(a, "not_encrypted");
    send(&b.host, 4789);
    wait_until("it is counted", || dropped(a, "not_encrypted") == before + 1);
    let before = refused(&a.host);
    send(stranger, PORT);
    wait_until("the kernel refuses it", || refused(&a.host) == before + 1);
    // In a node's own name too, for which the stranger does not ask or answer by ARP.
    let (before, node) = (refused(&a.host), if near.is_ipv4() { vtep(1) } else { vtep_of_ipv6(1) });
    stranger.run(["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"]).ok();
    let prefix = if near.is_ipv4() { 32 } else { 128 };
    stranger.ip(&format!("address add {node}/{prefix} dev lo"));
    send_as(stranger, node, PORT);
    wait_until("the kernel refuses it", || refused(&a.host) == before + 1);
    stranger.ip(&format!("address del {node}/{prefix} dev lo"));
    // What comes the right way is heard: nothing that was sent before has arrived.
    tells(&b.host.existing_container("two"), &format!("{}:7", a.address("one")));
    wait_until("it is heard", || !heard.peers().is_empty());
    assert_eq!(heard.peers(), [b.address("two")], "and nothing of all this");
}

fn keys_change_and_nothing_is_lost(cluster: &Cluster, ping: impl Fn() -> UdpPinging) {
    let a = &cluster.nodes[0];
    a.host.ip("xfrm state add src 198.51.100.1 dst 198.51.100.2 proto esp spi 0x999 reqid 7 mode transport \
         aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128");
    a.host.ip("xfrm policy add src 198.51.100.1 dst 198.51.100.2 dir out tmpl proto esp reqid 7 mode transport");
    let before = indexes(&a.host);
    let pings = ping();
    wait_until("some are answered", || pings.answered() > 20);
    for generation in [2, 3] {
        wait_until("the keys change", || a.netd.say("overlay rekey").succeeded());
        wait_within(LONG, "all have the new ones, and the old ones are gone", || is_settled(cluster, generation));
        let answered = pings.answered();
        wait_until("more are answered", || pings.answered() > answered + 20);
    }
    pings.finish().assert_none_lost();
    let after = indexes(&a.host);
    assert_eq!(before.intersection(&after).collect::<Vec<_>>(), ["0x00000999"], "every key is another; others' stay");
    assert!(a.host.ip("xfrm policy list").contains("reqid 7"), "and their policies");
}

fn what_is_lost_stops_traffic_until_it_is_made_anew(
    cluster: &Cluster,
    one: &netd_tests::lab::Node,
    to: &str,
    from_a: &str,
) {
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let before = indexes(&a.host);
    let capture = Capture::begin(&b.host, from_a);
    a.host.ip("xfrm state flush");
    a.host.ip("xfrm policy flush");
    for _ in 0..50 {
        tells(one, to);
    }
    wait_within(LONG, "it is made anew", || one.asks_udp(to, 1, 64, IMPATIENCE) == 1);
    let (bytes, lines) = capture.end();
    assert!(!holds(&bytes, MARKER), "nothing has left in clear: {lines}");
    let after = indexes(&a.host);
    assert!(before.is_disjoint(&after), "no key is used again: {before:?} {after:?}");
    wait_within(LONG, "all have keys", || is_settled(cluster, 3));
}
