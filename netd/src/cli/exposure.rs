//! `netd exposure`.

use std::{net::IpAddr, process::ExitCode};

use anyhow::Result;

use super::{args::Format, endpoint::run_of, table};
use crate::{
    api::Client,
    exposure::{Exposure, SaidBy},
};

/// Shows who can reach what.
pub async fn show(client: &Client, format: Format) -> Result<ExitCode> {
    let exposed: Vec<Exposure> = client.get("/v1/exposure").await?;
    match format {
        Format::Json => table::print_json(&exposed)?,
        Format::Table => {
            let rows: Vec<_> = exposed.iter().map(row).collect();
            table::print(&["PORT", "TO", "NETWORK", "ADDRESSES", "BY", "FROM", "HOST FIREWALL"], &rows);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(one: &Exposure) -> Vec<String> {
    let (host, inside) = (run_of(one.host_port, one.count), run_of(one.port, one.count));
    vec![
        format!("{host}/{}", one.proto),
        format!("{}:{inside}", one.endpoint),
        format!("{} ({})", one.network, one.mode),
        joined(one.addresses.iter()),
        if one.uplinks.is_empty() { "this host alone".to_owned() } else { one.uplinks.join(", ") },
        from(one),
        host_firewall(one),
    ]
}

fn host_firewall(one: &Exposure) -> String {
    match (&one.stopped, &one.host_firewall) {
        (Some(stop), _) => format!("stopped by {}; to let it in: {}", stop.by, stop.remedy),
        (None, Some(by)) => format!("open although INPUT denies: {by}"),
        (None, None) => "-".to_owned(),
    }
}

fn from(one: &Exposure) -> String {
    let family = if one.addresses.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" };
    let ranges = if one.from.is_empty() { format!("nobody of {family}") } else { joined(one.from.iter()) };
    match one.from_by {
        SaidBy::Nothing => "anyone".to_owned(),
        SaidBy::Port => ranges,
        SaidBy::Network => format!("{ranges} (of the network)"),
        SaidBy::Configuration => format!("{ranges} (of the configuration)"),
    }
}

fn joined<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
