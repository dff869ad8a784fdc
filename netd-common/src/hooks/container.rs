//! The two hooks of a container's host-side veth, and that of what the host sends to it.

use super::{
    Decided, PASS, Way,
    flow::{OPENS, make, require_opening},
    goes_on,
};
use crate::{
    chapter::Chapter,
    conntrack, firewall,
    forward::{self, WayOut},
    fragment,
    icc::{self, OnLink},
    icmp,
    nat::{self, Ttl},
    neighbour, overlay,
    packet::{Label, Packet},
    parse::{self, ETHERTYPE_IPV6, Headers, Transport},
    policy, publish,
    tables::{Device, Scratch, Tables, Via, device_flags},
    tuple::{ICMPV6, Zone},
    verdict::{DropReason, Verdict},
};

/// Ingress of the host's side of a container's veth: everything the container sends.
#[inline(always)]
pub fn from_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    p.set_label(Label::Came);
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    let frame = parse::ethernet(p)?;
    policy::require_own_mac(device, frame)?;
    if p.is_tagged() && !p.shed_priority()? {
        // A virtual LAN among the containers of the network: the bridge's, which knows none beyond itself.
        return Ok(PASS);
    }
    if policy::is_arp(frame) {
        return p.tell(Chapter::Arp, t, s, 0).decided();
    }
    let Some(h) = parse::note(p, s, frame.ethertype)? else { return Ok(PASS) };
    policy::require_own_address(device, &s.key)?;
    if !h.v4 && h.transport == Transport::Opaque {
        neighbour::require_plain(&s.key, h)?;
        if s.key.protocol == ICMPV6 {
            // Of the link alone.
            let decided = p.tell(Chapter::Discovery, t, s, 0).decided()?;
            return if is_bridges(device) || decided != PASS { Ok(decided) } else { leave(p, t, s) };
        }
    }
    if frame.destination.is_group() || s.key.dst.is_link_local() || !policy::goes_beyond_link(s.key.src) {
        return if is_bridges(device) { Ok(PASS) } else { leave(p, t, s) };
    }
    if s.key.dst.is_loopback() {
        return Err(DropReason::LoopbackFromWire);
    }
    let on_link = frame.destination != device.gateway_mac;
    if on_link && !device.has(device_flags::NO_ICC) {
        // A switch's work, without state.
        return if device.vni == 0 { forward::switch(p, t, s, device.zone, frame.destination) } else { leave(p, t, s) };
    }
    s.on_link = OnLink::No as u32;
    if on_link {
        s.on_link = icc::require_container(t, s, device, frame.destination)? as u32;
    } else if device.has(device_flags::isolated(h.v4)) {
        return Err(DropReason::Internal);
    }
    s.key.zone = device.zone;
    if h.transport == Transport::Error {
        let told = p.tell(Chapter::ErrorByContainer, t, s, 0);
        return if told == icc::PASSES { icc::deliver(p, t, s) } else { told.decided() };
    }
    let h = fragment::recall(t, s);
    if !goes_on(p, t, s, h, Way::OfContainer)? {
        let led = p.tell(Chapter::LeadContainer, t, s, 0);
        if led == icc::PASSES {
            return icc::deliver(p, t, s);
        }
        if led != OPENS {
            return led.decided();
        }
        make(p, t, s)?;
    }
    fragment::remember(t, s, s.noted.headers());
    send(p, t, s)
}

/// Whether what is for a group or for a link-local address is the bridge's to carry: in a network of this host alone, and where
/// containers are kept apart, since no port of the bridge takes it.
#[inline(always)]
fn is_bridges(device: &Device) -> bool {
    device.vni == 0 || device.has(device_flags::NO_ICC)
}

/// Out of a network that spans hosts, or to another of its containers.
#[inline(always)]
fn leave<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    p.tell(Chapter::Leave, t, s, 0).decided()
}

/// An ICMP error from a container: about a packet that a flow brought it, or about one that the host itself sent it.
#[inline(always)]
pub fn error_by_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    if s.on_link != OnLink::No as u32 {
        return icc::error(p, t, s, false);
    }
    let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
    // What is about no flow has nothing to show.
    s.flow.generation = 0;
    let answers = icmp::find(p, t, s, h);
    if answers && !icmp::is_from_end(s) {
        // About a neighbour's flow: who is told would believe it, whoever says so.
        return Err(DropReason::SpoofedAddress);
    }
    if answers && s.flow.becomes.zone != Zone::HOST {
        forward::find_way_in(t, s)?;
        icmp::translate(p, t, s, Ttl::Keep)?;
        return forward::send(p, t, s);
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
    icmp::translate(p, t, s, Ttl::Decrement)?;
    forward::send(p, t, s)
}

/// Sends a container's packet of a flow beyond its network, or to another container on its link, where the network keeps them
/// apart.
#[inline(always)]
fn send<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    if s.on_link != OnLink::No as u32 {
        return icc::deliver(p, t, s);
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
    forward::send(p, t, s)
}

