//! Odd by what they carry: segments of no connection, protocols without ports, messages that nobody asked for.

use netd_common::{
    packet::ETH,
    parse::{
        sctp_chunk::INIT,
        tcp_flags::{ACK, FIN, RST, SYN},
    },
};
use netd_tests::packets::{icmp, icmp_error, other, ping, pong, sctp, tcp};

use super::{Odd, port};
use crate::{
    site::{A, B, FAR, FAR_RAW, GATEWAY, HOST, ROUTER},
    stage::Sender,
};

/// Type of the chunk that answers one which opens an association.
const INIT_ACK: u8 = 2;

const RST_ACK: u8 = RST | ACK;

const LEAKS: &str = "netfilter lets out what it cannot track, with an address that is nobody's outside; netd drops what it cannot translate";
const LOOSE: &str = "netfilter takes a connection up in its middle; for netd only a SYN opens one, and the host refuses the rest at once";
const LISTENS: &str = "without a cgroup the daemon listens at a published port for the host's own clients, and a listener says nothing to a segment without flags (RFC 9293 section 3.10.7.2)";
const BY_ADDRESS: &str = "netfilter masquerades what has no ports by address alone, so that two containers cannot be told apart; netd drops it";
const PORT_KEPT: &str = "netfilter changes a port and mends the checksum over the whole packet; netd keeps an association's port, and refuses one whose answers would be another's";
const RARE_MESSAGES: &str = "netfilter keeps ICMP's other questions apart by their identifier; netd carries echoes and errors, and nobody else asks";
const WINDOWS: &str = "netfilter follows a connection's windows, and what is outside goes untranslated to the host, which resets the connection; netd leaves windows to the two ends";
const REFUSED: &str = "netfilter forgets a refused connection at once; netd remembers a reset one for seconds, with what is said about it";

pub fn stray_segments() -> Vec<Odd> {
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
            RST | RST_ACK => stray.silent(),
            _ => stray,
        });
    }
    odd
}

/// What is got at both ends of a connection to a published port, opened with these segments.
pub fn connections() -> Vec<Odd> {
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

pub fn other_protocols() -> Vec<Odd> {
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
    )
    .silent();
    to_the_host.into_iter().chain(from_a_container).chain([inward]).collect()
}

/// SCTP. Its checksum and its tags must be right here: the kernel's conntrack looks at both.
pub fn associations() -> Vec<Odd> {
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

pub fn messages() -> Vec<Odd> {
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
        one("an echo reply that nobody asked for, to the host", Sender::Far, pong(FAR_RAW, HOST, 77).bytes()).silent(),
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
        one("an error about nothing to the host", Sender::Router, icmp_error(ROUTER, HOST, true, &hosts, 28).bytes())
            .silent(),
        one("an error that quotes too little", Sender::Router, icmp_error(ROUTER, HOST, true, &hosts, 21).bytes())
            .silent(),
        one("an echo to the host", Sender::Far, ping(FAR, HOST, 9).bytes()),
        one("an echo to the gateway", Sender::A, ping(A, GATEWAY, 9).bytes()),
        one("an echo to the host's address outside, from a container", Sender::A, ping(A, HOST, 9).bytes()),
    ]
}
