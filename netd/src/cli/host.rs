//! The one place where the command line meets the host.
//!
//! MERGE: both functions are placeholders until the shell is there. `open` becomes
//! `Host::open(HostOptions { bpf_dir, state_dir, uplinks, dataplane: Options { flows_max: Some(FLOWS_MAX), .. } })`, then
//! `host.remember_sandboxes(sandboxes)`, and returns it with `host.watch()`; `take_away` becomes the shell's `uninstall`,
//! its report as lines. `cli/no_host.rs` then goes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use tokio::sync::watch;

use super::no_host::NoHost;
use crate::reconcile::{LinkName, Sandbox};

/// Entries of the flow table, two a flow.
pub const FLOWS_MAX: u32 = 262_144;

/// What the host is opened with.
pub struct HostPlace {
    /// Where maps and links are pinned.
    pub bpf_dir: PathBuf,
    /// Where notes are kept.
    pub state_dir: PathBuf,
    /// Devices towards the outside; none for all that look like it.
    pub uplinks: Vec<LinkName>,
    /// Which sandbox each veth of the model leads to.
    pub sandboxes: BTreeMap<LinkName, Sandbox>,
}

/// Opens the host, and tells of its changes.
pub async fn open(place: HostPlace) -> Result<(NoHost, watch::Receiver<u64>)> {
    let HostPlace { bpf_dir, state_dir, uplinks, sandboxes } = place;
    let _ = (bpf_dir, state_dir, uplinks, sandboxes, FLOWS_MAX);
    bail!("this build has no dataplane")
}

/// Takes everything of netd's away from the host; what it was, a line each.
pub async fn take_away(bpf_dir: &Path, state_dir: &Path) -> Result<Vec<String>> {
    let _ = (bpf_dir, state_dir);
    bail!("this build has no dataplane")
}
