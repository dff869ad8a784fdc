//! Odd packets, one at a time: what no stack sends, or nobody expects. Here the two contenders differ on purpose, and the table
//! says where and why.

use netd_common::{
    packet::ETH,
    parse::{
        sctp_chunk::INIT,
        tcp_flags::{ACK, FIN, RST, SYN},
    },
};
use netd_tests::packets::{fragments, icmp, icmp_error, other, ping, pong, sctp, tcp, udp};

use crate::{
    extensions::Extensions,
    frames::stories,
    site::{
        A, B, FAR, FAR_BY_ADVISED_ROUTE, FAR_BY_NARROW_ROUTE, FAR_NARROW, FAR_RAW, GATEWAY, HOST, ROUTER, UNREACHABLE,
    },
    sockets::{Act, Datagrams, End, Way},
    stage::{Sender, Stage},
};

/// Odd packets, one after the other, and what is meant to come of them.
pub struct Odd {
    pub name: String,
    packets: Vec<(Sender, Vec<u8>)>,
    /// Instead of raw packets.
    datagrams: Option<Datagrams>,
    /// `None` where both contenders do the same.
    pub meant: Option<Difference>,
}

/// A difference that is meant: the beginnings of what is got in order, and why netd does not do as netfilter.
pub struct Difference {
    pub netfilter: Vec<String>,
    pub netd: Vec<String>,
    pub reason: &'static str,
}

impl Odd {
    fn new(name: impl Into<String>, sender: Sender, packets: Vec<Vec<u8>>) -> Self {
        let packets = packets.into_iter().map(|packet| (sender, packet)).collect();
        Self { name: name.into(), packets, datagrams: None, meant: None }
    }

    /// netfilter lets these be got and netd those.
    fn differs(self, netfilter: &[&str], netd: &[&str], reason: &'static str) -> Self {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        Self { meant: Some(Difference { netfilter: owned(netfilter), netd: owned(netd), reason }), ..self }
    }

    /// Plays it, and tells what is got where.
    pub fn play(&self, stage: &Stage) -> Vec<String> {
        if let Some(datagrams) = &self.datagrams {
            stage.begin();
            let told = datagrams.play(stage);
            stage.settle();
            stage.frames();
            return told;
        }
        for (sender, packet) in &self.packets {
            stage.send(*sender, packet);
            stage.settle();
        }
        let got = stage.frames();
        got.iter()
            .flat_map(|(place, got)| stories(got).into_iter().map(move |told| format!("{place} {told}")))
            .collect()
    }
}

