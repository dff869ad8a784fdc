//! `netd doctor`: what the daemon finds, and whether the servers answer that names are asked of: the host's, the networks' and the
//! containers' own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio::{task::JoinSet, time::timeout};

use super::{args::Format, out, table};
use crate::{
    api::{CallError, Client},
    daemon::{EndpointView, NetworkView},
    dns::{ResolvConf, Server},
    doctor::{Asked, Finding, Severity, resolvers},
    netns::Namespace,
    resolver::{RESOLV_CONF, probe},
};

/// How long a resolver may take: what asks it waits for five seconds, as a rule.
const PATIENCE: Duration = Duration::from_secs(2);

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
    found.extend(resolvers(&asked(client).await));
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

/// A server that is to be asked.
#[derive(Default)]
struct Inquiry {
    /// The endpoint in whose namespace, by name and path; without one, here.
    from: Option<(String, PathBuf)>,
    /// Whether it is one of the host's.
    is_hosts: bool,
    /// The networks and endpoints that name it themselves.
    others: Vec<String>,
}

/// Servers and the networks of those who ask them, which reach the same: each pair is asked once. Without networks it is the host.
type Inquiries = BTreeMap<(Server, Vec<String>), Inquiry>;

/// Who is asked what no container's name is, from where the resolver asks: the host's servers from the host, an endpoint's and its
/// networks' from its namespace. Those of a network that has no endpoint are asked from the host.
fn inquiries(hosts: Vec<Server>, networks: &[NetworkView], endpoints: &[EndpointView]) -> Inquiries {
    let mut all = Inquiries::new();
    for server in hosts {
        all.entry((server, Vec::new())).or_default().is_hosts = true;
    }
    // An internal network asks nobody.
    let open = || networks.iter().filter(|network| !network.internal);
    let mut asked_of_networks = BTreeSet::new();
    // Whom nothing is left of asks nobody either.
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.state != "gone") {
        let its: Vec<String> = endpoint.networks.iter().map(|attachment| attachment.network.clone()).collect();
        let its_open: Vec<&NetworkView> = open().filter(|network| its.contains(&network.name)).collect();
        let mut ask = |address: IpAddr, whose: String| {
            let inquiry = all.entry((address.into(), its.clone())).or_default();
            inquiry.from.get_or_insert_with(|| (endpoint.name.clone(), endpoint.netns.clone()));
            inquiry.others.push(whose);
        };
        if its_open.is_empty() {
            continue;
        }
        for address in &endpoint.dns {
            ask(*address, format!("endpoint {}", endpoint.name));
        }
        for network in its_open.iter().filter(|_| endpoint.dns.is_empty()) {
            if asked_of_networks.insert(&network.name) {
                network.dns.iter().for_each(|address| ask(*address, format!("network {}", network.name)));
            }
        }
    }
    for network in open().filter(|network| !asked_of_networks.contains(&network.name)) {
        for address in &network.dns {
            let whose = format!("network {}", network.name);
            all.entry(((*address).into(), Vec::new())).or_default().others.push(whose);
        }
    }
    all
}

/// The host's resolvers, and those that networks and endpoints name themselves, all at once. Without a daemon nobody asks the latter.
async fn asked(client: &Client) -> Vec<Asked> {
    let networks: Vec<NetworkView> = client.get("/v1/networks").await.unwrap_or_default();
    let endpoints: Vec<EndpointView> = client.get("/v1/endpoints").await.unwrap_or_default();
    let hosts = ResolvConf::read(&fs::read_to_string(RESOLV_CONF).unwrap_or_default()).servers;
    let inquiries = inquiries(hosts, &networks, &endpoints);
    let mut asking: JoinSet<Asked> =
        inquiries.into_iter().map(|((server, _), inquiry)| answered(server, inquiry)).collect();
    let mut asked = Vec::new();
    while let Some(one) = asking.join_next().await {
        asked.extend(one);
    }
    asked.sort_by(|a, b| (&a.server, &a.others).cmp(&(&b.server, &b.others)));
    asked
}

async fn answered(server: Server, Inquiry { from, is_hosts, others }: Inquiry) -> Asked {
    let answer = match timeout(PATIENCE, ask(&server, from.as_ref().map(|(_, path)| path.as_path()))).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("nothing came for {} s", PATIENCE.as_secs())),
    };
    let from = match from {
        Some((endpoint, _)) => Some(format!("endpoint {endpoint}")),
        None => (!is_hosts).then(|| "the host".to_owned()),
    };
    Asked { server, from, others, answer }
}

async fn ask(server: &Server, namespace: Option<&Path>) -> Result<()> {
    let namespace = namespace.map(Namespace::open).transpose()?;
    Ok(probe(server, namespace.map(Arc::new)).await?)
}
