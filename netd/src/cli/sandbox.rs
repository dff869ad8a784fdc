//! Network namespaces that `netd run` makes, the way `ip netns` does, so that `ip netns` sees them.

use std::{
    fs::{self, File, Metadata},
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nameindex,
    sched::{CloneFlags, setns, unshare},
};

use super::names;
use crate::{
    model::Name,
    netns::{Namespace, Unfit},
};

/// Where iproute2 keeps the names of network namespaces.
const DIRECTORY: &str = "/run/netns";

/// Where the namespace of an endpoint is.
pub fn path_of(name: &Name) -> PathBuf {
    Path::new(DIRECTORY).join(format!("netd-{name}"))
}

/// A path at which no other netd makes or takes away a namespace for as long as this lives.
pub struct Held {
    path: PathBuf,
    /// Locked.
    file: File,
}

impl Held {
    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `path` leads to the same.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|there| self.file.metadata().is_ok_and(|held| number(&there) == number(&held)))
    }

    /// Whether nothing is in it: no process, and no device but `lo`. The file that was to become a namespace has neither.
    pub fn is_empty(&self) -> bool {
        match Namespace::open(&self.path) {
            Ok(namespace) => !is_inhabited(namespace.sandbox().inode) && namespace.inside(has_only_lo).unwrap_or(false),
            Err(Unfit::NoNamespace(_)) => self.file.metadata().is_ok_and(|file| file.is_file() && file.len() == 0),
            Err(_) => false,
        }
    }
}

/// Holds what is at `path`; `None` if nothing is, or somebody else holds it.
pub fn hold(path: &Path) -> Option<Held> {
    let file = File::open(path).ok()?;
    file.try_lock().ok()?;
    let held = Held { path: path.to_owned(), file };
    // Between the two whoever held it before may have taken it away.
    held.is_at(path).then_some(held)
}

/// Makes a network namespace and gives it this path.
pub fn make(path: &Path) -> Result<Held> {
    share_directory().with_context(|| format!("cannot make {DIRECTORY}"))?;
    let exists = || {
        let name = path.file_name().unwrap_or_default().display();
        anyhow!("{} exists already: `ip netns del {name}` if nothing needs it", path.display())
    };
    let file = match File::options().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(exists()),
        Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
    };
    // Held until the namespace is. Whoever holds it already takes it for left over.
    file.try_lock().map_err(|_| exists())?;
    let made = bound(path);
    if made.is_err() {
        // The empty file is worth nothing; the error that matters is the first.
        let _ = fs::remove_file(path);
    }
    let file = made.with_context(|| format!("cannot make the network namespace {}", path.display()))?;
    Ok(Held { path: path.to_owned(), file })
}

/// Takes a namespace's path away; the namespace ends with its last process.
pub fn remove(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", path.display())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Moves the calling thread into a network namespace, with a view of `/sys` that shows that one's devices, and of `/etc` with the
/// files in `etc` that say how names are found.
pub fn enter(path: &Path, etc: &Path) -> Result<()> {
    let namespace = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", path.display()))?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot have mounts of its own")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).context("cannot keep mounts to itself")?;
    // Where /sys cannot be mounted, the old view of it is better than no command.
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    let _ = mount(Some("netd"), "/sys", Some("sysfs"), MsFlags::empty(), none);
    names::lay_over(etc)
}

/// Binds a new namespace to a path, and locks it before anybody can open it. A namespace belongs to a thread, so one is made for it.
fn bound(path: &Path) -> Result<File> {
    const OWN: &str = "/proc/thread-self/ns/net";
    let bind = || -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        set_loopback_up()?;
        let file = File::open(OWN)?;
        file.try_lock()?;
        mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(file)
    };
    thread::scope(|scope| scope.spawn(bind).join()).map_err(|_| anyhow!("the thread that makes it broke down"))?
}

/// What tells one file from another.
fn number(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Whether a thread is in the network namespace of this number.
fn is_inhabited(number: u64) -> bool {
    let below = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut threads = below("/proc".into()).flat_map(|process| below(process.join("task")));
    threads.any(|thread| fs::metadata(thread.join("ns/net")).is_ok_and(|namespace| namespace.ino() == number))
}

/// Whether the calling thread's network namespace has no device but `lo`; `false` if that cannot be told.
fn has_only_lo() -> bool {
    if_nameindex().is_ok_and(|devices| devices.iter().all(|device| device.name() == c"lo"))
}

nix::ioctl_write_ptr_bad!(
    /// Of `linux/sockios.h`: sets a device's flags.
    set_device_flags,
    nix::libc::SIOCSIFFLAGS,
    nix::libc::ifreq
);

/// Sets `lo` of the calling thread's namespace up: a container without any network has that one.
fn set_loopback_up() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let flags = nix::libc::__c_anonymous_ifr_ifru { ifru_flags: nix::libc::IFF_UP as nix::libc::c_short };
    let mut request = nix::libc::ifreq { ifr_name: [0; nix::libc::IFNAMSIZ], ifr_ifru: flags };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the descriptor is open and the request, which the kernel only reads, lives through the call.
    unsafe { set_device_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Makes the directory a shared mount, as `ip netns add` does, so that removing a name removes it in every mount namespace.
fn share_directory() -> Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let none = None::<&str>;
    let share = || mount(none, DIRECTORY, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        // It is no mount yet.
        Err(Errno::EINVAL) => {
            mount(Some(DIRECTORY), DIRECTORY, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests;
