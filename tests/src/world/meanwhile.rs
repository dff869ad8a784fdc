//! Packets of two CPUs in one World: the other one's come between any two steps that one takes in the flow table.
//!
//! An element that a packet has found and that another CPU takes out meanwhile may be given to another key before the packet
//! reads or writes it, as the kernel's are: it then meets the other key's flow there.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ops::ControlFlow,
};

use netd_common::{
    conntrack::{self, Noted},
    hooks,
    tables::{
        AllowanceKey, ClaimError, Device, Endpoint, EndpointKey, Flow, Fragment, FragmentKey, Hook, Instant, MeshEnd,
        NextHop, Orphans, PeerKey, Publication, PublicationKey, Publications, Remote, RemoteKey, Route, Scratch,
        Segment, Settings, SourceKey, Station, StationKey, Tables, VtepKey,
    },
    tuple::{Address, Tuple},
    verdict::{DropReason, Verdict},
};

use super::{Frame, World};

impl World {
    /// Runs a hook on a packet while another CPU does `meanwhile`, before the packet's step number `step` in the flow table; not
    /// at all if it takes fewer.
    pub fn run_with_another(&self, hook: Hook, frame: &mut Frame, step: u32, meanwhile: impl FnOnce()) -> Verdict {
        let tables = Contended {
            world: self,
            left: Cell::new(step),
            meanwhile: RefCell::new(Some(meanwhile)),
            held: RefCell::default(),
        };
        let verdict = hooks::run(hook, frame, &tables, &mut Scratch::default());
        self.counters.borrow_mut().entry(hook).or_default().count(verdict);
        verdict.verdict()
    }
}

struct Contended<'a, F> {
    world: &'a World,
    left: Cell<u32>,
    meanwhile: RefCell<Option<F>>,
    held: RefCell<Vec<Held>>,
}

/// An element that a packet has found.
struct Held {
    key: Tuple,
    flow: Flow,
    /// The keys that there were then.
    beside: BTreeSet<Tuple>,
}

impl<F: FnOnce()> Contended<'_, F> {
    fn step(&self) {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0
            && let Some(meanwhile) = self.meanwhile.take()
        {
            meanwhile();
        }
    }

    /// The key under which an element is now, with what it holds.
    fn element(&self, place: usize) -> (Tuple, Flow) {
        let Held { key, flow, beside } = &self.held.borrow()[place];
        let flows = self.world.flows.borrow();
        if let Some(flow) = flows.get(key) {
            return (*key, *flow);
        }
        let reused = flows.iter().find(|(key, _)| !beside.contains(key)).map(|(key, flow)| (*key, *flow));
        reused.unwrap_or((*key, *flow))
    }
}

impl<F: FnOnce()> Publications for Contended<'_, F> {
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        self.world.entry(question)
    }
}

