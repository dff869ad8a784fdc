//! One host in memory: all that its tables hold, and the hooks over them.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use netd_common::{
    frame, hooks,
    tables::{
        AllowanceKey, Counters, Device, Endpoint, EndpointKey, Flow, Fragment, FragmentKey, Hook, Instant, MeshEnd,
        Orphans, PeerKey, Publication, PublicationKey, Remote, RemoteKey, Scratch, Segment, Settings, SourceKey,
        Station, StationKey, VtepKey,
    },
    tuple::{Address, Mac, Tuple},
    verdict::Verdict,
};

use super::{Frame, driver::Buffer};

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
    /// How many claims the kernel grants before it refuses some.
    pub granted: Cell<u32>,
    /// How many claims the kernel still refuses.
    pub busy: Cell<u32>,
    /// What it answers then: an error's number, below zero.
    pub refusal: Cell<i32>,
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
    /// How often a place in the flow table was asked for.
    pub claims: Cell<u64>,
    /// How often the routing was asked.
    pub questions: Cell<u64>,
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
    pub(super) fn route_to(&self, mark: u32, destination: Address) -> Option<RouteTo> {
        let ruled = self.marked_routes.get(&mark).unwrap_or(&self.routes);
        let matching = ruled.iter().filter(|(prefix, bits, _)| covers(*prefix, *bits, destination));
        matching.max_by_key(|(_, bits, _)| *bits).map(|(_, _, to)| *to)
    }

    /// Lets time pass.
    pub fn sleep_seconds(&self, seconds: u64) {
        self.clock.set(self.clock.get() + seconds * 1_000_000_000);
    }
}

fn covers(prefix: Address, bits: u32, address: Address) -> bool {
    let bits = bits as usize;
    let (p, a) = (prefix.bytes(), address.bytes());
    let whole = bits / 8;
    let rest = bits % 8;
    p[..whole] == a[..whole] && (rest == 0 || (p[whole] ^ a[whole]) >> (8 - rest) == 0)
}
