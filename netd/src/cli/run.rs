//! `netd run` and `netd exec`.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::signal::{SigHandler, Signal, kill, signal as set_signal},
    unistd::{Pid, pipe2},
};
use rand::Rng;
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal as Signals, SignalKind, signal},
};

use super::{
    args::RunArgs,
    block_on, endpoint, out, route, sandbox,
    start::{FAILED, replaced_by},
};
use crate::{
    api::{CallError, Client},
    daemon::{EndpointOrder, EndpointView},
    model::Name,
};

/// `netd run`: the command's own exit code, 125 where netd failed.
pub fn done(client: Client, args: RunArgs) -> Result<ExitCode> {
    Ok(own_failure(block_on(run(&client, args))))
}

/// `netd exec`: becomes the command.
pub fn exec(client: &Client, name: &str, command: &[String]) -> Result<ExitCode> {
    let entered = || -> Result<()> {
        let endpoint: EndpointView = block_on(async { Ok(client.get(&route("endpoints", name)?).await?) })?;
        if endpoint.state == "gone" {
            bail!("the network namespace of {name} is gone ({})", endpoint.netns.display());
        }
        sandbox::enter(&endpoint.netns)
    };
    if let Err(error) = entered() {
        return Ok(own_failure(Err(error)));
    }
    let (code, why) = replaced_by(command);
    out::complain(format_args!("netd: {why}"));
    Ok(ExitCode::from(code))
}

fn own_failure(done: Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        out::complain(format_args!("netd: {error:#}"));
        ExitCode::from(FAILED)
    })
}

async fn run(client: &Client, args: RunArgs) -> Result<ExitCode> {
    let name: Name = match &args.name {
        Some(name) => name.parse()?,
        None => format!("run-{:08x}", rand::rng().random::<u32>()).parse()?,
    };
    match client.get::<EndpointView>(&route("endpoints", name.as_str())?).await {
        Ok(_) => bail!("endpoint {name} exists already"),
        Err(CallError::Refused(404, _)) => {}
        Err(error) => return Err(error.into()),
    }
    // From here on an interrupt is the command's, and what was made is taken away in every case.
    let signals = Forwarded::listen()?;
    let netns = sandbox::path_of(&name);
    sandbox::make(&netns)?;
    let started = match Starter::spawn(client, &name, &netns, &args) {
        Ok(starter) => starter.attached(client, &name, &netns, &args).await,
        Err(error) => Err(error),
    };
    let (mut starter, endpoint) = match started {
        Ok(started) => started,
        Err(error) => {
            sandbox::remove(&netns)?;
            return Err(error);
        }
    };
    if let Some((code, why)) = starter.go() {
        starter.child.wait().await?;
        endpoint::remove(client, &endpoint).await?;
        out::complain(format_args!("netd: {why}"));
        return Ok(ExitCode::from(code));
    }
    if args.detach {
        if args.rm {
            supervise(client, &name)?;
        }
        out::line(name);
        return Ok(ExitCode::SUCCESS);
    }
    let status = signals.until_ended(&mut starter.child).await?;
    if args.rm {
        endpoint::remove(client, &endpoint).await?;
    }
    Ok(exit_code(status))
}

/// A process that waits to become the command.
struct Starter {
    child: Child,
    go: Option<File>,
    told: File,
}

impl Starter {
    fn spawn(client: &Client, name: &Name, netns: &Path, args: &RunArgs) -> Result<Self> {
        let (go_read, go) = pipe()?;
        let (told, told_write) = pipe()?;
        for end in [&go_read, &told_write] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass a pipe on")?;
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg("__start").arg(netns);
        command.args([go_read.as_raw_fd().to_string(), told_write.as_raw_fd().to_string()]);
        if args.detach {
            let log = log_file(client, name)?;
            command.arg("--session").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        }
        let child = command.arg("--").args(&args.command).spawn().context("cannot start a process")?;
        Ok(Self { child, go: Some(go.into()), told: told.into() })
    }

    /// With its endpoint attached; ended if that is refused.
    async fn attached(
        mut self,
        client: &Client,
        name: &Name,
        netns: &Path,
        args: &RunArgs,
    ) -> Result<(Self, EndpointView)> {
        let order = EndpointOrder {
            name: name.to_string(),
            netns: Some(netns.to_owned()),
            pid: self.child.id(),
            netns_made: true,
            command: args.command.clone(),
            networks: args.connection.networks.clone(),
            ports: args.connection.ports.clone(),
            labels: args.connection.labels.iter().cloned().collect(),
        };
        match client.post("/v1/endpoints", &order).await {
            Ok(endpoint) => Ok((self, endpoint)),
            Err(error) => {
                // Without a word it ends by itself.
                self.go = None;
                self.child.wait().await?;
                Err(error.into())
            }
        }
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

/// Leaves a process behind that removes the endpoint when its command ends.
fn supervise(client: &Client, name: &Name) -> Result<()> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("__supervise").arg(name.as_str()).env("NETD_SOCKET", client.socket());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot supervise {name}, which runs"))?;
    Ok(())
}

/// Signals that the command gets in our place.
struct Forwarded {
    interrupt: Signals,
    terminate: Signals,
    hang_up: Signals,
}

impl Forwarded {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn until_ended(mut self, child: &mut Child) -> Result<ExitStatus> {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let forward = |signal| {
            // A command that has just ended needs none.
            let _ = pid.map(|pid| kill(pid, signal));
        };
        // A terminal sends Ctrl-C to the command itself too: twice would be once too often.
        let terminal = std::io::stdin().is_terminal();
        loop {
            tokio::select! {
                status = child.wait() => return status.context("cannot wait for the command"),
                _ = self.interrupt.recv() => if !terminal { forward(Signal::SIGINT) },
                _ = self.terminate.recv() => forward(Signal::SIGTERM),
                _ = self.hang_up.recv() => forward(Signal::SIGHUP),
            }
        }
    }
}

/// The command's own exit code; 128 and the signal's number for one that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED))
}
