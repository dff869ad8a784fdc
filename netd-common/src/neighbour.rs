//! Who is at which link-layer address: what a container may say of that (ARP, RFC 826, and Neighbor Discovery, RFC 4861), and
//! what a program answers in place of containers that a network keeps apart.

use crate::{
    checksum::Delta,
    hooks::{Decided, PASS},
    nat::ipv6,
    overlay,
    packet::{Covers, ETH, Label, Packet, Zero},
    parse::{Headers, IPV6_HEADER},
    tables::{Device, EndpointKey, RemoteKey, Scratch, Tables, device_flags},
    tuple::{Address, Mac, Tuple},
    verdict::{DropReason, Verdict},
};

/// Bytes of an ARP packet for Ethernet and IPv4, and in it from its start to: the operation, the sender's addresses, the
/// target's addresses.
mod arp {
    pub const LENGTH: usize = 28;
    pub const OPERATION: usize = 6;
    pub const SENDER: usize = 8;
    pub const TARGET: usize = 18;
    pub const REQUEST: [u8; 2] = [0, 1];
    pub const REPLY: [u8; 2] = [0, 2];
}

/// ICMPv6 types of Neighbor Discovery, and offsets in a solicitation and an advertisement.
mod nd {
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const SOLICITATION: u8 = 135;
    pub const ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    pub const CHECKSUM: usize = 2;
    pub const FLAGS: usize = 4;
    pub const TARGET: usize = 8;
    pub const OPTIONS: usize = 24;
    pub const ROUTER_OPTIONS: usize = 8;
    pub const SOURCE_OPTION: [u8; 2] = [1, 1];
    pub const TARGET_OPTION: [u8; 2] = [2, 1];
    /// An advertisement that was asked for, and that stands above what is known.
    pub const SOLICITED_OVERRIDE: [u8; 2] = [0x60, 0];
    /// With another hop limit a receiver ignores it (RFC 4861 section 7.1).
    pub const HOP_LIMIT: u8 = 255;
}

/// Where a message stands that is answered: right after the IPv6 header.
const MESSAGE: usize = ETH + IPV6_HEADER;

/// Extension headers that may stand before an ICMPv6 header: hop-by-hop options, routing, destination options. What comes in
/// fragments is ignored by receivers (RFC 6980).
const HIDES: [u8; 3] = [0, 43, 60];

/// Options of a message that are looked at; one with more is refused.
const OPTIONS: usize = 4;

/// Ends a container's ARP packet: answered, another host's to answer, or the bridge's.
#[inline(always)]
pub fn arp<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    require_own_arp(p, device)?;
    if device.has(device_flags::NO_ICC) {
        return answer_arp(p, t, s);
    }
    if device.vni == 0 { Ok(PASS) } else { overlay::leave_arp(p, t, s) }
}

/// Refuses an ARP packet that claims another's addresses. A probe claims none (RFC 5227 section 1.1).
#[inline(always)]
pub fn require_own_arp<P: Packet>(p: &P, device: &Device) -> Result<(), DropReason> {
    let b = p.read::<10>(ETH + arp::SENDER)?;
    if [b[0], b[1], b[2], b[3], b[4], b[5]] != device.mac.0 {
        return Err(DropReason::SpoofedMac);
    }
    let claimed = [b[6], b[7], b[8], b[9]];
    if claimed == device.ipv4 || claimed == [0; 4] { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Whether a link-local address may be that of a container with this link-layer address: one that is made of a link-layer
/// address (RFC 4291 appendix A) must be made of its own. Others cannot be told from one another.
#[inline(always)]
pub fn may_be_own_link_local(mac: Mac, address: Address) -> bool {
    let (b, m) = (address.bytes(), mac.0);
    let made_of_mac = b[11] == 0xff && b[12] == 0xfe;
    let own = [b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]] == m;
    address.is_link_local() && (!made_of_mac || own)
}

/// Refuses an extension header before what may be Neighbor Discovery: nothing else needs both it and that hop limit.
#[inline(always)]
pub fn require_plain(key: &Tuple, h: Headers) -> Result<(), DropReason> {
    let unread = key.protocol == HIDES[0] || key.protocol == HIDES[1] || key.protocol == HIDES[2];
    let hides = unread || h.l4 != MESSAGE;
    if hides && h.ttl == nd::HOP_LIMIT { Err(DropReason::SpoofedAddress) } else { Ok(()) }
}

/// Lets a container's ICMPv6 message that is no echo and no error go to the bridge, unless it says something of another than its
/// sender, or that this is a router. Where containers are kept apart, what they ask for is answered here.
#[inline(always)]
pub fn discovery<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    p.reach(h.l4 + nd::OPTIONS + OPTIONS * 8);
    let kind = p.read::<1>(h.l4)?[0];
    let options = match kind {
        nd::ROUTER_ADVERTISEMENT | nd::REDIRECT => return Err(DropReason::SpoofedRouter),
        nd::ROUTER_SOLICITATION => nd::ROUTER_OPTIONS,
        nd::SOLICITATION | nd::ADVERTISEMENT => nd::OPTIONS,
        _ => return Ok(PASS),
    };
    if kind == nd::ADVERTISEMENT {
        s.endpoint.address = Address::v6(p.read::<16>(h.l4 + nd::TARGET)?);
        require_own(device, s.endpoint.address)?;
    }
    require_own_options(p, device.mac, h.l4 + options)?;
    if kind == nd::SOLICITATION && device.has(device_flags::NO_ICC) {
        return answer_solicitation(p, t, s, h);
    }
    Ok(PASS)
}

