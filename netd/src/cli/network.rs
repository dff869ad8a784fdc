//! `netd network …`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    args::{ConnectArgs, Format, ListArgs, NetworkCommand, NetworkCreateArgs},
    endpoint::print_attachment,
    filters::{Filters, Key, has_label},
    out, query, route, table, wrong_usage,
};
use crate::{
    api::{CallError, Client},
    daemon::{ConnectOrder, DisconnectOrder, EndpointView, NetworkChange, NetworkView, SubnetView},
    model::{NetworkOrder, RenumberOrder},
};

/// Does what is asked.
pub async fn done(client: &Client, command: NetworkCommand) -> Result<ExitCode> {
    match command {
        NetworkCommand::Create(args) => create(client, *args).await,
        NetworkCommand::Ls(args) => list(client, args).await,
        NetworkCommand::Inspect { names } => inspect(client, &names).await,
        NetworkCommand::Renumber { name, subnets, recreate, force } => {
            renumber(client, &name, &RenumberOrder { subnets, recreate, force }).await
        }
        NetworkCommand::Set { name, mtu, from } => {
            set(client, &name, &NetworkChange { mtu: mtu.map(|mtu| mtu.0), from: sources(from) }).await
        }
        NetworkCommand::Prune { filters, .. } => prune(client, &filters).await,
        NetworkCommand::Connect(args) => connect(client, args).await,
        NetworkCommand::Disconnect { network, endpoint } => disconnect(client, network, &endpoint).await,
        NetworkCommand::Rm { force, names } => remove(client, force, &names).await,
    }
}

async fn create(client: &Client, args: NetworkCreateArgs) -> Result<ExitCode> {
    let order = NetworkOrder {
        name: args.name,
        driver: Some(args.driver),
        vni: args.vni,
        peers: args.peers,
        vxlan_port: args.vxlan_port,
        encrypted: args.encrypted,
        subnets: args.subnets,
        ipv6: args.ipv6,
        gateways: args.gateways,
        ip_ranges: args.ip_ranges,
        aux_addresses: args.aux_addresses.into_iter().collect(),
        snat_ips: args.snat_ips,
        internal: args.internal,
        gateway_modes: args.gateway_modes,
        no_icc: args.no_icc,
        no_masquerade: args.no_masquerade,
        mtu: args.mtu,
        options: args.options.into_iter().collect(),
        dns: args.dns,
        from: args.from,
        labels: args.labels.into_iter().collect(),
        force: args.force,
    };
    let network: NetworkView = client.post("/v1/networks", &order).await?;
    out::line(format_args!("{}", network.name));
    Ok(ExitCode::SUCCESS)
}

/// What networks can be listed by.
const KEYS: [Key; 6] = [
    Key::any("name"),
    Key::any("id"),
    Key::of("driver", &["bridge", "overlay", "vxlan"], "a driver: bridge, overlay or vxlan"),
    Key::any("label"),
    Key::of("internal", &["true", "false"], "true or false"),
    Key::any("endpoint"),
];

async fn list(client: &Client, args: ListArgs) -> Result<ExitCode> {
    let filters = match Filters::new(args.filters, &KEYS) {
        Ok(filters) => filters,
        Err(unknown) => return Ok(wrong_usage(&unknown.to_string())),
    };
    let mut networks: Vec<NetworkView> = client.get("/v1/networks").await?;
    networks.retain(|network| filters.fit(|key, value| matches(network, key, value)));
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
        "endpoint" => network.endpoints.iter().any(|endpoint| endpoint == value),
        _ => has_label(&network.labels, value),
    }
}

