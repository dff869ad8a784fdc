//! What is forged, and what is of another network with the same addresses, reaches nobody.

use std::net::{IpAddr, UdpSocket};

use netd_tests::{
    lab::{Host, traffic::IMPATIENCE},
    packets::udp,
};

use crate::{
    cluster::{Cluster, Node, PATIENCE, comes_to_be_verified, done, options, vtep, wait_until},
    member::Member,
};

/// The UDP port of the tunnels.
const VXLAN: u16 = 4789;

/// A frame for a host's tunnel: a datagram between two containers, in a VXLAN header (RFC 7348 section 5).
pub fn encapsulated(vni: u32, macs: [[u8; 6]; 2], (from, to): (IpAddr, IpAddr), port: u16) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let header = [8, 0, 0, 0, a, b, c, 0];
    let frame = udp(&format!("{from}:4000"), &format!("{to}:{port}")).macs(macs[0], macs[1]).bytes();
    [&header[..], &frame].concat()
}

/// Sends one from a host's own address to a node.
pub fn forge(from: &Host, to: IpAddr, frame: &[u8]) {
    from.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
        socket.send_to(frame, (to, VXLAN)).expect("it is sent");
    });
}

pub fn mac_of(node: &Node, endpoint: &str) -> [u8; 6] {
    let shown = node.netd.say(&format!("inspect {endpoint}")).json();
    let text = shown.pointer("/0/networks/0/mac").and_then(|mac| mac.as_str()).expect("it has one").to_owned();
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect();
    bytes.try_into().expect("six bytes")
}

pub fn vni_of(node: &Node, network: &str) -> u32 {
    let shown = node.netd.say(&format!("network inspect {network}")).json();
    shown.pointer("/0/segment/vni").and_then(|vni| vni.as_u64()).expect("it has one") as u32
}

/// How often the program at the tunnel has dropped something for this reason.
pub fn dropped(node: &Node, reason: &str) -> u64 {
    let status = node.netd.json("status");
    let programs = status["programs"].as_array().expect("programs").clone();
    let program = programs.into_iter().find(|one| one["name"] == "from_overlay").expect("from_overlay");
    program["dropped"][reason].as_u64().unwrap_or(0)
}

#[test]
fn a_forged_packet_is_dropped_for_its_reason_and_an_honest_one_arrives() {
    let cluster = Cluster::new(2, 1);
    let stranger = cluster.lab.host("stranger");
    cluster.add_to_street(&stranger, 150);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    for network in ["web", "other"] {
        done(&a.netd, &format!("network create -d overlay {network}"));
        wait_until("it is everywhere", || b.netd.say(&format!("network inspect {network}")).succeeded());
    }
    let one = a.container("one", "web");
    let _others = [b.container("two", "web"), a.container("three", "other")];
    wait_until("a knows two", || a.map().len() == 1);
    let served = one.echo_udp(7);
    let macs = [mac_of(b, "two"), mac_of(a, "one")];
    let (from, to) = (b.address("two"), a.address("one"));
    let [web, other] = ["web", "other"].map(|network| vni_of(a, network));

    let honest = encapsulated(web, macs, (from, to), 7);
    let as_another = encapsulated(web, [macs[0], mac_of(a, "three")], (from, to), 7);
    for (what, sender, frame, reason) in [
        ("from a stranger, in everything else right", &stranger, honest.clone(), "unknown_vtep"),
        ("from a node, of no network", &b.host, encapsulated(0x00ff_ff00, macs, (from, to), 7), "unknown_segment"),
        ("from a node, of another network", &b.host, encapsulated(other, macs, (from, to), 7), "no_endpoint"),
        ("from a node, to another's link-layer address", &b.host, as_another, "no_endpoint"),
    ] {
        let before = dropped(a, reason);
        wait_until(&format!("{what}: it is counted"), || {
            forge(sender, vtep(0), &frame);
            dropped(a, reason) > before
        });
        assert!(served.peers().is_empty(), "{what}: it arrived");
    }
    forge(&b.host, vtep(0), &honest);
    wait_until("what a node says in its own name arrives", || served.peers() == [from]);

    // A node whose route has it send as another of its addresses is a stranger too, and says so itself.
    let two = b.host.existing_container("two");
    let (line, echo) = (
        format!("to node a ({}) this host sends as 192.0.2.52, and not as --vtep {}", vtep(0), vtep(1)),
        format!("{to}:7"),
    );
    b.host.ip("address add 192.0.2.52/24 dev eth0");
    b.host.ip("route add 192.0.2.1/32 dev eth0 src 192.0.2.52");
    wait_until("its status says so", || b.netd.say("status").stdout.contains(&line));
    assert!(b.netd.say("doctor").stdout.contains(&line), "and the doctor");
    let before = dropped(a, "unknown_vtep");
    assert_eq!(two.asks_udp(&echo, 1, 64, IMPATIENCE), 0);
    wait_until("it is dropped there", || dropped(a, "unknown_vtep") > before);
    b.host.ip("route replace 192.0.2.1/32 dev eth0 src 192.0.2.2");
    wait_until("as it says, the route's source mends it", || {
        two.asks_udp(&echo, 1, 64, IMPATIENCE) == 1 && !b.netd.say("status").stdout.contains(&line)
    });
}

