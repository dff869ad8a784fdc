//! A port that every host publishes, in memory: the host where its client knocks, the host of its container, and the tunnel between
//! them.

use netd_common::{
    tables::{Device, EndpointKey, Hook, MeshEnd, Publication, PublicationKey, Segment, TunnelKey, VtepKey},
    tuple::{Address, Mac, Port, TCP, UDP, Zone},
    verdict::Verdict,
};

use crate::{
    packets::{Build, checksums_hold, ipv6_checksums_hold, ipv6_twin, twin},
    scene::{self, A, B, TUNNEL, UPLINK, UPLINK_MACS, bridge_mac, container_mac},
    world::{Frame, World},
};

/// The segment of network blue.
pub const VNI: u32 = 42;
/// Who knocks.
pub const CLIENT: &str = "198.51.100.7:4000";
/// Where the client knocks.
pub const KNOCKED: &str = "192.0.2.1:8000";
/// The scene's container A, as the other host has it too.
pub const CONTAINER: [u8; 4] = [10, 176, 1, 2];
/// The two hosts' own addresses.
pub const VTEPS: [Address; 2] = [Address::v4([192, 0, 2, 1]), Address::v4([192, 0, 2, 9])];

/// Theirs where the underlay is IPv6.
pub const VTEPS_OF_IPV6: [Address; 2] = [Address::v6(twin([192, 0, 2, 1])), Address::v6(twin([192, 0, 2, 9]))];

/// The link-layer address of the container's host, on the street that both are on.
pub const OTHER_HOST: [u8; 6] = [2, 0, 0, 0, 2, 9];
/// UDP port of the tunnel.
pub const TUNNEL_PORT: u16 = 4789;

/// The client's host, where network blue has no container A, and the container's, which knows no port 8000 of its own.
pub struct Hosts {
    /// The client's.
    pub ingress: World,
    /// The container's.
    pub container: World,
    /// Their addresses.
    pub vteps: [Address; 2],
}

impl Hosts {
    /// With nothing open.
    pub fn new() -> Self {
        Self::between(VTEPS)
    }

    /// The same, the hosts known to one another by these addresses.
    pub fn between(vteps: [Address; 2]) -> Self {
        Self { ingress: clients_host_between(vteps), container: spanning(vteps[0]), vteps }
    }

    /// A packet of the client's comes by the uplink of its host, and what comes of it by the tunnel to the container's.
    pub fn knocks(&self, bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
        let frame = self.enters(bytes);
        self.arrives(&frame, self.vteps[0])
    }

    /// A packet of the client's comes by the uplink of its host; the frame that goes into the tunnel.
    pub fn enters(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut frame = Frame::at(UPLINK, bytes);
        let verdict = self.ingress.run(Hook::FromUplink, &mut frame);
        assert_eq!(verdict, Verdict::Tunnel(TUNNEL));
        whole(&frame.bytes);
        frame.bytes
    }

    /// A frame comes out of the tunnel at the container's host.
    pub fn arrives(&self, bytes: &[u8], by: Address) -> (Verdict, Vec<u8>) {
        let mut frame = Frame { tunnel: Some(TunnelKey { vtep: by, vni: VNI }), ..Frame::at(TUNNEL, bytes.to_vec()) };
        let verdict = self.container.run(Hook::FromOverlay, &mut frame);
        whole(&frame.bytes);
        (verdict, frame.bytes)
    }

    /// The container answers, and its answer comes back to the client's host.
    pub fn answers(&self, bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
        let (verdict, bytes) = self.leaves(bytes);
        assert_eq!(verdict, Verdict::Tunnel(TUNNEL));
        let mut frame = Frame { tunnel: Some(TunnelKey { vtep: self.vteps[1], vni: VNI }), ..Frame::at(TUNNEL, bytes) };
        let verdict = self.ingress.run(Hook::FromOverlay, &mut frame);
        whole(&frame.bytes);
        (verdict, frame.bytes)
    }

