//! `netd daemon`: opens what the daemon's task needs, and lets it run.

use std::{
    fs,
    future::IntoFuture,
    io::{IsTerminal, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow};
use nix::libc;
use rand::{SeedableRng, rngs::StdRng};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::{
    BPF_DIR, RUN_DIR, SOCKET, STATE_DIR, alone,
    args::DaemonArgs,
    block_on,
    cluster::{self, Joining},
    host::{self, HostPlace},
    out,
};
use crate::{
    api,
    cluster::Kept,
    config::{Config, EndpointAttach, FlowsMax, XdpWish},
    daemon::{About, Daemon},
    dns::Directory,
    firewall::{MARK, Mode},
    netns::Namespace,
    plan::sandboxes_of_veths,
    reconcile::LinkName,
    reserve::Reservations,
    store::Store,
};

/// Requests that wait while one is answered.
const WAITING: usize = 64;

/// How long an ending daemon waits for its last answers to be taken.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// Bytes at the heap's end that the allocator keeps though they are free: what the largest requests take and give back each time.
#[cfg(target_env = "gnu")]
const KEPT_FREE: libc::c_int = 16 << 20;

/// Bytes from which on something is no part of the heap, and given back by itself.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 4 << 20;

/// Runs the daemon until it is told to end.
pub fn run(args: DaemonArgs) -> Result<ExitCode> {
    bound_free_memory();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    let config = Config::read(args.config.as_deref())?;
    let given = args
        .uplinks
        .iter()
        .map(|name| LinkName::new(name.as_str()).ok_or_else(|| anyhow!("--uplink {name} is not the name of a device")))
        .collect::<Result<Vec<_>>>()?;
    let configured = config.daemon.clone();
    let place = |given: Option<PathBuf>, configured: Option<PathBuf>, default: &str| {
        given.or(configured).unwrap_or_else(|| PathBuf::from(default))
    };
    let joining = cluster::joining(args.cluster, config.cluster.clone())?;
    let places = Places {
        state_dir: place(args.state_dir, configured.state_dir, STATE_DIR),
        run_dir: place(args.run_dir, configured.run_dir, RUN_DIR),
        bpf_dir: place(args.bpf_dir, configured.bpf_dir, BPF_DIR),
        cgroup: args.cgroup.or(configured.cgroup),
        xdp: args.xdp.or(configured.xdp).unwrap_or_default(),
        endpoint_attach: args.endpoint_attach.or(configured.endpoint_attach).unwrap_or_default(),
        uplinks: if given.is_empty() { configured.uplinks } else { given },
        flows_max: configured.flows_max.map(FlowsMax::entries),
        firewall: (args.firewall.or(configured.firewall).unwrap_or_default(), configured.mark.unwrap_or(MARK)),
    };
    block_on(serve(places, joining, config))?;
    Ok(ExitCode::SUCCESS)
}

/// Where everything is.
struct Places {
    state_dir: PathBuf,
    run_dir: PathBuf,
    bpf_dir: PathBuf,
    cgroup: Option<PathBuf>,
    xdp: XdpWish,
    endpoint_attach: EndpointAttach,
    uplinks: Vec<LinkName>,
    flows_max: Option<u32>,
    firewall: (Mode, u32),
}

async fn serve(places: Places, joining: Option<Joining>, config: Config) -> Result<()> {
    let stop = told_to_end()?;
    raise_file_limit();
    alone::claim().await?;
    let socket = made_directory(&places.run_dir)?.join(SOCKET);
    let listener = api::listen(&socket).await?;
    let _socket = SocketFile(&socket);
    let state_dir = made_directory(&places.state_dir)?;

    let mut rng = StdRng::from_os_rng();
    let (mut store, model) = Store::open(&state_dir, &mut rng)?;
    if joining.is_some() {
        // What this netd does not understand it refuses before it touches anything of the kernel's.
        store.kept::<Kept>()?;
    }
    let membership = joining.map(|joining| joining.start(store.global_id(), &model)).transpose()?;
    let place = HostPlace {
        bpf_dir: places.bpf_dir.clone(),
        state_dir: state_dir.clone(),
        cgroup: host::cgroup(places.cgroup),
        xdp: places.xdp,
        endpoint_attach: places.endpoint_attach,
        uplinks: places.uplinks,
        flows_max: places.flows_max,
        firewall: places.firewall,
        sandboxes: sandboxes_of_veths(&model),
        // What serves names is at work before the host is looked at.
        names: Directory::of(&model, |endpoint| Namespace::of(&endpoint.sandbox()).is_ok()),
    };
    let (kernel, changes) = host::open(place).await?;
    let about = About { socket: socket.clone(), state_dir, bpf_dir: places.bpf_dir };
    let reservations = Reservations::of_sockets();
    let opened = (store, model);
    let mut daemon = Daemon::start(kernel, opened, &config, reservations, membership, Box::new(rng), about).await?;
    return_memory();

    let (requests, inbox) = mpsc::channel(WAITING);
    let (ends, ended) = oneshot::channel::<()>();
    let server = axum::serve(listener, api::router(requests, daemon.events()));
    let server = tokio::spawn(server.with_graceful_shutdown(async { drop(ended.await) }).into_future());
    out::line(format_args!("netd is ready on {}", socket.display()));
    tell_systemd(NotifyState::Ready);
    daemon.run(inbox, changes, stop).await;
    tell_systemd(NotifyState::Stopping);
    drop(ends);
    // Who does not read does not hold the end up.
    let _ = timeout(LAST_WORDS, server).await;
    info!("ends; what is in the kernel stays and works");
    Ok(())
}

/// Where systemd started it, it waits for this; elsewhere nobody listens.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!("cannot tell systemd how the daemon is: {error}");
    }
}

fn made_directory(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path)
        .and_then(|()| fs::canonicalize(path))
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Has the allocator keep no more that is free than [`KEPT_FREE`], and that for all threads together. Left to itself it keeps twice
/// what was ever freed at once, and so much for each thread (mallopt(3)): ten thousand ports that were published once, for ever.
fn bound_free_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, KEPT_FREE), (libc::M_MMAP_THRESHOLD, MAPPED_FROM)]
    {
        // SAFETY: takes no pointer; what is not understood is refused, and changes nothing.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}

/// Has the allocator give back what a start takes and what comes after does not: most of it was the eBPF object, read and relocated.
fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and any number of bytes may be left at the top.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Every published port is a socket: as many as the kernel lets a process have, and not the thousand of a shell.
fn raise_file_limit() {
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call, which fills it.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    // Beyond its hard limit only a privileged process gets, and not in every container.
    let wishes = [most.unwrap_or(limit.rlim_max).max(limit.rlim_max), limit.rlim_max];
    let granted = known
        && wishes.into_iter().any(|files| {
            let wish = libc::rlimit { rlim_cur: files, rlim_max: files };
            // SAFETY: `wish` lives through the call, which only reads it.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wish) == 0 }
        });
    if !granted {
        warn!("cannot raise the limit of open files; many published ports may not be held");
    }
}

fn told_to_end() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Removes the socket when the daemon ends.
struct SocketFile<'a>(&'a PathBuf);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        let path: &Path = self.0;
        // One that is gone already is what is wanted.
        let _ = fs::remove_file(path);
    }
}
