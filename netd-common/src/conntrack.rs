//! Flows: how a pair of entries comes to be, stays one pair, and ends.
//!
//! Each direction of a flow has an entry of its own under its packet's tuple ([`Flow`]). An entry alone can rewrite its
//! packets and rebuild the other. A pair has one life, that of the half which was noted last: at most once a tick a packet notes
//! itself in its own entry, and when it changes the flow's state or an epoch has passed in both; then it puts back a half that is
//! missing, and gives up its own if the other's place has become another flow's. A pair past its deadlines counts as absent, so
//! nothing depends on a collector.
//!
//! Each direction writes only its own leg, so two CPUs never undo each other's notes.

use crate::{
    checksum::Delta,
    evict, firewall,
    parse::{Headers, Part, Transport, tcp_flags},
    tables::{ClaimError, Flow, Instant, Scratch, Settings, Span, Tables, Timeout},
    tuple::{ICMPV6, SCTP, TCP, Tuple, UDP},
};

/// What one direction of a flow has shown: bits of an element of [`Flow::legs`].
pub struct Leg;

impl Leg {
    /// A packet.
    pub const SEEN: u8 = 1;
    /// A TCP segment of who opened the flow that acknowledges and opens nothing: with it the handshake is over. Of the other
    /// direction it is not noted, since nothing depends on it.
    pub const ACKED: u8 = 2;
    /// A FIN.
    pub const FIN: u8 = 4;
    /// A RST, and since then no other segment.
    pub const RESET: u8 = 8;
}

/// What a stored flow must carry in `check` to belong to this key.
#[inline(always)]
pub fn digest(key: &Tuple) -> u32 {
    let ports = u64::from(key.src_port.number()) << 48 | u64::from(key.dst_port.number()) << 32;
    let rest = u64::from(key.zone.0) << 16 | u64::from(key.echo) << 8 | u64::from(key.protocol);
    let [src, dst] = [key.src.words(), key.dst.words()];
    let lane = |words: [u32; 4], at: usize| u64::from(words[at]) << 32 | u64::from(words[at + 1]);
    // Odd factors, one a lane, so that a tuple and its reverse differ; none waits for another's product.
    let sum = (ports | rest).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ lane(src, 0).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ lane(src, 2).wrapping_mul(0x1656_67b1_9e37_79f9)
        ^ lane(dst, 0).wrapping_mul(0x27d4_eb2f_1656_67c5)
        ^ lane(dst, 2).wrapping_mul(0x85eb_ca77_c2b2_ae63);
    (sum >> 32) as u32 ^ sum as u32
}

/// The leg of a direction after a packet with these headers.
#[inline(always)]
pub fn leg_after(leg: u8, direction: u8, h: Headers) -> u8 {
    if h.transport != Transport::Tcp {
        return leg | Leg::SEEN;
    }
    let flags = h.tcp_flags;
    if flags & tcp_flags::RST != 0 {
        return leg | Leg::SEEN | Leg::RESET;
    }
    // The sender goes on: a reset in its name was not its own, or came too late to matter.
    let mut leg = (leg | Leg::SEEN) & !Leg::RESET;
    if direction == 0 && flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::ACK {
        leg |= Leg::ACKED;
    }
    if flags & tcp_flags::FIN != 0 {
        leg |= Leg::FIN;
    }
    leg
}

/// How long a flow in this state lives without a packet.
#[inline(always)]
pub fn timeout(protocol: u8, legs: [u8; 2]) -> Timeout {
    let replied = legs[1] & Leg::SEEN != 0;
    match protocol {
        TCP if (legs[0] | legs[1]) & Leg::RESET != 0 => Timeout::Reset,
        TCP if legs[0] & legs[1] & Leg::FIN != 0 => Timeout::TimeWait,
        TCP if (legs[0] | legs[1]) & Leg::FIN != 0 => Timeout::Closing,
        TCP if !replied => Timeout::SynSent,
        TCP if legs[0] & Leg::ACKED == 0 => Timeout::SynReceived,
        TCP => Timeout::Established,
        UDP if replied => Timeout::UdpReplied,
        UDP => Timeout::UdpUnreplied,
        // SCTP asks every 30 s whether the other end is there (RFC 9260 section 8.3): no association falls silent for long.
        SCTP if replied => Timeout::SctpEstablished,
        SCTP => Timeout::SctpOpening,
        ICMPV6 => Timeout::EchoV6,
        _ => Timeout::Echo,
    }
}

