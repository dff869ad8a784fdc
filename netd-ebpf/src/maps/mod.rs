//! The BPF maps. `packets` is what a packet sees of them, `doors` what a socket's call and a frame see; `flow` copies and ends an
//! element of the flow table while other CPUs use it, `clock` tells the time, and `ask` has the questions to the kernel's own tables.

mod ask;
mod clock;
mod doors;
mod flow;
mod packets;

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue, RingBuf, lpm_trie::Key},
};
use netd_common::{
    evict::FOLLOW,
    tables::{
        AllowanceKey, CURSORS, Counters, DEVICE_SLOTS, Device, Dialled, DialledKey, Endpoint, EndpointKey, Flow,
        Fragment, FragmentKey, Hook, Instant, Led, MeshEnd, Orphans, PeerKey, Publication, PublicationKey, Remote,
        RemoteKey, ReservedPorts, SEARCHES, Scratch, Segment, Settings, SourceKey, Station, StationKey, VtepKey,
    },
    tuple::{Address, Tuple},
};

pub use self::{
    doors::{Early, Sockets},
    packets::Maps,
};

/// What a publication's bits count into.
type Place = [u8; PublicationKey::PLACE];
/// What a source's bits count into.
type SourcePlace = [u8; SourceKey::PLACE];

const HOOKS: u32 = Hook::ALL.len() as u32;

// The sizes of the hash maps are the daemon's to say when it creates them.
#[map]
static FLOWS: HashMap<Tuple, Flow> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);
#[map]
static DEVICES: Array<Device> = Array::with_max_entries(DEVICE_SLOTS, BPF_F_MMAPABLE);
#[map]
static DEVICES_FAR: HashMap<u32, Device> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
#[map]
static ENDPOINTS: HashMap<EndpointKey, Endpoint> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static PUBLICATIONS: LpmTrie<Place, Publication> = LpmTrie::with_max_entries(65_536, 0);
#[map]
static SOURCES: LpmTrie<SourcePlace, u8> = LpmTrie::with_max_entries(65_536, 0);
#[map]
static ALLOWANCES: HashMap<AllowanceKey, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map(name = "CURSORS")]
static CURSORS_USED: Array<u32> = Array::with_max_entries(CURSORS, 0);
#[map]
static WAYS: Array<Instant> = Array::with_max_entries(1, 0);
#[map]
static RESERVED: Array<ReservedPorts> = Array::with_max_entries(1, 0);
#[map]
static GUARD: Array<u32> = Array::with_max_entries(1, 0);
#[map(name = "SEARCHES")]
static SEARCHES_MADE: PerCpuArray<u64> = PerCpuArray::with_max_entries(SEARCHES, 0);
#[map]
static AGES: Queue<Tuple> = Queue::with_max_entries(262_144, 0);
// Whoever finds it full asks again a tick later.
#[map]
static UNFOLLOWED: RingBuf = RingBuf::with_byte_size(1 << 18, 0);
// Least recently used first: a lost entry costs one packet, a full table would cost every one.
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Fragment> = LruHashMap::with_max_entries(8_192, 0);
// Apart from those of packets that are known: what anybody may send from outside takes no place of theirs.
#[map]
static ORPHANS: LruHashMap<FragmentKey, Orphans> = LruHashMap::with_max_entries(1_024, 0);
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(HOOKS, 0);
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(HOOKS + 2, 0);

// Networks that span hosts. Least recently used first, of what is learned: a lost station costs a flood.
#[map]
static SEGMENTS: HashMap<u32, Segment> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
static REMOTES: HashMap<RemoteKey, Remote> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);
#[map]
static VTEPS: HashMap<VtepKey, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static MESH: HashMap<EndpointKey, MeshEnd> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static PEERS: HashMap<PeerKey, Address> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static STATIONS: LruHashMap<StationKey, Station> = LruHashMap::with_max_entries(65_536, 0);

// One byte for each address.
#[map]
static HOST_ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
// What a TCP socket dialled goes with it. One of UDP may have dialled many, and the kernel does not list what is kept with it: the
// oldest goes first.
#[btf_map]
static LED: SkStorage<Led> = SkStorage::new();
#[map]
static DIALLED: LruHashMap<DialledKey, Dialled> = LruHashMap::with_max_entries(65_536, 0);

/// This CPU's scratch of a hook.
#[inline(always)]
pub fn scratch(hook: u32) -> Option<&'static mut Scratch> {
    // SAFETY: a hook does not interrupt itself on a CPU, and no other program uses its element. A chapter has it while its hook,
    // which has handed it over, waits for the answer.
    SCRATCH.get_ptr_mut(hook).map(|s| unsafe { &mut *s })
}

/// This CPU's scratch of an order of the daemon's, whose program interrupts hooks and is interrupted by them.
#[inline(always)]
pub fn orders_scratch(which: u32) -> Option<&'static mut Scratch> {
    let element = if which == FOLLOW { HOOKS + 1 } else { HOOKS };
    // SAFETY: the daemon runs one collector at a time and one follower, and no other program uses their elements.
    SCRATCH.get_ptr_mut(element).map(|s| unsafe { &mut *s })
}

/// This CPU's counters of a hook.
#[inline(always)]
pub fn counters(hook: Hook) -> Option<&'static mut Counters> {
    // SAFETY: as for the scratch; the daemon only reads.
    COUNTERS.get_ptr_mut(hook as u32).map(|c| unsafe { &mut *c })
}

#[inline(always)]
fn device(ifindex: u32) -> Option<&'static Device> {
    let near = DEVICES.get(Device::slot(ifindex))?;
    if near.ifindex == ifindex {
        return Some(near);
    }
    // SAFETY: records are replaced by the daemon as a whole; a reader may see parts of two of one device.
    unsafe { DEVICES_FAR.get(ifindex) }
}

#[inline(always)]
fn settings() -> Option<&'static Settings> {
    let settings = SETTINGS.get(0)?;
    (settings.secret != [0, 0]).then_some(settings)
}

#[inline(always)]
fn flow_into(key: &Tuple, into: &mut Flow) -> bool {
    let Some(found) = FLOWS.get_ptr(key) else { return false };
    // SAFETY: the element stays mapped through the program run; `check` tells if it became another's meanwhile.
    unsafe { flow::copy(found.cast(), ptr::from_mut(into).cast()) };
    true
}

#[inline(always)]
fn segment(vni: u32) -> Option<&'static Segment> {
    // SAFETY: as for devices.
    unsafe { SEGMENTS.get(vni) }
}

#[inline(always)]
fn mesh_end(key: &EndpointKey) -> Option<&'static MeshEnd> {
    // SAFETY: as for devices.
    unsafe { MESH.get(key) }
}

#[inline(always)]
fn now() -> Instant {
    clock::now()
}

#[inline(always)]
fn published(key: &PublicationKey) -> Option<&'static Publication> {
    // SAFETY: the key is laid out as the trie's, a number of bits and the bytes they count into, and less aligned.
    let key = unsafe { &*ptr::from_ref(key).cast::<Key<Place>>() };
    PUBLICATIONS.get(key)
}

#[inline(always)]
fn is_source(key: &SourceKey) -> bool {
    // SAFETY: as for publications.
    let key = unsafe { &*ptr::from_ref(key).cast::<Key<SourcePlace>>() };
    SOURCES.get(key).is_some()
}
