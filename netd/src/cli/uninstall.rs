//! `netd uninstall`: takes away all of netd, with or without a daemon, and says what it was.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{SeedableRng, rngs::StdRng};

use super::{BPF_DIR, STATE_DIR, args::UninstallArgs, host, job, names, out, sandbox};
use crate::{
    api::{CallError, Client},
    config::Config,
    daemon::{StatusView, is_alive, mark_of},
    plan::sandboxes_of_veths,
    reconcile::Sandbox,
    store::{FILE, Store},
};

/// How long the daemon has to end.
const END: Duration = Duration::from_secs(20);

/// Takes everything away.
pub async fn done(client: &Client, args: UninstallArgs) -> Result<ExitCode> {
    let daemon = match client.get::<StatusView>("/v1/status").await {
        Ok(status) => Some(status),
        Err(CallError::NoDaemon(_)) => None,
        Err(error) => return Err(error.into()),
    };
    // A file with an error in it need not be mended by who says everything that it is read for.
    let said = match &daemon {
        Some(status) => (Some(status.state_dir.clone()), Some(status.bpf_dir.clone())),
        None if args.state_dir.is_some() && args.bpf_dir.is_some() => (None, None),
        None => {
            let configured = Config::read(None)?.daemon;
            (configured.state_dir, configured.bpf_dir)
        }
    };
    let state_dir = args.state_dir.or(said.0).unwrap_or_else(|| PathBuf::from(STATE_DIR));
    let bpf_dir = args.bpf_dir.or(said.1).unwrap_or_else(|| PathBuf::from(BPF_DIR));

    if let Some(status) = &daemon {
        end(status.pid)?;
        out::line(format_args!("ended the daemon (pid {})", status.pid));
    }
    for line in host::take_away(&bpf_dir, &state_dir, &sandboxes(&state_dir)).await? {
        out::line(line);
    }
    remove_namespaces(client, &state_dir);
    remove_store(&state_dir)?;
    remove_dead_socket(client.socket());
    // Only an empty directory goes, as above.
    let _ = fs::remove_dir(job::logs(client));
    let _ = fs::remove_dir(names::all(client));
    Ok(ExitCode::SUCCESS)
}

/// The containers' namespaces, as far as the store tells.
fn sandboxes(state_dir: &Path) -> Vec<Sandbox> {
    if !state_dir.join(FILE).exists() {
        return Vec::new();
    }
    let model = Store::open(state_dir, &mut StdRng::from_os_rng()).map(|(_, model)| model).unwrap_or_default();
    sandboxes_of_veths(&model).into_values().collect()
}

fn end(pid: u32) -> Result<()> {
    let Some(process) = mark_of(pid) else { return Ok(()) };
    let raw = i32::try_from(pid).context("no process has this id")?;
    kill(Pid::from_raw(raw), Signal::SIGTERM).with_context(|| format!("cannot end the daemon (pid {pid})"))?;
    let until = Instant::now() + END;
    while is_alive(&process) {
        if Instant::now() > until {
            bail!("the daemon (pid {pid}) does not end");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes the namespaces that `netd run` made and nothing runs in, and what commands have written. Without a store that is understood they are not known.
fn remove_namespaces(client: &Client, state_dir: &Path) {
    if !state_dir.join(FILE).exists() {
        return;
    }
    let model = match Store::open(state_dir, &mut StdRng::from_os_rng()) {
        Ok((_, model)) => model,
        Err(error) => return out::line(format_args!("left alone: namespaces that netd made ({error})")),
    };
    for endpoint in model.endpoints.values() {
        let path = endpoint.netns.display();
        let log = job::log_of(client, endpoint.name.as_str());
        if fs::remove_file(&log).is_ok() {
            out::line(format_args!("removed {}", log.display()));
        }
        let etc = names::directory(client, endpoint.name.as_str());
        if etc.exists() && names::remove(&etc).is_ok() {
            out::line(format_args!("removed {}", etc.display()));
        }
        if !endpoint.netns_made {
            continue;
        }
        match endpoint.process.as_ref().filter(|process| is_alive(process)) {
            Some(process) => out::line(format_args!("left alone: {path}, process {} runs in it", process.pid)),
            None => match sandbox::remove(&endpoint.netns) {
                Ok(()) => out::line(format_args!("removed {path}")),
                Err(error) => out::line(format_args!("left alone: {error:#}")),
            },
        }
    }
}

/// Removes the socket of a daemon that was killed. Where something else is, it stays.
fn remove_dead_socket(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket && fs::remove_file(path).is_ok() {
        out::line(format_args!("removed {}", path.display()));
    }
}

fn remove_store(state_dir: &Path) -> Result<()> {
    let path = state_dir.join(FILE);
    match fs::remove_file(&path) {
        Ok(()) => out::line(format_args!("removed {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
    // Only an empty directory goes: what else is in it is not netd's.
    let _ = fs::remove_dir(state_dir);
    Ok(())
}
