//! The maps of networks that span hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use netd_common::{
    tables::{EndpointKey, MeshEnd, PeerKey, Remote, RemoteKey, Segment, Station, StationKey, VtepKey, names},
    tuple::{Address, Mac},
};

use super::{
    syscall::entries,
    tables::{Hash, Wire, removed, taken},
};
use crate::reconcile::{LinkName, SegmentRecord};

/// The maps.
pub struct Overlay {
    segments: HashMap<MapData, u32, Wire<Segment>>,
    remotes: Hash<RemoteKey, Remote>,
    vteps: Hash<VtepKey, u8>,
    mesh: Hash<EndpointKey, MeshEnd>,
    peers: Hash<PeerKey, Address>,
    stations: Hash<StationKey, Station>,
}

/// What they say, by the names of devices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OverlayRecords {
    /// By VNI.
    pub segments: BTreeMap<u32, SegmentRecord>,
    /// Where containers of other hosts are.
    pub remotes: BTreeMap<RemoteKey, Remote>,
    /// Hosts that may send.
    pub vteps: BTreeSet<VtepKey>,
    /// Other hosts' ends of what is published on every host.
    pub mesh: BTreeMap<EndpointKey, MeshEnd>,
    /// Hosts that are flooded to.
    pub peers: BTreeMap<PeerKey, Address>,
}

impl Overlay {
    /// Takes the maps over from a loaded object.
    pub fn take(object: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            segments: taken(object, names::SEGMENTS)?,
            remotes: taken(object, names::REMOTES)?,
            vteps: taken(object, names::VTEPS)?,
            mesh: taken(object, names::MESH)?,
            peers: taken(object, names::PEERS)?,
            stations: taken(object, names::STATIONS)?,
        })
    }

    /// Writes a segment; `tunnel` and `bridge` are the indexes of its devices.
    pub fn put_segment(&mut self, vni: u32, tunnel: u32, bridge: u32, record: &SegmentRecord) -> Result<()> {
        let segment = Segment {
            tunnel,
            bridge,
            underlay_mtu: record.underlay_mtu,
            peers: record.peers,
            flags: record.flags,
            port: record.port,
            zone: record.zone,
            gateway_mac: record.gateway_mac,
            gateway_ipv4: record.gateway_ipv4,
            gateway_ipv6: record.gateway_ipv6,
        };
        self.segments.insert(vni, Wire(segment), 0).context("cannot write a segment")
    }

    /// Takes out a segment, if it is there.
    pub fn remove_segment(&mut self, vni: u32) -> Result<()> {
        removed(self.segments.remove(&vni))
    }

    /// Writes where a container of another host is.
    pub fn put_remote(&mut self, key: RemoteKey, remote: Remote) -> Result<()> {
        self.remotes.insert(Wire(key), Wire(remote), 0).context("cannot write a remote container")
    }

    /// Takes out a container of another host, if it is there.
    pub fn remove_remote(&mut self, key: RemoteKey) -> Result<()> {
        removed(self.remotes.remove(&Wire(key)))
    }

    /// Writes that a host may send into a segment.
    pub fn put_vtep(&mut self, key: VtepKey) -> Result<()> {
        self.vteps.insert(Wire(key), Wire(1), 0).context("cannot write a VTEP")
    }

    /// Takes that back.
    pub fn remove_vtep(&mut self, key: VtepKey) -> Result<()> {
        removed(self.vteps.remove(&Wire(key)))
    }

    /// Writes another host's end of what is published on every host.
    pub fn put_mesh_end(&mut self, key: EndpointKey, end: MeshEnd) -> Result<()> {
        self.mesh.insert(Wire(key), Wire(end), 0).context("cannot write an end of the mesh")
    }

    /// Takes that back.
    pub fn remove_mesh_end(&mut self, key: EndpointKey) -> Result<()> {
        removed(self.mesh.remove(&Wire(key)))
    }

    /// Writes a host that a segment floods to.
    pub fn put_peer(&mut self, key: PeerKey, address: Address) -> Result<()> {
        self.peers.insert(Wire(key), Wire(address), 0).context("cannot write a peer")
    }

    /// Takes that back.
    pub fn remove_peer(&mut self, key: PeerKey) -> Result<()> {
        removed(self.peers.remove(&Wire(key)))
    }

    /// Of which peer the programs have heard a station last, by segment and link-layer address.
    pub fn stations(&self) -> Result<BTreeMap<(u32, Mac), IpAddr>> {
        let stations = entries(&self.stations).context("cannot read the stations")?;
        Ok(stations.into_iter().map(|(Wire(key), Wire(station))| ((key.vni, key.mac), station.vtep.ip())).collect())
    }

    /// Everything that the daemon writes, read back.
    pub fn records(&self, name: impl Fn(u32) -> LinkName) -> Result<OverlayRecords> {
        let mut records = OverlayRecords::default();
        for (vni, Wire(segment)) in entries(&self.segments).context("cannot read the segments")? {
            let record = SegmentRecord {
                tunnel: name(segment.tunnel),
                bridge: name(segment.bridge),
                underlay_mtu: segment.underlay_mtu,
                peers: segment.peers,
                flags: segment.flags,
                port: segment.port,
                zone: segment.zone,
                gateway_mac: segment.gateway_mac,
                gateway_ipv4: segment.gateway_ipv4,
                gateway_ipv6: segment.gateway_ipv6,
            };
            records.segments.insert(vni, record);
        }
        let remotes = entries(&self.remotes).context("cannot read the remote containers")?;
        records.remotes = remotes.into_iter().map(|(Wire(key), Wire(remote))| (key, remote)).collect();
        let vteps = entries(&self.vteps).context("cannot read the VTEPs")?;
        records.vteps = vteps.into_iter().map(|(Wire(key), _)| key).collect();
        let mesh = entries(&self.mesh).context("cannot read the ends of the mesh")?;
        records.mesh = mesh.into_iter().map(|(Wire(key), Wire(end))| (key, end)).collect();
        let peers = entries(&self.peers).context("cannot read the peers")?;
        records.peers = peers.into_iter().map(|(Wire(key), Wire(address))| (key, address)).collect();
        Ok(records)
    }
}
