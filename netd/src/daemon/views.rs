//! What the daemon tells, in the shapes that the JSON has.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use netd_common::{
    tables::{Counters, Hook},
    verdict::DropReason,
};
use serde::{Deserialize, Serialize};

use super::{ClusterView, Daemon, Failure, Reply, cluster::Cluster, is_alive, moment::rfc3339};
use crate::{
    firewall::{FirewallFacts, Mode as FirewallMode},
    model::{
        Allowance, Endpoint, GatewayMode, Mode, Model, Network, PortPublication, Protocol, PublishMode, Segment,
        Subnet, format_mac,
    },
    plan::{primary, routing, there},
    reconcile::{Family, Guard, HostFacts, Kernel, Program},
};

/// A network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkView {
    pub name: String,
    pub id: String,
    pub driver: String,
    /// Of a network that spans hosts.
    #[serde(default)]
    pub segment: Option<Segment>,
    pub subnets: Vec<SubnetView>,
    /// What its containers leave as, where that is not the uplink's address.
    #[serde(default)]
    pub snat_ips: Vec<IpAddr>,
    pub internal: bool,
    /// Whether its containers reach one another without an allowance.
    pub icc: bool,
    /// Whether what leaves it does so by the host's address, where its gateway's mode says so.
    pub masquerade: bool,
    pub mtu: u32,
    /// Whether the MTU is that of the host's routes.
    pub mtu_follows: bool,
    pub options: BTreeMap<String, String>,
    pub dns: Vec<IpAddr>,
    /// Who may come to ports that say nothing of it; where it is empty, whom the configuration lets in.
    #[serde(default)]
    pub from: Vec<IpNet>,
    pub labels: BTreeMap<String, String>,
    pub created: String,
    pub endpoints: Vec<String>,
    pub bridge: String,
    pub zone: u16,
}

/// A subnet of a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubnetView {
    pub subnet: IpNet,
    pub gateway: IpAddr,
    /// What its gateway does.
    pub gateway_mode: GatewayMode,
    pub ip_range: Option<IpNet>,
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// An endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointView {
    /// Unique.
    pub name: String,
    /// Unique.
    pub id: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Whether netd's command line made the namespace.
    pub netns_made: bool,
    /// Whose that is: `own`, `host` or `container:NAME`.
    pub mode: String,
    /// `running` or `exited` with the process it stands for; `attached` where none is known; `gone` without its namespace.
    pub state: String,
    /// The process it stands for.
    pub pid: Option<u32>,
    /// When that started: clock ticks since the machine did.
    pub pid_started: Option<u64>,
    /// What netd started in it.
    pub command: Vec<String>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// Its places in networks.
    pub networks: Vec<AttachmentView>,
    /// Its published ports, a range as one.
    pub ports: Vec<PortView>,
    /// Who may open what to it, where a network keeps its containers apart.
    #[serde(default)]
    pub allows: Vec<AllowanceView>,
    /// Servers for what is no name of its networks; the networks' or the host's where there are none.
    pub dns: Vec<IpAddr>,
    /// What of the request that this answers is not as its author may think, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// RFC 3339.
    pub created: String,
}

/// An endpoint's place in a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttachmentView {
    pub network: String,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: String,
    pub ifname: String,
    /// More names there.
    pub aliases: Vec<String>,
    /// The way out is by the highest.
    pub gw_priority: i32,
    pub veth: String,
}

/// What an endpoint may open to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AllowanceView {
    pub from: String,
    /// Everything where there is none.
    pub port: Option<u16>,
    pub proto: Option<Protocol>,
}

/// A published port, or `count` consecutive ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortView {
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub port: u16,
    pub count: u16,
    pub proto: Protocol,
    /// Who may come; where it is empty, whom the network lets in.
    pub from: Vec<IpNet>,
    /// What of the host's INPUT chains would deny it from outside, which they do not see.
    #[serde(default)]
    pub input: Option<String>,
    /// On which hosts it is published.
    #[serde(default)]
    pub publish_mode: PublishMode,
}

/// How the daemon is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// Of netd.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Seconds.
    pub uptime: u64,
    /// `uname -r`.
    pub kernel: String,
    /// `tcx`, `clsact`, both with a comma, or `none`.
    pub attach: String,
    /// Whether every program is where it should be.
    pub attached: bool,
    /// Where it answers.
    pub socket: PathBuf,
    /// Where its file is.
    pub state_dir: PathBuf,
    /// Where its maps are.
    pub bpf_dir: PathBuf,
    /// Its programs.
    pub programs: Vec<ProgramView>,
    /// What leads the host's own sockets to published ports, and keeps them from taking one.
    pub sockets: Guard,
    /// How flows stand to the host's own firewall.
    pub firewall: FirewallView,
    /// Who finds the way of what leaves: the programs, who ask the host's routing (`asked`, or `asked_with_mark` where its rules
    /// tell netd's mark), or the `stack` alone.
    #[serde(default)]
    pub routing: String,
    /// Ports at which the daemon serves those sockets of the host's that no program leads.
    pub relayed: usize,
    /// Published ports at which it does not, because they are too many.
    pub not_relayed: usize,
    /// Its flow table.
    pub flows: FlowTableView,
    /// Devices towards the outside.
    pub uplinks: Vec<UplinkView>,
    /// The hosts that this one is among, if it is.
    #[serde(default)]
    pub cluster: Option<ClusterView>,
    /// How many networks there are.
    pub networks: usize,
    /// How many endpoints there are.
    pub endpoints: usize,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

