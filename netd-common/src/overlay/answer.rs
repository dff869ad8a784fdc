//! ARP (RFC 826) and Neighbor Discovery (RFC 4861), answered from the table of remote containers: the question is made the
//! answer, and goes back to the asker.

use crate::{
    checksum::Delta,
    hooks::{Decided, PASS},
    nat::ipv6,
    packet::{Covers, ETH, Label, Packet, Zero},
    parse::{ETHERTYPE_ARP, IPV6_HEADER},
    tables::{Device, RemoteKey, Scratch, Tables},
    tuple::{Address, ICMPV6, Mac},
    verdict::{DropReason, Verdict},
};

/// Bytes of an ARP packet for Ethernet and IPv4.
const ARP: usize = 28;
/// Bytes of the least that an Ethernet frame has, without its check sequence.
const SMALLEST_FRAME: usize = 60;

const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Bytes before the ICMPv6 header.
const L4: usize = ETH + IPV6_HEADER;
/// Bytes of a solicitation with the asker's link-layer address as its one option, from the ICMPv6 header on.
const SOLICITATION: usize = 32;
/// Bytes from the ICMPv6 header to the target, to the option, and to the link-layer address in it.
const TARGET: usize = 8;
const OPTION: usize = 24;
/// Types of the option that holds the sender's and the target's link-layer address, each of one unit of eight bytes.
const SOURCE_ADDRESS: [u8; 2] = [1, 1];
const TARGET_ADDRESS: [u8; 2] = [2, 1];
/// An advertisement that answers a solicitation and takes the place of what was known.
const SOLICITED_OVERRIDE: [u8; 2] = [0x60, 0];

/// Whom an ARP packet is about.
#[inline(always)]
pub fn arp_target<P: Packet>(p: &mut P) -> Result<Address, DropReason> {
    p.reach(ETH + ARP);
    Ok(Address::v4(p.read::<4>(ETH + 24)?))
}

/// Makes a request the reply that `mac` would give, and sends it back. What asks nothing is the bridge's.
#[inline(always)]
pub fn arp_reply<P: Packet>(p: &mut P, device: &Device, target: Address, mac: Mac) -> Decided {
    if p.read::<2>(ETH + 6)? != [0, 1] {
        return Ok(PASS);
    }
    write_reply(p, target, mac, device.mac, p.read::<4>(ETH + 14)?)?;
    p.set_label(Label::Approved);
    Ok(Verdict::Peer(p.device()).packed())
}

/// Makes a packet to a link-layer address that is no longer the one of `address` a word to its sender of which is: what a
/// container keeps of another may be older than the table by a minute.
#[inline(never)]
pub fn correct<P: Packet>(p: &mut P, address: Address, mac: Mac, device: &Device) -> Decided {
    let (sender, own) = (device.mac, device.ipv4);
    p.cut(SMALLEST_FRAME)?;
    p.write(12, ETHERTYPE_ARP)?;
    p.write(ETH, [0, 1, 8, 0, 6, 4])?;
    write_reply(p, address, mac, sender, own)?;
    p.set_label(Label::Approved);
    // Not as what it was: the device at the other end reads anew what it is.
    Ok(Verdict::Device(p.device()).packed())
}

#[inline(always)]
fn write_reply<P: Packet>(p: &mut P, of: Address, mac: Mac, to: Mac, asker: [u8; 4]) -> Result<(), DropReason> {
    p.write(0, to.0)?;
    p.write(6, mac.0)?;
    p.write(ETH + 6, [0, 2])?;
    p.write(ETH + 8, mac.0)?;
    p.write(ETH + 14, of.v4_bytes())?;
    p.write(ETH + 18, to.0)?;
    p.write(ETH + 24, asker)
}

/// Whether a packet solicits somebody (RFC 4861 section 4.3), with a link-layer address to answer to: whom, in `s.endpoint`.
#[inline(always)]
pub fn solicits<P: Packet>(p: &mut P, s: &mut Scratch) -> Result<bool, DropReason> {
    let h = &s.noted;
    if h.v4 != 0 || s.key.protocol != ICMPV6 || h.is_later() || h.l4 as usize != L4 || h.ttl != 255 {
        return Ok(false);
    }
    if p.length() != L4 + SOLICITATION {
        return Ok(false);
    }
    p.reach(L4 + SOLICITATION);
    if p.read::<1>(L4)? != [NEIGHBOR_SOLICITATION] || p.read::<2>(L4 + OPTION)? != SOURCE_ADDRESS {
        return Ok(false);
    }
    s.endpoint.address = super::read_address(p, L4 + TARGET)?;
    Ok(true)
}

/// Makes a solicitation the advertisement that the container of another host at `s.endpoint` would give, and sends it back.
#[inline(never)]
pub fn advertise<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let Some(remote) = t.remote(&RemoteKey { address: s.endpoint.address, vni: device.vni }) else { return Ok(PASS) };
    write_advertisement(p, s, remote.mac)?;
    write_addresses(p, s)?;
    p.write(0, device.mac.0)?;
    p.write(6, remote.mac.0)?;
    p.set_label(Label::Approved);
    Ok(Verdict::Peer(device.ifindex).packed())
}

#[inline(never)]
fn write_advertisement<P: Packet>(p: &mut P, s: &mut Scratch, mac: Mac) -> Result<(), DropReason> {
    let m = mac.0;
    s.quote.changed = Delta::NONE
        .and_word([NEIGHBOR_SOLICITATION, 0], [NEIGHBOR_ADVERTISEMENT, 0])
        .and_word([0, 0], SOLICITED_OVERRIDE)
        .and_word(SOURCE_ADDRESS, TARGET_ADDRESS)
        .and_word(p.read::<2>(L4 + OPTION + 2)?, [m[0], m[1]])
        .and_word(p.read::<2>(L4 + OPTION + 4)?, [m[2], m[3]])
        .and_word(p.read::<2>(L4 + OPTION + 6)?, [m[4], m[5]]);
    p.write(L4, [NEIGHBOR_ADVERTISEMENT])?;
    p.write(L4 + 4, SOLICITED_OVERRIDE)?;
    p.write(L4 + OPTION, TARGET_ADDRESS)?;
    p.write(L4 + OPTION + 2, m)
}

#[inline(never)]
fn write_addresses<P: Packet>(p: &mut P, s: &Scratch) -> Result<(), DropReason> {
    let (target, asker) = (s.endpoint.address, s.key.src);
    let addresses = Delta::NONE.and_address(asker, target).and_address(s.key.dst, asker);
    p.replace_l4(L4 + 2, s.quote.changed, Covers::Segment, Zero::IsASum)?;
    p.replace_l4(L4 + 2, addresses, Covers::PseudoHeader, Zero::IsASum)?;
    p.replace_sum(addresses);
    super::write_address(p, ETH + ipv6::SOURCE, target)?;
    super::write_address(p, ETH + ipv6::DESTINATION, asker)
}
