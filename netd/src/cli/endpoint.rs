//! `netd attach`, `detach`, `publish`, `unpublish`, `ps`, `port`, `inspect` and `rm`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs, io,
    net::IpAddr,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::IgnoredAny;

use super::{
    args::{AllowanceArgs, AttachArgs, Format, ListArgs, PortsArgs, PublishArgs},
    filters::{Filters, Key, has_label},
    job, names, out, route,
    sandbox::{self, Held},
    table, wrong_usage,
};
use crate::{
    api::{CallError, Client},
    daemon::{AllowanceOrder, AttachmentView, EndpointOrder, EndpointView, PortView, PortsOrder, is_alive},
    model::{PortSpec, ProcessMark},
};

/// How long a process has to end after SIGKILL.
const END: Duration = Duration::from_secs(5);

/// `netd attach`.
pub async fn attach(client: &Client, args: AttachArgs) -> Result<ExitCode> {
    // Relative paths are the caller's, not the daemon's.
    let netns = args.netns.map(|path| std::path::absolute(&path).unwrap_or(path));
    let order = EndpointOrder {
        name: args.name,
        netns,
        pid: args.pid,
        networks: args.connection.networks,
        ports: args.connection.ports,
        publish_mode: args.connection.publish_mode,
        labels: args.connection.labels.into_iter().collect(),
        dns: args.connection.dns,
        ..Default::default()
    };
    let endpoint: EndpointView = client.post("/v1/endpoints", &order).await?;
    warn(&endpoint);
    endpoint.networks.iter().for_each(print_attachment);
    print_ports(&endpoint.ports);
    warn_of_input(&endpoint.ports);
    Ok(ExitCode::SUCCESS)
}

/// `netd detach`.
pub async fn detach(client: &Client, name: &str) -> Result<ExitCode> {
    let endpoint: EndpointView = client.get(&route("endpoints", name)?).await?;
    // A namespace of ours in which a command runs is still that command's, and so is its output.
    match running(&endpoint) {
        Some(_) => take_back(client, &endpoint).await?,
        None => remove(client, &endpoint).await?,
    }
    out::line(name);
    Ok(ExitCode::SUCCESS)
}

/// `netd publish`.
pub async fn publish(client: &Client, args: PublishArgs) -> Result<ExitCode> {
    let PublishArgs { which: args, publish_mode } = args;
    let path = format!("{}/ports", route("endpoints", &args.name)?);
    let endpoint: EndpointView = client.post(&path, &PortsOrder { ports: args.ports.clone(), publish_mode }).await?;
    warn(&endpoint);
    let specs = args.ports.iter().map(|text| text.parse()).collect::<Result<Vec<PortSpec>, _>>()?;
    let specs: BTreeSet<_> = specs.iter().map(|spec| (spec.protocol, spec.port, spec.count, spec.host_port)).collect();
    let asked = |port: &PortView| {
        [None, Some(port.host_port)].iter().any(|at| specs.contains(&(port.proto, port.port, port.count, *at)))
    };
    let published: Vec<_> = endpoint.ports.into_iter().filter(asked).collect();
    print_ports(&published);
    warn_of_input(&published);
    Ok(ExitCode::SUCCESS)
}

/// `netd unpublish`.
pub async fn unpublish(client: &Client, args: PortsArgs) -> Result<ExitCode> {
    let path = format!("{}/ports", route("endpoints", &args.name)?);
    client.delete::<EndpointView>(&path, &PortsOrder { ports: args.ports, ..Default::default() }).await?;
    Ok(ExitCode::SUCCESS)
}

/// `netd allow`.
pub async fn allow(client: &Client, args: AllowanceArgs) -> Result<ExitCode> {
    let path = format!("{}/allowances", route("endpoints", &args.from)?);
    client.post::<IgnoredAny>(&path, &AllowanceOrder { to: args.to }).await?;
    Ok(ExitCode::SUCCESS)
}

/// `netd deny`.
pub async fn deny(client: &Client, args: AllowanceArgs) -> Result<ExitCode> {
    let path = format!("{}/allowances", route("endpoints", &args.from)?);
    client.delete::<IgnoredAny>(&path, &AllowanceOrder { to: args.to }).await?;
    Ok(ExitCode::SUCCESS)
}

/// What endpoints can be listed by.
const KEYS: [Key; 5] = [
    Key::any("name"),
    Key::any("id"),
    Key::any("network"),
    Key::of("state", &EndpointView::STATES, "a state: attached, running, exited or gone"),
    Key::any("label"),
];

