//! Where things are in the checkout. Nothing here touches the file system.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Everything that is built or fetched.
pub fn target() -> PathBuf {
    root().join("target")
}

/// Programs that the build needs and the machine need not have, in `bin`, and `python` with its own.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The kernel's programs, as `build-ebpf` leaves them.
pub fn object() -> PathBuf {
    target().join("bpf/netd-ebpf.o")
}

/// The daemon and command line, as `cargo build --release` leaves them.
pub fn netd() -> PathBuf {
    target().join("release/netd")
}

/// The root in which the tests' firewalls run.
pub fn firewalls() -> PathBuf {
    target().join("peers/firewalls")
}

/// `path` as seen from the root of the checkout, for messages.
pub fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Cargo, in the root of the checkout, with its results where [`target`] says.
pub fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(arguments).current_dir(root()).env_remove("CARGO_TARGET_DIR");
    cargo
}

/// `command` told where the artifacts are that tests and the daemon use.
pub fn with_artifacts(mut command: Command) -> Command {
    command.env("NETD_BIN", netd()).env("NETD_BPF_OBJECT", object()).env("NETD_FIREWALLS", firewalls());
    command
}
