//! What is to be seen whoever translates: two sites that are broken in one way agree with each other.

use crate::{
    Play,
    raw::Protocol,
    site::{BLACKHOLE, PROHIBITED, UNREACHABLE},
    sockets::{Act, End, Way},
};

/// What of a play must have been seen, and was not.
pub fn lacks(play: &Play, story: &[String]) -> Option<&'static str> {
    let tells = |words: &str| story.iter().any(|line| line.contains(words));
    match play {
        Play::Connection(one) if one.listens && leads_to_somebody(one.way) => {
            (!tells("client: connected")).then_some("a connection")
        }
        Play::Datagrams(one) if one.listens && leads_to_somebody(one.way) && one.ttl == 64 => {
            let small = matches!(one.acts.first(), Some(Act::Say(End::Client, ..=1200)));
            let heard = story.first().is_some_and(|line| line.contains(": heard from "));
            (small && !heard).then_some("a datagram that is heard")
        }
        Play::Conversation(_) => {
            (!story.get(1).is_some_and(|line| line.contains(" gets "))).then_some("a first packet that is got")
        }
        Play::Twins(_) => {
            let got = story.iter().filter(|line| line.contains(" gets ")).count();
            (got < 4 || !tells("kept apart: true")).then_some("two that are kept apart, and answers to both")
        }
        Play::Connection(_) | Play::Datagrams(_) => None,
    }
}

fn leads_to_somebody(way: Way) -> bool {
    !matches!(way, Way::Out(UNREACHABLE | PROHIBITED | BLACKHOLE))
}

/// Something that plays of a whole run have seen: whether a line of a play's story is it.
type Sight = (&'static str, fn(&Play, &str) -> bool);

/// Which of what a whole run shows in many plays it has not shown in `few`.
pub fn rare<'a>(seen: impl Iterator<Item = (&'a Play, &'a [String])> + Clone, few: usize) -> Vec<String> {
    let times = |is: fn(&Play, &str) -> bool| {
        seen.clone().filter(|(play, story)| story.iter().any(|line| is(play, line))).count()
    };
    let counted = SIGHTS.iter().map(|(name, is)| (*name, times(*is)));
    counted.filter(|(_, times)| *times < few).map(|(name, times)| format!("{name}: in {times} plays")).collect()
}

const SIGHTS: [Sight; 27] = [
    ("what is said on a connection is heard, by IPv4", |play, line| connection(play, false) && heard_on(line)),
    ("what is said on a connection is heard, by IPv6", |play, line| connection(play, true) && heard_on(line)),
    ("an end sees the other close, by IPv4", |play, line| connection(play, false) && closed(line)),
    ("an end sees the other close, by IPv6", |play, line| connection(play, true) && closed(line)),
    ("an end sees a reset, by IPv4", |play, line| connection(play, false) && reset(line)),
    ("an end sees a reset, by IPv6", |play, line| connection(play, true) && reset(line)),
    ("a connection is refused", |play, line| connection(play, false) && line.contains("ECONNREFUSED")),
    ("a connection is refused, by IPv6", |play, line| connection(play, true) && line.contains("ECONNREFUSED")),
    ("a connection has no way", |play, line| connection(play, false) && line.contains("EHOSTUNREACH")),
    ("a datagram is heard, by IPv4", |play, line| datagram(play, false) && line.contains(": heard")),
    ("a datagram is heard, by IPv6", |play, line| datagram(play, true) && line.contains(": heard")),
    ("fragments are heard as one datagram, by IPv4", |play, line| datagram(play, false) && long(line)),
    ("fragments are heard as one datagram, by IPv6", |play, line| datagram(play, true) && long(line)),
    ("an error: too big", |play, line| datagram(play, false) && line.contains("type 3 code 4")),
    ("an error: too big, by IPv6", |play, line| datagram(play, true) && line.contains("type 2 code 0")),
    ("an error: no hop left", |play, line| datagram(play, false) && line.contains("type 11 code 0")),
    ("an error: no hop left, by IPv6", |play, line| datagram(play, true) && line.contains("type 3 code 0")),
    ("an error: no such port", |play, line| datagram(play, false) && line.contains("type 3 code 3")),
    ("an error: no such port, by IPv6", |play, line| datagram(play, true) && line.contains("type 1 code 4")),
    ("a container's segment leaves", |play, line| raw(play, Protocol::Tcp, true) && line.contains("far gets tcp ")),
    ("a client's segment comes in", |play, line| raw(play, Protocol::Tcp, false) && line.contains("b gets tcp ")),
    ("a raw reset arrives", |_, line| line.contains(" gets tcp ") && line.contains("[AR]")),
    ("a container's fragments leave", |play, line| {
        raw(play, Protocol::Udp, true) && line.contains("far gets udp ") && whole(line)
    }),
    ("a client's fragments come in", |play, line| {
        raw(play, Protocol::Udp, false) && line.contains("b gets udp ") && whole(line)
    }),
    ("an echo is answered", |play, line| {
        raw(play, Protocol::Echo, true) && line.contains("b gets icmp ") && line.contains("type 0 ")
    }),
    ("an error about a container's packet reaches it", |_, line| line.contains("  b gets icmp ") && about(line)),
    ("a container's error leaves", |_, line| line.contains("  far gets icmp ") && about(line)),
];

fn connection(play: &Play, v6: bool) -> bool {
    matches!(play, Play::Connection(one) if one.v6 == v6)
}

fn heard_on(line: &str) -> bool {
    line.ends_with(": hears it")
}

fn closed(line: &str) -> bool {
    line.ends_with("the other sees the end")
}

fn reset(line: &str) -> bool {
    line.contains("sees connection reset")
}

fn datagram(play: &Play, v6: bool) -> bool {
    matches!(play, Play::Datagrams(one) if one.v6 == v6)
}

/// More than a packet holds.
fn long(line: &str) -> bool {
    ["2977", "6001"].iter().any(|size| line.contains(&format!(", {size}): heard")))
}

fn raw(play: &Play, protocol: Protocol, outward: bool) -> bool {
    matches!(play, Play::Conversation(one) if one.protocol == protocol && one.outward == outward)
}

/// Put together again: no packet at these ends is so long.
fn whole(line: &str) -> bool {
    [" 3000 bytes", " 5000 bytes"].iter().any(|size| line.contains(size))
}

/// What is quoted has its two ends.
fn about(line: &str) -> bool {
    line.contains(" about (protocol ") && line.contains(" > ")
}
