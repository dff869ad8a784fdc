//! IPv6: beside IPv4 and alone, behind the host's address and with one's own.

use std::{
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
};

use netd_tests::lab::{
    NetdOptions, Node, Offloads,
    traffic::{IMPATIENCE, PATIENCE},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket, sockopt,
};

use crate::{
    cases::{Ports, Servers, on_both_kinds},
    says,
    town::{Town, wait_until},
};

/// The host's address towards the internet.
pub const HOST: &str = "2001:db8:1::1";
/// The internet's address on the wire.
const NEIGHBOUR: &str = "2001:db8:1::2";
/// The internet's address behind the default route.
pub const INTERNET: &str = "2001:db8:ffff::80";
/// The host's address towards the client.
pub const FRONT: &str = "2001:db8:2::1";
/// The client's address.
pub const CLIENT: &str = "2001:db8:2::2";

/// Bytes of a datagram in its first fragment, and in its second, which alone is as large as a link need take.
const FIRST: usize = 64;
const SECOND: usize = 1232;
/// Bytes of an extension header.
const OPTIONS: usize = 200;

#[test]
fn containers_of_both_families_reach_each_other_and_their_gateway() {
    on_both_kinds(&NetdOptions::default(), |town| {
        pave(town);
        town.netd.say("network create blue --ipv6").ok();
        let web = town.container("web", "blue", &[]);
        let app = town.container("app", "blue", &[]);
        let servers = Servers::in_node(&web);
        let (web6, app6) = (address6(town, "web"), address6(town, "app"));

        servers.answer(&app, &town.address("web"));
        servers.answer(&app, &web6);

        let seen = servers.all_peers();
        assert!(seen.iter().all(|peer| [town.address("app"), app6.clone()].contains(&peer.to_string())), "{seen:?}");
        let gateway = says::text(&says::inspected(&town.netd, "network inspect blue"), "/subnets/1/gateway");
        assert_eq!(app.pings(&gateway, 3, PATIENCE), 3);
        assert!(says::counted(&town.netd, "from_container", "to_peer") > 0, "the programs deliver, not the bridge");
    });
}

#[test]
fn a_container_with_a_unique_local_address_leaves_by_that_of_its_host() {
    on_both_kinds(&NetdOptions::default(), leaves_by_the_address_of_its_host);
}

pub fn leaves_by_the_address_of_its_host(town: &Town) {
    pave(town);
    town.netd.say("network create blue --ipv6").ok();
    let app = town.container("app", "blue", &[]);
    let servers = Servers::in_node(&town.internet);

    servers.answer(&app, INTERNET);

    servers.have_seen_only(HOST);
    let neighbours = says::counted(&town.netd, "from_container", "to_neighbour");
    assert!(neighbours > 0, "the programs forward, not the stack");
}

#[test]
fn a_client_outside_reaches_a_port_by_either_family() {
    on_both_kinds(&NetdOptions::default(), is_reached_by_either_family);
}

pub fn is_reached_by_either_family(town: &Town) {
    pave(town);
    town.netd.say("network create blue --ipv6").ok();
    let web = town.container("web", "blue", &["8080:80", "8007:7", "8007:7/udp", "9000:9000"]);
    let servers = Servers::in_node(&web);
    let ports = Ports { http: 8080, echo: 8007, bulk: 9000 };

    servers.answer_at(&town.client, FRONT, ports);

    servers.have_seen_only(CLIENT);
    servers.answer_at(&town.client, crate::town::FRONT, ports);
    assert!(town.client.asks_tcp(&format!("[{FRONT}]:8081"), IMPATIENCE).is_err(), "nothing else is published");
    let published = town.netd.json("ps");
    let places: Vec<_> = (0..2).map(|i| says::text(&published, &format!("/0/ports/{i}/host_ip"))).collect();
    assert_eq!(places, ["0.0.0.0", "::"]);
}