/// All of them.
pub fn all() -> Vec<Odd> {
    [
        stray_segments(),
        connections(),
        other_protocols(),
        associations(),
        messages(),
        parts(),
        narrow_ways(),
        headers(),
        to_the_host(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Ports that are of no other packet's flow.
fn port(number: &mut u16) -> u16 {
    *number += 1;
    *number
}

/// Type of the chunk that answers one which opens an association.
const INIT_ACK: u8 = 2;

const LEAKS: &str = "netfilter lets out what it cannot track, with an address that is nobody's outside; netd drops what it cannot translate";
const LOOSE: &str = "netfilter takes a connection up in its middle; for netd only a SYN opens one, and the host refuses the rest at once";
const LISTENS: &str = "without a cgroup the daemon listens at a published port for the host's own clients, and a listener says nothing to a segment without flags (RFC 9293 section 3.10.7.2)";
const BY_ADDRESS: &str = "netfilter masquerades what has no ports by address alone, so that two containers cannot be told apart; netd drops it";
const PORT_KEPT: &str = "netfilter changes a port and mends the checksum over the whole packet; netd keeps an association's port, and refuses one whose answers would be another's";
const RARE_MESSAGES: &str = "netfilter keeps ICMP's other questions apart by their identifier; netd carries echoes and errors, and nobody else asks";
const HELD_BACK: &str = "netfilter holds fragments back until the packet is whole; netd keeps nothing back, and a fragment before its first is of no known flow (`fragment_overtook` counts it when the first comes)";
const NO_HOP: &str =
    "the kernel's stack writes itself into these options; netd's programs pass it by, and touch no options";
const UNVERIFIED: &str =
    "netfilter sums each packet and leaves alone what is wrong; netd leaves that to the receiver, who sums it anyway";
const OWN_NAME: &str = "netfilter sends what a container says in another's name; netd knows whose wire it is";
const WINDOWS: &str = "netfilter follows a connection's windows, and what is outside goes untranslated to the host, which resets the connection; netd leaves windows to the two ends";
const REFUSED: &str = "netfilter forgets a refused connection at once; netd remembers a reset one for seconds, with what is said about it";
const RECUT: &str = "netfilter puts fragments together and cuts them anew, which no IPv6 router may (RFC 8200 section 4.5); netd has the stack say what is too big";
const ADVISED: &str = "the kernel tells a program a route's MTU only where it is locked; netd then sends what the device takes, and who is narrower says so";

fn stray_segments() -> Vec<Odd> {
    let mut next = 41_000;
    let kinds = [
        ("ACK", ACK),
        ("FIN", FIN | ACK),
        ("RST", RST),
        ("RST with ACK", RST | ACK),
        ("SYN with ACK", SYN | ACK),
        ("segment without flags", 0),
    ];
    let mut odd = Vec::new();
    for (name, flags) in kinds {
        let packet = tcp(&format!("{B}:{}", port(&mut next)), &format!("{FAR_RAW}:7003")).flags(flags);
        let from = if flags == ACK { "far gets tcp 192.0.2.1:* >" } else { "far gets tcp 10.99.0.3:" };
        let stray = Odd::new(format!("a container's stray {name}"), Sender::B, vec![packet.bytes()]);
        odd.push(stray.differs(&[from], &[], if flags == ACK { LOOSE } else { LEAKS }));
    }
    for (name, flags) in kinds {
        let packet = tcp(&format!("{FAR_RAW}:{}", port(&mut next)), &format!("{HOST}:8004")).flags(flags);
        let stray = Odd::new(format!("a stray {name} to a published port"), Sender::Far, vec![packet.bytes()]);
        let (there, reset) = ("b gets tcp 203.0.113.77:41007 > 10.99.0.3:1000", "far gets tcp 192.0.2.1:8004 >");
        odd.push(match flags {
            ACK => stray.differs(&[there], &[reset], LOOSE),
            0 => stray.differs(&[reset], &[], LISTENS),
            _ => stray,
        });
    }
    odd
}

/// What is got at both ends of a connection to a published port, opened with these segments.
fn connections() -> Vec<Odd> {
    let (far, published, container) = (|port| format!("{FAR_RAW}:{port}"), format!("{HOST}:8004"), format!("{B}:1000"));
    let to = |port, flags, numbers: (u32, u32)| {
        (Sender::Far, tcp(&far(port), &published).flags(flags).numbers(numbers.0, numbers.1).payload(b"in").bytes())
    };
    let from = |port, flags, numbers: (u32, u32)| {
        (Sender::B, tcp(&container, &far(port)).flags(flags).numbers(numbers.0, numbers.1).bytes())
    };
    let (gets, sends) = ("b gets tcp 203.0.113.77", "far gets tcp 192.0.2.1:8004");
    let window = vec![
        to(44_100, SYN, (1000, 0)),
        from(44_100, SYN | ACK, (5000, 1003)),
        to(44_100, ACK, (1003, 5001)),
        to(44_100, ACK, (9_001_003, 5001)),
    ];
    let outside =
        Odd { packets: window, ..Odd::new("a segment far outside of a connection's window", Sender::Far, vec![]) };
    let reset = "far gets tcp 192.0.2.1:8004 > 203.0.113.77:44100 ttl 63";
    let refusal = from(44_101, RST | ACK, (0, 1003));
    let said = [&[0; 14][..], &tcp(&published, &far(44_101)).flags(RST | ACK).bytes()[ETH..]].concat();
    let about = (Sender::Far, icmp_error(FAR_RAW, HOST, false, &said, 28).bytes());
    let packets = vec![to(44_101, SYN, (1000, 0)), refusal, about];
    let refused = Odd { packets, ..Odd::new("an error about a connection that was refused", Sender::Far, vec![]) };
    vec![
        outside.differs(&[gets, gets, sends, reset], &[gets, gets, gets, sends], WINDOWS),
        refused.differs(&[gets, sends], &[gets, "b gets icmp 203.0.113.77 > 10.99.0.3", sends], REFUSED),
    ]
}

fn other_protocols() -> Vec<Odd> {
    let kinds = [("GRE", 47), ("ESP", 50), ("IP in IP", 4), ("a protocol of nobody's", 253)];
    let to_the_host = kinds.map(|(name, protocol)| {
        let packet = other("203.0.113.78", HOST, protocol, &[7; 40]).bytes();
        Odd::new(format!("{name} to the host"), Sender::Far, vec![packet])
    });
    let from_a_container = kinds.map(|(name, protocol)| {
        let packet = other(B, FAR_RAW, protocol, &[0; 40]).bytes();
        let odd = Odd::new(format!("{name} from a container"), Sender::B, vec![packet]);
        odd.differs(&[&format!("far gets protocol {protocol} 192.0.2.1 >")], &[], BY_ADDRESS)
    });
    let inward = Odd::new(
        "a protocol of nobody's to a container's own address",
        Sender::Router,
        vec![other(ROUTER, A, 253, &[0; 40]).bytes()],
    );
    to_the_host.into_iter().chain(from_a_container).chain([inward]).collect()
}

/// SCTP. Its checksum and its tags must be right here: the kernel's conntrack looks at both.
fn associations() -> Vec<Odd> {
    let (near, far) = (|from: &str| format!("{from}:2905"), format!("{FAR_RAW}:2906"));
    let opens = |from: &str, sender| (sender, tagged(sctp(&near(from), &far, INIT).bytes(), 0));
    let answered = (Sender::Far, tagged(sctp(&far, &near(HOST), INIT_ACK).bytes(), 0x0505_0505));
    let together = |name: &str, packets| Odd { packets, ..Odd::new(name, Sender::B, vec![]) };
    let got = "far gets protocol 132 192.0.2.1 > 203.0.113.77";
    vec![
        together("an association of a container, and its answer", vec![opens(B, Sender::B), answered]),
        together("the same of its neighbour with the same port", vec![opens(A, Sender::A)]).differs(
            &[got],
            &[],
            PORT_KEPT,
        ),
    ]
}

/// With a verification tag (the one that the other end gave in its INIT, RFC 9260 section 8.5) and the right checksum.
fn tagged(mut packet: Vec<u8>, tag: u32) -> Vec<u8> {
    let l4 = ETH + 20;
    packet[l4 + 4..l4 + 8].copy_from_slice(&tag.to_be_bytes());
    packet[l4 + 8..l4 + 12].fill(0);
    let sum = crc32c(&packet[l4..]);
    packet[l4 + 8..l4 + 12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// SCTP's checksum (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

fn messages() -> Vec<Odd> {
    let one = |name: &str, sender, packet: Vec<u8>| Odd::new(name, sender, vec![packet]);
    let known = tcp(&format!("{B}:9999"), &format!("{FAR_RAW}:9999")).bytes();
    let hosts = tcp(&format!("{HOST}:9999"), &format!("{FAR_RAW}:9999")).bytes();
    let mut timestamp = [0; 20];
    (timestamp[0], timestamp[5]) = (13, 1);
    let mut mask = [0; 12];
    (mask[0], mask[5]) = (17, 1);
    vec![
        one("an echo reply that nobody asked for, from a container", Sender::B, pong(B, FAR_RAW, 77).bytes()).differs(
            &["far gets icmp 10.99.0.3 >"],
            &[],
            LEAKS,
        ),
        one("an echo reply that nobody asked for, to the host", Sender::Far, pong(FAR_RAW, HOST, 77).bytes()),
        one("a timestamp request from a container", Sender::B, icmp(B, FAR, &timestamp).bytes()).differs(
            &["b gets icmp 198.51.100.2 > 10.99.0.3", "far gets icmp 192.0.2.1 >"],
            &[],
            RARE_MESSAGES,
        ),
        one("an address mask request from a container", Sender::B, icmp(B, FAR_RAW, &mask).bytes()).differs(
            &["far gets icmp 192.0.2.1 >"],
            &[],
            RARE_MESSAGES,
        ),
        one("an error about nothing from a container", Sender::B, icmp_error(B, FAR_RAW, false, &known, 28).bytes())
            .differs(&["far gets icmp 10.99.0.3 >"], &[], LEAKS),
        one("an error about nothing to the host", Sender::Router, icmp_error(ROUTER, HOST, true, &hosts, 28).bytes()),
        one("an error that quotes too little", Sender::Router, icmp_error(ROUTER, HOST, true, &hosts, 21).bytes()),
        one("an echo to the host", Sender::Far, ping(FAR, HOST, 9).bytes()),
        one("an echo to the gateway", Sender::A, ping(A, GATEWAY, 9).bytes()),
        one("an echo to the host's address outside, from a container", Sender::A, ping(A, HOST, 9).bytes()),
    ]
}

fn parts() -> Vec<Odd> {
    let mut next = 0x7100;
    let mut fragmented = |name: &str, order: &[usize], outward: bool| {
        next += 1;
        let (from, to, sender) = if outward {
            (format!("{B}:{next}"), format!("{FAR_RAW}:7004"), Sender::B)
        } else {
            (format!("{FAR_RAW}:{next}"), format!("{HOST}:8005"), Sender::Far)
        };
        let parts = fragments(&udp(&from, &to).payload(&[7; 3000]).bytes(), 1000, next);
        let whose = if outward { "a container's fragments" } else { "fragments to a published port" };
        let parts = order.iter().map(|at| parts[*at].clone()).collect();
        Odd::new(format!("{whose}, {name}"), sender, parts)
    };
    let mut odd = Vec::new();
    for outward in [true, false] {
        let got = if outward { "far gets udp 192.0.2.1:* >" } else { "b gets udp 203.0.113.77:" };
        let next = if outward { "far gets 192.0.2.1 > 203.0.113.77" } else { "b gets 203.0.113.77 > 10.99.0.3" };
        odd.push(fragmented("in order", &[0, 1, 2, 3], outward));
        odd.push(fragmented("the first first, the others not in order", &[0, 3, 1, 2], outward));
        odd.push(fragmented("one of them twice", &[0, 1, 1, 2, 3], outward));
        odd.push(fragmented("without the first", &[1, 2, 3], outward));
        odd.push(fragmented("the first last", &[1, 2, 3, 0], outward).differs(&[got], &[got], HELD_BACK));
        odd.push(fragmented("without the last", &[0, 1, 2], outward).differs(&[], &[got, next, next], HELD_BACK));
    }
    let hosts = udp(&format!("{FAR_RAW}:42006"), &format!("{HOST}:9999")).payload(&[7; 3000]).bytes();
    odd.push(Odd::new("fragments to the host itself", Sender::Far, fragments(&hosts, 1000, 0x7200)));
    odd
}

fn narrow_ways() -> Vec<Odd> {
    let twice = |name: &str, way, size| {
        let acts = vec![Act::Say(End::Client, size), Act::Say(End::Client, size)];
        let datagrams = Datagrams {
            way,
            v6: true,
            listens: true,
            checksums: true,
            whole: false,
            ttl: 64,
            extensions: Extensions::default(),
            acts,
        };
        Odd { datagrams: Some(datagrams), ..Odd::new(name, Sender::A, vec![]) }
    };
    let heard = |size| format!("Say(Client, {size}): heard from 2001:db8:1::1");
    let not_heard = |size| format!("Say(Client, {size}): not heard");
    let too_big = "client: error errno 90 type 2 code 0 info 1";
    let mut short_lived = twice("an IPv6 datagram in fragments whose hops end at the router", Way::Out(FAR), 2000);
    short_lived.datagrams.iter_mut().for_each(|datagrams| datagrams.ttl = 2);
    vec![
        short_lived,
        twice("an IPv6 datagram whose fragments are larger than its way", Way::Out(FAR_BY_NARROW_ROUTE), 2000).differs(
            &[&heard(2000), &heard(2000)],
            &[&not_heard(2000), too_big, &heard(2000)],
            RECUT,
        ),
        twice("an IPv6 datagram that its sender cuts once it knows how", Way::Out(FAR_NARROW), 1400).differs(
            &[&not_heard(1400), too_big, &not_heard(1400), too_big],
            &[&not_heard(1400), too_big, &heard(1400)],
            RECUT,
        ),
    ]
}

fn headers() -> Vec<Odd> {
    let mut next = 43_000;
    let mut odd = Vec::new();
    let mut out = || (format!("{B}:{}", port(&mut next)), format!("{FAR_RAW}:7005"));
    let mut next = 43_500;
    let mut inward = || (format!("{FAR_RAW}:{}", port(&mut next)), format!("{HOST}:8005"));
    let one = |name: String, sender, packet: Vec<u8>| Odd::new(name, sender, vec![packet]);

    let record_route = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let timestamps = [68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let source_route = [131, 7, 4, 203, 0, 113, 80, 0];
    let options: [(&str, &[u8], bool); 3] = [
        ("record route", &record_route, true),
        ("timestamps", &timestamps, true),
        ("loose source route", &source_route, false),
    ];
    for (name, options, differs) in options {
        let (from, to) = out();
        let sent = udp(&from, &to).ip_options_of(options).bytes();
        let outward = one(format!("a container's packet with the option {name}"), Sender::B, sent);
        let got = &["far gets udp 192.0.2.1:* >"];
        odd.push(if differs { outward.differs(got, got, NO_HOP) } else { outward });
        let (from, to) = inward();
        let sent = udp(&from, &to).ip_options_of(options).bytes();
        let inward = one(format!("a packet to a published port with the option {name}"), Sender::Far, sent);
        let got = &["b gets udp 203.0.113.77:"];
        odd.push(if differs { inward.differs(got, got, NO_HOP) } else { inward });
    }
    for ttl in [1, 2, 3] {
        let (from, to) = out();
        let name = |what| format!("a container's {what} with a time to live of {ttl}");
        odd.push(one(name("datagram"), Sender::B, udp(&from, &to).ttl(ttl).bytes()));
        odd.push(one(name("SYN"), Sender::B, tcp(&from, &to).ttl(ttl).bytes()));
        odd.push(one(name("echo"), Sender::B, ping(B, FAR_RAW, 600 + u16::from(ttl)).ttl(ttl).bytes()));
    }
    for ttl in [1, 2, 3] {
        let (from, to) = inward();
        let name = format!("a datagram to a published port with a time to live of {ttl}");
        odd.push(one(name, Sender::Far, udp(&from, &to).ttl(ttl).bytes()));
    }
    let wrong = |mut packet: Vec<u8>| {
        packet[ETH + 26] ^= 0x55;
        packet
    };
    let (from, to) = out();
    let sent =
        one("a container's datagram with a wrong checksum".to_owned(), Sender::B, wrong(udp(&from, &to).bytes()));
    odd.push(sent.differs(&["far gets udp 10.99.0.3:"], &["far gets udp 192.0.2.1:* >"], UNVERIFIED));
    let (from, to) = inward();
    let sent = one(
        "a datagram to a published port with a wrong checksum".to_owned(),
        Sender::Far,
        wrong(udp(&from, &to).bytes()),
    );
    odd.push(sent.differs(&[], &["b gets udp 203.0.113.77:"], UNVERIFIED));
    let spoofed = udp("10.98.7.7:43900", &format!("{FAR_RAW}:7008")).bytes();
    let spoofed = one("a container's datagram in a stranger's name".to_owned(), Sender::B, spoofed);
    odd.push(spoofed.differs(&["far gets udp 10.98.7.7:"], &[], OWN_NAME));
    let neighbours = udp(&format!("{A}:43900"), &format!("{FAR_RAW}:7008")).bytes();
    let neighbours = one("a container's datagram in its neighbour's name".to_owned(), Sender::B, neighbours);
    odd.push(neighbours.differs(&["far gets udp 192.0.2.1:* >"], &[], OWN_NAME));
    let advised = udp(&format!("{B}:43901"), &format!("{FAR_BY_ADVISED_ROUTE}:7008")).payload(&[7; 1400]).bytes();
    let advised =
        one("a container's packet larger than a route's MTU that is not locked".to_owned(), Sender::B, advised);
    let [too_big, passes] = ["b gets icmp 10.99.0.1 > 10.99.0.3", "far gets udp 192.0.2.1:* >"];
    let refused = "b gets icmp 203.0.113.2 > 10.99.0.3";
    odd.push(advised.differs(&[too_big], &[refused, passes], ADVISED));
    odd
}

fn to_the_host() -> Vec<Odd> {
    let syn = |name: &str, sender, from: String, to: String| Odd::new(name, sender, vec![tcp(&from, &to).bytes()]);
    let datagram = |name: &str, sender, from: String, to: String| Odd::new(name, sender, vec![udp(&from, &to).bytes()]);
    let at = |address: &str, port: u16| format!("{address}:{port}");
    vec![
        syn("a SYN to a port of the host that is closed", Sender::Far, at(FAR, 44_000), at(HOST, 5999)),
        datagram("a datagram to a port of the host that is closed", Sender::Far, at(FAR, 44_000), at(HOST, 5999)),
        syn("a SYN to a container's own address", Sender::Router, at(ROUTER, 44_001), at(A, 80)),
        datagram("a datagram to a container's own address", Sender::Router, at(ROUTER, 44_001), at(A, 90)),
        syn("a container's SYN to a closed port of the gateway", Sender::A, at(A, 44_002), at(GATEWAY, 5999)),
        syn("a container's SYN to where there is no way", Sender::A, at(A, 44_003), at(UNREACHABLE, 7009)),
        datagram(
            "a container's datagram to every host of its network",
            Sender::B,
            at(B, 44_004),
            at("10.99.0.255", 7010),
        ),
        datagram("a container's datagram to everyone", Sender::B, at(B, 44_005), at("255.255.255.255", 7010)),
        syn("a SYN in transit that is no container's", Sender::Router, at(ROUTER, 44_006), at("198.51.100.99", 7011)),
    ]
}
