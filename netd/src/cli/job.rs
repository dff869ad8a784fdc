//! A command that runs in a network of its own, of another's or of the host: prepared, attached, then started.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::signal::{SigHandler, Signal, signal as set_signal},
    unistd::pipe2,
};
use tokio::process::{Child, Command};

use super::{endpoint, names, route, sandbox, start::FAILED};
use crate::{
    api::{CallError, Client},
    daemon::{EndpointOrder, EndpointView},
    model::{Mode, Name, PublishMode},
};

/// What is to run, and how it is connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// Its endpoint's.
    pub name: Name,
    /// As [`Mode`] and [`NetSpec`](crate::model::NetSpec) read them.
    pub networks: Vec<String>,
    /// As [`PortSpec`](crate::model::PortSpec) reads them.
    pub ports: Vec<String>,
    /// On which hosts these are published.
    pub publish_mode: PublishMode,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// DNS servers for what is no name of its networks.
    pub dns: Vec<String>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Beside what it inherits.
    pub environment: Vec<(String, String)>,
    /// Where it runs, if not here.
    pub directory: Option<PathBuf>,
    /// Whether it is left running, its output in a file.
    pub detach: bool,
}

/// What became of a job.
pub enum Started {
    /// It runs.
    Runs(Box<Running>),
    /// It could not begin, with an exit code and the reason; nothing is left of it.
    Not { code: u8, why: String },
}

/// A job that runs.
pub struct Running {
    /// The command.
    pub child: Child,
    /// Its endpoint.
    pub endpoint: EndpointView,
}

impl Job {
    /// Starts it.
    pub async fn started(&self, client: &Client) -> Result<Started> {
        match client.get::<EndpointView>(&route("endpoints", self.name.as_str())?).await {
            Ok(_) => bail!("endpoint {} exists already", self.name),
            Err(CallError::Refused(404, _)) => {}
            Err(error) => return Err(error.into()),
        }
        let place = Place::of(client, self).await?;
        let attached = match Starter::spawn(client, self, &place) {
            Ok(starter) => starter.attached(client, self, &place).await,
            Err(error) => Err(error),
        };
        let (mut starter, endpoint) = match attached {
            Ok(attached) => attached,
            Err(error) => {
                place.leave(client, self)?;
                return Err(error);
            }
        };
        // Whose it is the endpoint says from here on.
        drop(place);
        if let Some((code, why)) = starter.go() {
            starter.child.wait().await?;
            endpoint::remove(client, &endpoint).await?;
            return Ok(Started::Not { code, why });
        }
        Ok(Started::Runs(Box::new(Running { child: starter.child, endpoint })))
    }
}

/// Where a job runs.
enum Place {
    /// In a network namespace made for it, which is held until its endpoint says whose it is.
    Made(sandbox::Held),
    /// In that of another endpoint.
    Shared(PathBuf),
    /// In the host's.
    Host,
}

impl Place {
    async fn of(client: &Client, job: &Job) -> Result<Self> {
        let (mode, _) = Mode::read(&job.networks)?;
        if mode != Mode::Own && !job.ports.is_empty() {
            bail!("no ports are published with --network {mode}: the command has no network of its own");
        }
        match mode {
            Mode::Host => Ok(Self::Host),
            Mode::Container(name) => {
                let other: EndpointView = client.get(&route("endpoints", name.as_str())?).await?;
                Ok(Self::Shared(other.netns))
            }
            Mode::Own => {
                let netns = sandbox::path_of(&job.name);
                endpoint::clear_path(client, &netns).await?;
                Ok(Self::Made(sandbox::make(&netns)?))
            }
        }
    }

    /// The namespace to enter.
    fn netns(&self) -> Option<&Path> {
        match self {
            Self::Made(held) => Some(held.path()),
            Self::Shared(path) => Some(path),
            Self::Host => None,
        }
    }

