//! One function per place where a packet meets us. Each reads as the packet's story; the work is in the other modules.
//!
//! Host traffic fails open, container traffic fails closed: an error on an uplink before a packet is known to be ours lets it
//! pass, an error on a container's device drops it.

use crate::{
    conntrack,
    forward::{self, WayOut},
    nat::{self, Ttl},
    packet::{Label, Packet},
    parse::{self, Ethernet, Headers, Transport},
    policy, publish,
    tables::{Device, DeviceKind, EndpointKey, Hook, Scratch, Tables, Via, device_flags},
    tuple::{Address, Zone},
    verdict::{DropReason, Packed, Verdict},
};

type Decided = Result<Packed, DropReason>;

const PASS: Packed = Verdict::Pass.packed();

/// Runs the logic of a hook on a packet.
#[inline(always)]
pub fn run<P: Packet, T: Tables>(hook: Hook, p: &mut P, t: &T, s: &mut Scratch) -> Packed {
    let result = match hook {
        Hook::FromContainer => from_container(p, t, s),
        Hook::ToContainer => to_container(p, t),
        Hook::FromUplink => from_uplink(p, t, s),
        Hook::ToUplink => to_uplink(p, t, s),
    };
    match result {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason).packed(),
    }
}

/// Ingress of the host's side of a container's veth: everything the container sends.
#[inline(always)]
pub fn from_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    p.set_label(Label::None);
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let frame = parse::ethernet(p)?;
    policy::require_own_mac(device, frame)?;
    if policy::is_arp(frame) {
        policy::require_own_arp(p, device)?;
        return Ok(PASS);
    }
    let Some(h) = parse::ip(p, frame.ethertype, &mut s.key)? else { return Ok(PASS) };
    policy::require_own_address(device, &s.key)?;
    if frame.destination.is_group() || s.key.dst.is_link_local() {
        return Ok(PASS);
    }
    if frame.destination != device.gateway_mac {
        return switched(p, t, s, device, frame);
    }
    if s.key.dst == device.gateway(s.key.dst) {
        return Ok(PASS);
    }
    s.key.zone = device.zone;
    routed(p, t, s, device, h)
}

/// From one container to another of its network: a switch's work, without state.
#[inline(always)]
fn switched<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, device: &Device, frame: Ethernet) -> Decided {
    forward::switch(p, t, s, device.zone, frame.destination)
}

/// From a container to beyond its network.
#[inline(always)]
fn routed<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, device: &Device, h: Headers) -> Decided {
    let now = t.now();
    if !conntrack::find(t, s, h.transport, now) {
        return opened_by_container(p, t, s, device, h);
    }
    if conntrack::must_note(s, h.transport, now) {
        let Some(settings) = t.settings() else { return Err(DropReason::UnknownDevice) };
        let answers = s.flow.direction != 0;
        if forward::find_way_out(t, s, device.bridge, answers)? == WayOut::Stack {
            s.flow.via = Via::Stack as u8;
        }
        if !conntrack::refresh(t, s, settings, h.transport, now) {
            return opened_by_container(p, t, s, device, h);
        }
    }
    // What the stack must route leaves as it is, and is translated on its way out of the uplink.
    if s.flow.via == Via::Stack as u8 || forward::needs_stack(p, h, s.flow.next.mtu)? {
        return Ok(PASS);
    }
    nat::rewrite(p, h, s, Ttl::Decrement)?;
    forward::send(p, s)
}

/// A container's packet that belongs to no flow.
#[inline(always)]
fn opened_by_container<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    s: &mut Scratch,
    device: &Device,
    h: Headers,
) -> Decided {
    let source = match forward::find_way_out(t, s, device.bridge, false)? {
        WayOut::Local | WayOut::Stack => return Ok(PASS),
        WayOut::Uplink(source) => source,
    };
    if device.has(device_flags::INTERNAL) {
        return Err(DropReason::Internal);
    }
    if forward::needs_stack(p, h, s.flow.next.mtu)? {
        return Ok(PASS);
    }
    masquerade(t, s, h, source)?;
    nat::rewrite(p, h, s, Ttl::Decrement)?;
    forward::send(p, s)
}

/// Makes the flow of a packet that leaves as `source`.
#[inline(always)]
fn masquerade<T: Tables>(t: &T, s: &mut Scratch, h: Headers, source: Address) -> Result<(), DropReason> {
    match h.transport {
        Transport::Fragment => return Err(DropReason::Fragment),
        Transport::Opaque => return Err(DropReason::Untranslatable),
        Transport::Tcp(_) | Transport::Udp | Transport::EchoRequest | Transport::EchoReply => {}
    }
    if !conntrack::opens(h.transport) {
        return Err(DropReason::NoFlow);
    }
    let Some(settings) = t.settings() else { return Err(DropReason::UnknownDevice) };
    nat::masquerade_as(s, source);
    nat::establish_with_port(t, s, settings, h.transport, t.now(), false)
}

