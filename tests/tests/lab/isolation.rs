//! Containers that a network keeps apart, what is allowed between them, and in whose name a container may speak.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use netd_tests::{
    lab::{
        Container, Node, Offloads,
        traffic::{IMPATIENCE, PATIENCE},
    },
    neighbours::{Discovery, arp},
};
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use serde_json::json;

use crate::{
    says::{self, inspected},
    town::{Town, wait_until},
};

#[test]
fn what_is_allowed_is_open_both_ways_for_its_answers_and_closed_the_other_way() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create apart --ipv6 --no-icc").ok();
    let [web, db] = ["web", "db"].map(|name| town.container(name, "apart", &[]));
    let _servers = [web.echo_tcp(7), db.echo_tcp(7), db.echo_tcp(9)];
    let _datagrams = [web.echo_udp(7), db.echo_udp(7)];
    // Both families are treated alike.
    let asks = |from: &Container, to: &str, port: u16, wait| {
        addresses(&town, to)
            .map(|address| from.asks_tcp(&std::net::SocketAddr::new(address, port).to_string(), wait).is_ok())
    };
    let opens = |from: &Container, to: &str, port: u16| asks(from, to, port, PATIENCE) == [true; 2];
    let is_shut = |from: &Container, to: &str, port: u16| asks(from, to, port, IMPATIENCE) == [false; 2];
    let refused_before = counted(&town, "dropped/not_allowed");

    assert!(is_shut(&web, "db", 7) && is_shut(&db, "web", 7), "nothing is allowed yet");
    assert!(counted(&town, "dropped/not_allowed") > refused_before);

    town.netd.say("allow web db:7").ok();
    assert!(opens(&web, "db", 7), "it is allowed at once");
    assert!(is_shut(&web, "db", 9) && is_shut(&db, "web", 7), "another port, and the other way");
    assert_eq!(inspected(&town.netd, "inspect db")["allows"], json!([{"from": "web", "port": 7, "proto": "tcp"}]));

    town.netd.say("allow web db").ok();
    let [db4, db6] = addresses(&town, "db").map(|address| address.to_string());
    assert!(opens(&web, "db", 9));
    assert_eq!((web.pings(&db4, 1, PATIENCE), web.pings(&db6, 1, PATIENCE)), (1, 1));
    assert_eq!(web.asks_udp(&format!("{db4}:7"), 3, 4000, PATIENCE), 3, "in fragments too");
    assert!(is_shut(&db, "web", 7));
    town.netd.say("deny web db:9").refused(["web", "db:9/tcp", "everything"]);

    let mut talk = web.connect(&format!("{db4}:7"), PATIENCE).expect("it is allowed");
    town.netd.say("deny web db").ok();
    assert!(is_shut(&web, "db", 7), "it is denied at once");
    let said = std::io::Write::write_all(&mut talk, b"still there?").and_then(|()| {
        talk.set_read_timeout(Some(IMPATIENCE))?;
        std::io::Read::read_exact(&mut talk, &mut [0; 12])
    });
    assert!(
        said.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "live flows too"
    );
    assert_eq!(inspected(&town.netd, "inspect db")["allows"], json!([]));
    town.netd.say("deny web db").refused(["web", "db"]);
}

#[test]
fn containers_that_are_kept_apart_do_not_hear_each_others_broadcasts_and_the_bridge_is_mended() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create apart --no-icc").ok();
    let [web, db] = ["web", "db"].map(|name| town.container(name, "apart", &[]));
    let port = says::text(&inspected(&town.netd, "inspect db"), "/networks/0/veth");
    let is_isolated = || town.host.ip(&format!("-d link show dev {port}")).contains("isolated on");
    assert!(is_isolated());
    let heard = || db.enter(|| std::net::UdpSocket::bind("0.0.0.0:9000")).expect("the port is free");
    let ear = heard();
    ear.set_read_timeout(Some(IMPATIENCE)).expect("a socket can be given a timeout");

    let mouth = web.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).expect("a port is free");
    mouth.set_broadcast(true).expect("a socket may send to everybody");
    mouth.send_to(b"anybody?", "255.255.255.255:9000").expect("it is sent");
    assert!(ear.recv(&mut [0; 16]).is_err(), "nobody hears it");

    town.host.ip(&format!("link set dev {port} type bridge_slave isolated off"));
    wait_until("the port is kept apart again", is_isolated);
}

