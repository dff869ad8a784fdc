//! A client's packet of a flow of the mesh is passed on to its container's host, whole with the outer headers, by the device that
//! it came by: what [`mesh::pass_on`](crate::overlay::mesh::pass_on) and the VXLAN device do behind it.
//!
//! Only what changes nothing of its flow: what opens or ends one, the first packet of each tick and what must be answered goes to
//! `from_uplink`. So does all where the host's rules would see the datagram or route it otherwise, where the network is encrypted, and
//! where the way is by another device. An underlay of IPv6, whose datagrams need a checksum (RFC 8200 section 8.1), takes what its own
//! headers tell the sum of.

use super::{
    Frame, NO_CHECKSUM, Plain, TCP_HEADER, Tables, UDP_HEADER,
    outer::{self, outer},
};
use crate::{
    checksum::Delta,
    conntrack::{self, Leg},
    nat::{ipv4, ipv6},
    packet::{ETH, Zero},
    parse::Transport,
    tables::{EndpointKey, NextHop, PortRange, Routing, Scratch, Settings, TunnelKey, Via, segment_flags},
    tuple::{Address, Port, Tuple, UDP, Zone, echo},
    verdict::{DropReason, Packed, Verdict},
};

/// What becomes of the frame in hand, whose tuple is `s.key`, if it is passed on. `None` leaves it as it was.
#[inline(always)]
pub fn pass_on<F: Frame, T: Tables>(frame: &mut F, t: &T, s: &mut Scratch, plain: &Plain) -> Option<Packed> {
    let own = t.device(frame.device())?.tunnels_as()?;
    let settings = t.settings().filter(|settings| is_unseen(settings))?;
    if plain.h.ttl <= 1 || !goes_on(t, s, plain) || !is_finished(frame, s, plain)? {
        return None;
    }
    let port = find_host(t, s, plain.end().saturating_sub(ETH))?;
    let v4 = own.is_v4();
    if s.tunnel.vtep.is_v4() != v4 || !v4 && !tells_its_sum(frame, plain)? {
        return None;
    }
    s.peer_key = datagram(s, port, settings.ephemeral);
    let (around, whole) = (outer(v4), outer(v4) + plain.end());
    let length = whole.saturating_sub(ETH) as u32;
    if !t.find_way_back(frame.device(), &s.peer_key, length, &mut s.peer.next) || !is_for_us(frame, &s.peer.next)? {
        return None;
    }
    s.peer_key.src = own;
    let identification = t.random() as u16;
    let is_filled = frame.length() > plain.end();
    frame.prepend(around)?;
    let cut = if is_filled { frame.cut(whole) } else { Some(()) };
    let written = cut
        .and_then(|()| rewrite(frame, s, plain, around))
        .and_then(|()| outer::write(frame, s, plain, length as u16, identification));
    let verdict = written.map_or(Verdict::Drop(DropReason::Refused), |()| Verdict::Tunnel(s.flow.next.device));
    Some(verdict.packed())
}

/// Whether no rule of the host's has anything to say to what it sends to other hosts.
#[inline(always)]
fn is_unseen(settings: &Settings) -> bool {
    settings.firewall.generation == 0 && settings.routing == Routing::Asked as u32
}

/// Whether it goes on with a flow that leads into a tunnel and in which both have spoken, changing nothing of it: the flow is in
/// `s.flow` then.
#[inline(always)]
fn goes_on<T: Tables>(t: &T, s: &mut Scratch, plain: &Plain) -> bool {
    let now = t.now();
    t.flow(&s.key, &mut s.flow)
        && s.flow.via == Via::Tunnel as u8
        && s.flow.check == conntrack::digest(&s.key)
        && s.flow.legs[1] & Leg::SEEN != 0
        && now <= s.flow.deadline
        && !conntrack::must_note(s, plain.h, now)
}

/// Whether its transport checksum is the whole one. A sender that is this machine's own (a veth pair's other side) leaves it to the
/// device: the field then holds the sum of the pseudo-header alone, and nothing else tells. One whole sum of 65,535 is the same.
#[inline(always)]
fn is_finished<F: Frame>(frame: &F, s: &Scratch, plain: &Plain) -> Option<bool> {
    let is_tcp = plain.h.transport == Transport::Tcp;
    if frame.length() < plain.end() || (plain.segment as usize) < if is_tcp { TCP_HEADER } else { UDP_HEADER } {
        return None;
    }
    let field = frame.read::<2>(plain.h.l4 + checksum_at(plain))?;
    let words = Delta::NONE.and_address(Address::ANY_V6, s.key.src).and_address(Address::ANY_V6, s.key.dst);
    let length = plain.segment.to_be_bytes();
    let pseudo = words.and_word([0; 2], [0, s.key.protocol]).and_word([0; 2], length).added_to(NO_CHECKSUM);
    Some(field != pseudo)
}

