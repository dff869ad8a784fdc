//! Ports that every host publishes, wherever their container runs (the mesh): the client's address stays, so the answer must
//! come back by the host where the client knocked.
//!
//! ```text
//!            host of the client                                        host of the container
//! client ─▶ from_uplink ─ publish ─▶ tunnel, as the gateway's frame ─▶ from_overlay ─ arrive ─▶ container
//! client ◀─ from_overlay ─ answer ◀─ tunnel, to the gateway          ◀─ from_container ◀─────────── container
//! ```
//!
//! Each host has a flow of its own. That of the client's host is one of a published port, whose way leads into a tunnel. That of
//! the container's host is in the zone of the client's host ([`Zone::of_vtep`]), so that its answers know where to go, and that one
//! client may knock at two hosts with one port. A gateway never speaks between hosts otherwise, and no container can have its
//! link-layer address: so the frame itself says which of the two it is.

use crate::{
    chapter::Chapter,
    conntrack, forward,
    forward::WayOut,
    fragment,
    hooks::{self, Decided, PASS, Way},
    icmp,
    nat::{self, Ttl},
    packet::{Label, Packet},
    parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Transport},
    tables::{EndpointKey, NextHop, Scratch, Tables, TunnelKey, Via},
    tuple::{Address, Zone},
    verdict::{DropReason, Verdict},
};

use super::refuse;

/// Has `s.flow` lead into a tunnel, if one leads to what `s.endpoint` names, a container or a client. Where it ends, each packet
/// asks anew: a host that is gone gets nothing, and a container that has moved everything.
#[inline(always)]
pub fn find_way<T: Tables>(t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    if !s.endpoint.zone.is_of_vtep() && t.mesh_end(&s.endpoint).is_none() {
        return Err(DropReason::NoEndpoint);
    }
    s.flow.next = NextHop { mtu: u32::MAX, ..NextHop::default() };
    s.flow.via = Via::Tunnel as u8;
    Ok(())
}

/// Sends a translated packet into the tunnel of its flow: a container's answer, at its own device, back to the host where its
/// client knocked, and everything else to the host of a container.
#[inline(always)]
pub fn into_tunnel<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(end) = t.mesh_end(find_end(s)) else { return Err(DropReason::NoEndpoint) };
    let (vni, container) = if s.endpoint.zone.is_of_vtep() {
        let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
        (device.vni, device.mac)
    } else {
        (end.vni, end.mac)
    };
    let Some(segment) = t.segment(vni) else { return Err(DropReason::UnknownSegment) };
    let gateway = segment.gateway_mac;
    let [to, from] = if s.endpoint.zone.is_of_vtep() { [gateway, container] } else { [container, gateway] };
    s.flow.next = NextHop::peer(segment.tunnel, 0, to, from);
    s.tunnel = TunnelKey { vtep: end.vtep, vni };
    let ethertype = if s.key.src.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    p.put_link_header(s.flow.next.macs(), ethertype)?;
    super::seal(p, t, s, segment)?;
    Ok(Verdict::Tunnel(s.flow.next.device).packed())
}

/// The place in the table of the mesh of what a packet has become: a container's, or a host's.
#[inline(always)]
fn find_end(s: &mut Scratch) -> &EndpointKey {
    let becomes = &s.flow.becomes;
    let address = if becomes.zone.is_of_vtep() { Address::ANY_V6 } else { becomes.dst };
    s.endpoint = EndpointKey { address, zone: becomes.zone, pad: 0 };
    &s.endpoint
}

/// Largest IP packet that the tunnel to a container takes, in bytes, and where it ends; none where it leads nowhere.
#[inline(always)]
fn tunnel<T: Tables>(t: &T, s: &mut Scratch) -> Option<(u32, Address)> {
    let end = t.mesh_end(find_end(s))?;
    t.segment(end.vni).map(|segment| (segment.mtu(end.vtep), end.vtep))
}

/// Translates a client's packet and sends it to the container's host. What the host must answer, since its time is up or it is too
/// large for the tunnel, goes to the stack as the container would have got it.
#[inline(always)]
pub fn pass_on<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    let Some((mtu, vtep)) = tunnel(t, s) else { return Err(DropReason::NoEndpoint) };
    let is_too_large = h.ttl > 1 && forward::needs_stack(p, h, mtu)? && refuse::is_for_sender(p, h.v4.into(), vtep)?;
    if h.ttl <= 1 || is_too_large {
        nat::rewrite(p, &h, s, Ttl::Keep)?;
        if is_too_large && h.v4 && !vtep.is_v4() {
            refuse::forbid_cut(p)?;
        }
        p.set_label(Label::Approved);
        return Ok(PASS);
    }
    nat::rewrite(p, &h, s, Ttl::Decrement)?;
    forward::send(p, t, s)
}

