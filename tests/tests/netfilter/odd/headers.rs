//! Odd by how they travel: in pieces, by narrow ways, with options, at the end of their hops, in another's name.

use netd_common::packet::ETH;
use netd_tests::packets::{fragments, ping, tcp, udp};

use super::{Odd, port};
use crate::{
    extensions::Extensions,
    site::{A, B, FAR, FAR_BY_ADVISED_ROUTE, FAR_BY_NARROW_ROUTE, FAR_NARROW, FAR_RAW, HOST},
    sockets::{Act, Datagrams, End, Way},
    stage::Sender,
};

const HELD_BACK: &str = "netfilter holds fragments back until the packet is whole; netd keeps nothing back, and a fragment before its first is of no known flow (`fragment_overtook` counts it when the first comes)";
const NO_HOP: &str =
    "the kernel's stack writes itself into these options; netd's programs pass it by, and touch no options";
const UNVERIFIED: &str =
    "netfilter sums each packet and leaves alone what is wrong; netd leaves that to the receiver, who sums it anyway";
const OWN_NAME: &str = "netfilter sends what a container says in another's name; netd knows whose wire it is";
const RECUT: &str = "netfilter puts fragments together and cuts them anew, which no IPv6 router may (RFC 8200 section 4.5); netd has the stack say what is too big";
const ADVISED: &str = "the kernel tells a program a route's MTU only where it is locked; netd then sends what the device takes, and who is narrower says so";

pub fn parts() -> Vec<Odd> {
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
        odd.push(fragmented("without the first", &[1, 2, 3], outward).silent());
        odd.push(fragmented("the first last", &[1, 2, 3, 0], outward).differs(&[got], &[got], HELD_BACK));
        odd.push(fragmented("without the last", &[0, 1, 2], outward).differs(&[], &[got, next, next], HELD_BACK));
    }
    let hosts = udp(&format!("{FAR_RAW}:42006"), &format!("{HOST}:9999")).payload(&[7; 3000]).bytes();
    odd.push(Odd::new("fragments to the host itself", Sender::Far, fragments(&hosts, 1000, 0x7200)));
    odd
}

pub fn narrow_ways() -> Vec<Odd> {
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

pub fn headers() -> Vec<Odd> {
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
        odd.push(if differs { outward.differs(got, got, NO_HOP) } else { outward.silent() });
        let (from, to) = inward();
        let sent = udp(&from, &to).ip_options_of(options).bytes();
        let inward = one(format!("a packet to a published port with the option {name}"), Sender::Far, sent);
        let got = &["b gets udp 203.0.113.77:"];
        odd.push(if differs { inward.differs(got, got, NO_HOP) } else { inward.silent() });
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
