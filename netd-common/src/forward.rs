//! Where a packet goes after its translation, and what keeps it from the fast path.

use crate::{
    chapter::Chapter,
    overlay::mesh,
    packet::{ETH, Label, Packet},
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, IPV6_HEADER, Noted, Part, Transport},
    tables::{Device, DeviceKind, Endpoint, EndpointKey, Instant, NextHop, Route, Routing, Scratch, Span, Tables, Via},
    tuple::{Address, Mac, Zone},
    verdict::{DropReason, Packed, Verdict},
};

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// The longest packet, with an Ethernet header, whose length the header of IPv6 has room for.
const LONGEST: usize = ETH + IPV6_HEADER + 0xffff;

/// Fills in `s.flow`'s way to the container that a packet which has become `s.flow.becomes` is for, here or, where its port is
/// published on every host, elsewhere. An address without a container is nobody's: the packet is dropped, not left to whoever has the address next.
#[inline(always)]
pub fn find_way_in<T: Tables>(t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    if s.flow.becomes.zone == Zone::HOST {
        // One of the host's own: no length fits the fast path.
        s.flow.next = NextHop::default();
        s.flow.via = Via::Stack as u8;
        return Ok(());
    }
    s.endpoint = EndpointKey { address: s.flow.becomes.dst, zone: s.flow.becomes.zone, pad: 0 };
    let Some(endpoint) = t.endpoint(&s.endpoint) else { return mesh::find_way(t, s) };
    s.flow.next = NextHop::peer(endpoint.device, endpoint.mtu, endpoint.mac, endpoint.gateway_mac);
    s.flow.via = Via::Peer as u8;
    Ok(())
}

/// What the host's routing says of a packet that leaves a container's network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WayOut {
    /// By this uplink, as this address: the network's or the uplink's, or the packet's own in a routed network; `s.flow`'s way is
    /// filled in.
    Uplink(Address),
    /// It is for the host.
    Local,
    /// Into another of our networks.
    Network,
    /// The stack must answer: there is no way, or none for a program.
    Stack,
}

/// Looks up the way of a packet from the container whose device is `from` and fills it in in `s.flow`. A first packet is
/// looked up by what it is, an answer by what it becomes: a published flow answers from the published address.
#[inline(never)]
pub fn find_way_out<T: Tables>(t: &T, s: &mut Scratch, from: &Device, answers: bool) -> Result<WayOut, DropReason> {
    let Some(mark) = mark_to_ask_for(t) else { return Ok(WayOut::Stack) };
    let tuple = if answers { &s.flow.becomes } else { &s.key };
    match t.route(from.bridge, mark, tuple, &mut s.flow.next) {
        Route::Local => return Ok(WayOut::Local),
        Route::Stack => return Ok(WayOut::Stack),
        Route::Forward => {}
    }
    s.flow.via = Via::Neighbour as u8;
    find_uplink(t, s, from)
}

/// The same for a flow that goes on. The host's routing, most of what a look costs, is asked only if it may have another answer.
#[inline(always)]
pub fn find_way_out_again<T: Tables>(
    t: &T,
    s: &mut Scratch,
    from: &Device,
    answers: bool,
) -> Result<WayOut, DropReason> {
    if holds(t, s, t.now())
        && let Ok(WayOut::Uplink(source)) = find_uplink(t, s, from)
    {
        return Ok(WayOut::Uplink(source));
    }
    find_way_out(t, s, from, answers)
}

/// Whether the host's routing has not changed, as far as is known, since the way of the flow in `s.flow` was looked up. Known to the
/// daemon: as long as none is there, and for what nobody is told of, a way holds no longer than an epoch.
#[inline(always)]
fn holds<T: Tables>(t: &T, s: &Scratch, now: Instant) -> bool {
    let (noted, current) = (s.flow.noted, now.low_byte());
    let since = Span::ticks(current.wrapping_sub(noted).into());
    let is_of_epoch = noted / Instant::EPOCH == current / Instant::EPOCH;
    s.flow.via == Via::Neighbour as u8 && is_of_epoch && t.ways_changed().after(since) < now
}

