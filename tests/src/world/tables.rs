//! What the hooks ask of a host, answered from memory.

use std::ops::ControlFlow;

use netd_common::{
    conntrack::{self, Noted},
    firewall,
    tables::{
        AllowanceKey, ClaimError, Device, Endpoint, EndpointKey, Flow, Fragment, FragmentKey, Hook, Instant, MeshEnd,
        NextHop, Orphans, PeerKey, Publication, PublicationKey, Publications, Remote, RemoteKey, Route, Segment,
        Settings, SourceKey, Station, StationKey, Tables, VtepKey,
    },
    tuple::{Address, Tuple, Zone},
    verdict::DropReason,
};

use super::{RouteTo, World};

impl Publications for World {
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        question.answers().find_map(|key| self.publications.get(&key))
    }
}

impl Tables for World {
    type Place = Tuple;

    fn now(&self) -> Instant {
        Instant::from_ns(self.clock.get())
    }

    fn device(&self, ifindex: u32) -> Option<&Device> {
        self.devices.get(&ifindex)
    }

    fn is_hosts(&self, address: &Address) -> bool {
        self.addresses.contains(address)
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

    fn claim(&self, key: &Tuple, flow: &Flow) -> Result<(), ClaimError> {
        self.claims.set(self.claims.get() + 1);
        if let Some(left) = self.granted.get().checked_sub(1) {
            self.granted.set(left);
        } else if let Some(left) = self.busy.get().checked_sub(1) {
            self.busy.set(left);
            return Err(ClaimError::of(self.refusal.get()));
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

    fn place(&self, key: &Tuple) -> Option<Tuple> {
        self.lookups.set(self.lookups.get() + 1);
        self.flows.borrow().contains_key(key).then_some(*key)
    }

    fn read(&self, place: Tuple, flow: &mut Flow) {
        *flow = self.flows.borrow()[&place];
    }

    fn note(&self, place: Tuple, noted: &Flow, direction: u8) -> Noted {
        let mut flows = self.flows.borrow_mut();
        let stored = flows.get_mut(&place).expect("nobody else takes out what a packet has found");
        conntrack::write_note(stored, noted, direction)
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
        // One place a pair, as in the kernel.
        let room = self.capacity == 0 || ages.len() < self.capacity.div_ceil(2);
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
        self.questions.set(self.questions.get() + 1);
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