/// Whether a TCP flow in this state is over, so that a new SYN of the same tuple opens another.
#[inline(always)]
pub fn is_over(legs: [u8; 2]) -> bool {
    legs[0] & legs[1] & Leg::FIN != 0 || (legs[0] | legs[1]) & Leg::RESET != 0
}

/// Whether the packet opens something: what may create state.
#[inline(always)]
pub fn opens(h: Headers) -> bool {
    let deciding = tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST | tcp_flags::FIN;
    if h.part == Part::Later {
        return false;
    }
    match h.transport {
        Transport::Tcp => h.tcp_flags & deciding == tcp_flags::SYN,
        Transport::Udp | Transport::EchoRequest => true,
        Transport::EchoReply | Transport::Error | Transport::Fragment | Transport::Opaque => false,
    }
}

/// Looks up the flow of `s.key` into `s.flow`; true if there is one that is alive and goes on with this packet.
///
/// What is found but over (expired, or closed and met by a new SYN) is taken out, both halves.
#[inline(always)]
pub fn find<T: Tables>(t: &T, s: &mut Scratch, h: Headers, now: Instant) -> bool {
    if !h.transport.has_flow() || !t.flow(&s.key, &mut s.flow) {
        return false;
    }
    if s.flow.check != digest(&s.key) {
        // The element was given to another key while it was being copied: ours is gone.
        return false;
    }
    let reopened = s.key.protocol == TCP && s.flow.direction == 0 && opens(h) && is_over(s.flow.legs);
    if !reopened && now <= s.flow.deadline {
        return true;
    }
    // Its life is that of the half which was noted last.
    !release_pair(t, s, now, reopened)
}

/// Looks up the flow whose packets an error quotes, by the tuple `s.peer_key` of their answers, into `s.flow`.
#[inline(always)]
pub fn find_quoted<T: Tables>(t: &T, s: &mut Scratch, now: Instant) -> bool {
    t.flow(&s.peer_key, &mut s.flow)
        && s.flow.check == digest(&s.peer_key)
        && (now <= s.flow.deadline || other_half_lives(t, s, now))
}

/// Whether the other half of the flow in `s.flow` under `s.peer_key` lives.
#[inline(always)]
fn other_half_lives<T: Tables>(t: &T, s: &mut Scratch, now: Instant) -> bool {
    s.evicted_peer_key = s.flow.becomes.reversed(s.flow.becomes.zone);
    t.flow(&s.evicted_peer_key, &mut s.evicted_peer)
        && s.evicted_peer.check == digest(&s.evicted_peer_key)
        && is_half_of(&s.evicted_peer, &s.peer_key)
        && now <= s.evicted_peer.deadline
}

/// Ends the flow in `s.flow` under `s.key`, both halves.
#[inline(always)]
pub fn end<T: Tables>(t: &T, s: &mut Scratch, now: Instant) {
    release_pair(t, s, now, true);
}

/// Takes out the flow in `s.flow` under `s.key`, both halves. False if the other half still lives, and both stay.
#[inline(always)]
fn release_pair<T: Tables>(t: &T, s: &mut Scratch, now: Instant, even_alive: bool) -> bool {
    s.peer_key = s.flow.becomes.reversed(s.flow.becomes.zone);
    // Its place may have become that of another flow's half, which may be one of this tuple too.
    let found = t.flow(&s.peer_key, &mut s.peer) && s.peer.check == digest(&s.peer_key);
    if found && is_half_of(&s.peer, &s.key) {
        if !even_alive && now <= s.peer.deadline {
            return false;
        }
        t.release_seen(&s.peer_key, &s.peer);
    }
    t.release_seen(&s.key, &s.flow);
    true
}

/// Whether `peer` answers packets with the tuple `key`.
#[inline(always)]
pub fn is_half_of(peer: &Flow, key: &Tuple) -> bool {
    peer.becomes == key.reversed(key.zone)
}

/// Whether a packet with these headers must be noted on the flow in `s.flow`: once a tick in each direction, and when it changes
/// the flow's state. Then its way is looked up anew, too, and [`refresh`] writes both.
#[inline(always)]
pub fn must_note(s: &Scratch, h: Headers, now: Instant) -> bool {
    let leg = if s.flow.direction == 0 { s.flow.legs[0] } else { s.flow.legs[1] };
    is_first_of_tick(s, now) || leg_after(leg, s.flow.direction, h) != leg
}

/// Whether no packet of its direction has been noted this tick on the flow in `s.flow`.
#[inline(always)]
pub fn is_first_of_tick(s: &Scratch, now: Instant) -> bool {
    now != s.flow.last_seen || now.low_byte() != s.flow.noted
}

