//! The town that the suites play in: a host that runs netd, the internet before its default route, a client at its other side.
//!
//! ```text
//! internet 203.0.113.80  192.0.2.2 ── eth0 192.0.2.1  host  198.51.100.1 eth1 ── 198.51.100.2  client
//! ```

use std::{
    thread,
    time::{Duration, Instant},
};

use netd_tests::lab::{Container, Host, Lab, Netd, NetdOptions, Offloads, Tunnel};

use crate::says;

/// The host's address towards the internet, by which masqueraded packets are known.
pub const HOST: &str = "192.0.2.1";
/// The internet's address on the wire.
pub const NEIGHBOUR: &str = "192.0.2.2";
/// The internet's address behind the default route.
pub const INTERNET: &str = "203.0.113.80";
/// The host's address towards the client.
pub const FRONT: &str = "198.51.100.1";
/// The client's address.
pub const CLIENT: &str = "198.51.100.2";

/// Words of the program that makes sockets for a test: see `tests/src/bin/dial.rs`.
pub fn dial(words: &str) -> impl Iterator<Item = &str> {
    std::iter::once(env!("CARGO_BIN_EXE_dial")).chain(words.split(' '))
}

/// Ordered so that the daemon goes before what it runs on.
pub struct Town {
    pub netd: Netd,
    pub host: Host,
    pub internet: Host,
    pub client: Host,
    pub lab: Lab,
    tunnels: Vec<Tunnel>,
}

impl Town {
    /// A town with a daemon in its default way.
    pub fn new(kind: Offloads) -> Self {
        Self::with(kind, NetdOptions::default())
    }

    /// A town with a daemon started in a special way.
    pub fn with(kind: Offloads, options: NetdOptions) -> Self {
        let lab = Lab::new();
        let (host, internet, client) = streets(&lab, kind);
        let netd = host.netd_with(options);
        Self { netd, host, internet, client, lab, tunnels: Vec::new() }
    }

    /// A town whose streets are tunnels: the host's two uplinks are of layer 3.
    pub fn of_tunnels(kind: Offloads, options: NetdOptions) -> Self {
        let lab = Lab::new();
        let (host, internet, client) = (lab.host("host"), lab.host("internet"), lab.host("client"));
        let tunnels = vec![
            Tunnel::lay(kind, (&host, "eth0", "192.0.2.1/24"), (&internet, "eth0", "192.0.2.2/24")),
            Tunnel::lay(kind, (&host, "eth1", "198.51.100.1/24"), (&client, "eth0", "198.51.100.2/24")),
        ];
        settle(&host, &internet, &client);
        let netd = host.netd_with(options);
        Self { netd, host, internet, client, lab, tunnels }
    }

    /// A town whose street to the internet is two network cards of the machine.
    pub fn of_cards() -> Self {
        let lab = Lab::new();
        let (host, internet, client) = (lab.host("host"), lab.host("internet"), lab.host("client"));
        lab.cards().from(&host, "eth0", "192.0.2.1/24").to(&internet, "eth0", "192.0.2.2/24");
        lab.wire(Offloads::Off).from(&host, "eth1", "198.51.100.1/24").to(&client, "eth0", "198.51.100.2/24");
        settle(&host, &internet, &client);
        let netd = host.netd();
        Self { netd, host, internet, client, lab, tunnels: Vec::new() }
    }

    /// The hook where packets of its uplinks come in.
    pub fn ingress(&self) -> &'static str {
        if self.tunnels.is_empty() { "from_uplink" } else { "from_l3_uplink" }
    }

    /// A town where netd has not been started yet.
    pub fn before_netd() -> Self {
        let lab = Lab::new();
        let (host, internet, client) = streets(&lab, Offloads::On);
        let netd = host.netd_stopped(NetdOptions::default());
        Self { netd, host, internet, client, lab, tunnels: Vec::new() }
    }

    /// Makes a network with an automatic subnet.
    #[track_caller]
    pub fn network(&self, name: &str) {
        self.netd.run(["network", "create", name]).ok();
    }

    /// A container attached to `network`, its ports published as `ports` say.
    #[track_caller]
    pub fn container(&self, name: &str, network: &str, ports: &[&str]) -> Container {
        let container = self.host.container(name);
        let netns = container.netns();
        let published = ports.iter().flat_map(|port| ["-p", *port]);
        self.netd.run(["attach", name, "--netns", &netns, "--network", network].into_iter().chain(published)).ok();
        container
    }

    /// `ADDRESS:PORT` of an endpoint.
    #[track_caller]
    pub fn at(&self, endpoint: &str, port: u16) -> String {
        format!("{}:{port}", self.address(endpoint))
    }

    /// Address of an endpoint.
    #[track_caller]
    pub fn address(&self, endpoint: &str) -> String {
        says::address_of(&self.netd, endpoint)
    }
}

fn streets(lab: &Lab, kind: Offloads) -> (Host, Host, Host) {
    let (host, internet, client) = (lab.host("host"), lab.host("internet"), lab.host("client"));
    lab.wire(kind).from(&host, "eth0", "192.0.2.1/24").to(&internet, "eth0", "192.0.2.2/24");
    lab.wire(kind).from(&host, "eth1", "198.51.100.1/24").to(&client, "eth0", "198.51.100.2/24");
    settle(&host, &internet, &client);
    (host, internet, client)
}

fn settle(host: &Host, internet: &Host, client: &Host) {
    internet.ip("address add 203.0.113.80/32 dev lo");
    host.default_route(NEIGHBOUR);
    client.default_route(FRONT);
}

/// How long something may take to come true where the machine has much else to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
