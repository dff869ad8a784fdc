//! Networks that span hosts: what a container sends to another host, and what comes from one.
//!
//! Two kinds share one way. Of an overlay network a table says which address is where, with which link-layer address: asked
//! by ARP or ND it answers, and what it does not know does not leave. A segment made by hand is a switch: it floods to its
//! peers, and learns from them which station is where.

mod answer;
pub mod mesh;
mod refuse;

pub use refuse::refuse;

use crate::{
    chapter::Chapter,
    forward,
    hooks::{Decided, PASS},
    icc,
    packet::{ETH, Label, Packet},
    parse::{self, ETHERTYPE_IPV4, Ethernet, IPV6_HEADER, Transport},
    policy,
    tables::{
        DECRYPTED, Device, EndpointKey, Hook, PEERS_MAX, PeerKey, RemoteKey, Scratch, Segment, Span, Station,
        StationKey, Tables, TunnelKey, VtepKey, segment_flags,
    },
    tuple::{Address, Mac, UDP, Zone},
    verdict::{DropReason, Packed, Verdict},
};

/// To every peer, and to the bridge: no device has the index 0.
const TO_ALL: Packed = Verdict::Tunnel(0).packed();

/// Back to the container that solicits, by an advertisement of whom it asks for.
const ADVERTISED: Packed = Verdict::Peer(0).packed();

/// Protocol numbers of ESP (RFC 4303) and of the fragment header of IPv6 (RFC 8200 section 4.5).
const ESP: u8 = 50;
const FRAGMENT: u8 = 44;

/// How long a learned station is believed: as long as a bridge believes one (IEEE 802.1D, table 7-5).
const AGEING: Span = Span::at_least_seconds(300);

/// What a container of a network that spans hosts sends to anybody but its gateway.
#[inline(always)]
pub fn leave<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    s.mtu = 0;
    let decided = if parse::ethernet(p)?.destination.is_group() { to_group(p, t, s) } else { find_way(p, t, s) };
    match decided {
        Ok(TO_ALL) => flood(p, t),
        Ok(ADVERTISED) => answer::advertise(p, t, s),
        Err(DropReason::NoEndpoint | DropReason::TooBig) => p.tell(Chapter::Refuse, t, s, 0).decided(),
        decided => decided,
    }
}

#[inline(never)]
fn find_way<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let frame = parse::ethernet(p)?;
    let Some(segment) = t.segment(device.vni) else { return Ok(PASS) };
    if frame.destination == device.gateway_mac {
        return Ok(PASS);
    }
    s.endpoint = EndpointKey { address: s.key.dst, zone: device.zone, pad: 0 };
    if t.endpoint(&s.endpoint).is_some() {
        return forward::switch(p, t, s, device.zone, frame.destination);
    }
    if segment.has(segment_flags::LEARNS) {
        return to_station(p, t, s, device, segment, frame.destination, true);
    }
    to_remote(p, t, s, device, segment, frame)
}

/// A container's ARP packet, its own addresses checked.
#[inline(never)]
pub fn leave_arp<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    match find_arp_way(p, t, s) {
        Ok(TO_ALL) => flood(p, t),
        decided => decided,
    }
}

#[inline(never)]
fn find_arp_way<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let frame = parse::ethernet(p)?;
    let Some(segment) = t.segment(device.vni) else { return Ok(PASS) };
    let target = answer::arp_target(p)?;
    s.endpoint = EndpointKey { address: target, zone: device.zone, pad: 0 };
    if segment.is_gateway(target) || t.endpoint(&s.endpoint).is_some() {
        return Ok(PASS);
    }
    if segment.has(segment_flags::LEARNS) {
        return to_station(p, t, s, device, segment, frame.destination, false);
    }
    // Who is nowhere the bridge does not know either.
    let Some(remote) = t.remote(&RemoteKey { address: target, vni: device.vni }) else { return Ok(PASS) };
    answer::arp_reply(p, device, target, remote.mac)
}

