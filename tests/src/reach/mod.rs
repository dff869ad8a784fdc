//! Who reaches whom: Docker's table of gateway modes, cell by cell, in both families, with TCP, UDP and pings, for networks of any
//! driver. The suites say where: on one host, or on two that a network spans.

mod table;

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::lab::{
    Container, Host, Netd, Node,
    traffic::{IMPATIENCE, PATIENCE, Server},
};
pub use table::{ACROSS_HOSTS, Asked, Asker, NETWORKS, ON_ONE_HOST, Row, UNLIKE};

/// How long each try of what should succeed may take.
const TRY: Duration = Duration::from_secs(10);
/// In the containers: published, and not.
const OPEN: u16 = 7;
const CLOSED: u16 = 9;
/// On the hosts.
const SERVICE: u16 = 7000;

/// A host, and a client beside it whose default routes lead by it.
pub struct Side<'a> {
    /// Its daemon.
    pub netd: &'a Netd,
    /// Where that runs.
    pub host: &'a Host,
    /// Who is beside it.
    pub client: &'a Host,
    /// The host's addresses on the client's wire: of IPv4, of IPv6.
    pub front: [String; 2],
    /// The client's.
    pub outside: [String; 2],
}

/// The containers of a side: who serves or asks in each network, by column, and who asks from another network.
struct People {
    containers: Vec<Vec<Container>>,
    other: Container,
    outside: Vec<[Server; 2]>,
    _services: [Server; 2],
}

/// The networks with what serves in them, and who asks. The containers that are asked are on the first side.
pub struct Place<'a> {
    sides: &'a [Side<'a>],
    people: Vec<People>,
    rows: Vec<Row>,
    dial: &'static str,
    _servers: Vec<Server>,
}

