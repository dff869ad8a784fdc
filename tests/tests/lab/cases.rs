//! What netd is for, as cases that hold on every wire, every kernel and in either way of attaching.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
};

use netd_tests::lab::{
    Container, NetdOptions, Node, Offloads,
    traffic::{IMPATIENCE, PATIENCE, Server},
};

use crate::{
    names::{dig, status},
    says,
    town::{CLIENT, FRONT, HOST, INTERNET, NEIGHBOUR, Town, dial},
};

/// Bytes that a bulk transfer sends each way.
const BULK: u64 = 5_000_000;

/// Plays a case in a new town of each kind. No end of it may receive a wrong checksum.
pub fn on_both_kinds(options: &NetdOptions, case: impl Fn(&Town)) {
    for kind in Offloads::BOTH {
        let town = Town::with(kind, options.clone());
        case(&town);
        town.lab.assert_no_checksum_errors();
    }
}

/// Plays a case in a new town of each kind whose uplinks are of layer 3.
pub fn on_both_kinds_of_tunnel(case: impl Fn(&Town)) {
    for kind in Offloads::BOTH {
        let town = Town::of_tunnels(kind, NetdOptions::default());
        case(&town);
        town.lab.assert_no_checksum_errors();
    }
}

pub fn containers_of_one_network_reach_each_other(town: &Town) {
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let app = town.container("app", "blue", &[]);
    let servers = Servers::in_node(&web);

    servers.answer(&app, &town.address("web"));

    servers.have_seen_only(&town.address("app"));
    assert_eq!(web.pings(&town.address("app"), 3, PATIENCE), 3);
    let gateway = says::gateway_of(&town.netd, "blue");
    assert_eq!(app.pings(&gateway, 3, PATIENCE), 3);
    assert!(says::counted(&town.netd, "from_container", "to_peer") > 0, "the programs deliver, not the bridge");
}

pub fn a_container_reaches_the_outside_by_the_address_of_its_host(town: &Town) {
    town.network("blue");
    let app = town.container("app", "blue", &[]);
    let servers = Servers::in_node(&town.internet);

    servers.answer(&app, INTERNET);

    servers.have_seen_only(HOST);
    assert!(says::counted(&town.netd, "from_container", "to_neighbour") > 0, "the programs forward, not the stack");
}

pub fn containers_that_use_one_source_port_have_flows_of_their_own(town: &Town) {
    town.network("blue");
    town.network("green");
    let containers = [("app", "blue"), ("job", "blue"), ("other", "green")]
        .map(|(name, network)| town.container(name, network, &[]));
    let web = town.internet.serve_http(80);

    let url = format!("http://{INTERNET}/");
    let curl = ["curl", "--silent", "--show-error", "--max-time", "60", "--local-port", "40000", &url];
    let running: Vec<_> = containers.iter().map(|container| container.spawn(curl)).collect();

    for curl in running {
        assert_eq!(curl.wait().ok(), format!("internet sees {HOST}\n"));
    }
    web.assert_seen_only(HOST);
}

pub fn a_client_outside_reaches_a_published_port_with_its_own_address(town: &Town) {
    town.network("blue");
    let ports = ["8080:80", "8007:7", "8007:7/udp", "9000:9000"];
    let web = town.container("web", "blue", &ports);
    let servers = Servers::in_node(&web);

    servers.answer_at(&town.client, FRONT, Ports { http: 8080, echo: 8007, bulk: 9000 });

    servers.have_seen_only(CLIENT);
    assert!(says::counted(&town.netd, town.ingress(), "to_peer") > 0, "the programs deliver, not a proxy");
    town.internet
        .asks_tcp(&format!("{HOST}:8007"), PATIENCE)
        .expect("a port is published on every address of the host");
    assert_eq!(servers.tcp.peers().last().map(ToString::to_string).as_deref(), Some(NEIGHBOUR));
    assert!(town.client.asks_tcp(&format!("{FRONT}:8081"), IMPATIENCE).is_err(), "nothing else is published");
}

pub fn the_host_reaches_a_published_port_by_each_of_its_addresses_and_is_told_what_it_dialled(town: &Town) {
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7", "8007:7/udp", "127.0.0.1:8008:7"]);
    let servers = [web.echo_tcp(7), web.echo_udp(7)];
    let gateway = says::gateway_of(&town.netd, "blue");
    let says = |words: &str| town.host.run(dial(words)).stdout;

    for address in ["127.0.0.1", "127.7.7.7", HOST, FRONT, &gateway] {
        for method in ["tcp", "udp", "datagram"] {
            assert_eq!(
                says(&format!("{method} {address}:8007")),
                format!("{address}:8007 hello\n"),
                "{method} {address}"
            );
        }
    }
    assert_eq!(says("tcp 127.0.0.1:8008"), "127.0.0.1:8008 hello\n");
    // The server sees the host, and no proxy: by the address that its route to the container has.
    servers.iter().for_each(|server| server.assert_seen_only(&gateway));
    // What is bound to an address of the host goes by it.
    assert_eq!(says(&format!("tcp 127.0.0.1:8007 {HOST}:0")), "127.0.0.1:8007 hello\n");
    assert_eq!(servers[0].peers().last().map(ToString::to_string).as_deref(), Some(HOST));
    // Elsewhere the same port is elsewhere's, and what is published on the loopback is nobody's outside.
    let _elsewhere = town.internet.echo_tcp(8007);
    assert_eq!(says(&format!("tcp {INTERNET}:8007")), format!("{INTERNET}:8007 hello\n"));
    assert!(town.client.asks_tcp(&format!("{FRONT}:8008"), IMPATIENCE).is_err(), "published on the loopback alone");
}

