//! Commands of bpf(2) as aya does not have them: a whole map at a time, what a pinned link is attached to, and a run of a program
//! by another thread.

use std::{
    ffi::CString,
    io,
    mem::{self, MaybeUninit},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::{
    Pod,
    maps::{IterableMap, MapData},
};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};
use nix::libc;

/// Where a batch begins: the number of a bucket in a hash map, the key of the last entry before it in other maps.
type Place = [u64; 8];

/// Entries that are asked for at a time: a hash map wants room for the fullest of its buckets.
const BATCH: u32 = 4096;

/// Every entry of a map. One that is written meanwhile is told as before or as after; a hash map may tell one twice.
pub fn entries<K: Pod, V: Pod>(map: &impl IterableMap<K, V>) -> io::Result<Vec<(K, V)>> {
    let (mut found, mut walk) = (Vec::new(), Walk::default());
    loop {
        found.extend(walk.next(map, BATCH)?);
        if walk.is_at_the_beginning() {
            return Ok(found);
        }
    }
}

/// Writes entries into a map, each in place of what its key had. Where it fails some of them may be written.
pub fn put<K: Pod, V: Pod>(map: &impl IterableMap<K, V>, keys: &[K], values: &[V]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "each key has its value");
    let mut attr = zeroed();
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = u32::try_from(keys.len()).map_err(io::Error::other)?;
    attr.batch.map_fd = map.map().fd().as_fd().as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// How far a map is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk(Option<Place>);

impl Walk {
    /// Whether nothing is read yet, or everything: the next part is the first one.
    pub const fn is_at_the_beginning(&self) -> bool {
        self.0.is_none()
    }

    /// Of a hash map, whose place is the number of a bucket (`__htab_map_lookup_and_delete_batch`): how many of them are read; 0 at
    /// the beginning.
    pub fn buckets(&self) -> u64 {
        self.0.map_or(0, |[first, ..]| {
            let [a, b, c, d, ..] = first.to_ne_bytes();
            u32::from_ne_bytes([a, b, c, d]).into()
        })
    }

    /// The next part of a map, of at most `count` entries, or more where one bucket of a hash map has more.
    pub fn next<K: Pod, V: Pod>(&mut self, map: &impl IterableMap<K, V>, count: u32) -> io::Result<Vec<(K, V)>> {
        const { assert!(size_of::<K>() <= size_of::<Place>(), "the kernel writes a key there") };
        let map = map.map();
        let (mut room, mut next) = (count, Place::default());
        loop {
            let mut keys = vec![MaybeUninit::<K>::uninit(); room as usize];
            let mut values = vec![MaybeUninit::<V>::uninit(); room as usize];
            let (count, answer) = batch(map, self.0.as_mut(), &mut next, &mut keys, &mut values);
            match answer.as_ref().map_err(io::Error::raw_os_error) {
                Ok(()) | Err(Some(libc::ENOENT)) => {
                    self.0 = answer.is_ok().then_some(next);
                    let entries = keys.into_iter().zip(values).take(count as usize);
                    // SAFETY: the kernel has written the first `count` of both, and any bytes are a value of a `Pod`.
                    return Ok(entries.map(|(k, v)| unsafe { (k.assume_init(), v.assume_init()) }).collect());
                }
                // A bucket that has more entries than there is room for.
                Err(Some(libc::ENOSPC)) if room < map.info().map_or(0, |info| info.max_entries()) => room *= 4,
                Err(_) => return answer.map(|()| Vec::new()),
            }
        }
    }
}

/// What one BPF_MAP_LOOKUP_BATCH brought: how many entries, and whether they are the last ones (ENOENT).
fn batch<K, V>(
    map: &MapData,
    from: Option<&mut Place>,
    next: &mut Place,
    keys: &mut [MaybeUninit<K>],
    values: &mut [MaybeUninit<V>],
) -> (u32, io::Result<()>) {
    let mut attr = zeroed();
    attr.batch.in_batch = from.map_or(0, |from| from as *mut Place as u64);
    attr.batch.out_batch = next as *mut Place as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = keys.len() as u32;
    attr.batch.map_fd = map.fd().as_fd().as_raw_fd() as u32;
    let answer = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr).map(drop);
    // SAFETY: the union's member that was written; the kernel counts in it.
    (unsafe { attr.batch.count }, answer)
}