/// Refuses an IPv6 address that is not the container's.
#[inline(never)]
fn require_own(device: &Device, address: Address) -> Result<(), DropReason> {
    let own = address == Address::v6(device.ipv6) || may_be_own_link_local(device.mac, address);
    if own { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Refuses an option from `at` on with a link-layer address that is not the sender's.
#[inline(never)]
fn require_own_options<P: Packet>(p: &P, mac: Mac, at: usize) -> Result<(), DropReason> {
    let mut at = at;
    for _ in 0..OPTIONS {
        if at >= p.length() {
            return Ok(());
        }
        let b = p.read::<8>(at)?;
        let is_address = b[0] == nd::SOURCE_OPTION[0] || b[0] == nd::TARGET_OPTION[0];
        if is_address && Mac([b[2], b[3], b[4], b[5], b[6], b[7]]) != mac {
            return Err(DropReason::SpoofedMac);
        }
        if b[1] == 0 {
            return Err(DropReason::Malformed);
        }
        at += usize::from(b[1]) * 8;
    }
    if at >= p.length() { Ok(()) } else { Err(DropReason::Malformed) }
}

/// The link-layer address of the container, here or on another host, that an asker's question is about; the asker itself answers
/// for itself.
#[inline(always)]
fn asked_for<T: Tables>(t: &T, s: &mut Scratch, asker: &Device, target: Address) -> Option<Mac> {
    s.endpoint = EndpointKey { address: target, zone: asker.zone, pad: 0 };
    if let Some(endpoint) = t.endpoint(&s.endpoint) {
        return (endpoint.device != asker.ifindex).then_some(endpoint.mac);
    }
    t.remote(&RemoteKey { address: target, vni: asker.vni }).map(|remote| remote.mac)
}

/// Answers an ARP request for another container of the asker's network. Everything else is the bridge's.
#[inline(never)]
pub fn answer_arp<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(asker) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    p.reach(ETH + arp::LENGTH);
    if p.read::<2>(ETH + arp::OPERATION)? != arp::REQUEST {
        return Ok(PASS);
    }
    let target = p.read::<4>(ETH + arp::TARGET + 6)?;
    let Some(found) = asked_for(t, s, asker, Address::v4(target)) else { return Ok(PASS) };
    let (own, mac) = (p.read::<10>(ETH + arp::SENDER)?, found.0);
    p.write(0, asker.mac.0)?;
    p.write(6, mac)?;
    p.write(ETH + arp::OPERATION, arp::REPLY)?;
    p.write(ETH + arp::SENDER, mac)?;
    p.write(ETH + arp::SENDER + 6, target)?;
    p.write(ETH + arp::TARGET, own)?;
    back(p, asker)
}

/// Answers a Neighbor Solicitation for another container of the asker's network (RFC 4861 section 7.2.4). Everything else is
/// the bridge's, so is a solicitation that does not say who asks.
#[inline(never)]
fn answer_solicitation<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers) -> Decided {
    let Some(asker) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let by_itself = h.l4 == MESSAGE && p.length() == h.l4 + nd::OPTIONS + 8;
    if !by_itself || s.key.src == Address::ANY_V6 || p.read::<2>(h.l4 + nd::OPTIONS)? != nd::SOURCE_OPTION {
        return Ok(PASS);
    }
    let target = Address::v6(p.read::<16>(h.l4 + nd::TARGET)?);
    let Some(found) = asked_for(t, s, asker, target) else { return Ok(PASS) };
    p.write(0, asker.mac.0)?;
    p.write(6, found.0)?;
    turn_addresses(p, s)?;
    turn_message(p, found)?;
    back(p, asker)
}

/// Sends the packet in hand, whose tuple is `s.key`, from the address in `s.endpoint` to whoever it came from.
#[inline(never)]
fn turn_addresses<P: Packet>(p: &mut P, s: &Scratch) -> Result<(), DropReason> {
    let (from, to) = (s.endpoint.address, s.key.src);
    let changed = Delta::NONE.and_address(s.key.src, from).and_address(s.key.dst, to);
    p.replace_sum(changed);
    p.write(ETH + ipv6::SOURCE, from.bytes())?;
    p.write(ETH + ipv6::DESTINATION, to.bytes())?;
    p.replace_l4(MESSAGE + nd::CHECKSUM, changed, Covers::PseudoHeader, Zero::IsASum)
}

/// Makes an advertisement of `mac` of the solicitation in hand.
#[inline(never)]
fn turn_message<P: Packet>(p: &mut P, mac: Mac) -> Result<(), DropReason> {
    let own = MESSAGE + nd::OPTIONS + 2;
    let changed = turn(p, MESSAGE, [nd::ADVERTISEMENT, 0], Delta::NONE)?;
    let changed = turn(p, MESSAGE + nd::FLAGS, nd::SOLICITED_OVERRIDE, changed)?;
    let changed = turn(p, MESSAGE + nd::OPTIONS, nd::TARGET_OPTION, changed)?;
    let changed = turn(p, own, [mac.0[0], mac.0[1]], changed)?;
    let changed = turn(p, own + 2, [mac.0[2], mac.0[3]], changed)?;
    let changed = turn(p, own + 4, [mac.0[4], mac.0[5]], changed)?;
    p.replace_l4(MESSAGE + nd::CHECKSUM, changed, Covers::Segment, Zero::IsASum)
}

/// Puts a word in the place of what is there, and adds that to what has changed.
#[inline(always)]
fn turn<P: Packet>(p: &mut P, at: usize, word: [u8; 2], changed: Delta) -> Result<Delta, DropReason> {
    let old = p.read::<2>(at)?;
    p.write(at, word)?;
    Ok(changed.and_word(old, word))
}

/// To the container that the packet is from.
#[inline(always)]
fn back<P: Packet>(p: &mut P, asker: &Device) -> Decided {
    p.set_label(Label::Approved);
    Ok(Verdict::Peer(asker.ifindex).packed())
}
