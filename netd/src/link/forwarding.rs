//! IPv4 forwarding of single devices: switched on where it must be, and given back.
//!
//! The value that a device had before is noted in a file before it changes, so that it can be given back by another
//! process, with the daemon gone.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::net::if_::{if_indextoname, if_nametoindex};

use crate::reconcile::LinkName;

/// The notes, one file in the state directory: the number of this boot, then a line a device, its index, its name and the value
/// it had.
pub struct Forwarding {
    file: PathBuf,
    boot: String,
    before: BTreeMap<LinkName, Note>,
}

/// What a device was before.
struct Note {
    /// Its index, by which it is known under another name.
    index: u32,
    /// Its forwarding.
    value: String,
}

impl Forwarding {
    /// The notes of a state directory. Those of an earlier boot are void: the devices started anew since.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let file = state_dir.join("forwarding");
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the number of this boot")?;
        let notes = text.strip_prefix(&boot).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (index, name, value) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
            Some((LinkName::new(name)?, Note { index, value: value.to_owned() }))
        };
        let mut this = Self { before: notes.lines().filter_map(line).collect(), file, boot };
        this.follow_renames()?;
        Ok(this)
    }

    /// Gives the notes the names that their devices have. Forwarding goes with a device that is renamed, and so must its note.
    pub fn follow_renames(&mut self) -> Result<()> {
        let renamed = |(name, note): (&LinkName, &Note)| {
            let current = if_indextoname(note.index).ok()?.into_string().ok().and_then(LinkName::new)?;
            (current != *name).then(|| (name.clone(), current))
        };
        let renames: Vec<_> = self.before.iter().filter_map(renamed).collect();
        if renames.is_empty() {
            return Ok(());
        }
        // Two may have changed names with each other: all are taken out before any is put in.
        let moved: Vec<_> =
            renames.into_iter().filter_map(|(old, new)| Some((new, self.before.remove(&old)?))).collect();
        self.before.extend(moved);
        self.save()
    }

    /// Whether forwarding is on.
    pub fn is_on(link: &LinkName) -> bool {
        read(link).is_ok_and(|value| value == "1")
    }

    /// Whether forwarding was off before netd switched it on, or is off.
    pub fn was_off(&self, link: &LinkName) -> bool {
        match self.before.get(link) {
            Some(note) => note.value == "0",
            None => !Self::is_on(link),
        }
    }

    /// Devices whose value before is noted.
    pub fn noted(&self) -> impl Iterator<Item = &LinkName> {
        self.before.keys()
    }

    /// Switches forwarding on, noting the value it had.
    pub fn switch_on(&mut self, link: &LinkName) -> Result<()> {
        let value = read(link).with_context(|| format!("cannot read whether {link} forwards"))?;
        if value == "1" {
            return Ok(());
        }
        if !self.before.contains_key(link) {
            let index = if_nametoindex(link.as_str()).with_context(|| format!("cannot look at {link}"))?;
            self.before.insert(link.clone(), Note { index, value });
            self.save()?;
        }
        fs::write(sysctl(link), "1").with_context(|| format!("cannot switch forwarding on for {link}"))
    }

    /// Gives a device back the value it had; whether there was one to give back to. A device that was not switched on here
    /// keeps what it has.
    pub fn give_back(&mut self, link: &LinkName) -> Result<bool> {
        let Some(Note { value, .. }) = self.before.get(link) else { return Ok(false) };
        let given = match fs::write(sysctl(link), value) {
            Ok(()) => true,
            // The device is gone, and its value with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot give forwarding of {link} back its value {value}"));
            }
        };
        self.forget(link)?;
        Ok(given)
    }

    /// Forgets the note of a device that is gone.
    pub fn forget(&mut self, link: &LinkName) -> Result<()> {
        if self.before.remove(link).is_some() { self.save() } else { Ok(()) }
    }

    /// Gives every device back what it had, and removes the notes; the devices.
    pub fn give_everything_back(mut self) -> Result<Vec<LinkName>> {
        let mut links = Vec::new();
        for link in self.before.keys().cloned().collect::<Vec<_>>() {
            if self.give_back(&link)? {
                links.push(link);
            }
        }
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.file.display()))
            }
            _ => Ok(links),
        }
    }

    /// Whole or not at all: a note that is lost is a host that keeps forwarding.
    fn save(&self) -> Result<()> {
        let notes: String =
            self.before.iter().map(|(name, note)| format!("{} {name} {}\n", note.index, note.value)).collect();
        let next = self.file.with_extension("next");
        let written = fs::write(&next, format!("{}{notes}", self.boot))
            .and_then(|()| fs::File::open(&next)?.sync_all())
            .and_then(|()| fs::rename(&next, &self.file));
        written.with_context(|| format!("cannot write {}", self.file.display()))
    }
}

fn read(link: &LinkName) -> io::Result<String> {
    Ok(fs::read_to_string(sysctl(link))?.trim().to_owned())
}

/// With slashes: a device's name may have a dot in it.
fn sysctl(link: &LinkName) -> String {
    format!("/proc/sys/net/ipv4/conf/{link}/forwarding")
}
