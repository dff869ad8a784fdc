//! `netd up` and `netd down`: what the compose module decides, done by asking the daemon.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    block_on, endpoint,
    job::{Job, Started},
    out, route,
};
use crate::{
    api::Client,
    compose::{self, File, PROJECT, PlannedService, Project},
    daemon::{EndpointView, NetworkView},
    model::PublishMode,
};

/// Names that a Compose file has, the first that exists counts.
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// How long a service has to end by itself, as with Docker.
const GRACE: Duration = Duration::from_secs(10);

/// A file and the directory that it speaks of.
struct Read {
    file: File,
    directory: PathBuf,
    project: Project,
}

/// Makes what the file says, and lets alone what is so already.
pub fn up(client: &Client, file: Option<&Path>) -> Result<ExitCode> {
    let read = read(file)?;
    read.file.warnings.iter().for_each(|warning| warn(warning));
    block_on(make(client, &read))
}

/// Takes away every endpoint and network of the file's project, and nothing else.
pub fn down(client: &Client, file: Option<&Path>) -> Result<ExitCode> {
    let read = read(file)?;
    block_on(take_away(client, &read.project))
}

fn read(path: Option<&Path>) -> Result<Read> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => match NAMES.iter().map(PathBuf::from).find(|name| name.exists()) {
            Some(found) => found,
            None => bail!("there is no {} here: say which file by -f", NAMES.join(", no ")),
        },
    };
    let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    let directory = absolute.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let named = || format!("{}", path.display());
    let file = File::read(&text, &|name| env::var(name).ok()).with_context(named)?;
    let called = directory.file_name().unwrap_or_default().to_string_lossy();
    let project = Project::of(&file, &called).with_context(named)?;
    Ok(Read { file, directory, project })
}

async fn make(client: &Client, read: &Read) -> Result<ExitCode> {
    let networks: Vec<NetworkView> = client.get("/v1/networks").await?;
    let endpoints: Vec<EndpointView> = client.get("/v1/endpoints").await?;
    let changes = compose::changes(&read.project, &networks, &endpoints)?;
    for orphan in &changes.orphans {
        warn(&format!("endpoint {orphan} is of this project and not in the file any more: `netd rm -f {orphan}`"));
    }
    for network in &changes.create {
        client.post::<NetworkView>("/v1/networks", &network.order).await?;
        out::line(format_args!("network {} made", network.name));
    }
    for old in &changes.replace {
        stop_and_remove(client, old).await?;
        out::line(format_args!("endpoint {} removed", old.name));
    }
    for service in &changes.keep {
        out::line(format_args!("service {} runs already ({})", service.service, service.name));
    }
    for service in &changes.start {
        match job(service, &read.directory).started(client).await? {
            Started::Runs(_) => out::line(format_args!("service {} started ({})", service.service, service.name)),
            Started::Not { why, .. } => bail!("service {}: {why}", service.service),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn job(service: &PlannedService, directory: &Path) -> Job {
    Job {
        name: service.name.clone(),
        networks: service.networks.clone(),
        ports: service.ports.clone(),
        publish_mode: PublishMode::Host,
        labels: service.labels.clone(),
        dns: service.dns.clone(),
        command: service.command.clone(),
        environment: service.environment.clone().into_iter().collect(),
        directory: Some(service.directory.as_ref().map_or_else(|| directory.to_owned(), |below| directory.join(below))),
        detach: true,
    }
}

async fn take_away(client: &Client, project: &Project) -> Result<ExitCode> {
    let endpoints: Vec<EndpointView> = client.get("/v1/endpoints").await?;
    for endpoint in compose::departures(project, &endpoints) {
        stop_and_remove(client, endpoint).await?;
        out::line(format_args!("endpoint {} removed", endpoint.name));
    }
    let networks: Vec<NetworkView> = client.get("/v1/networks").await?;
    for network in
        networks.iter().filter(|network| network.labels.get(PROJECT).is_some_and(|found| *found == project.name))
    {
        client.delete::<serde_json::Value>(&route("networks", &network.name)?, &()).await?;
        out::line(format_args!("network {} removed", network.name));
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends a service as its command is asked to, with all that it started; what does not end by itself is ended.
async fn stop_and_remove(client: &Client, endpoint: &EndpointView) -> Result<()> {
    if let Some(process) = endpoint::running(endpoint) {
        // It leads a session, and so a group, of its own.
        let group = Pid::from_raw(-i32::try_from(process.pid).context("no process has this id")?);
        // What has just ended needs no signal.
        let _ = kill(group, Signal::SIGTERM);
        let until = Instant::now() + GRACE;
        while endpoint::running(endpoint).is_some() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _ = kill(group, Signal::SIGKILL);
    }
    endpoint::end_and_remove(client, endpoint).await
}

fn warn(warning: &str) {
    out::complain(format_args!("netd: warning: {warning}"));
}
