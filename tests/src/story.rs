//! How stories of packets are told: who sends what into a [`World`] of the [`scene`], and what comes of it. Every checksum of
//! every packet is recomputed on the way.

use netd_common::{packet::ETH, tables::Hook, tuple::Tuple, verdict::Verdict};

use crate::{
    packets::{Build, all_hold, left_to_the_device, sum, summed_by_the_device, tcp, udp, with_macs},
    scene::{self, UPLINK},
    world::{Frame, Summed, World},
};

/// A server outside.
pub const SERVER: &str = "198.51.100.7";

/// A packet after a hook.
#[derive(Debug)]
pub struct Arrived {
    /// What the hook said.
    pub verdict: Verdict,
    /// What became of its bytes.
    pub bytes: Vec<u8>,
}

impl Arrived {
    /// Offset of the transport header.
    pub fn l4(&self) -> usize {
        14 + usize::from(self.bytes[14] & 0x0f) * 4
    }

    /// `ADDRESS:PORT` from an offset into the IP header and one into the transport header.
    pub fn end(&self, address: usize, port: usize) -> String {
        let a = &self.bytes[14 + address..];
        let p = &self.bytes[self.l4() + port..];
        format!("{}.{}.{}.{}:{}", a[0], a[1], a[2], a[3], u16::from_be_bytes([p[0], p[1]]))
    }

    /// Source `ADDRESS:PORT`.
    pub fn source(&self) -> String {
        self.end(12, 0)
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        self.source().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Destination `ADDRESS:PORT`.
    pub fn destination(&self) -> String {
        self.end(16, 2)
    }

    /// An echo's identifier.
    pub fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.bytes[self.l4() + 4], self.bytes[self.l4() + 5]])
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.bytes[22]
    }
}

/// A TCP SYN with data of an odd length, or a datagram.
pub fn of(protocol: &str, from: &str, to: &str) -> Build {
    if protocol == "tcp" { tcp(from, to).payload(b"odd") } else { udp(from, to) }
}

/// A container sends a packet to its gateway; with `offload` its checksum is left to the device.
pub fn leave(world: &World, device: u32, build: Build, offload: bool) -> Arrived {
    let bytes = build.macs(scene::container_mac(device), scene::bridge_mac(scene::bridge_of(device))).bytes();
    arrive(world, Hook::FromContainer, device, bytes, offload)
}

/// What a container sends to its gateway, from its Ethernet header on.
pub fn leaves(world: &World, device: u32, bytes: Vec<u8>) -> Arrived {
    let bytes = with_macs(bytes, scene::container_mac(device), scene::bridge_mac(scene::bridge_of(device)));
    arrive(world, Hook::FromContainer, device, bytes, false)
}

/// What comes by the uplink, from its Ethernet header on.
pub fn enters(world: &World, bytes: Vec<u8>) -> Arrived {
    let bytes = with_macs(bytes, scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]);
    arrive(world, Hook::FromUplink, UPLINK, bytes, false)
}

/// The host itself sends by the uplink, from the Ethernet header on.
pub fn leaves_host(world: &World, bytes: Vec<u8>) -> Arrived {
    let bytes = with_macs(bytes, scene::UPLINK_MACS[0], scene::UPLINK_MACS[1]);
    arrive_by(world, Hook::ToUplink, (UPLINK, 0), bytes, false)
}

/// The host itself sends a packet by the uplink.
pub fn host_sends(world: &World, build: Build, offload: bool) -> Arrived {
    let bytes = build.macs(scene::UPLINK_MACS[0], scene::UPLINK_MACS[1]).bytes();
    arrive_by(world, Hook::ToUplink, (UPLINK, 0), bytes, offload)
}

/// A packet comes by the uplink.
pub fn enter(world: &World, build: Build, offload: bool) -> Arrived {
    let bytes = build.macs(scene::UPLINK_MACS[1], scene::UPLINK_MACS[0]).bytes();
    arrive(world, Hook::FromUplink, UPLINK, bytes, offload)
}

/// A packet meets a hook.
pub fn arrive(world: &World, hook: Hook, device: u32, bytes: Vec<u8>, offload: bool) -> Arrived {
    arrive_by(world, hook, (device, device), bytes, offload)
}

fn arrive_by(world: &World, hook: Hook, at: (u32, u32), bytes: Vec<u8>, offload: bool) -> Arrived {
    let mut frame = Frame { came_by: at.1, ..Frame::at(at.0, bytes) };
    if offload {
        frame.bytes = left_to_the_device(frame.bytes);
        frame.summed = Summed::Partial;
    } else {
        frame.summed = Summed::Complete(sum(&frame.bytes[ETH..]).to_be_bytes());
    }
    let verdict = world.run(hook, &mut frame);
    if let Summed::Complete(told) = frame.summed
        && !matches!(verdict, Verdict::Drop(_))
        && !is_unsummed(&frame.bytes)
    {
        // Of the two zeroes of one's complement, either.
        let (told, is) = (u16::from_be_bytes(told) % 0xffff, sum(&frame.bytes[ETH..]) % 0xffff);
        assert_eq!(told, is, "the device's sum after {hook:?}: {verdict:?} {:02x?}", frame.bytes);
    }
    let bytes = if offload { summed_by_the_device(frame.bytes) } else { frame.bytes };
    all_hold(&bytes).unwrap_or_else(|e| panic!("{e} after {hook:?}: {verdict:?} {bytes:02x?}"));
    Arrived { verdict, bytes }
}

/// Whether it is a datagram without a checksum, whose device's sum nobody asks for.
fn is_unsummed(bytes: &[u8]) -> bool {
    let (protocol, l4) = match bytes[ETH] >> 4 {
        4 => (bytes[ETH + 9], ETH + usize::from(bytes[ETH] & 0x0f) * 4),
        _ => (bytes[ETH + 6], ETH + 40),
    };
    protocol == 17 && bytes.get(l4 + 6..l4 + 8) == Some(&[0, 0])
}

/// The flow table: what each tuple becomes.
pub fn keys(world: &World) -> Vec<(Tuple, Tuple)> {
    world.flows.borrow().iter().map(|(key, flow)| (*key, flow.becomes)).collect()
}
