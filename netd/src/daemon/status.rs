//! How the daemon, its programs and its tables are, in the shape that the JSON has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::PathBuf,
};

use netd_common::{
    tables::{Counters, Hook},
    verdict::DropReason,
};
use serde::{Deserialize, Serialize};

use super::{ClusterView, Daemon, Failure, Reply, cluster::Cluster};
use crate::{
    firewall::{FirewallFacts, Mode},
    plan::{primary, routing},
    reconcile::{Family, Guard, Kernel, Program},
};

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
    pub mode: Mode,
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
        let modes: BTreeSet<&str> = programs
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
