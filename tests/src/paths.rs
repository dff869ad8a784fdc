//! The paths that a packet can take through the packet code, for those who measure them: in the [`World`](crate::world::World)
//! and in the kernel.

use netd_common::{
    parse::tcp_flags::{ACK, SYN},
    tables::Hook,
};

use crate::{
    packets::{Build, icmp_error, tcp, udp},
    scene::{self, A, UPLINK},
    world::Frame,
};

/// What packets a path is measured with.
pub struct Path {
    /// For tables.
    pub name: &'static str,
    /// Where they turn up.
    pub hook: Hook,
    /// Packets that come before.
    pub before: fn() -> Vec<(Hook, Frame)>,
    /// The packet of this number.
    pub packet: fn(u32) -> Frame,
}

/// All.
pub const PATHS: [Path; 9] = [
    Path {
        name: "masquerade, established",
        hook: Hook::FromContainer,
        before: connected,
        packet: |_| leaves(tcp("10.176.1.2:5000", "198.51.100.7:80").flags(ACK).payload(&[7; 64])),
    },
    Path {
        name: "masquerade, answer",
        hook: Hook::FromUplink,
        before: connected,
        packet: |_| enters(tcp("198.51.100.7:80", "192.0.2.1:5000").flags(ACK).payload(&[7; 64])),
    },
    Path {
        name: "masquerade, first packet, port kept",
        hook: Hook::FromContainer,
        before: Vec::new,
        packet: |n| leaves(udp("10.176.1.2:5000", &server(n))),
    },
    Path {
        name: "masquerade, first packet, port looked for",
        hook: Hook::FromContainer,
        before: Vec::new,
        packet: |n| leaves(udp("10.176.1.2:33000", &server(n))),
    },
    Path {
        name: "published, first packet",
        hook: Hook::FromUplink,
        before: Vec::new,
        packet: |n| enters(tcp(&server(n), "192.0.2.1:8080")),
    },
    Path {
        name: "published, established",
        hook: Hook::FromUplink,
        before: || vec![(Hook::FromUplink, enters(tcp("203.0.113.9:40000", "192.0.2.1:8080")))],
        packet: |_| enters(tcp("203.0.113.9:40000", "192.0.2.1:8080").flags(ACK).payload(&[7; 64])),
    },
    Path {
        name: "the host's own, from outside",
        hook: Hook::FromUplink,
        before: Vec::new,
        packet: |_| enters(tcp("203.0.113.9:40000", "192.0.2.1:22").flags(ACK).payload(&[7; 64])),
    },
    Path {
        name: "container to container",
        hook: Hook::FromContainer,
        before: Vec::new,
        packet: |_| {
            let build = tcp("10.176.1.2:5000", "10.176.1.3:80").payload(&[7; 64]);
            Frame::at(A, build.macs(scene::container_mac(A), scene::container_mac(scene::B)).bytes())
        },
    },
    Path {
        name: "error about a flow",
        hook: Hook::FromUplink,
        before: connected,
        packet: |_| {
            let about = tcp("192.0.2.1:5000", "198.51.100.7:80").bytes();
            enters(icmp_error("203.0.113.1", "192.0.2.1", true, &about, 28))
        },
    },
];

fn connected() -> Vec<(Hook, Frame)> {
    let (from, to) = ("10.176.1.2:5000", "198.51.100.7:80");
    vec![
        (Hook::FromContainer, leaves(tcp(from, to))),
        (Hook::FromUplink, enters(tcp(to, "192.0.2.1:5000").flags(SYN | ACK))),
        (Hook::FromContainer, leaves(tcp(from, to).flags(ACK))),
    ]
}

/// One of 65,536 outside.
fn server(n: u32) -> String {
    format!("198.51.{}.{}:80", n >> 8 & 255, n & 255)
}

fn leaves(build: Build) -> Frame {
    Frame::at(A, build.macs(scene::container_mac(A), scene::bridge_mac(20)).bytes())
}

fn enters(build: Build) -> Frame {
    Frame::at(UPLINK, build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes())
}