pub fn containers_reach_a_published_port_by_the_hosts_addresses_and_the_gateways(town: &Town) {
    town.network("blue");
    town.network("green");
    let ports = ["8080:80", "8007:7", "8007:7/udp", "9000:9000", "8009:9/udp"];
    let web = town.container("web", "blue", &ports);
    let neighbour = town.container("neighbour", "blue", &[]);
    let stranger = town.container("stranger", "green", &[]);
    let servers = Servers::in_node(&web);
    let [blue, green] = ["blue", "green"].map(|network| says::gateway_of(&town.netd, network));

    for (client, gateway) in [(&neighbour, &blue), (&stranger, &green), (&web, &blue)] {
        for address in [HOST, FRONT, gateway] {
            servers.answer_at(client, address, Ports { http: 8080, echo: 8007, bulk: 9000 });
        }
    }

    servers.have_seen_only(&blue);
    for client in [&neighbour, &stranger] {
        // Nobody is at the container's port, which is told at once and by whom was asked.
        let said = client.run(dial(&format!("udp {HOST}:8009"))).stdout;
        assert_eq!(said, format!("error {}\n", nix::libc::ECONNREFUSED));
        let said = client.run(dial(&format!("datagram {HOST}:8007"))).stdout;
        assert_eq!(said, format!("{HOST}:8007 hello\n"));
    }
}

pub fn a_process_of_the_host_cannot_bind_a_published_port_until_it_is_closed(town: &Town) {
    town.network("blue");
    let _web = town.container("web", "blue", &["8000-8099:8000-8099", &format!("{HOST}:5300:53/udp")]);
    let binds = |words: &str| town.host.run(dial(&format!("bind {words}"))).stdout;
    let refused = format!("error {}\n", nix::libc::EADDRINUSE);

    for words in ["tcp 0.0.0.0:8000", "tcp 127.0.0.1:8050", "tcp [::]:8099", "udp 0.0.0.0:5300"] {
        assert_eq!(binds(words), refused, "{words}");
    }
    assert_eq!(binds(&format!("udp {HOST}:5300")), refused);
    for words in ["udp 0.0.0.0:8000", "tcp 0.0.0.0:8100", "udp 127.0.0.1:5300", "tcp 0.0.0.0:5300", "tcp 0.0.0.0:0"] {
        assert_eq!(binds(words), "bound\n", "{words}");
    }

    town.netd.say("unpublish web 8000-8099:8000-8099").ok();
    assert_eq!(binds("tcp 0.0.0.0:8000"), "bound\n");
}

pub fn networks_are_isolated_from_each_other_and_from_outside(town: &Town) {
    town.network("blue");
    town.network("green");
    let web = town.container("web", "blue", &["8080:80"]);
    let neighbour = town.container("neighbour", "blue", &[]);
    let stranger = town.container("stranger", "green", &[]);
    let servers = Servers::in_node(&web);
    let strange_servers = Servers::in_node(&stranger);

    servers.answer(&neighbour, &town.address("web"));
    servers.do_not_answer(&stranger, &town.address("web"));
    strange_servers.do_not_answer(&web, &town.address("stranger"));
    // The client's default route is the host: it stands for a route to the containers' subnet on a router outside.
    servers.do_not_answer(&town.client, &town.address("web"));
    town.internet.ip(&format!("route add {} via {HOST}", says::subnet_of(&town.netd, "blue")));
    servers.do_not_answer(&town.internet, &town.address("web"));

    servers.have_seen_only(&town.address("neighbour"));
    strange_servers.have_seen_nobody();
}

pub fn containers_that_finish_their_checksums_are_served_alike(town: &Town) {
    town.network("blue");
    let web = town.container("web", "blue", &["8080:80", "8007:7", "8007:7/udp", "9000:9000"]);
    let app = town.container("app", "blue", &[]);
    for container in [&web, &app] {
        Offloads::Off.apply(container, "eth0");
    }
    let (inside, outside) = (Servers::in_node(&web), Servers::in_node(&town.internet));

    inside.answer(&app, &town.address("web"));
    outside.answer(&app, INTERNET);
    outside.have_seen_only(HOST);
    inside.answer_at(&town.client, FRONT, Ports { http: 8080, echo: 8007, bulk: 9000 });
}