/// To a container of another host that the table knows.
#[inline(always)]
fn to_remote<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    s: &mut Scratch,
    device: &Device,
    segment: &Segment,
    frame: Ethernet,
) -> Decided {
    if !policy::goes_beyond_link(s.key.src) || s.key.dst.is_link_local() {
        return Ok(PASS);
    }
    let key = RemoteKey { address: s.key.dst, vni: device.vni };
    // Without one it is gone, and the container does not know it yet.
    let Some(remote) = t.remote(&key) else { return Err(DropReason::NoEndpoint) };
    if remote.mac != frame.destination {
        if s.noted.v4 == 0 {
            return Err(DropReason::NoEndpoint);
        }
        // Another has the address now.
        t.count_drop(Hook::FromContainer, DropReason::NoEndpoint);
        return answer::correct(p, s.key.dst, remote.mac, device);
    }
    into_tunnel(p, t, s, device, segment, remote.vtep, true)
}

/// To a station of a segment made by hand: to the peer that it was heard of, or to all.
#[inline(always)]
fn to_station<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    s: &mut Scratch,
    device: &Device,
    segment: &Segment,
    destination: Mac,
    is_ip: bool,
) -> Decided {
    let mut station = Station::default();
    let known =
        !destination.is_group() && t.station(&StationKey { vni: device.vni, mac: destination, pad: 0 }, &mut station);
    if known && station.seen.after(AGEING) > t.now() {
        return into_tunnel(p, t, s, device, segment, station.vtep, is_ip);
    }
    Ok(TO_ALL)
}

/// To a group of stations: those here are the bridge's to reach.
#[inline(never)]
fn to_group<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let Some(segment) = t.segment(device.vni) else { return Ok(PASS) };
    let solicits = answer::solicits(p, s)?;
    if !segment.has(segment_flags::LEARNS) {
        let remote = RemoteKey { address: s.endpoint.address, vni: device.vni };
        let answered = solicits && s.key.src != Address::ANY_V6 && t.remote(&remote).is_some();
        return Ok(if answered { ADVERTISED } else { PASS });
    }
    if solicits {
        (s.endpoint.zone, s.endpoint.pad) = (device.zone, 0);
        if segment.is_gateway(s.endpoint.address) || t.endpoint(&s.endpoint).is_some() {
            return Ok(PASS);
        }
    }
    Ok(TO_ALL)
}

/// Sends a copy to every peer of a container's segment, and leaves the packet to the bridge. What is in the scratch is another
/// packet's afterwards.
#[inline(never)]
fn flood<P: Packet, T: Tables>(p: &mut P, t: &T) -> Decided {
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let Some(segment) = t.segment(device.vni) else { return Ok(PASS) };
    let (vni, tunnel, peers) = (device.vni, segment.tunnel, segment.peers);
    p.set_label(Label::Approved);
    let mut index = 0;
    t.repeat(if peers < PEERS_MAX { peers } else { PEERS_MAX }, || {
        if let Some(peer) = t.peer(&PeerKey { vni, index }) {
            p.copy_into_tunnel(tunnel, &TunnelKey { vtep: *peer, vni });
        }
        index += 1;
        core::ops::ControlFlow::Continue(())
    });
    p.set_label(Label::Came);
    Ok(PASS)
}

/// Into the tunnel to a host, if it fits, or if the host's own stack cuts it, around the encapsulation.
#[inline(always)]
fn into_tunnel<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    s: &mut Scratch,
    device: &Device,
    segment: &Segment,
    vtep: Address,
    is_ip: bool,
) -> Decided {
    let mtu = segment.mtu(vtep);
    if is_ip && forward::noted_exceeds(p, &s.noted, mtu)? && refuse::is_for_sender(p, s.noted.v4, vtep)? {
        s.mtu = mtu;
        return Err(DropReason::TooBig);
    }
    s.tunnel = TunnelKey { vtep, vni: device.vni };
    seal(p, t, s, segment)?;
    Ok(Verdict::Tunnel(segment.tunnel).packed())
}

