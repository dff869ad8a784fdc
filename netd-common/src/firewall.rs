//! The host's own firewall: which packets it must see though a shorter way is known.
//!
//! Where the host has rules that could stop a container's packets, a flow that enters or leaves by an uplink takes the stack's
//! way, past all of them, until a packet of it has emerged on the other side: at the uplink, or at the container's veth. Then it
//! is on the fast path, each direction for itself. It proves itself anew when the ruleset has changed, and every now and then
//! one of its packets shows that it still would: for the ruleset, and for nf_conntrack, whose entry would expire otherwise.
//!
//! Netfilter sees the containers' own addresses in both directions: packets are translated before it on their way in, after it
//! on their way out.

use crate::{
    conntrack::{digest, timeout},
    packet::Packet,
    parse::{Headers, Part, tcp_flags},
    tables::{Device, Flow, Instant, Scratch, Settings, Span, Tables, Timeout, Via, firewall_flags},
    tuple::{TCP, Zone},
    verdict::{Packed, Verdict},
};

/// To the stack, for the firewall to see.
pub const SHOW: Packed = Verdict::Show.packed();

/// Steps of four ticks that a direction goes without a packet which the firewall sees: less than nf_conntrack's shortest timeout
/// for what goes on (30 s, of a datagram without an answer).
const UNSEEN: u8 = 4;

/// How a direction of a flow stands to the firewall: bits of [`Flow::passage`], the five highest of which say when a packet of it
/// was last shown.
pub struct Passage;

impl Passage {
    /// No packet has emerged: all of them must show themselves.
    pub const UNPROVED: u8 = 1;
    /// One that should show that the firewall still lets them through has not emerged yet.
    pub const PROBED: u8 = 2;
    /// nf_conntrack bears gaps in what it sees of the connection.
    pub const FOLLOWED: u8 = 4;

    const FLAGS: u8 = Self::UNPROVED | Self::PROBED | Self::FOLLOWED;
    /// Ticks in a step of the five bits, as a power of two.
    const STEP: u32 = 2;

    /// With this moment as the last.
    #[inline(always)]
    const fn at(flags: u8, now: Instant) -> u8 {
        flags & Self::FLAGS | ((now.low_byte() >> Self::STEP) << 3)
    }

    /// How many steps ago the last one was, modulo 2⁵.
    #[inline(always)]
    const fn steps_since(passage: u8, now: Instant) -> u8 {
        (now.low_byte() >> Self::STEP).wrapping_sub(passage >> 3) & 31
    }
}

/// [`Flow::passage`] of a direction of which the firewall has seen nothing.
#[inline(always)]
pub const fn unproved(generation: u16) -> u8 {
    if generation == 0 { 0 } else { Passage::UNPROVED }
}

/// Whether the packet in hand, of the flow in `s.flow`, must show itself. What opens or ends a connection always does, and
/// fragments do: the host puts them together before its rules see them, so all of one datagram must come.
#[inline(always)]
pub fn must_show(s: &Scratch, h: Headers) -> bool {
    if s.flow.generation == 0 {
        return false;
    }
    let decisive = h.tcp_flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) != 0;
    decisive || h.part != Part::Whole || s.show != 0 || s.flow.passage & Passage::UNPROVED != 0
}

/// Brings up to date what the flow in `s.flow` has to prove, of which a packet is being noted.
#[inline(always)]
pub fn renew<T: Tables>(t: &T, s: &mut Scratch, settings: &Settings, now: Instant) {
    let firewall = settings.firewall;
    if firewall.generation == 0 || !crosses(s) {
        s.flow.generation = 0;
        s.flow.passage = 0;
        return;
    }
    let silent = now > s.flow.last_seen.after(Span::ticks(u32::from(UNSEEN) << Passage::STEP));
    let due = silent || Passage::steps_since(s.flow.passage, now) >= UNSEEN;
    // What should have emerged long ago was stopped.
    let stopped = due && s.flow.passage & Passage::PROBED != 0;
    if s.flow.generation != firewall.generation || stopped {
        s.flow.generation = firewall.generation;
        s.flow.passage = Passage::at(Passage::UNPROVED, now);
    }
    if s.key.protocol == TCP && !is_established(s.key.protocol, &s.flow) {
        s.flow.passage |= Passage::UNPROVED;
    }
    if s.flow.passage & Passage::UNPROVED != 0 {
        if waits(s, firewall.flags) {
            s.peer_key = if s.key.zone == Zone::HOST { s.flow.becomes.reversed(s.flow.becomes.zone) } else { s.key };
            t.ask_to_follow(&s.peer_key);
        }
    } else if due {
        s.flow.passage = Passage::at(s.flow.passage | Passage::PROBED, now);
        s.show = 1;
    }
}

