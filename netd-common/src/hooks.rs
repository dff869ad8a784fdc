//! One function per place where a packet meets us. Each reads as the packet's story; the work is in the other modules.
//!
//! Host traffic fails open, container traffic fails closed: an error on an uplink before a packet is known to be ours lets it
//! pass, an error on a container's device drops it.

use crate::{
    conntrack, dns, firewall,
    forward::{self, WayOut},
    fragment, guard, icc, icmp,
    nat::{self, Ttl},
    neighbour, overlay,
    packet::{Label, Packet},
    parse::{self, Headers, Transport},
    policy, publish,
    tables::{Device, DeviceKind, EndpointKey, Hook, Scratch, Tables, Via, device_flags},
    tuple::{ICMPV6, Zone},
    verdict::{DropReason, Packed, Verdict},
};

/// What a hook decides; an error is a drop.
pub type Decided = Result<Packed, DropReason>;

/// To the stack.
pub const PASS: Packed = Verdict::Pass.packed();

/// Runs the logic of a hook on a packet.
#[inline(always)]
pub fn run<P: Packet, T: Tables>(hook: Hook, p: &mut P, t: &T, s: &mut Scratch) -> Packed {
    let verdict = settle(match hook {
        Hook::FromContainer => from_container(p, t, s),
        Hook::ToContainer => to_container(p, t, s),
        Hook::FromUplink | Hook::FromL3Uplink => from_uplink(p, t, s),
        Hook::ToUplink | Hook::ToL3Uplink => to_uplink(p, t, s),
        Hook::DnsLo => dns_lo(p, t, s),
        Hook::FromOverlay => overlay::enter(p, t, s),
        // What meets frames is `prefilter`.
        Hook::UplinkXdp => Ok(PASS),
    });
    let is_ours = match hook {
        Hook::FromContainer => true,
        Hook::FromUplink | Hook::FromL3Uplink => p.label() == Label::Approved,
        Hook::ToContainer | Hook::ToUplink | Hook::ToL3Uplink | Hook::DnsLo | Hook::FromOverlay | Hook::UplinkXdp => {
            false
        }
    };
    if is_ours && verdict.is_for_stack() {
        firewall::mark(p, t);
    }
    verdict
}

/// An error is a drop.
#[inline(always)]
fn settle(decided: Decided) -> Packed {
    decided.unwrap_or_else(|reason| Verdict::Drop(reason).packed())
}

/// Ingress of the host's side of a container's veth: everything the container sends.
#[inline(always)]
pub fn from_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    p.set_label(Label::None);
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let frame = parse::ethernet(p)?;
    policy::require_own_mac(device, frame)?;
    if p.is_tagged() {
        // A virtual LAN among the containers of the network: the bridge's, which knows none beyond itself.
        return Ok(PASS);
    }
    if policy::is_arp(frame) {
        neighbour::require_own_arp(p, device)?;
        if device.has(device_flags::NO_ICC) {
            return neighbour::answer_arp(p, t, s);
        }
        return if device.vni == 0 { Ok(PASS) } else { overlay::leave_arp(p, t, s) };
    }
    let Some(h) = parse::ip(p, frame.ethertype, &mut s.key)? else { return Ok(PASS) };
    policy::require_own_address(device, &s.key)?;
    if !h.v4 && h.transport == Transport::Opaque {
        neighbour::require_plain(&s.key, h)?;
        if s.key.protocol == ICMPV6 {
            // Of the link alone.
            let decided = neighbour::discovery(p, t, s, h)?;
            return if device.vni == 0 || decided != PASS { Ok(decided) } else { overlay::leave(p, t, s, h) };
        }
    }
    if frame.destination.is_group() || s.key.dst.is_link_local() || !policy::goes_beyond_link(s.key.src) {
        return if device.vni == 0 { Ok(PASS) } else { overlay::leave(p, t, s, h) };
    }
    if s.key.dst.is_loopback() {
        return Err(DropReason::LoopbackFromWire);
    }
    let on_link = frame.destination != device.gateway_mac;
    if on_link && !device.has(device_flags::NO_ICC) {
        // A switch's work, without state.
        return if device.vni == 0 {
            forward::switch(p, t, s, device.zone, frame.destination)
        } else {
            overlay::leave(p, t, s, h)
        };
    }
    if on_link {
        icc::require_container(t, s, device.zone, frame.destination)?;
    } else if device.has(device_flags::isolated(h.v4)) {
        return Err(DropReason::Internal);
    }
    s.key.zone = device.zone;
    s.on_link = on_link.into();
    if h.transport == Transport::Error {
        return if on_link { icc::error(p, t, s, h) } else { error_by_container(p, t, s, h) };
    }
    let h = fragment::recall(t, s, h);
    routed(p, t, s, device, h)
}

