//! The files under `--bpf-dir`: a map, a program or an attachment a file, and a note of each clsact qdisc that we made.
//!
//! `BPF_DIR/LAYOUT/maps/NAME`, `BPF_DIR/LAYOUT/programs/NAME@IDENTITY`, `BPF_DIR/LAYOUT/links/HOOK@IFINDEX` (`dns_lo@INODE` for the one in a namespace of that inode),
//! `BPF_DIR/LAYOUT/qdiscs/IFINDEX` (an empty directory).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::programs::links::PinnedLink;
use netd_common::tables::{Hook, LAYOUT};
use nix::{
    mount::umount,
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::reconcile::LinkName;

/// What the kernel itself puts into a fresh bpffs.
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

/// A directory of pins.
#[derive(Clone, Debug)]
pub struct Pins {
    bpf_dir: PathBuf,
}

impl Pins {
    /// Those under `bpf_dir`, whose directories are made where they are missing.
    pub fn create(bpf_dir: PathBuf) -> Result<Self> {
        let pins = Self { bpf_dir };
        for directory in [pins.maps(), pins.programs(), pins.links(), pins.qdiscs()] {
            fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(pins)
    }

    /// Those under `bpf_dir`, of whatever layout, if there are any.
    pub const fn existing(bpf_dir: PathBuf) -> Self {
        Self { bpf_dir }
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where a program is pinned, which is the same only by the same identity.
    pub fn program(&self, name: &str, identity: u64) -> PathBuf {
        self.programs().join(format!("{name}@{identity:016x}"))
    }

    /// Lets go of the programs of other identities.
    pub fn forget_programs_but(&self, identity: u64) -> Result<()> {
        let suffix = format!("@{identity:016x}");
        for name in listed(&self.programs())?.into_iter().filter(|name| !name.ends_with(&suffix)) {
            let path = self.programs().join(name);
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Where an attachment is pinned.
    pub fn link(&self, hook: Hook, index: u32) -> PathBuf {
        self.links().join(format!("{}@{index}", hook.name()))
    }

    /// Where the attachment of a program at a call of sockets is pinned.
    pub fn call(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// The attachments that are pinned.
    pub fn attachments(&self) -> Result<BTreeSet<(u32, Hook)>> {
        Ok(listed(&self.links())?.iter().filter_map(|name| parse(name)).collect())
    }

    /// Devices with a pinned attachment in their drivers.
    pub fn early(&self) -> Result<BTreeSet<u32>> {
        let index =
            |name: &String| name.split_once('@').filter(|(hook, _)| *hook == Hook::UplinkXdp.name())?.1.parse().ok();
        Ok(listed(&self.links())?.iter().filter_map(index).collect())
    }

    /// Where the attachment at the loopback device of a namespace is pinned, by the namespace's inode.
    pub fn resolver(&self, namespace: u64) -> PathBuf {
        self.links().join(format!("{}@{namespace}", Hook::DnsLo.name()))
    }

    /// The namespaces with a pinned attachment at their loopback device, by their inodes.
    pub fn resolvers(&self) -> Result<BTreeSet<u64>> {
        Ok(listed(&self.links())?.iter().filter_map(|name| parse_resolver(name)).collect())
    }

    /// Detaches what is pinned at `path`, if something is; it is detached when this returns.
    pub fn unpin(path: &Path) -> Result<bool> {
        let pinned = match PinnedLink::from_pin(path) {
            Ok(pinned) => pinned,
            Err(_) if !path.exists() => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
        };
        // The pin goes before the descriptor: the last to go takes the attachment along, and a descriptor does it at once.
        pinned.unpin().with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(true)
    }

    /// Notes that the clsact qdisc of a device is our making.
    pub fn note_qdisc(&self, index: u32) -> Result<()> {
        fs::create_dir_all(self.qdisc(index)).context("cannot note that a clsact qdisc is netd's")
    }

    /// Whether the clsact qdisc of a device is our making.
    pub fn made_qdisc(&self, index: u32) -> bool {
        self.qdisc(index).is_dir()
    }

    /// Devices whose clsact qdisc is our making.
    pub fn qdiscs_made(&self) -> Result<BTreeSet<u32>> {
        Ok(listed(&self.qdiscs())?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Forgets a qdisc that is gone.
    pub fn forget_qdisc(&self, index: u32) -> Result<()> {
        match fs::remove_dir(self.qdisc(index)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("cannot forget a clsact qdisc"),
            _ => Ok(()),
        }
    }

    /// Forgets the qdiscs of devices that are gone.
    pub fn forget_qdiscs_but(&self, links: &BTreeMap<u32, LinkName>) -> Result<()> {
        for index in self.qdiscs_made()?.into_iter().filter(|index| !links.contains_key(index)) {
            self.forget_qdisc(index)?;
        }
        Ok(())
    }

    /// Detaches every link that is pinned here, in the layout of any version of netd, and removes every map; what there
    /// was. A bpffs that is mounted here for netd alone goes too.
    pub fn remove_everything(&self) -> Result<Vec<PathBuf>> {
        if !statfs(&self.bpf_dir).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
            return Ok(Vec::new());
        }
        let mut removed = Vec::new();
        for layout in self.layouts()? {
            removed.extend(remove_layout(&layout)?);
        }
        self.remove_directory()?;
        Ok(removed)
    }

    /// Does so with those of netds whose maps have another layout, which no program of this one's can use; which there were. What they
    /// noted of qdiscs stays noted.
    pub fn remove_other_layouts(&self) -> Result<Vec<PathBuf>> {
        let mut others = self.layouts()?;
        others.retain(|layout| !layout.ends_with(LAYOUT));
        for layout in &others {
            for index in listed(&layout.join("qdiscs"))?.iter().filter_map(|name| name.parse().ok()) {
                self.note_qdisc(index)?;
            }
            remove_layout(layout)?;
        }
        Ok(others)
    }

    fn layouts(&self) -> Result<Vec<PathBuf>> {
        let names = listed(&self.bpf_dir)?.into_iter().filter(|name| is_layout(name));
        Ok(names.map(|name| self.bpf_dir.join(name)).collect())
    }

    /// Removes the directory if nothing of another's is in it.
    fn remove_directory(&self) -> Result<()> {
        if listed(&self.bpf_dir)?.iter().any(|name| !KERNELS_OWN.contains(&name.as_str())) {
            return Ok(());
        }
        let mut removed = fs::remove_dir(&self.bpf_dir);
        if removed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
            umount(&self.bpf_dir).with_context(|| format!("cannot unmount {}", self.bpf_dir.display()))?;
            removed = fs::remove_dir(&self.bpf_dir);
        }
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.bpf_dir.display()))
            }
            _ => Ok(()),
        }
    }

    fn maps(&self) -> PathBuf {
        self.bpf_dir.join(LAYOUT).join("maps")
    }

    fn programs(&self) -> PathBuf {
        self.bpf_dir.join(LAYOUT).join("programs")
    }

    fn links(&self) -> PathBuf {
        self.bpf_dir.join(LAYOUT).join("links")
    }

    fn qdiscs(&self) -> PathBuf {
        self.bpf_dir.join(LAYOUT).join("qdiscs")
    }

    fn qdisc(&self, index: u32) -> PathBuf {
        self.qdiscs().join(index.to_string())
    }
}

/// Detaches and removes what is pinned in a layout's directory; what there was.
fn remove_layout(layout: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for name in listed(&layout.join("links"))? {
        let path = layout.join("links").join(name);
        Pins::unpin(&path)?;
        removed.push(path);
    }
    for directory in ["programs", "maps"].map(|directory| layout.join(directory)) {
        for path in listed(&directory)?.into_iter().map(|name| directory.join(name)) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            removed.push(path);
        }
    }
    fs::remove_dir_all(layout).with_context(|| format!("cannot remove {}", layout.display()))?;
    Ok(removed)
}

fn listed(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("cannot list {}", directory.display()))?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn is_layout(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

fn parse(name: &str) -> Option<(u32, Hook)> {
    let (hook, index) = name.split_once('@')?;
    let hook = Hook::OF_DEVICES.into_iter().find(|known| known.name() == hook)?;
    Some((index.parse().ok()?, hook))
}

fn parse_resolver(name: &str) -> Option<u64> {
    let (hook, inode) = name.split_once('@')?;
    (hook == Hook::DnsLo.name()).then(|| inode.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_tells_its_hook_and_device() {
        let pins = Pins::existing("/pins".into());
        let path = pins.link(Hook::ToUplink, 7);

        assert_eq!(path, Path::new("/pins").join(LAYOUT).join("links/to_uplink@7"));
        assert_eq!(parse("to_uplink@7"), Some((7, Hook::ToUplink)));
        assert_eq!(parse("to_nowhere@7"), None);
    }

    #[test]
    fn a_pin_of_the_resolver_tells_its_namespace() {
        let path = Pins::existing("/pins".into()).resolver(4_026_532_345);

        assert_eq!(path, Path::new("/pins").join(LAYOUT).join("links/dns_lo@4026532345"));
        assert_eq!(parse_resolver("dns_lo@4026532345"), Some(4_026_532_345));
        assert_eq!((parse_resolver("to_uplink@7"), parse("dns_lo@7")), (None, None));
    }
}
