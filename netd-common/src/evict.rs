//! Which flows go, and when: those past their time, and where ports or room are short those that are worth less than a new
//! one. Established flows that live are never among them.

use core::ops::ControlFlow;

use bytemuck::{Pod, Zeroable};

use crate::{
    conntrack::{Leg, digest, is_half_of, is_over, timeout},
    tables::{Flow, Instant, Scratch, Span, Tables, Timeout},
    tuple::TCP,
};

/// Frees the reply's tuple of the flow being made if what holds it may go; true if it may be tried again.
#[inline(always)]
pub fn evict_reply<T: Tables>(t: &T, s: &mut Scratch, now: Instant, which: Evict) -> bool {
    s.evicted_key = s.peer_key;
    evict(t, s, now, which) != Evicted::Kept
}

/// Times the table is looked at for room before a new flow is refused. As many flows that live may stand one behind the other in the
/// queue before a new one is refused beside others that could go.
const LOOKS: u32 = 256;

/// Makes room in a full table: takes out the oldest flow that has expired, or that nobody has answered, or that is closed.
/// False if none is among those looked at; the next call looks at the next ones.
///
/// Correctness does not wait for the daemon, which only makes room earlier.
#[inline(never)]
pub fn make_room<T: Tables>(t: &T, s: &mut Scratch, now: Instant) -> bool {
    let mut made = false;
    t.repeat(LOOKS, || {
        if !t.take_oldest(&mut s.evicted_key) {
            return ControlFlow::Break(());
        }
        match evict(t, s, now, Evict::Weak) {
            Evicted::Freed => made = true,
            Evicted::Absent => {}
            Evicted::Kept => {
                t.put_youngest(&s.evicted_key);
            }
        }
        if made { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    made
}

/// Lines a new flow up for [`make_room`]. Where the queue is full of flows that are gone, they leave it.
///
/// It is full for all flows that live only where the table is. Two places are looked at, since each first packet pays for it: a
/// new flow behind two that live goes without a place. [`make_room`] does not find that one. The daemon's collector does, which walks
/// the table and not the queue, and so does the next first packet of its own tuple; with no daemon it is in the table until then.
#[inline(always)]
pub fn line_up<T: Tables>(t: &T, s: &mut Scratch) {
    if t.put_youngest(&s.key) {
        return;
    }
    for _ in 0..2 {
        if t.take_oldest(&mut s.evicted_key) && t.flow(&s.evicted_key, &mut s.evicted) {
            // It lives on, and turns up again. The new flow may go without a place: it expires all the same.
            t.put_youngest(&s.evicted_key);
        } else {
            t.put_youngest(&s.key);
            return;
        }
    }
}

/// Which flows may be taken out.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evict {
    /// Those past their deadline.
    Expired = 0,
    /// Those, and besides TCP connections that both sides have closed, or that were reset.
    Closed = 1,
    /// Those, and besides what is worth less than a new flow: unanswered, closed or reset.
    Weak = 2,
}

impl From<u32> for Evict {
    /// What is no number of one takes the fewest.
    #[inline(always)]
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Closed,
            2 => Self::Weak,
            _ => Self::Expired,
        }
    }
}

impl Evict {
    /// Whether a flow may go at a moment.
    #[inline(always)]
    pub fn takes(self, protocol: u8, flow: &Flow, now: Instant) -> bool {
        now > flow.deadline
            || match self {
                Self::Expired => false,
                Self::Closed => protocol == TCP && is_over(flow.legs),
                Self::Weak => is_weak(protocol, flow, now),
            }
    }
}

/// What became of a flow that was in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evicted {
    /// There was none.
    Absent,
    /// It is gone, both halves.
    Freed,
    /// It stays.
    Kept,
}

/// Takes out the flow with the tuple `s.evicted_key`, both halves, if it may be.
#[inline(always)]
fn evict<T: Tables>(t: &T, s: &mut Scratch, now: Instant, which: Evict) -> Evicted {
    if !t.flow(&s.evicted_key, &mut s.evicted) || s.evicted.check != digest(&s.evicted_key) {
        return Evicted::Absent;
    }
    if !which.takes(s.evicted_key.protocol, &s.evicted, now) {
        return Evicted::Kept;
    }
    // A flow lives as long as the half that was noted last.
    s.evicted_peer_key = s.evicted.becomes.reversed(s.evicted.becomes.zone);
    if t.flow(&s.evicted_peer_key, &mut s.evicted_peer) && is_half_of(&s.evicted_peer, &s.evicted_key) {
        if !which.takes(s.evicted_key.protocol, &s.evicted_peer, now) {
            return Evicted::Kept;
        }
        t.release_seen(&s.evicted_peer_key, &s.evicted_peer);
    }
    // Another CPU may have been faster, and have put another flow there.
    if t.release_seen(&s.evicted_key, &s.evicted) { Evicted::Freed } else { Evicted::Kept }
}

/// What the daemon hands the kernel's collector: what to do, and the tuples of the flows. The collector's packet, from its first
/// byte on; the tuples follow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct CollectOrder {
    /// An [`Evict`] as its number, or [`FOLLOW`].
    pub which: u32,
    /// How many tuples follow.
    pub count: u32,
    /// Zero: no test run takes a packet shorter than an Ethernet header.
    pub pad: [u32; 2],
}

/// In an order in place of an [`Evict`]: the connections with these tuples may leave nf_conntrack's sight
/// ([`firewall::follow`](crate::firewall::follow)).
pub const FOLLOW: u32 = 3;

/// The most tuples of an order: what fits into a packet's linear part.
pub const COLLECT_MAX: u32 = 64;

/// How long past its deadline a flow stays for the collector. A packet that found it alive has ended by then, so none writes
/// to a place that is given to another meanwhile.
pub const GRACE: Span = Span::ticks(2);

/// Takes out the flow with the tuple `s.evicted_key`, both halves, if it may be now, whatever it was when the daemon looked;
/// true if it is gone. The collector's work: to be done where flows are made, between two of whose steps the daemon
/// cannot get.
#[inline(always)]
pub fn collect<T: Tables>(t: &T, s: &mut Scratch, now: Instant, which: Evict) -> bool {
    let now = if which == Evict::Expired { now.before(GRACE) } else { now };
    evict(t, s, now, which) == Evicted::Freed
}

/// How long who opened a connection may take to acknowledge the answer before others may have its place.
const HANDSHAKE: Span = Span::ticks(3);

/// Whether a flow in this state is worth less than a new one where there is no room for both. So is a connection that was answered and
/// not acknowledged since: those of a flood with forged sources never are.
#[inline(always)]
fn is_weak(protocol: u8, flow: &Flow, now: Instant) -> bool {
    match timeout(protocol, flow.legs) {
        Timeout::SynSent | Timeout::TimeWait | Timeout::Reset | Timeout::UdpUnreplied | Timeout::SctpOpening => true,
        Timeout::Echo | Timeout::EchoV6 => flow.legs[1] & Leg::SEEN == 0,
        Timeout::SynReceived => flow.last_seen.after(HANDSHAKE) < now,
        Timeout::Established | Timeout::Closing | Timeout::UdpReplied | Timeout::SctpEstablished => false,
    }
}