/// Egress of the host's side of a container's veth: what the slow path delivers.
#[inline(always)]
pub fn to_container<P: Packet, T: Tables>(p: &mut P, t: &T) -> Decided {
    if p.label() == Label::Approved {
        return Ok(PASS);
    }
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    policy::require_reachable(t, device, p.came_by())?;
    Ok(PASS)
}

/// Ingress of an uplink: the host's own traffic, and what is for a container.
#[inline(always)]
pub fn from_uplink<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    p.set_label(Label::None);
    let Ok(frame) = parse::ethernet(p) else { return Ok(PASS) };
    let Ok(Some(h)) = parse::ip(p, frame.ethertype, &mut s.key) else { return Ok(PASS) };
    s.key.zone = Zone::HOST;
    if h.v4 && s.key.dst.v4_bytes()[0] == 127 {
        return Err(DropReason::LoopbackFromWire);
    }
    if !h.transport.has_flow() {
        return Ok(PASS);
    }
    let now = t.now();
    if !conntrack::find(t, s, h.transport, now) {
        return opened_from_outside(p, t, s, h);
    }
    if conntrack::must_note(s, h.transport, now) {
        let Some(settings) = t.settings() else { return Ok(PASS) };
        forward::find_way_in(t, s)?;
        if !conntrack::refresh(t, s, settings, h.transport, now) {
            return opened_from_outside(p, t, s, h);
        }
    }
    enter(p, s, h)
}

/// A packet from outside that belongs to no flow: it is the host's, unless it opens one to a published port.
#[inline(always)]
fn opened_from_outside<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers) -> Decided {
    if h.transport == Transport::EchoRequest || !conntrack::opens(h.transport) {
        return Ok(PASS);
    }
    let Some(publication) = publish::at(t, s, p.device()) else { return Ok(PASS) };
    let Some(settings) = t.settings() else { return Ok(PASS) };
    s.flow.becomes = s.key;
    s.flow.becomes.dst = publication.address;
    s.flow.becomes.dst_port = publication.port;
    s.flow.becomes.zone = publication.zone;
    forward::find_way_in(t, s)?;
    nat::establish_with_port(t, s, settings, h.transport, t.now(), true)?;
    enter(p, s, h)
}

/// Translates a packet and puts it into its container, or leaves it to the stack to route there.
#[inline(always)]
fn enter<P: Packet>(p: &mut P, s: &mut Scratch, h: Headers) -> Decided {
    if forward::needs_stack(p, h, s.flow.next.mtu)? {
        nat::rewrite(p, h, s, Ttl::Keep)?;
        p.set_label(Label::Approved);
        return Ok(PASS);
    }
    nat::rewrite(p, h, s, Ttl::Decrement)?;
    forward::send(p, s)
}

/// Egress of an uplink: the host's own traffic, what the fast path sends, and what the stack forwarded for a container.
#[inline(always)]
pub fn to_uplink<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    if p.label() == Label::Approved || p.came_by() == 0 {
        return Ok(PASS);
    }
    let Some(from) = t.device(p.came_by()) else { return Ok(PASS) };
    if from.is(DeviceKind::Uplink) {
        let dropped = from.has(device_flags::NOT_A_ROUTER);
        return if dropped { Err(DropReason::NotARouter) } else { Ok(PASS) };
    }
    forwarded_for_container(p, t, s, from)
}

/// A container's packet that the stack has routed: it must not leave with the container's address.
#[inline(always)]
fn forwarded_for_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, from: &Device) -> Decided {
    let frame = parse::ethernet(p)?;
    let Some(h) = parse::ip(p, frame.ethertype, &mut s.key)? else { return Ok(PASS) };
    s.key.zone = from.zone;
    s.endpoint = EndpointKey { address: s.key.src, zone: from.zone, pad: 0 };
    if t.endpoint(&s.endpoint).is_none() {
        // The gateway's own word, or another's translation.
        return Ok(PASS);
    }
    if from.has(device_flags::INTERNAL) {
        return Err(DropReason::Internal);
    }
    let now = t.now();
    if !conntrack::find(t, s, h.transport, now) {
        let Some(uplink) = t.device(p.device()) else { return Err(DropReason::UncoveredDevice) };
        let Some(source) = uplink.address(s.key.src) else { return Err(DropReason::UncoveredDevice) };
        s.flow.next = Default::default();
        s.flow.via = Via::Stack as u8;
        masquerade(t, s, h, source)?;
    }
    nat::rewrite(p, h, s, Ttl::Keep)?;
    Ok(PASS)
}
