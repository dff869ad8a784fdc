//! Any schedule of packets, waiting and loss in one World, held against what every conversation may rely on: an answer reaches
//! who asked and nobody else, and what lives keeps its translation.
//!
//! A schedule is decoded from bytes, each of which says something, so that property tests and fuzzers can both make them up.

mod conversation;
mod step;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use netd_common::{
    parse::tcp_flags::{FIN, RST},
    tables::{Device, DeviceKind, Endpoint, EndpointKey, Hook, PortRange},
    tuple::{Address, Mac, TCP, Tuple, Zone},
    verdict::Verdict,
};

use self::conversation::{CONVERSATIONS, Conversation, Memory, Side};
pub use self::step::{Action, Step};
use crate::{
    packets::{checksums_hold, left_to_the_device, summed_by_the_device},
    scene::{self, UPLINK},
    story::Arrived,
    world::{Frame, Summed, World},
};

/// Host-side veth of a container of network red that has the address of A of network blue.
const TWIN: u32 = 32;

/// Which conversation last used a name towards a far end, by protocol, far end and name; `None` where two may have it.
type Owners = BTreeMap<(u8, String, String), Option<usize>>;

/// A World and what its conversations remember.
pub struct Schedule {
    world: World,
    talks: RefCell<Vec<Memory>>,
    owners: RefCell<Owners>,
    /// Whose packet is in the hand of the first CPU.
    in_hand: Cell<Option<usize>>,
    /// What was wrong, in the order in which it turned up.
    faults: RefCell<Vec<String>>,
    story: RefCell<Vec<String>>,
}

/// A packet that came through, and what was known when it was sent.
#[derive(Clone, Copy)]
struct Spoken<'a> {
    index: usize,
    talk: &'a Conversation,
    before: &'a Memory,
    /// Whose the name was that it answers to.
    asked: Option<usize>,
    /// Whose the names were.
    owners: &'a Owners,
    alive: bool,
    dead: bool,
    flags: u8,
    came: &'a Arrived,
}

impl Schedule {
    /// A host whose table takes `capacity` entries, 0 for any number, and which has eight ports to masquerade with.
    pub fn new(capacity: usize) -> Self {
        let mut world = scene::world();
        world.capacity = capacity;
        let settings = world.settings.as_mut().expect("the scene has settings");
        settings.pools = [PortRange { first: 20_000, last: 20_004 }, PortRange { first: 61_000, last: 61_002 }];
        settings.second = PortRange { first: 1, last: 0 };
        let mac = Mac(scene::container_mac(TWIN));
        let gateway_mac = Mac(scene::bridge_mac(30));
        let twin = Device {
            ifindex: TWIN,
            kind: DeviceKind::Container as u8,
            zone: Zone(2),
            bridge: 30,
            mtu: 1500,
            ipv4: [10, 176, 1, 2],
            gateway_ipv4: [10, 176, 2, 1],
            mac,
            gateway_mac,
            ..Device::default()
        };
        world.devices.insert(TWIN, twin);
        let key = EndpointKey { address: Address::v4(twin.ipv4), zone: Zone(2), pad: 0 };
        world.endpoints.insert(key, Endpoint { device: TWIN, mtu: 1500, mac, gateway_mac });
        scene::publish(&mut world, Address::ANY_V4, TCP, 8081..=8081, [10, 176, 1, 2], 80);
        Self {
            world,
            talks: RefCell::new(vec![Memory::default(); CONVERSATIONS.len()]),
            owners: RefCell::default(),
            in_hand: Cell::new(None),
            faults: RefCell::default(),
            story: RefCell::default(),
        }
    }