#[test]
fn the_hosts_loopback_is_out_of_a_containers_reach_whatever_its_routes_and_each_try_is_counted() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let server = town.host.echo_tcp(7000);
    town.host.asks_tcp("127.0.0.1:7000", PATIENCE).expect("the host itself reaches it");
    // The host would take it, and the container has the way there.
    for (node, device) in [(&*town.host, "all"), (&*app, "eth0")] {
        let sysctl = format!("/proc/sys/net/ipv4/conf/{device}/route_localnet");
        node.enter(|| std::fs::write(&sysctl, "1")).expect("the sysctl can be written");
    }
    app.ip("address flush dev lo");
    app.ip(&format!("route add 127.0.0.0/8 via {}", says::gateway_of(&town.netd, "blue")));

    assert!(app.asks_tcp("127.0.0.1:7000", IMPATIENCE).is_err());

    assert!(counted(&town, "dropped/loopback_from_wire") > 0);
    server.assert_seen_only("127.0.0.1");
}

#[test]
fn a_container_speaks_in_its_own_name_alone_and_each_lie_is_counted() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create blue --ipv6").ok();
    let [web, app] = ["web", "app"].map(|name| town.container(name, "blue", &[]));
    let gateway = gateways(&town, "blue");
    let (own, its) = (mac(&town, "web"), addresses(&town, "web"));
    let neighbour = addresses(&town, "app");
    let everybody = [0xff; 6];
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    let advertises = |ends: [Ipv6Addr; 2], target: IpAddr, kind: u8| Discovery {
        kind,
        macs: [own, all_nodes],
        ends: ends.map(|end| end.octets()),
        target: v6(target).octets(),
        option: Some((2, own)),
        hop_limit: 255,
    };
    let group: Ipv6Addr = "ff02::1".parse().expect("an address");
    let of = |address: IpAddr| arp(2, [own, everybody], (own, v4(address).octets()), ([0; 6], v4(its[0]).octets()));
    let lies = [
        ("ARP for the gateway", of(gateway[0]), "spoofed_address"),
        ("ARP for a neighbour", of(neighbour[0]), "spoofed_address"),
        (
            "another's link-layer address",
            arp(1, [[2, 6, 6, 6, 6, 6], everybody], ([2, 6, 6, 6, 6, 6], v4(its[0]).octets()), ([0; 6], [0; 4])),
            "spoofed_mac",
        ),
        (
            "an advertisement of the gateway",
            advertises([v6(its[1]), group], gateway[1], 136).bytes(),
            "spoofed_address",
        ),
        (
            "an advertisement of a neighbour",
            advertises([v6(its[1]), group], neighbour[1], 136).bytes(),
            "spoofed_address",
        ),
        ("one in the gateway's name", advertises([v6(gateway[1]), group], gateway[1], 136).bytes(), "spoofed_address"),
        ("a router's advertisement", advertises([v6(its[1]), group], its[1], 134).bytes(), "spoofed_router"),
        ("a redirect", advertises([v6(its[1]), group], its[1], 137).bytes(), "spoofed_router"),
    ];
    for (what, frame, reason) in lies {
        let counter = format!("dropped/{reason}");
        let before = counted(&town, &counter);

        send(&web, &frame);

        wait_until(&format!("{what} is dropped and counted"), || counted(&town, &counter) > before);
        assert_eq!(counted(&town, &counter), before + 1, "{what} is dropped once");
    }
    let lies_about_sources = counted(&town, "dropped/spoofed_address");
    web.ip(&format!("address add {}/24 dev eth0", Ipv4Addr::new(10, 250, 0, 9)));
    let stranger = web.enter(|| std::net::UdpSocket::bind("10.250.0.9:0")).expect("it is the container's own idea");
    stranger.send_to(b"hello", (neighbour[0], 9)).expect("it is sent");
    wait_until("a packet from a stranger's address is counted", || {
        counted(&town, "dropped/spoofed_address") > lies_about_sources
    });
    for (own_idea, to) in neighbour.into_iter().zip(gateway) {
        assert_eq!(web.pings(&to.to_string(), 1, PATIENCE), 1, "who the gateway is, it knows");
        let before = counted(&town, "dropped/spoofed_address");
        // An address of IPv6 is tentative for a moment else, at this device too.
        web.ip(&format!("address add {own_idea} dev lo nodad"));

        let liar = web.enter(|| std::net::UdpSocket::bind((own_idea, 0))).expect("it is the container's own idea");
        liar.send_to(b"hello", (to, 9)).expect("it is sent");

        wait_until(&format!("a packet from {own_idea}, which is a neighbour's, is counted"), || {
            counted(&town, "dropped/spoofed_address") > before
        });
        web.ip(&format!("address del {own_idea} dev lo"));
    }
    // Nobody believes otherwise, and the truth gets through.
    let known = app.ip("neigh show dev eth0");
    assert!(!known.contains(&format!("{} lladdr {}", gateway[0], text(own))), "{known}");
    assert_eq!((app.pings(&its[0].to_string(), 1, PATIENCE), app.pings(&its[1].to_string(), 1, PATIENCE)), (1, 1));
}