#[test]
fn a_network_may_have_ipv6_alone() {
    let town = paved(Offloads::On);
    town.netd.say("network create six --subnet fd00:6::/64 --gateway fd00:6::fe --ip-range fd00:6::100/120").ok();
    let web = town.container("web", "six:ip6=fd00:6::7", &["80:80"]);
    let app = town.container("app", "six", &[]);
    let servers = Servers::in_node(&town.internet);
    let http = web.serve_http(80);

    assert_eq!([address6(&town, "web"), address6(&town, "app")], ["fd00:6::7", "fd00:6::100"]);
    servers.answer(&app, INTERNET);
    assert_eq!(town.client.curl(&format!("http://[{FRONT}]/")).ok(), format!("web sees {CLIENT}\n"));
    http.assert_seen_only(CLIENT);
    assert!(app.ip("-4 address show dev eth0").is_empty());
    assert!(town.client.asks_tcp(&format!("{}:80", crate::town::FRONT), IMPATIENCE).is_err());
}

#[test]
fn containers_with_global_addresses_keep_them_and_are_closed_but_for_their_published_ports() {
    on_both_kinds(&NetdOptions::default(), |town| {
        pave(town);
        // Beyond the host they are known by a route to it.
        town.internet.ip(&format!("-6 route add 2001:db8:c::/64 via {HOST}"));
        town.netd.say("network create global --subnet 2001:db8:c::/64").ok();
        let web = town.container("web", "global", &["8080:80", "7:7", "7:7/udp", "9000:9000"]);
        let app = town.container("app", "global", &[]);
        let (outside, inside) = (Servers::in_node(&town.internet), Servers::in_node(&web));
        let (web6, app6) = (address6(town, "web"), address6(town, "app"));
        let closed = app.echo_tcp(7);

        outside.answer(&app, INTERNET);

        outside.have_seen_only(&app6);
        assert!(says::counted(&town.netd, "from_container", "to_neighbour") > 0);
        // By their own numbers: the port of the host is nobody's.
        for port in [80, 7, 9000] {
            town.client.connect(&format!("[{web6}]:{port}"), PATIENCE).expect("a published port is open");
        }
        assert_eq!(town.client.curl(&format!("http://[{web6}]/")).ok(), format!("web sees {CLIENT}\n"));
        assert_eq!(town.internet.asks_udp(&format!("[{web6}]:7"), 3, 4000, PATIENCE), 3);
        town.client.transfers(&format!("[{web6}]:9000"), 1_000_000);
        assert!(inside.all_peers().iter().all(|peer| [CLIENT, NEIGHBOUR].contains(&peer.to_string().as_str())));
        assert!(town.client.asks_tcp(&format!("[{FRONT}]:8080"), IMPATIENCE).is_err());
        for outsider in [&town.client, &town.internet] {
            assert!(outsider.asks_tcp(&format!("[{app6}]:7"), IMPATIENCE).is_err(), "nothing is published");
        }
        assert!(closed.peers().is_empty());
    });
}

#[test]
fn what_the_host_puts_together_and_cuts_anew_opens_no_port_of_a_container_either() {
    let town = paved(Offloads::Off);
    town.netd.say("network create global --subnet 2001:db8:c::/64").ok();
    let app = town.container("app", "global", &["7:7/udp"]);
    let servers = [7, 9].map(|port| app.echo_udp(port));
    let app6: Ipv6Addr = address6(&town, "app").parse().expect("it has an address");
    let rule = "add table ip6 t; add chain ip6 t f { type filter hook forward priority 0; }; add rule ip6 t f ct state invalid drop";
    town.host.run(["nft", rule]).ok();
    let whole = |port| town.client.asks_udp(&format!("[{app6}]:{port}"), 1, 2000, IMPATIENCE);
    assert_eq!([whole(7), whole(9)], [1, 0], "in fragments as most come");
    let refused = || {
        let drops = town.netd.json("drops -f hook=to_container -f reason=not_published");
        drops.as_array().expect("an array").iter().map(|drops| says::number(drops, "/packets")).sum::<u64>()
    };
    let before = refused();

    send_cut_anew(&town.client, CLIENT.parse().expect("an address"), app6, [7, 9]);

    wait_until("the open port has its datagram", || servers[0].peers().len() == 2);
    wait_until("both parts of the other are refused", || refused() == before + 2);
    assert!(servers[1].peers().is_empty());
}

