//! Fragments: only the first of a packet says to which flow it belongs, so it is asked on behalf of the others.
//!
//! Nothing is held back or put together: a fragment that comes before its first is of no known flow. Senders send them in
//! order, and what a network on the way reorders is rare. From outside such a fragment may be the host's own and is left to it;
//! when its first comes and is a container's, it is known to be lost, and counted.

use crate::{
    packet::Packet,
    parse::{self, Headers, Part, Transport},
    tables::{Fragment, FragmentKey, Instant, Orphans, Scratch, Span, Tables},
    tuple::{ICMP, ICMPV6, SCTP, TCP, UDP, Zone, echo},
    verdict::DropReason,
};

/// How long a first fragment speaks for the others. Long against the time that the fragments of one packet are apart, short
/// against the time after which a busy sender uses an identification again.
const LIFE: Span = Span::at_least_seconds(3);

/// The headers that are noted. Those of a later fragment, and the tuple in `s.key`, are completed with what its first one said.
#[inline(always)]
pub fn recall<T: Tables>(t: &T, s: &mut Scratch) -> Headers {
    if s.noted.is_later() {
        complete(t, s);
    }
    s.noted.headers()
}

/// Not inlined: few packets are fragments.
#[inline(never)]
fn complete<T: Tables>(t: &T, s: &mut Scratch) {
    s.fragment_key = key(s, s.noted.identification);
    if !t.fragment(&s.fragment_key, &mut s.fragment) || t.now() > s.fragment.deadline {
        return;
    }
    s.key.src_port = s.fragment.src_port;
    s.key.dst_port = s.fragment.dst_port;
    s.key.echo = s.fragment.echo;
    s.key.protocol = s.fragment.protocol;
    let transport = match s.key.protocol {
        TCP => Transport::Tcp,
        UDP | SCTP => Transport::Udp,
        ICMP | ICMPV6 if s.key.echo == echo::REQUEST => Transport::EchoRequest,
        ICMP | ICMPV6 if s.key.echo == echo::REPLY => Transport::EchoReply,
        _ => Transport::Fragment,
    };
    s.noted.transport = transport as u8;
}

/// Ends what the first fragment of an earlier packet said for the others, where the one in hand is a first with the same
/// identification: what follows is this one's, whosever it is. Does nothing for other packets.
#[inline(always)]
pub fn supersede<T: Tables>(t: &T, s: &mut Scratch) {
    if s.noted.part == Part::First as u8 {
        forget(t, s, s.noted.identification);
    }
}

/// The same for a packet from outside that could not be read beyond its IP header: a first fragment may be too short for the
/// transport's.
///
/// Not inlined: few packets are cut short.
#[inline(never)]
pub fn supersede_unread<P: Packet, T: Tables>(p: &mut P, t: &T, s: &mut Scratch, ethertype: [u8; 2]) {
    if let Ok(Some(h)) = parse::network(p, ethertype, &mut s.key)
        && h.part == Part::First
    {
        s.key.zone = Zone::HOST;
        forget(t, s, h.identification);
    }
}

/// Not inlined: few packets are fragments.
#[inline(never)]
fn forget<T: Tables>(t: &T, s: &mut Scratch, identification: u32) {
    s.fragment_key = key(s, identification);
    if t.fragment(&s.fragment_key, &mut s.fragment) {
        s.fragment.deadline = Instant::default();
        t.keep_fragment(&s.fragment_key, &s.fragment);
    }
}

/// Keeps what the first fragment of a packet of ours says for the others. Does nothing for other packets.
#[inline(always)]
pub fn remember<T: Tables>(t: &T, s: &mut Scratch, h: Headers) {
    if h.part == Part::First {
        keep(t, s, h.identification);
    }
}

/// Not inlined: few packets are fragments.
#[inline(never)]
fn keep<T: Tables>(t: &T, s: &mut Scratch, identification: u32) {
    s.fragment_key = key(s, identification);
    s.fragment = Fragment {
        deadline: t.now().after(LIFE),
        src_port: s.key.src_port,
        dst_port: s.key.dst_port,
        echo: s.key.echo,
        protocol: s.key.protocol,
        pad: [0; 2],
    };
    t.keep_fragment(&s.fragment_key, &s.fragment);
    if s.key.zone == Zone::HOST {
        count_orphans(t, &s.fragment_key);
    }
}

/// Notes a later fragment from outside whose first has not come by. Does nothing for other packets.
#[inline(always)]
pub fn miss<T: Tables>(t: &T, s: &mut Scratch, h: Headers) {
    if h.part == Part::Later && h.transport == Transport::Fragment {
        keep_orphan(t, s, h.identification);
    }
}

#[inline(never)]
fn keep_orphan<T: Tables>(t: &T, s: &mut Scratch, identification: u32) {
    s.fragment_key = key(s, identification);
    let mut orphans = Orphans::default();
    if !t.orphans(&s.fragment_key, &mut orphans) || t.now() > orphans.deadline {
        orphans.count = 0;
    }
    t.keep_orphans(&s.fragment_key, Orphans { deadline: t.now().after(LIFE), count: orphans.count.saturating_add(1) });
}

/// Counts the fragments that came before their first, which is a container's: no one is waiting for them where they went.
#[inline(always)]
fn count_orphans<T: Tables>(t: &T, key: &FragmentKey) {
    let mut orphans = Orphans::default();
    if t.orphans(key, &mut orphans) && t.now() <= orphans.deadline {
        t.count_lost(DropReason::FragmentOvertook, orphans.count);
        // Of a first that comes twice they are not counted twice.
        t.keep_orphans(key, Orphans::default());
    }
}

#[inline(always)]
fn key(s: &Scratch, identification: u32) -> FragmentKey {
    let protocol = if s.key.src.is_v4() { s.key.protocol } else { 0 };
    FragmentKey { src: s.key.src, dst: s.key.dst, identification, zone: s.key.zone, protocol, pad: 0 }
}
