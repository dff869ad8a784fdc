//! `netd run` and `netd exec`.

use std::{
    io::IsTerminal,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::Rng;
use tokio::{
    process::Child,
    signal::unix::{Signal as Signals, SignalKind, signal},
};

use super::{
    args::RunArgs,
    block_on,
    job::{Job, Started},
    names, out, route, sandbox,
    start::{FAILED, replaced_by},
    supervise,
};
use crate::{api::Client, daemon::EndpointView, model::Name};

/// How often an endpoint is tried to be removed, a second apart, when its command has ended: a restart of the daemon takes no longer.
const TRIES: usize = 10;

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
        if endpoint.mode == "host" {
            return Ok(());
        }
        sandbox::enter(&endpoint.netns, &names::directory(client, name))
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
    let name: Name = match args.name {
        Some(name) => name.parse()?,
        None => format!("run-{:08x}", rand::rng().random::<u32>()).parse()?,
    };
    // From here on an interrupt is the command's, and what was made is taken away in every case.
    let signals = Forwarded::listen()?;
    let job = Job {
        name: name.clone(),
        networks: args.connection.networks,
        ports: args.connection.ports,
        publish_mode: args.connection.publish_mode,
        labels: args.connection.labels.into_iter().collect(),
        dns: args.connection.dns,
        command: args.command,
        environment: Vec::new(),
        directory: None,
        detach: args.detach,
    };
    let mut job = match job.started(client).await? {
        Started::Runs(job) => job,
        Started::Not { code, why } => {
            out::complain(format_args!("netd: {why}"));
            return Ok(ExitCode::from(code));
        }
    };
    if args.detach {
        if args.rm {
            leave_supervisor(client, &name)?;
        }
        out::line(name);
        return Ok(ExitCode::SUCCESS);
    }
    let status = signals.until_ended(&mut job.child).await?;
    if args.rm
        && let Err(error) = supervise::removed(client, &job.endpoint, TRIES).await
    {
        // The answer is the command's own all the same.
        out::complain(format_args!("netd: cannot remove {name}, whose command has ended: {error:#}"));
    }
    Ok(exit_code(status))
}

/// Leaves a process behind that removes the endpoint when its command ends.
fn leave_supervisor(client: &Client, name: &Name) -> Result<()> {
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