/// An ICMP error from a container: about a packet that a flow brought it, or about one that the host itself sent it.
///
/// Not inlined, as what it calls.
#[inline(never)]
fn error_by_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers) -> Decided {
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    // What is about no flow has nothing to show.
    s.flow.generation = 0;
    let answers = icmp::find(p, t, s, h);
    if answers && s.flow.becomes.zone != Zone::HOST {
        forward::find_way_in(t, s)?;
        icmp::rewrite(p, h, s, Ttl::Keep)?;
        return forward::send(p, s);
    }
    let way = forward::find_way_out(t, s, device, answers)?;
    if s.flow.generation != 0 || !matches!(way, WayOut::Uplink(_)) {
        // Into another network too: there `to_container` refuses it.
        return Ok(PASS);
    }
    if !answers {
        return Err(DropReason::NoFlow);
    }
    if forward::needs_stack(p, h, s.flow.next.mtu)? {
        return Ok(PASS);
    }
    icmp::rewrite(p, h, s, Ttl::Decrement)?;
    forward::send(p, s)
}

/// From a container to beyond its network, or to another container on its link, where the network keeps them apart.
#[inline(always)]
fn routed<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, device: &Device, h: Headers) -> Decided {
    if !goes_on(t, s, h, |t, s| find_containers_way(t, s, device))? {
        if s.on_link != 0 {
            icc::lead(t, s)?;
            if h.transport == Transport::Opaque {
                return forward::deliver(p, s.flow.next.device);
            }
        } else if !find_first_way(p, t, s, device, h)? {
            return Ok(PASS);
        }
        open(p, t, s, h)?;
    }
    fragment::remember(t, s, h);
    if s.on_link != 0 {
        return forward::deliver(p, s.flow.next.device);
    }
    // Between a container and the host's address there is no hop, and no link that could be too narrow.
    let within = s.flow.becomes.zone != Zone::HOST;
    // What the stack must route leaves as it is, and is translated on its way out of the uplink.
    if !within && (s.flow.via == Via::Stack as u8 || forward::needs_stack(p, h, s.flow.next.mtu)?) {
        return Ok(PASS);
    }
    if !within && firewall::must_show(s, h) {
        return Ok(firewall::SHOW);
    }
    nat::rewrite(p, &h, s, if within { Ttl::Keep } else { Ttl::Decrement })?;
    forward::send(p, s)
}

/// Finds out what a packet becomes that opens a flow to beyond its network. False if the stack must know.
#[inline(always)]
fn find_first_way<P: Packet, T: Tables>(
    p: &P,
    t: &T,
    s: &mut Scratch,
    device: &Device,
    h: Headers,
) -> Result<bool, DropReason> {
    let internal = device.has(device_flags::INTERNAL);
    let way = if s.key.dst == device.gateway(s.key.dst) {
        WayOut::Local
    } else {
        forward::find_way_out(t, s, device, false)?
    };
    match way {
        WayOut::Local if may_knock(h) && publish::lead_within(t, s, device, true)? => {}
        WayOut::Network if conntrack::opens(h) && publish::lead_within(t, s, device, false)? => {}
        WayOut::Local | WayOut::Stack => return Ok(false),
        WayOut::Network => return Err(DropReason::Isolated),
        // Untranslated, and without a flow: the stack may have to answer it.
        WayOut::Uplink(_) if !internal && forward::needs_stack(p, h, s.flow.next.mtu)? => return Ok(false),
        WayOut::Uplink(source) => nat::masquerade_as(s, source),
    }
    if internal { Err(DropReason::Internal) } else { Ok(true) }
}

