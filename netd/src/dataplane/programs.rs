//! The programs that packets meet: those of a former daemon where they are the very same, else loaded and pinned.
//!
//! The verifier takes its time with them, and a daemon that starts again would wait for it to come to the same. The same is a
//! program of the same object with the same constants, which is what its pin is named by, on the very maps that are pinned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    thread,
};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf,
    maps::MapInfo,
    programs::{Program, ProgramInfo, SchedClassifier, Xdp},
};

use aya_obj::programs::XdpAttachType;
use netd_common::tables::Hook;

use super::{Pins, object};

/// The object's programs, as far as they are in the kernel. The object itself is not kept: it takes more memory than all else.
pub struct Programs {
    pins: Pins,
    identity: u64,
    kept: BTreeMap<String, SchedClassifier>,
    early: Xdp,
}

impl Programs {
    /// The programs of these names and that for frames, of an object whose constants are `constants`.
    pub fn of(object: &mut Ebpf, names: &[&str], pins: Pins, constants: impl Hash) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        object::OBJECT.hash(&mut hasher);
        constants.hash(&mut hasher);
        let identity = hasher.finish();
        let early = early(object, &pins, identity)?;
        let mut programs = Self { pins, identity, kept: BTreeMap::new(), early };
        programs.load(object, names)?;
        Ok(programs)
    }

    /// Has these in the kernel: those that are not yet are loaded at the same time.
    fn load(&mut self, object: &mut Ebpf, names: &[&str]) -> Result<()> {
        let maps = pinned_maps(&self.pins)?;
        for name in names {
            let path = self.pins.program(name, self.identity);
            if is_on(&path, &maps) {
                let program = SchedClassifier::from_pin(&path);
                self.kept.insert((*name).to_owned(), program.with_context(|| cannot_open(&path))?);
            }
        }
        let missing: BTreeSet<&str> = names.iter().copied().filter(|name| !self.kept.contains_key(*name)).collect();
        let (pins, identity) = (&self.pins, self.identity);
        let loading = object.programs_mut().filter(|(name, _)| missing.contains(name));
        let loaded = thread::scope(|scope| {
            let threads: Vec<_> = loading
                .map(|(name, program)| (name, scope.spawn(move || loaded(program, &pins.program(name, identity)))))
                .collect();
            let joined = threads.into_iter().map(|(name, thread)| {
                let joined = thread.join().unwrap_or_else(|_| Err(anyhow!("loading it panicked")));
                Ok((name.to_owned(), joined.with_context(|| format!("the kernel refused the program {name}"))?))
            });
            joined.collect::<Result<Vec<_>>>()
        })?;
        self.kept.extend(loaded);
        match names.iter().find(|name| !self.kept.contains_key(**name)) {
            Some(name) => Err(anyhow!("the eBPF object has no program {name}")),
            None => Ok(()),
        }
    }

    /// One of those that are in the kernel.
    pub fn get(&self, name: &str) -> Option<&SchedClassifier> {
        self.kept.get(name)
    }

    /// The one that meets frames.
    pub const fn early(&self) -> &Xdp {
        &self.early
    }

    /// The same, to attach.
    pub const fn early_mut(&mut self) -> &mut Xdp {
        &mut self.early
    }

    /// One, loaded if it is not yet in the kernel.
    pub fn loaded(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        if !self.kept.contains_key(name) {
            self.load(&mut object::opened(&self.pins, None)?, &[name])?;
        }
        self.kept.get_mut(name).with_context(|| format!("the eBPF object has no program {name}"))
    }

    /// Lets go of programs of former daemons that are none of these.
    pub fn forget_others(&self) -> Result<()> {
        self.pins.forget_programs_but(self.identity)
    }
}

/// Loads a program, and pins it at `path`, in the place of one that was not what it should be.
fn loaded(program: &mut Program, path: &Path) -> Result<SchedClassifier> {
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    program.pin(path).with_context(|| format!("cannot pin {}", path.display()))?;
    program.unload()?;
    SchedClassifier::from_pin(path).with_context(|| cannot_open(path))
}

/// The program that meets frames, which the verifier is soon done with, and which is pinned by the way.
fn early(object: &mut Ebpf, pins: &Pins, identity: u64) -> Result<Xdp> {
    let name = Hook::UplinkXdp.name();
    let program = object.program_mut(name).context("the eBPF object has no program for frames")?;
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("the kernel refused the program {name}"))?;
    let path = pins.program(name, identity);
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    program.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
    program.unload()?;
    Xdp::from_pin(&path, XdpAttachType::Interface).with_context(|| cannot_open(&path))
}

fn cannot_open(path: &Path) -> String {
    format!("cannot open {}", path.display())
}

/// Whether there is a program at `path` whose maps are those that are pinned, by their names.
fn is_on(path: &Path, pinned: &BTreeMap<String, u32>) -> bool {
    // What a program logs, its own daemon alone can read.
    if cfg!(feature = "log") {
        return false;
    }
    let maps = ProgramInfo::from_pin(path).ok().and_then(|info| info.map_ids().ok().flatten());
    maps.is_some_and(|ids| ids.into_iter().all(|id| is_pinned_or_its_own(id, pinned)))
}

fn is_pinned_or_its_own(id: u32, pinned: &BTreeMap<String, u32>) -> bool {
    let Ok(map) = MapInfo::from_id(id) else { return false };
    map.name_as_str().and_then(|name| pinned.get(name)).is_none_or(|pinned| *pinned == id)
}

/// The ids of the pinned maps, by the names that the kernel has for them.
fn pinned_maps(pins: &Pins) -> Result<BTreeMap<String, u32>> {
    let mut maps = BTreeMap::new();
    for name in object::PINNED {
        let path = pins.map(name);
        let map = MapInfo::from_pin(&path).with_context(|| cannot_open(&path))?;
        maps.extend(map.name_as_str().map(|name| (name.to_owned(), map.id())));
    }
    Ok(maps)
}
