//! One host for packet stories: two networks with containers, an internal one, one that keeps its containers apart, a routed
//! one, an uplink, publications. The same in
//! the [`World`] and, by [`commands`], in a network namespace.

use std::{cell::Cell, net::Ipv6Addr, ops::RangeInclusive};

use netd_common::{
    tables::{
        AllowanceKey, Device, DeviceKind, Endpoint, EndpointKey, Firewall, PortRange, Publication, PublicationKey,
        Settings, SourceKey, SourceList, Span, Timeout, device_flags,
    },
    tuple::{Address, ICMP, ICMPV6, Mac, Port, SCTP, TCP, UDP, Zone},
};

use crate::{
    packets::twin,
    world::{RouteTo, World},
};

/// Interface index of every namespace's loopback device.
pub const LOOPBACK: u32 = 1;
/// Interface index of the uplink.
pub const UPLINK: u32 = 10;
/// A device that is not netd's and no uplink.
pub const FOREIGN: u32 = 50;
/// The VXLAN device.
pub const TUNNEL: u32 = 60;
/// Host-side veth of container A of network blue, 10.176.1.2, published as 0.0.0.0:8080/tcp → 80.
pub const A: u32 = 21;
/// Ports 443/tcp and 443/udp → 443 are for clients of 198.51.100.0/24 and of network blue alone.
pub const LIST: SourceList = SourceList::numbered(7);
/// Of container B of network blue, 10.176.1.3, published as 192.0.2.1:5353/udp → 53.
pub const B: u32 = 22;
/// Of container C of network red, 10.176.2.2.
pub const C: u32 = 31;
/// Of container D of the internal network, 10.176.3.2.
pub const D: u32 = 41;

/// Of container E of the network that keeps its containers apart, 10.176.4.2: it may open port 80/tcp of F, and everything of G.
pub const E: u32 = 81;
/// Of container F there, 10.176.4.3.
pub const F: u32 = 82;
/// Of container G there, 10.176.4.4.
pub const G: u32 = 83;
/// Of container H of the routed network, 10.176.5.2, whose port 80/tcp is open there, as it is for pings.
pub const H: u32 = 71;

/// Every container.
pub const CONTAINERS: [u32; 8] = [A, B, C, D, E, F, G, H];

/// Bridges: interface index, network, gateway.
pub const BRIDGES: [(u32, Zone, [u8; 4]); 5] = [
    (20, Zone(1), [10, 176, 1, 1]),
    (30, Zone(2), [10, 176, 2, 1]),
    (40, Zone(3), [10, 176, 3, 1]),
    (80, Zone(4), [10, 176, 4, 1]),
    (70, Zone(5), [10, 176, 5, 1]),
];

/// The bridge of a container's network.
pub const fn bridge_of(container: u32) -> u32 {
    container / 10 * 10
}

/// The flags of a network's devices.
const fn flags_of(zone: Zone) -> u32 {
    match zone.0 {
        3 => device_flags::INTERNAL,
        4 => device_flags::NO_ICC,
        5 => device_flags::KEEPS_ADDRESS_V4 | device_flags::KEEPS_ADDRESS_V6,
        _ => 0,
    }
}

/// The host's address on the uplink.
pub const HOST: [u8; 4] = [192, 0, 2, 1];
/// The router beyond the uplink.
pub const ROUTER: [u8; 4] = [192, 0, 2, 254];

/// A container's link-layer address.
pub const fn container_mac(device: u32) -> [u8; 6] {
    [0x02, 0, 0, 0, 0, device as u8]
}

/// The gateway of a container's network.
pub const fn gateway_of(container: u32) -> [u8; 4] {
    let [a, b, c, _] = address_of(container);
    [a, b, c, 1]
}

/// A bridge's link-layer address.
pub const fn bridge_mac(bridge: u32) -> [u8; 6] {
    [0x02, 0, 0, 0, 1, bridge as u8]
}

/// The uplink's link-layer address, and its router's.
pub const UPLINK_MACS: [[u8; 6]; 2] = [[0x02, 0, 0, 0, 2, 1], [0x02, 0, 0, 0, 2, 2]];

/// Settings with pools small enough to look at and timeouts as nf_conntrack's.
pub fn settings() -> Settings {
    let timeouts: [u32; Timeout::COUNT] = [120, 60, 432_000, 120, 120, 10, 30, 120, 30, 30, 3, 210];
    let timeouts = timeouts.map(Span::at_least_seconds);
    Settings {
        secret: [0x5eed, 0xcafe],
        pools: [PortRange { first: 20_000, last: 32_767 }, PortRange { first: 61_000, last: 65_535 }],
        second: PortRange { first: 32_768, last: 60_999 },
        ephemeral: PortRange { first: 32_768, last: 60_999 },
        routing: 0,
        timeouts,
        firewall: Firewall::default(),
    }
}

