//! `netd node …`, `netd overlay …` and `netd ps --all-nodes`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{
    args::{Format, ListArgs, NodeCommand, OverlayCommand},
    filters::{Filters, Key},
    out, route, table, wrong_usage,
};
use crate::{
    api::Client,
    cluster::Verified,
    daemon::{NeighbourView, NodeChange, NodeView},
};

/// `netd node …`.
pub async fn done(client: &Client, command: NodeCommand) -> Result<ExitCode> {
    match command {
        NodeCommand::Ls(args) => list(client, args).await,
        NodeCommand::Inspect { names } => inspect(client, &names).await,
        NodeCommand::Drain { undo, names } => drain(client, !undo, &names).await,
        NodeCommand::Rm { names } => remove(client, &names).await,
    }
}

/// `netd overlay …`.
pub async fn overlay(client: &Client, command: OverlayCommand) -> Result<ExitCode> {
    let format = match command {
        OverlayCommand::Verify { format } => format,
        OverlayCommand::Rekey => {
            client.post::<serde_json::Value>("/v1/keys", &()).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let verified: Verified = client.get("/v1/nodes-verified").await?;
    let Verified { differences, kept } = &verified;
    match format {
        Format::Json => table::print_json(&verified)?,
        Format::Table => {
            if differences.is_empty() {
                out::line("every node forwards what etcd says");
            }
            differences.iter().chain(kept).for_each(out::line);
        }
    }
    match differences.len() {
        0 => Ok(ExitCode::SUCCESS),
        1 => bail!("there is a difference"),
        count => bail!("there are {count} differences"),
    }
}

/// `netd ps --all-nodes`.
pub async fn ps(client: &Client, args: ListArgs) -> Result<ExitCode> {
    let filters = match Filters::new(args.filters, &["node", "name", "id", "network"].map(Key::any)) {
        Ok(filters) => filters,
        Err(unknown) => return Ok(wrong_usage(&unknown.to_string())),
    };
    let mut all: Vec<NeighbourView> = client.get("/v1/neighbours").await?;
    let matches = |endpoint: &NeighbourView, key: &str, value: &str| match key {
        "node" => endpoint.node == value,
        "name" => endpoint.name.contains(value),
        "id" => endpoint.id.starts_with(value),
        _ => endpoint.networks.iter().any(|at| at.network == value),
    };
    all.retain(|endpoint| filters.fit(|key, value| matches(endpoint, key, value)));
    if args.quiet {
        all.iter().for_each(|endpoint| out::line(format_args!("{}", endpoint.name)));
    } else if args.format == Format::Json {
        table::print_json(&all)?;
    } else {
        let rows: Vec<_> = all.iter().map(neighbour).collect();
        table::print(&["NODE", "NAME", "NETWORKS", "PORTS", "CREATED"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn neighbour(endpoint: &NeighbourView) -> Vec<String> {
    let networks: Vec<_> =
        endpoint.networks.iter().map(|at| format!("{}={}", at.network, spaced(&at.addresses))).collect();
    let networks = if networks.is_empty() { "none".to_owned() } else { networks.join(", ") };
    vec![endpoint.node.clone(), endpoint.name.clone(), networks, endpoint.ports.join(", "), endpoint.created.clone()]
}

async fn list(client: &Client, args: ListArgs) -> Result<ExitCode> {
    let state = Key::of("state", &["ready", "drained", "down"], "a state: ready, drained or down");
    let filters = match Filters::new(args.filters, &[Key::any("name"), state]) {
        Ok(filters) => filters,
        Err(unknown) => return Ok(wrong_usage(&unknown.to_string())),
    };
    let mut nodes: Vec<NodeView> = client.get("/v1/nodes").await?;
    let matches = |node: &NodeView, key: &str, value: &str| match key {
        "name" => node.name.contains(value),
        _ => node.state == value,
    };
    nodes.retain(|node| filters.fit(|key, value| matches(node, key, value)));
    if args.quiet {
        nodes.iter().for_each(|node| out::line(format_args!("{}", node.name)));
    } else if args.format == Format::Json {
        table::print_json(&nodes)?;
    } else {
        let rows: Vec<_> = nodes.iter().map(row).collect();
        table::print(&["NAME", "STATE", "VTEP", "ENDPOINTS", "ADDRESSES", "VERSION"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn row(node: &NodeView) -> Vec<String> {
    let this = if node.this { " (this host)" } else { "" };
    vec![
        format!("{}{this}", node.name),
        node.state.clone(),
        node.vtep.map_or_else(|| "-".to_owned(), |vtep| vtep.to_string()),
        node.endpoints.len().to_string(),
        node.addresses.len().to_string(),
        node.version.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

async fn inspect(client: &Client, names: &[String]) -> Result<ExitCode> {
    let mut nodes: Vec<NodeView> = Vec::new();
    for name in names {
        nodes.push(client.get(&route("nodes", name)?).await?);
    }
    table::print_json(&nodes)?;
    Ok(ExitCode::SUCCESS)
}

async fn drain(client: &Client, drained: bool, names: &[String]) -> Result<ExitCode> {
    for name in names {
        let node: NodeView = client.post(&route("nodes", name)?, &NodeChange { drained }).await?;
        out::line(format_args!("{}", node.name));
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &Client, names: &[String]) -> Result<ExitCode> {
    for name in names {
        client.delete::<serde_json::Value>(&route("nodes", name)?, &()).await?;
        out::line(name);
    }
    Ok(ExitCode::SUCCESS)
}

fn spaced(addresses: &[std::net::IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
