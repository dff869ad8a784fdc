//! What is told of the cluster, in the shapes that the JSON has.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Cluster, Daemon, Failure};
use crate::{
    cluster::{Announcement, View, announcements, known},
    daemon::moment::{now, rfc3339},
    model::{Name, Rejection},
    reconcile::Kernel,
};

/// How the host stands with the others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterView {
    /// Its name there.
    pub node: String,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// UDP port of its tunnels.
    pub vxlan_port: u16,
    /// Members of etcd.
    pub etcd: Vec<String>,
    /// Whether etcd can be used just now.
    pub joined: bool,
    /// If not, why, and for how many seconds.
    pub away: Option<(String, u64)>,
    /// Seconds since etcd last said something.
    pub heard: Option<u64>,
    /// The revision of etcd that the host is made by.
    pub revision: i64,
    /// The node's, since its last start or return.
    pub incarnation: i64,
    /// Records that a full read found and no event had told of, since the start.
    pub missed: u64,
    /// How many nodes are there.
    pub nodes: usize,
    /// How many containers of others this host knows the way to.
    pub remotes: usize,
    /// Of encrypted networks; `None` where there is none.
    #[serde(default)]
    pub encryption: Option<EncryptionView>,
}

/// How encryption stands on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EncryptionView {
    /// UDP port of encrypted networks.
    pub port: u16,
    /// Why this host has no part in it.
    pub obstacle: Option<String>,
    /// The newest generation of the secret that keys are made of; 0 before the first.
    pub generation: u64,
    /// Seconds since it was made.
    pub age: u64,
    /// The oldest one by which this host still encrypts.
    pub oldest: u64,
    /// Security associations that this host has.
    pub associations: usize,
    /// Nodes to which this host can send nothing yet, for want of keys that both have.
    pub waiting: Vec<String>,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// `ready`, `drained` or `down`.
    pub state: String,
    /// Whether it is this host.
    pub this: bool,
    /// Where its tunnels end; `None` of one that is down.
    pub vtep: Option<IpAddr>,
    /// UDP port of its tunnels.
    pub vxlan_port: Option<u16>,
    /// The node's, since its last start or return.
    pub incarnation: Option<i64>,
    /// Of its netd.
    pub version: Option<String>,
    /// Names of its endpoints.
    pub endpoints: Vec<String>,
    /// Addresses of networks of several hosts that are its endpoints'.
    pub addresses: Vec<IpAddr>,
    /// What else it uses, and how, as it said last: an overlay's subnet keeps away from that.
    #[serde(default)]
    pub uses: BTreeMap<IpNet, String>,
    /// How many ranges more, for which there was no room.
    #[serde(default)]
    pub more_uses: usize,
}

/// An endpoint of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeighbourView {
    /// The node.
    pub node: String,
    /// Its name there.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its addresses.
    pub networks: Vec<AddressesView>,
    /// Its published ports.
    pub ports: Vec<String>,
    /// RFC 3339.
    pub created: String,
}

/// Addresses in a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AddressesView {
    /// The network.
    pub network: String,
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl Cluster {
    /// How the host stands with the others.
    pub fn told(&self) -> ClusterView {
        let (news, settings) = (self.membership.news(), self.membership.settings());
        let view = self.view.as_deref();
        ClusterView {
            node: settings.node.to_string(),
            vtep: settings.vtep,
            vxlan_port: settings.vxlan_port,
            etcd: settings.etcd.members.iter().map(ToString::to_string).collect(),
            joined: news.view.is_some() && news.away.is_none(),
            away: news.away.map(|(since, why)| (why, since.elapsed().as_secs())),
            heard: news.heard.map(|heard| heard.elapsed().as_secs()),
            revision: view.map_or(0, |view| view.revision),
            incarnation: news.incarnation,
            missed: news.missed,
            nodes: view.map_or(0, |view| view.nodes().count()),
            remotes: view.map_or(0, |view| known(view, &settings.node).0.endpoints.len()),
            encryption: view.filter(|view| view.is_any_encrypted()).map(|view| self.encryption_told(view)),
        }
    }

    fn encryption_told(&self, view: &View) -> EncryptionView {
        let (port, encrypting) = (self.membership.settings().encrypted_port, &self.encrypting);
        let newest = view.secrets().last();
        EncryptionView {
            port,
            obstacle: encrypting.obstacle.clone(),
            generation: newest.map_or(0, |(generation, ..)| generation),
            age: newest.map_or(0, |(_, secret, _)| now().saturating_sub(secret.created)),
            oldest: encrypting.wanted.installed.oldest,
            associations: encrypting.wanted.ipsec.associations.len(),
            waiting: encrypting.wanted.waiting.iter().map(ToString::to_string).collect(),
        }
    }
}

