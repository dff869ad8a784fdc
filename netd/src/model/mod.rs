//! What the user asked for: networks, endpoints, attachments and publications, and the only functions that change them.
//!
//! Invariant: nothing here performs IO or knows the time; chance and moments are arguments. Things refer to one another
//! by name or id, never by pointer.

mod allowances;
mod attaching;
mod conflicts;
mod connecting;
mod endpoint;
mod gateway;
pub mod mac;
mod mode;
mod mtu;
mod name;
mod netspec;
mod network;
mod networks;
mod options;
mod portspec;
mod published;
mod rejection;
mod renumbering;
mod segment;
mod snat;
mod sources;
mod subnets;
#[cfg(test)]
pub mod tests;
mod unpublishing;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

pub use allowances::{Allowance, Party, Target, allow, allowed, deny, keeps_apart};
pub use attaching::{
    AttachOrder, Joining, Place, attach, detach, follow_way_out, ignored, mesh_places, netns_of, note_given_in_vain,
    places, publish,
};
pub use conflicts::{UsedElsewhere, conflicts, used};
pub use connecting::{connect, disconnect, unused_networks};
pub use endpoint::{Attachment, Endpoint, PortPublication, ProcessMark};
pub use gateway::GatewayMode;
pub use mac::format_mac;
pub use mode::Mode;
pub use mtu::{follow_mtu, outdated_mtus, set_mtu, underlay};
pub use name::Name;
pub use netspec::NetSpec;
pub use network::{Network, Subnet};
pub use networks::{
    NetworkOrder, Surroundings, adopt_network, create_network, ensure_default_network, remove_network, servers,
};
pub use options::Options;
pub use portspec::{PortSpec, Protocol, PublishMode};
pub use published::Published;
pub use rejection::Rejection;
pub use renumbering::{RenumberOrder, renumber};
pub use segment::{Driver, Kept, RemoteAllowance, RemoteEndpoint, RemotePort, Remotes, Segment, VXLAN_PORT, peers};
pub use sources::{lets_in, set_sources, source_list};
pub use unpublishing::unpublish;

use crate::reconcile::{Family, LinkName};

/// Name of the network that is made on first use.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Everything the user asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    /// By name.
    pub networks: BTreeMap<Name, Network>,
    /// By name. A copy of the model shares those that it does not change, and comparing the two is quick.
    pub endpoints: BTreeMap<Name, Arc<Endpoint>>,
}

impl Model {
    /// The network with this name.
    pub fn network(&self, name: &Name) -> Result<&Network, Rejection> {
        self.networks.get(name).ok_or_else(|| Rejection::UnknownNetwork(name.to_string()))
    }

    /// The endpoint with this name.
    pub fn endpoint(&self, name: &Name) -> Result<&Endpoint, Rejection> {
        let endpoint = self.endpoints.get(name).map(Arc::as_ref);
        endpoint.ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))
    }

    /// The endpoint with this name, to be changed: copies of the model keep it as it is.
    pub fn endpoint_mut(&mut self, name: &Name) -> Result<&mut Endpoint, Rejection> {
        let endpoint = self.endpoints.get_mut(name).map(Arc::make_mut);
        endpoint.ok_or_else(|| Rejection::UnknownEndpoint(name.to_string()))
    }

    /// Every place of an endpoint in this network.
    pub fn attachments_of<'a>(&'a self, network: &'a Name) -> impl Iterator<Item = (&'a Endpoint, &'a Attachment)> {
        self.endpoints
            .values()
            .flat_map(|endpoint| endpoint.attachments.iter().map(move |attachment| (&**endpoint, attachment)))
            .filter(move |(_, attachment)| attachment.network == *network)
    }

    /// The attachment by which an endpoint reaches the outside in this family: the first by priority in a network that has the
    /// family and is not internal.
    pub fn way_out<'a>(&'a self, endpoint: &'a Endpoint, family: Family) -> Option<(&'a Network, &'a Attachment)> {
        let joined = endpoint.attachments.iter().filter_map(|one| Some((self.networks.get(&one.network)?, one)));
        joined
            .filter(|(network, attachment)| !network.internal && attachment.address(family).is_some())
            .min_by_key(|(_, attachment)| std::cmp::Reverse(attachment.gw_priority))
    }

    /// Paths of all sandboxes, the host's own aside.
    pub fn sandboxes(&self) -> BTreeSet<PathBuf> {
        let inside = self.endpoints.values().filter(|endpoint| endpoint.mode != Mode::Host);
        inside.map(|endpoint| endpoint.netns.clone()).collect()
    }
}

/// `prefix` and the first eight digits of `id`: twelve bytes, always a link name.
fn numbered(prefix: &str, id: &str, number: u8) -> LinkName {
    let first = link_name(prefix, id);
    LinkName::new(format!("{first}-{number}")).unwrap_or_else(|| unreachable!("at most two digits"))
}

fn link_name(prefix: &str, id: &str) -> LinkName {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    LinkName::new(format!("{prefix}{digits}")).unwrap_or_else(|| unreachable!("twelve clean bytes"))
}
