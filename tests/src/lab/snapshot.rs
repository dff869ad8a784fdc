//! What exists on a host's network, as lines of text: for comparing before with after and reading the difference.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Host, Node};

/// How long the kernel may take to finish what it does by itself (addresses of its own, link states).
const PATIENCE: Duration = Duration::from_secs(60);

/// What the kernel changes by itself: timers, and of a bridge what follows its ports.
const VOLATILE: [&str; 13] = [
    "forward_delay_timer",
    "message_age_timer",
    "hold_timer",
    "tso_max_size",
    "tso_max_segs",
    "gc_timer",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "preferred_life_time",
    "valid_life_time",
    "tentative",
    "expires",
];

/// Listings that are objects named by a key, or lists of lines.
const LISTINGS: [(&str, &str); 8] = [
    ("link", "ip -j -d link show"),
    ("address", "ip -j address show"),
    ("route4", "ip -j -4 route show table all"),
    ("route6", "ip -j -6 route show table all"),
    ("rule4", "ip -j -4 rule show"),
    ("rule6", "ip -j -6 rule show"),
    ("neighbour", "ip -j neighbour show nud permanent"),
    ("fdb", "bridge -j fdb show"),
];

/// Sysctls of the network namespace that netd or its neighbours might change.
const SYSCTLS: [&str; 4] =
    ["ipv4/ip_forward", "ipv4/ip_local_port_range", "ipv4/ip_local_reserved_ports", "ipv6/conf/all/forwarding"];

/// Sysctls of every interface.
const INTERFACE_SYSCTLS: [(&str, &[&str]); 2] = [
    ("ipv4", &["forwarding", "rp_filter", "route_localnet", "accept_local", "proxy_arp"]),
    ("ipv6", &["forwarding", "accept_ra", "disable_ipv6", "proxy_ndp"]),
];

/// Everything of a host's network, a line a fact, each `section what = value`.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Lines of one side only: `-` for those of `self`, `+` for those of `after`. Empty if and only if the two are equal.
    pub fn difference(&self, after: &Self) -> String {
        difference(&self.0, &after.0)
    }

    /// The same without the sections named here.
    #[must_use]
    pub fn without(&self, sections: &[&str]) -> Self {
        let kept =
            self.0.iter().filter(|line| !sections.iter().any(|section| line.starts_with(&format!("{section} "))));
        Self(kept.cloned().collect())
    }

    /// The lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl Host {
    /// Links, addresses, routes, rules, neighbours, bridge entries, qdiscs, filters, programs at TCX hooks, netfilter's
    /// rules, pins, sysctls, mounts and named namespaces of this host, once they hold still.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn snapshot(&self) -> Snapshot {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Snapshot(facts(self));
        loop {
            thread::sleep(Duration::from_millis(50));
            let next = Snapshot(facts(self));
            if next == last {
                return next;
            }
            let changes = last.difference(&next);
            assert!(Instant::now() < deadline, "{} does not hold still:\n{changes}", self.name());
            last = next;
        }
    }

    /// Asserts that this host is as it was, or becomes so within a minute (the kernel frees some things late).
    ///
    /// # Panics
    /// When it is not, with the difference.
    #[track_caller]
    pub fn assert_as_in(&self, before: &Snapshot) {
        self.assert_as_in_but_for(before, &[]);
    }

    /// As [`Host::assert_as_in`], some sections left out: the first words of a snapshot's lines.
    ///
    /// # Panics
    /// When something else is not as it was, with the difference.
    #[track_caller]
    pub fn assert_as_in_but_for(&self, before: &Snapshot, sections: &[&str]) {
        let before = before.without(sections);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let difference = before.difference(&self.snapshot().without(sections));
            if difference.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{} is not as it was:\n{difference}", self.name());
        }
    }
}

impl Node {
    /// Programs at an interface's TCX hook, in order, as (program id, link id); empty on kernels without TCX.
    pub fn tcx(&self, interface: &str, egress: bool) -> Vec<(u32, u32)> {
        self.ifindex(interface).map(|index| self.enter(|| tcx_programs(index, egress))).unwrap_or_default()
    }
}

fn facts(host: &Host) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for (section, command) in LISTINGS {
        let listed = host.run(command.split(' ')).ok();
        lines.extend(json_lines(section, &listed));
    }
    // The kernel's own, since a bridge first had a port that was up.
    lines.retain(|line| !(line.starts_with("route6 ") && line.contains("\"ff00::/8\"")));
    let interfaces = interfaces(host);
    lines.extend(json_lines("qdisc", &host.run(["tc", "-j", "qdisc", "show"]).ok()));
    for interface in &interfaces {
        for (side, egress) in [("ingress", false), ("egress", true)] {
            // A device without a clsact qdisc has no filters, and some versions of tc call that an error.
            let filters = host.run(["tc", "filter", "show", "dev", interface, side]).stdout;
            lines.extend(filters.lines().map(|line| format!("filter {interface} {side} {}", filter(line))));
            let programs = host.tcx(interface, egress);
            lines.extend(
                programs.iter().map(|(program, link)| format!("tcx {interface} {side} program {program} link {link}")),
            );
        }
    }
    let rules = host.run(["nft", "--stateless", "list", "ruleset"]).ok();
    lines.extend(rules.lines().enumerate().map(|(number, line)| format!("nft {number:03} {line}")));
    lines.extend(sysctls(host, &interfaces));
    pins(&host.path("/sys/fs/bpf"), "", &mut lines);
    lines.extend(names_in(&host.path("/run/netns")).into_iter().map(|name| format!("netns {name}")));
    // Named namespaces are lines of their own; what `ip netns` mounts to hold them stays for the next.
    let mounts = host.mount_table();
    lines.extend(mounts.lines().map(mount_line).filter(|line| !line.contains(" /run/netns")));
    lines
}

