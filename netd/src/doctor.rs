//! `netd doctor`: findings from facts, each with what it means and what to do.
//!
//! Invariant: pure. What is looked at comes in as values, read by the host and by the daemon.

mod firewall;
pub mod tunnels;

use netd_common::tables::Hook;
use serde::{Deserialize, Serialize};

use crate::{
    dns::Server,
    model::{Model, conflicts},
    plan::{Choices, plan, warnings},
    reconcile::{Checkup, Foreign, Guard, HostFacts, Process, State, diff, repair},
};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Worth knowing.
    Note,
    /// Something works, and not as well as the user may think.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: a word.
    pub check: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What that means; empty where it is fine.
    pub meaning: String,
    /// What to do; empty where there is nothing.
    pub remedy: String,
}

impl Finding {
    /// That something is as it should be.
    pub fn fine(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Fine, found, "", "")
    }

    /// What the daemon could not make true.
    pub fn trouble(line: &str) -> Self {
        let meaning = "netd has tried, and tries again at every look.";
        Self::new("state", Severity::Problem, line, meaning, "See what is in the way.")
    }

    /// A finding.
    pub fn new(check: &str, severity: Severity, found: impl Into<String>, meaning: &str, remedy: &str) -> Self {
        let (check, meaning, remedy) = (check.to_owned(), meaning.to_owned(), remedy.to_owned());
        Self { check, severity, found: found.into(), meaning, remedy }
    }
}

/// Everything that a daemon knows and has looked at.
pub struct Facts<'a> {
    /// What was asked for.
    pub model: &'a Model,
    /// What the plan depends on.
    pub host: &'a HostFacts,
    /// What is there.
    pub observed: &'a State,
    /// The plan's.
    pub choices: Choices,
    /// What leads the host's own sockets.
    pub guard: &'a Guard,
    /// Published ports that a process of the host listens on.
    pub taken: &'a [(u16, Process)],
    /// What else was looked at.
    pub checkup: &'a Checkup,
}

/// Fewer packets than these say nothing of whether a program runs.
const TELLING: u64 = 16;

/// What is to be said of all of it, in the order of the checks.
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    kernel(facts.checkup, &mut found);
    hooks(facts, &mut found);
    state(facts, &mut found);
    subnets(facts, &mut found);
    mtu(facts, &mut found);
    filters(facts, &mut found);
    firewall::add(facts, &mut found);
    foreign(facts.checkup, &mut found);
    ports(facts, &mut found);
    found
}

