//! The BPF maps as [`Tables`].

use core::{arch::asm, ffi::c_void, ops::ControlFlow, ptr, ptr::NonNull};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_loop, bpf_map_pop_elem},
};
use netd_common::{
    conntrack::{self, Noted},
    firewall,
    tables::{
        AllowanceKey, ClaimError, Device, Endpoint, EndpointKey, Flow, Fragment, FragmentKey, Hook, Instant, MeshEnd,
        NextHop, Orphans, PeerKey, Publication, PublicationKey, Publications, Remote, RemoteKey, Route, Segment,
        Settings, SourceKey, Station, StationKey, Tables, VtepKey,
    },
    tuple::{Address, Tuple},
    verdict::DropReason,
};

use super::{
    AGES, ALLOWANCES, CURSORS_USED, ENDPOINTS, FLOWS, FRAGMENTS, GUARD, HOST_ADDRESSES, ORPHANS, PEERS, REMOTES,
    RESERVED, SEARCHES_MADE, STATIONS, UNFOLLOWED, VTEPS, WAYS,
    ask::{has_connected, has_socket, has_socket_at, route},
    counters, device,
    flow::{copy, end, revive},
    is_source, mesh_end, now, published, segment, settings,
};

const BPF_NOEXIST: u64 = 1;
const ENOENT: i32 = -2;

/// All of them, as a packet in hand sees them.
pub struct Maps {
    skb: *mut __sk_buff,
}

impl Maps {
    /// The maps for the packet of this context.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }
}

impl Publications for Maps {
    #[inline(always)]
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        published(question)
    }
}

impl Tables for Maps {
    type Place = NonNull<Flow>;

    #[inline(always)]
    fn now(&self) -> Instant {
        now()
    }

    #[inline(always)]
    fn device(&self, ifindex: u32) -> Option<&Device> {
        device(ifindex)
    }

