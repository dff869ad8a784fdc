//! What memory is taken: by a flow, by netd's maps, by its daemon.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use aya::maps::loaded_maps;
use netd_tests::lab::{Host, Netd};

/// The kernel's objects of which flows are made, by their caches: how many are in use, and the size of one. BPF's hash maps without
/// preallocation take theirs from the general caches; nf_conntrack has one of its own and takes a flow's extensions, as that of NAT,
/// from the general ones.
pub struct Objects(BTreeMap<String, (u64, u64)>);

impl Objects {
    /// Those there are.
    pub fn now() -> Result<Self> {
        let table = fs::read_to_string("/proc/slabinfo").context("the kernel tells no sizes of its objects")?;
        Ok(Self::read(&table))
    }

    fn read(table: &str) -> Self {
        let ours = |line: &&str| line.starts_with("kmalloc-") || line.starts_with("nf_conntrack ");
        let row = |line: &str| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            let active = words.next()?.parse().ok()?;
            Some((name, (active, words.nth(1)?.parse().ok()?)))
        };
        Self(table.lines().filter(ours).filter_map(row).collect())
    }

    /// Bytes that one of so many flows has taken since `before`. A flow takes whole objects: what else a cache has grown by, somebody
    /// else has used.
    pub fn bytes_a_flow_since(&self, before: &Self, flows: u32) -> u64 {
        let grown = |(name, (active, size)): (&String, &(u64, u64))| {
            let objects = active.saturating_sub(before.0.get(name).map_or(0, |(active, _)| *active));
            (objects + u64::from(flows / 2)) / u64::from(flows) * size
        };
        self.0.iter().map(grown).sum()
    }
}

/// A map of the daemon's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapMemory {
    /// Bytes, as the kernel accounts for it.
    pub bytes: u64,
    /// Entries it has room for.
    pub entries: u64,
}

/// The maps that the daemon holds open, by their names.
pub fn maps(host: &Host, netd: &Netd) -> Result<BTreeMap<String, MapMemory>> {
    let open = host.path(format!("/proc/{}/fdinfo", netd.id()));
    let mut told = BTreeMap::new();
    for file in fs::read_dir(&open).with_context(|| format!("cannot read {}", open.display()))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(file?.path()) else { continue };
        told.extend(map_of(&text));
    }
    let mut maps = BTreeMap::new();
    for map in loaded_maps() {
        // Others come and go on the machine while they are listed.
        let Ok(map) = map else { continue };
        if let Some(memory) = told.remove(&map.id()) {
            maps.insert(map.name_as_str().unwrap_or("unnamed").to_owned(), memory);
        }
    }
    Ok(maps)
}

fn map_of(descriptor: &str) -> Option<(u32, MapMemory)> {
    let field = |name: &str| descriptor.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let id = field("map_id:")?.try_into().ok()?;
    Some((id, MapMemory { bytes: field("memlock:")?, entries: field("max_entries:")? }))
}

/// Bytes of the daemon's that are in memory (`VmRSS`), of which its anonymous ones are its own (`RssAnon`).
pub struct Resident {
    /// All, its binary's mapped pages included.
    pub all: u64,
    /// Those that no file has.
    pub own: u64,
}

/// What the daemon has in memory.
pub fn resident(host: &Host, netd: &Netd) -> Result<Resident> {
    let status = host.path(format!("/proc/{}/status", netd.id()));
    let status = fs::read_to_string(&status).context("the kernel does not tell of the daemon")?;
    resident_of(&status).context("the kernel tells no memory of the daemon")
}

fn resident_of(status: &str) -> Option<Resident> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Resident { all: field("VmRSS:")?, own: field("RssAnon:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_in_use_are_counted_with_their_sizes_and_those_of_others_are_not() {
        let table = |conntrack, general, tables| {
            Objects::read(&format!(
                "slabinfo - version: 2.1\n\
                 # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables\n\
                 nf_conntrack          {conntrack}  5000    256   16    1 : tunables    0    0    0 : slabdata  1  1  0\n\
                 nf_conntrack_expect   7000  7000    256   16    1 : tunables    0    0    0 : slabdata      1      1      0\n\
                 dma-kmalloc-192       5000  5000    192   21    1 : tunables    0    0    0 : slabdata      1      1      0\n\
                 kmalloc-192           {general}  5000    192   21    1 : tunables    0    0    0 : slabdata  1  1  0\n\
                 kmalloc-4k            {tables}  500    4096   8    8 : tunables    0    0    0 : slabdata  1  1  0\n"
            ))
        };

        let before = table(10, 300, 20);

        for (conntrack, general) in [(1010, 2300), (1013, 2299), (990, 2391)] {
            let after = table(conntrack, general, 60);
            assert_eq!(after.bytes_a_flow_since(&before, 1000), 256 + 2 * 192, "{conntrack}, {general}");
        }
    }

    #[test]
    fn a_map_is_told_from_other_descriptors() {
        let map = "pos:\t0\nmap_type:\t1\nmax_entries:\t65536\nmemlock:\t6292800\nmap_id:\t7\n";

        assert_eq!(map_of(map), Some((7, MapMemory { bytes: 6_292_800, entries: 65_536 })));
        assert_eq!(map_of("prog_type:\t3\nmemlock:\t4096\nprog_id:\t7\n"), None);
    }

    #[test]
    fn resident_memory_is_told_in_bytes() {
        let told = resident_of("Name:\tnetd\nVmRSS:\t   20480 kB\nRssAnon:\t    6144 kB\n").expect("both are there");

        assert_eq!((told.all, told.own), (20 << 20, 6 << 20));
    }
}
