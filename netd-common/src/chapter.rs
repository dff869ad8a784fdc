//! The chapters of a packet's story: parts that begin with nothing in hand but the packet, the [`Scratch`] and one number, and end
//! in one word.
//!
//! In the kernel each is a function of its own that the verifier reads once, whoever calls it, and whose end may be any word to the
//! caller ("global" functions, kernel commit 51c39bb1d5d1). So a program costs the verifier the sum of its chapters. Through an
//! ordinary call it follows every way into the callee and on from each, and the same logic costs their product.

use crate::{
    guard,
    hooks::{self, Decided, PASS},
    icc, icmp, nat, neighbour, overlay,
    packet::Packet,
    tables::{Scratch, Tables},
    verdict::{DropReason, Packed, Verdict},
};

/// Which one, and what `with` says in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chapter {
    /// Noting a packet on its flow, whose way is that of a [`Way`](hooks::Way). No if the flow is over.
    Note,
    /// Making a flow, whose source port stays where `with` is 1.
    Make,
    /// Searching for a prepared flow's source port, as for [`Make`](Self::Make).
    Search,
    /// Giving the first packet of a flow what that says, with the [`Ttl`](nat::Ttl) `with`.
    Rewrite,
    /// Giving an ICMP error what the flow says that it is about, with the [`Ttl`](nat::Ttl) `with`.
    RewriteError,
    /// Making a packet between hosts an error about itself.
    Refuse,
    /// A container's ARP packet.
    Arp,
    /// A container's ICMPv6 message that is no echo and no error.
    Discovery,
    /// What leaves a container of a network that spans hosts.
    Leave,
    /// A container's packet that belongs to no flow.
    LeadContainer,
    /// A container's ICMP error.
    ErrorByContainer,
    /// A packet from outside that may open a flow. Yes if it does.
    LeadFromOutside,
    /// An ICMP error from outside, to a group where `with` is 1.
    ErrorFromOutside,
    /// A container's packet that the stack has routed to an uplink.
    Forwarded,
    /// The same, once it has a flow.
    LeaveForwarded,
    /// A packet of the host's own, at an uplink.
    OfHost,
    /// An ICMP error of the host's own.
    ErrorByHost,
    /// A translated packet of the mesh, into the tunnel to where it goes.
    IntoTunnel,
    /// A client's packet for a container of another host.
    PassOn,
    /// An ICMP error about a flow of the mesh, from another host, on its [`Way`](hooks::Way) `with`.
    ErrorFromOverlay,
    /// A packet from another host for a container that is kept apart, which belongs to no flow.
    LeadApart,
}

/// Tells a chapter: what the kernel's functions do, and in their place whatever has no such functions.
#[inline(always)]
pub fn tell<P: Packet, T: Tables>(chapter: Chapter, p: &mut P, t: &T, s: &mut Scratch, with: u64) -> Packed {
    match chapter {
        Chapter::Note => answer(hooks::note(p, t, s, with)),
        Chapter::Make => answer(hooks::prepare_and_establish(p, t, s, with == 1).map(|()| true)),
        Chapter::Search => answer(nat::search(t, s, with == 1).map(|()| true)),
        Chapter::Rewrite => answer(nat::rewrite(p, &s.noted.headers(), s, with.into()).map(|()| true)),
        Chapter::RewriteError => answer(icmp::rewrite(p, s.noted.headers(), s, with.into()).map(|()| true)),
        Chapter::Refuse => settle(overlay::refuse(p, t, s)),
        Chapter::Arp => settle(neighbour::arp(p, t, s)),
        Chapter::Discovery => settle(neighbour::discovery(p, t, s)),
        Chapter::Leave => settle(overlay::leave(p, t, s)),
        Chapter::LeadContainer => settle(hooks::lead_container(p, t, s)),
        Chapter::ErrorByContainer => settle(hooks::error_by_container(p, t, s)),
        Chapter::LeadFromOutside => answer(hooks::lead_from_outside(p, t, s)),
        Chapter::ErrorFromOutside => settle(hooks::error_from_outside(p, t, s, with == 1)),
        Chapter::Forwarded => settle(hooks::forwarded_for_container(p, t, s)),
        Chapter::LeaveForwarded => settle(hooks::leave_translated(p, t, s)),
        Chapter::OfHost => settle(guard::leave(p, t, s)),
        Chapter::ErrorByHost => settle(guard::error(p, t, s)),
        Chapter::IntoTunnel => settle(overlay::mesh::into_tunnel(p, t, s)),
        Chapter::PassOn => settle(overlay::mesh::pass_on(p, t, s)),
        Chapter::ErrorFromOverlay => settle(overlay::mesh::error(p, t, s, with)),
        Chapter::LeadApart => settle(icc::lead_apart(p, t, s)),
    }
}

/// Yes; no is [`PASS`].
const YES: Packed = Verdict::Show.packed();

/// An error is a drop.
#[inline(always)]
pub fn settle(decided: Decided) -> Packed {
    decided.unwrap_or_else(|reason| Verdict::Drop(reason).packed())
}

/// Yes and no are two ways to the stack.
#[inline(always)]
fn answer(answered: Result<bool, DropReason>) -> Packed {
    settle(answered.map(|yes| if yes { YES } else { PASS }))
}

impl Packed {
    /// What a chapter has decided.
    #[inline(always)]
    pub fn decided(self) -> Decided {
        match self.reason() {
            Some(reason) => Err(reason),
            None => Ok(self),
        }
    }

    /// What a chapter has answered.
    #[inline(always)]
    pub fn answer(self) -> Result<bool, DropReason> {
        self.decided().map(|answer| answer != PASS)
    }
}
