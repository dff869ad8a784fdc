//! Odd packets, one at a time: what no stack sends, or nobody expects. Here the two contenders differ on purpose, and the table
//! says where and why.

mod headers;
mod transports;

use netd_common::packet::ETH;
use netd_tests::packets::{tcp, udp};

use self::{
    headers::{headers, narrow_ways, parts},
    transports::{associations, connections, messages, other_protocols, stray_segments},
};
use crate::{
    frames::{Capture, stories},
    site::{A, B, FAR, FAR_RAW, GATEWAY, HOST, IN_TRANSIT, ROUTER, UNREACHABLE},
    sockets::Datagrams,
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
    /// Whether nothing is got anywhere, where both do the same.
    pub is_silent: bool,
    /// Whether the host must be seen to receive it, which nobody else tells of.
    is_at_host: bool,
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
        Self { name: name.into(), packets, datagrams: None, meant: None, is_silent: false, is_at_host: false }
    }

    /// It comes as far as the host.
    fn at_host(self) -> Self {
        Self { is_at_host: true, ..self }
    }

    /// Nothing comes of it.
    fn silent(self) -> Self {
        Self { is_silent: true, ..self }
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
        let host = self.is_at_host.then(|| Capture::of(&stage.site.host, "eth0", "host"));
        for (sender, packet) in &self.packets {
            stage.send(*sender, packet);
            stage.settle();
        }
        if let Some(host) = host {
            let received: Vec<_> = host.take().into_iter().filter(|frame| !frame.sent).collect();
            let is_own = |packet: &[u8]| received.iter().any(|frame| frame.bytes[ETH + 12..] == packet[ETH + 12..]);
            assert!(
                self.packets.iter().all(|(_, packet)| is_own(packet)),
                "{} comes to the host: {received:02x?}",
                self.name
            );
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

fn to_the_host() -> Vec<Odd> {
    let syn = |name: &str, sender, from: String, to: String| Odd::new(name, sender, vec![tcp(&from, &to).bytes()]);
    let datagram = |name: &str, sender, from: String, to: String| Odd::new(name, sender, vec![udp(&from, &to).bytes()]);
    let at = |address: &str, port: u16| format!("{address}:{port}");
    vec![
        syn("a SYN to a port of the host that is closed", Sender::Far, at(FAR, 44_000), at(HOST, 5999)),
        datagram("a datagram to a port of the host that is closed", Sender::Far, at(FAR, 44_000), at(HOST, 5999)),
        syn("a SYN to a container's own address", Sender::Router, at(ROUTER, 44_001), at(A, 80)).silent(),
        datagram("a datagram to a container's own address", Sender::Router, at(ROUTER, 44_001), at(A, 90)).silent(),
        syn("a container's SYN to a closed port of the gateway", Sender::A, at(A, 44_002), at(GATEWAY, 5999)),
        syn("a container's SYN to where there is no way", Sender::A, at(A, 44_003), at(UNREACHABLE, 7009)),
        datagram(
            "a container's datagram to every host of its network",
            Sender::B,
            at(B, 44_004),
            at("10.99.0.255", 7010),
        ),
        datagram("a container's datagram to everyone", Sender::B, at(B, 44_005), at("255.255.255.255", 7010)).silent(),
        syn("a SYN in transit that is no container's", Sender::Router, at(FAR_RAW, 44_006), at(IN_TRANSIT, 7011))
            .at_host()
            .silent(),
    ]
}