    /// Plays the steps. An error tells what was relied on in vain, and the story up to there.
    pub fn play(&self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            self.act(step.action, step.meanwhile);
            if let Some(fault) = self.faults.borrow().first() {
                let flows = self.world.flows.borrow();
                let flows: Vec<_> = flows
                    .iter()
                    .map(|(key, flow)| format!("{} becomes {}", named(key), named(&flow.becomes)))
                    .collect();
                return Err(format!("{fault}\n{}\n{}", self.story.borrow().join("\n"), flows.join("\n")));
            }
        }
        Ok(())
    }

    /// Flows in the table.
    pub fn flows(&self) -> usize {
        self.world.flows.borrow().len()
    }

    fn act(&self, action: Action, meanwhile: Option<(u32, Action)>) {
        match action {
            Action::Speak { conversation, side, flags, offload } => {
                self.speak(conversation % CONVERSATIONS.len(), side, flags, offload, meanwhile);
            }
            Action::Wait(seconds) => {
                self.tell(|| format!("{seconds} s pass"));
                self.world.sleep_seconds(seconds);
            }
            Action::Lose(nth) => self.lose(nth),
        }
    }

    /// One half of a pair is gone: a map operation failed, or somebody took it out.
    fn lose(&self, nth: usize) {
        let mut flows = self.world.flows.borrow_mut();
        let Some(key) = flows.keys().nth(nth % flows.len().max(1)).copied() else { return };
        let Some(flow) = flows.remove(&key) else { return };
        let forward = if flow.direction == 0 { key } else { flow.becomes.reversed(flow.becomes.zone) };
        let of_it = |talk: &Conversation| talk.tuple() == forward;
        for (talk, memory) in CONVERSATIONS.iter().zip(self.talks.borrow_mut().iter_mut()) {
            if of_it(talk) {
                memory.disturb();
            }
        }
        drop(flows);
        self.tell(|| format!("the half of {} is lost", named(&key)));
    }

    /// A packet of a conversation.
    fn speak(&self, index: usize, side: Side, flags: u8, offload: bool, meanwhile: Option<(u32, Action)>) {
        let talk = &CONVERSATIONS[index];
        let before = self.talks.borrow()[index].clone();
        if side == Side::Answers && before.name.is_none() {
            return;
        }
        let (hook, device, bytes) = talk.packet(side, flags, before.name.as_deref());
        let now = self.world.clock.get();
        let living: Vec<_> = (0..CONVERSATIONS.len()).map(|index| self.lives(index)).collect();
        let alive = living[index];
        let dead = before.is_dead(talk.protocol(), now);
        let during = meanwhile.filter(|(_, action)| !matches!(action, Action::Wait(_)));
        let contended = during.is_some() || self.in_hand.get() == Some(index);
        if contended && talk.protocol() == TCP && flags & (FIN | RST) != 0 {
            // For a SYN on the other CPU it is over or not.
            self.talks.borrow_mut()[index].disturb();
        }
        let asked = before.name.clone().and_then(|name| self.owner(talk, name));
        let owners = self.owners.borrow().clone();
        if during.is_some() {
            self.in_hand.set(Some(index));
        }
        let came = self.run(hook, device, bytes, offload && talk.protocol() != 1, during);
        if during.is_some() {
            self.in_hand.set(None);
        }
        self.tell(|| format!("{} {side:?} {flags:#04x}: {:?} {}", talk.label(), came.verdict, talk.view(side, &came)));

        let passed = matches!(came.verdict, Verdict::Peer(_) | Verdict::Neighbour(_));
        if !passed {
            let meanwhile = self.talks.borrow()[index].clone();
            if alive && meanwhile.name == before.name && meanwhile.disturbances == before.disturbances {
                self.fault(format!("{}: a packet of a living flow: {:?}", talk.label(), came.verdict));
            }
            if !talk.may_be_refused(side, came.verdict) {
                self.fault(format!("{}: {:?}", talk.label(), came.verdict));
            }
            return;
        }
        let spoken = Spoken { index, talk, before: &before, asked, owners: &owners, alive, dead, flags, came: &came };
        match side {
            Side::Opens => self.opened(spoken),
            Side::Answers => self.answered(spoken),
        }
        // Where places are short, another CPU may have taken out what nobody had answered yet.
        if during.is_some() && self.world.capacity != 0 {
            let mut talks = self.talks.borrow_mut();
            let weak = talks.iter_mut().zip(&living).filter(|(memory, lived)| memory.name == before.name && !**lived);
            weak.for_each(|(memory, _)| memory.disturb());
        }
    }

    /// The opener's packet has arrived at the far end under some name.
    fn opened(&self, spoken: Spoken) {
        let Spoken { index, talk, before, owners, alive, dead, flags, came, .. } = spoken;
        let name = talk.view(Side::Opens, came);
        if !talk.leads_right(Side::Opens, came) {
            self.fault(format!("{} arrived wrong: {came:?}", talk.label()));
        }
        if let Some(port) = talk.port_of_the_host(&name)
            && !self.may_masquerade_as(port, talk)
        {
            self.fault(format!("{} left by port {port}", talk.label()));
        }
        let meanwhile = self.talks.borrow()[index].clone();
        let raced = meanwhile.packets != before.packets;
        let fresh = before.packets == 0 && raced && self.lives(index);
        let alive = alive && meanwhile.disturbances == before.disturbances;
        let expected = if fresh { &meanwhile.name } else { &before.name };
        if (alive || fresh) && expected.as_ref() != Some(&name) {
            self.fault(format!("{}: was {expected:?}, is {name}", talk.label()));
        }
        let goes_on = before.name.as_ref() == Some(&name) && !dead;
        let key = (talk.protocol(), talk.far_end(), name.clone());
        let begins = before.begins(talk.protocol(), flags, dead);
        let owner = self.owners.borrow().get(&key).copied();
        let mut sure = begins || owner != Some(None);
        let owner = owner.flatten();
        if let Some(other) = owner.filter(|other| *other != index) {
            let lives = self.lives(other) && self.talks.borrow()[other].name.as_ref() == Some(&name);
            // A late packet of a closed connection whose port another one has just been given is no second flow.
            let late = goes_on && !alive;
            if lives && !late {
                self.fault(format!("{} and {} are both {name}", talk.label(), CONVERSATIONS[other].label()));
            }
            if late && lives {
                return;
            }
            // In a full table another CPU may have given what nobody has answered yet, this packet's flow, and its name away.
            let meanwhile = owners.get(&key) != Some(&Some(other));
            sure = !late && !meanwhile;
        }
        self.owners.borrow_mut().insert(key, sure.then_some(index));
        let mut talks = self.talks.borrow_mut();
        let memory = &mut talks[index];
        memory.note(Side::Opens, talk.protocol(), flags, self.world.clock.get(), begins);
        let unsure = raced && !alive && !fresh || !begins && !alive && before.name.is_some();
        if unsure || meanwhile.disturbances > before.disturbances {
            memory.disturb();
        }
        memory.name = Some(name);
    }

    /// The far end's answer has arrived somewhere.
    fn answered(&self, spoken: Spoken) {
        let Spoken { index, talk, before, asked, dead, flags, came, .. } = spoken;
        let Some(name) = &before.name else { return };
        let Some(owner) = self.owner(talk, name.clone()) else { return };
        let opening = self.in_hand.get();
        let may_be_its = |opening: &usize| {
            let other = &CONVERSATIONS[*opening];
            other.protocol() == talk.protocol() && other.leads_right(Side::Answers, came)
        };
        if let Some(opening) = opening.filter(may_be_its) {
            // Its flow is being made: the name may be its own already.
            self.talks.borrow_mut()[opening].disturb();
            return;
        }
        if asked.is_some_and(|asked| asked != owner && CONVERSATIONS[asked].leads_right(Side::Answers, came)) {
            // The name went to another while the answer was under way.
            return;
        }
        if !CONVERSATIONS[owner].leads_right(Side::Answers, came) {
            let lives = self.lives(owner) && self.talks.borrow()[owner].name.as_ref() == Some(name);
            if !lives && CONVERSATIONS[owner].is_opened_by_the_answer(came) {
                self.talks.borrow_mut()[owner].disturb();
                return;
            }
            let owner = CONVERSATIONS[owner].label();
            self.fault(format!("the answer to {name} of {owner} went elsewhere: {came:?}"));
        }
        if owner == index && dead && !before.is_vague() && self.talks.borrow()[index].packets == before.packets {
            self.fault(format!("{}: an answer long after the flow's end", talk.label()));
        }
        let mut talks = self.talks.borrow_mut();
        let talk_of_owner = &CONVERSATIONS[owner];
        talks[owner].note(Side::Answers, talk_of_owner.protocol(), flags, self.world.clock.get(), false);
    }

    /// Whose a name is towards the far end of a conversation.
    fn owner(&self, talk: &Conversation, name: String) -> Option<usize> {
        self.owners.borrow().get(&(talk.protocol(), talk.far_end(), name)).copied().flatten()
    }

    fn lives(&self, index: usize) -> bool {
        let tight = self.world.capacity != 0;
        self.talks.borrow()[index].lives(CONVERSATIONS[index].protocol(), self.world.clock.get(), tight)
    }

    fn may_masquerade_as(&self, port: u16, talk: &Conversation) -> bool {
        let settings = self.world.settings.expect("the scene has settings");
        let pooled = settings.pools.iter().any(|pool| pool.contains(port));
        let kept = port == talk.own_port() && !settings.ephemeral.contains(port);
        let echo = talk.protocol() == 1 && port == talk.own_port();
        let published = [8080, 8081, 5353].contains(&port) && talk.protocol() != 1;
        (pooled || kept || echo) && !published
    }

    fn run(&self, hook: Hook, device: u32, bytes: Vec<u8>, offload: bool, meanwhile: Option<(u32, Action)>) -> Arrived {
        let mut frame = Frame::at(device, bytes);
        if offload {
            frame.bytes = left_to_the_device(frame.bytes);
            frame.summed = Summed::Partial;
        }
        let verdict = match meanwhile {
            None => self.world.run(hook, &mut frame),
            Some((step, action)) => self.world.run_with_another(hook, &mut frame, step, || {
                self.tell(|| "meanwhile, on another CPU:".to_owned());
                self.act(action, None);
            }),
        };
        let verdict = if verdict == Verdict::Pass { self.by_the_stack(hook, &mut frame) } else { verdict };
        let bytes = if offload { summed_by_the_device(frame.bytes) } else { frame.bytes };
        if let Err(which) = checksums_hold(&bytes) {
            self.fault(format!("{which} after {hook:?}: {verdict:?} {bytes:02x?}"));
        }
        Arrived { verdict, bytes }
    }

    /// What becomes of a packet that a hook leaves to the stack, which routes and forwards what is not for the host.
    fn by_the_stack(&self, hook: Hook, frame: &mut Frame) -> Verdict {
        let destination = Address::v4([frame.bytes[30], frame.bytes[31], frame.bytes[32], frame.bytes[33]]);
        if hook == Hook::FromUplink {
            // The stack cannot tell two containers of one address: that it gets such a packet is not held against the hooks.
            let mut having = self.world.endpoints.iter().filter(|(key, _)| key.address == destination);
            return match (having.next(), having.next()) {
                (Some((_, endpoint)), None) => Verdict::Peer(endpoint.device),
                _ => Verdict::Pass,
            };
        }
        (frame.came_by, frame.device) = (self.world.devices[&frame.device].bridge, UPLINK);
        match self.world.run(Hook::ToUplink, frame) {
            Verdict::Pass => Verdict::Neighbour(UPLINK),
            refused => refused,
        }
    }

    fn fault(&self, what: String) {
        self.faults.borrow_mut().push(what);
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        let at = (self.world.clock.get() / 1_000_000_000).saturating_sub(3600);
        self.story.borrow_mut().push(format!("{at:>5} s  {}", what()));
    }
}

fn named(key: &Tuple) -> String {
    let (src, dst) = (key.src.ip(), key.dst.ip());
    format!("{src}:{} → {dst}:{} of zone {}", key.src_port.number(), key.dst_port.number(), key.zone.0)
}
