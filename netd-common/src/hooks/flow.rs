//! A packet and its flow: whether one goes on with it, and how one is made for it.

use super::container::find_containers_way;
use crate::{
    chapter::Chapter,
    conntrack, forward, icc, nat,
    overlay::mesh,
    packet::Packet,
    parse::{self, Headers, Transport},
    tables::{DeviceKind, NextHop, Scratch, Tables, Via},
    verdict::{DropReason, Packed, Verdict},
};

/// Whose packet it is for which a flow's way is looked up anew.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A container's.
    OfContainer = 0,
    /// From outside, for a container.
    In = 1,
    /// A container's that the stack has routed.
    Forwarded = 2,
    /// The host's own, whose way is the stack's.
    OfHost = 3,
    /// Passed on by the host where its client knocked, for a container.
    Arriving = 4,
    /// A container's answer, at the host where its client knocked.
    Answering = 5,
    /// Between containers of a network that keeps them apart, from another host.
    OnLink = 6,
}

/// Whether the packet belongs to a flow, which is in `s.flow` then. Once a tick, and when it changes the flow's state, it is
/// noted; once a tick its way is looked up anew, which may find the flow over.
#[inline(always)]
pub fn goes_on<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    s: &mut Scratch,
    h: Headers,
    way: Way,
) -> Result<bool, DropReason> {
    let now = t.now();
    s.show = 0;
    if !conntrack::find(t, s, h, now) {
        return Ok(false);
    }
    if !conntrack::must_note(s, h, now) {
        return Ok(true);
    }
    p.tell(Chapter::Note, t, s, way as u64).answer()
}

/// Notes a packet on its flow in `s.flow`. False if that is over.
#[inline(always)]
pub fn note<P: Packet, T: Tables>(p: &P, t: &T, s: &mut Scratch, way: u64) -> Result<bool, DropReason> {
    let Some(settings) = t.settings() else { return Err(DropReason::UnknownDevice) };
    let now = t.now();
    // The way is asked for once a tick, and where it is not known yet; a change of state alone does not change it.
    let ask = conntrack::is_first_of_tick(s, now) || s.flow.via == Via::Stack as u8;
    if ask && !find_way(p, t, s, way)? {
        conntrack::end(t, s, now);
        return Ok(false);
    }
    let h = s.noted.headers();
    Ok(conntrack::refresh(t, s, settings, &h, now))
}

/// Looks up the way of the flow in `s.flow`, a [`Way`]. False if the flow is over.
#[inline(always)]
fn find_way<P: Packet, T: Tables>(p: &P, t: &T, s: &mut Scratch, way: u64) -> Result<bool, DropReason> {
    if way == Way::OfContainer as u64 {
        let Some(device) = t.device(p.device()) else { return Err(DropReason::UnknownDevice) };
        return find_containers_way(t, s, device);
    }
    if way == Way::In as u64 {
        return forward::find_way_in(t, s).map(|()| true);
    }
    if way == Way::Forwarded as u64 {
        // What a container opened on another uplink is over.
        let (Some(from), Some(uplink)) = (t.device(p.came_by()), t.device(p.device())) else { return Ok(false) };
        let source = forward::source(t, from, uplink, s.key.src);
        return Ok(s.flow.direction != 0 || Some(s.flow.becomes.src) == source);
    }
    if way == Way::Arriving as u64 {
        return mesh::find_container(t, s).map(|()| true);
    }
    if way == Way::Answering as u64 {
        return mesh::find_client(t, s).map(|()| true);
    }
    if way == Way::OnLink as u64 {
        return icc::find_way(t, s).map(|()| true);
    }
    Ok(true)
}

/// What a packet is told that opens a flow, as which all but its source port is filled in: nothing is decided yet. No device has
/// the index 0.
pub const OPENS: Packed = Verdict::Device(0).packed();

/// Refuses a container's packet that opens nothing.
#[inline(always)]
pub fn require_opening<P: Packet>(p: &P, s: &Scratch) -> Result<(), DropReason> {
    let h = s.noted.headers();
    match h.transport {
        Transport::Fragment => return Err(DropReason::Fragment),
        Transport::Error | Transport::Opaque => return Err(DropReason::Untranslatable),
        Transport::Tcp | Transport::Udp | Transport::EchoRequest | Transport::EchoReply => {}
    }
    let opens = conntrack::opens(h) && parse::may_open(p, h.l4, s.key.protocol);
    if opens { Ok(()) } else { Err(DropReason::NoFlow) }
}

/// Makes the flow in which `s.key` becomes `s.flow.becomes`, but for its source port. What keeps its address keeps its port too.
#[inline(always)]
pub fn make<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Result<(), DropReason> {
    let keep = s.flow.becomes.src == s.key.src;
    establish(p, t, s, keep)
}

/// The same, by its own port if `keep`.
#[inline(always)]
pub fn establish<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, keep: bool) -> Result<(), DropReason> {
    p.tell(Chapter::Make, t, s, keep.into()).answer().map(|_| ())
}

/// The same, as a chapter.
#[inline(always)]
pub fn prepare_and_establish<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    s: &mut Scratch,
    keep: bool,
) -> Result<(), DropReason> {
    let Some(settings) = t.settings() else { return Err(DropReason::UnknownDevice) };
    let (h, now) = (s.noted.headers(), t.now());
    conntrack::prepare(s, settings, &h, now);
    find_way_back(p, t, s);
    nat::establish_with_port(p, t, s, keep)
}

/// Fills in the way back to a container whose packet leaves by an uplink: its device's record says what its endpoint's does, and the
/// answer need not ask.
#[inline(always)]
fn find_way_back<P: Packet, T: Tables>(p: &P, t: &T, s: &mut Scratch) {
    if s.flow.via == Via::Neighbour as u8
        && let Some(device) = t.device(p.device())
        && device.is(DeviceKind::Container)
    {
        s.peer.next = NextHop::peer(device.ifindex, device.mtu, device.mac, device.gateway_mac);
        s.peer.via = Via::Peer as u8;
    }
}
