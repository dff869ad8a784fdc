//! The tables in memory, and the hooks over them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::ControlFlow,
};

use netd_common::{
    conntrack::{self, Noted},
    firewall, frame, hooks,
    tables::{
        AllowanceKey, ClaimError, Counters, Device, Endpoint, EndpointKey, Flow, Fragment, FragmentKey, Hook, Instant,
        MeshEnd, NextHop, Orphans, PeerKey, Publication, PublicationKey, Publications, Remote, RemoteKey, Route,
        Scratch, Segment, Settings, SourceKey, Station, StationKey, Tables, VtepKey,
    },
    tuple::{Address, Mac, Tuple, Zone},
    verdict::{DropReason, Verdict},
};

use super::Frame;

/// Where the host's routing sends a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteTo {
    /// To the host itself.
    Local,
    /// Refused: what the stack must say or do.
    Refused,
    /// By a device, whose largest packet is told, to a neighbour, or to the destination itself where there is none.
    Device(u32, u32, Option<Address>),
}

/// One host in memory.
#[derive(Debug, Default)]
pub struct World {
    /// The flow table.
    pub flows: RefCell<BTreeMap<Tuple, Flow>>,
    /// How many entries it takes; 0 for any number.
    pub capacity: usize,
    /// By interface index.
    pub devices: BTreeMap<u32, Device>,
    /// The endpoint table.
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    /// The publication table.
    pub publications: BTreeMap<PublicationKey, Publication>,
    /// The host's own addresses.
    pub addresses: BTreeSet<Address>,
    /// The source table.
    pub sources: BTreeSet<SourceKey>,
    /// What is allowed between containers of a network that keeps them apart.
    pub allowances: BTreeSet<AllowanceKey>,
    /// The segment table.
    pub segments: BTreeMap<u32, Segment>,
    /// The table of remote containers.
    pub remotes: BTreeMap<RemoteKey, Remote>,
    /// The table of VTEPs.
    pub vteps: BTreeSet<VtepKey>,
    /// The table of the mesh.
    pub mesh: BTreeMap<EndpointKey, MeshEnd>,
    /// The table of peers.
    pub peers: BTreeMap<PeerKey, Address>,
    /// The table of stations.
    pub stations: RefCell<BTreeMap<StationKey, Station>>,
    /// The settings.
    pub settings: Option<Settings>,
    /// Routes: prefix, its length in bits of the mapped address, and the way; the longest prefix wins.
    pub routes: Vec<(Address, u32, RouteTo)>,
    /// Those that a rule has in their place for packets with a mark.
    pub marked_routes: BTreeMap<u32, Vec<(Address, u32, RouteTo)>>,
    /// Ports that sockets of the host are bound to on every address, by protocol.
    pub sockets: BTreeSet<(u8, u16)>,
    /// Sockets that are bound to one address, by protocol, address and port.
    pub sockets_at: BTreeSet<(u8, Address, u16)>,
    /// Tuples of the packets that UDP sockets of the host get because they are connected to the sender.
    pub connected: BTreeSet<Tuple>,
    /// Nanoseconds of the clock.
    pub clock: Cell<u64>,
    /// By hook.
    pub counters: RefCell<BTreeMap<Hook, Counters>>,
    /// First packets' tuples, the oldest first.
    pub ages: RefCell<VecDeque<Tuple>>,
    /// Connections that wait for nf_conntrack to bear gaps.
    pub unfollowed: RefCell<Vec<Tuple>>,
    /// The fragment table.
    pub fragments: RefCell<BTreeMap<FragmentKey, Fragment>>,
    /// Fragments before their first.
    pub orphans: RefCell<BTreeMap<FragmentKey, Orphans>>,
    /// How many ports were handed out, by bucket.
    pub cursors: RefCell<BTreeMap<u32, u32>>,
    /// How many claims the kernel still refuses for the moment.
    pub busy: Cell<u32>,
    /// Whether a flow of the host's own was ever given another port.
    pub guards: Cell<bool>,
    /// When the routing was last heard to have changed.
    pub ways_changed: Cell<Instant>,
    /// Ports that the operator reserved.
    pub reserved: BTreeSet<u16>,
    /// Searches for a port, by how many were tried, 0 for those that failed.
    pub searches: RefCell<BTreeMap<u32, u64>>,
    /// Neighbours whose link-layer addresses are known, with those of the device that they are at.
    pub neighbours: BTreeMap<Address, [Mac; 2]>,
    /// The next number that nobody can foretell.
    pub random: Cell<u32>,
    /// How often a flow was looked up.
    pub lookups: Cell<u64>,
}

impl World {
    /// Runs a hook on a packet and counts the verdict.
    pub fn run(&self, hook: Hook, frame: &mut Frame) -> Verdict {
        let mut scratch = Scratch::default();
        let verdict = hooks::run(hook, frame, self, &mut scratch);
        self.counters.borrow_mut().entry(hook).or_default().count(verdict);
        let verdict = verdict.verdict();
        frame.sent_to = matches!(verdict, Verdict::Tunnel(_)).then_some(scratch.tunnel);
        verdict
    }

