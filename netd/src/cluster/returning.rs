//! What a node that has lost its own lease still knows of the others when it is back.
//!
//! Where the store was away from all nodes for longer than their leases, all are gone from it, and each comes back by itself. To the
//! first, the others' absence says nothing: they have not had the time to come back. What they had is still claimed by them.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Entry, Key, Record, View};
use crate::model::Name;

/// `view`, with the nodes of `last` that it lacks and their endpoints. A node is not kept that was removed (`node rm`), or whose VTEP
/// another has; nor an endpoint that its node tells of anew. Whose an address is, is always as `view` says.
pub fn keeping(view: &View, last: &View) -> View {
    let taken: BTreeSet<IpAddr> = view.nodes().map(|(_, node)| node.vtep).collect();
    let known: BTreeSet<&Name> = view.known_nodes().collect();
    let absent: BTreeSet<&Name> = last
        .nodes()
        .filter(|(name, node)| view.node(name).is_none() && known.contains(name) && !taken.contains(&node.vtep))
        .map(|(name, _)| name)
        .collect();
    let told: BTreeSet<(&Name, &Name)> = view.entries.iter().filter_map(endpoint).collect();
    let is_kept = |(key, entry): &(&Key, &Entry)| match key {
        Key::Node(name) => absent.contains(name),
        Key::Endpoint(node, _) => {
            absent.contains(node) && endpoint((key, entry)).is_some_and(|one| !told.contains(&one))
        }
        _ => false,
    };
    let kept: Vec<_> = last.entries.iter().filter(is_kept).map(|(key, entry)| (key.clone(), entry.clone())).collect();
    let mut keeping = view.clone();
    keeping.entries.extend(kept);
    keeping
}

/// The node and the name of an endpoint.
fn endpoint<'a>((key, entry): (&'a Key, &'a Entry)) -> Option<(&'a Name, &'a Name)> {
    match (key, &entry.record) {
        (Key::Endpoint(node, _), Record::Endpoint(endpoint)) => Some((node, &endpoint.name)),
        _ => None,
    }
}
