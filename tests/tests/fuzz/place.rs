//! Where a packet of any bytes turns up: at any hook of a host of both families, or of one of two that share a network.

use netd_common::{
    frame::outer,
    packet::{ETH, Packet},
    tables::{Hook, TunnelKey},
    verdict::Verdict,
};
use netd_tests::{
    mesh::{self, VNI, VTEPS},
    scene::{self, A, B, FOREIGN, LOOPBACK, TUNNEL, UPLINK},
    world::{Frame, World},
};

/// Where, as two bytes say it.
pub struct Place {
    pub hook: Hook,
    /// Whether the frame is made one between container A and its gateway.
    known_macs: bool,
    /// 0 for the scene's host alone, which shares no network; 1 for a container's, 2 for a client's.
    host: u8,
    came_by: u32,
}

impl Place {
    /// The hook is the first byte's low half, counted around; its next bit says whether link-layer addresses are known, the two
    /// after it which host. The second byte is the device that it came by, counted around.
    pub fn new([place, came_by]: [u8; 2]) -> Self {
        let devices = [0, 20, UPLINK, FOREIGN, A, TUNNEL];
        Self {
            hook: Hook::ALL[usize::from(place & 0x0f) % Hook::ALL.len()],
            known_macs: place & 0x10 != 0,
            host: place >> 5 & 3,
            came_by: devices[usize::from(came_by) % devices.len()],
        }
    }

    /// Has a packet turn up there.
    pub fn meets(&self, packet: &[u8]) {
        let mut packet = packet.to_vec();
        if self.known_macs && packet.len() >= ETH {
            packet[..6].copy_from_slice(&scene::bridge_mac(20));
            packet[6..12].copy_from_slice(&scene::container_mac(A));
        }
        let world = self.world();
        if self.hook == Hook::UplinkXdp {
            return meets_driver(&world, packet);
        }
        let layer3 = Hook::of_uplink(true).contains(&self.hook);
        let tunnel = (self.hook == Hook::FromOverlay).then_some(TunnelKey { vtep: VTEPS[1 - self.number()], vni: VNI });
        let mut frame = Frame { came_by: self.came_by, layer3, tunnel, ..Frame::at(self.device(), packet) };
        let length = frame.length();

        let _ = world.run(self.hook, &mut frame);

        // Between hosts some are answered by what takes their place.
        assert!(self.shares() || frame.length() == length, "{frame:02x?}");
    }

    fn shares(&self) -> bool {
        matches!(self.host, 1 | 2)
    }

    /// The number of the host among those that share a network.
    fn number(&self) -> usize {
        usize::from(self.host == 1)
    }

    fn world(&self) -> World {
        match self.host {
            1 => mesh::containers_host(),
            2 => mesh::clients_host(),
            _ => scene::world_of_both_families(),
        }
    }

    fn device(&self) -> u32 {
        match self.hook {
            // The client's host has no container A.
            Hook::FromContainer | Hook::ToContainer if self.host == 2 => B,
            Hook::FromContainer | Hook::ToContainer => A,
            Hook::DnsLo => LOOPBACK,
            Hook::FromOverlay => TUNNEL,
            Hook::FromHost => 20,
            Hook::FromUplink | Hook::ToUplink | Hook::FromL3Uplink | Hook::ToL3Uplink | Hook::UplinkXdp => UPLINK,
        }
    }
}

/// A frame in the driver of an uplink stays as it is, or is wrapped whole.
fn meets_driver(world: &World, packet: Vec<u8>) {
    let mut frame = packet.clone();
    match world.run_early(UPLINK, &mut frame) {
        // Without what fills an Ethernet frame.
        Verdict::Tunnel(_) => assert!(frame.len() > outer(true) && frame.len() <= packet.len() + outer(true)),
        _ => assert_eq!(frame, packet),
    }
}
