//! ICMP errors of our own (RFC 792, RFC 4443): the packet in hand becomes an error about itself, which goes back to its sender.
//!
//! The quoted checksum is made one that a device would write too: where it was left to the device, whoever sends the error
//! still has that sum to make, and nothing says so here. Nobody looks at the quoted one, whose packet is cut.

use crate::{
    checksum::{Delta, complement},
    hooks::Decided,
    nat::ipv4,
    packet::{ETH, Label, Packet},
    parse::{IPV4_HEADER, IPV6_HEADER, Transport},
    policy,
    tables::{Hook, Scratch, Tables, segment_flags},
    tuple::{Address, ICMP, ICMPV6},
    verdict::{DropReason, Verdict},
};

/// Bytes of an ICMP or ICMPv6 header.
const ICMP_HEADER: usize = 8;
/// Bytes of a transport header that are quoted: all that TCP's receivers look at, and what every error has (RFC 792).
const QUOTED_TCP: usize = 20;
const QUOTED_OTHERS: usize = 8;
/// Hops that an error has left.
const TTL: u8 = 64;

/// Whether a packet that is too large is its sender's to make smaller.
#[inline(always)]
pub fn may_not_be_cut<P: Packet>(p: &P, v4: u8) -> Result<bool, DropReason> {
    Ok(v4 == 0 || p.read::<1>(ETH + 6)?[0] & 0x40 != 0)
}

/// Whether a packet that is too large for the tunnel to `vtep` is its sender's to make smaller. Over IPv4 the host's stack cuts the
/// datagram around one that may be cut. Over IPv6 it cuts what its own sockets have sent and nothing else (`ip6_fragment`), so there each is.
#[inline(always)]
pub fn is_for_sender<P: Packet>(p: &P, v4: u8, vtep: Address) -> Result<bool, DropReason> {
    Ok(!vtep.is_v4() || may_not_be_cut(p, v4)?)
}

/// Forbids others to cut an IPv4 packet, so that the stack answers where it would have cut it.
#[inline(always)]
pub fn forbid_cut<P: Packet>(p: &mut P) -> Result<(), DropReason> {
    let [flags, low] = p.read::<2>(ETH + 6)?;
    let forbidden = [flags | 0x40, low];
    p.write(ETH + 6, forbidden)?;
    p.replace_l3(ETH + ipv4::CHECKSUM, Delta::NONE.and_word([flags, low], forbidden))
}

/// Refuses the packet with the tuple `s.key`, which fits no further than `s.mtu` bytes, or is nobody's where that is 0: drops
/// it, and has its sender told by the network's gateway, if that is one to be told (RFC 1122 section 3.2.2). The error leaves
/// by where the packet came: into the container, or into the tunnel in `s.tunnel`.
#[inline(always)]
pub fn refuse<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let reason = if s.mtu == 0 { DropReason::NoEndpoint } else { DropReason::TooBig };
    let header = if s.noted.v4 == 0 { IPV6_HEADER } else { IPV4_HEADER };
    let plain = s.noted.l4 as usize == ETH + header;
    if !plain || !s.noted.is_answerable(s.key.protocol) || !policy::goes_beyond_link(s.key.src) {
        return Err(reason);
    }
    let (hook, verdict) = match (t.device(p.device()), t.segment(s.tunnel.vni)) {
        (Some(device), _) => {
            s.endpoint.address = device.gateway(s.key.dst);
            (Hook::FromContainer, Verdict::Peer(device.ifindex))
        }
        // By hand every peer is asked for whom nobody knows: who does not have it is silent, or the asker would learn it here.
        (None, Some(segment)) if s.mtu > 0 || !segment.has(segment_flags::LEARNS) => {
            s.endpoint.address = segment.gateway(s.key.dst);
            (Hook::FromOverlay, Verdict::Tunnel(segment.tunnel))
        }
        (None, _) => return Err(reason),
    };
    become_error(p, s)?;
    t.count_drop(hook, reason);
    match (hook, t.segment(s.tunnel.vni)) {
        (Hook::FromOverlay, Some(segment)) => super::seal(p, t, s, segment)?,
        _ => p.set_label(Label::Approved),
    }
    Ok(verdict.packed())
}

/// Makes the packet an error that quotes it.
#[inline(always)]
fn become_error<P: Packet>(p: &mut P, s: &mut Scratch) -> Result<(), DropReason> {
    let quoted = if s.noted.transport() == Transport::Tcp { QUOTED_TCP } else { QUOTED_OTHERS };
    let v4 = s.noted.v4 != 0;
    cut(p, s, ETH + if v4 { IPV4_HEADER } else { IPV6_HEADER }, quoted)?;
    if v4 { write::<P, IPV4_HEADER>(p, s, quoted as u16) } else { write::<P, IPV6_HEADER>(p, s, quoted as u16) }
}

/// Leaves what is quoted, and notes the sum of it and what that changed.
#[inline(never)]
fn cut<P: Packet>(p: &mut P, s: &mut Scratch, l4: usize, quoted: usize) -> Result<(), DropReason> {
    p.cut(l4 + quoted)?;
    s.quote.changed = settle_checksum(p, s, l4, l4 + quoted)?;
    s.quote.checksum = sum_of(p, ETH, l4 + quoted)?;
    Ok(())
}

