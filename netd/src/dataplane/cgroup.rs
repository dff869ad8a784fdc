//! The programs at the calls of sockets: on a cgroup, for every process in it and below.
//!
//! They look at sockets of the daemon's network namespace alone, which they know by its cookie.

use std::{
    collections::{BTreeMap, BTreeSet},
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
use aya_obj::programs::CgroupSockAddrAttachType;
use nix::{
    libc,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
    },
};

use super::{Pins, syscall::is_on_a_cgroup};
use crate::reconcile::Guard;

/// The programs, by name: the calls that they are at.
pub const CALLS: [(&str, CgroupSockAddrAttachType); 10] = [
    ("connect4", CgroupSockAddrAttachType::Connect4),
    ("connect6", CgroupSockAddrAttachType::Connect6),
    ("sendmsg4", CgroupSockAddrAttachType::UDPSendMsg4),
    ("sendmsg6", CgroupSockAddrAttachType::UDPSendMsg6),
    ("recvmsg4", CgroupSockAddrAttachType::UDPRecvMsg4),
    ("recvmsg6", CgroupSockAddrAttachType::UDPRecvMsg6),
    ("getpeername4", CgroupSockAddrAttachType::GetPeerName4),
    ("getpeername6", CgroupSockAddrAttachType::GetPeerName6),
    ("bind4", CgroupSockAddrAttachType::Bind4),
    ("bind6", CgroupSockAddrAttachType::Bind6),
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

/// The programs, loaded and kept, so that one that somebody detaches can be attached again.
pub struct Calls {
    pins: Pins,
    guard: Guard,
    programs: BTreeMap<&'static str, CgroupSockAddr>,
}

impl Calls {
    /// Attaches the programs, or takes away what a former daemon attached where that cannot be.
    pub fn open(object: &mut Ebpf, pins: Pins, cgroup: &Cgroup) -> Result<Self> {
        let path = match cgroup {
            Cgroup::None => Err("the daemon was started without a cgroup".to_owned()),
            Cgroup::At(path) => Ok(path.clone()),
            Cgroup::Root => root().map_err(|error| format!("{error:#}")),
        };
        let attached = path.and_then(|path| {
            let attached = Self::attached(object, pins.clone(), path);
            attached.map_err(|error| format!("{error:#}"))
        });
        match (attached, cgroup) {
            (Ok(calls), _) => Ok(calls),
            // What was asked for by name is not left undone in silence.
            (Err(why), Cgroup::At(path)) => bail!("cannot use the cgroup {}: {why}", path.display()),
            (Err(why), _) => {
                let mut calls = Self { pins, guard: Guard::Sockets { why }, programs: BTreeMap::new() };
                calls.make(&BTreeSet::new())?;
                Ok(calls)
            }
        }
    }

    /// What leads the host's own sockets to published ports.
    pub const fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The calls that are to have their programs.
    pub fn wanted(&self) -> BTreeSet<&'static str> {
        self.programs.keys().copied().collect()
    }

    /// The calls that have a program.
    pub fn observed(&self) -> BTreeSet<&'static str> {
        let names = CALLS.into_iter().map(|(call, _)| call);
        names.filter(|call| is_on_a_cgroup(&self.pins.call(call)).is_ok_and(|is_on| is_on)).collect()
    }

    /// Has these calls have their programs, and no others.
    pub fn make(&mut self, wanted: &BTreeSet<&'static str>) -> Result<()> {
        let observed = self.observed();
        for (call, _) in CALLS.iter().filter(|(call, _)| !wanted.contains(call)) {
            Pins::unpin(&self.pins.call(call))?;
        }
        wanted.difference(&observed).try_for_each(|call| self.attach(call))
    }

    /// Loads and attaches every program, also those that a former daemon attached.
    fn attached(object: &mut Ebpf, pins: Pins, cgroup: PathBuf) -> Result<Self> {
        let mut calls = Self { pins, guard: Guard::Programs { cgroup }, programs: BTreeMap::new() };
        for (call, attach_type) in CALLS {
            let program = loaded(object, call, attach_type, &calls.next(call))?;
            calls.programs.insert(call, program);
            calls.attach(call)?;
        }
        Ok(calls)
    }

    /// Attaches a program, pinned in the place of its forerunner. For a moment a call meets both: the second finds nothing left
    /// to do.
    fn attach(&mut self, call: &str) -> Result<()> {
        let (pin, next) = (self.pins.call(call), self.next(call));
        let program = self.programs.get_mut(call).with_context(|| format!("{call} is not loaded"))?;
        let Guard::Programs { cgroup } = &self.guard else { bail!("there is no cgroup for {call}") };
        let directory = File::open(cgroup).with_context(|| format!("cannot open {}", cgroup.display()))?;
        // A link takes no flags, and stands beside others all the same.
        let id = program
            .attach(&directory, CgroupAttachMode::Single)
            .with_context(|| format!("the kernel does not attach {call}"))?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        Pins::unpin(&next)?;
        link.pin(&next).with_context(|| format!("cannot pin {}", next.display()))?;
        fs::rename(&next, &pin).with_context(|| format!("cannot pin {}", pin.display()))
    }

    /// Where something is pinned for a moment.
    fn next(&self, call: &str) -> PathBuf {
        self.pins.call(&format!("{call}-next"))
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

/// Loads a program, and takes it out of the object, which is not kept: by a pin at `path` that is there for this moment.
fn loaded(object: &mut Ebpf, call: &str, attach_type: CgroupSockAddrAttachType, path: &Path) -> Result<CgroupSockAddr> {
    let program = object.program_mut(call).with_context(|| format!("the eBPF object has no program {call}"))?;
    let program: &mut CgroupSockAddr = program.try_into()?;
    program.load().with_context(|| format!("the kernel refused the program {call}"))?;
    Pins::unpin(path)?;
    program.pin(path).with_context(|| format!("cannot pin {}", path.display()))?;
    let kept = CgroupSockAddr::from_pin(path, attach_type);
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    program.unload()?;
    kept.with_context(|| format!("cannot open {}", path.display()))
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
