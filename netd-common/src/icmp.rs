//! ICMP errors: messages about a packet of a flow, which they quote. They travel as the flow's own packets do, and what they
//! quote must be what their receiver once sent.
//!
//! The flow is found by the tuple of the quoted packet's answers, for an error is one. Every quoted byte is under the error's
//! own checksum.

use crate::{
    chapter::Chapter,
    checksum::Delta,
    conntrack,
    nat::{self, Ttl, ipv4, ipv6},
    packet::{Covers, Packet, Zero},
    parse::{self, Extensions, FRAGMENT_HEADER, Headers, IPV4_HEADER, IPV6_HEADER, Transport},
    tables::{DeviceKind, Quote, Route, Scratch, Tables},
    tuple::{Address, ICMP, Port, SCTP, Tuple, UDP, echo},
    verdict::DropReason,
};

/// Bytes of an ICMP or ICMPv6 header, after which the quoted packet begins.
const ICMP_HEADER: usize = 8;
/// Bytes of the longest IPv4 header and the part of a transport header that is always quoted (RFC 792).
const LONGEST_QUOTE: usize = 60 + 8;
/// Bytes from an ICMP header's start to its checksum.
const ICMP_CHECKSUM: usize = 2;

/// Finds the flow that the error in hand is about, into `s.flow`, the tuple of the quoted packet's answers into `s.peer_key` and
/// the quoted packet's place into `s.quote`. False if it is about no flow of the zone in `s.key`, or quotes too little to tell.
///
/// Not inlined, nor is [`rewrite`]: errors are rare, and what they need must not lie on the stack of other packets.
#[inline(never)]
pub fn find<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers) -> bool {
    p.reach(h.l4 + ICMP_HEADER + LONGEST_QUOTE);
    let Ok(true) = read(p, h, &mut s.evicted_key, &mut s.quote) else { return false };
    s.peer_key = s.evicted_key.reversed(s.key.zone);
    conntrack::find_quoted(t, s, t.now())
}

/// Whether the error in hand is from the very end of the flow found by [`find`] that the quoted packet was for, and not from a third.
#[inline(always)]
pub fn is_from_end(s: &Scratch) -> bool {
    s.key.src == s.peer_key.src
}

/// The same as [`find`] for an error that the host itself sends, about a packet that was translated when it came: what it quotes was on its
/// way to a container, of the network that the host's routing leads to.
///
/// The host's routing picks its source, the first address of the device towards the sender (`icmp_send`, `icmp6_send`), since the
/// quoted packet's destination is no address of the host's. [`rewrite`] makes it the one that the sender knows.
#[inline(never)]
pub fn find_hosts<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers) -> bool {
    p.reach(h.l4 + ICMP_HEADER + LONGEST_QUOTE);
    let Ok(true) = read(p, h, &mut s.evicted_key, &mut s.quote) else { return false };
    if t.route(p.device(), 0, &s.evicted_key, &mut s.flow.next) != Route::Forward {
        return false;
    }
    match t.device(s.flow.next.device) {
        Some(device) if device.is(DeviceKind::Bridge) => s.key.zone = device.zone,
        _ => return false,
    }
    s.quote.by_host = 1;
    s.peer_key = s.evicted_key.reversed(s.key.zone);
    conntrack::find_quoted(t, s, t.now())
}

/// Reads the quoted packet's tuple. False if it is none that a flow could have.
#[inline(always)]
fn read<P: Packet>(p: &mut P, h: Headers, quoted: &mut Tuple, quote: &mut Quote) -> Result<bool, DropReason> {
    let ip = h.l4 + ICMP_HEADER;
    let l4 = if h.v4 {
        let b = p.read::<IPV4_HEADER>(ip)?;
        quoted.protocol = b[9];
        quoted.src = Address::v4([b[12], b[13], b[14], b[15]]);
        quoted.dst = Address::v4([b[16], b[17], b[18], b[19]]);
        if b[6] & 0x1f != 0 || b[7] != 0 {
            return Ok(false);
        }
        ip + usize::from(b[0] & 0x0f) * 4
    } else {
        quoted.protocol = p.read::<1>(ip + 6)?[0];
        quoted.src = Address::v6(p.read::<16>(ip + ipv6::SOURCE)?);
        quoted.dst = Address::v6(p.read::<16>(ip + ipv6::DESTINATION)?);
        let Extensions { l4, fragment } = parse::skip_extensions(p, ip + IPV6_HEADER, quoted);
        if fragment != 0 {
            let f = p.read::<FRAGMENT_HEADER>(fragment)?;
            if f[2] != 0 || f[3] & 0xf8 != 0 {
                return Ok(false);
            }
        }
        l4
    };
    quoted.echo = echo::NONE;
    quoted.src_port = Port::NONE;
    quoted.dst_port = Port::NONE;
    let checksum = match parse::quoted_transport(p, l4, h.v4, quoted)? {
        Transport::Tcp => 16,
        // Of SCTP none covers what changes.
        Transport::Udp if quoted.protocol == SCTP => 0,
        Transport::Udp => 6,
        Transport::EchoRequest | Transport::EchoReply => ICMP_CHECKSUM,
        Transport::Error | Transport::Fragment | Transport::Opaque => return Ok(false),
    };
    *quote = Quote {
        ip: ip as u32,
        l4: l4 as u32,
        checksum: if checksum == 0 { 0 } else { (l4 + checksum) as u32 },
        changed: Delta::NONE,
        by_host: 0,
    };
    Ok(true)
}

