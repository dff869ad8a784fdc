//! The host's own traffic beside masqueraded flows. A port for a container is picked where the host has no socket, but a
//! socket may come later, and its packets could have the very tuple that a container's have after their translation: the
//! answers would be the container's. Such a flow of the host's is given another port on its way out, and its own back on
//! the way in, a ping of the host's another identifier.
//!
//! Until that has happened once, all it costs is a look at what opens something.

use crate::{
    conntrack,
    hooks::{Decided, OPENS, PASS, Way, establish, goes_on},
    icmp,
    nat::{self, Ttl},
    packet::Packet,
    parse::{self, Transport, tcp_flags},
    tables::{DeviceKind, NextHop, Route, Scratch, Tables, Via},
    tuple::{SCTP, Zone},
    verdict::{Packed, Verdict},
};

/// What an ICMP error of the host's own is told: nothing is decided yet. No device has the index 0.
pub const IS_ERROR: Packed = Verdict::Neighbour(0).packed();

/// Egress of an uplink, a packet of the host's own: as it is, unless its answers would be a container's, or it is an error about a
/// packet that was translated before the stack saw it, whose sender must find in it what it sent.
#[inline(always)]
pub fn leave<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let Ok(frame) = parse::ethernet(p) else { return Ok(PASS) };
    let Ok(Some(h)) = parse::note(p, s, frame.ethertype) else { return Ok(PASS) };
    if h.transport == Transport::Error {
        return Ok(IS_ERROR);
    }
    let may_move = matches!(h.transport, Transport::Tcp | Transport::Udp | Transport::EchoRequest);
    if !may_move || s.key.protocol == SCTP {
        return Ok(PASS);
    }
    let refuses = h.tcp_flags & tcp_flags::RST != 0 && refuses_for_container(t, s, p.device());
    if !refuses {
        s.key.zone = Zone::HOST;
    }
    if refuses || t.guards() && goes_on(p, t, s, h, Way::OfHost)? {
        nat::rewrite(p, &h, s, Ttl::Keep)?;
        return Ok(PASS);
    }
    Ok(if conntrack::opens(h) && would_be_anothers(t, s) { OPENS } else { PASS })
}

/// An ICMP error of the host's own.
#[inline(always)]
pub fn error<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    let h = s.noted.headers();
    if icmp::find_hosts(p, t, s, h) {
        icmp::translate(p, t, s, Ttl::Keep)?;
    }
    Ok(PASS)
}

/// A packet of the host's own that opens something, and whose answers would be a container's: by another port.
#[inline(always)]
pub fn open<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch) -> Decided {
    t.start_guarding();
    s.flow.next = NextHop::default();
    s.flow.via = Via::Stack as u8;
    s.flow.becomes = s.key;
    establish(p, t, s, false)?;
    let h = s.noted.headers();
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
    if t.route(by, 0, &s.evicted_key, &mut s.flow.next) != Route::Forward {
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