/// Whether a packet may open a flow to a published port.
#[inline(always)]
fn may_knock(h: Headers) -> bool {
    h.transport != Transport::EchoRequest && conntrack::opens(h)
}

/// Looks up the way of a flow that a container goes on with. Without one the stack must know. False if the flow is over: what
/// a container opened has an address of the host that is not that of its way, so no answer would come back.
#[inline(always)]
fn find_containers_way<T: Tables>(t: &T, s: &mut Scratch, device: &Device) -> Result<bool, DropReason> {
    if s.flow.becomes.zone != Zone::HOST {
        return forward::find_way_in(t, s).map(|()| true);
    }
    let answers = s.flow.direction != 0;
    match forward::find_way_out(t, s, device, answers)? {
        WayOut::Uplink(source) => Ok(answers || s.flow.becomes.src == source),
        WayOut::Network => Err(DropReason::Isolated),
        WayOut::Local | WayOut::Stack => {
            s.flow.via = Via::Stack as u8;
            Ok(true)
        }
    }
}

/// Whether the packet belongs to a flow, which is in `s.flow` then. Once a tick, and when it changes the flow's state, it is
/// noted; once a tick its way is looked up anew by `find_way`, which may find it over.
#[inline(always)]
pub fn goes_on<T: Tables>(
    t: &T,
    s: &mut Scratch,
    h: Headers,
    find_way: impl FnOnce(&T, &mut Scratch) -> Result<bool, DropReason>,
) -> Result<bool, DropReason> {
    let now = t.now();
    s.show = 0;
    if !conntrack::find(t, s, h, now) {
        return Ok(false);
    }
    if !conntrack::must_note(s, h, now) {
        return Ok(true);
    }
    let Some(settings) = t.settings() else { return Err(DropReason::UnknownDevice) };
    // The way is asked for once a tick, and where it is not known yet; a change of state alone does not change it.
    let ask = conntrack::is_first_of_tick(s, now) || s.flow.via == Via::Stack as u8;
    if ask && !find_way(t, s)? {
        conntrack::end(t, s, now);
        return Ok(false);
    }
    Ok(conntrack::refresh(t, s, settings, &h, now))
}

/// Makes the flow of a container's packet, what it becomes filled in but for its source port. Where it keeps its address it
/// keeps its port too.
#[inline(always)]
fn open<P: Packet, T: Tables>(p: &P, t: &T, s: &mut Scratch, h: Headers) -> Result<(), DropReason> {
    match h.transport {
        Transport::Fragment => return Err(DropReason::Fragment),
        Transport::Error | Transport::Opaque => return Err(DropReason::Untranslatable),
        Transport::Tcp | Transport::Udp | Transport::EchoRequest | Transport::EchoReply => {}
    }
    if !conntrack::opens(h) || !parse::may_open(p, h.l4, s.key.protocol) {
        return Err(DropReason::NoFlow);
    }
    let Some(settings) = t.settings() else { return Err(DropReason::UnknownDevice) };
    let now = t.now();
    conntrack::prepare(s, settings, &h, now);
    let keep = s.flow.becomes.src == s.key.src;
    nat::establish_with_port(t, s, settings, now, keep)
}

