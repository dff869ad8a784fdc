//! The namespaces of one host, what is mounted in them, and the process that holds them together.
//!
//! The first process of the host's pid namespace dies when the thread that made it ends, and the kernel then kills every
//! other process of the host: that is the whole of the cleaning up.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::symlink, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        signal::{SigHandler, Signal, signal},
    },
    unistd::{UnlinkatFlags, sethostname, unlinkat, write},
};

use super::command::begin;

/// A host's namespaces, alive until this is dropped.
pub struct Namespaces {
    /// Network.
    pub net: OwnedFd,
    mounts: OwnedFd,
    name: OwnedFd,
    processes: OwnedFd,
    cgroup: Cgroup,
    first_process: u32,
    /// Dropped to end the keeper.
    end: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Namespaces {
    /// New namespaces, furnished: see [`super::Lab::host`].
    pub fn new(hostname: &str) -> Result<Self> {
        let (end, ended) = mpsc::channel::<()>();
        let (made, wait_made) = mpsc::channel();
        let hostname = hostname.to_owned();
        let keeper = thread::Builder::new().name(format!("keeper of {hostname}")).spawn(move || {
            let made_all = furnish(&hostname).and_then(|fds| Ok((fds, first_process()?)));
            match made_all {
                Ok(((fds, cgroup), mut child)) => {
                    let id = child.id();
                    if made.send(Ok((fds, cgroup, id))).is_ok() {
                        // Nothing is ever sent: this returns when the other end goes.
                        let _ = ended.recv();
                    }
                    let _ = child.kill();
                    let _ = child.wait();
                }
                Err(error) => drop(made.send(Err(error))),
            }
        })?;
        let ([net, mounts, name], cgroup, first_process) =
            wait_made.recv().map_err(|_| anyhow!("the keeper panicked"))??;
        let processes = File::open(format!("/proc/{first_process}/ns/pid"))?.into();
        Ok(Self { net, mounts, name, processes, cgroup, first_process, end: Some(end), keeper: Some(keeper) })
    }

    /// Where a path of this host is seen from outside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.first_process));
        root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A `/proc` path of this host's network namespace that `ip link … netns` takes.
    pub fn net_path(&self) -> String {
        format!("/proc/{}/ns/net", self.first_process)
    }

    /// The mount table, a line a mount.
    pub fn mount_table(&self) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.first_process))
    }

    /// Starts a command in this host, its network that of `net`.
    pub fn spawn(&self, command: &mut Command, net: &OwnedFd) -> io::Result<Child> {
        let [net, mounts, name] = [net.try_clone()?, self.mounts.try_clone()?, self.name.try_clone()?];
        let members = self.cgroup.members.try_clone()?;
        let enter = move || {
            // Whoever writes 0 comes in itself.
            write(&members, b"0")?;
            setns(&net, CloneFlags::CLONE_NEWNET)?;
            setns(&name, CloneFlags::CLONE_NEWUTS)?;
            setns(&mounts, CloneFlags::CLONE_NEWNS)?;
            Ok(())
        };
        // SAFETY: `enter` runs between fork and exec and only makes system calls; it does not allocate.
        unsafe { command.pre_exec(enter) };
        // A process joins a pid namespace by being born into it, so a thread of its own asks for that and gives birth.
        thread::scope(|scope| {
            let born = scope.spawn(|| {
                setns(&self.processes, CloneFlags::CLONE_NEWPID)?;
                begin(command)
            });
            born.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts a process panicked")))
        })
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        // The cgroup goes after it, empty.
    }
}

/// Runs `work` on a thread of its own in the network namespace `net`; a panic goes on in the caller.
///
/// Sockets made there stay there, wherever they are used afterwards.
pub fn enter<T: Send>(net: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    let done = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(net.as_fd(), CloneFlags::CLONE_NEWNET).expect("a network namespace held open can be entered");
            work()
        });
        inside.join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Makes the calling thread the first inhabitant of a new host: its network, mount and name namespaces.
