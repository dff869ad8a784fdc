//! The seam to the kernel: what the daemon's decisions need of it, and no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    ops::RangeInclusive,
    os::fd::OwnedFd,
    path::PathBuf,
    thread::JoinHandle,
};

use ipnet::IpNet;
use netd_common::tables::{Counters, Flow, Hook, PortRange, Publication, PublicationKey, Timeout};
use netd_common::tuple::{Address, Tuple, Zone};
use serde::{Deserialize, Serialize};

use super::{Checkup, Family, HostPort, Ipsec, LinkName, Probed, Relays, Sandbox, State, Stations, Step, TunnelProbe};
use crate::{dns::Directory, firewall::FirewallFacts, model::Protocol};

/// What the plan depends on and netd does not decide.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostFacts {
    /// Devices towards the outside.
    pub uplinks: BTreeMap<LinkName, Uplink>,
    /// Ports of VRFs, which are no uplinks, and of which.
    pub vrf_ports: BTreeMap<LinkName, LinkName>,
    /// Addresses that the host uses and that no network of ours should have, and how.
    pub uses: BTreeSet<(IpNet, Use)>,
    /// Addresses of devices that are not ours, those of the loopback and of one link aside.
    pub addresses: BTreeSet<IpAddr>,
    /// VXLAN devices that are not ours, by their UDP port.
    pub vxlan_devices: BTreeMap<u16, LinkName>,
    /// The host's ways to other hosts of its networks.
    pub ways: Ways,
    /// Uplinks whose drivers may meet frames (XDP) before the kernel makes packets of them.
    pub early: BTreeSet<LinkName>,
    /// Those of them whose drivers may send frames back by the device.
    pub sends_back: BTreeSet<LinkName>,
    /// Calls of sockets that are to have programs ([`Guard::Programs`]); none where sockets are held instead.
    pub calls: BTreeSet<&'static str>,
    /// What the rules of the host's routing ask beside addresses, devices, protocols and ports.
    pub routing: RoutingRules,
    /// The host's own firewall.
    pub firewall: FirewallFacts,
    /// `net.ipv4.ip_local_port_range`.
    pub ephemeral: Option<PortRange>,
    /// What the operator has in `net.ipv4.ip_local_reserved_ports`, as ranges apart from one another.
    pub reserved: BTreeSet<PortRange>,
    /// Seconds by [`Timeout`], from nf_conntrack's sysctls where they are present, else its defaults.
    pub timeouts: [u32; Timeout::COUNT],
    /// Sandboxes of the model that are still there, by the path asked for.
    pub sandboxes: BTreeMap<PathBuf, Sandbox>,
}

impl HostFacts {
    /// The largest packet that every way out takes, in bytes; `None` without one.
    pub fn narrowest(&self) -> Option<u32> {
        self.uplinks.values().map(|uplink| uplink.path_mtu).min()
    }
}

/// The ways to those other hosts that the host has a route to, by their addresses (VTEPs).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ways {
    /// Of the cluster.
    pub nodes: BTreeMap<IpAddr, Way>,
    /// Of networks made by hand.
    pub peers: BTreeMap<IpAddr, Way>,
}

/// A way to another host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    /// The device by which it leads.
    pub link: LinkName,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// The address as which the host sends there by itself; `None` where the kernel does not say.
    pub source: Option<IpAddr>,
}

/// What rules of the host's routing pick packets by that packets of one tuple may differ in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RoutingRules {
    /// What they ask of marks.
    pub marks: BTreeSet<MarkRule>,
    /// Whether one asks for a type of service or a flow label.
    pub by_service: bool,
    /// Whether a program may ask for the way of a packet with a mark (kernel 6.10).
    pub marks_can_be_asked_for: bool,
}

/// What a rule asks of a packet's mark.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MarkRule {
    /// What the bits of the mask must be.
    pub mark: u32,
    /// The bits that it looks at.
    pub mask: u32,
    /// Whether it is for all packets but those.
    pub inverted: bool,
}

impl MarkRule {
    /// What it says to a packet with this mark (`fib_rule_match` in net/core/fib_rules.c).
    pub const fn holds_for(&self, mark: u32) -> bool {
        ((mark ^ self.mark) & self.mask == 0) != self.inverted
    }
}

