//! Between containers of one network that keeps them apart: only what somebody allowed passes, and what answers it.
//!
//! What was allowed has a flow in the network's own zone, in which a packet becomes what it is. So a reply passes and a new
//! connection the other way does not. Networks whose containers may speak freely have no such flows.

use crate::{
    forward,
    hooks::Decided,
    icmp,
    packet::Packet,
    parse::Headers,
    tables::{AllowanceKey, EndpointKey, Scratch, Tables},
    tuple::{Mac, Zone},
    verdict::DropReason,
};

/// Refuses a frame to a station of the network that is not the container that its IP header names.
#[inline(always)]
pub fn require_container<T: Tables>(t: &T, s: &mut Scratch, zone: Zone, station: Mac) -> Result<(), DropReason> {
    s.endpoint = EndpointKey { address: s.key.dst, zone, pad: 0 };
    match t.endpoint(&s.endpoint) {
        Some(endpoint) if endpoint.mac == station => Ok(()),
        _ => Err(DropReason::NotAllowed),
    }
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
    forward::find_way_in(t, s)
}

/// Delivers an ICMP error to the container whose packet, of a flow between the two, it is about.
#[inline(never)]
pub fn error<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, h: Headers) -> Decided {
    if !icmp::find(p, t, s, h) || s.flow.becomes.dst != s.key.dst {
        return Err(DropReason::NotAllowed);
    }
    forward::find_way_in(t, s)?;
    forward::deliver(p, s.flow.next.device)
}
