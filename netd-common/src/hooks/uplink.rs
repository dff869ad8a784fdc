//! The two hooks of an uplink.

use super::{
    Decided, PASS, Way,
    flow::{OPENS, make, require_opening},
    goes_on,
};
use crate::{
    chapter::Chapter,
    conntrack, firewall, forward, fragment, guard, icmp,
    nat::{self, Ttl},
    overlay::{self, mesh},
    packet::{Label, Packet},
    parse::{self, Transport},
    publish,
    tables::{DeviceKind, EndpointKey, Scratch, Tables, Via, device_flags},
    tuple::Zone,
    verdict::DropReason,
};

/// Ingress of an uplink: the host's own traffic, and what is for a container.
#[inline(always)]
pub fn from_uplink<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    p.set_label(Label::Came);
    if p.is_for_another() || p.is_tagged() && p.shed_priority() != Ok(true) {
        return Ok(PASS);
    }
    let Ok(frame) = parse::ethernet(p) else { return Ok(PASS) };
    let Ok(noted) = parse::note(p, s, frame.ethertype) else {
        fragment::supersede_unread(p, t, s, frame.ethertype);
        return Ok(PASS);
    };
    let Some(h) = noted else { return Ok(PASS) };
    s.key.zone = Zone::HOST;
    fragment::supersede(t, s);
    let to_group = frame.destination.is_group();
    if s.key.dst.is_loopback() {
        return Err(DropReason::LoopbackFromWire);
    }
    if h.transport == Transport::Error {
        return p.tell(Chapter::ErrorFromOutside, t, s, to_group.into()).decided();
    }
    let h = fragment::recall(t, s);
    if h.transport.has_flow() {
        let mut is_ours = goes_on(p, t, s, h, Way::In)?;
        if !is_ours && !to_group && conntrack::opens(h) && p.tell(Chapter::LeadFromOutside, t, s, 0).answer()? {
            make(p, t, s)?;
            is_ours = true;
        }
        if is_ours {
            return enter(p, t, s);
        }
    }
    fragment::miss(t, s, s.noted.headers());
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
pub fn error_from_outside<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, to_group: bool) -> Decided {
    let h = s.noted.headers();
    if !icmp::find(p, t, s, h) {
        return left_to_host(t, s, p.device(), to_group);
    }
    forward::find_way_in(t, s)?;
    // The firewall sees every error about what it was shown.
    if forward::needs_stack(p, h, s.flow.next.mtu)? || s.flow.generation != 0 {
        icmp::translate(p, t, s, Ttl::Keep)?;
        p.set_label(Label::Approved);
        return Ok(PASS);
    }
    icmp::translate(p, t, s, Ttl::Decrement)?;
    forward::send(p, t, s)
}

/// Whether a packet from outside opens a flow, to a published port: then what it becomes is filled in. It is the host's if not.
#[inline(always)]
pub fn lead_from_outside<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Result<bool, DropReason> {
    if !parse::may_open(p, s.noted.l4 as usize, s.key.protocol) {
        return Ok(false);
    }
    let Some(publication) = publish::at(t, s, p.device()) else { return Ok(false) };
    if publish::answers_host(t, s) {
        return Ok(false);
    }
    publish::require_source(t, s, publication.sources)?;
    if publication.address.is_v4() != s.key.dst.is_v4() {
        // No process has the port, so the host refuses at once.
        return Ok(false);
    }
    if t.settings().is_none() {
        return Ok(false);
    }
    forward::require_outside_source(t, s, p.device())?;
    publish::become_published(s, &publication);
    forward::find_way_in(t, s)?;
    Ok(s.flow.via != Via::Tunnel as u8 || !mesh::is_hosts(t, s))
}

/// Translates a packet and puts it into its container, or leaves it to the stack to route there.
#[inline(always)]
fn enter<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    fragment::remember(t, s, h);
    if s.flow.via == Via::Tunnel as u8 {
        return p.tell(Chapter::PassOn, t, s, 0).decided();
    }
    let shows = firewall::must_show(s, h);
    if shows || forward::needs_stack(p, h, s.flow.next.mtu)? {
        nat::rewrite(p, &h, s, Ttl::Keep)?;
        p.set_label(Label::Approved);
        return Ok(if shows { firewall::SHOW } else { PASS });
    }
    nat::rewrite(p, &h, s, Ttl::Decrement)?;
    forward::send(p, t, s)
}

/// Egress of an uplink: the host's own traffic, what the fast path sends, and what the stack forwarded for a container.
#[inline(always)]
pub fn to_uplink<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    match p.label() {
        Label::Approved => return Ok(PASS),
        Label::Sealed => return if overlay::is_encrypted(p)? { Ok(PASS) } else { Err(DropReason::NotEncrypted) },
        Label::None | Label::Came => {}
    }
    if p.came_by() == 0 {
        if p.is_tagged() {
            // A virtual LAN's, which is an uplink of its own and has been asked.
            return Ok(PASS);
        }
        return match p.tell(Chapter::OfHost, t, s, 0) {
            OPENS => guard::open(p, t, s),
            guard::IS_ERROR => p.tell(Chapter::ErrorByHost, t, s, 0).decided(),
            decided => decided.decided(),
        };
    }
    let Some(from) = t.device(p.came_by()) else { return Ok(PASS) };
    if from.is(DeviceKind::Uplink) {
        return Ok(PASS);
    }
    let decided = p.tell(Chapter::Forwarded, t, s, 0);
    if decided != OPENS {
        return decided.decided();
    }
    make(p, t, s)?;
    p.tell(Chapter::LeaveForwarded, t, s, 0).decided()
}

/// A container's packet that the stack has routed: it must not leave with the container's address.
#[inline(always)]
pub fn forwarded_for_container<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    firewall::unmark(p, t);
    let Some(from) = t.device(p.came_by()) else { return Err(DropReason::UnknownDevice) };
    let frame = parse::ethernet(p)?;
    // What was wrapped after its translation has the label.
    let Some(h) = parse::note(p, s, frame.ethertype)? else { return Err(DropReason::UncoveredDevice) };
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
        icmp::translate(p, t, s, Ttl::Keep)?;
        p.set_label(Label::Approved);
        return Ok(PASS);
    }
    let h = fragment::recall(t, s);
    let Some(uplink) = t.device(p.device()) else { return Err(DropReason::UncoveredDevice) };
    if goes_on(p, t, s, h, Way::Forwarded)? {
        return leave_translated(p, t, s);
    }
    let Some(source) = forward::source(t, from, uplink, s.key.src) else { return Err(DropReason::UncoveredDevice) };
    if overlay::poses_as_host(t, s, source) {
        return Err(DropReason::UnknownVtep);
    }
    s.flow.next = Default::default();
    s.flow.via = Via::Stack as u8;
    nat::masquerade_as(s, source);
    require_opening(p, s)?;
    Ok(OPENS)
}

/// Translates a packet that leaves by an uplink.
#[inline(always)]
pub fn leave_translated<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    fragment::remember(t, s, h);
    nat::rewrite(p, &h, s, Ttl::Keep)?;
    firewall::emerged(t, s, p.device(), t.now());
    p.set_label(Label::Approved);
    Ok(PASS)
}