    /// Takes away what a job would have run in that never did.
    fn leave(&self, client: &Client, job: &Job) -> Result<()> {
        if job.detach {
            // That it was not made yet is as good.
            let _ = fs::remove_file(log_of(client, job.name.as_str()));
        }
        match self {
            Self::Made(held) => sandbox::remove(held.path()),
            Self::Shared(_) | Self::Host => Ok(()),
        }
    }
}

/// A process that waits to become the command.
struct Starter {
    child: Child,
    go: Option<File>,
    told: File,
}

impl Starter {
    fn spawn(client: &Client, job: &Job, place: &Place) -> Result<Self> {
        let (go_read, go) = pipe()?;
        let (told, told_write) = pipe()?;
        for end in [&go_read, &told_write] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass a pipe on")?;
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg("__start");
        command.args([go_read.as_raw_fd().to_string(), told_write.as_raw_fd().to_string()]);
        if let Some(netns) = place.netns() {
            command.arg("--netns").arg(netns);
            command.arg("--etc").arg(names::directory(client, job.name.as_str()));
        }
        if let Some(directory) = &job.directory {
            command.current_dir(directory);
        }
        command.envs(job.environment.iter().cloned());
        if job.detach {
            let log = log_file(client, &job.name)?;
            command.arg("--session").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        }
        let child = command.arg("--").args(&job.command).spawn().context("cannot start a process")?;
        Ok(Self { child, go: Some(go.into()), told: told.into() })
    }

    /// With its endpoint attached; ended if that is refused.
    async fn attached(mut self, client: &Client, job: &Job, place: &Place) -> Result<(Self, EndpointView)> {
        let order = EndpointOrder {
            name: job.name.to_string(),
            netns: place.netns().map(Path::to_owned),
            pid: self.child.id(),
            netns_made: matches!(place, Place::Made(_)),
            command: job.command.clone(),
            networks: job.networks.clone(),
            ports: job.ports.clone(),
            publish_mode: job.publish_mode,
            labels: job.labels.clone(),
            dns: job.dns.clone(),
        };
        let failed = match client.post::<EndpointView>("/v1/endpoints", &order).await {
            Ok(endpoint) => match place.netns().map_or(Ok(()), |_| names::write(client, &endpoint)) {
                Ok(()) => {
                    endpoint::warn(&endpoint);
                    return Ok((self, endpoint));
                }
                Err(error) => {
                    endpoint::remove(client, &endpoint).await?;
                    error
                }
            },
            Err(error) => error.into(),
        };
        // Without a word it ends by itself.
        self.go = None;
        self.child.wait().await?;
        Err(failed)
    }

    /// Lets it become the command; exit code and reason if it cannot.
    fn go(&mut self) -> Option<(u8, String)> {
        if let Err(error) = self.go.take().map_or(Ok(()), written) {
            return Some((FAILED, format!("the process that was to become the command is gone: {error}")));
        }
        let mut told = String::new();
        if let Err(error) = self.told.read_to_string(&mut told) {
            return Some((FAILED, format!("cannot tell whether the command began: {error}")));
        }
        if told.is_empty() {
            return None;
        }
        let (code, why) = told.split_once(' ').unwrap_or(("", &told));
        Some((code.parse().unwrap_or(FAILED), why.to_owned()))
    }
}

/// Gives the word. That nobody reads it is an error to be told, and not the end of this process.
fn written(mut go: File) -> io::Result<()> {
    // SAFETY: no handler is installed that could run.
    let before = unsafe { set_signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    let written = go.write_all(b"!");
    // SAFETY: as above, what was there before.
    unsafe { set_signal(Signal::SIGPIPE, before) }?;
    written
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")
}

fn log_file(client: &Client, name: &Name) -> Result<File> {
    let (directory, path) = (logs(client), log_of(client, name.as_str()));
    fs::create_dir_all(&directory)
        .and_then(|()| File::create(&path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Where the output of commands is that run in the background.
pub fn logs(client: &Client) -> PathBuf {
    client.socket().parent().map_or_else(PathBuf::new, Path::to_owned).join("logs")
}

/// The output of this endpoint's command.
pub fn log_of(client: &Client, name: &str) -> PathBuf {
    logs(client).join(format!("{name}.log"))
}
