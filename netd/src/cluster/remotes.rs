//! Where the endpoints of other nodes are: the desired forwarding map, computed from a view as a whole.

use std::{collections::BTreeMap, net::IpAddr};

use netd_common::tuple::Mac;

use super::{Announcement, Key, Place, Record, View};
use crate::model::Name;

/// An endpoint of another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Its node.
    pub node: Name,
    /// Its network's name.
    pub network: Name,
    /// Its link-layer address there.
    pub mac: Mac,
    /// Where the tunnel to its node ends.
    pub vtep: IpAddr,
    /// Its node's.
    pub incarnation: i64,
}

/// Endpoints of other nodes by their network's number in tunnels, and their address there.
pub type Remotes = BTreeMap<(u32, IpAddr), Remote>;

/// Every endpoint that is not `me`'s.
pub fn remotes(view: &View, me: &Name) -> Remotes {
    let mut remotes = Remotes::new();
    for (node, _, endpoint) in view.endpoints().filter(|(node, ..)| *node != me) {
        let Some(vtep) = view.node(node).map(|node| node.vtep) else { continue };
        for (place, addresses) in held(view, node, endpoint) {
            let Some(network) = view.network(&place.network) else { continue };
            for address in addresses {
                let remote = Remote {
                    node: node.clone(),
                    network: place.network.clone(),
                    mac: place.mac,
                    vtep,
                    incarnation: endpoint.incarnation,
                };
                remotes.insert((network.vni, address), remote);
            }
        }
    }
    remotes
}

/// A place of an endpoint in a network that is there, with those of its addresses that are its own.
type Held<'a> = Vec<(&'a Place, Vec<IpAddr>)>;

/// Every endpoint that is not `me`'s as its names lead to it: its id, what it says, its places.
pub fn announced<'a>(view: &'a View, me: &'a Name) -> impl Iterator<Item = (&'a str, &'a Announcement, Held<'a>)> {
    let others = view.endpoints().filter(move |(node, ..)| *node != me);
    others.map(move |(node, id, endpoint)| (id, endpoint, held(view, node, endpoint)))
}

/// The places of an endpoint in networks that are there, with those of its addresses that the node has claimed for it.
fn held<'a>(view: &View, node: &Name, endpoint: &'a Announcement) -> Held<'a> {
    let there = |place: &&Place| view.network(&place.network).is_some_and(|network| network.id == place.network_id);
    let held = |place: &Place, address: &IpAddr| match view.record(&Key::Claim(place.network_id.clone(), *address)) {
        Some(Record::Claim(claim)) => claim.node == *node && claim.endpoint == endpoint.name,
        _ => false,
    };
    let places = endpoint.places.iter().filter(there);
    places.map(|place| (place, place.addresses.iter().copied().filter(|a| held(place, a)).collect())).collect()
}
