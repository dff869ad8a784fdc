//! What devices' settings were before netd changed them, on disk: it is given back by whoever comes, with the daemon gone.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::net::if_::{if_indextoname, if_nametoindex};

use super::Setting;
use crate::reconcile::LinkName;

/// The notes, one file in the state directory: the number of this boot, then a line a setting: index and name of the device,
/// the value it had, and which setting.
pub struct Notes {
    file: PathBuf,
    boot: String,
    before: BTreeMap<(LinkName, Setting), Note>,
}

/// What a setting of a device was before.
struct Note {
    /// The device's index, by which it is known under another name; 0 for what is no device (`all`).
    index: u32,
    value: String,
}

impl Notes {
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
            // Earlier ones said nothing: there was one setting.
            let setting = words.next().map_or(Some(Setting::Ipv4Forwarding), Setting::named)?;
            let link = match setting {
                Setting::Ipv6ForwardingOfAll => LinkName::every(),
                _ => LinkName::new(name)?,
            };
            Some(((link, setting), Note { index, value: value.to_owned() }))
        };
        Ok(Self { before: notes.lines().filter_map(line).collect(), file, boot })
    }

    /// Gives the notes the names that their devices have: a setting goes with a device that is renamed, and so must its note.
    pub fn follow_renames(&mut self) -> Result<()> {
        let renamed = |((name, setting), note): (&(LinkName, Setting), &Note)| {
            let current = if_indextoname(note.index).ok()?.into_string().ok().and_then(LinkName::new)?;
            (current != *name).then(|| ((name.clone(), *setting), (current, *setting)))
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

    /// The value that a setting had, where one is noted.
    pub fn value(&self, link: &LinkName, setting: Setting) -> Option<&str> {
        self.before.get(&(link.clone(), setting)).map(|note| note.value.as_str())
    }

    /// Every setting with a note, with its device, by name.
    pub fn all(&self) -> impl Iterator<Item = &(LinkName, Setting)> {
        self.before.keys()
    }

    /// Notes what a setting was, unless that is noted already.
    pub fn add(&mut self, link: &LinkName, setting: Setting, value: String) -> Result<()> {
        let key = (link.clone(), setting);
        if self.before.contains_key(&key) {
            return Ok(());
        }
        let index = match setting {
            Setting::Ipv6ForwardingOfAll => 0,
            _ => if_nametoindex(link.as_str()).with_context(|| format!("cannot look at {link}"))?,
        };
        self.before.insert(key, Note { index, value });
        self.save()
    }

    /// Forgets a note.
    pub fn remove(&mut self, link: &LinkName, setting: Setting) -> Result<()> {
        if self.before.remove(&(link.clone(), setting)).is_some() { self.save() } else { Ok(()) }
    }

    /// Removes the file.
    pub fn delete(self) -> Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.file.display()))
            }
            _ => Ok(()),
        }
    }

    /// Whole or not at all: a note that is lost is a host that keeps forwarding.
    fn save(&self) -> Result<()> {
        let line = |((name, setting), note): (&(LinkName, Setting), &Note)| {
            format!("{} {name} {} {}\n", note.index, note.value, setting.name())
        };
        let notes: String = self.before.iter().map(line).collect();
        let next = self.file.with_extension("next");
        let written = fs::write(&next, format!("{}{notes}", self.boot))
            .and_then(|()| fs::File::open(&next)?.sync_all())
            .and_then(|()| fs::rename(&next, &self.file));
        written.with_context(|| format!("cannot write {}", self.file.display()))
    }
}
