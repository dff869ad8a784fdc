//! The hosts that the suites play on: nodes and members of etcd on one street.
//!
//! ```text
//! node a 192.0.2.1   node b 192.0.2.2   …   etcd 192.0.2.101   192.0.2.102   …      all on one bridge
//! ```

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use netd_common::{
    tables::{AllowanceKey, LAYOUT, Remote, RemoteKey, VtepKey},
    tuple::{Address, Mac},
};
use netd_tests::lab::{Container, Host, Lab, Netd, NetdOptions, Offloads, Outcome, traffic::Server};
use serde_json::Value;

use crate::{
    as_a_bridge::ipv6,
    lossy::{Faults, lossy_way},
    member::Member,
};

/// How long things may take that take seconds, on a machine that has other work.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds without a word after which a node is out.
pub const LEASE: u64 = 5;

/// A host with a daemon.
pub struct Node {
    pub netd: Netd,
    pub host: Host,
    /// Its port on the street.
    port: String,
}

/// Ordered so that the daemons go before what they run on.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub etcd: Vec<Member>,
    /// Those of the way with losses, where there is one.
    pub faults: Option<Faults>,
    _lossy: Option<Server>,
    pub street: Host,
    pub lab: Lab,
}

impl Cluster {
    /// So many nodes and members, all of them there.
    pub fn new(nodes: usize, members: usize) -> Self {
        Self::with(nodes, members, |_| None, None)
    }

    /// As [`Cluster::new`], with tunnels over IPv6; etcd is reached by IPv4.
    pub fn over_ipv6(nodes: usize, members: usize) -> Self {
        Self::laid(nodes, members, |_| None, None, (on_street, vtep_of_ipv6, |_| LEASE))
    }

    /// Two nodes and one member; the first node is on the street by two network cards of the machine, whose driver is their own.
    pub fn of_cards() -> Self {
        Self::laid(2, 1, |_| None, None, (by_cards, vtep, |_| LEASE))
    }

    /// The same, with tunnels over IPv6.
    pub fn of_cards_over_ipv6() -> Self {
        Self::laid(2, 1, |_| None, None, (by_cards, vtep_of_ipv6, |_| LEASE))
    }

    /// As [`Cluster::new`], with another way to etcd for some nodes: its URL by the node's number. At `lossy` of the street is one
    /// that can lose what a watch tells.
    pub fn with(nodes: usize, members: usize, other: impl Fn(usize) -> Option<String>, lossy: Option<usize>) -> Self {
        Self::with_leases(nodes, members, other, lossy, |_| LEASE)
    }

    /// As [`Cluster::with`], with a lease for each node by its number, in seconds.
    pub fn with_leases(
        nodes: usize,
        members: usize,
        other: impl Fn(usize) -> Option<String>,
        lossy: Option<usize>,
        lease: Leases,
    ) -> Self {
        Self::laid(nodes, members, other, lossy, (on_street, vtep, lease))
    }

    /// The same; `first` puts the first node on the street, and `vtep` says where tunnels end.
    fn laid(
        nodes: usize,
        members: usize,
        other: impl Fn(usize) -> Option<String>,
        lossy: Option<usize>,
        (first, vtep, lease): (Laying, Vteps, Leases),
    ) -> Self {
        let lab = Lab::new();
        let street = lab.host("street");
        street.ip("link add street type bridge");
        street.ip("link set street up");
        let members = Member::all(&lab, &street, members);
        let lossy = lossy.map(|number| {
            let host = lab.host("lossy");
            on_street(&lab, &street, &host, number);
            lossy_way(&host, members.iter().map(|member| member.url.trim_start_matches("http://").to_owned()).collect())
        });
        let (lossy, faults) = lossy.unzip();
        let nodes = (0..nodes).map(|n| {
            let lay = if n == 0 { first } else { on_street };
            Node::new((&lab, &street, lay), n, (vtep(n), lease(n)), &members, other(n))
        });
        let nodes = nodes.collect();
        let mut cluster = Self { nodes, etcd: members, faults, _lossy: lossy, street, lab };
        cluster.etcd.iter_mut().for_each(Member::start);
        thread::scope(|scope| {
            cluster.nodes.iter_mut().for_each(|node| drop(scope.spawn(|| node.netd.start())));
        });
        let count = cluster.nodes.len() as u64;
        cluster.wait_until("every node sees every other", |cluster| {
            cluster.nodes.iter().all(|node| node.status("/cluster/nodes") == Some(count))
        });
        cluster
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        wait_until(what, || is_so(self));
    }

    /// Gives one more host an address on the street.
    pub fn add_to_street(&self, host: &Host, number: usize) {
        on_street(&self.lab, &self.street, host, number);
    }

    /// Nothing goes to or comes from a node any more.
    pub fn cut(&self, node: usize) {
        self.street.ip(&format!("link set {} down", self.nodes[node].port));
    }

    /// It does again.
    pub fn join(&self, node: usize) {
        self.street.ip(&format!("link set {} up", self.nodes[node].port));
    }