    #[inline(always)]
    fn is_hosts(&self, address: &Address) -> bool {
        HOST_ADDRESSES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint> {
        // SAFETY: records are replaced by the daemon as a whole; a reader may see parts of two of one container.
        unsafe { ENDPOINTS.get(key) }
    }

    #[inline(always)]
    fn is_source(&self, key: &SourceKey) -> bool {
        is_source(key)
    }

    #[inline(always)]
    fn allows(&self, key: &AllowanceKey) -> bool {
        ALLOWANCES.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn segment(&self, vni: u32) -> Option<&Segment> {
        segment(vni)
    }

    #[inline(always)]
    fn remote(&self, key: &RemoteKey) -> Option<&Remote> {
        // SAFETY: as for containers.
        unsafe { REMOTES.get(key) }
    }

    #[inline(always)]
    fn is_vtep(&self, key: &VtepKey) -> bool {
        VTEPS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn mesh_end(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        mesh_end(key)
    }

    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<&Address> {
        // SAFETY: as for containers.
        unsafe { PEERS.get(key) }
    }

    #[inline(always)]
    fn station(&self, key: &StationKey, station: &mut Station) -> bool {
        let Some(found) = STATIONS.get_ptr(key) else { return false };
        // SAFETY: the element stays mapped through the program run; another's would lead to one of the peers all the same.
        *station = unsafe { *found };
        true
    }

    #[inline(always)]
    fn keep_station(&self, key: &StationKey, station: &Station) {
        // Without it what is for the station is flooded.
        let _ = STATIONS.insert(key, station, 0);
    }

    #[inline(always)]
    fn count_drop(&self, hook: Hook, reason: DropReason) {
        if let Some(counter) = counters(hook).and_then(|counters| counters.dropped.get_mut(reason as usize)) {
            *counter = counter.wrapping_add(1);
        }
    }

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        settings()
    }

    #[inline(always)]
    fn cursor(&self, bucket: u32) -> u32 {
        let Some(cursor) = CURSORS_USED.get_ptr_mut(bucket) else { return 0 };
        // SAFETY: an element of the array. Two CPUs may read the same number: then one of them probes once more.
        unsafe {
            let next = (*cursor).wrapping_add(1);
            *cursor = next;
            next
        }
    }

    #[inline(always)]
    fn is_reserved(&self, port: u16) -> bool {
        RESERVED.get(0).is_some_and(|reserved| reserved.contains(port))
    }

    #[inline(always)]
    fn guards(&self) -> bool {
        GUARD.get(0).is_some_and(|guard| *guard != 0)
    }

    #[inline(always)]
    fn start_guarding(&self) {
        // It is there: the array has it.
        let _ = GUARD.set(0, 1u32, 0);
    }

    #[inline(always)]
    fn count_search(&self, tried: u32) {
        let Some(searches) = SEARCHES_MADE.get_ptr_mut(tried) else { return };
        // SAFETY: this CPU's element; a hook that interrupts another's count may lose one.
        unsafe { *searches = (*searches).wrapping_add(1) };
    }

    #[inline(always)]
    fn claim(&self, key: &Tuple, flow: &Flow) -> Result<(), ClaimError> {
        FLOWS.insert(key, flow, BPF_NOEXIST).map_err(ClaimError::of)
    }

    #[inline(always)]
    fn release(&self, key: &Tuple) {
        remove(key);
    }

    #[inline(always)]
    fn release_seen(&self, key: &Tuple, seen: &Flow) -> bool {
        let Some(stored) = FLOWS.get_ptr_mut(key) else { return false };
        // SAFETY: the element stays mapped.
        let taken = unsafe { (*stored).is_still(seen) && end(stored, seen) };
        if taken && !remove(key) {
            // What is ending nobody takes out: a later look finds it as it was.
            // SAFETY: the element stays mapped.
            unsafe { revive(stored, seen) };
            return false;
        }
        taken
    }

    #[inline(always)]
    fn place(&self, key: &Tuple) -> Option<NonNull<Flow>> {
        FLOWS.get_ptr_mut(key).and_then(NonNull::new)
    }

    #[inline(always)]
    fn read(&self, place: NonNull<Flow>, flow: &mut Flow) {
        // SAFETY: the element stays mapped through the program run; `check` tells if it became another's meanwhile.
        unsafe { copy(place.as_ptr().cast(), ptr::from_mut(flow).cast()) };
    }

    #[inline(always)]
    fn note(&self, place: NonNull<Flow>, noted: &Flow, direction: u8) -> Noted {
        // SAFETY: the element stays mapped; `write_note` writes only if it is still the flow's.
        conntrack::write_note(unsafe { &mut *place.as_ptr() }, noted, direction)
    }

    #[inline(always)]
    fn put_passage(&self, key: &Tuple, flow: &Flow) {
        let Some(stored) = FLOWS.get_ptr_mut(key) else { return };
        // SAFETY: the element stays mapped; `write_passage` writes only if it is still this key's.
        firewall::write_passage(unsafe { &mut *stored }, flow);
    }

    #[inline(always)]
    fn ask_to_follow(&self, key: &Tuple) {
        let _ = UNFOLLOWED.output::<Tuple>(key, 0);
    }

    #[inline(always)]
    fn put_youngest(&self, key: &Tuple) -> bool {
        AGES.push(key, 0).is_ok()
    }

    #[inline(always)]
    fn take_oldest(&self, key: &mut Tuple) -> bool {
        // SAFETY: the helper writes a whole tuple or returns an error.
        unsafe { bpf_map_pop_elem((&raw const AGES).cast_mut().cast(), ptr::from_mut(key).cast()) == 0 }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey, fragment: &mut Fragment) -> bool {
        let Some(found) = FRAGMENTS.get_ptr(key) else { return false };
        // SAFETY: the element stays mapped through the program run.
        *fragment = unsafe { *found };
        true
    }

    #[inline(always)]
    fn keep_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        // Without it the later fragments are of no flow, which is what becomes of them then.
        let _ = FRAGMENTS.insert(key, fragment, 0);
    }

    #[inline(always)]
    fn orphans(&self, key: &FragmentKey, orphans: &mut Orphans) -> bool {
        let Some(found) = ORPHANS.get_ptr(key) else { return false };
        // SAFETY: the element stays mapped through the program run.
        *orphans = unsafe { *found };
        true
    }

    #[inline(always)]
    fn keep_orphans(&self, key: &FragmentKey, orphans: Orphans) {
        // Without it a loss is not counted.
        let _ = ORPHANS.insert(key, orphans, 0);
    }

    #[inline(always)]
    fn count_lost(&self, reason: DropReason, count: u32) {
        if let Some(counter) = counters(Hook::FromUplink).and_then(|c| c.dropped.get_mut(reason as usize)) {
            *counter = counter.wrapping_add(count.into());
        }
    }

    #[inline(always)]
    fn repeat<F: FnMut() -> ControlFlow<()>>(&self, times: u32, mut round: F) {
        // SAFETY: the helper calls `once::<F>` with the pointer to the closure, which outlives the call.
        unsafe { bpf_loop(times, once::<F> as *mut c_void, (&raw mut round).cast(), 0) };
    }

    #[inline(always)]
    fn has_socket(&self, tuple: &Tuple) -> bool {
        has_socket(self.skb, tuple)
    }

    #[inline(always)]
    fn has_connected(&self, tuple: &Tuple) -> bool {
        has_connected(self.skb.cast(), tuple)
    }

    #[inline(always)]
    fn has_socket_at(&self, tuple: &Tuple) -> bool {
        has_socket_at(self.skb, tuple)
    }

    #[inline(always)]
    fn route(&self, input: u32, mark: u32, tuple: &Tuple, next: &mut NextHop) -> Route {
        route(self.skb, input, mark, tuple, next)
    }

    #[inline(always)]
    fn ways_changed(&self) -> Instant {
        // It is there: the array has it.
        WAYS.get(0).copied().unwrap_or_default()
    }
}

/// Takes a flow out of the table. False if it is still there.
#[inline(always)]
fn remove(key: &Tuple) -> bool {
    let is_there = |answer: Result<(), i32>| answer.is_err_and(|error| error != ENOENT);
    // Only a bucket that another holds makes it fail otherwise: EBUSY, from 6.15 on EDEADLK or ETIMEDOUT.
    !is_there(FLOWS.remove(key)) || !is_there(FLOWS.remove(key))
}

/// One round of a `bpf_loop`: 1 ends it.
unsafe extern "C" fn once<F: FnMut() -> ControlFlow<()>>(_: u32, round: *mut c_void) -> i64 {
    // SAFETY: `repeat` passes its closure.
    let round = unsafe { &mut *round.cast::<F>() };
    let mut ends = i64::from(round().is_break());
    // A truth value that LLVM keeps in memory is a byte to the verifier, which wants 0 or 1.
    // SAFETY: one arithmetic instruction on a register of ours.
    unsafe { asm!("{ends} &= 1", ends = inout(reg) ends, options(pure, nomem, nostack)) };
    ends
}
