//! Whether every node forwards what the store says: the differences, in words.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{Answer, KeptNodes, MeshAnswer, Missing, Remotes, View, Way, ends, remotes, segments::of_segments};
use crate::model::{Name, RemoteAllowance, format_mac};

/// Desired or found entries, as an [`Answer`] has them.
pub fn forwarding(remotes: &Remotes) -> Vec<Way> {
    let way = |((vni, address), remote): (&(u32, IpAddr), &super::Remote)| Way {
        vni: *vni,
        address: *address,
        mac: remote.mac,
        vtep: remote.vtep,
    };
    remotes.iter().map(way).collect()
}

/// What comes of asking all nodes, one line each.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verified {
    /// What is not as the store says.
    pub differences: Vec<String>,
    /// Whom nodes keep that have not come back yet.
    pub kept: Vec<String>,
}

/// What the answers say of the nodes that are there, and what the store lacks of `me`.
pub fn verified(view: &View, me: &Name, lacks: &Missing, answers: &BTreeMap<Name, Answer>) -> Verified {
    let mut answers = answers.clone();
    let mut kept = Vec::new();
    for (node, answer) in &mut answers {
        let Some(mut keeps) = answer.kept.take() else { continue };
        // Of one that came back meanwhile it is as of any other.
        keeps.nodes.retain(|name, _| view.node(name).is_none());
        pass_over(view, node, answer, &keeps);
        let KeptNodes { nodes, seconds } = keeps;
        let line = |(other, vtep): (&Name, &IpAddr)| {
            format!(
                "node {node} keeps what it knows of node {other} ({vtep}), which has not come back yet, for {seconds} s more"
            )
        };
        kept.extend(nodes.iter().map(line));
    }
    Verified { differences: differences(view, me, lacks, &answers), kept }
}

/// Leaves out of an answer what a node has of those that it keeps.
fn pass_over(view: &View, node: &Name, answer: &mut Answer, keeps: &KeptNodes) {
    let absent: BTreeSet<&IpAddr> = keeps.nodes.values().collect();
    let desired = remotes(view, node);
    let is_kept = |way: &Way| absent.contains(&way.vtep) && !desired.contains_key(&(way.vni, way.address));
    answer.ways.retain(|way| !is_kept(way));
    if let Some(mesh) = &mut answer.mesh {
        mesh.ways.retain(|way| !is_kept(way));
        mesh.hosts.retain(|vtep| !absent.contains(vtep));
    }
    if let Some(segments) = &mut answer.segments {
        segments.vteps.retain(|(_, vtep)| !absent.contains(vtep));
    }
}

/// What is not as the store says, one line each: of the nodes that are there, what each forwards (`answers`), and of `me` what
/// the store lacks.
fn differences(view: &View, me: &Name, lacks: &Missing, answers: &BTreeMap<Name, Answer>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    if !lacks.txns.is_empty() {
        lines
            .push(format!("node {me}: {} records of its own are not in the store as they should be", lacks.txns.len()));
    }
    lines.extend(lacks.conflicts.iter().map(|conflict| format!("node {me}: {conflict}")));
    lines.extend(view.not_understood().iter().map(|line| format!("store: {line}")));
    for (node, _) in view.nodes() {
        match answers.get(node) {
            Some(answer) => lines.extend(of_answer(view, node, answer)),
            None => lines.push(format!("node {node} does not answer")),
        }
    }
    lines.extend(of_keys(view));
    lines
}

/// What a node has otherwise than the store says. Of a network that it could not take over that is said alone, in its own words: all
/// that it lacks of it follows from that.
fn of_answer(store: &View, node: &Name, answer: &Answer) -> Vec<String> {
    let absent = answer.absent.iter().filter(|(name, _)| store.network(name).is_some());
    let mut lines: Vec<String> = absent.map(|(_, why)| format!("node {node} says: {why}")).collect();
    let view = match answer.absent.is_empty() {
        true => Cow::Borrowed(store),
        false => Cow::Owned(store.without(answer.absent.keys())),
    };
    lines.extend(of_node(&view, node, &answer.ways));
    lines.extend(match &answer.allowances {
        Some(found) => of_allowances(&view, node, found),
        None => unsaid(&view, node, "what its containers may open", !view.allowances_of(node).is_empty()),
    });
    lines.extend(match &answer.mesh {
        Some(found) => of_mesh(&view, store, node, found),
        None => unsaid(&view, node, "what it publishes for others", !ends(&view, node).0.is_empty()),
    });
    lines.extend(match &answer.segments {
        Some(found) => of_segments(&view, node, found),
        None => unsaid(&view, node, "whom it lets in", view.networks().next().is_some()),
    });
    lines
}