fn furnish(hostname: &str) -> Result<([OwnedFd; 3], Cgroup)> {
    let new = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWPID;
    unshare(new | CloneFlags::CLONE_FS).context("cannot make namespaces")?;
    mount_at("/", None, None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    sethostname(hostname).context("cannot name the host")?;

    mount_at("/run", Some("tmpfs"), Some("tmpfs"), MsFlags::empty())?;
    fs::create_dir("/run/netns")?;
    empty_directory("/etc", "netd")?;
    empty_directory("/var/lib", "netd")?;
    mount_at("/sys", Some("sysfs"), Some("sysfs"), MsFlags::empty())?;
    mount_at("/sys/fs/bpf", Some("bpf"), Some("bpf"), MsFlags::empty())?;
    mount_at("/sys/fs/cgroup", Some("cgroup2"), Some("cgroup2"), MsFlags::empty())?;
    let cgroup = Cgroup::new()?;

    settle_network()?;
    let fd = |kind: &str| -> Result<OwnedFd> { Ok(File::open(format!("/proc/thread-self/ns/{kind}"))?.into()) };
    Ok(([fd("net")?, fd("mnt")?, fd("uts")?], cgroup))
}

/// A host's own cgroup, which is all that it sees of cgroup2: at `/sys/fs/cgroup`, with its processes in it.
struct Cgroup {
    /// The machine's, in which it is.
    root: OwnedFd,
    name: String,
    /// Its `cgroup.procs`.
    members: OwnedFd,
}

impl Cgroup {
    const PREFIX: &str = "netd-lab-";

    /// A new one, laid over the machine's in the calling thread's mount namespace. Those of processes that were killed go.
    fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);

        let seen = Path::new("/sys/fs/cgroup");
        for entry in fs::read_dir(seen).context("cannot list the machine's cgroups")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let maker = name.strip_prefix(Self::PREFIX).and_then(|rest| rest.split('-').next());
            if maker.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
                // One that is in use stays, and one that another Lab removes is gone.
                let _ = fs::remove_dir(entry.path());
            }
        }
        let root: OwnedFd = File::open(seen)?.into();
        let name = format!("{}{}-{}", Self::PREFIX, std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = seen.join(&name);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {name}"))?;
        let members = File::options().write(true).open(path.join("cgroup.procs"))?.into();
        let this = Self { root, name, members };
        let from = path.to_str().context("a cgroup's path is text")?;
        mount_at("/sys/fs/cgroup", Some(from), None, MsFlags::MS_BIND)?;
        Ok(this)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that were killed are gone in a moment, and until then it stays.
        for _ in 0..200 {
            match unlinkat(&self.root, self.name.as_str(), UnlinkatFlags::RemoveDir) {
                Err(Errno::EBUSY) => thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
    }
}

/// Makes `parent/name` an empty directory of this mount namespace without making it on the machine: `parent` becomes a
/// tmpfs whose other entries lead to the machine's.
fn empty_directory(parent: &str, name: &str) -> Result<()> {
    let machines = format!("/run/.machine{parent}");
    fs::create_dir_all(&machines)?;
    mount_at(&machines, Some(parent), None, MsFlags::MS_BIND | MsFlags::MS_REC)?;
    mount_at(parent, Some("tmpfs"), Some("tmpfs"), MsFlags::empty())?;
    for entry in fs::read_dir(&machines)? {
        let entry = entry?;
        let there = if entry.file_type()?.is_symlink() { fs::read_link(entry.path())? } else { entry.path() };
        if entry.file_name() != name {
            symlink(there, Path::new(parent).join(entry.file_name()))?;
        }
    }
    fs::create_dir(Path::new(parent).join(name))?;
    Ok(())
}

/// What a new network namespace takes over from the machine or does by itself, made the same everywhere: no forwarding,
/// no reverse-path filter, IPv6 addresses usable at once.
fn settle_network() -> Result<()> {
    let settings = [
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
    ];
    for (name, value) in settings {
        let path = Path::new("/proc/sys/net").join(name);
        if path.exists() {
            fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// Starts the first process of the pid namespace that the calling thread has made. It ends with that thread.
fn first_process() -> Result<Child> {
    let mut command = Command::new("sleep");
    command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let settle = || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // SAFETY: installs no code. Ignored, so that orphans of the host are reaped by the kernel.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), safe, None::<&str>)?;
        Ok(())
    };
    // SAFETY: `settle` runs between fork and exec and only makes system calls; paths this short are not allocated.
    unsafe { command.pre_exec(settle) };
    begin(&mut command).context("cannot start the first process of a host (`sleep`)")
}

fn mount_at(target: &str, source: Option<&str>, kind: Option<&str>, flags: MsFlags) -> Result<()> {
    mount(source, target, kind, flags, None::<&str>).with_context(|| format!("cannot mount {target}"))
}