/// What is at the end of the way that the host's routing has given the flow in `s.flow`, of the container whose device is `from`.
#[inline(never)]
fn find_uplink<T: Tables>(t: &T, s: &mut Scratch, from: &Device) -> Result<WayOut, DropReason> {
    let Some(device) = t.device(s.flow.next.device) else { return Err(DropReason::UncoveredDevice) };
    if !device.is(DeviceKind::Uplink) {
        // Back into its own network by way of the gateway: the stack's to route.
        return Ok(if device.zone == s.key.zone { WayOut::Stack } else { WayOut::Network });
    }
    if s.flow.next.mtu == 0 {
        s.flow.next.mtu = device.mtu;
    }
    let Some(address) = source(t, from, device, s.key.src) else { return Err(DropReason::UncoveredDevice) };
    Ok(WayOut::Uplink(address))
}

/// The mark of the packet whose way the host's routing is asked for: that of the one in hand if the stack had it. `None` where that
/// cannot be known.
#[inline(always)]
fn mark_to_ask_for<T: Tables>(t: &T) -> Option<u32> {
    let Some(settings) = t.settings() else { return Some(0) };
    if settings.routing == Routing::ByStack as u32 {
        return None;
    }
    Some(if settings.routing == Routing::AskedWithMark as u32 { settings.firewall.mark } else { 0 })
}

/// The address as which a packet from `own`, of the network of `from`, leaves by `uplink`.
#[inline(always)]
pub fn source<T: Tables>(t: &T, from: &Device, uplink: &Device, own: Address) -> Option<Address> {
    if from.keeps(own) {
        return Some(own);
    }
    let given = t.device(from.bridge).and_then(|bridge| bridge.address(own));
    if given.is_some() { given } else { uplink.address(own) }
}

/// Refuses what comes by an uplink and would go on to elsewhere, where the host routes for nobody but netd's containers. What
/// is for a container goes on: its own hook says why it may not arrive.
#[inline(never)]
pub fn require_destination<T: Tables>(t: &T, s: &mut Scratch, by: &Device) -> Result<(), DropReason> {
    let for_host = by.address(s.key.dst) == Some(s.key.dst);
    if for_host || t.route(by.ifindex, 0, &s.key, &mut s.flow.next) != Route::Forward {
        return Ok(());
    }
    match t.device(s.flow.next.device) {
        Some(device) if !device.is(DeviceKind::Uplink) => Ok(()),
        _ => Err(DropReason::NotARouter),
    }
}