/// Whether its headers tell what all of it comes to: what its checksum covers is all that follows the IP header. Of a datagram that has
/// none, or that ends before its packet does, they do not.
#[inline(always)]
fn tells_its_sum<F: Frame>(frame: &F, plain: &Plain) -> Option<bool> {
    if plain.h.transport != Transport::Udp {
        return Some(true);
    }
    let [_, _, _, _, a, b, c, d] = frame.read::<8>(plain.h.l4)?;
    Some([a, b] == plain.segment.to_be_bytes() && [c, d] != NO_CHECKSUM)
}

/// Where the checksum stands in the transport header.
#[inline(always)]
fn checksum_at(plain: &Plain) -> usize {
    if plain.h.transport == Transport::Udp { 6 } else { 16 }
}

/// Fills in the container's host and the inner Ethernet header, if the packet of `length` bytes fits into the tunnel there; the UDP
/// port of the tunnel.
#[inline(always)]
fn find_host<T: Tables>(t: &T, s: &mut Scratch, length: usize) -> Option<Port> {
    s.endpoint = EndpointKey { address: s.flow.becomes.dst, zone: s.flow.becomes.zone, pad: 0 };
    let end = t.mesh_end(&s.endpoint)?;
    let segment = t.segment(end.vni)?;
    let is_plain = !segment.has(segment_flags::ENCRYPTED) && segment.port != 0;
    if !is_plain || length > segment.mtu(end.vtep) as usize {
        return None;
    }
    s.tunnel = TunnelKey { vtep: end.vtep, vni: end.vni };
    s.flow.next = NextHop::peer(segment.tunnel, 0, end.mac, segment.gateway_mac);
    Some(Port::new(segment.port))
}

/// The tuple of the datagram to the host in `s.tunnel`, its source the device's own. The port tells flows apart (RFC 7348 section
/// 4.1, RFC 6438): a hash, as the kernel's are, in the host's range.
#[inline(always)]
fn datagram(s: &Scratch, port: Port, range: PortRange) -> Tuple {
    let offset = (u64::from(s.flow.check) * u64::from(range.len())) >> 32;
    Tuple {
        src: s.tunnel.vtep.any_of_family(),
        dst: s.tunnel.vtep,
        src_port: Port::new(range.first.wrapping_add(offset as u16)),
        dst_port: port,
        protocol: UDP,
        echo: echo::NONE,
        zone: Zone::HOST,
    }
}

/// Whether the frame is for this host's device, and not for another station whose frames it hears too.
#[inline(always)]
fn is_for_us<F: Frame>(frame: &F, back: &NextHop) -> Option<bool> {
    let [.., a, b, c, d, e, f] = back.macs();
    Some(frame.read::<6>(0)? == [a, b, c, d, e, f])
}

/// Gives the packet behind so many bytes of outer headers the tuple that its flow says, one hop on, in the gateway's frame.
#[inline(always)]
fn rewrite<F: Frame>(frame: &mut F, s: &Scratch, plain: &Plain, around: usize) -> Option<()> {
    let becomes = &s.flow.becomes;
    let (ip, l4) = (around + ETH, around + plain.h.l4);
    let lower = plain.h.ttl.saturating_sub(1);
    frame.write(around, s.flow.next.macs())?;
    if plain.h.v4 {
        let protocol = s.key.protocol;
        let delta = s.flow.address_delta.and_word([plain.h.ttl, protocol], [lower, protocol]);
        let field = frame.read::<2>(ip + ipv4::CHECKSUM)?;
        frame.write(ip + ipv4::TTL, [lower])?;
        frame.write(ip + ipv4::CHECKSUM, delta.applied_to(field))?;
        frame.write(ip + ipv4::SOURCE, becomes.src.v4_bytes())?;
        frame.write(ip + ipv4::DESTINATION, becomes.dst.v4_bytes())?;
    } else {
        frame.write(ip + ipv6::HOP_LIMIT, [lower])?;
        frame.write(ip + ipv6::SOURCE, becomes.src.bytes())?;
        frame.write(ip + ipv6::DESTINATION, becomes.dst.bytes())?;
    }
    let (a, b) = (becomes.src_port.bytes(), becomes.dst_port.bytes());
    frame.write(l4, [a[0], a[1], b[0], b[1]])?;
    let at = l4 + checksum_at(plain);
    let field = frame.read::<2>(at)?;
    let zero = if plain.h.transport == Transport::Udp { Zero::MeansNone } else { Zero::IsASum };
    if zero == Zero::MeansNone && field == NO_CHECKSUM {
        return Some(());
    }
    let sum = s.flow.address_delta.and(s.flow.port_delta).applied_to(field);
    frame.write(at, zero.written(sum))
}