/// How the host uses addresses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Use {
    /// It routes them by a device that is not ours, in any table; `blackhole` and the like stand for the device of such a
    /// route.
    Route { device: String },
    /// A device that is not ours has an address of them that leads to no route: one that stands alone, or whose device is down.
    Address { device: String },
    /// A peer of a WireGuard device of its may have them, routed there or not.
    WireGuard { device: String },
    /// A rule of its routing names them.
    Rule,
    /// It asks a resolver there.
    Resolver,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { device } => write!(f, "which the host routes by {device}"),
            Self::Address { device } => write!(f, "where the host's {device} has an address"),
            Self::WireGuard { device } => write!(f, "which a peer of the host's WireGuard device {device} may have"),
            Self::Rule => write!(f, "which a routing rule of the host names"),
            Self::Resolver => write!(f, "a resolver of the host"),
        }
    }
}

/// A device towards the outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uplink {
    /// Whether its packets have no link-layer header (tun, WireGuard, PPP).
    pub layer3: bool,
    /// In bytes.
    pub mtu: u32,
    /// The lowest of that and of what its routes have for themselves.
    pub path_mtu: u32,
    /// Its addresses, of each family first the one that the host itself uses by the device's default route.
    pub addresses: Vec<IpNet>,
    /// Families whose forwarding was off before netd: then what of them is neither for the host nor ours is dropped.
    pub was_no_router: BTreeSet<Family>,
}

/// What leads the host's own sockets to published ports, and keeps them from taking one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Guard {
    /// Programs at the calls of every process in a cgroup.
    Programs {
        /// Its directory.
        cgroup: PathBuf,
    },
    /// Sockets that the daemon holds and relays by.
    Sockets {
        /// Why not programs.
        why: String,
    },
}

impl Default for Guard {
    fn default() -> Self {
        Self::Sockets { why: String::new() }
    }
}

/// Ports of an address of the host.
pub type HostPorts = (IpAddr, Protocol, RangeInclusive<u16>);

/// A process that is in the way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its command name (`/proc/PID/comm`).
    pub command: String,
}

/// The host, as far as netd reads and changes it.
///
/// Everything happens in the network namespace in which the daemon runs. Errors name the cause and the thing in the way.
pub trait Kernel {
    /// Everything of ours that exists: links with our `ifalias`, programs, map entries. What is not marked as ours is not in it.
    async fn observe(&mut self) -> anyhow::Result<State>;

    /// Makes one step true. A step that finds its work done already succeeds.
    async fn apply(&mut self, step: &Step) -> anyhow::Result<()>;

    /// Everything is as it should be: does one thing that could wait, if it is time. [`Kernel::observe`] sees the same after it.
    async fn settle(&mut self) -> anyhow::Result<()>;

    /// Makes many steps of one kind true at once, which write publications. Where it fails some of them may be written: then each
    /// is taken by itself, and the one that fails is known.
    fn put_publications(&mut self, all: &[(PublicationKey, Publication)]) -> anyhow::Result<()>;

    /// What of ours encrypts networks between hosts. [`Kernel::observe`] sees it from then on.
    fn ipsec(&mut self) -> anyhow::Result<Ipsec>;

    /// Why this kernel cannot encrypt between hosts of a family, if it cannot.
    fn obstacle_to_encryption(&mut self, family: Family) -> anyhow::Result<Option<String>>;

    /// Reads what the plan depends on. `sandboxes` are the namespace paths of the model.
    async fn facts(&mut self, sandboxes: &BTreeSet<PathBuf>) -> anyhow::Result<HostFacts>;

    /// Asks containers of other hosts by TCP, on threads of its own. Takes seconds where something is not answered.
    fn probe(&self, probes: Vec<TunnelProbe>) -> JoinHandle<Probed>;

    /// Who is on other hosts of networks made by hand; `sandboxes` are those whose neighbours are wanted.
    fn stations(&self, sandboxes: &[Sandbox]) -> anyhow::Result<Stations>;

