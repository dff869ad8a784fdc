//! The eBPF object in this binary: loaded with the maps that are pinned, if they are what it expects.

use std::{fmt, path::PathBuf};

use anyhow::{Context, Result, bail};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned, maps::MapInfo, programs::SchedClassifier};
use aya_obj::Object;
use netd_common::tables::{Hook, names};

use super::{Options, Pins};

/// The object; empty if there was none when this was built.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("NETD_BPF_OBJECT"));

/// The maps that outlive the daemon.
const PINNED: [&str; 12] = [
    names::FLOWS,
    names::AGES,
    names::FRAGMENTS,
    names::DEVICES,
    names::DEVICES_FAR,
    names::ENDPOINTS,
    names::PUBLICATIONS,
    names::SETTINGS,
    names::CURSORS,
    names::RESERVED,
    names::SEARCHES,
    names::COUNTERS,
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

/// Loads the object's maps, pinned, and its programs.
pub fn load(pins: &Pins, options: &Options) -> Result<Ebpf> {
    let expected = Object::parse(OBJECT).context("the eBPF object in this binary is damaged")?;
    let flows = fitting_maps(&expected, pins)?.or(options.flows_max);

    let mut loader = EbpfLoader::new();
    for name in PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    if let Some(flows) = flows {
        loader.map_max_entries(names::FLOWS, flows);
    }
    let mut programs = loader.load(OBJECT).context("the kernel refused the eBPF maps")?;
    for hook in Hook::ALL {
        let program = programs.program_mut(hook.name());
        let program = program.with_context(|| format!("the eBPF object has no program {}", hook.name()))?;
        let program: &mut SchedClassifier = program.try_into()?;
        program.load().with_context(|| format!("the kernel refused the program {}", hook.name()))?;
    }
    Ok(programs)
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
        if name == names::FLOWS {
            flows = Some(found.max_entries());
        }
        let kind = found.map_type().map_or(u32::MAX, |kind| kind as u32);
        let properties = [
            ("type", kind, map.map_type()),
            ("key size", found.key_size(), map.key_size()),
            ("value size", found.value_size(), map.value_size()),
            ("capacity", found.max_entries(), flows.filter(|_| name == names::FLOWS).unwrap_or(map.max_entries())),
        ];
        if let Some((property, found, expected)) = properties.into_iter().find(|(_, found, expected)| found != expected)
        {
            return Err(Misfit { path, property, found, expected }.into());
        }
    }
    Ok(flows)
}
