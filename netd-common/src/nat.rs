//! Translation: giving a packet the tuple its flow says, and finding a port for a flow that leaves.

use core::ops::ControlFlow;

use crate::{
    chapter::Chapter,
    checksum::{Delta, Field},
    conntrack::{self, EstablishError},
    evict::{self, Evict},
    packet::{Covers, ETH, Packet, Zero},
    parse::{Headers, Part, Transport},
    tables::{CURSORS, PublicationKey, Scratch, Search, Settings, Tables},
    tuple::{Address, ICMP, Port, SCTP, TCP, Tuple, UDP, Zone},
    verdict::DropReason,
};

/// Ports tried for one flow before it is refused.
pub const PROBES: u32 = 32;

/// Candidates in a row that must be taken for the pools to count as crowded. Then a closed connection gives up its port before
/// its time, as nf_nat's do: a server takes a SYN for a connection of its TIME-WAIT whose sequence number is higher (RFC 9293
/// section 3.6.1).
const CROWDED: u32 = 8;

/// Candidates of the pools that must be refused before the second pool is asked.
const IN_POOLS: u32 = 16;

/// Bytes from an IPv4 header's start to its fields.
pub mod ipv4 {
    /// Time to live, one byte.
    pub const TTL: usize = 8;
    /// Header checksum, two bytes.
    pub const CHECKSUM: usize = 10;
    /// Source address.
    pub const SOURCE: usize = 12;
    /// Destination address.
    pub const DESTINATION: usize = 16;
}

/// Bytes from an IPv6 header's start to its fields.
pub mod ipv6 {
    /// Hop limit, one byte.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SOURCE: usize = 8;
    /// Destination address.
    pub const DESTINATION: usize = 24;
}

/// What a packet's time to live does on its way.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// We route it: one less.
    Decrement = 0,
    /// The stack routes it, before or after us.
    Keep = 1,
}

impl From<u64> for Ttl {
    /// Of a number that is none's, that of what is routed.
    #[inline(always)]
    fn from(number: u64) -> Self {
        if number == Self::Keep as u64 { Self::Keep } else { Self::Decrement }
    }
}

/// Gives the packet in hand, whose headers are `h` and whose tuple is `s.key`, the tuple that `s.flow` says.
#[inline(never)]
pub fn rewrite<P: Packet>(p: &mut P, h: &Headers, s: &Scratch, ttl: Ttl) -> Result<(), DropReason> {
    let h = *h;
    rewrite_ip(p, h, s, ttl)?;
    if h.part == Part::Later {
        return Ok(());
    }
    match h.transport {
        Transport::Tcp => rewrite_ports(p, h.l4, 16, Zero::IsASum, s),
        Transport::Udp if s.key.protocol == SCTP => Ok(()),
        Transport::Udp => rewrite_ports(p, h.l4, 6, Zero::MeansNone, s),
        Transport::EchoRequest => rewrite_identifier(p, h, s, s.flow.becomes.src_port),
        Transport::EchoReply => rewrite_identifier(p, h, s, s.flow.becomes.dst_port),
        Transport::Error | Transport::Fragment | Transport::Opaque => Err(DropReason::Untranslatable),
    }
}

#[inline(always)]
fn rewrite_ip<P: Packet>(p: &mut P, h: Headers, s: &Scratch, ttl: Ttl) -> Result<(), DropReason> {
    let becomes = &s.flow.becomes;
    write_ip(p, h, s.key.protocol, s.flow.address_delta, [becomes.src, becomes.dst], ttl)
}

/// Writes source and destination, which differ from those in the header by `delta`, and counts the time to live down.
#[inline(always)]
pub fn write_ip<P: Packet>(
    p: &mut P,
    h: Headers,
    protocol: u8,
    delta: Delta,
    [src, dst]: [Address; 2],
    ttl: Ttl,
) -> Result<(), DropReason> {
    let lower = h.ttl.saturating_sub(1);
    if h.v4 {
        let mut delta = delta;
        if ttl == Ttl::Decrement {
            delta = delta.and_word([h.ttl, protocol], [lower, protocol]);
            p.write(ETH + ipv4::TTL, [lower])?;
        }
        p.replace_l3(ETH + ipv4::CHECKSUM, delta)?;
        p.write(ETH + ipv4::SOURCE, src.v4_bytes())?;
        return p.write(ETH + ipv4::DESTINATION, dst.v4_bytes());
    }
    let mut delta = delta;
    if ttl == Ttl::Decrement {
        delta = delta.and_word([protocol, h.ttl], [protocol, lower]);
        p.write(ETH + ipv6::HOP_LIMIT, [lower])?;
    }
    p.replace_sum(delta);
    p.write(ETH + ipv6::SOURCE, src.bytes())?;
    p.write(ETH + ipv6::DESTINATION, dst.bytes())
}