/// Whether a socket of this host would get the client's packet: what another host publishes everywhere takes nothing from a process
/// that is here.
#[inline(always)]
pub fn is_hosts<T: Tables>(t: &T, s: &mut Scratch) -> bool {
    s.peer_key = s.key.reversed(s.key.zone);
    t.has_socket(&s.peer_key)
}

/// A client's packet that another host has passed on: into the container here that has the address and the link-layer address.
#[inline(always)]
pub fn arrive<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    s.key.zone = Zone::of_vtep(s.tunnel.vtep);
    if s.noted.headers().transport == Transport::Error {
        return p.tell(Chapter::ErrorFromOverlay, t, s, Way::Arriving as u64).decided();
    }
    let h = fragment::recall(t, s);
    if !h.transport.has_flow() {
        return Err(DropReason::NoFlow);
    }
    if !hooks::goes_on(p, t, s, h, Way::Arriving)? {
        lead(p, t, s)?;
        hooks::establish(p, t, s, true)?;
    }
    let [a, b, c, d, e, f, ..] = s.flow.next.macs();
    if parse::ethernet(p)?.destination.0 != [a, b, c, d, e, f] {
        return Err(DropReason::NoEndpoint);
    }
    let h = s.noted.headers();
    fragment::remember(t, s, h);
    nat::rewrite(p, &h, s, Ttl::Keep)?;
    forward::send(p, t, s)
}

/// Fills in what a packet becomes that another host has passed on, if it opens something. The client keeps its port, unless it has come
/// to the container with it another way.
#[inline(always)]
fn lead<P: Packet, T: Tables>(p: &P, t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    let h = s.noted.headers();
    if !conntrack::opens(h) || !parse::may_open(p, h.l4, s.key.protocol) {
        return Err(DropReason::NoFlow);
    }
    let Some(segment) = t.segment(s.tunnel.vni) else { return Err(DropReason::UnknownSegment) };
    s.flow.becomes = s.key;
    s.flow.becomes.zone = segment.zone;
    find_container(t, s)
}

/// Only into a container that is here: what another host has passed on goes no further.
#[inline(always)]
pub fn find_container<T: Tables>(t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    forward::find_way_in(t, s)?;
    if s.flow.via == Via::Peer as u8 { Ok(()) } else { Err(DropReason::NoEndpoint) }
}

/// A container's answer that has come back to the host where the client knocked, or an error about what its client sent.
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Some(segment) = t.segment(s.tunnel.vni) else { return Err(DropReason::UnknownSegment) };
    s.key.zone = segment.zone;
    if s.noted.headers().transport == Transport::Error {
        return p.tell(Chapter::ErrorFromOverlay, t, s, Way::Answering as u64).decided();
    }
    let h = fragment::recall(t, s);
    if !h.transport.has_flow() || !hooks::goes_on(p, t, s, h, Way::Answering)? {
        return Err(DropReason::NoFlow);
    }
    let h = s.noted.headers();
    fragment::remember(t, s, h);
    if forward::needs_stack(p, h, s.flow.next.mtu)? {
        if h.ttl > 1 && refuse::may_not_be_cut(p, h.v4.into())? {
            s.mtu = s.flow.next.mtu;
            return p.tell(Chapter::Refuse, t, s, 0).decided();
        }
        return Err(DropReason::TooBig);
    }
    nat::rewrite(p, &h, s, Ttl::Decrement)?;
    forward::send(p, t, s)
}

/// An ICMP error about a flow of the mesh: on its way into the container, or out to the client.
#[inline(always)]
pub fn error<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, way: u64) -> Decided {
    let h = s.noted.headers();
    if !icmp::find(p, t, s, h) {
        return Err(DropReason::NoFlow);
    }
    if way == Way::Arriving as u64 {
        find_container(t, s)?;
        icmp::translate(p, t, s, Ttl::Keep)?;
    } else {
        find_client(t, s)?;
        icmp::translate(p, t, s, Ttl::Decrement)?;
    }
    forward::send(p, t, s)
}

/// The way to a client: out by an uplink, or into a container of this host. No stack can take it: here nothing has the container's
/// address.
#[inline(always)]
pub fn find_client<T: Tables>(t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    if s.flow.becomes.zone != Zone::HOST {
        return forward::find_way_in(t, s);
    }
    let Some(segment) = t.segment(s.tunnel.vni) else { return Err(DropReason::UnknownSegment) };
    let Some(bridge) = t.device(segment.bridge) else { return Err(DropReason::UnknownSegment) };
    match forward::find_way_out(t, s, bridge, true)? {
        WayOut::Uplink(_) => Ok(()),
        WayOut::Local | WayOut::Network | WayOut::Stack => Err(DropReason::UncoveredDevice),
    }
}