/// Writes the headers of the error before what is quoted: `IP` bytes of IP header and `l4` bytes after it. In words: an array
/// would lie on the stack, a byte a register.
#[inline(never)]
fn write<P: Packet, const IP: usize>(p: &mut P, s: &Scratch, l4: u16) -> Result<(), DropReason> {
    p.insert(IP + ICMP_HEADER)?;
    turn_back(p)?;
    let v4 = IP == IPV4_HEADER;
    let length = (ICMP_HEADER + IP) as u16 + l4;
    let header = if v4 { write_ipv4(p, s, length)? } else { write_ipv6(p, s, length)? };
    let (what, mtu) = said(v4, s.mtu);
    let pseudo = if v4 { 0 } else { addresses(s) + words([word([0, ICMPV6, 0, 0]), length.to_be().into()]) };
    let [a, b] = complement(words([word(what), mtu]) + s.quote.checksum + pseudo);
    let first = word([what[0], what[1], a, b]);
    p.write(ETH + IP, first.to_ne_bytes())?;
    p.write(ETH + IP + 4, mtu.to_ne_bytes())?;
    p.replace_sum(s.quote.changed.and(Delta::added(header + words([first, mtu]))));
    Ok(())
}

/// Four bytes as a word of memory.
#[inline(always)]
const fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// The sum of the halves of words of memory.
#[inline(always)]
fn words<const N: usize>(words: [u32; N]) -> u32 {
    words.into_iter().map(|word| (word & 0xffff) + (word >> 16)).sum()
}

/// The sum of the addresses of the error: the gateway's, and that of the packet's sender.
#[inline(always)]
fn addresses(s: &Scratch) -> u32 {
    if s.key.src.is_v4() {
        words([s.endpoint.address.words()[3], s.key.src.words()[3]])
    } else {
        words(s.endpoint.address.words()) + words(s.key.src.words())
    }
}

/// Source and destination of the frame change places.
#[inline(always)]
fn turn_back<P: Packet>(p: &mut P) -> Result<(), DropReason> {
    for at in [0, 2, 4] {
        let (to, from) = (p.read::<2>(at)?, p.read::<2>(at + 6)?);
        p.write(at, from)?;
        p.write(at + 6, to)?;
    }
    Ok(())
}

/// The type and code of the error, and its second word: an unreachable host or address, or the packet is too large (RFC 1191,
/// RFC 4443 section 3.2).
#[inline(always)]
const fn said(v4: bool, mtu: u32) -> ([u8; 4], u32) {
    match (v4, mtu) {
        (true, 0) => ([3, 1, 0, 0], 0),
        (true, _) => ([3, 4, 0, 0], mtu.to_be()),
        (false, 0) => ([1, 3, 0, 0], 0),
        (false, _) => ([2, 0, 0, 0], mtu.to_be()),
    }
}

/// Writes an IPv4 header before `length` bytes; the sum of its words.
#[inline(always)]
fn write_ipv4<P: Packet>(p: &mut P, s: &Scratch, length: u16) -> Result<u32, DropReason> {
    let [high, low] = (IPV4_HEADER as u16 + length).to_be_bytes();
    let (first, second) = (word([0x45, 0, high, low]), word([0, 0, 0x40, 0]));
    let sum = addresses(s) + words([first, second, word([TTL, ICMP, 0, 0])]);
    let [a, b] = complement(sum);
    p.write(ETH, first.to_ne_bytes())?;
    p.write(ETH + 4, second.to_ne_bytes())?;
    p.write(ETH + 8, [TTL, ICMP, a, b])?;
    p.write(ETH + 12, s.endpoint.address.v4_bytes())?;
    p.write(ETH + 16, s.key.src.v4_bytes())?;
    Ok(sum + words([word([a, b, 0, 0])]))
}

/// The same of IPv6.
#[inline(always)]
fn write_ipv6<P: Packet>(p: &mut P, s: &Scratch, length: u16) -> Result<u32, DropReason> {
    let [high, low] = length.to_be_bytes();
    let (first, second) = (word([0x60, 0, 0, 0]), word([high, low, ICMPV6, TTL]));
    p.write(ETH, first.to_ne_bytes())?;
    p.write(ETH + 4, second.to_ne_bytes())?;
    super::write_address(p, ETH + 8, s.endpoint.address)?;
    super::write_address(p, ETH + 24, s.key.src)?;
    Ok(addresses(s) + words([first, second]))
}

/// The sum of the 16-bit words from `at` to `end`, a multiple of four bytes and no more than two headers have.
#[inline(never)]
fn sum_of<P: Packet>(p: &P, at: usize, end: usize) -> Result<u32, DropReason> {
    let mut total = 0;
    for i in 0..(IPV6_HEADER + QUOTED_TCP) / 4 {
        if at + i * 4 >= end {
            break;
        }
        total += words([u32::from_ne_bytes(p.read::<4>(at + i * 4)?)]);
    }
    Ok(total)
}

/// Gives the quoted transport header from `l4` to `end` a checksum that is also what a device would put there: twice itself and
/// the sum of the rest are no sum at all. What that changes.
#[inline(always)]
fn settle_checksum<P: Packet>(p: &mut P, s: &Scratch, l4: usize, end: usize) -> Result<Delta, DropReason> {
    let at = match s.noted.transport() {
        Transport::Tcp => l4 + 16,
        Transport::Udp => l4 + 6,
        _ => return Ok(Delta::NONE),
    };
    let old = p.read::<2>(at)?;
    p.write(at, [0, 0])?;
    let rest = u32::from(u16::from_ne_bytes(complement(sum_of(p, l4, end)?)));
    let half = if rest & 1 == 0 { rest / 2 } else { (rest + 0xffff) / 2 };
    let new = if half == 0 { [0xff; 2] } else { (half as u16).to_ne_bytes() };
    p.write(at, new)?;
    Ok(Delta::NONE.and_word(old, new))
}