/// What stands in the way of encrypted networks.
fn of_keys(view: &View) -> Vec<String> {
    if !view.is_any_encrypted() {
        return Vec::new();
    }
    let has_session = |name: &Name| view.sessions().any(|(node, ..)| node == name);
    let without = view.nodes().map(|(name, _)| name).filter(|name| !has_session(name));
    let mut lines: Vec<String> =
        without.map(|node| format!("node {node} has no part in encrypted networks: see its `netd status`")).collect();
    lines.extend(view.unsettled().map(|node| format!("node {node} has not taken the newest keys into use yet")));
    lines.extend(view.unread().map(|(node, peer)| format!("node {node} cannot read yet what node {peer} encrypts")));
    lines
}

/// What a node of an older netd does not say of itself, where there is something to say.
fn unsaid(view: &View, node: &Name, what: &str, matters: bool) -> Vec<String> {
    let version = view.node(node).map_or("", |node| &node.version);
    let line = || format!("node {node}: its netd ({version}) does not say {what}: update it");
    matters.then(line).into_iter().collect()
}

/// What a node forwards otherwise than the store says.
fn of_node(view: &View, node: &Name, found: &[Way]) -> Vec<String> {
    compared(view, node, &forwarding(&remotes(view, node)), found, "the way")
}

/// What a node has of ports that every node publishes otherwise than the view says. Hosts that are nodes of the store it may have for a
/// network that is in the store no more.
fn of_mesh(view: &View, store: &View, node: &Name, found: &MeshAnswer) -> Vec<String> {
    let (mut ways, hosts) = ends(view, node);
    let nodes = ends(store, node).1;
    ways.retain(|way| !found.hidden.contains(&(way.vni, way.address)));
    let mut lines = compared(view, node, &ways, &found.ways, "the way of published ports");
    lines.extend(
        hosts.difference(&found.hosts).map(|vtep| format!("node {node}: lacks the way back to clients of {vtep}")),
    );
    let strange = found.hosts.difference(&nodes);
    lines.extend(strange.map(|vtep| format!("node {node}: has a way back to clients of {vtep}, which is no node")));
    lines
}

/// What a node lets containers open to one another otherwise than the store says.
fn of_allowances(view: &View, node: &Name, found: &BTreeSet<RemoteAllowance>) -> Vec<String> {
    let desired = view.allowances_of(node);
    let said = |allowance: &RemoteAllowance| {
        let RemoteAllowance { vni, src, dst, port } = allowance;
        let what = port.map_or_else(|| "everything".to_owned(), |(port, protocol)| format!("{port}/{protocol}"));
        format!("what {src} may open to {dst} of {} ({what})", network_of(view, *vni))
    };
    let lacks = desired.difference(found).map(|one| format!("node {node}: lacks {}", said(one)));
    let has = found.difference(&desired).map(|one| format!("node {node}: has {}, which nobody has allowed", said(one)));
    lacks.chain(has).collect()
}

fn compared(view: &View, node: &Name, desired: &[Way], found: &[Way], what: &str) -> Vec<String> {
    let by_place =
        |ways: &[Way]| -> BTreeMap<_, Way> { ways.iter().map(|way| ((way.vni, way.address), way.clone())).collect() };
    let (desired, found) = (by_place(desired), by_place(found));
    let places: BTreeSet<_> = desired.keys().chain(found.keys()).collect();
    let line = |place: &&(u32, IpAddr)| {
        let differs = match (desired.get(*place), found.get(*place)) {
            (Some(desired), None) => format!("lacks {what} to {}", said(view, desired)),
            (None, Some(found)) => format!("has {what} to {}, which nobody has", said(view, found)),
            (Some(desired), Some(found)) if desired != found => {
                format!("has {what} to {}; the store says {}", said(view, found), said(view, desired))
            }
            _ => return None,
        };
        Some(format!("node {node}: {differs}"))
    };
    places.iter().filter_map(line).collect()
}

fn said(view: &View, way: &Way) -> String {
    let Way { vni, address, mac, vtep } = way;
    format!("{address} of {} ({}) by {vtep}", network_of(view, *vni), format_mac(*mac))
}

/// A network by its number in tunnels.
pub fn network_of(view: &View, vni: u32) -> String {
    let network = view.networks().find(|(_, network)| network.vni == vni);
    network.map_or_else(|| format!("VNI {vni}"), |(name, _)| format!("network {name}"))
}