#[test]
fn two_networks_with_one_subnet_and_two_vnis_never_leak() {
    let cluster = Cluster::new(2, 1);
    // Another cluster on the same wire, whose network of that name has the same addresses.
    let mut etcd = Member::alone(&cluster, 111);
    etcd.start();
    let others = [(3, "c"), (4, "d")].map(|(number, name)| {
        let host = cluster.lab.host(name);
        cluster.add_to_street(&host, number);
        let netd = host.netd_with(options(name, vtep(number - 1), &[etcd.url.clone()]));
        (host, netd)
    });
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let [(c, netd_c), (d, netd_d)] = &others;
    wait_until("the others are nodes", || netd_c.json("node ls").as_array().is_some_and(|nodes| nodes.len() == 2));
    done(netd_c, "network create -d overlay first");
    for (netd, other) in [(&a.netd, &b.netd), (netd_c, netd_d)] {
        done(netd, "network create -d overlay web --subnet 10.50.0.0/24");
        wait_until("it is everywhere", || other.say("network inspect web").succeeded());
    }
    let vni = |netd: &netd_tests::lab::Netd| netd.say("network inspect web").json()[0]["segment"]["vni"].clone();
    assert_ne!(vni(&a.netd), vni(netd_c), "two networks");

    let attach = |netd: &netd_tests::lab::Netd, host: &Host, name: &str, last: u8| {
        let container = host.container(name);
        let place = format!("--netns /run/netns/{name} --network web:ip=10.50.0.{last}");
        done(netd, &format!("attach {name} {place}"));
        container
    };
    let clients = [attach(&a.netd, &a.host, "client", 10), attach(netd_c, c, "client", 10)];
    let servers = [attach(&b.netd, &b.host, "server", 11), attach(netd_d, d, "server", 11)];
    let _alone = attach(netd_d, d, "alone", 12);
    let served = servers.each_ref().map(|server| server.echo_tcp(7));
    for (client, count) in clients.iter().zip([5, 3]) {
        wait_until("they reach each other", || client.asks_tcp("10.50.0.11:7", PATIENCE).is_ok());
        (1..count).for_each(|_| client.asks_tcp("10.50.0.11:7", PATIENCE).expect("again"));
    }

    assert!(served[0].peers().len() >= 5 && served[1].peers().len() >= 3, "each its own");
    let heard = served.each_ref().map(|served| served.peers().len());
    clients[0].asks_tcp("10.50.0.11:7", PATIENCE).expect("once more");
    assert_eq!(served.each_ref().map(|served| served.peers().len()), [heard[0] + 1, heard[1]], "and nobody else's");
    assert_eq!(clients[0].pings("10.50.0.12", 1, IMPATIENCE), 0, "who is there alone");
    assert_eq!(clients[1].pings("10.50.0.12", 1, PATIENCE), 1);
    assert_eq!(a.map().into_iter().collect::<Vec<_>>(), [("10.50.0.11".parse().expect("an address"), vtep(1))]);
}

#[test]
fn networks_of_the_cluster_and_by_hand_are_side_by_side_on_one_port_whichever_it_is() {
    let mut cluster = Cluster::new(2, 1);
    let plain = cluster.lab.host("plain");
    cluster.add_to_street(&plain, 150);
    cluster.nodes[0].netd.say("network create -d overlay web").ok();
    wait_until("it is everywhere", || cluster.nodes[1].netd.say("network inspect web").succeeded());
    let _both = [cluster.nodes[0].container("one", "web"), cluster.nodes[1].container("two", "web")];
    are_side_by_side(&cluster, &plain, VXLAN);

    // The cluster's tunnels move to another port, the kernel's own, with all that is in them.
    let urls = [cluster.etcd[0].url.clone()];
    for ((number, name), node) in ["a", "b"].into_iter().enumerate().zip(&mut cluster.nodes) {
        node.netd.kill();
        node.netd = node.host.netd_with(options(name, vtep(number), &urls).arguments(["--vxlan-port", "8472"]));
    }
    are_side_by_side(&cluster, &plain, 8472);
    assert_eq!(cluster.nodes[0].netd.say("overlay verify").ok(), "every node forwards what etcd says\n");
}