/// The same as [`rewrite`], as a chapter.
#[inline(always)]
pub fn translate<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, ttl: Ttl) -> Result<(), DropReason> {
    p.tell(Chapter::RewriteError, t, s, ttl as u64).answer().map(|_| ())
}

/// Translates the error in hand, whose tuple is `s.key`, as the flow in `s.flow` translates: the quoted packet, and each of the
/// error's own addresses that is one of the flow's. A router's stays its own, and so does the host's where the flow's address is the
/// container's own outside too.
#[inline(always)]
pub fn rewrite<P: Packet>(p: &mut P, h: Headers, s: &mut Scratch, ttl: Ttl) -> Result<(), DropReason> {
    rewrite_quoted(p, h.v4, s)?;
    rewrite_own(p, h, s, ttl)
}

#[inline(never)]
fn rewrite_own<P: Packet>(p: &mut P, h: Headers, s: &Scratch, ttl: Ttl) -> Result<(), DropReason> {
    let becomes = &s.flow.becomes;
    let by_host = s.quote.by_host != 0 && s.peer_key.src != becomes.src;
    let src = if by_host || s.key.src == s.peer_key.src { becomes.src } else { s.key.src };
    let dst = if s.key.dst == s.peer_key.dst { becomes.dst } else { s.key.dst };
    let outer = Delta::NONE.and_address(s.key.src, src).and_address(s.key.dst, dst);
    nat::write_ip(p, h, s.key.protocol, outer, [src, dst], ttl)?;
    p.replace_l4(h.l4 + ICMP_CHECKSUM, s.quote.changed, Covers::Segment, Zero::IsASum)?;
    if !h.v4 && !outer.is_none() {
        p.replace_l4(h.l4 + ICMP_CHECKSUM, outer, Covers::PseudoHeader, Zero::IsASum)?;
    }
    Ok(())
}

/// Writes the quoted packet as its sender sent it, its checksums with it, and notes what all of that changes under the error's
/// own.
#[inline(never)]
fn rewrite_quoted<P: Packet>(p: &mut P, v4: bool, s: &mut Scratch) -> Result<(), DropReason> {
    // Quoted is the other direction's packet: its source is where the answers go.
    let (ip, checksum) = (s.quote.ip as usize, s.quote.checksum as usize);
    let (was, is) = (&s.peer_key, &s.flow.becomes);
    let addresses = Delta::NONE.and_address(was.dst, is.dst).and_address(was.src, is.src);
    s.quote.changed = addresses;
    if v4 {
        p.write(ip + ipv4::SOURCE, is.dst.v4_bytes())?;
        p.write(ip + ipv4::DESTINATION, is.src.v4_bytes())?;
        let old = p.read::<2>(ip + ipv4::CHECKSUM)?;
        let new = addresses.applied_to(old);
        p.write(ip + ipv4::CHECKSUM, new)?;
        s.quote.changed = addresses.and_word(old, new);
    } else {
        p.write(ip + ipv6::SOURCE, is.dst.bytes())?;
        p.write(ip + ipv6::DESTINATION, is.src.bytes())?;
    }
    let ports = rewrite_quoted_ports(p, s)?;
    s.quote.changed = s.quote.changed.and(ports);
    // TCP's checksum is past the eight bytes that every error quotes.
    let protocol = s.peer_key.protocol;
    let Ok(old) = p.read::<2>(checksum) else { return Ok(()) };
    if protocol == SCTP || protocol == UDP && old == [0, 0] {
        return Ok(());
    }
    let covered = if protocol == ICMP { ports } else { addresses.and(ports) };
    let new = covered.applied_to(old);
    p.write(checksum, new)?;
    s.quote.changed = s.quote.changed.and_word(old, new);
    Ok(())
}

#[inline(always)]
fn rewrite_quoted_ports<P: Packet>(p: &mut P, s: &Scratch) -> Result<Delta, DropReason> {
    let (was, is) = (&s.peer_key, &s.flow.becomes);
    let ports = Delta::NONE.and_port(was.dst_port, is.dst_port).and_port(was.src_port, is.src_port);
    if was.echo == echo::NONE {
        let (a, b) = (is.dst_port.bytes(), is.src_port.bytes());
        p.write(s.quote.l4 as usize, [a[0], a[1], b[0], b[1]])?;
    } else {
        // One of the two is the identifier; the other is none.
        let identifier = if was.echo == echo::REPLY { is.dst_port } else { is.src_port };
        p.write(s.quote.l4 as usize + 4, identifier.bytes())?;
    }
    Ok(ports)
}
