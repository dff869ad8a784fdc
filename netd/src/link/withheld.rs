//! Published ports that the kernel gives to no socket that names none (`net.ipv4.ip_local_reserved_ports`), beside the operator's own.
//!
//! The kernel keeps one set of ports and not whose they are, so a note on the disk says what netd has put there: what is not in it is
//! the operator's, and is neither taken out nor counted as netd's. Where somebody has written the set anew without netd's ports, all
//! that it has is theirs, and netd's ports are put back beside it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use netd_common::tables::PortRange;
use serde::{Deserialize, Serialize};

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// Every second port, with its comma, in bytes: there is no longer set.
const LONGEST: usize = 32_768 * 6 + 1;
/// What most sets fit into.
const USUAL: usize = 4096;

type Ports = BTreeSet<u16>;

/// The published ports in the sysctl of the calling thread's network namespace.
pub struct Withheld {
    file: PathBuf,
    note: Note,
}

/// What netd wrote last, or was about to when it ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// The set before.
    before: Ports,
    /// What of it was the operator's.
    theirs: Ports,
    /// What netd wants to be in it.
    wanted: Ports,
}

impl Note {
    /// What of a set, as the kernel has it, is the operator's.
    fn theirs(&self, set: &Ports) -> Ports {
        let written: Ports = &self.theirs | &self.wanted;
        let ours: Ports = &self.wanted - &self.theirs;
        if *set == written || *set == self.before {
            self.theirs.clone()
        } else if set.is_superset(&ours) {
            set - &ours
        } else {
            set.clone()
        }
    }

    /// What of it netd has put there, or would have.
    fn observed(&self, set: &Ports) -> Ports {
        let ours: Ports = set - &self.theirs(set);
        &ours | &(set & &self.wanted)
    }
}

impl Withheld {
    /// Those of a state directory.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let file = state_dir.join("reserved-ports");
        let note = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Note::default(),
            read => {
                let bytes = read.with_context(|| format!("cannot read {}", file.display()))?;
                serde_json::from_slice(&bytes).with_context(|| format!("cannot understand {}", file.display()))?
            }
        };
        Ok(Self { file, note })
    }

    /// What of the set is the operator's, as ranges apart from one another.
    pub fn theirs(&self) -> Result<BTreeSet<PortRange>> {
        Ok(ranges(&self.note.theirs(&read()?)))
    }

    /// What of the set is there because netd wants it, or wanted it, the same way.
    pub fn observed(&self) -> Result<BTreeSet<PortRange>> {
        Ok(ranges(&self.note.observed(&read()?)))
    }

    /// Has the set be the operator's ports and these.
    pub fn put(&mut self, wanted: &BTreeSet<PortRange>) -> Result<()> {
        let before = read()?;
        let theirs = self.note.theirs(&before);
        let wanted: Ports = wanted.iter().flat_map(|range| range.first..=range.last).collect();
        let set = &theirs | &wanted;
        self.note = Note { before, theirs, wanted };
        self.save()?;
        write(&set)
    }

    /// Takes netd's ports out, and the note with them; whether there were any.
    pub fn give_back(mut self) -> Result<bool> {
        let set = read()?;
        let had = self.note.theirs(&set) != set;
        if had {
            self.put(&BTreeSet::new())?;
        }
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.file.display()))
            }
            _ => Ok(had),
        }
    }

    /// Before the kernel is told: ports of netd's that are not noted would stay the host's for good.
    fn save(&self) -> Result<()> {
        let next = self.file.with_extension("next");
        let note = serde_json::to_vec(&self.note).context("cannot write down the reserved ports")?;
        let written = fs::write(&next, note)
            .and_then(|()| fs::File::open(&next)?.sync_all())
            .and_then(|()| fs::rename(&next, &self.file));
        written.with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// The set. By one call: the kernel has no more to say at the second (`proc_do_large_bitmap` in kernel/sysctl.c), and the first of
/// [`fs::read_to_string`] is for 32 bytes.
fn read() -> Result<Ports> {
    let mut text = Vec::new();
    for size in [USUAL, LONGEST] {
        text.resize(size, 0);
        let read = fs::File::open(SYSCTL).and_then(|mut file| file.read(&mut text));
        let read = read.with_context(|| format!("cannot read {SYSCTL}"))?;
        text.truncate(read);
        if read < size {
            break;
        }
    }
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// What is longer than a page the kernel takes in parts: the first is the new set, the others are added to it.
fn write(set: &Ports) -> Result<()> {
    let one = |range: &PortRange| match range {
        PortRange { first, last } if first == last => first.to_string(),
        PortRange { first, last } => format!("{first}-{last}"),
    };
    let text = ranges(set).iter().map(one).collect::<Vec<_>>().join(",");
    fs::write(SYSCTL, format!("{text}\n")).with_context(|| format!("cannot write {SYSCTL}"))
}

/// Ports as the kernel prints a bitmap: `8080,9000-9010`.
fn parse(text: &str) -> Ports {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u16>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Ports as ranges that are apart from one another.
fn ranges(ports: &Ports) -> BTreeSet<PortRange> {
    let mut ranges = Vec::<PortRange>::new();
    for port in ports {
        match ranges.last_mut() {
            Some(range) if range.last.checked_add(1) == Some(*port) => range.last = *port,
            _ => ranges.push(PortRange { first: *port, last: *port }),
        }
    }
    ranges.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Ports {
        parse(text)
    }

    /// What netd notes when it wants these beside what is there.
    fn noted(before: &str, wanted: &str) -> Note {
        Note { before: set(before), theirs: set(before), wanted: set(wanted) }
    }

    #[test]
    fn sets_are_read_as_the_kernel_prints_them() {
        assert_eq!(set("8080,9000-9002\n"), [8080, 9000, 9001, 9002].into());
        assert_eq!(set("\n"), Ports::new());
        let wanted = [PortRange { first: 8080, last: 8080 }, PortRange { first: 65_534, last: 65_535 }];
        assert_eq!(ranges(&set("8080,65534-65535")), wanted.into());
    }

    #[test]
    fn what_was_there_before_and_what_is_added_later_is_the_operators() {
        let note = noted("5000", "5000,40000-40009");

        assert_eq!(note.theirs(&set("5000,40000-40009")), set("5000"), "one that both want stays");
        assert_eq!(note.theirs(&set("5000,6000,40000-40009")), set("5000,6000"));
        assert_eq!(note.theirs(&set("40000-40009")), set(""), "also what they take out");
    }

    #[test]
    fn a_set_that_was_written_anew_is_the_operators_as_a_whole() {
        let note = noted("", "40000-40009");

        assert_eq!(note.theirs(&set("7000")), set("7000"));
        assert_eq!(note.theirs(&set("7000,40003")), set("7000,40003"));
        assert_eq!(note.theirs(&set("")), set(""), "as after the host has booted");
    }

    #[test]
    fn a_note_that_was_not_followed_claims_nothing_of_the_operators_and_forgets_nothing_of_netds() {
        // Ended between the note and the write: of netd's there is what there was before.
        let note = Note { before: set("5000,40000"), theirs: set("5000"), wanted: set("40000,40005") };

        assert_eq!(note.theirs(&set("5000,40000")), set("5000"));
        assert_eq!(note.theirs(&set("5000,40000,40005")), set("5000"));
        let nothing = Note { wanted: set(""), ..note };
        assert_eq!(nothing.observed(&set("5000,40000")), set("40000"), "what was to be taken out is still there");
    }
}