#[test]
fn another_vxlan_device_on_the_port_is_named_and_when_it_goes_the_network_is_carried_there() {
    let cluster = Cluster::new(2, 1);
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    b.host.ip("link add theirs type vxlan id 7 dev eth0 dstport 4789");
    b.host.ip("link set theirs up");
    let links =
        || b.host.ip("-br link show").lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
    let before: Vec<String> = links();

    b.netd.say("network create -d overlay mine").refused(["4789", "theirs"]);
    assert_eq!(links(), before, "nothing is left of it");
    assert!([a, b].iter().all(|node| node.netd.say("network ls -q").stdout.is_empty()), "and nobody has it");

    // One that another node makes is on this one too, and is carried when it can be.
    done(&a.netd, "network create -d overlay web");
    let line = "network web has UDP port 4789, which the VXLAN device theirs, not netd's, has too";
    wait_until("the clash is told", || b.netd.say("status").stdout.contains(line));
    assert!(b.netd.say("doctor").stdout.contains(line), "and by the doctor");
    assert!(!a.netd.say("status").stdout.contains("theirs"), "of nobody else");
    let (one, two) = (a.container("one", "web"), b.container("two", "web"));
    let near = b.container("near", "web");
    let served = two.echo_tcp(7);
    let to = format!("{}:7", b.address("two"));
    near.asks_tcp(&to, PATIENCE).expect("on its own host it is a network all the same");
    wait_until("a knows them", || a.map().len() == 2);
    assert!(one.asks_tcp(&to, IMPATIENCE).is_err() && served.peers().len() == 1, "nobody comes from elsewhere");
    let theirs = b.host.ip("-d link show theirs");
    assert!(theirs.contains("vxlan id 7") && theirs.contains(",UP"), "theirs is as it was: {theirs}");

    b.host.ip("link del theirs");
    wait_until("it is carried", || one.asks_tcp(&to, IMPATIENCE * 5).is_ok());
    wait_until("and nothing is told any more", || !b.netd.say("status").stdout.contains("4789, which"));
    comes_to_be_verified(&a.netd);
}

/// Containers `one` and `two` of the cluster's network `web`, and a network by hand between the first node and a plain host.
fn are_side_by_side(cluster: &Cluster, plain: &Host, port: u16) {
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let create = "network create -d vxlan hand --vni 42 --peer 192.0.2.150 --subnet 10.9.0.0/24";
    a.netd.say(&format!("{create} --vxlan-port {port}")).ok();
    let [one, two] = [(a, "one"), (b, "two")].map(|(node, name)| node.host.existing_container(name));
    let hand = a.container(&format!("hand{port}"), "hand:ip=10.9.0.11");
    plain_vtep(plain, 42, port);
    let served = [two.echo_tcp(7), plain.echo_tcp(7), hand.echo_tcp(7)];

    let far = format!("{}:7", b.address("two"));
    wait_until("by the cluster", || one.asks_tcp(&far, PATIENCE).is_ok());
    wait_until("by hand", || hand.asks_tcp("10.9.0.100:7", PATIENCE).is_ok());
    plain.asks_tcp("10.9.0.11:7", PATIENCE).expect("and back");
    one.asks_tcp(&far, PATIENCE).expect("still by the cluster");

    wait_until("one device carries both", || {
        let devices = a.host.ip("-br link show type vxlan");
        devices.lines().count() == 1 && devices.starts_with(&format!("ndx-{port} "))
    });
    let seen = served.each_ref().map(|served| served.peers().len());
    assert!(seen[0] >= 2 && seen[1] >= 1 && seen[2] == 1, "{seen:?}");
    assert!(one.asks_tcp("10.9.0.100:7", IMPATIENCE).is_err(), "and they are apart");
    assert_eq!(a.map().len(), 1, "the cluster knows nothing of what is by hand");
    a.netd.say(&format!("detach hand{port}")).ok();
    a.netd.say("network rm hand").ok();
    plain.ip("link del vx0");
}

/// A plain Linux VTEP at 10.9.0.100 that sends what it does not know to the first node; by `dstport 0` where the kernel's own port is meant.
pub fn plain_vtep(plain: &Host, vni: u32, port: u16) {
    let dstport = if port == 8472 { 0 } else { port };
    plain.ip(&format!("link add vx0 type vxlan id {vni} dev eth0 dstport {dstport}"));
    plain.ip("address add 10.9.0.100/24 dev vx0");
    plain.ip("link set vx0 up");
    plain.run("bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.1".split(' ')).ok();
}