/// Refuses a packet from outside whose source is no address out there, but a container's or the host's own: its answers would
/// not leave. Asked of what opens something.
#[inline(never)]
pub fn require_outside_source<T: Tables>(t: &T, s: &mut Scratch, by: u32) -> Result<(), DropReason> {
    s.peer_key = s.key.reversed(s.key.zone);
    let leads_outside = match t.route(by, 0, &s.peer_key, &mut s.flow.next) {
        Route::Forward => t.device(s.flow.next.device).is_none_or(|device| device.is(DeviceKind::Uplink)),
        Route::Local => false,
        Route::Stack => true,
    };
    if leads_outside { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Whether the stack must route this packet: it would have to answer it (its time is up) or to cut it.
#[inline(always)]
pub fn needs_stack<P: Packet>(p: &P, h: Headers, mtu: u32) -> Result<bool, DropReason> {
    if h.ttl <= 1 {
        return Ok(true);
    }
    let segment = p.segment_size();
    let length = if segment == 0 { p.length().saturating_sub(ETH) } else { segment_length(p, h, segment)? };
    Ok(length > mtu as usize)
}

/// Whether a packet whose headers are noted, or what it will be cut into, is larger than `mtu`.
#[inline(always)]
pub fn noted_exceeds<P: Packet>(p: &P, h: &Noted, mtu: u32) -> Result<bool, DropReason> {
    let segment = p.segment_size();
    if segment == 0 {
        return Ok(p.length().saturating_sub(ETH) > mtu as usize);
    }
    let l4 = h.l4 as usize;
    let header = match h.transport() {
        Transport::Tcp if !h.is_later() => usize::from(p.read::<1>(l4 + 12)?[0] >> 4) * 4,
        Transport::Udp => UDP_HEADER,
        _ => TCP_HEADER,
    };
    Ok(l4.saturating_sub(ETH + jumbo_header(p)) + header + segment > mtu as usize)
}

/// Length of the IP packets that this one will be cut into, by its sender's own wish (GSO).
#[inline(always)]
fn segment_length<P: Packet>(p: &P, h: Headers, segment: usize) -> Result<usize, DropReason> {
    let header = match h.transport {
        Transport::Tcp if h.part != Part::Later => usize::from(p.read::<1>(h.l4 + 12)?[0] >> 4) * 4,
        Transport::Udp => UDP_HEADER,
        _ => TCP_HEADER,
    };
    Ok(h.l4.saturating_sub(ETH + jumbo_header(p)) + header + segment)
}

/// Bytes of the hop-by-hop header that says the length of a packet of IPv6 for which the header has no room (RFC 2675 section 2); 0
/// where there is none. The kernel writes it for its own stack (BIG TCP), and what such a packet is cut into has none (kernel commit
/// 09f3d1a3a52c).
#[inline(always)]
fn jumbo_header<P: Packet>(p: &P) -> usize {
    if p.length() <= LONGEST { 0 } else { jumbo_header_of_large(p).unwrap_or(0) }
}

/// Not inlined: few packets are so large.
#[inline(never)]
fn jumbo_header_of_large<P: Packet>(p: &P) -> Result<usize, DropReason> {
    let [first, _, _, _, length, of, next, _] = p.read::<8>(ETH)?;
    let [_, more, option, bytes] = p.read::<4>(ETH + IPV6_HEADER)?;
    let is_ipv6 = first >> 4 == 6;
    let is_jumbo = [length, of, next, more] == [0; 4] && [option, bytes] == [0xc2, 4];
    Ok(if is_ipv6 && is_jumbo { 8 } else { 0 })
}

/// Sends a translated packet on its way.
#[inline(always)]
pub fn send<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Result<Packed, DropReason> {
    if s.flow.via == Via::Tunnel as u8 {
        return p.tell(Chapter::IntoTunnel, t, s, 0).decided();
    }
    p.set_label(Label::Approved);
    if s.flow.via == Via::Peer as u8 {
        let ethertype = if s.key.src.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        p.put_link_header(s.flow.next.macs(), ethertype)?;
        return Ok(Verdict::Peer(s.flow.next.device).packed());
    }
    if s.flow.via == Via::Neighbour as u8 {
        return Ok(Verdict::Neighbour(s.flow.next.device).packed());
    }
    Ok(Verdict::Pass.packed())
}

/// Delivers a frame inside a network, if its destination is a container there. What is unknown, or would not fit, is the
/// bridge's.
#[inline(always)]
pub fn switch<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    s: &mut Scratch,
    zone: Zone,
    destination: Mac,
) -> Result<Packed, DropReason> {
    let Some(endpoint) = endpoint(p, t, s, zone, (s.key.dst, destination)) else { return Ok(Verdict::Pass.packed()) };
    let device = endpoint.device;
    deliver(p, device)
}

/// The container in a network that a frame is for, by its addresses of both layers: one for another's link-layer address is not this
/// container's, whatever its IP header says. `None` where the frame would not fit.
#[inline(always)]
pub fn endpoint<'t, P: Packet, T: Tables>(
    p: &P,
    t: &'t T,
    s: &mut Scratch,
    zone: Zone,
    (address, mac): (Address, Mac),
) -> Option<&'t Endpoint> {
    s.endpoint = EndpointKey { address, zone, pad: 0 };
    let endpoint = t.endpoint(&s.endpoint)?;
    let fits = p.segment_size() != 0 || p.length() <= endpoint.mtu as usize + ETH;
    (endpoint.mac == mac && fits).then_some(endpoint)
}

/// Puts a frame as it is into the container behind a host-side veth.
#[inline(always)]
pub fn deliver<P: Packet>(p: &mut P, device: u32) -> Result<Packed, DropReason> {
    p.set_label(Label::Approved);
    Ok(Verdict::Peer(device).packed())
}
