//! A service of the file: a command, the networks it joins, the ports it publishes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    ComposeError,
    file::with_values,
    section::{Section, text},
};

/// Keys of a service that are about something else than its network.
const PASSED_OVER: [&str; 43] = [
    "annotations",
    "attach",
    "blkio_config",
    "build",
    "cap_add",
    "cap_drop",
    "cgroup",
    "cgroup_parent",
    "configs",
    "cpu_count",
    "cpu_shares",
    "cpus",
    "cpuset",
    "deploy",
    "develop",
    "devices",
    "expose",
    "group_add",
    "healthcheck",
    "image",
    "init",
    "ipc",
    "logging",
    "mem_limit",
    "mem_reservation",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "platform",
    "privileged",
    "pull_policy",
    "read_only",
    "restart",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "tmpfs",
    "tty",
    "ulimits",
    "volumes",
];

/// A service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// Its endpoint's name, if it is not made of the project's and its own.
    pub container_name: Option<String>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Beside what it inherits.
    pub environment: BTreeMap<String, String>,
    /// Where it runs, below the file's directory.
    pub directory: Option<String>,
    /// `host`, `none`, `service:NAME` or `container:NAME`.
    pub network_mode: Option<String>,
    /// Its places in networks, the first `eth0`; `None` where the file says nothing.
    pub networks: Option<Vec<Joined>>,
    /// As [`PortSpec`](crate::model::PortSpec) reads them.
    pub ports: Vec<String>,
    /// DNS servers for what is no name of its networks.
    pub dns: Vec<String>,
    /// Services that are started before it.
    pub depends_on: BTreeSet<String>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
}

/// A service's place in a network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Joined {
    /// The file's name for the network.
    pub network: String,
    /// More names there.
    pub aliases: Vec<String>,
    /// What a network specification says of it, as `KEY=VALUE`.
    pub options: Vec<String>,
    /// Higher is joined earlier.
    pub priority: i64,
}

impl Service {
    /// Reads it.
    pub fn read(mut section: Section, warnings: &mut Vec<String>) -> Result<Self, ComposeError> {
        let place = section.place().to_owned();
        let mut command = words(&mut section, "entrypoint")?;
        command.extend(words(&mut section, "command")?);
        if command.is_empty() {
            return Err(ComposeError::wrong(&place, "it has no `command`: netd runs commands, not images"));
        }
        let service = Self {
            container_name: section.text("container_name")?,
            command,
            environment: set(section.pairs("environment")?),
            directory: section.text("working_dir")?,
            network_mode: section.text("network_mode")?,
            networks: networks(&mut section, warnings)?,
            ports: ports(&mut section, warnings)?,
            dns: section.texts("dns")?,
            depends_on: dependencies(&mut section, warnings)?,
            labels: with_values(section.pairs("labels")?),
        };
        section.finished(&PASSED_OVER, warnings)?;
        if service.network_mode.is_some() && service.networks.is_some() {
            return Err(ComposeError::wrong(&place, "it has both `network_mode` and `networks`"));
        }
        Ok(service)
    }
}

/// Variables with a value; those without are inherited anyway.
fn set(pairs: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    pairs.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// A command: a list of words, or a text that is split as a shell splits it.
fn words(section: &mut Section, key: &str) -> Result<Vec<String>, ComposeError> {
    let place = section.place_of(key);
    match section.take(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(|item| text(&place, item)).collect(),
        Some(value) => {
            let line = text(&place, &value)?;
            shlex::split(&line).ok_or_else(|| ComposeError::wrong(&place, "a quote is not closed"))
        }
    }
}

fn networks(section: &mut Section, warnings: &mut Vec<String>) -> Result<Option<Vec<Joined>>, ComposeError> {
    let place = section.place_of("networks");
    let mut joined = match section.take("networks") {
        None => return Ok(None),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| Ok(Joined { network: text(&place, item)?, ..Joined::default() }))
            .collect::<Result<Vec<_>, ComposeError>>()?,
        Some(value) => Section::new(place, value)?
            .entries()
            .map(|(network, value)| {
                let section = Section::new(format!("{}.networks.{network}", section.place()), value)?;
                joined_network(network, section, warnings)
            })
            .collect::<Result<Vec<_>, ComposeError>>()?,
    };
    joined.sort_by_key(|joined| std::cmp::Reverse(joined.priority));
    Ok(Some(joined))
}

fn joined_network(network: String, mut section: Section, warnings: &mut Vec<String>) -> Result<Joined, ComposeError> {
    let keys = [
        ("ipv4_address", "ip"),
        ("ipv6_address", "ip6"),
        ("mac_address", "mac"),
        ("interface_name", "ifname"),
        ("gw_priority", "gw-priority"),
    ];
    let mut options = Vec::new();
    for (key, ours) in keys {
        options.extend(section.text(key)?.map(|value| format!("{ours}={value}")));
    }
    let place = section.place_of("priority");
    let priority = section.text("priority")?.map(|text| text.parse());
    let priority = priority.transpose().map_err(|_| ComposeError::wrong(&place, "it is not a whole number"))?;
    let aliases = section.texts("aliases")?;
    section.finished(&[], warnings)?;
    Ok(Joined { network, aliases, options, priority: priority.unwrap_or(0) })
}

/// Ports, in the short form, which is netd's own, and in the long one.
fn ports(section: &mut Section, warnings: &mut Vec<String>) -> Result<Vec<String>, ComposeError> {
    let place = section.place_of("ports");
    match section.take("ports") {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::Object(_) => long_port(Section::new(place.clone(), item)?, warnings),
                item => text(&place, &item),
            })
            .collect(),
        Some(_) => Err(ComposeError::wrong(&place, "it is not a list")),
    }
}

fn long_port(mut section: Section, warnings: &mut Vec<String>) -> Result<String, ComposeError> {
    let place = section.place().to_owned();
    let target = section.text("target")?.ok_or_else(|| ComposeError::wrong(&place, "a port has no `target`"))?;
    let published = section.text("published")?.unwrap_or_default();
    let host_ip = section.text("host_ip")?;
    let protocol = section.text("protocol")?.map_or(String::new(), |protocol| format!("/{protocol}"));
    // What a port is called, and that Swarm would spread it, does not matter to one host.
    section.pass_over(&["name", "app_protocol", "mode"]);
    section.finished(&[], warnings)?;
    Ok(match host_ip {
        Some(ip) if ip.contains(':') => format!("[{ip}]:{published}:{target}{protocol}"),
        Some(ip) => format!("{ip}:{published}:{target}{protocol}"),
        None if published.is_empty() => format!("{target}{protocol}"),
        None => format!("{published}:{target}{protocol}"),
    })
}

/// Names of services; of conditions the one that netd can tell: that it is started.
fn dependencies(section: &mut Section, warnings: &mut Vec<String>) -> Result<BTreeSet<String>, ComposeError> {
    let place = section.place_of("depends_on");
    match section.take("depends_on") {
        None => Ok(BTreeSet::new()),
        Some(Value::Array(items)) => items.iter().map(|item| text(&place, item)).collect(),
        Some(value) => Section::new(place.clone(), value)?
            .entries()
            .map(|(name, value)| {
                let mut section = Section::new(format!("{place}.{name}"), value)?;
                let condition = section.text("condition")?;
                if let Some(other) = condition.filter(|condition| condition != "service_started") {
                    let why = format!("condition {other} is none that netd can tell: service_started");
                    return Err(ComposeError::wrong(section.place(), why));
                }
                section.pass_over(&["required", "restart"]);
                section.finished(&[], warnings)?;
                Ok(name)
            })
            .collect(),
    }
}
