//! The BPF maps as [`Tables`].

use core::{arch::asm, ffi::c_void, mem::offset_of, ops::ControlFlow, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_NO_PREALLOC, bpf_fib_lookup as FibLookup, bpf_fib_lookup__bindgen_ty_1,
        bpf_fib_lookup__bindgen_ty_2, bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4,
        bpf_fib_lookup__bindgen_ty_5, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::{
        bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_loop, bpf_map_pop_elem, bpf_sk_lookup_udp, bpf_sk_release,
        bpf_skc_lookup_tcp,
    },
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue, RingBuf, lpm_trie::Key},
    programs::TcContext,
};
use netd_common::{
    conntrack::{self, Noted},
    evict::FOLLOW,
    firewall, prefilter, sock,
    tables::{
        AllowanceKey, CURSORS, ClaimError, Counters, DEVICE_SLOTS, Device, Dialled, DialledKey, Endpoint, EndpointKey,
        Flow, Fragment, FragmentKey, Hook, Instant, NextHop, Orphans, PeerKey, Publication, PublicationKey, Remote,
        RemoteKey, ReservedPorts, Route, SEARCHES, Scratch, Segment, Settings, SourceKey, Station, StationKey, Tables,
        VtepKey, fib,
    },
    tuple::{Address, TCP, Tuple, UDP},
    verdict::DropReason,
};

/// What a publication's bits count into.
type Place = [u8; PublicationKey::PLACE];
/// What a source's bits count into.
type SourcePlace = [u8; SourceKey::PLACE];

const HOOKS: u32 = Hook::ALL.len() as u32;
const BPF_NOEXIST: u64 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const BPF_FIB_LOOKUP_SKIP_NEIGH: u32 = 4;
/// The network namespace of the packet's device (`BPF_F_CURRENT_NETNS`).
const CURRENT_NETNS: u64 = u64::MAX;
/// Size of the tuple of an IPv4 packet in a socket lookup.
const IPV4_TUPLE: u32 = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
const EINVAL: i64 = -22;
const EBUSY: i32 = -16;
const EEXIST: i32 = -17;
const E2BIG: i32 = -7;

// The sizes of the hash maps are the daemon's to say when it creates them.
#[map]
static FLOWS: HashMap<Tuple, Flow> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);
#[map]
static DEVICES: Array<Device> = Array::with_max_entries(DEVICE_SLOTS, 0);
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
static PEERS: HashMap<PeerKey, Address> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static STATIONS: LruHashMap<StationKey, Station> = LruHashMap::with_max_entries(65_536, 0);

// A question to the kernel's socket tables, which the stack has no room for where it is asked.
#[map]
static SOCKET_QUESTION: PerCpuArray<bpf_sock_tuple> = PerCpuArray::with_max_entries(1, 0);

// The sizes say enough: one byte for each address, and the oldest dialled place goes first.
#[map]
static HOST_ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
static DIALLED: LruHashMap<DialledKey, Dialled> = LruHashMap::with_max_entries(65_536, 0);

/// This CPU's scratch of a hook.
#[inline(always)]
pub fn scratch(hook: Hook) -> Option<&'static mut Scratch> {
    // SAFETY: a hook does not interrupt itself on a CPU, and no other program uses its element.
    SCRATCH.get_ptr_mut(hook as u32).map(|s| unsafe { &mut *s })
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

/// Those that a call of a socket sees.
pub struct Sockets;

impl sock::Tables for Sockets {
    #[inline(always)]
    fn publication(&self, key: &PublicationKey) -> Option<&Publication> {
        publication(key)
    }

    #[inline(always)]
    fn is_source(&self, key: &SourceKey) -> bool {
        is_source(key)
    }