/// Egress of the host's side of a container's veth: what the slow path delivers.
#[inline(always)]
pub fn to_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    if p.label() == Label::Approved {
        note_delivery(p, t, s);
        return Ok(PASS);
    }
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    policy::require_reachable(t, device, p.came_by())?;
    Ok(PASS)
}

/// Notes that the host's firewall has let a packet through to its container.
#[inline(always)]
fn note_delivery<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) {
    if t.settings().is_none_or(|settings| settings.firewall.generation == 0) {
        return;
    }
    let (Some(device), Ok(frame)) = (t.device(p.device()), parse::ethernet(p)) else { return };
    if let Ok(Some(h)) = parse::ip(p, frame.ethertype, &mut s.key) {
        firewall::delivered(t, s, h, device);
    }
}

/// Ingress of an uplink: the host's own traffic, and what is for a container.
#[inline(always)]
pub fn from_uplink<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    p.set_label(Label::None);
    if p.is_tagged() || p.is_for_another() {
        return Ok(PASS);
    }
    let Ok(frame) = parse::ethernet(p) else { return Ok(PASS) };
    let Ok(Some(h)) = parse::ip(p, frame.ethertype, &mut s.key) else { return Ok(PASS) };
    s.key.zone = Zone::HOST;
    let to_group = frame.destination.is_group();
    if s.key.dst.is_loopback() {
        return Err(DropReason::LoopbackFromWire);
    }
    if h.transport == Transport::Error {
        return error_from_outside(p, t, s, h, to_group);
    }
    let h = fragment::recall(t, s, h);
    let is_ours = h.transport.has_flow()
        && (goes_on(t, s, h, |t, s| forward::find_way_in(t, s).map(|()| true))?
            || !to_group && opened_from_outside(p, t, s, h)?);
    if is_ours {
        return enter(p, t, s, h);
    }
    fragment::miss(t, s, h);
    left_to_host(t, s, p.device(), to_group)
}

/// What came by this uplink and is not ours. To a group it goes no further than the host.
#[inline(always)]
fn left_to_host<T: Tables>(t: &T, s: &mut Scratch, uplink: u32, to_group: bool) -> Decided {
    match t.device(uplink) {
        Some(device) if device.has(device_flags::not_a_router(s.key.dst.is_v4())) && !to_group => {
            forward::require_destination(t, s, device)?;
        }
        _ => {}
    }
    Ok(PASS)
}

/// An ICMP error from outside: about a packet that a container sent, or about one of the host's own.
#[inline(always)]
fn error_from_outside<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers, to_group: bool) -> Decided {
    if !icmp::find(p, t, s, h) {
        return left_to_host(t, s, p.device(), to_group);
    }
    forward::find_way_in(t, s)?;
    // The firewall sees every error about what it was shown.
    if forward::needs_stack(p, h, s.flow.next.mtu)? || s.flow.generation != 0 {
        icmp::rewrite(p, h, s, Ttl::Keep)?;
        p.set_label(Label::Approved);
        return Ok(PASS);
    }
    icmp::rewrite(p, h, s, Ttl::Decrement)?;
    forward::send(p, s)
}

/// Whether a packet from outside that belongs to no flow opens one to a published port. It is the host's if not.
#[inline(always)]
fn opened_from_outside<P: Packet, T: Tables>(p: &P, t: &T, s: &mut Scratch, h: Headers) -> Result<bool, DropReason> {
    if !conntrack::opens(h) || !parse::may_open(p, h.l4, s.key.protocol) {
        return Ok(false);
    }
    let Some(publication) = publish::at(t, s, p.device()) else { return Ok(false) };
    publish::require_source(t, s, publication.sources)?;
    if publication.address.is_v4() != s.key.dst.is_v4() {
        // No process has the port, so the host refuses at once.
        return Ok(false);
    }
    let Some(settings) = t.settings() else { return Ok(false) };
    forward::require_outside_source(t, s, p.device())?;
    publish::become_published(s, &publication);
    forward::find_way_in(t, s)?;
    let now = t.now();
    conntrack::prepare(s, settings, &h, now);
    nat::establish_with_port(t, s, settings, now, true)?;
    Ok(true)
}

