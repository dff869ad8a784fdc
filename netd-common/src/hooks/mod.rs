//! One function per place where a packet meets us. Each reads as the packet's story; the work is in the other modules.
//!
//! Host traffic fails open, container traffic fails closed: an error on an uplink before a packet is known to be ours lets it
//! pass, an error on a container's device drops it.

mod container;
mod flow;
mod uplink;

pub use container::{error_by_container, from_container, from_host, lead_container, to_container};
pub use flow::{OPENS, Way, establish, goes_on, note, prepare_and_establish, require_opening};
pub use uplink::{
    error_from_outside, forwarded_for_container, from_uplink, lead_from_outside, leave_translated, to_uplink,
};

use crate::{
    chapter::settle,
    dns, firewall, overlay,
    packet::{Label, Packet},
    parse::{self, Transport},
    tables::{Hook, Scratch, Tables},
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
        Hook::FromHost => from_host(p, t, s),
        // What meets frames is `frame`.
        Hook::UplinkXdp => Ok(PASS),
    });
    let is_ours = match hook {
        Hook::FromContainer => true,
        Hook::FromUplink | Hook::FromL3Uplink => p.label() == Label::Approved,
        Hook::ToContainer
        | Hook::ToUplink
        | Hook::ToL3Uplink
        | Hook::DnsLo
        | Hook::FromOverlay
        | Hook::UplinkXdp
        | Hook::FromHost => false,
    };
    if is_ours && verdict.is_for_stack() {
        firewall::mark(p, t);
    }
    verdict
}

/// Egress of a container's loopback device. What a container sends to itself is its own affair, but for what it asks the resolver.
#[inline(always)]
pub fn dns_lo<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Ok(frame) = parse::ethernet(p) else { return Ok(PASS) };
    if !dns::concerns(p, frame) {
        return Ok(PASS);
    }
    let Ok(Some(h)) = parse::note(p, s, frame.ethertype) else { return Ok(PASS) };
    if h.transport == Transport::Tcp || h.transport == Transport::Udp {
        dns::translate(p, t, s, h)?;
    }
    Ok(PASS)
}
