//! Network namespaces: opening one by its path, and doing something inside one.
//!
//! A thread is in a namespace, not a process: what is done inside another one is done on a thread that ends with it.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    marker::PhantomData,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};

use crate::reconcile::Sandbox;

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: FsType = FsType(0x6e73_6673);

nix::ioctl_none_bad!(
    /// Of `linux/nsfs.h`: which `CLONE_NEW*` flag makes a namespace of this kind.
    namespace_kind,
    nix::request_code_none!(0xb7, 0x3)
);

/// Why a path leads to no namespace that a container can have.
#[derive(Debug)]
pub enum Unfit {
    /// It cannot be opened.
    Unreachable {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is a file of another sort.
    NoNamespace(PathBuf),
    /// It is a namespace, but of processes, mounts, or the like.
    AnotherKind(PathBuf),
    /// It is the namespace that netd itself is in.
    HostsOwn(PathBuf),
    /// It leads to another namespace than the one that is meant.
    Replaced(Sandbox),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { path, error } => write!(f, "cannot open the namespace {}: {error}", path.display()),
            Self::NoNamespace(path) => write!(f, "{} is not a namespace", path.display()),
            Self::AnotherKind(path) => write!(f, "{} is a namespace, but not of networks", path.display()),
            Self::HostsOwn(path) => write!(f, "{} is the host's own network namespace", path.display()),
            Self::Replaced(sandbox) => {
                write!(f, "{} leads to another namespace than number {}", sandbox.path.display(), sandbox.inode)
            }
        }
    }
}

impl std::error::Error for Unfit {}

impl Unfit {
    /// Whether the path leads to no such namespace, and will not by itself: everything but a failure to look.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Unreachable { error, .. } => {
                error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
            }
            Self::NoNamespace(_) | Self::AnotherKind(_) | Self::HostsOwn(_) | Self::Replaced(_) => true,
        }
    }
}

/// An open network namespace: it stays while this does, whatever becomes of its path.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    sandbox: Sandbox,
}

impl Namespace {
    /// The network namespace at `path`, unless it is the calling thread's own.
    pub fn open(path: &Path) -> Result<Self, Unfit> {
        let namespace = Self::open_any(path)?;
        let own = std::fs::metadata(OWN).map_err(|error| Unfit::Unreachable { path: OWN.into(), error })?;
        if own.ino() == namespace.sandbox.inode {
            return Err(Unfit::HostsOwn(path.to_owned()));
        }
        Ok(namespace)
    }

    /// The namespace that `sandbox` means, and not one that has come to its path since.
    pub fn of(sandbox: &Sandbox) -> Result<Self, Unfit> {
        let namespace = Self::open(&sandbox.path)?;
        if namespace.sandbox.inode != sandbox.inode {
            return Err(Unfit::Replaced(sandbox.clone()));
        }
        Ok(namespace)
    }

    /// Its path and number.
    pub const fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The open file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// What `work` returns, done inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _inside = Entered::new(self)?;
                Ok(work())
            });
            thread.join().map_err(|_| io::Error::other("what was done inside a namespace panicked"))?
        })
    }

    fn open_any(path: &Path) -> Result<Self, Unfit> {
        let unreachable = |error| Unfit::Unreachable { path: path.to_owned(), error };
        // Not blocking: the path may turn out to be a pipe that nobody writes to.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreachable)?;
        let filesystem = fstatfs(&file).map_err(|e| unreachable(e.into()))?;
        if filesystem.filesystem_type() != NSFS {
            return Err(Unfit::NoNamespace(path.to_owned()));
        }
        let kind = {
            use std::os::fd::AsRawFd;
            // SAFETY: the descriptor is open for the length of the call, which takes no pointer.
            unsafe { namespace_kind(file.as_raw_fd()) }.map_err(|e| unreachable(e.into()))?
        };
        if kind != CloneFlags::CLONE_NEWNET.bits() {
            return Err(Unfit::AnotherKind(path.to_owned()));
        }
        let inode = file.metadata().map_err(unreachable)?.ino();
        Ok(Self { file, sandbox: Sandbox { path: path.to_owned(), inode } })
    }
}

/// The calling thread's stay in a namespace: it is back in its own when this is dropped.
pub struct Entered {
    own: File,
    // A stay belongs to the thread it began on.
    not_send: PhantomData<*mut ()>,
}

impl Entered {
    /// Takes the calling thread into `namespace`.
    pub fn new(namespace: &Namespace) -> io::Result<Self> {
        let own = File::open(OWN)?;
        setns(namespace.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(Self { own, not_send: PhantomData })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Err(error) = setns(self.own.as_fd(), CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "a thread stays behind in another namespace");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{on_a_host_of_its_own, sandbox};

    #[test]
    fn what_is_no_network_namespace_is_refused_with_the_reason() {
        on_a_host_of_its_own(async |_| {
            let reason = |path: &str| Namespace::open(Path::new(path)).unwrap_err().to_string();

            assert_eq!(reason("/proc/self/exe"), "/proc/self/exe is not a namespace");
            assert_eq!(reason("/proc/self/ns/mnt"), "/proc/self/ns/mnt is a namespace, but not of networks");
            assert_eq!(reason(OWN), format!("{OWN} is the host's own network namespace"));
            assert!(reason("/proc/self/ns/none").starts_with("cannot open the namespace /proc/self/ns/none: No such"));
        });
    }

    #[test]
    fn a_path_that_leads_elsewhere_since_is_refused() {
        on_a_host_of_its_own(async |_| {
            let container = sandbox();
            let meant = Sandbox { inode: container.inode + 1, ..container.clone() };

            assert!(Namespace::of(&container).is_ok());
            assert!(matches!(Namespace::of(&meant), Err(Unfit::Replaced(_))));
        });
    }

    #[test]
    fn a_thread_is_back_in_its_own_namespace_after_a_stay() {
        on_a_host_of_its_own(async |_| {
            let number = || std::fs::metadata(OWN).unwrap().ino();
            let (before, container) = (number(), sandbox());
            let namespace = Namespace::of(&container).unwrap();

            let during = {
                let _inside = Entered::new(&namespace).unwrap();
                number()
            };

            assert_eq!((during, number()), (container.inode, before));
            assert_eq!(namespace.inside(number).unwrap(), container.inode);
        });
    }
}
