//! What a network takes of every node that has part in it. A node leaves a network alone that takes what it does not know.

use std::collections::BTreeSet;

use super::{SharedNetwork, View};
use crate::model::{Name, Network};

/// Traffic between nodes is encrypted.
const ENCRYPTED: &str = "encrypted";
/// Containers are kept apart.
const NO_ICC: &str = "no-icc";

/// Published ports are open to those whom it names.
const FROM: &str = "from";

/// Everything that this netd knows.
const KNOWN: [&str; 3] = [ENCRYPTED, FROM, NO_ICC];

/// What a node of this netd says that it knows.
pub fn known_features() -> BTreeSet<String> {
    KNOWN.map(str::to_owned).into()
}

/// What a network takes.
pub fn required(network: &Network) -> BTreeSet<String> {
    let encrypted = network.driver.segment().is_some_and(|segment| segment.encrypted);
    let all = [(ENCRYPTED, encrypted), (FROM, !network.from.is_empty()), (NO_ICC, network.no_icc)];
    all.into_iter().filter(|(_, needed)| *needed).map(|(feature, _)| feature.to_owned()).collect()
}

impl SharedNetwork {
    /// Why this netd leaves it alone, if it does.
    pub fn obstacle(&self) -> Option<String> {
        let unknown: Vec<_> = self.requires.iter().filter(|feature| !KNOWN.contains(&feature.as_str())).collect();
        let [first, others @ ..] = unknown.as_slice() else { return None };
        let all = others.iter().fold(format!("`{first}`"), |all, feature| format!("{all}, `{feature}`"));
        Some(format!("it takes {all}, which this netd ({}) does not know", env!("CARGO_PKG_VERSION")))
    }
}

impl View {
    /// A node that is there and does not know all of `required`, and what it does not know.
    pub fn ignorant(&self, required: &BTreeSet<String>) -> Option<(&Name, String)> {
        self.nodes().find_map(|(name, node)| {
            let unknown = required.iter().find(|feature| !node.understands.contains(*feature))?;
            Some((name, format!("its netd ({}) does not know `{unknown}`", node.version)))
        })
    }

    /// Nodes that are there and take a network for one that it is not, one line each.
    pub fn misread(&self) -> Vec<String> {
        let line = |(network, shared): (&Name, &SharedNetwork)| {
            let (node, why) = self.ignorant(&shared.requires)?;
            Some(format!("node {node} has no part in network {network}, or a wrong one: {why}; update it"))
        };
        self.networks().filter_map(line).collect()
    }
}
