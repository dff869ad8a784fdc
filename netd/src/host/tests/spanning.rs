//! What networks that span hosts have on one: a VXLAN device, and their tables.

use std::collections::BTreeSet;

use netd_common::{
    tables::{EndpointKey, Hook, MeshEnd, PeerKey, Remote, RemoteKey, VtepKey},
    tuple::{Address, Mac, Zone},
};

use crate::{
    host::fixtures::*,
    reconcile::{Kernel, SegmentRecord, Step, Tunnel},
    testing::{link, on_a_host_of_its_own, sandbox},
};

#[test]
fn what_spans_hosts_is_found_as_it_was_made_and_mended_where_it_is_not() {
    on_a_host_of_its_own(async |directory| {
        let mut host = open(&directory, false).await;
        let (bridge, _) = network(sandbox());
        let tunnel = Tunnel { port: 4789, offload: true, intact: true };
        let peer = Address::v4([192, 0, 2, 2]);
        let (vtep, flooded) = (VtepKey { address: peer, vni: 7 }, PeerKey { vni: 7, index: 0 });
        let (key, remote) = (RemoteKey { address: address(9), vni: 7 }, Remote { vtep: peer, ..Remote::default() });
        let end = (
            EndpointKey { address: address(9), zone: Zone(5), pad: 0 },
            MeshEnd { vtep: peer, vni: 7, mac: Mac([2; 6]), pad: 0 },
        );
        let segment = SegmentRecord {
            tunnel: link("ndx-4789"),
            bridge: link("nd1"),
            underlay_mtu: 1500,
            peers: 1,
            flags: 1,
            port: 4789,
            zone: Zone(5),
            gateway_mac: Mac([2; 6]),
            gateway_ipv4: [10, 176, 0, 1],
            gateway_ipv6: [0; 16],
        };
        host.apply(&Step::CreateBridge(link("nd1"), bridge)).await.unwrap();
        for step in [
            Step::PutTunnel(link("ndx-4789"), tunnel.clone()),
            Step::Attach(link("ndx-4789"), Hook::FromOverlay),
            Step::PutVtep(vtep),
            Step::PutMeshEnd(end.0, end.1),
            Step::PutPeer(flooded, peer),
            Step::PutRemote(key, remote),
            Step::PutSegment(7, segment.clone()),
        ] {
            host.apply(&step).await.unwrap();
            host.apply(&step).await.unwrap();
        }

        let state = host.observe().await.unwrap();
        assert_eq!(state.tunnels, [(link("ndx-4789"), tunnel.clone())].into());
        assert_eq!(state.segments, [(7, segment)].into());
        assert_eq!(
            (state.remotes, state.vteps, state.mesh, state.peers),
            ([(key, remote)].into(), [vtep].into(), [end].into(), [(flooded, peer)].into())
        );
        assert!(state.hooks.contains(&(link("ndx-4789"), Hook::FromOverlay)));
        assert!(host.facts(&BTreeSet::new()).await.unwrap().vxlan_devices.is_empty(), "it is ours");

        let index = || links().into_iter().find(|(name, _)| name == "ndx-4789").expect("it is there").1;
        let before = index();
        let learning = vec!["set", "ndx-4789", "type", "vxlan", "learning"];
        for spoiled in [vec!["set", "ndx-4789", "down"], vec!["set", "ndx-4789", "mtu", "1400"], learning] {
            ip(&[&["link"], &spoiled[..]].concat());
            assert!(!host.observe().await.unwrap().tunnels[&link("ndx-4789")].intact, "{spoiled:?}");
            host.apply(&Step::PutTunnel(link("ndx-4789"), tunnel.clone())).await.unwrap();
            assert!(host.observe().await.unwrap().tunnels[&link("ndx-4789")].intact, "{spoiled:?}");
            assert_eq!(index(), before, "{spoiled:?}: mended where it is");
        }
        for step in [
            Step::RemoveSegment(7),
            Step::RemoveRemote(key),
            Step::RemoveVtep(vtep),
            Step::RemoveMeshEnd(end.0),
            Step::RemovePeer(flooded),
            Step::DeleteTunnel(link("ndx-4789")),
        ] {
            host.apply(&step).await.unwrap();
            host.apply(&step).await.unwrap();
        }
        let state = host.observe().await.unwrap();
        assert!(state.tunnels.is_empty() && state.segments.is_empty() && state.hooks.is_empty());
        assert!(state.mesh.is_empty());
    });
}

#[test]
fn a_vxlan_device_of_anothers_on_the_port_is_named_and_ours_leaves_nothing() {
    on_a_host_of_its_own(async |directory| {
        let mut host = open(&directory, false).await;
        ip(&["link", "add", "vxlan0", "type", "vxlan", "id", "42", "dstport", "4789"]);
        ip(&["link", "set", "vxlan0", "up"]);

        let facts = host.facts(&BTreeSet::new()).await.unwrap();
        assert_eq!(facts.vxlan_devices, [(4789, link("vxlan0"))].into());
        let step = Step::PutTunnel(link("ndx-4789"), Tunnel { port: 4789, offload: true, intact: true });
        let refused = format!("{:#}", host.apply(&step).await.unwrap_err());

        assert!(refused.contains("UDP port 4789 is not to be had"), "{refused}");
        assert!(links().iter().all(|(name, _)| !name.starts_with("ndx")));
    });
}