fn kernel(checkup: &Checkup, found: &mut Vec<Finding>) {
    const CHECK: &str = "kernel";
    let release = &checkup.kernel;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    found.push(match version {
        version if version < (6, 1) => Finding::new(
            CHECK,
            Severity::Problem,
            format!("kernel {release}"),
            "netd is made for 6.1 and later: programs may not load, and nothing is tested here.",
            "Boot a kernel of 6.1 or later.",
        ),
        version if version < (6, 6) => Finding::new(
            CHECK,
            Severity::Note,
            format!("kernel {release}"),
            "It has no TCX: programs are attached as filters on clsact qdiscs, which anybody's `tc qdisc del` takes away \
             until netd notices.",
            "Boot a kernel of 6.6 or later, or leave those qdiscs alone.",
        ),
        _ => Finding::fine(CHECK, format!("kernel {release}")),
    });
    if checkup.realtime {
        found.push(Finding::new(
            CHECK,
            Severity::Problem,
            "the kernel is built with PREEMPT_RT",
            "The programs count on not being interrupted by one another on a processor: packets may be mistranslated.",
            "Boot a kernel without PREEMPT_RT.",
        ));
    }
    if checkup.jit == Some(false) {
        found.push(Finding::new(
            CHECK,
            Severity::Warning,
            "net.core.bpf_jit_enable is 0",
            "Programs are interpreted: every packet costs several times as much.",
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }
}

fn hooks(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    const CHECK: &str = "hooks";
    let desired = plan(facts.model, facts.host, &facts.choices);
    let missing: Vec<_> = desired.hooks.difference(&facts.observed.hooks).collect();
    for (link, hook) in &missing {
        found.push(Finding::new(
            CHECK,
            Severity::Problem,
            format!("{} is not attached to {link}", hook.name()),
            "Packets there are neither translated nor checked. netd attaches it again within seconds if it can.",
            "See `netd status` for what is in the way.",
        ));
    }
    let uncalled: Vec<_> = desired.calls.difference(&facts.observed.calls).collect();
    for call in &uncalled {
        found.push(Finding::new(
            CHECK,
            Severity::Problem,
            format!("{call} is not attached to the cgroup"),
            "Processes of the host are not led to published ports there, or can take one. netd attaches it again within \
             seconds if it can.",
            "See `netd status` for what is in the way.",
        ));
    }
    if missing.is_empty() && uncalled.is_empty() {
        let count = desired.hooks.len() + desired.calls.len();
        found.push(Finding::fine(CHECK, format!("{count} programs are attached where they should be")));
    }
    let Checkup { received, seen, .. } = *facts.checkup;
    if received >= TELLING && seen == 0 {
        found.push(Finding::new(
            CHECK,
            Severity::Problem,
            format!("uplinks have received {received} packets, and {} has seen none", Hook::FromUplink.name()),
            "The program is attached and does not run: another one before it keeps the packets. Published ports and answers \
             to containers do not arrive.",
            "Look for programs of others below, and take them away or put them after netd's.",
        ));
    }
}

/// The store's model against the kernel.
fn state(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    const CHECK: &str = "state";
    let desired = plan(facts.model, facts.host, &facts.choices);
    let steps = diff(&desired, facts.observed);
    for step in &steps {
        found.push(Finding::new(
            CHECK,
            Severity::Warning,
            repair(step, facts.observed),
            "The host is not as the store says. netd mends it within two seconds if it can.",
            "Run it again; if it stays, `netd status` says what is in the way.",
        ));
    }
    for (link, why) in &facts.observed.unclear {
        found.push(Finding::new(
            CHECK,
            Severity::Warning,
            format!("cannot see where {link} leads: {why}"),
            "The container is left as it is, mended or not.",
            "See that the namespace's path can be opened.",
        ));
    }
    if steps.is_empty() {
        let (networks, endpoints) = (facts.model.networks.len(), facts.model.endpoints.len());
        found
            .push(Finding::fine(CHECK, format!("{networks} networks and {endpoints} endpoints are as the store says")));
    }
    for endpoint in facts.model.endpoints.values() {
        if !endpoint.attachments.is_empty() && crate::plan::there(endpoint, facts.host).is_none() {
            found.push(Finding::new(
                CHECK,
                Severity::Warning,
                format!("endpoint {}: its namespace {} is gone", endpoint.name, endpoint.netns.display()),
                "Its addresses and ports stay taken.",
                &format!("netd rm {}", endpoint.name),
            ));
        }
    }
}

fn subnets(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let conflicts: Vec<String> = conflicts(facts.model, facts.host).iter().map(ToString::to_string).collect();
    for conflict in &conflicts {
        found.push(Finding::new(
            "subnets",
            Severity::Warning,
            conflict.clone(),
            "What the host and its containers send there goes to one of the two, and the other is not reached.",
            "Move the network with `netd network renumber`, or one of all nodes by making it anew, or take the other away.",
        ));
    }
    if conflicts.is_empty() {
        found.push(Finding::fine("subnets", "no network overlaps what the host uses"));
    }
    let others = warnings(facts.model, facts.host).into_iter().filter(|warning| !conflicts.contains(warning));
    found.extend(others.map(|warning| {
        let meaning = "Containers reach less of the outside than the user may think, or not as fast.";
        Finding::new("ways", Severity::Warning, warning, meaning, "Mend what it names, or name uplinks with --uplink.")
    }));
}

fn mtu(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    const CHECK: &str = "mtu";
    let before = found.len();
    for network in facts.model.networks.values() {
        for (link, uplink) in &facts.host.uplinks {
            if network.mtu > uplink.path_mtu && !network.internal {
                found.push(Finding::new(
                    CHECK,
                    Severity::Warning,
                    format!("network {} has MTU {}, the way by {link} {}", network.name, network.mtu, uplink.path_mtu),
                    "Large packets are fragmented or refused on their way out; connections behind a firewall that drops \
                     ICMP hang.",
                    "Let the network follow the host's routes (netd network set), or give it that MTU.",
                ));
            }
        }
    }
    if found.len() == before {
        found.push(Finding::fine(CHECK, "no network's MTU is above that of a way out"));
    }
}

fn filters(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let several = facts.host.uplinks.len() > 1;
    for (link, value) in &facts.checkup.reverse_path {
        if *value == 1 && several && facts.host.uplinks.contains_key(link) {
            found.push(Finding::new(
                "rp_filter",
                Severity::Note,
                format!("the reverse-path filter of {link} is strict"),
                "With several uplinks, what comes by one and would be answered by another is dropped by the kernel in \
                 silence: packets that the stack must deliver.",
                &format!("If that is not meant: sysctl -w net.ipv4.conf.{link}.rp_filter=2"),
            ));
        }
    }
    let wanted = plan(facts.model, facts.host, &facts.choices).forwarding;
    let off: Vec<_> = wanted.difference(&facts.observed.forwarding).collect();
    for (link, family) in &off {
        found.push(Finding::new(
            "forwarding",
            Severity::Warning,
            format!("{family} forwarding of {link} is off"),
            "What the programs leave to the stack is not forwarded: the first packets of ways that must be resolved, \
             large packets, and errors.",
            "Something switches it off as often as netd switches it on: look in /etc/sysctl.d and systemd-networkd.",
        ));
    }
    if off.is_empty() {
        found.push(Finding::fine("forwarding", "forwarding is on where it must be"));
    }
    if facts.checkup.bridge_netfilter == Some(true) {
        found.push(Finding::new(
            "br_netfilter",
            Severity::Note,
            "net.bridge.bridge-nf-call-iptables is 1",
            "Packets between containers of one network that a bridge carries (broadcasts, and what programs leave to it) \
             pass the host's iptables rules; a FORWARD policy of DROP stops them.",
            "If nothing needs it: sysctl -w net.bridge.bridge-nf-call-iptables=0",
        ));
    }
}

fn foreign(checkup: &Checkup, found: &mut Vec<Finding>) {
    for Foreign { link, hook, name, before } in &checkup.foreign {
        let (severity, meaning, remedy) = if *before {
            (
                Severity::Warning,
                "It sees packets before netd's program does, and can keep them from it.",
                "See that it lets on what is not its own, or detach it (`bpftool net` shows it).",
            )
        } else {
            (Severity::Note, "It sees what netd's program lets go on.", "Detach it if it is not meant to be there.")
        };
        let place = if *before { "before" } else { "after" };
        let what = format!("{name} stands {place} {} on {link}", hook.name());
        found.push(Finding::new("programs", severity, what, meaning, remedy));
    }
    if checkup.foreign.is_empty() {
        found.push(Finding::fine("programs", "no programs of others stand at netd's hooks"));
    }
}

fn ports(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    for (port, process) in facts.taken {
        found.push(Finding::new(
            "ports",
            Severity::Warning,
            format!("port {port} is published, and {} (pid {}) has it too", process.command, process.pid),
            "Clients from outside reach the container, not that process.",
            "End the process, or publish another port.",
        ));
    }
    if let Guard::Sockets { why } = facts.guard {
        found.push(Finding::new(
            "ports",
            Severity::Note,
            format!("published ports are held by sockets: {why}"),
            "The host's own processes are served by the daemon's relay, and the ports are free while the daemon is not there.",
            "Start the daemon where there is a cgroup2, or name one with --cgroup.",
        ));
    }
    if facts.taken.is_empty() {
        found.push(Finding::fine("ports", "no process of the host listens on a published port"));
    }
}

/// A server that names of the outside are asked of, and whether it has answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Who was asked.
    pub server: Server,
    /// Whence, where it is not one of the host's, which are asked from the host: an endpoint, or the host for want of one.
    pub from: Option<String>,
    /// Networks and endpoints that name it themselves.
    pub others: Vec<String>,
    /// Why not, where it has not answered.
    pub answer: Result<(), String>,
}

/// Of the servers that names of the outside are asked of, whether each has answered.
pub fn resolvers(asked: &[Asked]) -> Vec<Finding> {
    const CHECK: &str = "dns";
    let mut found = Vec::new();
    if !asked.iter().any(|one| one.from.is_none()) {
        let meaning = "Names of the outside do not resolve in networks that name no servers of their own.";
        let remedy = "Name a resolver in /etc/resolv.conf.";
        found.push(Finding::new(CHECK, Severity::Warning, "the host has no resolver", meaning, remedy));
    }
    found.extend(asked.iter().map(|Asked { server, from, others, answer }| {
        let of = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
        let whence = from.as_ref().map(|from| format!(", asked from {from}")).unwrap_or_default();
        let remedy = if from.is_none() {
            "Take it out of /etc/resolv.conf, or see why it does not answer."
        } else {
            "See why it does not answer, or make those it serves anew with other servers (--dns)."
        };
        match answer {
            Ok(()) => Finding::fine(CHECK, format!("{server}{of} answers{whence}")),
            Err(why) => Finding::new(
                CHECK,
                Severity::Warning,
                format!("{server}{of} does not answer{whence}: {why}"),
                "Questions for names of the outside wait for it, or stay without an answer if it is the only one.",
                remedy,
            ),
        }
    }));
    found
}

#[cfg(test)]
mod tests;