/// Notes on a packet that is to go to the host in `s.tunnel` how it may leave this one. Of an encrypted segment nothing goes to a
/// host for which there are no keys.
#[inline(always)]
fn seal<P: Packet, T: Tables>(p: &mut P, t: &T, s: &Scratch, segment: &Segment) -> Result<(), DropReason> {
    if !segment.has(segment_flags::ENCRYPTED) {
        p.set_label(Label::Approved);
        return Ok(());
    }
    if !has_keys(t, s) {
        return Err(DropReason::NoKeys);
    }
    p.set_label(Label::Sealed);
    Ok(())
}

#[inline(never)]
fn has_keys<T: Tables>(t: &T, s: &Scratch) -> bool {
    t.is_vtep(&VtepKey::with_keys(s.tunnel.vtep))
}

/// Whether a container's packet, with the tuple `s.key`, that leaves as `source` would be its host's own word to another one, in
/// networks that the container has no part in: a datagram to the port of a tunnel.
#[inline(never)]
pub fn poses_as_host<T: Tables>(t: &T, s: &Scratch, source: Address) -> bool {
    s.key.protocol == UDP && source != s.key.src && t.is_vtep(&VtepKey::with_port(s.key.dst_port))
}

/// Whether a packet with the label [`Label::Sealed`] is one of ESP, or a fragment of one, as it leaves.
#[inline(always)]
pub fn is_encrypted<P: Packet>(p: &mut P) -> Result<bool, DropReason> {
    let protocol = match parse::ethernet(p)?.ethertype {
        ETHERTYPE_IPV4 => p.read::<1>(ETH + 9)?,
        _ => match p.read::<1>(ETH + 6)? {
            [FRAGMENT] => p.read::<1>(ETH + IPV6_HEADER)?,
            next => next,
        },
    };
    Ok(protocol == [ESP])
}

/// Ingress of the VXLAN device of a port: what other hosts send into the networks of this one.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    p.set_label(Label::Came);
    admit(p, t, s)?;
    let Some(segment) = t.segment(s.tunnel.vni) else { return Err(DropReason::UnknownSegment) };
    let frame = parse::ethernet(p)?;
    if frame.destination.is_group() {
        return from_group(p, segment);
    }
    if p.is_tagged() && !p.shed_priority()? {
        return Err(DropReason::Untranslatable);
    }
    if policy::is_arp(frame) {
        if segment.has(segment_flags::NO_ICC) {
            // Who asks is answered on its own host.
            return Err(DropReason::NotAllowed);
        }
        return enter_arp(p, t, s, segment.zone, frame.destination);
    }
    if parse::note(p, s, frame.ethertype)?.is_none() {
        return Err(DropReason::Untranslatable);
    }
    let gateway = if segment.has(segment_flags::LEARNS) { Mac::default() } else { segment.gateway_mac };
    match (frame.source == gateway, frame.destination == gateway) {
        (true, _) => mesh::arrive(p, t, s),
        (_, true) => mesh::answer(p, t, s),
        _ => {
            if segment.has(segment_flags::NO_ICC) {
                icc::enter(p, t, s, segment)?;
            }
            deliver_or_refuse(p, t, s)
        }
    }
}

/// A station's question to a container here that it knows, or the answer to one.
#[inline(always)]
fn enter_arp<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, zone: Zone, destination: Mac) -> Decided {
    s.endpoint = EndpointKey { address: answer::arp_target(p)?, zone, pad: 0 };
    let endpoint = t.endpoint(&s.endpoint).filter(|endpoint| endpoint.mac == destination);
    let Some(endpoint) = endpoint else { return Err(DropReason::NoEndpoint) };
    p.set_label(Label::Approved);
    Ok(Verdict::Peer(endpoint.device).packed())
}