/// Leads a container's packet that belongs to no flow: what it becomes in the one that it opens. What has no ports has no flow, on
/// a link where it is allowed.
#[inline(always)]
pub fn lead_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    if s.on_link != OnLink::No as u32 {
        icc::lead(t, s)?;
        if h.transport == Transport::Opaque {
            return Ok(icc::PASSES);
        }
    } else {
        let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
        match find_first_way(p, t, s, device, h)? {
            FirstWay::Beyond => {}
            FirstWay::Host => return Ok(Verdict::Host(device.bridge).packed()),
            FirstWay::Stack => return Ok(PASS),
        }
    }
    require_opening(p, s)?;
    Ok(OPENS)
}

/// Where a packet goes that belongs to no flow.
enum FirstWay {
    /// Beyond its network, in a flow that it opens.
    Beyond,
    /// To the host itself.
    Host,
    /// Where the stack says.
    Stack,
}

/// Finds out where a packet goes, and what it becomes in the flow that it opens to beyond its network.
#[inline(always)]
fn find_first_way<P: Packet, T: Tables>(
    p: &P,
    t: &T,
    s: &mut Scratch,
    device: &Device,
    h: Headers,
) -> Result<FirstWay, DropReason> {
    let internal = device.has(device_flags::INTERNAL);
    let way = if s.key.dst == device.gateway(s.key.dst) {
        WayOut::Local
    } else {
        forward::find_way_out(t, s, device, false)?
    };
    // Where only the stack can route, what is for the host itself needs no way.
    let is_hosts = way == WayOut::Stack && t.is_hosts(&s.key.dst);
    match if is_hosts { WayOut::Local } else { way } {
        WayOut::Local if may_knock(h) && publish::lead_within(t, s, device, true)? => {}
        WayOut::Network if conntrack::opens(h) && publish::lead_within(t, s, device, false)? => {}
        WayOut::Local => return Ok(FirstWay::Host),
        WayOut::Stack => return Ok(FirstWay::Stack),
        WayOut::Network => return Err(DropReason::Isolated),
        // Untranslated, and without a flow: the stack may have to answer it.
        WayOut::Uplink(_) if !internal && forward::needs_stack(p, h, s.flow.next.mtu)? => return Ok(FirstWay::Stack),
        WayOut::Uplink(source) if overlay::poses_as_host(t, s, source) => return Err(DropReason::UnknownVtep),
        WayOut::Uplink(source) => nat::masquerade_as(s, source),
    }
    if internal { Err(DropReason::Internal) } else { Ok(FirstWay::Beyond) }
}

/// Whether a packet may open a flow to a published port.
#[inline(always)]
fn may_knock(h: Headers) -> bool {
    h.transport != Transport::EchoRequest && conntrack::opens(h)
}

/// Looks up the way of a flow that a container goes on with. Without one the stack must know. False if the flow is over: what
/// a container opened has an address of the host that is not that of its way, so no answer would come back, or poses as the host.
#[inline(always)]
pub fn find_containers_way<T: Tables>(t: &T, s: &mut Scratch, device: &Device) -> Result<bool, DropReason> {
    if s.on_link != OnLink::No as u32 {
        return icc::find_way(t, s).map(|()| true);
    }
    if s.flow.becomes.zone != Zone::HOST {
        return forward::find_way_in(t, s).map(|()| true);
    }
    let answers = s.flow.direction != 0;
    // A tunnel may have come to the port after the flow.
    if !answers && overlay::poses_as_host(t, s, s.flow.becomes.src) {
        return Ok(false);
    }
    match forward::find_way_out_again(t, s, device, answers)? {
        WayOut::Uplink(source) => Ok(answers || s.flow.becomes.src == source),
        WayOut::Network => Err(DropReason::Isolated),
        WayOut::Local | WayOut::Stack => {
            s.flow.via = Via::Stack as u8;
            Ok(true)
        }
    }
}

/// Egress of a network's bridge: what the host itself sends to a container goes straight out of that one's veth, where
/// [`to_container`] meets it. What the host forwards is the bridge's, with whatever rules there are for bridges.
#[inline(always)]
pub fn from_host<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    if p.came_by() != 0 || p.is_tagged() {
        return Ok(PASS);
    }
    let (Some(bridge), Ok(frame)) = (t.device(p.device()), parse::ethernet(p)) else { return Ok(PASS) };
    let Some(address) = parse::destination(p, frame.ethertype) else { return Ok(PASS) };
    Ok(forward::endpoint(p, t, s, bridge.zone, (address, frame.destination))
        .map_or(PASS, |endpoint| Verdict::Device(endpoint.device).packed()))
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
    // The kernel forgets by what device a packet came whose fragments it has put together and cuts anew (ip6_frag_next; of IPv4 it
    // keeps that, d2f0c961148f).
    if p.came_by() == 0 && p.label() == Label::Came && parse::ethernet(p)?.ethertype == ETHERTYPE_IPV6 {
        return Err(DropReason::NotPublished);
    }
    Ok(PASS)
}

/// Notes that the host's firewall has let a packet through to its container.
#[inline(always)]
fn note_delivery<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) {
    if t.settings().is_none_or(|settings| settings.firewall.generation == 0) {
        return;
    }
    let (Some(device), Ok(frame)) = (t.device(p.device()), parse::ethernet(p)) else { return };
    if let Ok(Some(h)) = parse::note(p, s, frame.ethertype) {
        firewall::delivered(t, s, h, device);
    }
}
