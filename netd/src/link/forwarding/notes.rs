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
/// the value it had, which setting, and for IPv4's forwarding what `all` was.
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
    /// What IPv4's `all` was beside it.
    of_all: Option<String>,
}

/// What IPv4's `all` is, which a note of a device's IPv4 forwarding has beside it.
pub fn of_all(setting: Setting) -> Option<String> {
    (setting == Setting::Ipv4Forwarding).then(|| setting.read(&LinkName::every()).ok()).flatten()
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
            // Earlier ones did not say it, and what it is when they are first read is the best guess.
            let all = words.next().map(str::to_owned).or_else(|| of_all(setting));
            Some(((link, setting), Note { index, value: value.to_owned(), of_all: all }))
        };
        let this = Self { before: notes.lines().filter_map(line).collect(), file, boot };
        if this.lines() != notes {
            this.save()?;
        }
        Ok(this)
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

    /// Forgets what devices had while IPv4's `all` was off, where it is on: others switched it on, and every device with it.
    pub fn forget_overruled(&mut self) -> Result<()> {
        let all_was_off = |note: &Note| note.of_all.as_deref() == Some("0");
        if !self.before.values().any(all_was_off) || !Setting::Ipv4Forwarding.is(&LinkName::every(), "1") {
            return Ok(());
        }
        self.before.retain(|_, note| !all_was_off(note));
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

    /// Notes what a setting was, and [`of_all`] beside it, unless that is noted already.
    pub fn add(&mut self, link: &LinkName, setting: Setting, value: String, of_all: Option<String>) -> Result<()> {
        let key = (link.clone(), setting);
        if self.before.contains_key(&key) {
            return Ok(());
        }
        let index = match setting {
            Setting::Ipv6ForwardingOfAll => 0,
            _ => if_nametoindex(link.as_str()).with_context(|| format!("cannot look at {link}"))?,
        };
        self.before.insert(key, Note { index, value, of_all });
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
        let next = self.file.with_extension("next");
        let written = fs::write(&next, format!("{}{}", self.boot, self.lines()))
            .and_then(|()| fs::File::open(&next)?.sync_all())
            .and_then(|()| fs::rename(&next, &self.file));
        written.with_context(|| format!("cannot write {}", self.file.display()))
    }

    fn lines(&self) -> String {
        let line = |((name, setting), note): (&(LinkName, Setting), &Note)| {
            let of_all = note.of_all.iter().map(|value| format!(" {value}")).collect::<String>();
            format!("{} {name} {} {}{of_all}\n", note.index, note.value, setting.name())
        };
        self.before.iter().map(line).collect()
    }
}
