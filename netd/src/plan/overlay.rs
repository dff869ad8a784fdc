//! What should exist of a network that spans hosts: the VXLAN device of its port, and who is where.

use netd_common::{
    tables::{AllowanceKey, Hook, PeerKey, Remote, RemoteKey, VtepKey, segment_flags},
    tuple::{Address, Port},
};

use super::{EndpointKey, ipv4, ipv6};
use crate::{
    model::{self, Driver, Network, RemoteAllowance, RemoteEndpoint, Remotes, Segment},
    reconcile::{Family, HostFacts, SegmentRecord, State, Tunnel},
};

/// What every host has of a network that spans hosts.
pub fn add_segment(state: &mut State, network: &Network, facts: &HostFacts, offload: bool) {
    let Some(segment) = network.driver.segment().filter(|segment| segment.vni > 0) else { return };
    if segment.encrypted && !state.ipsec.guards(segment.port) {
        // Nothing would keep its packets from leaving in clear.
        return;
    }
    let tunnel = segment.tunnel();
    state.tunnels.insert(tunnel.clone(), Tunnel { port: segment.port, offload, intact: true });
    state.hooks.insert((tunnel, Hook::FromOverlay));
    state.segments.insert(segment.vni, record(network, segment, facts));
    state.vteps.insert(VtepKey::with_port(Port::new(segment.port)));
    for (index, peer) in (0..).zip(&segment.peers) {
        let address = Address::from(*peer);
        state.peers.insert(PeerKey { vni: segment.vni, index }, address);
        state.vteps.insert(VtepKey { address, vni: segment.vni });
    }
}

fn record(network: &Network, segment: &Segment, facts: &HostFacts) -> SegmentRecord {
    let gateway = |family| network.subnet(family).map(|subnet| subnet.gateway);
    SegmentRecord {
        tunnel: segment.tunnel(),
        bridge: network.bridge(),
        underlay_mtu: model::underlay(&network.driver, facts)
            .unwrap_or_else(|| network.mtu + network.driver.overhead()),
        peers: segment.peers.len() as u32,
        flags: flags(network, segment),
        port: segment.port,
        zone: network.zone(),
        gateway_mac: network.mac,
        gateway_ipv4: ipv4(gateway(Family::V4)),
        gateway_ipv6: ipv6(gateway(Family::V6)),
    }
}

fn flags(network: &Network, segment: &Segment) -> u16 {
    let learns = if matches!(network.driver, Driver::Vxlan(_)) { segment_flags::LEARNS } else { 0 };
    let apart = if network.no_icc { segment_flags::NO_ICC } else { 0 };
    learns | apart | if segment.encrypted { segment_flags::ENCRYPTED } else { 0 }
}

/// To whom there are keys.
pub fn add_keys(state: &mut State) {
    let keys: Vec<_> = state.ipsec.peers().map(|peer| VtepKey::with_keys(peer.into())).collect();
    state.vteps.extend(keys);
}

/// Where the containers of an overlay network are that other hosts have. An address that a container here has is not
/// another's, whatever is still said elsewhere.
pub fn add_remotes(state: &mut State, network: &Network, remotes: &Remotes) {
    let Driver::Overlay(segment) = &network.driver else { return };
    let vni = segment.vni;
    if !state.segments.contains_key(&vni) {
        return;
    }
    let vteps = remotes.vteps.iter().map(|vtep| VtepKey { address: Address::from(*vtep), vni });
    state.vteps.extend(vteps);
    for ((_, address), endpoint) in remotes.endpoints.iter().filter(|((of, _), _)| *of == vni) {
        let address = Address::from(*address);
        if state.endpoints.contains_key(&EndpointKey { address, zone: network.zone(), pad: 0 }) {
            continue;
        }
        state.remotes.insert(RemoteKey { address, vni }, remote(endpoint));
    }
    if network.no_icc {
        let allowed = remotes.allowances.iter().filter(|allowance| allowance.vni == vni);
        state.allowances.extend(allowed.map(|allowance| allowance_key(network, allowance)));
    }
}

fn allowance_key(network: &Network, allowance: &RemoteAllowance) -> AllowanceKey {
    let (src, dst) = (allowance.src.into(), allowance.dst.into());
    match allowance.port {
        Some((port, protocol)) => AllowanceKey::of_port(network.zone(), src, dst, protocol.number(), Port::new(port)),
        None => AllowanceKey::of_everything(network.zone(), src, dst),
    }
}

fn remote(endpoint: &RemoteEndpoint) -> Remote {
    let RemoteEndpoint { mac, vtep, incarnation } = *endpoint;
    Remote { vtep: vtep.into(), incarnation, mac, pad: 0 }
}

#[cfg(test)]
mod tests;