/// The host in memory, one hour after its start.
pub fn world() -> World {
    let mut world = World { settings: Some(settings()), clock: Cell::new(3_600_000_000_000), ..World::default() };
    for (ifindex, zone, gateway_ipv4) in BRIDGES {
        let flags = flags_of(zone);
        let bridge = Device {
            ifindex,
            kind: DeviceKind::Bridge as u8,
            flags,
            zone,
            bridge: ifindex,
            mtu: 1500,
            gateway_ipv4,
            gateway_mac: Mac(bridge_mac(ifindex)),
            ..Device::default()
        };
        world.devices.insert(ifindex, bridge);
        let subnet = [gateway_ipv4[0], gateway_ipv4[1], gateway_ipv4[2], 0];
        world.routes.push((Address::v4(subnet), 120, RouteTo::Device(ifindex, 1500, None)));
        world.routes.push((Address::v4(gateway_ipv4), 128, RouteTo::Local));
    }
    for device in CONTAINERS {
        add_container(&mut world, device);
    }
    world.devices.insert(
        UPLINK,
        Device { ifindex: UPLINK, kind: DeviceKind::Uplink as u8, mtu: 1500, ipv4: HOST, ..Device::default() },
    );
    world.routes.push((Address::v4([192, 0, 2, 0]), 120, RouteTo::Device(UPLINK, 1500, None)));
    world.routes.push((Address::v4(HOST), 128, RouteTo::Local));
    world.routes.push((Address::v4([127, 0, 0, 0]), 104, RouteTo::Local));
    world.routes.push((Address::v4([198, 18, 0, 0]), 111, RouteTo::Device(FOREIGN, 1500, None)));
    world.routes.push((Address::ANY_V4, 96, RouteTo::Device(UPLINK, 1500, Some(Address::v4(ROUTER)))));
    publish(&mut world, Address::ANY_V4, TCP, 8080..=8080, [10, 176, 1, 2], 80);
    publish(&mut world, Address::ANY_V4, TCP, 8100..=8199, [10, 176, 1, 2], 300);
    world.addresses = [HOST, BRIDGES[0].2, BRIDGES[1].2, BRIDGES[2].2].map(Address::v4).into();
    for protocol in [TCP, UDP] {
        publish(&mut world, Address::ANY_V4, protocol, 443..=443, [10, 176, 1, 2], 443);
        let key = PublicationKey::new(Address::ANY_V4, protocol, Port::new(443));
        world.publications.entry(key).and_modify(|to| *to = to.with_sources(LIST));
    }
    for (first, prefix) in [([198, 51, 100, 0], 24), ([10, 176, 1, 0], 24)] {
        world.sources.insert(SourceKey::range(LIST, Address::v4(first), prefix));
    }
    publish(&mut world, Address::ANY_V4, SCTP, 5353..=5353, [10, 176, 1, 3], 5353);
    publish(&mut world, Address::v4(HOST), UDP, 5353..=5353, [10, 176, 1, 3], 53);
    let routed = Address::v4(address_of(H));
    for (protocol, port) in [(TCP, 80), (ICMP, 0)] {
        let key = PublicationKey::new(routed, protocol, Port::new(port));
        world.publications.insert(key, Publication::new(Zone(5), routed, port, port));
    }
    let [e, f, g] = [E, F, G].map(|container| Address::v4(address_of(container)));
    world.allowances.insert(AllowanceKey::of_port(Zone(4), e, f, TCP, Port::new(80)));
    world.allowances.insert(AllowanceKey::of_everything(Zone(4), e, g));
    world
}

/// The same host in memory, with the twins of its addresses beside them: every device, container, route and publication that
/// IPv4 has, IPv6 has too.
pub fn world_of_both_families() -> World {
    let mut world = world();
    let twin_of = |address: Address| Address::v6(twin(address.v4_bytes()));
    for device in world.devices.values_mut() {
        let of = |v4: [u8; 4]| if v4 == [0; 4] { [0; 16] } else { twin(v4) };
        (device.ipv6, device.gateway_ipv6) = (of(device.ipv4), of(device.gateway_ipv4));
    }
    let endpoints: Vec<_> = world.endpoints.iter().map(|(key, endpoint)| (*key, *endpoint)).collect();
    for (key, endpoint) in endpoints {
        world.endpoints.insert(EndpointKey { address: twin_of(key.address), ..key }, endpoint);
    }
    let publications: Vec<_> = world.publications.iter().map(|(key, to)| (*key, *to)).collect();
    let allowances: Vec<_> = world.allowances.iter().copied().collect();
    for key in allowances {
        world.allowances.insert(AllowanceKey { src: twin_of(key.src), dst: twin_of(key.dst), ..key });
    }
    for (mut key, to) in publications {
        if key.protocol == ICMP {
            key = PublicationKey::new(key.address, ICMPV6, key.port);
        }
        key.address = if key.address == Address::ANY_V4 { Address::ANY_V6 } else { twin_of(key.address) };
        world.publications.insert(key, Publication { address: twin_of(to.address), ..to });
    }
    let addresses: Vec<_> = world.addresses.iter().map(|address| twin_of(*address)).collect();
    world.addresses.extend(addresses);
    let twins = world.sources.iter().map(|range| SourceKey::range(LIST, twin_of(range.address()), 120));
    let twins: Vec<_> = twins.collect();
    world.sources.extend(twins);
    for (prefix, bits, to) in world.routes.clone() {
        let to = match to {
            RouteTo::Device(device, mtu, via) => RouteTo::Device(device, mtu, via.map(twin_of)),
            other => other,
        };
        // What IPv4 has for its own loopback IPv6 has not at the twin's address.
        match bits {
            96 => world.routes.push((Address::ANY_V6, 0, to)),
            104 => {}
            _ => world.routes.push((twin_of(prefix), bits, to)),
        }
    }
    world
}

