//! A site with everything that a play needs: captures at its ends, sockets for raw packets, and a way to know that whatever is
//! under way has arrived.

use std::{net::UdpSocket, os::fd::AsRawFd, time::Duration};

use netd_common::packet::ETH;
use netd_tests::lab::Node;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket, sockopt,
};

use crate::{
    frames::{Capture, Frame, MARKER},
    site::{A, B, FAR, FAR_NARROW, GATEWAY, HOST, OWN, Site, forget_ways, six},
};

/// Who sends a raw packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Container `a`, whose kernel speaks too.
    A,
    /// Container `b`, whose kernel is silent.
    B,
    /// The peer.
    Far,
    /// The router, for errors of its own.
    Router,
}

/// Ordered so that what looks on goes before the site.
pub struct Stage {
    captures: [Capture; 4],
    raw: [UdpSocket; 4],
    marker: [UdpSocket; 2],
    pub site: Site,
}

impl Stage {
    pub fn on(site: Site) -> Self {
        let captures = [
            Capture::of(&site.a, "eth0", "a"),
            Capture::of(&site.b, "eth0", "b"),
            Capture::of(&site.far, "eth0", "far"),
            Capture::of(&site.far, "eth1", "far, narrow"),
        ];
        let nodes: [&Node; 4] = [&site.a, &site.b, &site.far, &site.router];
        let raw = nodes.map(raw);
        let bind = |node: &Node, port| node.enter(|| UdpSocket::bind(("0.0.0.0", port))).expect("the port is free");
        let marker = [bind(&site.a, MARKER), bind(&site.far, MARKER)];
        marker.iter().for_each(|socket| {
            socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket can be given a timeout");
        });
        let stage = Self { captures, raw, marker, site };
        // Neighbours are found once, and not in the middle of a play.
        for (node, addresses) in [
            (&*stage.site.a, &[GATEWAY, FAR, FAR_NARROW, B] as &[&'static str]),
            (&*stage.site.far, &[HOST]),
            (&*stage.site.host, &[A, FAR]),
        ] {
            for address in addresses.iter().flat_map(|address| [address, six(address)]) {
                // One is silent; its neighbour is found all the same.
                node.pings(address, 1, Duration::from_millis(500));
            }
        }
        stage.settle();
        stage.frames();
        stage
    }

    /// Forgets what was before.
    pub fn begin(&self) {
        let site = &self.site;
        for node in [&*site.a, &*site.far, &*site.host, &*site.router] {
            forget_ways(node);
        }
        self.settle();
        self.frames();
    }

    /// Returns once everything sent before has arrived: a packet goes after it from `a` to the peer, and another back. The whole
    /// site runs on one processor, which takes packets in order.
    ///
    /// # Panics
    /// When they do not arrive.
    pub fn settle(&self) {
        let [near, far] = &self.marker;
        let mut buffer = [0; 16];
        near.send_to(b"marker", (FAR, MARKER)).expect("there is a way to the peer");
        let (_, from) = far.recv_from(&mut buffer).expect("a datagram reaches the peer");
        far.send_to(b"marker", from).expect("there is a way back");
        near.recv_from(&mut buffer).expect("the answer reaches the container");
    }

    /// What passed the ends since the last call: by the place's name.
    pub fn frames(&self) -> Vec<(&'static str, Vec<Frame>)> {
        self.captures.iter().map(|capture| (capture.name(), capture.take())).collect()
    }

    /// Sends an IP packet, given from its Ethernet header on, as it is.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn send(&self, sender: Sender, packet: &[u8]) {
        let [a, b, c, d] = [16, 17, 18, 19].map(|at| packet[ETH + at]);
        let to = SockaddrIn::new(a, b, c, d, 0);
        sendto(self.raw[sender as usize].as_raw_fd(), &packet[ETH..], &to, MsgFlags::empty())
            .unwrap_or_else(|error| panic!("{sender:?} cannot send {packet:02x?}: {error}"));
    }
}

fn raw(node: &Node) -> UdpSocket {
    let socket = node.enter(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw));
    let socket = socket.expect("root may send raw packets");
    setsockopt(&socket, sockopt::Mark, &OWN).expect("root may mark packets");
    setsockopt(&socket, sockopt::Broadcast, &true).expect("a socket may broadcast");
    // The standard library has the calls of every datagram socket on this type.
    UdpSocket::from(socket)
}