    #[inline(always)]
    fn is_hosts(&self, address: &Address) -> bool {
        HOST_ADDRESSES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn dialled(&self, key: &DialledKey) -> Option<&Dialled> {
        // SAFETY: as for devices; what another socket's call makes of the element tells a wrong name and no more.
        unsafe { DIALLED.get(key) }
    }

    #[inline(always)]
    fn keep_dialled(&self, key: &DialledKey, dialled: &Dialled) {
        // Without it the socket is told the container's own address.
        let _ = DIALLED.insert(key, dialled, 0);
    }
}

/// Those that a frame sees before it is a packet.
pub struct Early;

impl prefilter::Tables for Early {
    #[inline(always)]
    fn publication(&self, key: &PublicationKey) -> Option<&Publication> {
        publication(key)
    }

    #[inline(always)]
    fn is_source(&self, key: &SourceKey) -> bool {
        is_source(key)
    }

    #[inline(always)]
    fn is_hosts(&self, address: &Address) -> bool {
        HOST_ADDRESSES.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn has_flow(&self, tuple: &Tuple) -> bool {
        FLOWS.get_ptr(tuple).is_some()
    }
}

/// All of them, as a packet in hand sees them.
pub struct Maps {
    skb: *mut __sk_buff,
}

impl Maps {
    /// The maps for the packet of this context.
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn now(&self) -> Instant {
        // SAFETY: takes nothing, returns a number.
        Instant::from_ns(unsafe { bpf_ktime_get_coarse_ns() })
    }

    #[inline(always)]
    fn device(&self, ifindex: u32) -> Option<&Device> {
        let near = DEVICES.get(Device::slot(ifindex))?;
        if near.ifindex == ifindex {
            return Some(near);
        }
        // SAFETY: records are replaced by the daemon as a whole; a reader may see parts of two of one device.
        unsafe { DEVICES_FAR.get(ifindex) }
    }

    #[inline(always)]
    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint> {
        // SAFETY: as for devices.
        unsafe { ENDPOINTS.get(key) }
    }

    #[inline(always)]
    fn publication(&self, key: &PublicationKey) -> Option<&Publication> {
        publication(key)
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
        // SAFETY: as for devices.
        unsafe { SEGMENTS.get(vni) }
    }

    #[inline(always)]
    fn remote(&self, key: &RemoteKey) -> Option<&Remote> {
        // SAFETY: as for devices.
        unsafe { REMOTES.get(key) }
    }