    /// Gives a node's device and its port on the street an MTU.
    pub fn set_mtu(&self, node: usize, mtu: u32) {
        self.street.ip(&format!("link set {} mtu {mtu}", self.nodes[node].port));
        self.nodes[node].host.ip(&format!("link set eth0 mtu {mtu}"));
    }

    /// Every node's map is what the others have, exactly: as each says itself, and as the map is.
    #[track_caller]
    pub fn assert_all_as_desired<'a>(&self, containers: impl IntoIterator<Item = &'a Placed> + Clone) {
        for (n, node) in self.nodes.iter().enumerate() {
            let others = containers.clone().into_iter().filter(|placed| placed.node != n);
            let desired: BTreeMap<IpAddr, IpAddr> = others.map(|placed| (placed.address, vtep(placed.node))).collect();
            wait_until(&format!("{} forwards to exactly where the others are", node.host.name()), || {
                node.map() == desired
            });
        }
        comes_to_be_verified(&self.nodes[0].netd);
    }
}

/// A container and where it is.
pub struct Placed {
    pub node: usize,
    pub container: Container,
    pub address: IpAddr,
}

impl Node {
    fn new(
        (lab, street, lay): (&Lab, &Host, Laying),
        number: usize,
        (vtep, lease): (IpAddr, u64),
        members: &[Member],
        other: Option<String>,
    ) -> Self {
        let name = char::from(b'a' + u8::try_from(number).expect("there are few nodes")).to_string();
        let host = lab.host(&name);
        let port = lay(lab, street, &host, number + 1);
        if vtep.is_ipv6() {
            host.ip(&format!("address add {vtep}/64 dev eth0 nodad"));
        }
        write_lease(&host, lease);
        let urls = match other {
            Some(url) => vec![url],
            None => members.iter().map(|member| member.url.clone()).collect(),
        };
        let netd = host.netd_stopped(options(&name, vtep, &urls));
        Self { netd, host, port }
    }

    /// The next daemon here is out when nothing is heard of it for so many seconds.
    pub fn set_lease(&self, lease: u64) {
        write_lease(&self.host, lease);
    }

    /// A number of `netd status`; `None` where it has none, or where no daemon answers.
    pub fn status(&self, pointer: &str) -> Option<u64> {
        let outcome = self.netd.run(["status", "--format", "json"]);
        let status: Value = serde_json::from_str(&outcome.stdout).ok()?;
        status.pointer(pointer).and_then(Value::as_u64)
    }

    /// A container attached to `network`.
    #[track_caller]
    pub fn container(&self, name: &str, network: &str) -> Container {
        let container = self.host.container(name);
        done(&self.netd, &format!("attach {name} --netns /run/netns/{name} --network {network}"));
        container
    }

    /// The address of an endpoint.
    #[track_caller]
    pub fn address(&self, endpoint: &str) -> IpAddr {
        let shown = self.netd.say(&format!("inspect {endpoint}")).json();
        let address = shown.pointer("/0/networks/0/ip").and_then(Value::as_str).map(str::parse);
        address.and_then(Result::ok).unwrap_or_else(|| panic!("no address in {shown}"))
    }

    /// Where this host forwards to: the map as the kernel has it, not as the daemon says.
    pub fn map(&self) -> BTreeMap<IpAddr, IpAddr> {
        let map = self.pinned_map();
        let entries = map.iter().map(|entry| entry.expect("the map can be read"));
        let ip = |address: Address| address.ip();
        entries
            .map(|(key, remote)| {
                let (key, remote): (RemoteKey, Remote) = (bytemuck::cast(key), bytemuck::cast(remote));
                (ip(key.address), ip(remote.vtep))
            })
            .collect()
    }
}

impl Node {
    /// Takes everything out of the map that says where this host forwards to.
    pub fn clear_map(&self) {
        let mut map = self.pinned_map();
        let keys: Vec<_> = map.keys().filter_map(Result::ok).collect();
        // The daemon may mend it meanwhile.
        keys.iter().for_each(|key| drop(map.remove(key)));
    }

    /// Has this host believe for a moment that somebody is where nobody of that address is.
    pub fn believe(&self, vni: u32, address: IpAddr, mac: Mac, vtep: IpAddr) {
        let key = RemoteKey { address: address.into(), vni };
        let remote = Remote { vtep: vtep.into(), incarnation: 1, mac, pad: 0 };
        let (key, remote): ([u8; size_of::<RemoteKey>()], [u8; size_of::<Remote>()]) =
            (bytemuck::cast(key), bytemuck::cast(remote));
        self.pinned_map().insert(key, remote, 0).expect("the map has room");
    }

