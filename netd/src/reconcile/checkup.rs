//! What is looked at on the host for `netd doctor` alone.

use std::collections::{BTreeMap, BTreeSet};

use netd_common::tables::Hook;

use super::LinkName;

/// What is looked at on the host for the doctor alone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkup {
    /// `kernel.osrelease`.
    pub kernel: String,
    /// Whether the kernel is built with PREEMPT_RT.
    pub realtime: bool,
    /// `net.core.bpf_jit_enable`, where it can be read.
    pub jit: Option<bool>,
    /// `net.bridge.bridge-nf-call-iptables`, where there is br_netfilter.
    pub bridge_netfilter: Option<bool>,
    /// The reverse-path filter that holds for a device: the stricter of its own and that of all (`rp_filter`).
    pub reverse_path: BTreeMap<LinkName, u8>,
    /// Programs of others at the hooks where ours are.
    pub foreign: BTreeSet<Foreign>,
    /// Packets that uplinks received while the doctor looked, and those of them that our program there has seen.
    pub received: u64,
    /// See `received`.
    pub seen: u64,
}

/// A program of another's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Foreign {
    /// The device.
    pub link: LinkName,
    /// The hook of ours that it stands at.
    pub hook: Hook,
    /// Its name, or its id where it has none.
    pub name: String,
    /// Whether it sees packets before ours does.
    pub before: bool,
}
