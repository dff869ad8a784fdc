//! What a change of some endpoints touches of the plan, so that it costs what it changes and not what there is.
//!
//! Invariant: pure, and an abbreviation: the steps between two parts are those between two whole plans, and exchanging the one
//! part for the other makes the whole plan.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Choices, add_endpoint, publish, there, withheld};
use crate::{
    model::{self, Endpoint, Model, Name, Network},
    reconcile::{HostFacts, State},
};

/// The endpoints in which two models differ, if nothing that is planned for them has to do with anything else; `None` if the whole
/// is to be planned. `configured` is who may come to ports that say nothing of it.
pub fn touched(before: &Model, after: &Model, configured: &[IpNet]) -> Option<BTreeSet<Name>> {
    if !same_networks(before, after) {
        return None;
    }
    let differs = |one: &Model, other: &Model, name: &Name| one.endpoints.get(name) != other.endpoints.get(name);
    let names = before.endpoints.keys().chain(after.endpoints.keys());
    let names: BTreeSet<Name> = names.filter(|name| differs(before, after, name)).cloned().collect();
    let [theirs, others] = [true, false].map(|touched| {
        let endpoints = [before, after].into_iter().flat_map(|model| model.endpoints.values());
        endpoints.filter(|endpoint| names.contains(&endpoint.name) == touched).collect::<Vec<_>>()
    });
    let namespaces: BTreeSet<u64> = theirs.iter().map(|endpoint| endpoint.netns_inode).collect();
    let stand_alone = theirs.iter().all(|endpoint| stands_alone(after, endpoint, configured))
        && !others.iter().any(|endpoint| namespaces.contains(&endpoint.netns_inode));
    stand_alone.then_some(names)
}

/// Whether networks are planned the same. Which addresses were given out and back last is nobody's but the model's own; what other
/// hosts have is not in the model.
fn same_networks(before: &Model, after: &Model) -> bool {
    let same = |(one, other): (&Network, &Network)| one == other || without_the_last(one) == without_the_last(other);
    before.networks.len() == after.networks.len()
        && before.networks.values().zip(after.networks.values()).all(same)
        && after.networks.values().all(|network| network.driver.segment().is_none())
}

fn without_the_last(network: &Network) -> Network {
    let mut network = network.clone();
    for subnet in &mut network.subnets {
        subnet.last_given = None;
        subnet.freed.clear();
    }
    network
}

/// Whether an endpoint shares nothing that is planned: no further bridge, no list of sources, no entry that stands beside those of
/// single addresses, and no allowance.
fn stands_alone(model: &Model, endpoint: &Endpoint, configured: &[IpNet]) -> bool {
    let mut networks = endpoint.attachments.iter().map(|attachment| model.networks.get(&attachment.network));
    let is_plain = |network: Option<&Network>| {
        network.is_some_and(|network| {
            let is_open = |publication| model::lets_in(publication, network, configured).is_empty();
            !network.no_icc && endpoint.publications.iter().all(is_open)
        })
    };
    endpoint.attachments.iter().all(|attachment| attachment.bridge == 0)
        && networks.all(is_plain)
        && endpoint.publications.iter().all(|publication| publication.host_ip.is_unspecified() && !publication.mesh)
}

/// What should exist of these endpoints. The ports that are withheld are those of all: they cost little to list.
pub fn part(model: &Model, facts: &HostFacts, choices: &Choices, names: &BTreeSet<Name>) -> State {
    let mut state = State { withheld: withheld(model, facts), ..State::default() };
    for endpoint in names.iter().filter_map(|name| model.endpoints.get(name)) {
        if let Some(sandbox) = there(endpoint, facts) {
            add_endpoint(&mut state, model, endpoint, &sandbox);
            publish(&mut state, model, endpoint, &choices.from);
        }
    }
    state
}

/// Puts one part in the place of another.
pub fn exchange(whole: &mut State, before: &State, after: State) {
    for link in before.veths.keys() {
        whole.veths.remove(link);
    }
    for hook in &before.hooks {
        whole.hooks.remove(hook);
    }
    for namespace in before.resolvers.keys() {
        whole.resolvers.remove(namespace);
    }
    for link in before.devices.keys() {
        whole.devices.remove(link);
    }
    for key in before.endpoints.keys() {
        whole.endpoints.remove(key);
    }
    for key in before.publications.keys() {
        whole.publications.remove(key);
    }
    whole.withheld = after.withheld;
    whole.veths.extend(after.veths);
    whole.hooks.extend(after.hooks);
    whole.resolvers.extend(after.resolvers);
    whole.devices.extend(after.devices);
    whole.endpoints.extend(after.endpoints);
    whole.publications.extend(after.publications);
}

#[cfg(test)]
mod tests;