/// Translates a packet and puts it into its container, or leaves it to the stack to route there.
#[inline(always)]
fn enter<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers) -> Decided {
    fragment::remember(t, s, h);
    let shows = firewall::must_show(s, h);
    if shows || forward::needs_stack(p, h, s.flow.next.mtu)? {
        nat::rewrite(p, &h, s, Ttl::Keep)?;
        p.set_label(Label::Approved);
        return Ok(if shows { firewall::SHOW } else { PASS });
    }
    nat::rewrite(p, &h, s, Ttl::Decrement)?;
    forward::send(p, s)
}

/// Egress of an uplink: the host's own traffic, what the fast path sends, and what the stack forwarded for a container.
#[inline(always)]
pub fn to_uplink<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    if p.label() == Label::Approved {
        return Ok(PASS);
    }
    if p.came_by() == 0 {
        return guard::leave(p, t, s);
    }
    let Some(from) = t.device(p.came_by()) else { return Ok(PASS) };
    if from.is(DeviceKind::Uplink) { Ok(PASS) } else { forwarded_for_container(p, t, s, from) }
}

/// A container's packet that the stack has routed: it must not leave with the container's address.
#[inline(always)]
fn forwarded_for_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, from: &Device) -> Decided {
    firewall::unmark(p, t);
    let frame = parse::ethernet(p)?;
    // What was wrapped after its translation has the label.
    let Some(h) = parse::ip(p, frame.ethertype, &mut s.key)? else { return Err(DropReason::UncoveredDevice) };
    s.key.zone = from.zone;
    s.endpoint = EndpointKey { address: s.key.src, zone: from.zone, pad: 0 };
    if t.endpoint(&s.endpoint).is_none() {
        // The gateway's own word, or another's translation.
        return Ok(PASS);
    }
    if from.has(device_flags::INTERNAL) {
        return Err(DropReason::Internal);
    }
    if h.transport == Transport::Error {
        if !icmp::find(p, t, s, h) {
            return Err(DropReason::NoFlow);
        }
        icmp::rewrite(p, h, s, Ttl::Keep)?;
        p.set_label(Label::Approved);
        return Ok(PASS);
    }
    let h = fragment::recall(t, s, h);
    let Some(uplink) = t.device(p.device()) else { return Err(DropReason::UncoveredDevice) };
    let source = forward::source(t, from, uplink, s.key.src);
    // What a container opened on another uplink is over.
    let may_go_on = |s: &Scratch| s.flow.direction != 0 || Some(s.flow.becomes.src) == source;
    if !goes_on(t, s, h, |_, s| Ok(may_go_on(s)))? {
        let Some(source) = source else { return Err(DropReason::UncoveredDevice) };
        s.flow.next = Default::default();
        s.flow.via = Via::Stack as u8;
        nat::masquerade_as(s, source);
        open(p, t, s, h)?;
    }
    fragment::remember(t, s, h);
    nat::rewrite(p, &h, s, Ttl::Keep)?;
    firewall::emerged(t, s, p.device(), t.now());
    p.set_label(Label::Approved);
    Ok(PASS)
}

/// Egress of a container's loopback device. What a container sends to itself is its own affair, but for what it asks the resolver.
#[inline(always)]
pub fn dns_lo<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Ok(frame) = parse::ethernet(p) else { return Ok(PASS) };
    if !dns::concerns(p, frame) {
        return Ok(PASS);
    }
    let Ok(Some(h)) = parse::ip(p, frame.ethertype, &mut s.key) else { return Ok(PASS) };
    if h.transport == Transport::Tcp || h.transport == Transport::Udp {
        dns::translate(p, t, s, h)?;
    }
    Ok(PASS)
}
