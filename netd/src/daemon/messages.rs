//! What can be asked of the daemon, and what it replies.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::{EndpointView, FlowFilter, FlowView, NeighbourView, NetworkView, NodeView, StatusView};
use crate::{
    cluster::Verified,
    doctor::Finding,
    exposure::Exposure,
    model::{NetworkOrder, ProcessMark, PublishMode, RenumberOrder},
};

/// What is asked. Names and specifications are as the user wrote them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Make a network.
    CreateNetwork(NetworkOrder),
    /// Every network.
    Networks,
    /// The network of this name.
    Network(String),
    /// Change a network.
    SetNetwork(String, NetworkChange),
    /// Give a network other addresses.
    RenumberNetwork(String, RenumberOrder),
    /// Take a network away.
    RemoveNetwork(String),
    /// Take every network away that nobody is in and that has these labels.
    PruneNetworks(Vec<String>),
    /// Attach an endpoint.
    Attach(EndpointOrder),
    /// Every endpoint.
    Endpoints,
    /// The endpoint of this name.
    Endpoint(String),
    /// Have an endpoint join one more network.
    Connect(String, ConnectOrder),
    /// Have an endpoint leave a network.
    Disconnect(String, DisconnectOrder),
    /// Detach an endpoint.
    Detach(String),
    /// Publish ports of an endpoint.
    Publish(String, PortsOrder),
    /// Take publications of an endpoint back.
    Unpublish(String, PortsOrder),
    /// Let an endpoint open something to another that a network keeps apart from it.
    Allow(String, AllowanceOrder),
    /// Take that back.
    Deny(String, AllowanceOrder),
    /// Flows.
    Flows(FlowFilter),
    /// End flows.
    EndFlows(FlowFilter),
    /// How the daemon is.
    Status,
    /// What is not as it should be, on the host too.
    Doctor,
    /// Who can reach what.
    Exposure,
    /// The nodes of the cluster.
    Nodes,
    /// The node of this name.
    Node(String),
    /// Let a node take no more endpoints, or again some.
    DrainNode(String, NodeChange),
    /// Forget a node that is not there.
    RemoveNode(String),
    /// Every endpoint of every node.
    Neighbours,
    /// Whether every node forwards what it should.
    Verify,
    /// Change the keys of encrypted networks.
    Rekey,
}

/// What of a node can change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeChange {
    /// Whether it takes no more endpoints of networks of several hosts.
    pub drained: bool,
}

/// A wish for an endpoint, as it comes in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointOrder {
    /// Its name.
    pub name: String,
    /// Path of its network namespace; that of `pid` where it is not given.
    pub netns: Option<PathBuf>,
    /// The process it stands for.
    pub pid: Option<u32>,
    /// Whether netd's command line made the namespace, and takes it away with the endpoint.
    pub netns_made: bool,
    /// What runs in it.
    pub command: Vec<String>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// As [`NetSpec`](crate::model::NetSpec) reads them; the default network where there is none.
    pub networks: Vec<String>,
    /// As [`PortSpec`](crate::model::PortSpec) reads them.
    pub ports: Vec<String>,
    /// On which hosts these are published.
    pub publish_mode: PublishMode,
    /// DNS servers for what is no name of its networks.
    pub dns: Vec<String>,
}

/// What of a network is to change; what is not given stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkChange {
    /// In bytes; `null` for what the host's routes have, from then on.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub mtu: Option<Option<u32>>,
    /// Who may come to ports that say nothing of it; none for whom the configuration lets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<String>>,
}

/// That a field is there, `null` or not.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// A network to join.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectOrder {
    /// As [`NetSpec`](crate::model::NetSpec) reads it.
    pub network: String,
}

/// A network to leave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisconnectOrder {
    /// Its name.
    pub network: String,
}

/// Ports to publish or to take back.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortsOrder {
    /// As [`PortSpec`](crate::model::PortSpec) reads them.
    pub ports: Vec<String>,
    /// On which hosts they are published.
    #[serde(default)]
    pub publish_mode: PublishMode,
}

/// What an endpoint may open, or may no more.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowanceOrder {
    /// As [`Target`](crate::model::Target) reads it.
    pub to: String,
}

/// What is replied.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// One network.
    Network(NetworkView),
    /// Networks.
    Networks(Vec<NetworkView>),
    /// One endpoint.
    Endpoint(EndpointView),
    /// Endpoints.
    Endpoints(Vec<EndpointView>),
    /// Flows.
    Flows(Vec<FlowView>),
    /// How the daemon is.
    Status(Box<StatusView>),
    /// What the doctor found.
    Findings(Vec<Finding>),
    /// One node.
    Node(NodeView),
    /// Nodes.
    Nodes(Vec<NodeView>),
    /// Endpoints of all nodes.
    Neighbours(Vec<NeighbourView>),
    /// What comes of asking every node.
    Verified(Verified),
    /// What is exposed.
    Exposure(Vec<Exposure>),
    /// It is done.
    Done {},
}

/// The mark of a process that an order names.
pub fn process_of(order: &EndpointOrder) -> Option<ProcessMark> {
    order.pid.and_then(super::mark_of)
}