    /// What the program in the driver of an uplink makes of a frame that it receives.
    pub fn run_early(&self, device: u32, bytes: &mut Vec<u8>) -> Verdict {
        let verdict = frame::meet(&mut Buffer { device, bytes }, self, &mut Scratch::default());
        self.counters.borrow_mut().entry(Hook::UplinkXdp).or_default().count(verdict);
        verdict.verdict()
    }

    /// Has the programs know that the routing has changed, as the daemon does.
    pub fn tell_of_routing(&self) {
        self.ways_changed.set(Instant::from_ns(self.clock.get()));
    }

    /// What the routes, or those for this mark, say of a destination.
    fn route_to(&self, mark: u32, destination: Address) -> Option<RouteTo> {
        let ruled = self.marked_routes.get(&mark).unwrap_or(&self.routes);
        let matching = ruled.iter().filter(|(prefix, bits, _)| covers(*prefix, *bits, destination));
        matching.max_by_key(|(_, bits, _)| *bits).map(|(_, _, to)| *to)
    }

    /// Lets time pass.
    pub fn sleep_seconds(&self, seconds: u64) {
        self.clock.set(self.clock.get() + seconds * 1_000_000_000);
    }
}

/// A frame in a driver's buffer.
struct Buffer<'a> {
    device: u32,
    bytes: &'a mut Vec<u8>,
}

impl frame::Frame for Buffer<'_> {
    fn device(&self) -> u32 {
        self.device
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at + N)?.try_into().ok()
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        self.bytes.get_mut(at..at + N).map(|place| place.copy_from_slice(&bytes))
    }

    fn prepend(&mut self, bytes: usize) -> Option<()> {
        self.bytes.splice(0..0, std::iter::repeat_n(0xee, bytes));
        Some(())
    }
}

impl frame::Tables for World {
    fn now(&self) -> Instant {
        Tables::now(self)
    }

    fn settings(&self) -> Option<&Settings> {
        Tables::settings(self)
    }

    fn device(&self, ifindex: u32) -> Option<&Device> {
        Tables::device(self, ifindex)
    }

    fn is_source(&self, key: &SourceKey) -> bool {
        Tables::is_source(self, key)
    }

    fn is_hosts(&self, address: &Address) -> bool {
        self.addresses.contains(address)
    }

    fn has_flow(&self, tuple: &Tuple) -> bool {
        self.flows.borrow().contains_key(tuple)
    }

    fn flow(&self, key: &Tuple, flow: &mut Flow) -> bool {
        Tables::flow(self, key, flow)
    }

    fn has_connected(&self, tuple: &Tuple) -> bool {
        Tables::has_connected(self, tuple)
    }

    fn segment(&self, vni: u32) -> Option<&Segment> {
        Tables::segment(self, vni)
    }

    fn mesh_end(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        Tables::mesh_end(self, key)
    }

    fn find_way_back(&self, device: u32, tuple: &Tuple, length: u32, next: &mut NextHop) -> bool {
        let Some(RouteTo::Device(by, mtu, via)) = self.route_to(0, tuple.dst) else { return false };
        let Some([neighbour, own]) = self.neighbours.get(&via.unwrap_or(tuple.dst)) else { return false };
        *next = NextHop::peer(by, 0, *neighbour, *own);
        by == device && length <= mtu
    }

    fn random(&self) -> u32 {
        self.random.get()
    }
}

fn covers(prefix: Address, bits: u32, address: Address) -> bool {
    let bits = bits as usize;
    let (p, a) = (prefix.bytes(), address.bytes());
    let whole = bits / 8;
    let rest = bits % 8;
    p[..whole] == a[..whole] && (rest == 0 || (p[whole] ^ a[whole]) >> (8 - rest) == 0)
}

impl Publications for World {
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        question.answers().find_map(|key| self.publications.get(&key))
    }
}

impl Tables for World {
    fn now(&self) -> Instant {
        Instant::from_ns(self.clock.get())
    }

