//! The programs at the calls of sockets: on a cgroup, for every process in it and below.
//!
//! They look at sockets of the daemon's network namespace alone, which they know by its cookie.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};
use nix::{
    libc,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
    },
};

use super::Pins;
use crate::reconcile::Guard;

/// The programs, by name: the calls that they are at.
pub const CALLS: [&str; 10] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "bind4",
    "bind6",
];

/// Name of the constant that tells the programs their namespace.
pub const HOST_NETNS: &str = "HOST_NETNS";

/// Which processes the programs see.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cgroup {
    /// None.
    #[default]
    None,
    /// Every one: the root of cgroup2, wherever it is mounted.
    Root,
    /// Those of this directory of cgroup2.
    At(PathBuf),
}

/// Attaches the programs, or takes away what a former daemon attached where that cannot be.
pub fn guard(programs: &mut Ebpf, pins: &Pins, cgroup: &Cgroup) -> Result<Guard> {
    let attached = match cgroup {
        Cgroup::None => Err("the daemon was started without a cgroup".to_owned()),
        Cgroup::At(path) => attached(programs, pins, path).map_err(|error| format!("{error:#}")),
        Cgroup::Root => root().and_then(|path| attached(programs, pins, &path)).map_err(|error| format!("{error:#}")),
    };
    match (attached, cgroup) {
        (Ok(cgroup), _) => Ok(Guard::Programs { cgroup }),
        // What was asked for by name is not left undone in silence.
        (Err(why), Cgroup::At(path)) => bail!("cannot use the cgroup {}: {why}", path.display()),
        (Err(why), _) => {
            for call in CALLS {
                Pins::unpin(&pins.call(call))?;
            }
            Ok(Guard::Sockets { why })
        }
    }
}

/// The cookie of the calling thread's network namespace.
pub fn netns_cookie() -> Result<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of the number.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error()).context("cannot read the cookie of the network namespace");
    }
    Ok(cookie)
}

/// Loads and attaches every program, each pinned in the place of its forerunner. For a moment a call meets both: the second
/// finds nothing left to do.
fn attached(programs: &mut Ebpf, pins: &Pins, path: &Path) -> Result<PathBuf> {
    let cgroup = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    for call in CALLS {
        let program = programs.program_mut(call).with_context(|| format!("the eBPF object has no program {call}"))?;
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.load().with_context(|| format!("the kernel refused the program {call}"))?;
        // A link takes no flags, and stands beside others all the same.
        let id = program
            .attach(&cgroup, CgroupAttachMode::Single)
            .with_context(|| format!("the kernel does not attach {call}"))?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        let (pin, next) = (pins.call(call), pins.call(&format!("{call}-next")));
        Pins::unpin(&next)?;
        link.pin(&next).with_context(|| format!("cannot pin {}", next.display()))?;
        fs::rename(&next, &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
    }
    Ok(path.to_owned())
}

/// Where cgroup2 is mounted: the latest mount that no other lies over.
fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read what is mounted")?;
    let is_seen = |path: &PathBuf| statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    mounts.lines().rev().filter_map(cgroup2).find(is_seen).context("no cgroup2 is mounted")
}

/// The mount point of a line of mountinfo, if cgroup2 is mounted there. See proc_pid_mountinfo(5).
fn cgroup2(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    (filesystem.split(' ').next() == Some("cgroup2")).then(|| point.replace("\\040", " ").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_cgroup2_is_known_by_its_line() {
        let lines = [
            "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755",
            "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate",
            "32 30 0:28 / /sys/fs/cgroup/cpu rw shared:11 - cgroup cgroup rw,cpu",
        ];

        assert_eq!(lines.into_iter().find_map(cgroup2), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2("31 30 0:27 / /a\\040b rw - cgroup2 none rw"), Some("/a b".into()));
        assert_eq!(cgroup2(""), None);
    }

    #[test]
    fn a_network_namespace_has_a_cookie() {
        assert_ne!(netns_cookie().unwrap(), 0);
    }
}