/// `netd ps`.
pub async fn ps(client: &Client, args: ListArgs) -> Result<ExitCode> {
    let filters = match Filters::new(args.filters, &KEYS) {
        Ok(filters) => filters,
        Err(unknown) => return Ok(wrong_usage(&unknown.to_string())),
    };
    let mut endpoints: Vec<EndpointView> = client.get("/v1/endpoints").await?;
    endpoints.retain(|endpoint| filters.fit(|key, value| matches(endpoint, key, value)));
    if args.quiet {
        endpoints.iter().for_each(|endpoint| out::line(format_args!("{}", endpoint.name)));
    } else if args.format == Format::Json {
        table::print_json(&endpoints)?;
    } else {
        let rows: Vec<_> = endpoints.iter().map(row).collect();
        table::print(&["NAME", "STATE", "PID", "NETWORKS", "PORTS", "COMMAND", "CREATED"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn matches(endpoint: &EndpointView, key: &str, value: &str) -> bool {
    match key {
        "name" => endpoint.name.contains(value),
        "id" => endpoint.id.starts_with(value),
        "label" => has_label(&endpoint.labels, value),
        "network" => endpoint.networks.iter().any(|attachment| attachment.network == value),
        _ => endpoint.state == value,
    }
}

fn row(endpoint: &EndpointView) -> Vec<String> {
    const PORTS_SHOWN: usize = 4;
    let mut networks: Vec<_> = endpoint.networks.iter().map(|at| format!("{}={}", at.network, addresses(at))).collect();
    if networks.is_empty() {
        networks.push(if endpoint.mode == "own" { "none".to_owned() } else { endpoint.mode.clone() });
    }
    let mut ports: Vec<_> = endpoint
        .ports
        .iter()
        .take(PORTS_SHOWN)
        .map(|port| {
            let (host, container) = (run_of(port.host_port, port.count), run_of(port.port, port.count));
            format!("{}->{container}/{}", at(port.host_ip, &host), port.proto)
        })
        .collect();
    if endpoint.ports.len() > PORTS_SHOWN {
        ports.push(format!("and {} more", endpoint.ports.len() - PORTS_SHOWN));
    }
    vec![
        endpoint.name.clone(),
        endpoint.state.clone(),
        endpoint.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        networks.join(", "),
        ports.join(", "),
        endpoint.command.join(" ").chars().take(40).collect(),
        endpoint.created.clone(),
    ]
}

/// `netd port`.
pub async fn port(client: &Client, name: &str, wanted: Option<&str>) -> Result<ExitCode> {
    let endpoint: EndpointView = client.get(&route("endpoints", name)?).await?;
    let Some(wanted) = wanted else {
        print_ports(&endpoint.ports);
        return Ok(ExitCode::SUCCESS);
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let inside = |port: &PortView| {
        let offset = number.parse::<u16>().ok()?.checked_sub(port.port)?;
        (offset < port.count && port.proto.to_string() == protocol).then_some(port.host_port + offset)
    };
    let places: Vec<_> = endpoint.ports.iter().filter_map(|port| Some((port.host_ip, inside(port)?))).collect();
    if places.is_empty() {
        bail!("{name} publishes no port {number}/{protocol}");
    }
    places.iter().for_each(|(ip, port)| out::line(at(*ip, &port.to_string())));
    Ok(ExitCode::SUCCESS)
}

/// `8000`, or `8000-8009` of ten.
pub fn run_of(first: u16, count: u16) -> String {
    if count == 1 { first.to_string() } else { format!("{first}-{}", first + (count - 1)) }
}

/// An address and what stands for its ports, an IPv6 address in brackets.
fn at(ip: IpAddr, ports: &str) -> String {
    if ip.is_ipv6() { format!("[{ip}]:{ports}") } else { format!("{ip}:{ports}") }
}

/// Says what of a request was not done as its author may think.
pub fn warn(endpoint: &EndpointView) {
    endpoint.warnings.iter().for_each(|line| out::complain(format_args!("netd: warning: {line}")));
}

/// Interface, address and network.
pub fn print_attachment(attachment: &AttachmentView) {
    out::line(format_args!("{} {} {}", attachment.ifname, addresses(attachment), attachment.network));
}

/// Says of ports that were just published what the host's operator may not expect: a line each, though both families deny it.
pub fn warn_of_input(ports: &[PortView]) {
    let mut denied: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for PortView { host_port, count, proto, input, .. } in ports {
        if let Some(by) = input {
            denied.entry((*host_port, *count, *proto)).or_default().push(by);
        }
    }
    for ((port, count, proto), by) in denied {
        let (ports, by) = (run_of(port, count), by.join("; "));
        out::complain(format_args!("netd: warning: port {ports}/{proto} is open although INPUT denies it ({by})"));
    }
}

fn print_ports(ports: &[PortView]) {
    let mut lines = String::new();
    for port in ports {
        let (host, container) = (run_of(port.host_port, port.count), run_of(port.port, port.count));
        let from: Vec<_> = port.from.iter().map(ToString::to_string).collect();
        let from = if from.is_empty() { String::new() } else { format!(" from {}", from.join(",")) };
        let _ = writeln!(lines, "{container}/{} -> {}{from}", port.proto, at(port.host_ip, &host));
    }
    // Of thousands each would be a write of its own.
    out::text(&lines);
}

/// The addresses of an endpoint in a network, with a comma between.
fn addresses(attachment: &AttachmentView) -> String {
    let addresses = attachment.ip.iter().map(ToString::to_string).chain(attachment.ip6.iter().map(ToString::to_string));
    addresses.collect::<Vec<_>>().join(",")
}

/// `netd inspect`.
pub async fn inspect(client: &Client, names: &[String]) -> Result<ExitCode> {
    let mut endpoints: Vec<EndpointView> = Vec::new();
    for name in names {
        endpoints.push(client.get(&route("endpoints", name)?).await?);
    }
    table::print_json(&endpoints)?;
    Ok(ExitCode::SUCCESS)
}

/// `netd rm`.
pub async fn rm(client: &Client, force: bool, names: &[String]) -> Result<ExitCode> {
    for name in names {
        let endpoint: EndpointView = client.get(&route("endpoints", name)?).await?;
        if let Some(process) = running(&endpoint).filter(|_| !force) {
            bail!("{name} is running (pid {}): end it, or rm -f", process.pid);
        }
        end_and_remove(client, &endpoint).await?;
        out::line(name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the process of an endpoint, if it runs, and removes it.
pub async fn end_and_remove(client: &Client, endpoint: &EndpointView) -> Result<()> {
    if let Some(process) = running(endpoint) {
        end(&process)?;
    }
    remove(client, endpoint).await
}

/// Detaches an endpoint and takes its namespace and its command's output away, if netd's command line made them; also where
/// somebody else has detached it since it was seen.
pub async fn remove(client: &Client, endpoint: &EndpointView) -> Result<()> {
    let held = held(endpoint);
    match take_back(client, endpoint).await {
        Ok(()) => {}
        Err(CallError::Refused(404, _)) => return clear_held(client, endpoint, held).await,
        Err(error) => return Err(error.into()),
    }
    if endpoint.netns_made {
        sandbox::remove(&endpoint.netns)?;
    }
    remove_files(client, endpoint)
}

/// Takes away what an endpoint that was detached has left, as [`remove`] does, but for what another endpoint has by now.
pub async fn clear(client: &Client, endpoint: &EndpointView) -> Result<()> {
    clear_held(client, endpoint, held(endpoint)).await
}

async fn clear_held(client: &Client, endpoint: &EndpointView, held: Option<Held>) -> Result<()> {
    if endpoint.netns_made && held.is_none() {
        // Somebody else is taking all of it away, or makes it anew.
        return Ok(());
    }
    let others: Vec<EndpointView> = client.get("/v1/endpoints").await?;
    if let Some(held) = held.filter(|held| !is_anybodys(held, &others)) {
        sandbox::remove(held.path())?;
    }
    if others.iter().any(|other| other.name == endpoint.name) {
        return Ok(());
    }
    remove_files(client, endpoint)
}

/// Takes a namespace away that a command has left and no endpoint has, so that its path is free: it was detached while the command
/// ran, or `netd run` was killed. One that anything is in stays.
pub async fn clear_path(client: &Client, netns: &Path) -> Result<()> {
    let Some(held) = sandbox::hold(netns).filter(Held::is_empty) else { return Ok(()) };
    if is_anybodys(&held, &client.get::<Vec<EndpointView>>("/v1/endpoints").await?) {
        return Ok(());
    }
    sandbox::remove(netns)
}

/// The namespace that netd's command line made for an endpoint, held so that nobody makes another at its path meanwhile.
fn held(endpoint: &EndpointView) -> Option<Held> {
    endpoint.netns_made.then(|| sandbox::hold(&endpoint.netns)).flatten()
}

fn is_anybodys(held: &Held, endpoints: &[EndpointView]) -> bool {
    endpoints.iter().any(|endpoint| held.is_at(&endpoint.netns))
}

/// Takes away what netd's command line has written for an endpoint that it started a command in.
fn remove_files(client: &Client, endpoint: &EndpointView) -> Result<()> {
    if !endpoint.netns_made && endpoint.command.is_empty() {
        return Ok(());
    }
    names::remove(&names::directory(client, &endpoint.name))?;
    let log = job::log_of(client, &endpoint.name);
    match fs::remove_file(&log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", log.display()))
        }
        _ => Ok(()),
    }
}

async fn take_back(client: &Client, endpoint: &EndpointView) -> Result<(), CallError> {
    client.delete::<serde_json::Value>(&route("endpoints", &endpoint.name)?, &()).await?;
    Ok(())
}

/// The process of an endpoint, if it still runs.
pub fn running(endpoint: &EndpointView) -> Option<ProcessMark> {
    let process = ProcessMark { pid: endpoint.pid?, started: endpoint.pid_started? };
    is_alive(&process).then_some(process)
}

fn end(process: &ProcessMark) -> Result<()> {
    let pid = i32::try_from(process.pid).context("no process has this id")?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("cannot end process {pid}"))?;
    let until = Instant::now() + END;
    while is_alive(process) {
        if Instant::now() > until {
            bail!("process {pid} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