/// The index of the device that the TCX or XDP link pinned at `path` is attached to; none where it was detached, or the
/// device is gone.
pub fn device_of_link(path: &Path) -> io::Result<Option<u32>> {
    let info = about_link(path)?;
    // SAFETY: the links pinned there are TCX's and XDP's, which both have it first; of another, any number is a valid one.
    let index = unsafe { info.__bindgen_anon_1.tcx.ifindex };
    Ok((index != 0).then_some(index))
}

/// Whether the link pinned at `path` is one of a cgroup, and attached: not detached, and its cgroup not gone.
pub fn is_on_a_cgroup(path: &Path) -> io::Result<bool> {
    let info = about_link(path)?;
    // SAFETY: the union's member for a link of this type; of another, any number is a valid one.
    Ok(info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32
        && unsafe { info.__bindgen_anon_1.cgroup.cgroup_id } != 0)
}

/// What the kernel tells of the link pinned at `path`.
fn about_link(path: &Path) -> io::Result<bpf_link_info> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: a descriptor that the kernel has just made, and that nothing else has.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };

    // SAFETY: integers only, for which zeros are valid.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Runs a program once on a packet; what it returned.
pub fn run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attr = zeroed();
    attr.test.prog_fd = program.as_raw_fd() as u32;
    attr.test.data_in = packet.as_ptr() as u64;
    attr.test.data_size_in = packet.len() as u32;
    attr.test.repeat = 1;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the union's member that was written; the kernel has answered in it.
    Ok(unsafe { attr.test.retval })
}

fn zeroed() -> bpf_attr {
    // SAFETY: integers only, for which zeros are valid.
    unsafe { mem::zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` lives through the call, and every pointer in it leads to what its caller holds.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<bpf_attr>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aya::maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key};

    use super::*;
    use crate::testing::on_a_host_of_its_own;

    #[test]
    fn entries_that_are_written_at_once_are_there_in_place_of_what_was() {
        on_a_host_of_its_own(async |_| {
            let mut trie = LpmTrie::<MapData, u32, u64>::create(10_000, 1).unwrap();
            trie.insert(&Key::new(32, 7), 1, 0).unwrap();
            let values: Vec<_> = (0..10_000_u64).map(|number| number << 32).collect();
            let keys: Vec<_> = (0..10_000).map(|number| Key::new(32, number)).collect();

            put(&trie, &keys, &values).unwrap();

            assert_eq!(entries(&trie).unwrap().len(), values.len());
            assert_eq!(trie.get(&Key::new(32, 7), 0).unwrap(), 7 << 32);
            put(&trie, &[Key::new(32, 10_001)], &[1]).unwrap_err();
        });
    }

    #[test]
    fn a_map_of_many_batches_is_read_whole() {
        on_a_host_of_its_own(async |_| {
            let count = BATCH * 3 + 7;
            let mut hash = HashMap::<MapData, u32, u64>::create(count, 0).unwrap();
            let mut array = Array::<MapData, u64>::create(count, 0).unwrap();
            let mut trie = LpmTrie::<MapData, u32, u64>::create(count, 1).unwrap();
            for number in 0..count {
                trie.insert(&Key::new(32, number), u64::from(number) << 32, 0).unwrap();
                hash.insert(number, u64::from(number) << 32, 0).unwrap();
                array.set(number, u64::from(number) << 32, 0).unwrap();
            }
            let whole: BTreeMap<u32, u64> = (0..count).map(|number| (number, u64::from(number) << 32)).collect();

            assert_eq!(entries(&hash).unwrap().into_iter().collect::<BTreeMap<_, _>>(), whole);
            let keys = |all: Vec<(Key<u32>, u64)>| -> BTreeMap<u32, u64> {
                all.into_iter().map(|(key, value)| (key.data(), value)).collect()
            };
            assert_eq!(keys(entries(&trie).unwrap()), whole);
            assert_eq!(entries(&array).unwrap().into_iter().collect::<BTreeMap<_, _>>(), whole);
            assert_eq!(entries(&HashMap::<MapData, u32, u64>::create(8, 0).unwrap()).unwrap(), []);
        });
    }
}
