//! A host for a test: network and mount namespaces that vanish with the test's thread.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

use rand::rngs::StdRng;

use crate::{
    model::Model,
    reconcile::{LinkName, Sandbox},
    store::{Store, StoreError},
};

/// Longer than any machine takes from a fork to an exec. What another test starts has copies of all descriptors of this process
/// meanwhile: what was let go of is held yet, a port as a file's lock.
pub const FREED: Duration = Duration::from_secs(60);

/// Opens the store that nobody has open, as soon as that is so.
pub fn opened(directory: &Path, rng: &mut StdRng) -> Result<(Store, Model), StoreError> {
    let deadline = Instant::now() + FREED;
    loop {
        match Store::open(directory, rng) {
            Err(StoreError::InUse(_)) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            opened => return opened,
        }
    }
}

/// Binds what nobody has, as soon as that is so.
pub fn bound<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + FREED;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            bound => return bound,
        }
    }
}

/// Runs `test` as root of a host of its own: an empty network namespace, and a mount namespace in which the directory it
/// is given is a fresh tmpfs.
pub fn on_a_host_of_its_own(test: impl AsyncFnOnce(PathBuf) + Send + 'static) {
    assert!(Uid::effective().is_root(), "needs root: run `sudo -E cargo test -p netd`");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("netd"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(path));
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A container's namespace, with nothing but its `lo` in it.
pub fn sandbox() -> Sandbox {
    // Kept open for the length of the test binary: the path leads through the open file.
    static OPEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

    let file = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap();
    let path = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
    let inode = file.metadata().unwrap().ino();
    OPEN.lock().unwrap().push(file);
    Sandbox { path, inode }
}

/// The link of this name.
pub fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

/// Makes a veth pair with both sides here; `index` is that of the first.
pub async fn add_veth(name: &str, peer: &str, index: u32) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let message = rtnetlink::LinkVeth::new(name, peer).index(index).up().build();
    handle.link().add(message).execute().await.unwrap();
}