/// Writes this packet's note into its half and, where that cannot wait, into the other, rebuilding it where it is missing. False if the other's place is
/// another flow's: then this half is taken out and the packet starts anew.
#[inline(never)]
pub fn refresh<T: Tables>(t: &T, s: &mut Scratch, settings: &Settings, h: &Headers, now: Instant) -> bool {
    let h = *h;
    let direction = s.flow.direction;
    let (own, other) = if direction == 0 { (0, 1) } else { (1, 0) };
    let leg = leg_after(s.flow.legs[own], direction, h);
    let is_within = leg == s.flow.legs[own] && is_within_epoch(s, settings, now);
    s.flow.legs[own] = leg;
    firewall::renew(t, s, settings, now);
    if is_within {
        s.flow.noted = now.low_byte();
        live_on(&mut s.flow, s.key.protocol, settings, now);
        // If it is gone, another CPU has taken the flow out meanwhile, and this was its last packet.
        let _ = t.place(&s.key).map(|place| t.note(place, &s.flow, direction));
        return true;
    }
    s.peer_key = s.flow.becomes.reversed(s.flow.becomes.zone);
    let check = digest(&s.peer_key);
    let half = t.place(&s.peer_key).filter(|half| {
        t.read(*half, &mut s.peer);
        s.peer.check == check
    });
    if half.is_some() {
        if !is_half_of(&s.peer, &s.key) {
            t.release_seen(&s.key, &s.flow);
            return false;
        }
        // The other leg is the other half's to know.
        s.flow.legs[other] |= s.peer.legs[other];
    }
    s.flow.noted = now.low_byte();
    live_on(&mut s.flow, s.key.protocol, settings, now);
    let place = t.place(&s.key);
    let mut noted = place.map_or(Noted::Gone, |place| t.note(place, &s.flow, direction));
    if let (Noted::Behind, Some(place)) = (noted, place) {
        t.read(place, &mut s.evicted);
        if s.evicted.check == digest(&s.key) {
            s.flow.legs[other] |= s.evicted.legs[other];
            live_on(&mut s.flow, s.key.protocol, settings, now);
            noted = t.note(place, &s.flow, direction);
        }
    }
    if let Some(half) = half {
        s.peer.legs = s.flow.legs;
        s.peer.last_seen = s.flow.last_seen;
        s.peer.deadline = s.flow.deadline;
        t.note(half, &s.peer, direction);
        return true;
    }
    if noted == Noted::Gone {
        // Both are gone: another CPU has taken the flow out meanwhile, and this was its last packet.
        return true;
    }
    mirror(s);
    s.peer.check = check;
    // A loser of the race to put it back finds it there at the next tick.
    let _ = t.claim(&s.peer_key, &s.peer);
    true
}

/// Whether the other half of the flow in `s.flow` can wait: it has been seen this epoch, and has long to live.
#[inline(always)]
fn is_within_epoch(s: &Scratch, settings: &Settings, now: Instant) -> bool {
    let span = settings.timeouts.get(timeout(s.key.protocol, s.flow.legs) as usize);
    now.is_in_epoch_of(s.flow.last_seen) && now <= s.flow.deadline && span.is_some_and(|span| *span >= Span::LONG)
}

/// Reads the flow of `s.key` into `s.flow`, which stays as it is where there is none, or one that is being taken out.
#[inline(always)]
pub fn adopt<T: Tables>(t: &T, s: &mut Scratch) -> bool {
    let found = t.flow(&s.key, &mut s.evicted) && s.evicted.check == digest(&s.key) && !s.evicted.is_ending();
    if found {
        s.flow = s.evicted;
    }
    found
}

/// Writes into a stored half what a packet of `direction` noted: the times, that direction's leg, and, in the half of the
/// direction itself, the way. What [`Tables::note`] does with the element it finds.
#[inline(always)]
pub fn write_note(stored: &mut Flow, noted: &Flow, direction: u8) -> Noted {
    // Another flow may have the place meanwhile, under another key or, after an eviction, under the same.
    if stored.check != noted.check || stored.becomes != noted.becomes {
        return Noted::Gone;
    }
    let unknown = if direction == 0 { stored.legs[1] & !noted.legs[1] } else { stored.legs[0] & !noted.legs[0] };
    let up_to_date = unknown == 0;
    if up_to_date || noted.deadline > stored.deadline {
        stored.deadline = noted.deadline;
    }
    stored.last_seen = noted.last_seen;
    if direction == 0 {
        stored.legs[0] = noted.legs[0];
    } else {
        stored.legs[1] = noted.legs[1];
    }
    if stored.direction == direction {
        stored.next = noted.next.copied();
        stored.via = noted.via;
        stored.generation = noted.generation;
        stored.passage = noted.passage;
        stored.noted = noted.noted;
    }
    if up_to_date { Noted::Written } else { Noted::Behind }
}