/// A filter, its program told by name and tag: a daemon that takes over puts the same program, by another number, into its place.
fn filter(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let number = words.windows(2).position(|pair| pair[0] == "id" && pair[1].parse::<u32>().is_ok());
    let is_kept = |at: &usize| number.is_none_or(|number| *at != number && *at != number + 1);
    (0..words.len()).filter(is_kept).map(|at| words[at]).collect::<Vec<_>>().join(" ")
}

fn interfaces(host: &Host) -> Vec<String> {
    let listed: Value = serde_json::from_str(&host.ip("-j link show")).expect("`ip -j` prints JSON");
    let names = listed.as_array().into_iter().flatten();
    names.filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect()
}

/// A line a fact: named objects as `section name.key = value`, others as one line.
fn json_lines(section: &str, text: &str) -> Vec<String> {
    let listed: Value = if text.trim().is_empty() {
        Value::Null
    } else {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{section}: {error} in {text}"))
    };
    let mut lines = Vec::new();
    for mut object in listed.as_array().into_iter().flatten().cloned() {
        drop_volatile(&mut object);
        match object["ifname"].as_str().map(str::to_owned).filter(|_| section != "fdb") {
            Some(name) => lines.extend(flattened(&object).into_iter().map(|line| format!("{section} {name}{line}"))),
            None => lines.push(format!("{section} {object}")),
        }
    }
    lines
}

fn drop_volatile(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !VOLATILE.contains(&key.as_str()));
            fields.values_mut().for_each(drop_volatile);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_volatile),
        _ => {}
    }
}

/// A JSON value as lines `.path.to[0].field = value`.
pub fn flattened(value: &Value) -> Vec<String> {
    fn walk(path: &str, value: &Value, lines: &mut Vec<String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                fields.iter().for_each(|(key, value)| walk(&format!("{path}.{key}"), value, lines));
            }
            Value::Array(items) if !items.is_empty() => {
                items.iter().enumerate().for_each(|(index, value)| walk(&format!("{path}[{index}]"), value, lines));
            }
            _ => lines.push(format!("{path} = {value}")),
        }
    }
    let mut lines = Vec::new();
    walk("", value, &mut lines);
    lines
}

/// Lines of one side only: `-` before, `+` after.
pub fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for line in before.difference(after) {
        let _ = writeln!(text, "- {line}");
    }
    for line in after.difference(before) {
        let _ = writeln!(text, "+ {line}");
    }
    text
}

fn sysctls(host: &Host, interfaces: &[String]) -> Vec<String> {
    let of_interfaces = INTERFACE_SYSCTLS.iter().flat_map(|(family, names)| {
        let devices = interfaces.iter().map(String::as_str).chain(["all", "default"]);
        devices.flat_map(move |device| names.iter().map(move |name| format!("{family}/conf/{device}/{name}")))
    });
    let paths: Vec<_> = SYSCTLS.map(str::to_owned).into_iter().chain(of_interfaces).collect();
    let read = |path: String| {
        let value = fs::read_to_string(Path::new("/proc/sys/net").join(&path)).ok()?;
        Some(format!("sysctl {path} = {}", value.trim()))
    };
    host.enter(|| paths.into_iter().filter_map(read).collect())
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn pins(directory: &Path, prefix: &str, lines: &mut BTreeSet<String>) {
    for name in names_in(directory) {
        let shown = format!("{prefix}/{name}");
        let inside = directory.join(&name);
        if inside.is_dir() {
            pins(&inside, &shown, lines);
        }
        lines.insert(format!("pin {shown}"));
    }
}

/// A line of `mountinfo` as where and what, without the numbers that change.
fn mount_line(line: &str) -> String {
    let place = line.split(' ').nth(4).unwrap_or_default();
    let (_, what) = line.split_once(" - ").unwrap_or_default();
    format!("mount {place} {what}")
}

/// `BPF_PROG_QUERY` of a TCX hook in the calling thread's network namespace.
fn tcx_programs(index: u32, egress: bool) -> Vec<(u32, u32)> {
    const PROG_QUERY: i64 = 16;
    const TCX_INGRESS: u32 = 46;
    /// `union bpf_attr` as `BPF_PROG_QUERY` reads it.
    #[repr(C)]
    struct Query {
        index: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        program_ids: u64,
        count: u32,
        pad: u32,
        program_flags: u64,
        link_ids: u64,
        link_flags: u64,
        revision: u64,
    }
    let (mut programs, mut links) = ([0_u32; 64], [0_u32; 64]);
    let mut query = Query {
        index,
        attach_type: TCX_INGRESS + u32::from(egress),
        query_flags: 0,
        attach_flags: 0,
        program_ids: programs.as_mut_ptr() as u64,
        count: 64,
        pad: 0,
        program_flags: 0,
        link_ids: links.as_mut_ptr() as u64,
        link_flags: 0,
        revision: 0,
    };
    // SAFETY: the kernel reads and writes the query and at most 64 numbers in each array, which all outlive the call.
    let result =
        unsafe { nix::libc::syscall(nix::libc::SYS_bpf, PROG_QUERY, &raw mut query, std::mem::size_of::<Query>()) };
    if result != 0 {
        return Vec::new();
    }
    let count = usize::try_from(query.count).unwrap_or_default();
    programs.into_iter().zip(links).take(count).collect()
}