    /// Takes everything out of the table of what containers here may open.
    pub fn clear_allowances(&self) {
        let pin = self.host.path(format!("/sys/fs/bpf/netd/{LAYOUT}/maps/ALLOWANCES"));
        let map = Map::HashMap(MapData::from_pin(pin).expect("the map is pinned"));
        let mut map: HashMap<MapData, [u8; size_of::<AllowanceKey>()], u8> =
            HashMap::try_from(map).expect("it is a hash of this layout");
        let keys: Vec<_> = map.keys().filter_map(Result::ok).collect();
        // The daemon may mend it meanwhile.
        keys.iter().for_each(|key| drop(map.remove(key)));
    }

    /// Takes everybody out of the table of who may send into its networks.
    pub fn clear_vteps(&self) {
        let pin = self.host.path(format!("/sys/fs/bpf/netd/{LAYOUT}/maps/VTEPS"));
        let map = Map::HashMap(MapData::from_pin(pin).expect("the map is pinned"));
        let mut map: HashMap<MapData, [u8; size_of::<VtepKey>()], u8> =
            HashMap::try_from(map).expect("it is a hash of this layout");
        let keys: Vec<_> = map.keys().filter_map(Result::ok).collect();
        // The daemon may mend it meanwhile.
        keys.iter().for_each(|key| drop(map.remove(key)));
    }

    fn pinned_map(&self) -> HashMap<MapData, [u8; size_of::<RemoteKey>()], [u8; size_of::<Remote>()]> {
        let pin = self.host.path(format!("/sys/fs/bpf/netd/{LAYOUT}/maps/REMOTES"));
        let map = MapData::from_pin(pin).expect("the map is pinned");
        HashMap::try_from(Map::HashMap(map)).expect("it is a hash of this layout")
    }
}

fn write_lease(host: &Host, lease: u64) {
    let path = host.path("/etc/netd/netd.toml");
    std::fs::write(path, format!("[cluster]\nlease = {lease}\n")).expect("the host's /etc/netd is the Lab's");
}

/// Has something done that takes a word with etcd. One that stands still for seconds, as on a loaded machine, has a daemon say that it
/// is away: then once more, and who is refused because it is done has had it done by the try before.
#[track_caller]
pub fn done(netd: &Netd, words: &str) {
    let is_away = |outcome: &Outcome| !outcome.succeeded() && outcome.stderr.contains("etcd is away");
    let mut outcome = netd.say(words);
    if !is_away(&outcome) {
        outcome.ok();
        return;
    }
    wait_until(&format!("`{words}` is done"), || {
        outcome = netd.say(words);
        !is_away(&outcome)
    });
}

/// Waits until every node forwards what etcd says, and says so in time.
#[track_caller]
pub fn comes_to_be_verified(netd: &Netd) {
    wait_until("every node forwards what etcd says", || {
        let verified = netd.say("overlay verify");
        verified.succeeded() && verified.stdout == "every node forwards what etcd says\n"
    });
}

/// How the daemon of a node is started.
pub fn options(name: &str, vtep: IpAddr, etcd: &[String]) -> NetdOptions {
    let (vtep, mut words) = (vtep.to_string(), vec!["--node", name, "--vtep"]);
    words.push(&vtep);
    words.extend(etcd.iter().flat_map(|url| ["--etcd", url]));
    NetdOptions::default().arguments(words)
}

/// The address of a node's own.
pub fn vtep(number: usize) -> IpAddr {
    [192, 0, 2, u8::try_from(number + 1).expect("there are few nodes")].into()
}

/// The same, over IPv6.
pub fn vtep_of_ipv6(number: usize) -> IpAddr {
    ipv6(number + 1).parse().expect("it is an address")
}

/// What gives a host an address on the street; the name of its port there.
type Laying = fn(&Lab, &Host, &Host, usize) -> String;

/// Where a node's tunnels end, by its number.
type Vteps = fn(usize) -> IpAddr;

/// A node's lease in seconds, by its number.
type Leases = fn(usize) -> u64;

/// By a wire.
pub fn on_street(lab: &Lab, street: &Host, host: &Host, number: usize) -> String {
    let port = format!("p{number}");
    lab.wire(Offloads::On).from(host, "eth0", &format!("192.0.2.{number}/24")).to(street, &port, "198.51.100.1/32");
    joined(street, port)
}

/// By the machine's two network cards.
fn by_cards(lab: &Lab, street: &Host, host: &Host, number: usize) -> String {
    let port = format!("p{number}");
    lab.cards().from(host, "eth0", &format!("192.0.2.{number}/24")).to(street, &port, "198.51.100.1/32");
    joined(street, port)
}

fn joined(street: &Host, port: String) -> String {
    street.ip(&format!("address flush dev {port}"));
    street.ip(&format!("link set {port} master street"));
    port
}

/// Says back on a port what it hears, however long it hears nothing.
pub fn patient_echo(container: &Container, port: u16) -> Server {
    container.serve_tcp(port, |mut stream| {
        stream.set_read_timeout(None).expect("a socket can wait");
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    })
}

/// Waits until something is so, on an emulated machine too.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait_within(PATIENCE * 2, what, is_so);
}

/// Waits for so long until something is so.
#[track_caller]
pub fn wait_within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        thread::sleep(Duration::from_millis(100));
    }
}