impl<K: Kernel> Daemon<K> {
    /// A refusal that says why a network of all nodes is not here.
    pub(in crate::daemon) fn explained(&self, failure: Failure) -> Failure {
        let Failure::Refused(Rejection::UnknownNetwork(unknown)) = &failure else { return failure };
        let view = self.cluster.as_ref().and_then(Cluster::seen);
        let all = view.into_iter().flat_map(View::networks);
        match all
            .filter(|(name, _)| name.as_str() == unknown)
            .find_map(|(name, network)| Some((name, network.obstacle()?)))
        {
            Some((name, why)) => Rejection::NotTakenPartIn { name: name.clone(), why }.into(),
            None => failure,
        }
    }

    /// Every node that was ever there and not removed.
    pub(in crate::daemon) fn nodes(&self) -> Result<Vec<NodeView>, Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        let Some(view) = cluster.view.as_deref() else { return Ok(Vec::new()) };
        let me = &cluster.membership.settings().node;
        Ok(view.known_nodes().map(|name| node_view(view, me, name)).collect())
    }

    /// The node of this name.
    pub(in crate::daemon) fn node(&self, name: &Name) -> Result<NodeView, Failure> {
        let found = self.nodes()?.into_iter().find(|node| node.name == name.as_str());
        found.ok_or_else(|| Rejection::UnknownNode(name.clone()).into())
    }

    /// Every endpoint of every node, this host's as it has them.
    pub(in crate::daemon) fn neighbours(&self) -> Result<Vec<NeighbourView>, Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        let me = &cluster.membership.settings().node;
        let ours = announcements(&self.model);
        let ours = ours.iter().map(|(id, endpoint)| (me, id.as_str(), endpoint));
        let view = cluster.view.as_deref();
        let others = view.into_iter().flat_map(View::endpoints).filter(|(node, ..)| *node != me);
        let mut all: Vec<_> =
            ours.chain(others).map(|(node, id, endpoint)| neighbour_view(node, id, endpoint)).collect();
        all.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
        Ok(all)
    }
}

fn node_view(view: &View, me: &Name, name: &Name) -> NodeView {
    let (node, uses) = (view.node(name), view.uses_of(name).cloned().unwrap_or_default());
    let state = match node {
        None => "down",
        Some(_) if view.is_drained(name) => "drained",
        Some(_) => "ready",
    };
    NodeView {
        name: name.to_string(),
        state: state.to_owned(),
        this: name == me,
        vtep: node.map(|node| node.vtep),
        vxlan_port: node.map(|node| node.vxlan_port),
        incarnation: node.map(|node| node.incarnation),
        version: node.map(|node| node.version.clone()),
        endpoints: view.endpoints().filter(|(node, ..)| *node == name).map(|(_, _, e)| e.name.to_string()).collect(),
        addresses: view.claims().filter(|(_, claim)| claim.node == *name).map(|((_, address), _)| address).collect(),
        uses: uses.ranges,
        more_uses: uses.more,
    }
}

fn neighbour_view(node: &Name, id: &str, endpoint: &Announcement) -> NeighbourView {
    let networks = endpoint.networks.iter();
    let networks = networks
        .map(|(network, addresses)| AddressesView { network: network.to_string(), addresses: addresses.clone() });
    NeighbourView {
        node: node.to_string(),
        name: endpoint.name.to_string(),
        id: id.to_owned(),
        networks: networks.collect(),
        ports: endpoint.ports.clone(),
        created: rfc3339(endpoint.created),
    }
}
