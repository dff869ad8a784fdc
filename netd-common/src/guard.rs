//! The host's own traffic beside masqueraded flows. A port for a container is picked where the host has no socket, but a
//! socket may come later, and its packets could have the very tuple that a container's have after their translation: the
//! answers would be the container's. Such a flow of the host's is given another port on its way out, and its own back on
//! the way in.
//!
//! Until that has happened once, all it costs is a look at what opens something.

use crate::{
    conntrack,
    hooks::{Decided, PASS, goes_on},
    icmp,
    nat::{self, Ttl},
    packet::Packet,
    parse::{self, Transport, tcp_flags},
    tables::{DeviceKind, NextHop, Route, Scratch, Tables, Via},
    tuple::{SCTP, Zone},
    verdict::DropReason,
};

/// Egress of an uplink, a packet of the host's own: as it is, unless its answers would be a container's, or it is an error about a
/// packet that was translated before the stack saw it, whose sender must find in it what it sent.
#[inline(always)]
pub fn leave<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Ok(frame) = parse::ethernet(p) else { return Ok(PASS) };
    let Ok(Some(h)) = parse::ip(p, frame.ethertype, &mut s.key) else { return Ok(PASS) };
    if h.transport == Transport::Error && icmp::find_hosts(p, t, s, h) {
        icmp::rewrite(p, h, s, Ttl::Keep)?;
        return Ok(PASS);
    }
    let has_ports = h.transport == Transport::Tcp || h.transport == Transport::Udp;
    if !has_ports || s.key.protocol == SCTP {
        return Ok(PASS);
    }
    if h.tcp_flags & tcp_flags::RST != 0 && refuses_for_container(t, s, p.device()) {
        nat::rewrite(p, &h, s, Ttl::Keep)?;
        return Ok(PASS);
    }
    s.key.zone = Zone::HOST;
    if t.guards() && goes_on(t, s, h, |_, _| Ok(true))? {
        nat::rewrite(p, &h, s, Ttl::Keep)?;
        return Ok(PASS);
    }
    if !conntrack::opens(h) || !would_be_anothers(t, s) {
        return Ok(PASS);
    }
    let Some(settings) = t.settings() else { return Err(DropReason::UnknownDevice) };
    let now = t.now();
    t.start_guarding();
    s.flow.next = NextHop::default();
    s.flow.via = Via::Stack as u8;
    s.flow.becomes = s.key;
    conntrack::prepare(s, settings, &h, now);
    nat::establish_with_port(t, s, settings, now, false)?;
    nat::rewrite(p, &h, s, Ttl::Keep)?;
    Ok(PASS)
}

/// Finds the flow of a reset that the host sends in a container's name, with the tuple `s.key`: so its firewall rejects what was
/// translated when it came. False if it is the host's own.
///
/// Not inlined: resets are few.
#[inline(never)]
fn refuses_for_container<T: Tables>(t: &T, s: &mut Scratch, by: u32) -> bool {
    s.evicted_key = s.key.reversed(s.key.zone);
    if t.route(by, &s.evicted_key, &mut s.flow.next) != Route::Forward {
        return false;
    }
    match t.device(s.flow.next.device) {
        Some(device) if device.is(DeviceKind::Bridge) => s.key.zone = device.zone,
        _ => return false,
    }
    s.peer_key = s.key;
    conntrack::find_quoted(t, s, t.now())
}

/// Whether the answers to the packet with the tuple `s.key` are those to what a container sent.
#[inline(always)]
fn would_be_anothers<T: Tables>(t: &T, s: &mut Scratch) -> bool {
    s.peer_key = s.key.reversed(Zone::HOST);
    conntrack::find_quoted(t, s, t.now()) && s.flow.direction != 0
}