#[inline(always)]
fn rewrite_ports<P: Packet>(p: &mut P, l4: usize, field: usize, zero: Zero, s: &Scratch) -> Result<(), DropReason> {
    let becomes = &s.flow.becomes;
    let (a, b) = (becomes.src_port.bytes(), becomes.dst_port.bytes());
    p.write(l4, [a[0], a[1], b[0], b[1]])?;
    let (at, addresses, ports) = (l4 + field, s.flow.address_delta, s.flow.port_delta);
    if ports.is_none() {
        return if addresses.is_none() { Ok(()) } else { p.replace_l4(at, addresses, Covers::PseudoHeader, zero) };
    }
    if addresses.is_none() {
        return p.replace_l4(at, ports, Covers::Segment, zero);
    }
    let before = p.read::<2>(at)?;
    p.replace_l4(at, addresses, Covers::PseudoHeader, zero)?;
    // A call of the kernel's less: what it has made of the field tells whether there is a sum of the ports in it.
    let after = p.read::<2>(at)?;
    match addresses.reveals(before, after) {
        Some(Field::Pseudo) => Ok(()),
        Some(Field::Checksum) => p.write(at, zero.written(ports.applied_to(after))),
        None => p.replace_l4(at, ports, Covers::Segment, zero),
    }
}

/// An echo's identifier stands where it stands; ICMP has no pseudo-header, ICMPv6 has (RFC 4443 section 2.3).
#[inline(always)]
fn rewrite_identifier<P: Packet>(p: &mut P, h: Headers, s: &Scratch, identifier: Port) -> Result<(), DropReason> {
    p.write(h.l4 + 4, identifier.bytes())?;
    if !s.flow.port_delta.is_none() {
        p.replace_l4(h.l4 + 2, s.flow.port_delta, Covers::Segment, Zero::IsASum)?;
    }
    if s.key.protocol != ICMP && !s.flow.address_delta.is_none() {
        p.replace_l4(h.l4 + 2, s.flow.address_delta, Covers::PseudoHeader, Zero::IsASum)?;
    }
    Ok(())
}

/// Makes the flow that was [prepared](conntrack::prepare) as [`search`] does, in a full table in place of one that is worth
/// less.
#[inline(always)]
pub fn establish_with_port<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    s: &mut Scratch,
    keep: bool,
) -> Result<(), DropReason> {
    let found = p.tell(Chapter::Search, t, s, keep.into());
    let is_full = found.reason() == Some(DropReason::TableFull);
    let found =
        if is_full && evict::make_room(t, s, t.now()) { p.tell(Chapter::Search, t, s, keep.into()) } else { found };
    found.answer().map(|_| ())
}

/// Makes the flow that was prepared, with a source port that leads every answer back to it alone:
/// its own where it may be kept, else one of the pools, else one of the second pool.
///
/// `keep` says that its own may be kept whatever the host's own sockets do: towards a container, not towards the outside.
#[inline(always)]
pub fn search<T: Tables>(t: &T, s: &mut Scratch, keep: bool) -> Result<(), DropReason> {
    let Some(settings) = t.settings() else { return Err(DropReason::UnknownDevice) };
    if settings.pools.iter().all(|pool| pool.is_empty()) && settings.second.is_empty() {
        return Err(DropReason::PortsExhausted);
    }
    s.search = Search { now: t.now(), keep: u32::from(keep), ..Search::default() };
    s.flow.becomes.src_port = s.key.src_port;
    if !keep && !may_be_kept(&s.key, settings) {
        next(t, s, settings);
    }
    let mut outcome = Err(DropReason::PortsExhausted);
    t.repeat(PROBES, || {
        match candidate(t, s) {
            Candidate::Refused => {
                outcome = Err(DropReason::PortsExhausted);
                next(t, s, settings);
            }
            Candidate::AgainTheSame => {}
            // Where another flow goes there may be one.
            Candidate::NoPlace => outcome = Err(DropReason::TableFull),
            Candidate::Established => return ends(&mut outcome, Ok(())),
            Candidate::TableFull => return ends(&mut outcome, Err(DropReason::TableFull)),
        }
        ControlFlow::Continue(())
    });
    // Where there is no place for a flow, it is not a port that was not found.
    if outcome != Err(DropReason::TableFull) {
        t.count_search(if outcome.is_ok() { s.search.tried } else { 0 });
    }
    if is_fixed(s) && outcome == Err(DropReason::PortsExhausted) {
        return Err(DropReason::TupleTaken);
    }
    outcome
}

/// Whether no other port than its own would do: that of SCTP, and that of a packet between containers of one network, which
/// stays as it is.
#[inline(always)]
fn is_fixed(s: &Scratch) -> bool {
    let becomes = &s.flow.becomes;
    let stays = becomes.zone == s.key.zone && becomes.src == s.key.src;
    s.key.protocol == SCTP || stays && becomes.zone != Zone::HOST
}

#[inline(always)]
fn ends(outcome: &mut Result<(), DropReason>, with: Result<(), DropReason>) -> ControlFlow<()> {
    *outcome = with;
    ControlFlow::Break(())
}