/// Puts a frame on the wire of a container's `eth0`.
fn send(container: &Node, frame: &[u8]) {
    let index = container.ifindex("eth0").expect("there is eth0");
    container.enter(|| {
        let raw =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).expect("root opens raw sockets");
        // SAFETY: all zeroes are an address of nothing, and its fields are filled in.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = index as i32;
        to.sll_halen = 6;
        let (address, length) = ((&raw const to).cast(), size_of::<libc::sockaddr_ll>() as u32);
        // SAFETY: the frame and the address live through the call, and their sizes are told.
        let sent = unsafe { libc::sendto(raw.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address, length) };
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    });
}

fn counted(town: &Town, counter: &str) -> u64 {
    let status = town.netd.json("status");
    let programs = status["programs"].as_array().expect("a daemon has programs");
    let program = programs.iter().find(|one| one["name"] == "from_container").expect("one is from_container");
    program.pointer(&format!("/{counter}")).and_then(serde_json::Value::as_u64).unwrap_or_default()
}

fn addresses(town: &Town, endpoint: &str) -> [IpAddr; 2] {
    let told = inspected(&town.netd, &format!("inspect {endpoint}"));
    ["/networks/0/ip", "/networks/0/ip6"].map(|at| says::text(&told, at).parse().expect("an address"))
}

fn gateways(town: &Town, network: &str) -> [IpAddr; 2] {
    let told = inspected(&town.netd, &format!("network inspect {network}"));
    ["/subnets/0/gateway", "/subnets/1/gateway"].map(|at| says::text(&told, at).parse().expect("an address"))
}

fn mac(town: &Town, endpoint: &str) -> [u8; 6] {
    let told = says::text(&inspected(&town.netd, &format!("inspect {endpoint}")), "/networks/0/mac");
    let bytes: Vec<u8> = told.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect();
    bytes.try_into().expect("six bytes")
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn v4(address: IpAddr) -> Ipv4Addr {
    address.to_string().parse().expect("an IPv4 address")
}

fn v6(address: IpAddr) -> Ipv6Addr {
    address.to_string().parse().expect("an IPv6 address")
}
