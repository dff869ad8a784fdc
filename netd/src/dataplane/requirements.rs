//! What the process and the kernel must have: all that is missing is said at once.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// The kernel's type information.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// Among them a flag of `bpf_fib_lookup`, by which it is asked for the way of a packet with a mark.
const ASKED_WITH_MARK: &[u8] = b"\0BPF_FIB_LOOKUP_MARK\0";

/// Where bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// Refuses with a line that names each missing thing. Mounts a bpffs where `bpf_dir` is in none.
pub fn check(bpf_dir: &Path) -> Result<()> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mut missing = missing_capabilities(effective(&status));
    if !Path::new(TYPES).exists() {
        missing.push(format!("the kernel's type information {TYPES} (CONFIG_DEBUG_INFO_BTF)"));
    }
    // Without the capabilities, that a mount fails says nothing of its own.
    if missing.is_empty() {
        missing.extend(mounted(bpf_dir).err());
    }
    if !missing.is_empty() {
        bail!("netd cannot run here; missing: {}", missing.join("; "));
    }
    Ok(())
}

/// Whether programs can ask the kernel's routing for the way of a packet with a mark (kernel 6.10). Read once.
pub fn asks_with_marks() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let types = fs::read(TYPES).unwrap_or_default();
        types.windows(ASKED_WITH_MARK.len()).any(|name| name == ASKED_WITH_MARK)
    })
}

/// `CapEff` of `/proc/PID/status`.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default()
}

fn missing_capabilities(effective: u64) -> Vec<String> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    let mut missing = Vec::new();
    if !has(NET_ADMIN) {
        missing.push("CAP_NET_ADMIN (links, addresses, routes)".to_owned());
    }
    if !has(SYS_ADMIN) {
        missing.push("CAP_SYS_ADMIN (entering the containers' namespaces)".to_owned());
        if !has(BPF) || !has(PERFMON) {
            missing.push("CAP_BPF and CAP_PERFMON (loading programs)".to_owned());
        }
    }
    missing
}

fn mounted(bpf_dir: &Path) -> Result<(), String> {
    let existing = bpf_dir.ancestors().find(|directory| directory.exists());
    if existing.is_some_and(|directory| statfs(directory).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)) {
        return Ok(());
    }
    let place = if bpf_dir.starts_with(BPFFS) { PathBuf::from(BPFFS) } else { bpf_dir.to_owned() };
    fs::create_dir_all(&place).map_err(|e| format!("a bpffs at {}, which cannot be made: {e}", place.display()))?;
    mount(Some("bpf"), &place, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|e| format!("a bpffs at {}, where none can be mounted: {}", place.display(), e.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let all = effective("Name:\tnetd\nCapEff:\t000001ffffffffff\n");
        let without = |capability: u32| missing_capabilities(all & !(1 << capability));

        assert_eq!(missing_capabilities(all), Vec::<String>::new());
        assert_eq!(without(NET_ADMIN), ["CAP_NET_ADMIN (links, addresses, routes)"]);
        assert_eq!(without(SYS_ADMIN), ["CAP_SYS_ADMIN (entering the containers' namespaces)"]);
        assert_eq!(without(BPF), Vec::<String>::new());
        assert_eq!(missing_capabilities(0).len(), 3);
    }
}