/// What became of a candidate.
enum Candidate {
    /// It is the flow's.
    Established,
    /// It is another's.
    Refused,
    /// What was in the way may be gone: the winner of a race, a flow that was over.
    AgainTheSame,
    /// The kernel has no place in the table for the moment: another try may find one.
    NoPlace,
    /// There is no room for the flow, whatever its port.
    TableFull,
}

/// Tries the port in `s.flow.becomes`.
#[inline(always)]
fn candidate<T: Tables>(t: &T, s: &mut Scratch) -> Candidate {
    s.search.tried = s.search.tried.wrapping_add(1);
    if s.search.keep == 0 && is_the_hosts(t, s) {
        s.search.skip = mix(s.search.skip, s.search.tried);
        return Candidate::Refused;
    }
    match conntrack::establish(t, s) {
        Ok(()) => Candidate::Established,
        Err(EstablishError::Lost) if conntrack::adopt(t, s) => Candidate::Established,
        Err(EstablishError::Full) => Candidate::TableFull,
        Err(EstablishError::Lost) => Candidate::AgainTheSame,
        Err(EstablishError::Busy) => Candidate::NoPlace,
        Err(EstablishError::ReplyTaken) => {
            let which = if s.search.taken < CROWDED { Evict::Expired } else { Evict::Closed };
            if evict::evict_reply(t, s, s.search.now, which) {
                return Candidate::AgainTheSame;
            }
            s.search.taken = s.search.taken.wrapping_add(1);
            Candidate::Refused
        }
    }
}

/// Whether the source port may stay: the host's own sockets are not given it. An echo's identifier is no port.
#[inline(always)]
fn may_be_kept(key: &Tuple, settings: &Settings) -> bool {
    let has_port = key.protocol == TCP || key.protocol == UDP;
    !has_port || !settings.ephemeral.contains(key.src_port.number())
}

/// Whether the candidate source address and port are taken on the host: reserved by its operator, published, exactly or on
/// every address, or a socket of its own that an answer would reach.
#[inline(always)]
fn is_the_hosts<T: Tables>(t: &T, s: &mut Scratch) -> bool {
    let becomes = &s.flow.becomes;
    if (becomes.protocol == TCP || becomes.protocol == UDP) && t.is_reserved(becomes.src_port.number()) {
        return true;
    }
    s.publication = PublicationKey::new(becomes.src, becomes.protocol, becomes.src_port);
    if t.publication(&mut s.publication).is_some() {
        return true;
    }
    s.publication = PublicationKey::new(becomes.src.any_of_family(), becomes.protocol, becomes.src_port);
    t.publication(&mut s.publication).is_some() || t.has_socket(&s.flow.becomes)
}

/// Goes on to the next candidate: from a keyed hash of the destination on, one further for each look at it (RFC 6056
/// section 3.3.4), so that ports fill up in order and come back oldest first. Each look counts and not each flow: what is
/// taken otherwise (ports that flows kept) is looked at once a round and not by every search.
///
/// The second pool has a cursor of its own.
#[inline(always)]
fn next<T: Tables>(t: &T, s: &mut Scratch, settings: &Settings) {
    let hash = hash(settings.secret, &s.flow.becomes);
    let first = settings.pools[0].len() + settings.pools[1].len();
    let in_first = first != 0 && (s.search.tried < IN_POOLS || settings.second.is_empty());
    let (size, start) = if in_first { (first, hash) } else { (settings.second.len(), hash.rotate_left(16)) };
    let place = start.wrapping_add(t.cursor(start % CURSORS)).wrapping_add(s.search.skip);
    let offset = place.checked_rem(size).unwrap_or(0);
    let port = if in_first { pool_port(settings, offset) } else { settings.second.first.wrapping_add(offset as u16) };
    // There is no other to try: what is in the way may go meanwhile.
    s.flow.becomes.src_port = if is_fixed(s) { s.key.src_port } else { Port::new(port) };
}

/// A hash of the destination that one who does not know the secret cannot predict.
#[inline(always)]
fn hash(secret: [u32; 2], tuple: &Tuple) -> u32 {
    let mut h = secret[0];
    for word in tuple.dst.words() {
        h = mix(h, word);
    }
    let ports = u32::from(tuple.dst_port.number()) << 16 | u32::from(tuple.protocol);
    mix(mix(h, ports), secret[1])
}

/// One round of a 32-bit mixer (the finaliser of MurmurHash3 between keyed additions).
#[inline(always)]
fn mix(h: u32, word: u32) -> u32 {
    let mut h = (h ^ word).wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}

/// Port `offset` of the two pools laid end to end.
#[inline(always)]
fn pool_port(settings: &Settings, offset: u32) -> u16 {
    let [first, second] = settings.pools;
    if offset < first.len() {
        first.first.wrapping_add(offset as u16)
    } else {
        second.first.wrapping_add((offset - first.len()) as u16)
    }
}

/// Sets up `s.flow.becomes` for a packet that leaves as `source`.
#[inline(always)]
pub fn masquerade_as(s: &mut Scratch, source: Address) {
    s.flow.becomes = s.key;
    s.flow.becomes.src = source;
    s.flow.becomes.zone = Zone::HOST;
}
