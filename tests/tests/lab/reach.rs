//! Who reaches whom: Docker's table of gateway modes, cell by cell, in both families, with TCP, UDP and pings.
//!
//! The table follows Docker's own tests (`integration/network/bridge` of moby), cell by cell, but for those that [`UNLIKE`] names.

use std::{collections::BTreeSet, net::UdpSocket, thread, time::Duration};

use netd_tests::lab::{
    Container, Node, Offloads,
    traffic::{IMPATIENCE, PATIENCE, Server},
};

use crate::town::{CLIENT, FRONT, Town, dial, wait_until};

/// The networks of the table, in the order of its columns: name and what it is made with.
const NETWORKS: [(&str, &str); 7] = [
    ("nat", ""),
    ("unprotected", "--gateway-mode nat-unprotected"),
    ("routed", "--gateway-mode routed"),
    ("isolated", "--internal --gateway-mode isolated"),
    ("internal", "--internal"),
    ("apart", "--no-icc"),
    ("unmasked", "--no-masquerade"),
];

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Asker {
    /// A client on the wire, with a route to every network by the host.
    Outside,
    /// The host itself.
    Host,
    /// A container of another network, which is `nat`'s like.
    Other,
    /// Another container of the network.
    Same,
    /// The container itself.
    Own,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Asked {
    /// The host's address and port at which the container's port is published.
    HostPort,
    /// The published port at the container's own address.
    Published,
    /// Another port there.
    Unpublished,
    /// An echo there.
    Ping,
    /// A service of the host at the network's gateway.
    Gateway,
    /// The same service at the host's address on the wire.
    HostService,
    /// A server outside.
    Outward,
}

use Asked::{Gateway, HostPort, HostService, Outward, Ping, Published, Unpublished};
use Asker::{Host, Other, Outside, Own, Same};

const Y: bool = true;
const N: bool = false;

/// A column a network, in the order of [`NETWORKS`].
#[rustfmt::skip]
const TABLE: [(Asker, Asked, [bool; 7]); 27] = [
    //                     nat unprot. routed isol. intern. apart unmasked
    (Outside, HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Outside, Published,   [N,   Y,      Y,    N,    N,      N,    N]),
    (Outside, Unpublished, [N,   Y,      N,    N,    N,      N,    N]),
    (Outside, Ping,        [N,   Y,      Y,    N,    N,      N,    N]),
    (Outside, Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Host,    HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Host,    Published,   [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Host,    Unpublished, [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Host,    Ping,        [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Host,    Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Other,   HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Other,   Published,   [N,   Y,      Y,    N,    N,      N,    N]),
    (Other,   Unpublished, [N,   Y,      N,    N,    N,      N,    N]),
    (Other,   Ping,        [N,   Y,      Y,    N,    N,      N,    N]),
    (Other,   Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Same,    HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Same,    Published,   [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (Same,    Unpublished, [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (Same,    Ping,        [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (Same,    Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Own,     HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Own,     Published,   [Y,   Y,      Y,    Y,    Y,      Y,    Y]),
    (Own,     Unpublished, [Y,   Y,      Y,    Y,    Y,      Y,    Y]),
    (Own,     Ping,        [Y,   Y,      Y,    Y,    Y,      Y,    Y]),
    (Own,     Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Own,     HostService, [Y,   Y,      Y,    N,    N,      Y,    Y]),
    (Own,     Outward,     [Y,   Y,      Y,    N,    N,      Y,    Y]),
];

/// Cells that are not as in Docker, and why.
const UNLIKE: [(Asker, Asked, &str, &str); 1] = [(
    Outside,
    Unpublished,
    "unprotected",
    "TCP, UDP, SCTP and pings are let in, and no other protocol: nothing would tell its answers from what a container opens",
)];

const FRONT6: &str = "2001:db8:2::1";
const CLIENT6: &str = "2001:db8:2::2";
/// In the containers: published, and not.
const OPEN: u16 = 7;
const CLOSED: u16 = 9;
/// On the host, and outside.
const SERVICE: u16 = 7000;

#[test]
fn everybody_reaches_whom_the_table_says_and_nobody_else() {
    let place = Place::new();

    let wrong: Vec<String> = (0..NETWORKS.len()).flat_map(|column| place.wrong_cells(column)).collect();

    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    place.assert_sources();
    assert_eq!(place.wrong_clients_of_a_port(), Vec::<String>::new(), "of whatever mode a client's network is");
    place.town.lab.assert_no_checksum_errors();
    let named: BTreeSet<_> = TABLE.iter().map(|(from, to, _)| (*from, *to)).collect();
    for (from, to, network, why) in UNLIKE {
        assert!(named.contains(&(from, to)) && NETWORKS.iter().any(|(name, _)| *name == network), "{why}");
    }
}

/// Two containers a network, what serves in them, and who asks.
struct Place {
    town: Town,
    /// By network: the one that serves and its neighbour.
    containers: Vec<[Container; 2]>,
    other: Container,
    outside: Vec<[Server; 2]>,
    _servers: Vec<Server>,
}

impl Place {
    fn new() -> Self {
        let town = Town::new(Offloads::On);
        give_ipv6(&town);
        let mut servers = vec![town.host.echo_tcp(SERVICE), town.host.echo_udp(SERVICE)];
        let containers = (0..NETWORKS.len()).map(|column| {
            let (name, options) = NETWORKS[column];
            let (v4, v6) = (format!("10.201.{column}.0/24"), format!("fd00:201:{column}::/64"));
            town.netd.say(&format!("network create {name} --subnet {v4} --subnet {v6} {options}")).ok();
            town.client.ip(&format!("route add {v4} via {FRONT}"));
            town.client.ip(&format!("-6 route add {v6} via {FRONT6}"));
            let (tcp, udp) = (format!("{}:{OPEN}", host_port(column)), format!("{}:{OPEN}/udp", host_port(column)));
            let ports = if options.contains("--internal") { vec![] } else { vec![tcp.as_str(), udp.as_str()] };
            let serving = town.container(&format!("{name}-web"), &format!("{name}:ip={}", own(column, 2)), &ports);
            let beside = town.container(&format!("{name}-app"), name, &[]);
            servers.extend([OPEN, CLOSED].map(|port| serving.echo_tcp(port)));
            servers.extend([OPEN, CLOSED].map(|port| serving.echo_udp(port)));
            [serving, beside]
        });
        let containers = containers.collect();
        town.netd.say("network create other --ipv6").ok();
        let other = town.container("other", "other", &[]);
        let outside = (0..NETWORKS.len()).map(|column| {
            let port = outside_port(column);
            [town.client.echo_tcp(port), town.client.echo_udp(port)]
        });
        let outside = outside.collect();
        Self { town, containers, other, outside, _servers: servers }
    }

    /// The cells of a column that are not as the table says, all of them tried at once.
    fn wrong_cells(&self, column: usize) -> Vec<String> {
        let cells = TABLE.iter().flat_map(|(from, to, row)| [false, true].map(|v6| (*from, *to, row[column], v6)));
        thread::scope(|scope| {
            let tries: Vec<_> = cells
                .flat_map(|cell| Means::of(cell.1).iter().map(move |means| (cell, *means)))
                .map(|((from, to, expected, v6), means)| {
                    scope.spawn(move || {
                        let family = if v6 { "IPv6" } else { "IPv4" };
                        let reaches = self.reaches(column, from, to, v6, means, expected);
                        let said = if reaches { "reaches" } else { "does not reach" };
                        let line = format!("{}: {from:?} {said} {to:?} by {means:?} and {family}", NETWORKS[column].0);
                        (reaches != expected).then_some(line)
                    })
                })
                .collect();
            tries.into_iter().filter_map(|tried| tried.join().expect("a try ends")).collect()
        })
    }

    fn reaches(&self, column: usize, from: Asker, to: Asked, v6: bool, means: Means, expected: bool) -> bool {
        let asker: &Node = match from {
            Outside => &self.town.client,
            Host => &self.town.host,
            Other => &self.other,
            Same => &self.containers[column][1],
            Own => &self.containers[column][0],
        };
        let (address, port) = target(column, to, v6);
        let wait = if expected { PATIENCE } else { IMPATIENCE };
        let place = if v6 { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        match means {
            // Its sockets are led by programs at its cgroup, in which a process is born.
            _ if (from, to) == (Host, HostPort) => {
                self.town.host.run(dial(&format!("{} {place}", means.word()))).succeeded()
            }
            Means::Tcp => asker.asks_tcp(&place, wait).is_ok(),
            Means::Udp => asks_udp(asker, &place, wait),
            Means::Echo => asker.pings(&address, 1, wait) == 1,
        }
    }

    /// Networks whose containers do not reach the port that the first network's container publishes as they should: by an address of
    /// the host, from whatever has a way out.
    fn wrong_clients_of_a_port(&self) -> Vec<String> {
        let outward = TABLE[TABLE.len() - 1].2;
        let cells = (1..NETWORKS.len()).flat_map(|column| [false, true].map(|v6| (column, v6)));
        let is_wrong = |(column, v6): (usize, bool)| {
            let (address, port) = target(0, HostPort, v6);
            let place = if v6 { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            let wait = if outward[column] { PATIENCE } else { IMPATIENCE };
            let reaches = self.containers[column][1].asks_tcp(&place, wait).is_ok();
            (reaches != outward[column]).then(|| format!("{} and {place}: {reaches}", NETWORKS[column].0))
        };
        cells.filter_map(is_wrong).collect()
    }

    /// What the server outside has seen: the host's address, or the container's own where it keeps that.
    fn assert_sources(&self) {
        for (column, servers) in self.outside.iter().enumerate() {
            let seen: BTreeSet<String> = servers.iter().flat_map(Server::peers).map(|peer| peer.to_string()).collect();
            let keeps = matches!(NETWORKS[column].0, "routed" | "unmasked");
            let expected = match TABLE[TABLE.len() - 1].2[column] {
                false => BTreeSet::new(),
                true if keeps => [own(column, 2), own6(column)].into(),
                true => [FRONT.to_owned(), FRONT6.to_owned()].into(),
            };
            let seen: BTreeSet<_> = seen.iter().map(|peer| with_its_host_part(peer)).collect();
            let expected: BTreeSet<_> = expected.iter().map(|peer| with_its_host_part(peer)).collect();
            assert_eq!(seen, expected, "{}", NETWORKS[column].0);
        }
    }
}

/// By what something is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Means {
    Tcp,
    Udp,
    Echo,
}

impl Means {
    fn of(to: Asked) -> &'static [Self] {
        if to == Ping { &[Self::Echo] } else { &[Self::Tcp, Self::Udp] }
    }

    fn word(self) -> &'static str {
        if self == Self::Tcp { "tcp" } else { "udp" }
    }
}

/// Address and port of a target.
fn target(column: usize, to: Asked, v6: bool) -> (String, u16) {
    let pick = |v4: String, of_v6: String| if v6 { of_v6 } else { v4 };
    let front = || pick(FRONT.to_owned(), FRONT6.to_owned());
    let container = || pick(own(column, 2), own6(column));
    match to {
        HostPort => (front(), host_port(column)),
        Published => (container(), OPEN),
        Unpublished => (container(), CLOSED),
        Ping => (container(), 0),
        Gateway => (pick(own(column, 1), format!("fd00:201:{column}::1")), SERVICE),
        HostService => (front(), SERVICE),
        Outward => (pick(CLIENT.to_owned(), CLIENT6.to_owned()), outside_port(column)),
    }
}

/// Of a network's subnet.
fn own(column: usize, host: u8) -> String {
    format!("10.201.{column}.{host}")
}

/// The IPv6 address of the first container of a network: it is given the first that is free.
fn own6(column: usize) -> String {
    format!("fd00:201:{column}::2")
}

fn host_port(column: usize) -> u16 {
    8100 + column as u16
}

fn outside_port(column: usize) -> u16 {
    7100 + column as u16
}

/// An address as it is always written.
fn with_its_host_part(address: &str) -> std::net::IpAddr {
    address.parse().expect("an address")
}

fn asks_udp(node: &Node, server: &str, wait: Duration) -> bool {
    let bound = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = node.enter(|| UdpSocket::bind(bound)).expect("a port is free");
    let mut answer = [0; 64];
    let asked = socket.set_read_timeout(Some(wait)).and_then(|()| node.enter(|| socket.connect(server)));
    asked.and_then(|()| socket.send(b"there?")).and_then(|_| socket.recv(&mut answer)).is_ok_and(|length| length == 6)
}

fn give_ipv6(town: &Town) {
    town.host.ip(&format!("address add {FRONT6}/64 dev eth1 nodad"));
    town.client.ip(&format!("address add {CLIENT6}/64 dev eth0 nodad"));
    town.client.ip(&format!("-6 route add default via {FRONT6}"));
    wait_until("the daemon sees the address", || town.netd.json("status")["uplinks"].to_string().contains(FRONT6));
}