impl<'a> Place<'a> {
    /// Makes the networks, of `driver`, and who is in them. `dial` is the program that makes sockets for a test (`tests/src/bin/dial.rs`).
    #[track_caller]
    pub fn new(sides: &'a [Side<'a>], driver: &str, dial: &'static str) -> Self {
        let near = &sides[0];
        for (column, (name, options)) in NETWORKS.iter().enumerate() {
            let subnets = subnets(column).map(|subnet| format!("--subnet {subnet}")).join(" ");
            near.netd.say(&format!("network create {name} --driver {driver} {subnets} {options}")).ok();
        }
        near.netd.say(&format!("network create other --driver {driver} --ipv6")).ok();
        let served: Vec<Container> = (0..NETWORKS.len()).map(|column| serving(near, column, sides.len() > 1)).collect();
        let servers = served.iter().flat_map(|container| {
            [OPEN, CLOSED].map(|port| [container.echo_tcp(port), container.echo_udp(port)]).into_iter().flatten()
        });
        let servers = servers.collect();
        let mut people: Vec<People> = sides.iter().enumerate().map(|(n, side)| People::of(side, n)).collect();
        people[0].containers.iter_mut().zip(served).for_each(|(own, served)| own.insert(0, served));
        let across = if sides.len() > 1 { &ACROSS_HOSTS[..] } else { &[] };
        let rows = ON_ONE_HOST.iter().chain(across).copied().collect();
        Self { sides, people, rows, dial, _servers: servers }
    }

    /// Panics unless every cell is as the table says, and everybody comes as who they are.
    #[track_caller]
    pub fn assert_everybody_reaches_whom_the_table_says(&self) {
        let wrong: Vec<String> = (0..NETWORKS.len()).flat_map(|column| self.wrong_cells(column)).collect();

        assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
        self.assert_sources();
        assert_eq!(self.wrong_clients_of_a_port(), Vec::<String>::new(), "of whatever mode a client's network is");
        let named: BTreeSet<_> = self.rows.iter().map(|(from, to, _)| (*from, *to)).collect();
        for (from, to, network, why) in UNLIKE {
            assert!(named.contains(&(from, to)) && NETWORKS.iter().any(|(name, _)| *name == network), "{why}");
        }
    }

    /// The cells of a column that are not as the table says, all of them tried at once.
    fn wrong_cells(&self, column: usize) -> Vec<String> {
        let cells = self.rows.iter().flat_map(|(from, to, row)| [false, true].map(|v6| (*from, *to, row[column], v6)));
        thread::scope(|scope| {
            let tries: Vec<_> = cells
                .flat_map(|cell| Means::of(cell.1).iter().map(move |means| (cell, *means)))
                .map(|((from, to, expected, v6), means)| {
                    scope.spawn(move || {
                        let family = if v6 { "IPv6" } else { "IPv4" };
                        let reaches = self.comes_to_reach(column, from, to, v6, means, expected);
                        let said = if reaches { "reaches" } else { "does not reach" };
                        let line = format!("{}: {from:?} {said} {to:?} by {means:?} and {family}", NETWORKS[column].0);
                        (reaches != expected).then_some(line)
                    })
                })
                .collect();
            tries.into_iter().filter_map(|tried| tried.join().expect("a try ends")).collect()
        })
    }

    /// Whether it does; what should is tried again for a while, since one datagram may be lost where much goes on.
    fn comes_to_reach(&self, column: usize, from: Asker, to: Asked, v6: bool, means: Means, expected: bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reaches = self.reaches(column, from, to, v6, means, expected);
            if reaches || !expected || Instant::now() > deadline {
                return reaches;
            }
        }
    }

    fn reaches(&self, column: usize, from: Asker, to: Asked, v6: bool, means: Means, expected: bool) -> bool {
        let side = side_of(from);
        let (Side { host, client, .. }, people) = (&self.sides[side], &self.people[side]);
        let asker: &Node = match from {
            Asker::Outside | Asker::FarOutside => client,
            Asker::Host | Asker::FarHost => host,
            Asker::Other | Asker::FarOther => &people.other,
            Asker::Same => &people.containers[column][1],
            Asker::Own | Asker::FarSame => &people.containers[column][0],
        };
        let (address, port) = self.target(column, side, to, v6);
        let wait = if expected { TRY } else { IMPATIENCE };
        let place = if v6 { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        match means {
            // Its sockets are led by programs at its cgroup, in which a process is born.
            _ if (from, to) == (Asker::Host, Asked::HostPort) => {
                let patience = [("DIAL_PATIENCE".to_owned(), "5".to_owned())];
                host.spawn_with([self.dial, means.word(), &place], &patience).wait().succeeded()
            }
            Means::Tcp => asker.asks_tcp(&place, wait).is_ok(),
            Means::Udp => asks_udp(asker, &place, wait),
            Means::Echo => asker.pings(&address, 1, wait) == 1,
        }
    }

    /// Address and port of what a side asks for.
    fn target(&self, column: usize, side: usize, to: Asked, v6: bool) -> (String, u16) {
        let family = usize::from(v6);
        let front = |side: usize| self.sides[side].front[family].clone();
        let container = || own(column)[family].clone();
        match to {
            Asked::HostPort => (front(0), host_port(column)),
            Asked::MeshPort => (front(1), mesh_port(column)),
            Asked::Published => (container(), OPEN),
            Asked::Unpublished => (container(), CLOSED),
            Asked::Ping => (container(), 0),
            Asked::Gateway => (gateway(column)[family].clone(), SERVICE),
            Asked::HostService => (front(0), SERVICE),
            Asked::Outward => (self.sides[side].outside[family].clone(), outside_port(column)),
        }
    }

    /// Networks whose containers do not reach the port that the first network's container publishes as they should: by an address of
    /// the host, from whatever has a way out.
    fn wrong_clients_of_a_port(&self) -> Vec<String> {
        let outward = self.outward();
        let cells = (1..NETWORKS.len()).flat_map(|column| [false, true].map(|v6| (column, v6)));
        let is_wrong = |(column, v6): (usize, bool)| {
            let (address, port) = self.target(0, 0, Asked::HostPort, v6);
            let place = if v6 { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            let wait = if outward[column] { PATIENCE } else { IMPATIENCE };
            let reaches = self.people[0].containers[column][1].asks_tcp(&place, wait).is_ok();
            (reaches != outward[column]).then(|| format!("{} and {place}: {reaches}", NETWORKS[column].0))
        };
        cells.filter_map(is_wrong).collect()
    }

    /// By column, whether the containers have a way out.
    fn outward(&self) -> [bool; 7] {
        let row = self.rows.iter().find(|(from, to, _)| (*from, *to) == (Asker::Own, Asked::Outward));
        row.expect("the table has it").2
    }

    /// What the servers outside have seen: the host's address, or the container's own where it keeps that.
    #[track_caller]
    fn assert_sources(&self) {
        for (side, people) in self.sides.iter().zip(&self.people) {
            for (column, servers) in people.outside.iter().enumerate() {
                let (name, container) = (NETWORKS[column].0, people.containers[column][0].name());
                let seen: BTreeSet<IpAddr> = servers.iter().flat_map(Server::peers).collect();
                let expected: BTreeSet<IpAddr> = match self.outward()[column] {
                    false => BTreeSet::new(),
                    true if matches!(name, "routed" | "unmasked") => addresses(side.netd, container),
                    true => side.front.iter().map(|front| front.parse().expect("an address")).collect(),
                };
                assert_eq!(seen, expected, "{name} at {}", side.host.name());
            }
        }
    }
}

impl People {
    /// Beside the containers that are asked one more of each network, and on another host one.
    #[track_caller]
    fn of(side: &Side, number: usize) -> Self {
        let beside = |name: &str| attached(side, &format!("{name}-app{number}"), name, &[]);
        for subnets in (0..NETWORKS.len()).map(subnets) {
            side.client.ip(&format!("route add {} via {}", subnets[0], side.front[0]));
            side.client.ip(&format!("-6 route add {} via {}", subnets[1], side.front[1]));
        }
        let outside = (0..NETWORKS.len()).map(outside_port);
        Self {
            containers: NETWORKS.iter().map(|(name, _)| vec![beside(name)]).collect(),
            other: beside("other"),
            outside: outside.map(|port| [side.client.echo_tcp(port), side.client.echo_udp(port)]).collect(),
            _services: [side.host.echo_tcp(SERVICE), side.host.echo_udp(SERVICE)],
        }
    }
}

/// The container of a network that is asked; `everywhere`: published by every host besides.
#[track_caller]
fn serving(side: &Side, column: usize, everywhere: bool) -> Container {
    let (name, options) = NETWORKS[column];
    let both = |port: u16| [format!("{port}:{OPEN}"), format!("{port}:{OPEN}/udp")];
    let endpoint = format!("{name}-web");
    let [v4, v6] = own(column);
    let internal = options.contains("--internal");
    let ports = if internal { Vec::new() } else { both(host_port(column)).to_vec() };
    let container = attached(side, &endpoint, &format!("{name}:ip={v4},ip6={v6}"), &ports);
    if everywhere && !internal && name != "routed" {
        let [tcp, udp] = both(mesh_port(column));
        side.netd.say(&format!("publish --publish-mode mesh {endpoint} {tcp} {udp}")).ok();
    }
    container
}

/// A container attached to `network`, which another host may have to hear of first.
#[track_caller]
fn attached(side: &Side, name: &str, network: &str, ports: &[String]) -> Container {
    let container = side.host.container(name);
    let published: String = ports.iter().map(|port| format!(" -p {port}")).collect();
    let words = format!("attach {name} --netns {} --network {network}{published}", container.netns());
    let deadline = Instant::now() + PATIENCE;
    while !side.netd.say(&words).succeeded() {
        assert!(Instant::now() < deadline, "{}", side.netd.say(&words));
        thread::sleep(Duration::from_millis(100));
    }
    container
}

/// What an endpoint has in its network.
fn addresses(netd: &Netd, endpoint: &str) -> BTreeSet<IpAddr> {
    let shown = netd.say(&format!("inspect {endpoint}")).json();
    let address = |key: &str| shown.pointer(key).and_then(|ip| ip.as_str()?.parse().ok()).expect("it has one");
    ["/0/networks/0/ip", "/0/networks/0/ip6"].map(address).into()
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
        if to == Asked::Ping { &[Self::Echo] } else { &[Self::Tcp, Self::Udp] }
    }

    fn word(self) -> &'static str {
        if self == Self::Tcp { "tcp" } else { "udp" }
    }
}

