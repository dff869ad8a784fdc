//! Between containers of one network that keeps them apart: only what somebody allowed passes, and what answers it.
//!
//! What was allowed has a flow in the network's own zone, in which a packet becomes what it is. So a reply passes and a new
//! connection the other way does not. Networks whose containers may speak freely have no such flows.

use crate::{
    chapter::Chapter,
    forward, fragment,
    hooks::{self, Decided, OPENS, Way},
    icmp,
    packet::Packet,
    parse::Transport,
    tables::{AllowanceKey, Device, EndpointKey, NextHop, Scratch, Segment, Tables, Via},
    tuple::Mac,
    verdict::{DropReason, Packed, Verdict},
};

/// Whether a frame is for another container of its sender's network: of a packet what is in [`Scratch::on_link`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnLink {
    /// For the gateway.
    No = 0,
    /// In a network of this host alone.
    Here = 1,
    /// In one that spans hosts.
    Spanning = 2,
}

/// What is decided of a packet to another container that passes: it goes [on](deliver). No device has the index 0.
pub const PASSES: Packed = Verdict::Peer(0).packed();

/// Refuses a frame to a station of the network that is not the container that its IP header names. What is on another host is
/// looked up when it goes there.
#[inline(always)]
pub fn require_container<T: Tables>(t: &T, s: &mut Scratch, from: &Device, station: Mac) -> Result<OnLink, DropReason> {
    s.endpoint = EndpointKey { address: s.key.dst, zone: from.zone, pad: 0 };
    let spans = from.vni != 0;
    match t.endpoint(&s.endpoint) {
        Some(endpoint) if endpoint.mac != station => Err(DropReason::NotAllowed),
        None if !spans => Err(DropReason::NotAllowed),
        _ => Ok(if spans { OnLink::Spanning } else { OnLink::Here }),
    }
}

/// Fills in the way of a flow on a link: to a container here, or in a network that spans hosts to wherever each packet finds it.
#[inline(always)]
pub fn find_way<T: Tables>(t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    if s.on_link != OnLink::Spanning as u32 {
        return forward::find_way_in(t, s);
    }
    s.flow.next = NextHop { mtu: u32::MAX, ..NextHop::default() };
    s.flow.via = Via::Tunnel as u8;
    Ok(())
}

/// Sends a packet on to the container that it is for, as it is.
#[inline(always)]
pub fn deliver<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    if s.on_link == OnLink::Spanning as u32 {
        return p.tell(Chapter::Leave, t, s, 0).decided();
    }
    forward::deliver(p, s.flow.next.device)
}

/// Lets a packet of another host pass to a container of `segment` that is here, in a flow of this host's own: the other one may
/// know less, or be none of ours. Of what is for nobody here its sender hears elsewhere.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, segment: &Segment) -> Result<(), DropReason> {
    if !is_here(t, s, segment) {
        return Ok(());
    }
    s.key.zone = segment.zone;
    s.on_link = OnLink::Spanning as u32;
    let h = fragment::recall(t, s);
    if !hooks::goes_on(p, t, s, h, Way::OnLink)? {
        let led = p.tell(Chapter::LeadApart, t, s, 0);
        if led != OPENS {
            return led.decided().map(drop);
        }
        hooks::establish(p, t, s, true)?;
    }
    let h = s.noted.headers();
    fragment::remember(t, s, h);
    Ok(())
}

/// Leads a packet of another host that belongs to no flow.
#[inline(always)]
pub fn lead_apart<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    if h.transport == Transport::Error {
        // What does not fit there, or is nobody's, the gateway says.
        let is_gateways = t.segment(s.tunnel.vni).is_some_and(|segment| segment.is_gateway(s.key.src));
        return error(p, t, s, is_gateways);
    }
    lead(t, s)?;
    if h.transport == Transport::Opaque {
        return Ok(PASSES);
    }
    hooks::require_opening(p, s)?;
    Ok(OPENS)
}

#[inline(never)]
fn is_here<T: Tables>(t: &T, s: &mut Scratch, segment: &Segment) -> bool {
    s.endpoint = EndpointKey { address: s.key.dst, zone: segment.zone, pad: 0 };
    t.endpoint(&s.endpoint).is_some()
}

/// Fills in what a packet to another container becomes, itself, and its way. Refuses what nobody allowed to open: what has no
/// ports has no flow by which its answers are known, so they need an allowance of their own.
#[inline(never)]
pub fn lead<T: Tables>(t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    s.allowance = AllowanceKey::for_opening(&s.key);
    if !t.allows(&s.allowance) {
        s.allowance = s.allowance.or_everything();
        if !t.allows(&s.allowance) {
            return Err(DropReason::NotAllowed);
        }
    }
    s.flow.becomes = s.key;
    find_way(t, s)
}

/// Lets an ICMP error pass to the container whose packet, of a flow between the two, it is about; that of another host's gateway
/// (`is_gateways`) too.
#[inline(never)]
pub fn error<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, is_gateways: bool) -> Decided {
    let h = s.noted.headers();
    if !icmp::find(p, t, s, h) || s.flow.becomes.dst != s.key.dst || !is_gateways && !icmp::is_from_end(s) {
        return Err(DropReason::NotAllowed);
    }
    find_way(t, s)?;
    Ok(PASSES)
}