impl<F: FnOnce()> Tables for Contended<'_, F> {
    type Place = usize;

    fn now(&self) -> Instant {
        self.world.now()
    }

    fn device(&self, ifindex: u32) -> Option<&Device> {
        self.world.device(ifindex)
    }

    fn is_hosts(&self, address: &Address) -> bool {
        Tables::is_hosts(self.world, address)
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<&Endpoint> {
        self.world.endpoint(key)
    }

    fn is_source(&self, key: &SourceKey) -> bool {
        self.world.is_source(key)
    }

    fn allows(&self, key: &AllowanceKey) -> bool {
        self.world.allows(key)
    }

    fn segment(&self, vni: u32) -> Option<&Segment> {
        self.world.segment(vni)
    }

    fn remote(&self, key: &RemoteKey) -> Option<&Remote> {
        self.world.remote(key)
    }

    fn is_vtep(&self, key: &VtepKey) -> bool {
        self.world.is_vtep(key)
    }

    fn mesh_end(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        self.world.mesh_end(key)
    }

    fn peer(&self, key: &PeerKey) -> Option<&Address> {
        self.world.peer(key)
    }

    fn station(&self, key: &StationKey, station: &mut Station) -> bool {
        self.world.station(key, station)
    }

    fn keep_station(&self, key: &StationKey, station: &Station) {
        self.world.keep_station(key, station);
    }

    fn count_drop(&self, hook: Hook, reason: DropReason) {
        self.world.count_drop(hook, reason);
    }

    fn settings(&self) -> Option<&Settings> {
        self.world.settings()
    }

    fn cursor(&self, bucket: u32) -> u32 {
        self.world.cursor(bucket)
    }

    fn is_reserved(&self, port: u16) -> bool {
        self.world.is_reserved(port)
    }

    fn guards(&self) -> bool {
        self.world.guards()
    }

    fn start_guarding(&self) {
        self.world.start_guarding();
    }

    fn count_search(&self, tried: u32) {
        self.world.count_search(tried);
    }

    fn place(&self, key: &Tuple) -> Option<usize> {
        self.step();
        let flows = self.world.flows.borrow();
        let flow = *flows.get(key)?;
        let mut held = self.held.borrow_mut();
        held.push(Held { key: *key, flow, beside: flows.keys().copied().collect() });
        Some(held.len() - 1)
    }

    fn read(&self, place: usize, flow: &mut Flow) {
        self.step();
        *flow = self.element(place).1;
    }

    fn claim(&self, key: &Tuple, flow: &Flow) -> Result<(), ClaimError> {
        self.step();
        self.world.claim(key, flow)
    }

    fn release(&self, key: &Tuple) {
        self.step();
        self.world.release(key);
    }

    fn release_seen(&self, key: &Tuple, seen: &Flow) -> bool {
        self.step();
        self.world.release_seen(key, seen)
    }

    fn note(&self, place: usize, noted: &Flow, direction: u8) -> Noted {
        self.step();
        let (at, _) = self.element(place);
        let mut flows = self.world.flows.borrow_mut();
        // What is free and has not been given to another key takes the note, and nobody ever reads it.
        flows.get_mut(&at).map_or(Noted::Written, |stored| conntrack::write_note(stored, noted, direction))
    }

    fn put_passage(&self, key: &Tuple, flow: &Flow) {
        self.step();
        self.world.put_passage(key, flow);
    }

    fn ask_to_follow(&self, key: &Tuple) {
        self.world.ask_to_follow(key);
    }

    fn put_youngest(&self, key: &Tuple) -> bool {
        self.step();
        self.world.put_youngest(key)
    }

    fn take_oldest(&self, key: &mut Tuple) -> bool {
        self.step();
        self.world.take_oldest(key)
    }

    fn fragment(&self, key: &FragmentKey, fragment: &mut Fragment) -> bool {
        self.world.fragment(key, fragment)
    }

    fn keep_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.world.keep_fragment(key, fragment);
    }

    fn orphans(&self, key: &FragmentKey, orphans: &mut Orphans) -> bool {
        self.world.orphans(key, orphans)
    }

    fn keep_orphans(&self, key: &FragmentKey, orphans: Orphans) {
        self.world.keep_orphans(key, orphans);
    }

    fn count_lost(&self, reason: DropReason, count: u32) {
        self.world.count_lost(reason, count);
    }

    fn repeat<R: FnMut() -> ControlFlow<()>>(&self, times: u32, round: R) {
        self.world.repeat(times, round);
    }

    fn has_socket(&self, tuple: &Tuple) -> bool {
        self.world.has_socket(tuple)
    }

    fn has_connected(&self, tuple: &Tuple) -> bool {
        self.world.has_connected(tuple)
    }

    fn has_socket_at(&self, tuple: &Tuple) -> bool {
        self.world.has_socket_at(tuple)
    }

    fn route(&self, input: u32, mark: u32, tuple: &Tuple, next: &mut NextHop) -> Route {
        self.world.route(input, mark, tuple, next)
    }

    fn ways_changed(&self) -> Instant {
        self.world.ways_changed()
    }
}