fn row(network: &NetworkView) -> Vec<String> {
    let of_each = |what: fn(&SubnetView) -> String| network.subnets.iter().map(what).collect::<Vec<_>>().join(", ");
    vec![
        network.name.clone(),
        network.id.clone(),
        network.driver.clone(),
        of_each(|subnet| subnet.subnet.to_string()),
        of_each(|subnet| subnet.gateway.to_string()),
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

async fn set(client: &Client, name: &str, change: &NetworkChange) -> Result<ExitCode> {
    client.post::<NetworkView>(&route("networks", name)?, change).await?;
    Ok(ExitCode::SUCCESS)
}

/// What is given of sources: none for `default`, and `None` where nothing is.
fn sources(given: Vec<String>) -> Option<Vec<String>> {
    match &given[..] {
        [] => None,
        [one] if one == "default" => Some(Vec::new()),
        _ => Some(given),
    }
}

async fn renumber(client: &Client, name: &str, order: &RenumberOrder) -> Result<ExitCode> {
    let network: NetworkView = client.post(&format!("{}/subnets", route("networks", name)?), order).await?;
    network.subnets.iter().for_each(|subnet| out::line(format_args!("{} {}", subnet.subnet, subnet.gateway)));
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

async fn prune(client: &Client, filters: &[(String, String)]) -> Result<ExitCode> {
    if let Err(unknown) = Filters::new(filters.to_vec(), &[Key::any("label")]) {
        return Ok(wrong_usage(&unknown.to_string()));
    }
    let networks: Vec<NetworkView> = client.delete(&format!("/v1/networks?{}", query(filters)), &()).await?;
    networks.iter().for_each(|network| out::line(&network.name));
    Ok(ExitCode::SUCCESS)
}

async fn connect(client: &Client, args: ConnectArgs) -> Result<ExitCode> {
    let order = ConnectOrder { network: netspec(&args) };
    let endpoint: EndpointView = client.post(&networks_of(&args.endpoint)?, &order).await?;
    endpoint.networks.last().into_iter().for_each(print_attachment);
    Ok(ExitCode::SUCCESS)
}

async fn disconnect(client: &Client, network: String, endpoint: &str) -> Result<ExitCode> {
    client.delete::<EndpointView>(&networks_of(endpoint)?, &DisconnectOrder { network }).await?;
    Ok(ExitCode::SUCCESS)
}

fn networks_of(endpoint: &str) -> Result<String> {
    Ok(format!("{}/networks", route("endpoints", endpoint)?))
}

/// The network and the options as the one specification that the daemon reads.
fn netspec(args: &ConnectArgs) -> String {
    let given = |key: &str, value: Option<String>| value.map(|value| format!("{key}={value}"));
    let options = [
        given("ip", args.ip.clone()),
        given("ip6", args.ip6.clone()),
        given("gw-priority", args.gw_priority.map(|priority| priority.to_string())),
    ];
    let aliases = args.aliases.iter().map(|alias| format!("alias={alias}"));
    let options: Vec<String> = options.into_iter().flatten().chain(aliases).collect();
    let begins = args.network.starts_with("name=") || args.network.contains(':');
    match options.is_empty() {
        true => args.network.clone(),
        false => format!("{}{}{}", args.network, if begins { ',' } else { ':' }, options.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    #[test]
    fn options_of_connect_are_a_netspec() {
        let cases = [
            ("blue web", "blue"),
            (
                "--ip 10.0.0.7 --alias db --alias sql --gw-priority -3 blue web",
                "blue:ip=10.0.0.7,gw-priority=-3,alias=db,alias=sql",
            ),
            ("--ip6 fd00::7 blue:ifname=net7 web", "blue:ifname=net7,ip6=fd00::7"),
            ("--alias db name=blue,ip=10.0.0.7 web", "name=blue,ip=10.0.0.7,alias=db"),
        ];
        for (words, expected) in cases {
            let words = ["netd", "network", "connect"].into_iter().chain(words.split(' '));
            let Command::Network(NetworkCommand::Connect(args)) = Cli::try_parse_from(words).unwrap().command else {
                panic!("it is network connect")
            };
            assert_eq!(netspec(&args), expected);
        }
    }
}