/// A program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProgramView {
    /// What the kernel says of it.
    #[serde(flatten)]
    pub program: Program,
    /// Packets left to the stack.
    pub passed: u64,
    /// Packets put into a container.
    pub to_peer: u64,
    /// Packets sent to a neighbour.
    pub to_neighbour: u64,
    /// Packets sent to another host of their network.
    #[serde(default)]
    pub to_tunnel: u64,
    /// Packets sent out of a device of this host as they are.
    #[serde(default)]
    pub to_device: u64,
    /// Packets dropped, by reason; those that are none left out.
    pub dropped: BTreeMap<String, u64>,
}

/// How full the flow table is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowTableView {
    /// Two a flow.
    pub entries: u32,
    /// As many as fit.
    pub max: u32,
    /// Whether it is so full that flows which nobody answered and closed ones go before their time.
    pub under_pressure: bool,
    /// Searches for a port to masquerade as: how many found one, by how many ports were tried.
    pub searches: BTreeMap<u32, u64>,
    /// Those that found none.
    pub searches_failed: u64,
}

/// How flows stand to the host's own firewall.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FirewallView {
    /// As `--firewall` says.
    pub mode: FirewallMode,
    /// Whether flows show themselves to it.
    pub shown: bool,
    /// Why they do, or do not.
    pub why: String,
    /// The bit of netd's packets in the stack.
    pub mark: u32,
    /// Whether a rule of it gives packets a mark, as far as is known.
    pub sets_marks: bool,
    /// Packets that went the fast path.
    pub fast: u64,
    /// Packets that went past the firewall instead.
    pub by_stack: u64,
}

/// A device towards the outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UplinkView {
    /// Its name.
    pub name: String,
    /// What containers are masqueraded as: of each family at most one.
    pub addresses: Vec<IpAddr>,
    /// In bytes.
    pub mtu: u32,
}

/// A network as it is told.
pub fn network_view(model: &Model, network: &Network) -> NetworkView {
    NetworkView {
        name: network.name.to_string(),
        id: network.id.clone(),
        driver: network.driver.name().to_owned(),
        segment: network.driver.segment().cloned(),
        subnets: network.subnets.iter().map(subnet_view).collect(),
        snat_ips: network.snat_ips.clone(),
        internal: network.internal,
        icc: !network.no_icc,
        masquerade: !network.no_masquerade,
        mtu: network.mtu,
        mtu_follows: network.mtu_follows,
        options: network.options.clone(),
        dns: network.dns.clone(),
        from: network.from.clone(),
        labels: network.labels.clone(),
        created: rfc3339(network.created),
        endpoints: model.attachments_of(&network.name).map(|(endpoint, _)| endpoint.name.to_string()).collect(),
        bridge: network.bridge().to_string(),
        zone: network.zone,
    }
}

fn subnet_view(subnet: &Subnet) -> SubnetView {
    SubnetView {
        subnet: subnet.subnet,
        gateway: subnet.gateway,
        gateway_mode: subnet.mode(),
        ip_range: subnet.ip_range,
        aux_addresses: subnet.aux_addresses.clone(),
    }
}

/// An endpoint as it is told.
pub fn endpoint_view(endpoint: &Endpoint, facts: &HostFacts) -> EndpointView {
    let networks = endpoint.attachments.iter().map(|attachment| AttachmentView {
        network: attachment.network.to_string(),
        ip: attachment.ip,
        ip6: attachment.ip6,
        mac: format_mac(attachment.mac),
        ifname: attachment.ifname.to_string(),
        aliases: attachment.aliases.iter().map(ToString::to_string).collect(),
        gw_priority: attachment.gw_priority,
        veth: attachment.veth().to_string(),
    });
    EndpointView {
        name: endpoint.name.to_string(),
        id: endpoint.id.clone(),
        netns: endpoint.netns.clone(),
        netns_made: endpoint.netns_made,
        mode: endpoint.mode.to_string(),
        state: state_of(endpoint, facts).to_owned(),
        pid: endpoint.process.as_ref().map(|process| process.pid),
        pid_started: endpoint.process.as_ref().map(|process| process.started),
        command: endpoint.command.clone(),
        labels: endpoint.labels.clone(),
        networks: networks.collect(),
        ports: endpoint.publications.iter().map(|publication| port_view(publication, facts)).collect(),
        allows: endpoint.allows.iter().map(allowance_view).collect(),
        dns: endpoint.dns.clone(),
        warnings: Vec::new(),
        created: rfc3339(endpoint.created),
    }
}

