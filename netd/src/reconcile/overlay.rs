//! The steps of networks that span hosts: their tables between what is desired and what is observed.
//!
//! A segment's record is what lets its packets in and out: it goes first, and comes after all that it needs.

use std::collections::BTreeSet;

use super::{LinkName, SegmentRecord, State, Step};

/// What goes.
pub fn departures(desired: &State, observed: &State, doomed: &BTreeSet<&LinkName>) -> Vec<Step> {
    let segments = observed.segments.iter();
    let segments = segments.filter(|(vni, found)| !desired.segments.contains_key(vni) || stands_on(found, doomed));
    let remotes = observed.remotes.keys().filter(|key| !desired.remotes.contains_key(key));
    let vteps = observed.vteps.difference(&desired.vteps);
    let mesh = observed.mesh.keys().filter(|key| !desired.mesh.contains_key(key));
    let peers = observed.peers.keys().filter(|key| !desired.peers.contains_key(key));
    segments
        .map(|(vni, _)| Step::RemoveSegment(*vni))
        .chain(remotes.map(|key| Step::RemoveRemote(*key)))
        .chain(vteps.map(|key| Step::RemoveVtep(*key)))
        .chain(mesh.map(|key| Step::RemoveMeshEnd(*key)))
        .chain(peers.map(|key| Step::RemovePeer(*key)))
        .collect()
}

/// What comes.
pub fn arrivals(desired: &State, observed: &State, doomed: &BTreeSet<&LinkName>) -> Vec<Step> {
    let mut steps: Vec<Step> = desired.vteps.difference(&observed.vteps).map(|key| Step::PutVtep(*key)).collect();
    let peers = desired.peers.iter().filter(|(key, address)| observed.peers.get(key) != Some(address));
    steps.extend(peers.map(|(key, address)| Step::PutPeer(*key, *address)));
    let remotes = desired.remotes.iter().filter(|(key, remote)| observed.remotes.get(key) != Some(remote));
    steps.extend(remotes.map(|(key, remote)| Step::PutRemote(*key, *remote)));
    let mesh = desired.mesh.iter().filter(|(key, end)| observed.mesh.get(key) != Some(end));
    steps.extend(mesh.map(|(key, end)| Step::PutMeshEnd(*key, *end)));
    let segments = desired
        .segments
        .iter()
        .filter(|(vni, record)| observed.segments.get(vni) != Some(record) || stands_on(record, doomed));
    steps.extend(segments.map(|(vni, record)| Step::PutSegment(*vni, record.clone())));
    steps
}

/// Whether a device of the segment goes, and with it the index that the record has.
fn stands_on(segment: &SegmentRecord, doomed: &BTreeSet<&LinkName>) -> bool {
    doomed.contains(&segment.tunnel) || doomed.contains(&segment.bridge)
}