/// Notes that the packet in hand, of the flow in `s.flow` under `s.key`, has come past the firewall to `device`. From then on the
/// others go without it, if that is where they would be sent.
///
/// Not inlined: the verifier reads it once a call and not once a path.
#[inline(never)]
pub fn emerged<T: Tables>(t: &T, s: &mut Scratch, device: u32, now: Instant) {
    let Some(settings) = t.settings() else { return };
    let nothing_to_prove = s.flow.passage & (Passage::UNPROVED | Passage::PROBED) == 0;
    if s.flow.generation == 0 || nothing_to_prove || s.flow.via == Via::Stack as u8 || s.flow.next.device != device {
        return;
    }
    let flags = settings.firewall.flags;
    let early = s.key.protocol == TCP && !is_established(s.key.protocol, &s.flow);
    if s.flow.generation != settings.firewall.generation
        || flags & firewall_flags::ALWAYS_STACK != 0
        || early
        || waits(s, flags)
    {
        return;
    }
    s.flow.passage = Passage::at(s.flow.passage & Passage::FOLLOWED, now);
    t.put_passage(&s.key, &s.flow);
}

/// The same for a packet that the stack delivers to a container, with the tuple `s.key` that it has become.
#[inline(never)]
pub fn delivered<T: Tables>(t: &T, s: &mut Scratch, h: Headers, to: &Device) {
    if h.part == Part::Later || !h.transport.has_flow() {
        return;
    }
    s.key.zone = to.zone;
    s.peer_key = s.key.reversed(to.zone);
    if !t.flow(&s.peer_key, &mut s.peer) || s.peer.check != digest(&s.peer_key) {
        return;
    }
    s.key = s.peer.becomes.reversed(s.peer.becomes.zone);
    if t.flow(&s.key, &mut s.flow) && s.flow.check == digest(&s.key) {
        emerged(t, s, to.ifindex, t.now());
    }
}

/// Notes in both halves of the connection with the tuple `s.key` that nf_conntrack bears gaps in it.
#[inline(always)]
pub fn follow<T: Tables>(t: &T, s: &mut Scratch) -> bool {
    if !t.flow(&s.key, &mut s.flow) || s.flow.check != digest(&s.key) {
        return false;
    }
    s.flow.passage |= Passage::FOLLOWED;
    t.put_passage(&s.key, &s.flow);
    s.peer_key = s.flow.becomes.reversed(s.flow.becomes.zone);
    if t.flow(&s.peer_key, &mut s.peer) && s.peer.check == digest(&s.peer_key) {
        s.peer.passage |= Passage::FOLLOWED;
        t.put_passage(&s.peer_key, &s.peer);
    }
    true
}

/// Writes into a stored half how it stands to the firewall. What [`Tables::put_passage`] does with the element it finds.
#[inline(always)]
pub fn write_passage(stored: &mut Flow, flow: &Flow) {
    if stored.check == flow.check && stored.becomes == flow.becomes && stored.generation == flow.generation {
        stored.passage = flow.passage;
    }
}

/// Marks what goes to the stack for a container: rules of the host can tell it by that.
#[inline(never)]
pub fn mark<P: Packet, T: Tables>(p: &mut P, t: &T) {
    if let Some(settings) = t.settings()
        && settings.firewall.mark != 0
    {
        p.set_mark(p.mark() | settings.firewall.mark);
    }
}

/// Takes the mark from a packet that leaves the host.
#[inline(always)]
pub fn unmark<P: Packet, T: Tables>(p: &mut P, t: &T) {
    if let Some(settings) = t.settings()
        && p.mark() & settings.firewall.mark != 0
    {
        p.set_mark(p.mark() & !settings.firewall.mark);
    }
}

/// Whether the flow in `s.flow` enters or leaves by an uplink: between containers, and between a container and the host, the
/// firewall's way for what is forwarded does not lie, and none leads the stack to a container of another host.
#[inline(always)]
pub fn crosses(s: &Scratch) -> bool {
    let at_uplink = s.key.zone == Zone::HOST || s.flow.becomes.zone == Zone::HOST;
    at_uplink && s.key.zone != s.flow.becomes.zone && s.flow.via != Via::Tunnel as u8
}

/// Whether the flow in `s.flow` must not leave nf_conntrack's sight yet.
#[inline(always)]
fn waits(s: &Scratch, flags: u16) -> bool {
    s.key.protocol == TCP
        && flags & firewall_flags::TRACKED != 0
        && s.flow.passage & Passage::FOLLOWED == 0
        && is_established(s.key.protocol, &s.flow)
}

#[inline(always)]
fn is_established(protocol: u8, flow: &Flow) -> bool {
    timeout(protocol, flow.legs) as u8 == Timeout::Established as u8
}
