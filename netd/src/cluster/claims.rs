//! Transactions: what must hold of the store, and what is written if it does.

use std::net::IpAddr;

use super::{Announcement, Claim, Key, Range, Record, SharedNetwork};
use crate::model::Name;

/// Something that must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compare {
    /// There is no such key.
    Absent(Key),
    /// The key was written last by this revision.
    Unchanged(Key, i64),
    /// No key is in the range.
    Empty(Range),
    /// No key in the range was written after this revision.
    NothingNewer(Range, i64),
}

/// Something that is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A record that stays.
    Put(Key, Record),
    /// A record that goes with the node's lease.
    PutLeased(Key, Record),
    /// A record goes.
    Delete(Key),
}

/// All of it, if everything holds; nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Txn {
    /// What must hold.
    pub when: Vec<Compare>,
    /// What is written.
    pub then: Vec<Op>,
}

/// Makes a network that was chosen by somebody who had seen the networks up to `seen`: if there is a later one, its name, its
/// number or its subnet may be that of the new one.
pub fn create(name: &Name, network: &SharedNetwork, seen: i64) -> Txn {
    let key = Key::Network(name.clone());
    Txn {
        when: vec![Compare::Absent(key.clone()), Compare::NothingNewer(Range::networks(), seen)],
        then: vec![Op::Put(key, Record::Network(Box::new(network.clone())))],
    }
}

/// Removes a network, written by `revision`, in which nobody has an address.
pub fn remove(name: &Name, id: &str, revision: i64) -> Txn {
    let key = Key::Network(name.clone());
    Txn {
        when: vec![Compare::Unchanged(key.clone(), revision), Compare::Empty(Range::claims_of(id))],
        then: vec![Op::Delete(key)],
    }
}

/// Takes addresses of networks, each with the revision that made the network, for an endpoint of the node whose fence this is.
pub fn claim(fence: Compare, claim: &Claim, addresses: &[(Name, String, i64, IpAddr)]) -> Txn {
    let mut txn = Txn { when: vec![fence], then: Vec::new() };
    for (network, id, revision, address) in addresses {
        let there = Compare::Unchanged(Key::Network(network.clone()), *revision);
        if !txn.when.contains(&there) {
            txn.when.push(there);
        }
        let key = Key::Claim(id.clone(), *address);
        txn.when.push(Compare::Absent(key.clone()));
        txn.then.push(Op::Put(key, Record::Claim(claim.clone())));
    }
    txn
}

/// Tells of an endpoint of the node whose fence this is, with ports that every node publishes and that are nobody else's as of the
/// endpoints up to `seen`: if there is a later one, they may be that one's.
pub fn publish(fence: Compare, key: Key, endpoint: &Announcement, seen: i64) -> Txn {
    Txn {
        when: vec![fence, Compare::NothingNewer(Range::endpoints(), seen)],
        then: vec![Op::PutLeased(key, Record::Endpoint(Box::new(endpoint.clone())))],
    }
}