fn state_of(endpoint: &Endpoint, facts: &HostFacts) -> &'static str {
    match &endpoint.process {
        Some(process) if is_alive(process) => "running",
        _ if endpoint.mode == Mode::Host => "exited",
        _ if there(endpoint, facts).is_none() => "gone",
        Some(_) => "exited",
        None => "attached",
    }
}

fn allowance_view(allowance: &Allowance) -> AllowanceView {
    let (port, proto) = allowance.port.unzip();
    AllowanceView { from: allowance.from.to_string(), port, proto }
}

fn port_view(publication: &PortPublication, facts: &HostFacts) -> PortView {
    let PortPublication { host_ip, direct, host_port, port, count, protocol, from, mesh } = publication.clone();
    let publish_mode = if mesh { PublishMode::Mesh } else { PublishMode::Host };
    let uplinks = facts.uplinks.keys().map(ToString::to_string);
    let denial = || facts.firewall.denial_at_input(uplinks, host_ip, protocol.number(), host_port);
    let input = if direct || host_ip.is_loopback() { None } else { denial() };
    PortView { host_ip, host_port, port, count, proto: protocol, from, input, publish_mode }
}

impl<K: Kernel> Daemon<K> {
    pub(super) fn status(&self) -> Result<Reply, Failure> {
        let counters = self.kernel.counters()?;
        let programs: Vec<ProgramView> =
            self.kernel.programs()?.into_iter().map(|program| program_view(program, &counters)).collect();
        let mut entries = 0;
        self.kernel.flows(&mut |_, _| entries += 1)?;
        let searches = self.kernel.searches()?;
        let searches_failed = searches.first().copied().unwrap_or_default();
        let tried = (0u32..).zip(searches).skip(1);
        let modes: std::collections::BTreeSet<&str> = programs
            .iter()
            .filter(|view| !view.program.devices.is_empty())
            .map(|view| view.program.attach.as_str())
            .collect();
        let desired = self.planned(&self.model);
        let uplinks = self.facts.uplinks.iter().map(|(link, uplink)| UplinkView {
            name: link.to_string(),
            addresses: Family::BOTH.into_iter().filter_map(|family| primary(uplink, family)).collect(),
            mtu: uplink.mtu,
        });
        let mut all_warnings = self.all_warnings();
        all_warnings.extend(self.trouble.iter().cloned());
        Ok(Reply::Status(Box::new(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            attach: if modes.is_empty() { "none".to_owned() } else { Vec::from_iter(modes).join(",") },
            attached: desired.hooks.is_subset(&self.applied.hooks),
            socket: self.about.socket.clone(),
            state_dir: self.about.state_dir.clone(),
            bpf_dir: self.about.bpf_dir.clone(),
            programs,
            flows: FlowTableView {
                entries,
                max: self.kernel.flows_max(),
                under_pressure: self.fill.under_pressure,
                searches: tried.filter(|(_, count)| *count > 0).collect(),
                searches_failed,
            },
            sockets: self.kernel.guard(),
            firewall: firewall_view(&self.facts.firewall, &counters),
            routing: routing(&self.facts.routing, &self.facts.firewall).name().to_owned(),
            relayed: self.kernel.relayed(),
            not_relayed: self.not_relayed,
            uplinks: uplinks.collect(),
            cluster: self.cluster.as_ref().map(Cluster::told),
            networks: self.model.networks.len(),
            endpoints: self.model.endpoints.len(),
            warnings: all_warnings,
        })))
    }
}

/// How flows stand to the host's firewall.
fn firewall_view(facts: &FirewallFacts, counters: &BTreeMap<Hook, Counters>) -> FirewallView {
    let of = |count: fn(&Counters) -> u64| {
        [Hook::FromContainer, Hook::FromUplink, Hook::FromL3Uplink]
            .iter()
            .filter_map(|hook| counters.get(hook))
            .map(count)
            .sum::<u64>()
    };
    FirewallView {
        mode: facts.mode,
        shown: facts.is_shown(),
        why: facts.why(),
        mark: facts.mark,
        sets_marks: facts.sets_marks(),
        fast: of(|counters| counters.to_peer + counters.to_neighbour),
        by_stack: of(|counters| counters.shown),
    }
}

fn program_view(program: Program, counters: &BTreeMap<Hook, Counters>) -> ProgramView {
    let hook = Hook::ALL.into_iter().find(|hook| hook.name() == program.name);
    let counters = hook.and_then(|hook| counters.get(&hook)).copied().unwrap_or_default();
    let dropped = DropReason::ALL.iter().zip(counters.dropped).filter(|(_, count)| *count > 0);
    ProgramView {
        program,
        passed: counters.passed,
        to_peer: counters.to_peer,
        to_neighbour: counters.to_neighbour,
        to_tunnel: counters.to_tunnel,
        to_device: counters.to_device,
        dropped: dropped.map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
    }
}