/// Which side somebody is on.
const fn side_of(asker: Asker) -> usize {
    use Asker::{FarHost, FarOther, FarOutside, FarSame};
    matches!(asker, FarOutside | FarHost | FarOther | FarSame) as usize
}

/// Of IPv4 and of IPv6, as everything that is said of a network.
fn subnets(column: usize) -> [String; 2] {
    [format!("10.201.{column}.0/24"), format!("fd00:201:{column}::/64")]
}

/// The gateway.
fn gateway(column: usize) -> [String; 2] {
    [format!("10.201.{column}.1"), format!("fd00:201:{column}::1")]
}

/// The container that is asked.
fn own(column: usize) -> [String; 2] {
    [format!("10.201.{column}.2"), format!("fd00:201:{column}::2")]
}

fn host_port(column: usize) -> u16 {
    8100 + column as u16
}

fn mesh_port(column: usize) -> u16 {
    8200 + column as u16
}

fn outside_port(column: usize) -> u16 {
    7100 + column as u16
}

fn asks_udp(node: &Node, server: &str, wait: Duration) -> bool {
    let bound = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = node.enter(|| UdpSocket::bind(bound)).expect("a port is free");
    let mut answer = [0; 64];
    let asked = socket.set_read_timeout(Some(wait)).and_then(|()| node.enter(|| socket.connect(server)));
    asked.and_then(|()| socket.send(b"there?")).and_then(|_| socket.recv(&mut answer)).is_ok_and(|length| length == 6)
}
