//! Why a request is refused: each reason a value that a caller can act on, its `Display` the line that the user reads.

use std::{borrow::Cow, net::IpAddr};

use ipnet::IpNet;
use thiserror::Error;

use super::{GatewayMode, Name, Protocol, UsedElsewhere};
use crate::reconcile::{Family, LinkName, Process, Use};

/// Why a request is refused, with the thing in the way.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Rejection {
    #[error("`{}` is not a name: a letter or digit, then letters, digits, `_`, `.` or `-`, 63 at most", short(.0))]
    NotAName(String),
    #[error("there is no network {0}")]
    UnknownNetwork(String),
    #[error("there is no endpoint {0}")]
    UnknownEndpoint(String),
    #[error("{0} cannot be the name of a network: as one it means something else")]
    ReservedName(Name),
    #[error("`{}` stands alone: then no network is joined", short(.0))]
    NotAlone(String),
    #[error("endpoint {endpoint} has the network of {whose}: it has none of its own")]
    NotItsOwn { endpoint: Name, whose: String },
    #[error("network {0} exists already")]
    NetworkExists(Name),
    #[error("endpoint {0} exists already")]
    EndpointExists(Name),
    #[error("network {network} is in use by {}", list(endpoints))]
    NetworkInUse { network: Name, endpoints: Vec<Name> },
    #[error("the addresses of network {network} are in use by {}; --recreate to give them others", list(endpoints))]
    AddressesInUse { network: Name, endpoints: Vec<Name> },
    #[error("every one of the 65535 network numbers is in use")]
    NoFreeZone,
    #[error("`{spec}`: a port that every host publishes is open at every address, not at {ip} alone")]
    MeshAtAddress { ip: IpAddr, spec: String },
    #[error("`{spec}` is {count} ports; every host publishes {most} of a range at most")]
    MeshTooLong { count: u16, most: u16, spec: String },
    #[error(
        "every host can publish ports of an endpoint whose way out is by a network of driver overlay: that of {endpoint} in \
         {family} is by {network}, which {why}"
    )]
    NotOfMesh { endpoint: Name, network: Name, family: Family, why: &'static str },
    #[error("port {port}/{protocol} is published on every host by {by} on node {node}")]
    MeshTaken { port: u16, protocol: Protocol, by: Name, node: Name },

    #[error("{0} is not supported by this version")]
    Unsupported(String),
    #[error("`{}` is not {wanted}", short(given))]
    Malformed { given: String, wanted: &'static str },
    #[error("{given} has host bits set: it should be {right}")]
    HostBits { given: IpNet, right: IpNet },
    #[error("{subnet} cannot be a network's subnet: {why}")]
    UnfitSubnet { subnet: IpNet, why: &'static str },
    #[error("subnet {subnet} overlaps network {network} ({theirs})")]
    OverlapsNetwork { subnet: IpNet, network: Name, theirs: IpNet },
    #[error("subnet {subnet} overlaps {with}, {used}; --force to insist")]
    OverlapsHost { subnet: IpNet, with: IpNet, used: Use },
    #[error("subnet {subnet} overlaps {with}; {}--force to insist", without_it(with))]
    OverlapsNode { subnet: IpNet, with: UsedElsewhere },
    #[error("no free {}: in the way are {}; give --subnet", pools.join(", and no free "), list(users))]
    NoFreeSubnet { pools: Vec<String>, users: Vec<String> },
    #[error("two {family} {what} are given: a network has one of each family")]
    TwoOfAFamily { what: &'static str, family: Family },
    #[error("{given} is {family}, which network {network} does not have")]
    NoSubnetFor { given: String, network: Name, family: Family },
    #[error("{what} {given} is outside of the subnet {subnet}")]
    OutsideSubnet { what: &'static str, given: String, subnet: IpNet },
    #[error("there is no network option {}", short(.0))]
    UnknownOption(String),
    #[error("the MTU is given twice: by --mtu and by an option")]
    MtuTwice,
    #[error("{first} and {second} are two addresses of one family to leave as")]
    TwoSources { first: IpAddr, second: IpAddr },
    #[error("two gateway modes of {family} are given: {first} and {second}")]
    TwoModes { family: Family, first: GatewayMode, second: GatewayMode },
    #[error("a network without a gateway has no way out: give --internal too")]
    IsolatedWayOut,
    #[error("what leaves as {0} is masqueraded: that and --no-masquerade exclude each other")]
    LeavesAs(String),
    #[error("MTU {0} is not between 68 and 65535")]
    BadMtu(u32),
    #[error("MTU {0} is less than 1280, which every link with IPv6 must carry")]
    MtuBelowIpv6(u32),
    #[error("there is no network driver {}: bridge, overlay or vxlan", short(.0))]
    UnknownDriver(String),
    #[error("driver overlay needs a cluster: start the daemon with --etcd; driver vxlan joins hosts without one")]
    NoCluster,
    #[error("{option} is not for driver {driver}")]
    NotOfDriver { option: &'static str, driver: &'static str },
    #[error("driver {driver} needs {option}")]
    DriverNeeds { driver: &'static str, option: &'static str },
    #[error("VNI {0} is not between 1 and 16777215")]
    BadVni(u32),
    #[error("VNI {vni} is taken by network {network}")]
    VniTaken { vni: u32, network: Name },
    #[error("UDP port 0 is none for VXLAN")]
    BadVxlanPort,
    #[error(
        "UDP port {port} is taken by the VXLAN device {device}, which is not netd's; give another with --vxlan-port"
    )]
    VxlanPortTaken { port: u16, device: LinkName },
    #[error(
        "UDP port {port} carries network {network} too, and one of the two is encrypted: a port is for one kind alone"
    )]
    PortOfEncryption { port: u16, network: Name },
    #[error("network {network} is encrypted, and this host's kernel cannot do it: {why}")]
    NoEsp { network: Name, why: String },
    #[error("{address} cannot be a peer: {why}")]
    UnfitPeer { address: IpAddr, why: &'static str },
    #[error("the peers {first} and {second} are of two families: the hosts of a network have addresses of one")]
    PeersOfTwoFamilies { first: IpAddr, second: IpAddr },
    #[error("{peers} peers are more than {most}: driver overlay is for so many hosts")]
    TooManyPeers { peers: usize, most: u32 },

    #[error("endpoint {endpoint} is in network {network} already")]
    AlreadyConnected { endpoint: Name, network: Name },
    #[error("endpoint {endpoint} is not in network {network}")]
    NotConnected { endpoint: Name, network: Name },
    #[error("`{}` does not say which network to join: {}", short(spec), short(why))]
    BadNetSpec { spec: String, why: String },
    #[error("network {0} is asked for twice")]
    TwiceInNetwork(Name),
    #[error("address {address} is {what} of network {network}")]
    ReservedAddress { address: IpAddr, what: String, network: Name },
    #[error("address {address} of network {network} is taken by {by}")]
    AddressTaken { address: IpAddr, network: Name, by: String },
    #[error("link-layer address {mac} of network {network} is taken by {by}")]
    MacTaken { mac: String, network: Name, by: String },
    #[error("no free address is left in {pool} of network {network}: in use by {}", list(users))]
    PoolExhausted { pool: IpNet, network: Name, users: Vec<String> },
    #[error("network {network} has {endpoints} endpoints, and no bridge of it has a port for another")]
    NetworkFull { network: Name, endpoints: usize },
    #[error("the container has an interface {0} already")]
    InterfaceTaken(String),
    #[error("{0}")]
    NotASandbox(String),
    #[error("there is no process {0}")]
    NoProcess(u32),
    #[error("give the container's network namespace either by its path or by a process id")]
    SandboxUnclear,

    #[error("`{}` does not say which port to publish: {}", short(spec), short(why))]
    BadPortSpec { spec: String, why: String },
    #[error("port {port}/{protocol} of {address} is published by {by} already")]
    AlreadyPublished { port: u16, protocol: Protocol, address: String, by: Name },
    #[error("port {port}/{protocol} is held by {} (pid {})", process.command, process.pid)]
    PortHeld { port: u16, protocol: Protocol, process: Process },
    #[error("port {port}/{protocol} is in use on the host")]
    PortInUse { port: u16, protocol: Protocol },
    #[error("{spec}: too many ports of the loopback to relay, and no program leads the host's sockets: {why}")]
    LoopbackUnreached { spec: String, why: String },
    #[error("{0} is no address of this host")]
    NotOurAddress(IpAddr),
    #[error("there are not {count} consecutive free {protocol} ports on the host")]
    NoFreePort { count: u16, protocol: Protocol },
    #[error("{endpoint} publishes nothing as {spec}")]
    NotPublished { endpoint: Name, spec: String },
    #[error("{0} has no network with a way out, so nothing outside could reach a published port")]
    NoWayOut(Name),
    #[error("{endpoint} has no {family} address with a way out, so nothing could be reached at {spec}")]
    NoAddress { endpoint: Name, family: Family, spec: String },

    #[error("{0} reaches itself: there is nothing to allow")]
    AllowedToItself(Name),
    #[error("{from} and {to} have no network in common that was made with --no-icc: there is nothing to allow")]
    NotKeptApart { from: Name, to: Name },
    #[error("{from} was not allowed to reach {target}{}", if *everything { ", but everything of it: deny that first" } else { "" })]
    NotAllowed { from: Name, target: String, everything: bool },
    #[error("{endpoint} is on nodes {nodes}: say which, as {endpoint}@NODE")]
    OnSeveralNodes { endpoint: Name, nodes: String },
    #[error("there is no endpoint {endpoint} on node {node}")]
    NotOnNode { endpoint: Name, node: Name },
    #[error("network {name} of all nodes is not here: {why}")]
    NotTakenPartIn { name: Name, why: String },
    #[error("network {0} is of several hosts: remove it and make it anew")]
    OfSeveralHosts(Name),
    #[error("node {0} takes no more endpoints of networks of several hosts: it is drained")]
    Drained(Name),
    #[error("there is no node {0}")]
    UnknownNode(Name),
    #[error("this host is in no cluster: start the daemon with --etcd")]
    InNoCluster,
    #[error("{0}")]
    Cluster(String),

    #[error("`{0}` is not something to filter by: {1}")]
    UnknownFilter(String, Cow<'static, str>),
    #[error("no filter says which flows to end: give at least one of {0}")]
    NoFilter(&'static str),
    #[error("the request is not understood: {0}")]
    BadRequest(String),
}

impl Rejection {
    /// The HTTP status that says the same.
    pub const fn status(&self) -> u16 {
        match self {
            Self::UnknownNetwork(_)
            | Self::UnknownEndpoint(_)
            | Self::UnknownNode(_)
            | Self::NotPublished { .. }
            | Self::NotAllowed { .. }
            | Self::NotConnected { .. } => 404,
            Self::NetworkExists(_)
            | Self::EndpointExists(_)
            | Self::NetworkInUse { .. }
            | Self::AlreadyConnected { .. }
            | Self::OverlapsNetwork { .. }
            | Self::OverlapsHost { .. }
            | Self::OverlapsNode { .. }
            | Self::AddressesInUse { .. }
            | Self::AddressTaken { .. }
            | Self::MacTaken { .. }
            | Self::InterfaceTaken(_)
            | Self::AlreadyPublished { .. }
            | Self::VniTaken { .. }
            | Self::VxlanPortTaken { .. }
            | Self::PortOfEncryption { .. }
            | Self::NoEsp { .. }
            | Self::Drained(_)
            | Self::Cluster(_)
            | Self::PortHeld { .. }
            | Self::PortInUse { .. } => 409,
            _ => 400,
        }
    }
}

/// The first few with commas between, and how many more there are.
fn list(items: &[impl ToString]) -> String {
    const SHOWN: usize = 8;
    let mut text = items.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text += &format!(" and {} more", items.len() - SHOWN);
    }
    text
}

/// What can be done about a node that is away, before what can be done about any.
fn without_it(used: &UsedElsewhere) -> String {
    let UsedElsewhere { node, is_there, .. } = used;
    if *is_there { String::new() } else { format!("`netd node rm {node}` if that is away for good, or ") }
}

/// What a user gave, as far as one line shows it.
fn short(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown = String::new();
    for c in text.chars().take(SHOWN) {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