    /// The container sends to its gateway.
    pub fn leaves(&self, mut bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
        bytes[..6].copy_from_slice(&bridge_mac(20));
        bytes[6..12].copy_from_slice(&container_mac(A));
        let mut frame = Frame::at(A, bytes);
        let verdict = self.container.run(Hook::FromContainer, &mut frame);
        whole(&frame.bytes);
        (verdict, frame.bytes)
    }
}

impl Default for Hosts {
    fn default() -> Self {
        Self::new()
    }
}

/// The client's host: network blue has no container A here, and its port 8000 leads to the other host. Its uplink's driver passes on.
pub fn clients_host() -> World {
    clients_host_between(VTEPS)
}

fn clients_host_between([own, other]: [Address; 2]) -> World {
    let mut world = spanning(other);
    world.devices.remove(&A);
    for address in [Address::v4(CONTAINER), Address::v6(twin(CONTAINER))] {
        let key = EndpointKey { address, zone: Zone(1), pad: 0 };
        world.endpoints.remove(&key);
        world.mesh.insert(key, MeshEnd { vtep: other, vni: VNI, mac: Mac(container_mac(A)), pad: 0 });
    }
    for protocol in [TCP, UDP] {
        for (any, to) in [(Address::ANY_V4, Address::v4(CONTAINER)), (Address::ANY_V6, Address::v6(twin(CONTAINER)))] {
            let key = PublicationKey::new(any, protocol, Port::new(8000));
            world.publications.insert(key, Publication::new(Zone(1), to, 8000, 80));
        }
    }
    tunnels_as(&mut world, own);
    world.neighbours.insert(other, [OTHER_HOST, UPLINK_MACS[0]].map(Mac));
    world
}

/// Has the driver of a host's uplink pass on as this address, or, as an unspecified one, not at all.
pub fn tunnels_as(world: &mut World, own: Address) {
    let uplink = world.devices.get_mut(&UPLINK).expect("the scene has one");
    uplink.gateway_ipv4 = if own.is_v4() { own.v4_bytes() } else { [0; 4] };
    uplink.gateway_ipv6 = if own.is_v4() { [0; 16] } else { own.bytes() };
}

/// The container's host, which knows no port 8000 of its own.
pub fn containers_host() -> World {
    spanning(VTEPS[0])
}

/// The scene's host, its network blue a segment; `address` is that of the host that it shares it with.
fn spanning(address: Address) -> World {
    let mut world = scene::world_of_both_families();
    for container in [A, B] {
        world.devices.get_mut(&container).expect("a container").vni = VNI;
    }
    let Device { gateway_ipv4, gateway_ipv6, gateway_mac, .. } = world.devices[&A];
    let of_blue = Segment {
        tunnel: TUNNEL,
        bridge: 20,
        underlay_mtu: 1550,
        port: TUNNEL_PORT,
        zone: Zone(1),
        gateway_mac,
        ..Segment::default()
    };
    world.segments.insert(VNI, Segment { gateway_ipv4, gateway_ipv6, ..of_blue });
    world.vteps.insert(VtepKey { address, vni: VNI });
    let place = EndpointKey { address: Address::ANY_V6, zone: Zone::of_vtep(address), pad: 0 };
    world.mesh.insert(place, MeshEnd { vtep: address, ..MeshEnd::default() });
    world
}

/// Fails unless a frame's checksums hold.
pub fn whole(bytes: &[u8]) {
    if bytes[12] == 8 { checksums_hold(bytes) } else { ipv6_checksums_hold(bytes) }.expect("its checksums hold");
}

/// A packet as it comes by the uplink, of either family.
pub fn from_outside(build: Build) -> [Vec<u8>; 2] {
    let bytes = build.macs(UPLINK_MACS[1], UPLINK_MACS[0]).bytes();
    [bytes.clone(), ipv6_twin(&bytes)]
}

/// A packet of either family.
pub fn of_both(build: Build) -> [Vec<u8>; 2] {
    let bytes = build.bytes();
    [bytes.clone(), ipv6_twin(&bytes)]
}

/// A packet's addresses and ports.
pub fn ends(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (at, ip) = if bytes[12] == 8 { (26, 8) } else { (22, 32) };
    (&bytes[at..at + ip], &bytes[at + ip..at + ip + 4])
}
