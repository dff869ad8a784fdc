//! `netd network …`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    args::{Format, ListArgs, NetworkCommand, NetworkCreateArgs},
    out, route, table, wrong_usage,
};
use crate::{
    api::{CallError, Client},
    daemon::NetworkView,
    model::NetworkOrder,
};

/// Does what is asked.
pub async fn done(client: &Client, command: NetworkCommand) -> Result<ExitCode> {
    match command {
        NetworkCommand::Create(args) => create(client, args).await,
        NetworkCommand::Ls(args) => list(client, args).await,
        NetworkCommand::Inspect { names } => inspect(client, &names).await,
        NetworkCommand::Rm { force, names } => remove(client, force, &names).await,
    }
}

async fn create(client: &Client, args: NetworkCreateArgs) -> Result<ExitCode> {
    let order = NetworkOrder {
        name: args.name,
        driver: Some(args.driver),
        subnet: args.subnet,
        gateway: args.gateway,
        ip_range: args.ip_range,
        aux_addresses: args.aux_addresses.into_iter().collect(),
        internal: args.internal,
        mtu: args.mtu,
        labels: args.labels.into_iter().collect(),
        force: args.force,
    };
    let network: NetworkView = client.post("/v1/networks", &order).await?;
    out::line(format_args!("{}", network.name));
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, args: ListArgs) -> Result<ExitCode> {
    const KEYS: [&str; 5] = ["name", "id", "driver", "label", "internal"];
    if let Some((key, _)) = args.filters.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Ok(wrong_usage(&format!("`{key}` is not something to filter networks by: {}", KEYS.join(", "))));
    }
    let mut networks: Vec<NetworkView> = client.get("/v1/networks").await?;
    networks.retain(|network| args.filters.iter().all(|(key, value)| matches(network, key, value)));
    if args.quiet {
        networks.iter().for_each(|network| out::line(format_args!("{}", network.name)));
    } else if args.format == Format::Json {
        table::print_json(&networks)?;
    } else {
        let rows: Vec<_> = networks.iter().map(row).collect();
        table::print(&["NAME", "ID", "DRIVER", "SUBNET", "GATEWAY", "INTERNAL", "ENDPOINTS"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn matches(network: &NetworkView, key: &str, value: &str) -> bool {
    match key {
        "name" => network.name.contains(value),
        "id" => network.id.starts_with(value),
        "driver" => network.driver == value,
        "internal" => network.internal.to_string() == value,
        _ => match value.split_once('=') {
            Some((label, value)) => network.labels.get(label).is_some_and(|found| found == value),
            None => network.labels.contains_key(value),
        },
    }
}

fn row(network: &NetworkView) -> Vec<String> {
    let subnet = network.subnets.first();
    vec![
        network.name.clone(),
        network.id.clone(),
        network.driver.clone(),
        subnet.map(|subnet| subnet.subnet.to_string()).unwrap_or_default(),
        subnet.map(|subnet| subnet.gateway.to_string()).unwrap_or_default(),
        network.internal.to_string(),
        network.endpoints.len().to_string(),
    ]
}

async fn inspect(client: &Client, names: &[String]) -> Result<ExitCode> {
    let mut networks: Vec<NetworkView> = Vec::new();
    for name in names {
        networks.push(client.get(&route("networks", name)?).await?);
    }
    table::print_json(&networks)?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &Client, force: bool, names: &[String]) -> Result<ExitCode> {
    for name in names {
        match client.delete::<serde_json::Value>(&route("networks", name)?, &()).await {
            Err(CallError::Refused(404, _)) if force => {}
            Err(error) => return Err(error.into()),
            Ok(_) => out::line(name),
        }
    }
    Ok(ExitCode::SUCCESS)
}
