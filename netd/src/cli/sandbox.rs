//! Network namespaces that `netd run` makes, the way `ip netns` does, so that `ip netns` sees them.

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::names;
use crate::model::Name;

/// Where iproute2 keeps the names of network namespaces.
const DIRECTORY: &str = "/run/netns";

/// Where the namespace of an endpoint is.
pub fn path_of(name: &Name) -> PathBuf {
    Path::new(DIRECTORY).join(format!("netd-{name}"))
}

/// Makes a network namespace and gives it this path.
pub fn make(path: &Path) -> Result<()> {
    share_directory().with_context(|| format!("cannot make {DIRECTORY}"))?;
    match File::options().write(true).create_new(true).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let name = path.file_name().unwrap_or_default().display();
            return Err(anyhow!("{} exists already: `ip netns del {name}` if nothing needs it", path.display()));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
    let made = bound(path);
    if made.is_err() {
        // The empty file is worth nothing; the error that matters is the first.
        let _ = fs::remove_file(path);
    }
    made.with_context(|| format!("cannot make the network namespace {}", path.display()))
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

/// Binds a new namespace to a path. A namespace belongs to a thread, so one is made for it.
fn bound(path: &Path) -> Result<()> {
    let bind = || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        set_loopback_up()?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    };
    thread::scope(|scope| scope.spawn(bind).join()).map_err(|_| anyhow!("the thread that makes it broke down"))?
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
