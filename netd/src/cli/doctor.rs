//! `netd doctor`: what the daemon finds, and whether the servers answer that names are asked of: the host's, the networks' and the
//! containers' own.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use tokio::{net::UdpSocket, task::JoinSet, time::timeout};

use super::{args::Format, out, table};
use crate::{
    api::{CallError, Client},
    daemon::{EndpointView, NetworkView},
    doctor::{Asked, Finding, Severity, resolvers},
};

/// How long a resolver may take: what asks it waits for five seconds, as a rule.
const PATIENCE: Duration = Duration::from_secs(2);

/// A question for the name servers of the root (RFC 1035 section 4.1), which every resolver can answer.
const QUESTION: [u8; 17] = [0x6e, 0x64, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Shows what was found; exit 1 where something is not as it should be.
pub async fn done(client: &Client, format: Format) -> Result<ExitCode> {
    let mut found: Vec<Finding> = match client.get("/v1/doctor").await {
        Ok(found) => found,
        Err(error @ CallError::NoDaemon(_)) => vec![Finding::new(
            "daemon",
            Severity::Problem,
            error.to_string(),
            "What is attached and published stays and works; nothing new is attached, and nothing is mended.",
            "Start `netd daemon`.",
        )],
        Err(error) => return Err(error.into()),
    };
    found.extend(resolvers(&asked(own_servers(client).await).await));
    match format {
        Format::Json => table::print_json(&found)?,
        Format::Table => found.iter().for_each(print),
    }
    let bad = found.iter().any(|finding| finding.severity >= Severity::Warning);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(finding: &Finding) {
    let severity = match finding.severity {
        Severity::Fine => "ok",
        Severity::Note => "note",
        Severity::Warning => "WARNING",
        Severity::Problem => "PROBLEM",
    };
    out::line(format_args!("{severity:8} {:12} {}", finding.check, finding.found));
    for line in [&finding.meaning, &finding.remedy].into_iter().filter(|line| !line.is_empty()) {
        out::line(format_args!("{:21} {line}", ""));
    }
}

/// The servers that networks and endpoints name themselves, and who does. Without a daemon nobody asks them.
async fn own_servers(client: &Client) -> Vec<(IpAddr, String)> {
    let networks: Vec<NetworkView> = client.get("/v1/networks").await.unwrap_or_default();
    let endpoints: Vec<EndpointView> = client.get("/v1/endpoints").await.unwrap_or_default();
    // An internal network asks nobody.
    let networks = networks.into_iter().filter(|network| !network.internal);
    let of_networks = networks.flat_map(|network| {
        let whose = format!("network {}", network.name);
        network.dns.into_iter().map(move |address| (address, whose.clone()))
    });
    let of_endpoints = endpoints.into_iter().flat_map(|endpoint| {
        let whose = format!("endpoint {}", endpoint.name);
        endpoint.dns.into_iter().map(move |address| (address, whose.clone()))
    });
    of_networks.chain(of_endpoints).collect()
}

/// The host's resolvers and these, each asked once, all at once.
async fn asked(own: Vec<(IpAddr, String)>) -> Vec<Asked> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let hosts = servers(&text).into_iter().map(|address| (address, None));
    let mut whose: BTreeMap<IpAddr, Vec<Option<String>>> = BTreeMap::new();
    for (address, name) in hosts.chain(own.into_iter().map(|(address, name)| (address, Some(name)))) {
        whose.entry(address).or_default().push(name);
    }
    let mut asking: JoinSet<Asked> = whose
        .into_iter()
        .map(|(address, names)| async move {
            let answer = match timeout(PATIENCE, ask(address)).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("nothing came for {} s", PATIENCE.as_secs())),
            };
            let is_hosts = names.contains(&None);
            Asked { address, is_hosts, others: names.into_iter().flatten().collect(), answer }
        })
        .collect();
    let mut asked = Vec::new();
    while let Some(one) = asking.join_next().await {
        asked.extend(one);
    }
    asked.sort_by_key(|one| one.address);
    asked
}

/// The addresses after `nameserver` (resolv.conf(5)).
fn servers(text: &str) -> Vec<IpAddr> {
    let after = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    text.lines().filter_map(after).collect()
}

async fn ask(address: IpAddr) -> std::io::Result<()> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect((address, 53)).await?;
    socket.send(&QUESTION).await?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length > 2 && answer[..2] == QUESTION[..2] {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_from_their_lines() {
        let text =
            "# nameserver 192.0.2.9\nnameserver 192.0.2.1\nsearch example\nnameserver 2001:db8::1 # here\nnameserver\n";

        assert_eq!(servers(text), ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
    }
}
