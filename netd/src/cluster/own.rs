//! What a node itself has to say, and what of it the store lacks.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Announcement, Claim, Compare, Installed, Key, Node, Op, Record, Session, Txn, Uses, View,
    allowances::forget_allowances,
};
use crate::model::Name;

/// What a node has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Own {
    /// Its name.
    pub name: Name,
    /// Itself.
    pub node: Node,
    /// The lease that it is there with.
    pub lease: i64,
    /// Its endpoints by id. Their incarnation is the node's.
    pub endpoints: BTreeMap<String, Announcement>,
    /// Its part in keys, and what it has of them; `None` where nothing is encrypted, or it cannot be.
    pub session: Option<Session>,
    /// What it has in its kernel of them.
    pub installed: Option<Installed>,
    /// Which addresses it uses beside those of networks of all; `None` before it has looked.
    pub uses: Option<Uses>,
}

/// What the store lacks of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Missing {
    /// In this order: addresses before who has them, endpoints before their node. Each is safe to take again.
    pub txns: Vec<Txn>,
    /// Addresses of ours that others have, one line each. Their endpoints are told of without them.
    pub conflicts: Vec<String>,
}

impl Own {
    /// Holds as long as no later start of this node has been.
    pub fn fence(&self) -> Compare {
        Compare::Unchanged(Key::Incarnation(self.name.clone()), self.node.incarnation)
    }

    /// Which of its endpoints has an address of a network, by the network's id.
    fn holder(&self, network: &str, address: IpAddr) -> Option<&Name> {
        let has = |endpoint: &&Announcement| {
            endpoint.places.iter().any(|place| place.network_id == network && place.addresses.contains(&address))
        };
        self.endpoints.values().find(has).map(|endpoint| &endpoint.name)
    }
}

/// What has to be written so that the store says what `own` says. `pending` are claims that are made for an endpoint to come.
pub fn missing(own: &Own, view: &View, pending: &[(String, IpAddr)]) -> Missing {
    let mut missing = Missing::default();
    let fenced = |when: Vec<Compare>, then| Txn { when: [vec![own.fence()], when].concat(), then };

    for (key, entry) in &view.entries {
        let (Key::Claim(network, address), Record::Claim(claim)) = (key, &entry.record) else { continue };
        let is_pending = pending.iter().any(|(id, pending)| id == network && pending == address);
        if claim.node == own.name && own.holder(network, *address) != Some(&claim.endpoint) && !is_pending {
            let unchanged = Compare::Unchanged(key.clone(), entry.revision);
            missing.txns.push(fenced(vec![unchanged], vec![Op::Delete(key.clone())]));
        }
    }
    for (id, endpoint) in &own.endpoints {
        let mut told = endpoint.clone();
        told.incarnation = own.node.incarnation;
        for place in &mut told.places {
            claim_place(own, view, endpoint, place, &mut missing);
        }
        let key = Key::Endpoint(own.name.clone(), id.clone());
        let record = Record::Endpoint(Box::new(told));
        if !says(view, own, &key, &record) {
            missing.txns.push(fenced(Vec::new(), vec![Op::PutLeased(key, record)]));
        }
    }
    for key in view.entries.keys() {
        if let Key::Endpoint(node, id) = key
            && *node == own.name
            && !own.endpoints.contains_key(id)
        {
            missing.txns.push(fenced(Vec::new(), vec![Op::Delete(key.clone())]));
        }
    }
    missing.txns.extend(forget_allowances(view, &own.name).into_iter().map(|txn| fenced(txn.when, txn.then)));
    // What was said of a store that has been put back to what it was earlier is of other records than have these revisions now.
    let installed = own.installed.filter(|installed| installed.revision <= view.revision);
    let lasting = [
        own.session.clone().map(|session| (Key::Session(own.name.clone()), Record::Session(session))),
        installed.map(|installed| (Key::Installed(own.name.clone()), Record::Installed(installed))),
        own.uses.clone().map(|uses| (Key::Uses(own.name.clone()), Record::Uses(uses))),
    ];
    for (key, record) in lasting.into_iter().flatten() {
        if view.record(&key) != Some(&record) {
            missing.txns.push(fenced(Vec::new(), vec![Op::Put(key, record)]));
        }
    }
    let key = Key::Node(own.name.clone());
    let record = Record::Node(own.node.clone());
    if !says(view, own, &key, &record) {
        missing.txns.push(fenced(Vec::new(), vec![Op::PutLeased(key, record)]));
    }
    missing
}

/// Claims the addresses of a place that nobody has, and leaves out of it those that others have.
fn claim_place(own: &Own, view: &View, endpoint: &Announcement, place: &mut super::Place, missing: &mut Missing) {
    let network = place.network_id.clone();
    place.addresses.retain(|address| {
        let key = Key::Claim(network.clone(), *address);
        match view.record(&key) {
            Some(Record::Claim(claim)) if claim.node == own.name => true,
            Some(Record::Claim(Claim { node, endpoint: by })) => {
                let name = &endpoint.name;
                missing.conflicts.push(format!(
                    "{name} has {address} of network {}, which is {by}'s on node {node}: attach {name} anew",
                    place.network
                ));
                false
            }
            _ => {
                let claim = Claim { node: own.name.clone(), endpoint: endpoint.name.clone() };
                let when = vec![own.fence(), Compare::Absent(key.clone())];
                missing.txns.push(Txn { when, then: vec![Op::Put(key, Record::Claim(claim))] });
                true
            }
        }
    });
}

/// Whether the store says this of the node already, under its lease.
fn says(view: &View, own: &Own, key: &Key, record: &Record) -> bool {
    view.entries.get(key).is_some_and(|entry| entry.lease == own.lease && entry.record == *record)
}