    #[inline(always)]
    fn is_vtep(&self, key: &VtepKey) -> bool {
        VTEPS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<&Address> {
        // SAFETY: as for devices.
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
        let settings = SETTINGS.get(0)?;
        (settings.secret != [0, 0]).then_some(settings)
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
    fn flow(&self, key: &Tuple, flow: &mut Flow) -> bool {
        let Some(found) = FLOWS.get_ptr(key) else { return false };
        // SAFETY: the element stays mapped through the program run; `check` tells if it became another's meanwhile.
        unsafe { copy(found.cast(), ptr::from_mut(flow).cast()) };
        true
    }

    #[inline(always)]
    fn claim(&self, key: &Tuple, flow: &Flow) -> Result<(), ClaimError> {
        match FLOWS.insert(key, flow, BPF_NOEXIST) {
            Ok(()) => Ok(()),
            Err(EEXIST) => Err(ClaimError::Taken),
            Err(E2BIG) => Err(ClaimError::Full),
            // EBUSY and ENOMEM, both of the moment.
            Err(_) => Err(ClaimError::Busy),
        }
    }

    #[inline(always)]
    fn release(&self, key: &Tuple) {
        if FLOWS.remove(key) == Err(EBUSY) {
            let _ = FLOWS.remove(key);
        }
    }

    #[inline(always)]
    fn release_seen(&self, key: &Tuple, seen: &Flow) -> bool {
        let Some(stored) = FLOWS.get_ptr_mut(key) else { return false };
        // SAFETY: the element stays mapped.
        let taken = unsafe { (*stored).is_still(seen) && end(stored, seen) };
        if taken {
            self.release(key);
        }
        taken
    }

    #[inline(always)]
    fn note(&self, key: &Tuple, noted: &Flow, direction: u8) -> Noted {
        let Some(stored) = FLOWS.get_ptr_mut(key) else { return Noted::Gone };
        // SAFETY: the element stays mapped; `write_note` writes only if it is still this key's.
        conntrack::write_note(unsafe { &mut *stored }, noted, direction)
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
    fn has_socket_at(&self, tuple: &Tuple) -> bool {
        has_socket_at(self.skb, tuple)
    }

    #[inline(always)]
    fn route(&self, input: u32, tuple: &Tuple, next: &mut NextHop) -> Route {
        route(self.skb, input, tuple, next)
    }
}

#[inline(always)]
fn publication(key: &PublicationKey) -> Option<&'static Publication> {
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

/// Looks for the socket that the answers to `tuple` would reach. Not inlined, as [`route`].
#[inline(never)]
fn has_socket(skb: *mut __sk_buff, tuple: &Tuple) -> bool {
    let (src, dst) = (tuple.dst.words(), tuple.src.words());
    let sport = u16::from_ne_bytes(tuple.dst_port.bytes());
    let dport = u16::from_ne_bytes(tuple.src_port.bytes());
    let Some(answer) = SOCKET_QUESTION.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's element, which nothing interrupts between here and the call.
    let answer = unsafe { &mut *answer };
    let mut size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32;
    let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr: src, daddr: dst, sport, dport };
    answer.__bindgen_anon_1.ipv6 = ipv6;
    if tuple.src.is_v4() {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr: src[3], daddr: dst[3], sport, dport };
        answer.__bindgen_anon_1.ipv4 = ipv4;
        size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
    }
    // SAFETY: the context in hand, and a tuple that lives through the call with its size told; what is found is given back.
    unsafe {
        let socket = match tuple.protocol {
            TCP => bpf_skc_lookup_tcp(skb.cast(), answer, size, CURRENT_NETNS, 0),
            UDP => bpf_sk_lookup_udp(skb.cast(), answer, size, CURRENT_NETNS, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

/// Looks for the socket that a packet with this IPv4 tuple would reach, and whether it is bound to that address.
#[inline(always)]
fn has_socket_at(skb: *mut __sk_buff, tuple: &Tuple) -> bool {
    let (saddr, daddr) = (tuple.src.words()[3], tuple.dst.words()[3]);
    let sport = u16::from_ne_bytes(tuple.src_port.bytes());
    let dport = u16::from_ne_bytes(tuple.dst_port.bytes());
    let mut packet = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr, daddr, sport, dport };
    let bound = match tuple.protocol {
        TCP => tcp_address(skb, &mut packet),
        UDP => udp_address(skb, &mut packet),
        _ => return false,
    };
    bound == u64::from(daddr)
}

/// More than any IPv4 address: no socket.
const NO_SOCKET: u64 = 1 << 32;

/// The address that the TCP socket is bound to which a packet would reach. One function a protocol, not inlined: the verifier
/// refuses one load for both kinds of socket that the two lookups return.
#[inline(never)]
fn tcp_address(skb: *mut __sk_buff, packet: &mut bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1) -> u64 {
    // SAFETY: the context in hand, and a tuple whose size is told; what is found is given back.
    unsafe {
        let socket = bpf_skc_lookup_tcp(skb.cast(), ptr::from_mut(packet).cast(), IPV4_TUPLE, CURRENT_NETNS, 0);
        if socket.is_null() {
            return NO_SOCKET;
        }
        let bound = (*socket).src_ip4;
        bpf_sk_release(socket.cast());
        bound.into()
    }
}

/// The same of a UDP socket.
#[inline(never)]
fn udp_address(skb: *mut __sk_buff, packet: &mut bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1) -> u64 {
    // SAFETY: as above.
    unsafe {
        let socket = bpf_sk_lookup_udp(skb.cast(), ptr::from_mut(packet).cast(), IPV4_TUPLE, CURRENT_NETNS, 0);
        if socket.is_null() {
            return NO_SOCKET;
        }
        let bound = (*socket).src_ip4;
        bpf_sk_release(socket.cast());
        bound.into()
    }
}

/// Asks the kernel's routing. Not inlined: its parameters would lie on the stack of every caller.
#[inline(never)]
fn route(skb: *mut __sk_buff, input: u32, tuple: &Tuple, next: &mut NextHop) -> Route {
    let mut question = lookup(input, tuple);
    let mut result = ask(skb, &mut question, BPF_FIB_LOOKUP_SKIP_NEIGH);
    if result == EINVAL {
        // Kernels before 6.3 do not know the flag.
        result = ask(skb, &mut question, 0);
    }
    let route = Route::of_fib(result);
    if route == Route::Forward {
        // Without a neighbour the MTU is not filled in.
        let mtu = if result == fib::SUCCESS { mtu(&question) } else { 0 };
        *next = NextHop::neighbour(question.ifindex, mtu, gateway(&question));
    }
    route
}

#[inline(always)]
fn ask(skb: *mut __sk_buff, question: &mut FibLookup, flags: u32) -> i64 {
    // SAFETY: the context in hand, and parameters that live through the call with their size told.
    unsafe { bpf_fib_lookup(skb.cast(), question, size_of::<FibLookup>() as i32, flags) }
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

/// Sets the deadline of a stored flow to the beginning of time, if both its times are what was seen: of two CPUs that end a
/// flow one does.
///
/// # Safety
///
/// `stored` points to a flow that stays mapped.
#[inline(always)]
unsafe fn end(stored: *mut Flow, seen: &Flow) -> bool {
    const { assert!(offset_of!(Flow, deadline) == offset_of!(Flow, last_seen) + 4 && offset_of!(Flow, last_seen) % 8 == 0) };
    let seen: *const u64 = (&raw const seen.last_seen).cast();
    // SAFETY: two words beside each other, aligned as one, of a flow of ours.
    let seen = unsafe { seen.read() };
    let mut found = seen;
    // SAFETY: a compare and exchange of the two words of the caller's flow. The language has none for this target.
    unsafe {
        let times = &raw mut (*stored).last_seen;
        asm!("r0 = cmpxchg_64({times} + 0, r0, {none})", times = in(reg) times, none = in(reg) 0u64,
            inout("r0") found, options(nostack));
    }
    found == seen
}

/// Words of a flow.
const FLOW_WORDS: usize = size_of::<Flow>() / size_of::<u64>();

/// Copies a flow word by word. Volatile, since another CPU may be writing it, and since LLVM would make a call of it to a
/// `memcpy` that counts bytes.
#[inline(always)]
unsafe fn copy(from: *const u64, to: *mut u64) {
    for i in 0..FLOW_WORDS {
        // SAFETY: the caller's two flows are this long and aligned to words.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

/// The question to the kernel's routing. A length of one byte asks for the route's MTU and never exceeds it.
#[inline(always)]
fn lookup(input: u32, tuple: &Tuple) -> FibLookup {
    let (src, dst) = (tuple.src.words(), tuple.dst.words());
    let mut fib = FibLookup {
        family: AF_INET6,
        l4_protocol: tuple.protocol,
        sport: u16::from_ne_bytes(tuple.src_port.bytes()),
        dport: u16::from_ne_bytes(tuple.dst_port.bytes()),
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 1 },
        ifindex: input,
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: src },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: dst },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    if tuple.dst.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = src[3];
        fib.__bindgen_anon_4.ipv4_dst = dst[3];
    }
    fib
}

/// The neighbour of the answer: the destination itself where it is on the link. IPv4 may go by an IPv6 neighbour (RFC 5549).
#[inline(always)]
fn gateway(fib: &FibLookup) -> Address {
    // SAFETY: `family` says which member the kernel filled in; both are plain bytes.
    unsafe {
        if fib.family == AF_INET {
            return Address::v4(fib.__bindgen_anon_4.ipv4_dst.to_ne_bytes());
        }
        Address::from_words(fib.__bindgen_anon_4.ipv6_dst)
    }
}

#[inline(always)]
fn mtu(fib: &FibLookup) -> u32 {
    // SAFETY: a union of two numbers; the kernel wrote the result over the question.
    unsafe { fib.__bindgen_anon_1.mtu_result.into() }
}