/// One server of each sort.
pub struct Servers {
    name: String,
    http: Server,
    tcp: Server,
    udp: Server,
    bulk: Server,
}

/// Where [`Servers`] are reached.
#[derive(Clone, Copy)]
pub struct Ports {
    pub http: u16,
    pub echo: u16,
    pub bulk: u16,
}

impl Servers {
    const PORTS: Ports = Ports { http: 80, echo: 7, bulk: 9000 };

    pub fn in_node(node: &Node) -> Self {
        let Ports { http, echo, bulk } = Self::PORTS;
        Self {
            name: node.name().to_owned(),
            http: node.serve_http(http),
            tcp: node.echo_tcp(echo),
            udp: node.echo_udp(echo),
            bulk: node.serve_bulk(bulk),
        }
    }

    /// Asserts that all of them answer, and ICMP too.
    #[track_caller]
    pub fn answer(&self, client: &Container, address: &str) {
        self.answer_at(client, address, Self::PORTS);
    }

    #[track_caller]
    pub fn answer_at(&self, client: &Node, address: &str, ports: Ports) {
        let whom = format!("{} at {address} answers {}", self.name, client.name());
        let page = client.curl(&format!("http://{}/", at(address, ports.http))).ok();
        assert!(page.starts_with(&format!("{} sees ", self.name)), "{whom}, not {page}");
        client.asks_tcp(&at(address, ports.echo), PATIENCE).unwrap_or_else(|error| panic!("{whom}: {error}"));
        // The last goes in fragments.
        for length in [8, 1400, 4000] {
            let answered = client.asks_udp(&at(address, ports.echo), 5, length, PATIENCE);
            assert_eq!(answered, 5, "{whom} by UDP, {length} bytes");
        }
        client.transfers(&at(address, ports.bulk), BULK);
        assert_eq!(client.pings(address, 3, PATIENCE), 3, "{whom} by ICMP");
    }

    /// Asserts that none of them answers, nor ICMP.
    #[track_caller]
    pub fn do_not_answer(&self, client: &Node, address: &str) {
        let whom = format!("{} at {address} does not answer {}", self.name, client.name());
        let Ports { http, echo, .. } = Self::PORTS;
        let tcp = |port: u16| client.asks_tcp(&at(address, port), IMPATIENCE).is_ok();
        let udp = || client.asks_udp(&at(address, echo), 1, 64, IMPATIENCE) > 0;
        let icmp = || client.pings(address, 1, IMPATIENCE) > 0;
        // At once: each waits in vain for its whole time.
        let answered = thread::scope(|scope| {
            let probes = [
                ("TCP 80", scope.spawn(|| tcp(http))),
                ("TCP 7", scope.spawn(|| tcp(echo))),
                ("UDP 7", scope.spawn(udp)),
                ("ICMP", scope.spawn(icmp)),
            ];
            probes.map(|(name, probe)| (name, probe.join().expect("a probe does not panic")))
        });
        for (name, answered) in answered {
            assert!(!answered, "{whom} by {name}");
        }
    }

    #[track_caller]
    pub fn have_seen_only(&self, address: &str) {
        for server in [&self.http, &self.tcp, &self.udp, &self.bulk] {
            server.assert_seen_only(address);
        }
    }

    #[track_caller]
    pub fn have_seen_nobody(&self) {
        for server in [&self.http, &self.tcp, &self.udp, &self.bulk] {
            assert!(server.peers().is_empty(), "{} has been reached by {:?}", self.name, server.peers());
        }
    }

    /// Everybody who has spoken to any of them.
    pub fn all_peers(&self) -> Vec<IpAddr> {
        [&self.http, &self.tcp, &self.udp, &self.bulk].into_iter().flat_map(Server::peers).collect()
    }
}

/// `ADDRESS:PORT`, of IPv6 with brackets.
fn at(address: &str, port: u16) -> String {
    let address: IpAddr = address.parse().expect("the test names an address");
    SocketAddr::new(address, port).to_string()
}

/// Containers find one another by name.
pub fn containers_find_each_other_by_name(town: &Town) {
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let app = town.container("app", "blue", &[]);
    let (address, id) = (town.address("app"), says::text(&says::inspected(&town.netd, "inspect app"), "/id"));

    for name in ["app", "APP", "app.blue", &id] {
        for way in ["", "+tcp ", "+noedns ", "+bufsize=4096 "] {
            assert_eq!(dig(&web, &format!("{way}{name}")), [address.as_str()], "{way}{name}");
        }
    }
    assert_eq!(dig(&web, "web"), [town.address("web")]);
    assert_eq!(dig(&app, &format!("-x {}", town.address("web"))), ["web.blue."]);
    for record_type in ["AAAA", "MX", "TXT"] {
        assert_eq!(status(&web, &format!("app {record_type}")), ("NOERROR".to_owned(), 0), "{record_type}");
    }
}