/// What became of a note.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noted {
    /// The flow is gone, or its place another's.
    Gone,
    /// It is written.
    Written,
    /// It is written, but the other direction has noted something meanwhile: of the two deadlines the later one stands.
    Behind,
}

#[inline(always)]
fn live_on(flow: &mut Flow, protocol: u8, settings: &Settings, now: Instant) {
    flow.last_seen = now;
    let timeout = timeout(protocol, flow.legs) as usize;
    if let Some(span) = settings.timeouts.get(timeout) {
        flow.deadline = now.after(*span);
    }
}

/// Fills in `s.peer_key` and `s.peer`, the other half of `s.flow`, all but its check. Its way is not known yet.
#[inline(always)]
fn mirror(s: &mut Scratch) {
    s.peer_key = s.flow.becomes.reversed(s.flow.becomes.zone);
    s.peer.becomes = s.key.reversed(s.key.zone);
    s.peer.next = Default::default();
    s.peer.last_seen = s.flow.last_seen;
    s.peer.deadline = s.flow.deadline;
    s.peer.address_delta = s.flow.address_delta.undone();
    s.peer.port_delta = s.flow.port_delta.undone();
    s.peer.created = s.flow.created;
    s.peer.legs = s.flow.legs;
    s.peer.direction = 1 - (s.flow.direction & 1);
    s.peer.via = crate::tables::Via::Stack as u8;
    s.peer.generation = s.flow.generation;
    s.peer.passage = firewall::unproved(s.flow.generation);
    s.peer.noted = s.flow.noted;
}

/// Why a flow could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EstablishError {
    /// The reply's tuple is another flow's: another port may do.
    ReplyTaken,
    /// Another CPU made a flow of this tuple first; it is in the table now.
    Lost,
    /// The table is full.
    Full,
    /// The kernel refused for the moment.
    Busy,
}

impl From<ClaimError> for EstablishError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Taken => Self::ReplyTaken,
            ClaimError::Full => Self::Full,
            ClaimError::Busy => Self::Busy,
        }
    }
}

/// Fills in both halves of the flow in which `s.key` becomes `s.flow.becomes`, all but what depends on its source port.
/// `s.flow.next` and `via` are the caller's.
///
/// Not inlined, nor are [`refresh`] and [`evict::make_room`]: what first packets and notes need must not lie on the stack of each
/// packet, of which a chain of calls has 512 bytes.
#[inline(never)]
pub fn prepare(s: &mut Scratch, settings: &Settings, h: &Headers, now: Instant) {
    let h = *h;
    s.flow.legs = [leg_after(0, 0, h), 0];
    s.flow.direction = 0;
    s.flow.created = now;
    s.flow.generation = if firewall::crosses(s) { settings.firewall.generation } else { 0 };
    s.flow.passage = firewall::unproved(s.flow.generation);
    s.flow.noted = now.low_byte();
    s.flow.address_delta =
        Delta::NONE.and_address(s.key.src, s.flow.becomes.src).and_address(s.key.dst, s.flow.becomes.dst);
    s.flow.check = digest(&s.key);
    live_on(&mut s.flow, s.key.protocol, settings, now);
    mirror(s);
}

/// Makes the flow that was prepared, with the source port in `s.flow.becomes`: claims the reply's tuple first, so that no
/// two flows ever share one, then its own.
#[inline(always)]
pub fn establish<T: Tables>(t: &T, s: &mut Scratch) -> Result<(), EstablishError> {
    let becomes = &s.flow.becomes;
    s.flow.port_delta =
        Delta::NONE.and_port(s.key.src_port, becomes.src_port).and_port(s.key.dst_port, becomes.dst_port);
    s.peer_key.dst_port = becomes.src_port;
    s.peer.port_delta = s.flow.port_delta.undone();
    s.peer.check = digest(&s.peer_key);
    t.claim(&s.peer_key, &s.peer)?;
    let Err(error) = t.claim(&s.key, &s.flow) else {
        evict::line_up(t, s);
        return Ok(());
    };
    t.release(&s.peer_key);
    Err(if error == ClaimError::Taken { EstablishError::Lost } else { error.into() })
}