/// Publishes ports of an address as those of a container of network blue from `port` on.
pub fn publish(
    world: &mut World,
    address: Address,
    protocol: u8,
    ports: RangeInclusive<u16>,
    container: [u8; 4],
    port: u16,
) {
    let to = Publication::new(Zone(1), Address::v4(container), *ports.start(), port).up_to(*ports.end());
    world.publications.insert(PublicationKey::of(address, protocol, &to), to);
}

/// A container's address: they are counted from 2 in their networks.
pub const fn address_of(container: u32) -> [u8; 4] {
    let network = match bridge_of(container) {
        20 => 1,
        30 => 2,
        40 => 3,
        80 => 4,
        _ => 5,
    };
    [10, 176, network, 1 + (container - bridge_of(container)) as u8]
}

fn add_container(world: &mut World, ifindex: u32) {
    let of_its_network = BRIDGES.into_iter().find(|(bridge, ..)| *bridge == bridge_of(ifindex));
    let (bridge, zone, gateway_ipv4) = of_its_network.expect("every container has a network");
    let (flags, ipv4) = (flags_of(zone), address_of(ifindex));
    let (mac, gateway_mac) = (Mac(container_mac(ifindex)), Mac(bridge_mac(bridge)));
    world.devices.insert(
        ifindex,
        Device {
            ifindex,
            kind: DeviceKind::Container as u8,
            flags,
            zone,
            bridge,
            mtu: 1500,
            ipv4,
            gateway_ipv4,
            mac,
            gateway_mac,
            ..Device::default()
        },
    );
    let key = EndpointKey { address: Address::v4(ipv4), zone, pad: 0 };
    world.endpoints.insert(key, Endpoint { device: ifindex, mtu: 1500, mac, gateway_mac });
}

fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What makes the same host's devices, addresses and routes in an empty network namespace, as `ip` batch lines.
pub fn commands() -> Vec<String> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        // With the link-layer address that packets of the scene are sent to: others are for another station.
        format!("link add uplink index {UPLINK} address {} type veth peer name beyond", format_mac(UPLINK_MACS[0])),
        format!("link add tunnel index {TUNNEL} type vxlan external dstport 4789"),
        format!("link add foreign index {FOREIGN} type veth peer name elsewhere"),
    ];
    for (bridge, _, gateway) in BRIDGES {
        let [a, b, c, d] = gateway;
        lines.push(format!("link add br{bridge} index {bridge} type bridge"));
        lines.push(format!("address add {a}.{b}.{c}.{d}/24 dev br{bridge}"));
        lines.push(format!("link set br{bridge} up"));
    }
    for container in CONTAINERS {
        lines.push(format!("link add veth{container} index {container} type veth peer name inside{container}"));
        lines.push(format!("link set veth{container} up"));
    }
    for device in ["uplink", "beyond", "foreign", "elsewhere", "tunnel"] {
        lines.push(format!("link set {device} up"));
    }
    lines.push("address add 192.0.2.1/24 dev uplink".to_owned());
    lines.push("route add 198.18.0.0/15 dev foreign".to_owned());
    lines.push("route add default via 192.0.2.254 dev uplink".to_owned());
    let of = |v4: [u8; 4]| Ipv6Addr::from(twin(v4));
    for (bridge, _, gateway) in BRIDGES {
        lines.push(format!("address add {}/120 dev br{bridge} nodad", of(gateway)));
    }
    lines.push(format!("address add {}/120 dev uplink nodad", of(HOST)));
    lines.push(format!("-6 route add {}/111 dev foreign", of([198, 18, 0, 0])));
    lines.push(format!("-6 route add default via {} dev uplink", of(ROUTER)));
    lines
}