    /// Reads what the doctor looks at beside that, of the host and of these uplinks. Takes a moment.
    async fn checkup(&mut self, uplinks: &BTreeSet<LinkName>) -> anyhow::Result<Checkup>;

    /// The namespace at `path`, or why it is none that a container can have (no such file, no network namespace, the host's own).
    async fn sandbox(&mut self, path: &std::path::Path) -> anyhow::Result<Sandbox>;

    /// Says to which other hosts, of the cluster and of networks made by hand, the facts tell the ways from now on.
    fn know_vteps(&mut self, nodes: &BTreeSet<IpAddr>, peers: &BTreeSet<IpAddr>);

    /// Says what the resolvers answer from now on.
    fn know_names(&mut self, directory: Directory);

    /// Changes what the resolvers answer from now on.
    fn mend_names(&mut self, mend: &mut dyn FnMut(&mut Directory));

    /// Names of the network interfaces in a namespace.
    async fn interfaces(&mut self, sandbox: &Sandbox) -> anyhow::Result<BTreeSet<LinkName>>;

    /// The first of these ports of the host that is taken, and the process that has it, one of id 0 if it is none that can be
    /// seen; `None` if all are free.
    async fn holder(
        &mut self,
        address: IpAddr,
        protocol: u8,
        ports: RangeInclusive<u16>,
    ) -> anyhow::Result<Option<(u16, Process)>>;

    /// The first of the host's sockets that has one of these ports: the port, and the process.
    async fn first_held(&mut self, wanted: &[HostPorts]) -> anyhow::Result<Option<(Protocol, u16, Process)>>;

    /// Of each of these the first port that a socket of the host has which is not this process's own, and the process that has it.
    async fn held_by_others(&mut self, wanted: &[HostPorts]) -> anyhow::Result<Vec<(u16, Process)>>;

    /// Ends the host's sockets that were led to a container by a publication that leads there no more in this state; how many.
    fn end_strays(&mut self, state: &State) -> anyhow::Result<usize>;

    /// Serves the host's own clients at these ports, by the sockets that are bound to them, and at no others.
    async fn relay(&mut self, relays: Relays, held: &BTreeMap<HostPort, OwnedFd>);

    /// How many ports are served like that.
    fn relayed(&self) -> usize;

    /// What leads the host's own sockets.
    fn guard(&self) -> Guard;

    /// Calls `each` with every flow of the table, expired ones included, with the ticks of this moment.
    fn flows(&self, each: &mut dyn FnMut(&Tuple, &Flow)) -> anyhow::Result<netd_common::tables::Instant>;

    /// Entries that the flow table has room for, two a flow.
    fn flows_max(&self) -> u32;

    /// Takes away both halves of every flow that goes to or comes from this address of this zone.
    fn forget_flows_of(&mut self, zone: Zone, address: Address) -> anyhow::Result<usize>;

    /// Takes away both halves of the flows whose first packets had these tuples; how many entries.
    fn forget_flows(&mut self, first: &[Tuple]) -> anyhow::Result<usize>;

    /// Looks at a part of the flow table, and takes out what is over there.
    fn collect(&mut self) -> anyhow::Result<Collected>;

    /// Searches for a port to masquerade as: by how many ports were tried, those that failed first.
    fn searches(&self) -> anyhow::Result<Vec<u64>>;

    /// The counters of every hook, summed over the CPUs.
    fn counters(&self) -> anyhow::Result<BTreeMap<Hook, Counters>>;

    /// How each program is attached and how large the verifier found it, for `status`.
    fn programs(&self) -> anyhow::Result<Vec<Program>>;
}

/// What a turn of the collector did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Flows that went.
    pub flows: usize,
    /// Whether more went than had expired, since room is short.
    pub under_pressure: bool,
}

/// A loaded program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Its name, that of its hook.
    pub name: String,
    /// Kernel's id.
    pub id: u32,
    /// Instructions the verifier processed; `None` on kernels that do not tell (before 5.16).
    pub verified_instructions: Option<u32>,
    /// `tcx` or `clsact`.
    pub attach: String,
    /// Devices it is attached to.
    pub devices: Vec<String>,
}