/// Sends a datagram to each of these ports in fragments that do not go on as they are where they were put together: an extension header
/// before the fragment header of the first leaves no room for the second.
fn send_cut_anew(from: &Node, source: Ipv6Addr, to: Ipv6Addr, ports: [u16; 2]) {
    for port in ports {
        let ends = [source.octets(), to.octets()].concat();
        let length = (FIRST + SECOND) as u16;
        let mut datagram = [&4000_u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0; 2]].concat();
        datagram.resize(length.into(), 7);
        let summed = [&ends, &datagram, &length.to_be_bytes()[..], &[0, 17]].concat();
        let sum: u32 = summed.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        // An option for experiments, which is passed over where it is not known (RFC 4727): of padding Linux takes seven bytes.
        let options = [&[44, (OPTIONS / 8 - 1) as u8, 0x1e, (OPTIONS - 4) as u8][..], &[0; OPTIONS - 4]].concat();
        let fragment =
            |place: u16, part: &[u8]| [&[17, 0][..], &place.to_be_bytes(), &[0, 0], &port.to_be_bytes(), part].concat();
        let (first, second) = datagram.split_at(FIRST);
        let parts = [(60, [options, fragment(1, first)].concat()), (44, fragment(FIRST as u16, second))];
        for (next, payload) in parts {
            let header = [&[0x60, 0, 0, 0][..], &(payload.len() as u16).to_be_bytes(), &[next, 64], &ends].concat();
            from.enter(|| {
                let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
                let raw = raw.expect("root opens raw sockets");
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendto(raw.as_raw_fd(), &[header, payload].concat(), &to, MsgFlags::empty()).expect("a packet leaves");
            });
        }
    }
}

#[test]
fn what_the_stack_must_answer_is_answered_with_the_gateways_address() {
    let town = paved(Offloads::On);
    town.netd.say("network create blue --ipv6").ok();
    let app = town.container("app", "blue", &[]);
    let gateway = says::text(&says::inspected(&town.netd, "network inspect blue"), "/subnets/1/gateway");

    let expired = app.run(["ping", "-6", "-n", "-c", "1", "-W", "60", "-t", "1", INTERNET]).stdout;

    assert!(expired.contains(&format!("From {gateway} icmp_seq=1 Time exceeded")), "{expired}");
    assert!(app.run(["ping", "-6", "-n", "-c", "1", "-W", "60", "-t", "2", INTERNET]).succeeded());
    // A packet larger than the next link: the sender is told, and what it sends then arrives.
    town.host.ip("link set eth0 mtu 1400");
    town.internet.ip("link set eth0 mtu 1400");
    let echo = town.internet.echo_udp(7);
    let mut sizes = (0..20).map(|_| app.asks_udp(&format!("[{INTERNET}]:7"), 1, 1440, IMPATIENCE));
    assert!(sizes.any(|answered| answered == 1), "the path's MTU is learned");
    echo.assert_seen_only(HOST);
}

