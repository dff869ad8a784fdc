//! `netd status`.

use std::process::ExitCode;

use anyhow::Result;

use super::{args::Format, out, table};
use crate::{
    api::Client,
    daemon::{ClusterView, EncryptionView, FirewallView, FlowTableView, ProgramView, StatusView},
    reconcile::Guard,
};

/// Shows how the daemon is; exit 1 if a program is not where it should be.
pub async fn show(client: &Client, format: Format) -> Result<ExitCode> {
    let status: StatusView = client.get("/v1/status").await?;
    match format {
        Format::Json => table::print_json(&status)?,
        Format::Table => print(&status),
    }
    if !status.attached {
        out::complain(format_args!("netd: not every program is attached"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &StatusView) {
    out::line(format_args!("netd {} (pid {}), up {}", status.version, status.pid, duration(status.uptime)));
    out::line(format_args!("kernel {}, programs attached by {}", status.kernel, status.attach));
    out::line(format_args!("{} networks, {} endpoints", status.networks, status.endpoints));
    if let Some(cluster) = &status.cluster {
        out::line(cluster_line(cluster));
        cluster.encryption.iter().map(encryption).for_each(out::line);
    }
    out::line(format_args!("{} of {} entries of the flow table in use", status.flows.entries, status.flows.max));
    out::line(searches(&status.flows));
    match &status.sockets {
        Guard::Programs { cgroup } => {
            out::line(format_args!("processes of {} reach published ports, and cannot take one", cgroup.display()));
        }
        Guard::Sockets { why } => out::line(format_args!("published ports are held by sockets: {why}")),
    }
    out::line(firewall(&status.firewall));
    out::line(relayed(status));
    for uplink in &status.uplinks {
        let addresses: Vec<_> = uplink.addresses.iter().map(ToString::to_string).collect();
        let addresses =
            if addresses.is_empty() { "nothing: it has no address".to_owned() } else { addresses.join(", ") };
        out::line(format_args!("uplink {} (MTU {}), masquerades as {addresses}", uplink.name, uplink.mtu));
    }
    out::line("");
    let rows: Vec<_> = status.programs.iter().map(row).collect();
    let counted = ["PASSED", "TO PEER", "TO NEIGHBOUR", "TO TUNNEL", "TO DEVICE", "DROPPED"];
    let titles = [&["PROGRAM", "VERIFIED"][..], &counted, &["DEVICES"]].concat();
    table::print(&titles, &rows);
    for warning in &status.warnings {
        out::line(format_args!("warning: {warning}"));
    }
}

/// How the host stands with the others.
fn cluster_line(cluster: &ClusterView) -> String {
    let ClusterView { node, vtep, nodes, remotes, revision, missed, .. } = cluster;
    let who = format!(
        "node {node} with VTEP {vtep}, one of {nodes}, knows {remotes} containers of others as of revision {revision}"
    );
    let missed = if *missed == 0 { String::new() } else { format!(", {missed} records found by reading anew") };
    match (&cluster.away, cluster.heard) {
        (Some((_, since)), _) => format!("{who}; etcd away for {}{missed}", duration(*since)),
        (None, Some(heard)) => format!("{who}, heard of {} ago{missed}", duration(heard)),
        (None, None) => format!("node {node} with VTEP {vtep}, not among the nodes yet"),
    }
}

/// How encrypted networks stand.
fn encryption(view: &EncryptionView) -> String {
    let EncryptionView { port, obstacle, generation, age, oldest, associations, waiting } = view;
    if let Some(why) = obstacle {
        return format!("encrypted networks: this host has no part in them, since {why}");
    }
    let last = if oldest < generation { ", not yet in use everywhere" } else { "" };
    let waiting = match waiting.as_slice() {
        [] => String::new(),
        nodes => format!("; no keys yet with {}", nodes.join(", ")),
    };
    let age = duration(*age);
    format!(
        "encrypted networks: by UDP port {port} in ESP, keys number {generation} since {age}{last}, {associations} security associations{waiting}"
    )
}

/// How flows stand to the host's own firewall, and how much goes past it.
fn firewall(view: &FirewallView) -> String {
    let all = view.fast + view.by_stack;
    // In hundredths of a percent, rounded down: what is not whole must not look so.
    let share = (view.fast * 10_000).checked_div(all).unwrap_or(10_000);
    let does = if view.shown { "flows show themselves" } else { "flows do not show themselves" };
    let share = format!("{}.{:02} % of {all} packets on the fast path", share / 100, share % 100);
    format!("firewall {}: {does}, since {}; {share}", view.mode, view.why)
}

/// Who is served by the daemon itself.
fn relayed(status: &StatusView) -> String {
    let whom = match status.sockets {
        Guard::Programs { .. } => "sockets of the host that are bound to its loopback or lack the container's family",
        Guard::Sockets { .. } => "every socket of the host",
    };
    let left_out = match status.not_relayed {
        0 => String::new(),
        ports => format!(", and not at {ports} others of long ranges"),
    };
    format!("the daemon relays for {whom}: at {} ports{left_out}", status.relayed)
}

/// How hard it is to find a port to masquerade as.
fn searches(table: &FlowTableView) -> String {
    let tries =
        |wanted: std::ops::RangeInclusive<u32>| table.searches.range(wanted).map(|(_, count)| count).sum::<u64>();
    let (first, few, many) = (tries(1..=1), tries(2..=8), tries(9..=u32::MAX));
    format!(
        "ports to masquerade as: {first} found at once, {few} at the 2nd to 8th try, {many} later, {} not at all",
        table.searches_failed
    )
}

fn row(view: &ProgramView) -> Vec<String> {
    let dropped: Vec<_> = view.dropped.iter().map(|(reason, count)| format!("{reason}={count}")).collect();
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        view.program.name.clone(),
        view.program.verified_instructions.map_or("-".to_owned(), |count| count.to_string()),
        view.passed.to_string(),
        view.to_peer.to_string(),
        view.to_neighbour.to_string(),
        view.to_tunnel.to_string(),
        view.to_device.to_string(),
        or_dash(dropped.join(" ")),
        or_dash(view.program.devices.join(",")),
    ]
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}