    fn device(&self, ifindex: u32) -> Option<&Device> {
        self.devices.get(&ifindex)
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint> {
        self.endpoints.get(key)
    }

    fn is_source(&self, key: &SourceKey) -> bool {
        self.sources.iter().any(|range| range.covers(key.list(), key.address()))
    }

    fn allows(&self, key: &AllowanceKey) -> bool {
        self.allowances.contains(key)
    }

    fn segment(&self, vni: u32) -> Option<&Segment> {
        self.segments.get(&vni)
    }

    fn remote(&self, key: &RemoteKey) -> Option<&Remote> {
        self.remotes.get(key)
    }

    fn is_vtep(&self, key: &VtepKey) -> bool {
        self.vteps.contains(key)
    }

    fn mesh_end(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        self.mesh.get(key)
    }

    fn peer(&self, key: &PeerKey) -> Option<&Address> {
        self.peers.get(key)
    }

    fn station(&self, key: &StationKey, station: &mut Station) -> bool {
        self.stations.borrow().get(key).map(|found| *station = *found).is_some()
    }

    fn keep_station(&self, key: &StationKey, station: &Station) {
        self.stations.borrow_mut().insert(*key, *station);
    }

    fn count_drop(&self, hook: Hook, reason: DropReason) {
        self.counters.borrow_mut().entry(hook).or_default().dropped[reason as usize] += 1;
    }

    fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    fn cursor(&self, bucket: u32) -> u32 {
        let mut cursors = self.cursors.borrow_mut();
        let cursor = cursors.entry(bucket).or_default();
        *cursor = cursor.wrapping_add(1);
        *cursor
    }

    fn is_reserved(&self, port: u16) -> bool {
        self.reserved.contains(&port)
    }

    fn guards(&self) -> bool {
        self.guards.get()
    }

    fn start_guarding(&self) {
        self.guards.set(true);
    }

    fn count_search(&self, tried: u32) {
        *self.searches.borrow_mut().entry(tried).or_default() += 1;
    }

    fn flow(&self, key: &Tuple, flow: &mut Flow) -> bool {
        self.lookups.set(self.lookups.get() + 1);
        self.flows.borrow().get(key).map(|found| *flow = *found).is_some()
    }

    fn claim(&self, key: &Tuple, flow: &Flow) -> Result<(), ClaimError> {
        if let Some(left) = self.busy.get().checked_sub(1) {
            self.busy.set(left);
            return Err(ClaimError::Busy);
        }
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(key) {
            return Err(ClaimError::Taken);
        }
        if self.capacity != 0 && flows.len() >= self.capacity {
            return Err(ClaimError::Full);
        }
        flows.insert(*key, *flow);
        Ok(())
    }

    fn release(&self, key: &Tuple) {
        self.flows.borrow_mut().remove(key);
    }

    fn release_seen(&self, key: &Tuple, seen: &Flow) -> bool {
        let mut flows = self.flows.borrow_mut();
        let same = flows.get(key).is_some_and(|stored| stored.is_still(seen));
        if same {
            flows.remove(key);
        }
        same
    }

    fn note(&self, key: &Tuple, noted: &Flow, direction: u8) -> Noted {
        let mut flows = self.flows.borrow_mut();
        flows.get_mut(key).map_or(Noted::Gone, |stored| conntrack::write_note(stored, noted, direction))
    }

    fn put_passage(&self, key: &Tuple, flow: &Flow) {
        if let Some(stored) = self.flows.borrow_mut().get_mut(key) {
            firewall::write_passage(stored, flow);
        }
    }

    fn ask_to_follow(&self, key: &Tuple) {
        self.unfollowed.borrow_mut().push(*key);
    }

    fn put_youngest(&self, key: &Tuple) -> bool {
        let mut ages = self.ages.borrow_mut();
        let room = self.capacity == 0 || ages.len() < self.capacity;
        if room {
            ages.push_back(*key);
        }
        room
    }

    fn take_oldest(&self, key: &mut Tuple) -> bool {
        self.ages.borrow_mut().pop_front().map(|oldest| *key = oldest).is_some()
    }

    fn fragment(&self, key: &FragmentKey, fragment: &mut Fragment) -> bool {
        self.fragments.borrow().get(key).map(|found| *fragment = *found).is_some()
    }

    fn keep_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }

    fn orphans(&self, key: &FragmentKey, orphans: &mut Orphans) -> bool {
        self.orphans.borrow().get(key).map(|found| *orphans = *found).is_some()
    }

    fn keep_orphans(&self, key: &FragmentKey, orphans: Orphans) {
        self.orphans.borrow_mut().insert(*key, orphans);
    }

    fn count_lost(&self, reason: DropReason, count: u32) {
        let mut counters = self.counters.borrow_mut();
        counters.entry(Hook::FromUplink).or_default().dropped[reason as usize] += u64::from(count);
    }

    fn repeat<F: FnMut() -> ControlFlow<()>>(&self, times: u32, mut round: F) {
        let _ = (0..times).try_for_each(|_| round());
    }

    fn has_socket(&self, tuple: &Tuple) -> bool {
        self.sockets.contains(&(tuple.protocol, tuple.src_port.number()))
    }

    fn has_connected(&self, tuple: &Tuple) -> bool {
        self.connected.contains(&Tuple { zone: Zone::HOST, ..*tuple })
    }

    fn has_socket_at(&self, tuple: &Tuple) -> bool {
        self.sockets_at.contains(&(tuple.protocol, tuple.dst, tuple.dst_port.number()))
    }

    fn route(&self, _input: u32, mark: u32, tuple: &Tuple, next: &mut NextHop) -> Route {
        match self.route_to(mark, tuple.dst) {
            Some(RouteTo::Device(device, mtu, via)) => {
                *next = NextHop::neighbour(device, mtu, via.unwrap_or(tuple.dst));
                Route::Forward
            }
            Some(RouteTo::Refused) => Route::Stack,
            Some(RouteTo::Local) | None => Route::Local,
        }
    }

    fn ways_changed(&self) -> Instant {
        self.ways_changed.get()
    }
}