#[test]
fn the_host_keeps_the_default_route_that_a_router_announces_and_gets_its_forwarding_back() {
    let town = Town::before_netd();
    let mut netd = town.netd;
    town.host.ip("address add 2001:db8:1::1/64 dev eth0 nodad");
    let default = || town.host.ip("-6 route show default");
    // A host hears none before it has an address of its own there.
    wait_until("the host learns the route", || {
        announce(&town.internet);
        default().contains("proto ra")
    });
    let settings = || {
        ["all", "default", "eth0", "eth1"].map(|device| {
            ["forwarding", "accept_ra"].map(|setting| town.host.sysctl(&format!("ipv6/conf/{device}/{setting}")))
        })
    };
    let (route, before) = (default(), settings());
    netd.start();
    assert_eq!(settings(), before, "a host without IPv6 networks is left as it is");

    netd.say("network create blue --ipv6").ok();
    netd.say("network create green --ipv6").ok();

    assert!(default().starts_with(route.split(" expires").next().unwrap_or_default()), "{}", default());
    assert_eq!(town.host.sysctl("ipv6/conf/eth0/accept_ra").as_deref(), Some("2"));
    assert_eq!(town.host.sysctl("ipv6/conf/eth0/forwarding").as_deref(), Some("1"));
    netd.say("uninstall").ok();
    netd.wait();
    assert_eq!(settings(), before);
    assert!(default().contains("proto ra"), "{}", default());
}

#[test]
fn a_node_has_one_site_of_addresses_through_restarts() {
    let mut town = paved(Offloads::On);
    town.netd.say("network create a --ipv6").ok();
    town.netd.kill();
    town.netd.start();
    town.netd.say("network create b --ipv6").ok();

    let subnets = ["a", "b"].map(|network| {
        says::text(&says::inspected(&town.netd, &format!("network inspect {network}")), "/subnets/1/subnet")
    });
    let site = |subnet: &str| subnet.split(':').take(3).collect::<Vec<_>>().join(":");
    assert!(subnets[0].starts_with("fd") && subnets[0] != subnets[1], "{subnets:?}");
    assert_eq!(site(&subnets[0]), site(&subnets[1].replace(":1::", "::")));
}

/// A town with IPv6 in its streets.
pub fn paved(kind: Offloads) -> Town {
    let town = Town::new(kind);
    pave(&town);
    town
}

/// The same, whose host routes for whoever sends to it.
pub fn paved_router() -> Town {
    let mut town = Town::before_netd();
    for sysctl in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        town.host.run(["sysctl", "-qw", sysctl]).ok();
    }
    town.netd.start();
    pave(&town);
    town
}

pub fn pave(town: &Town) {
    let give = |node: &Node, address: &str, device: &str| {
        node.ip(&format!("address add {address} dev {device} nodad"));
    };
    give(&town.host, "2001:db8:1::1/64", "eth0");
    give(&town.internet, "2001:db8:1::2/64", "eth0");
    give(&town.host, "2001:db8:2::1/64", "eth1");
    give(&town.client, "2001:db8:2::2/64", "eth0");
    give(&town.internet, "2001:db8:ffff::80/128", "lo");
    town.host.ip(&format!("-6 route add default via {NEIGHBOUR}"));
    town.client.ip(&format!("-6 route add default via {FRONT}"));
    let uplinks = || town.netd.json("status")["uplinks"].to_string();
    wait_until("the daemon sees the addresses", || uplinks().contains(HOST) && uplinks().contains(FRONT));
}

#[track_caller]
fn address6(town: &Town, endpoint: &str) -> String {
    says::text(&says::inspected(&town.netd, &format!("inspect {endpoint}")), "/networks/0/ip6")
}

/// Announces this node as a router on its `eth0`, once, for half an hour (RFC 4861 section 4.2).
fn announce(router: &Node) {
    wait_until("the router has its link-local address", || {
        let addresses = router.ip("-6 address show dev eth0 scope link");
        addresses.contains("fe80") && !addresses.contains("tentative")
    });
    let index = router.ifindex("eth0").expect("there is eth0");
    let advertisement: [u8; 16] = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    router.enter(|| {
        let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6);
        let raw = raw.expect("root opens raw sockets");
        setsockopt(&raw, sockopt::Ipv6MulticastHops, &255).expect("hops can be set");
        let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        let sent = sendto(raw.as_raw_fd(), &advertisement, &SockaddrIn6::from(all_nodes), MsgFlags::empty());
        sent.expect("an advertisement can be sent");
    });
}
