//! The eBPF object in this binary: loaded with the maps that are pinned, if they are what it expects.

use std::{fmt, path::PathBuf};

use anyhow::{Context, Result, bail};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned, maps::MapInfo};
use aya_obj::Object;
use netd_common::tables::{Hook, names};

use super::{Options, Pins, cgroup, programs::Programs};

/// The object; empty if there was none when this was built.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("NETD_BPF_OBJECT"));

/// The program that is attached nowhere.
pub const COLLECT: &str = "collect";

/// The maps that outlive the daemon.
pub const PINNED: [&str; 26] = [
    names::FLOWS,
    names::AGES,
    names::FRAGMENTS,
    names::DEVICES,
    names::DEVICES_FAR,
    names::ENDPOINTS,
    names::ALLOWANCES,
    names::PUBLICATIONS,
    names::SOURCES,
    names::HOST_ADDRESSES,
    names::LED,
    names::DIALLED,
    names::SEGMENTS,
    names::REMOTES,
    names::VTEPS,
    names::MESH,
    names::PEERS,
    names::STATIONS,
    names::SETTINGS,
    names::CURSORS,
    names::RESERVED,
    names::WAYS,
    names::SEARCHES,
    names::GUARD,
    names::COUNTERS,
    names::UNFOLLOWED,
];

/// A pinned map that the programs cannot use.
#[derive(PartialEq, Eq, Debug)]
pub struct Misfit {
    path: PathBuf,
    property: &'static str,
    found: u32,
    expected: u32,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, property, found, expected } = self;
        write!(f, "the pinned map {} has a {property} of {found}, not {expected}; ", path.display())?;
        write!(f, "`netd uninstall` removes it")
    }
}

impl std::error::Error for Misfit {}

/// Refuses if this binary was built without the programs.
pub fn check_built_in() -> Result<()> {
    if OBJECT.is_empty() {
        bail!("netd was built without its eBPF programs; run `cargo xtask build-ebpf` and build again");
    }
    Ok(())
}

/// Loads the object's maps, pinned, and its programs; the object is what to take the maps out of.
pub fn load(pins: &Pins, options: &Options) -> Result<(Ebpf, Programs)> {
    let mut object = opened(pins, options.flows_max)?;
    let wanted = Hook::OF_PACKETS.into_iter().filter(|hook| !is_rare(*hook)).map(Hook::name).chain([COLLECT]);
    let programs = Programs::of(&mut object, &wanted.collect::<Vec<_>>(), pins.clone(), cgroup::netns_cookie()?)?;
    Ok((object, programs))
}

/// The object with its maps, those that outlive the daemon pinned. A flow table that is not pinned yet gets this many entries.
pub fn opened(pins: &Pins, flows_max: Option<u32>) -> Result<Ebpf> {
    let expected = Object::parse(OBJECT).context("the eBPF object in this binary is damaged")?;
    let pinned = fitting_maps(&expected, pins)?;
    let flows = pinned.or(flows_max).unwrap_or_else(|| entries_for(memory()));

    let netns = cgroup::netns_cookie()?;
    let mut loader = EbpfLoader::new();
    loader.override_global(cgroup::HOST_NETNS, &netns, true);
    for name in PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.map_max_entries(names::FLOWS, flows);
    loader.map_max_entries(names::AGES, places_for(flows));
    loader.load(OBJECT).context("the kernel refused the eBPF maps")
}

/// Whether a hook's program is loaded when it is first needed: few hosts have such a device, and the verifier takes its time.
pub const fn is_rare(hook: Hook) -> bool {
    matches!(hook, Hook::FromL3Uplink | Hook::ToL3Uplink)
}

/// Bytes of the machine's memory for each entry of the flow table. An entry in use takes 192 bytes, so a full table takes little
/// more than a hundredth of it.
const MEMORY_PER_ENTRY: u64 = 16_384;
/// The fewest entries: as many flows as a small machine's busiest service needs.
const FEWEST: u64 = 65_536;
/// The most: beyond it the table of buckets alone, which is there from the start, would be more than 64 MiB.
const MOST: u64 = 4_194_304;

/// Entries of the flow table on a machine with so many bytes of memory.
fn entries_for(memory: u64) -> u32 {
    (memory / MEMORY_PER_ENTRY).clamp(FEWEST, MOST) as u32
}

/// Places in the queue of first packets: one a flow.
const fn places_for(entries: u32) -> u32 {
    entries.div_ceil(2)
}

/// Bytes of the machine's memory; none where it cannot be told.
fn memory() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}

/// Refuses if a pinned map is not what the object expects. The flow table may have any size: the one it has, if it is
/// pinned.
fn fitting_maps(expected: &Object, pins: &Pins) -> Result<Option<u32>> {
    let mut flows = None;
    for name in PINNED {
        let map = expected.maps.get(name).with_context(|| format!("the eBPF object has no map {name}"))?;
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let found = MapInfo::from_pin(&path).with_context(|| format!("{} is no map", path.display()))?;
        match name {
            names::FLOWS => flows = Some(found.max_entries()),
            // A first start that ended between the two.
            names::AGES if flows.is_none() => flows = Some(found.max_entries() * 2),
            _ => {}
        }
        let kind = found.map_type().map_or(u32::MAX, |kind| kind as u32);
        let properties = [
            ("type", kind, map.map_type()),
            ("key size", found.key_size(), map.key_size()),
            ("value size", found.value_size(), map.value_size()),
            ("capacity", found.max_entries(), capacity(name, map.max_entries(), flows)),
        ];
        if let Some((property, found, expected)) = properties.into_iter().find(|(_, found, expected)| found != expected)
        {
            return Err(Misfit { path, property, found, expected }.into());
        }
    }
    Ok(flows)
}

/// The capacity that a pinned map must have, where the pinned flow table has `flows` entries.
fn capacity(name: &str, expected: u32, flows: Option<u32>) -> u32 {
    match (name, flows) {
        (names::FLOWS, Some(flows)) => flows,
        (names::AGES, Some(flows)) => places_for(flows),
        _ => expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_table_grows_with_the_machines_memory_between_bounds() {
        const GIB: u64 = 1 << 30;
        let cases = [(0, 65_536), (GIB / 2, 65_536), (4 * GIB, 262_144), (24 * GIB, 1_572_864), (256 * GIB, 4_194_304)];
        for (memory, entries) in cases {
            assert_eq!(entries_for(memory), entries, "{memory}");
        }
    }
}