/// Refuses what is of no network here, or of a host that has no part in it.
#[inline(never)]
fn admit<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    if !p.came_through(&mut s.tunnel) {
        return Err(DropReason::UnknownSegment);
    }
    let Some(segment) = t.segment(s.tunnel.vni) else { return Err(DropReason::UnknownSegment) };
    // What comes by the device of encrypted segments the kernel lets in only if it has decrypted it; where its policy for that is
    // gone, the mark still tells.
    let is_elsewhere = segment.tunnel != p.device();
    if segment.has(segment_flags::ENCRYPTED) && (is_elsewhere || p.mark() & DECRYPTED == 0) {
        return Err(DropReason::NotEncrypted);
    }
    if is_elsewhere {
        return Err(DropReason::UnknownSegment);
    }
    if !t.is_vtep(&VtepKey { address: s.tunnel.vtep, vni: s.tunnel.vni }) {
        return Err(DropReason::UnknownVtep);
    }
    if segment.has(segment_flags::LEARNS) {
        return learn(t, segment, &s.tunnel, parse::ethernet(p)?.source);
    }
    Ok(())
}

/// To the stations of a group that are here.
#[inline(always)]
fn from_group<P: Packet>(p: &mut P, segment: &Segment) -> Decided {
    if !segment.has(segment_flags::LEARNS) {
        // The table answers where it is asked; nothing else is sent to all.
        return Err(DropReason::NoEndpoint);
    }
    p.set_label(Label::Approved);
    Ok(Verdict::Device(segment.bridge).packed())
}

/// Into the container that it is for, or an answer to its sender: it hears of what was for a container that is gone or
/// elsewhere.
#[inline(always)]
fn deliver_or_refuse<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    s.mtu = 0;
    match deliver(p, t, s) {
        Err(DropReason::NoEndpoint | DropReason::TooBig) => p.tell(Chapter::Refuse, t, s, 0).decided(),
        decided => decided,
    }
}

/// Into the container here that has the address and the link-layer address: nobody gets what is another's.
#[inline(never)]
fn deliver<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(segment) = t.segment(s.tunnel.vni) else { return Err(DropReason::UnknownSegment) };
    if segment.is_gateway(s.key.src) && s.noted.transport() != Transport::Error {
        return Err(DropReason::SpoofedAddress);
    }
    let destination = parse::ethernet(p)?.destination;
    s.endpoint = EndpointKey { address: s.key.dst, zone: segment.zone, pad: 0 };
    let endpoint = t.endpoint(&s.endpoint).filter(|endpoint| endpoint.mac == destination);
    let Some(endpoint) = endpoint else { return Err(DropReason::NoEndpoint) };
    if forward::noted_exceeds(p, &s.noted, endpoint.mtu)? {
        s.mtu = endpoint.mtu;
        return Err(DropReason::TooBig);
    }
    p.set_label(Label::Approved);
    Ok(Verdict::Peer(endpoint.device).packed())
}

/// Notes which peer a station was heard of, at most once a tick. The gateway is everywhere.
#[inline(always)]
fn learn<T: Tables>(t: &T, segment: &Segment, from: &TunnelKey, station: Mac) -> Result<(), DropReason> {
    if station.is_group() || station == segment.gateway_mac {
        return Err(DropReason::SpoofedMac);
    }
    let key = StationKey { vni: from.vni, mac: station, pad: 0 };
    let heard = Station { vtep: from.vtep, seen: t.now() };
    let mut known = Station::default();
    if !t.station(&key, &mut known) || known != heard {
        t.keep_station(&key, &heard);
    }
    Ok(())
}

/// Reads an IPv6 address, word by word.
#[inline(always)]
fn read_address<P: Packet>(p: &P, at: usize) -> Result<Address, DropReason> {
    let word = |i: usize| p.read::<4>(at + 4 * i).map(u32::from_ne_bytes);
    Ok(Address::from_words([word(0)?, word(1)?, word(2)?, word(3)?]))
}

/// Writes one.
#[inline(always)]
fn write_address<P: Packet>(p: &mut P, at: usize, address: Address) -> Result<(), DropReason> {
    let [a, b, c, d] = address.words();
    p.write(at, a.to_ne_bytes())?;
    p.write(at + 4, b.to_ne_bytes())?;
    p.write(at + 8, c.to_ne_bytes())?;
    p.write(at + 12, d.to_ne_bytes())
}
