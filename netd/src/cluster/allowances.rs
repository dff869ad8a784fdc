//! What containers may open to one another in networks of several hosts that keep them apart.
//!
//! An allowance is of two claims, each known by the revision that made it: it holds while both addresses are still whose they were.
//! So it goes with either endpoint, and who has an address next has none of what was allowed to who had it before. It does not go
//! with a node's lease: the containers of a node that is cut off may live, and their connections with them.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Allowed, Claim, Compare, Entry, Key, Op, Party, Record, SharedNetwork, Txn, View};
use crate::model::{Name, Protocol, Rejection, RemoteAllowance};

/// What may be opened; everything where it is not said.
pub type Opening = Option<(u16, Protocol)>;

/// Who may open something to whom.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Between {
    /// The node of the one that opens, and its name there.
    pub from: (Name, Name),
    /// The same of the other.
    pub to: (Name, Name),
    /// What.
    pub port: Opening,
}

/// An allowance that holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding<'a> {
    /// Under which key.
    pub key: &'a Key,
    /// Who, to whom.
    pub allowed: &'a Allowed,
    /// As a host's tables have it.
    pub entry: RemoteAllowance,
}

impl Holding<'_> {
    /// Whether one of the two is this node's.
    fn concerns(&self, node: &Name) -> bool {
        [&self.allowed.from, &self.allowed.to].iter().any(|party| party.node == *node)
    }

    fn between(&self) -> Between {
        let name = |party: &Party| (party.node.clone(), party.endpoint.clone());
        Between { from: name(&self.allowed.from), to: name(&self.allowed.to), port: self.entry.port }
    }
}

/// Addresses of a network that two endpoints have, with the revisions of their claims.
struct Pair<'a> {
    network: &'a str,
    from: (IpAddr, i64),
    to: (IpAddr, i64),
}

impl View {
    /// Every allowance that holds.
    pub fn allowances(&self) -> impl Iterator<Item = Holding<'_>> {
        self.entries.iter().filter_map(|(key, entry)| {
            let (Key::Allowance(network, dst, src, port), Record::Allowed(allowed)) = (key, &entry.record) else {
                return None;
            };
            let shared = self.kept_apart().find(|shared| shared.id == *network)?;
            let entry = RemoteAllowance { vni: shared.vni, src: *src, dst: *dst, port: *port };
            self.holds(key, allowed).then_some(Holding { key, allowed, entry })
        })
    }

    /// Whether both ends of an allowance still have the addresses that it was made for.
    fn holds(&self, key: &Key, allowed: &Allowed) -> bool {
        let Key::Allowance(network, dst, src, _) = key else { return false };
        self.claimed(network, *src) == Some(allowed.from.claim) && self.claimed(network, *dst) == Some(allowed.to.claim)
    }

    /// What containers of this node may open, and what may be opened to them.
    pub fn allowances_of(&self, me: &Name) -> BTreeSet<RemoteAllowance> {
        self.allowances().filter(|holding| holding.concerns(me)).map(|holding| holding.entry).collect()
    }

    /// What a node has to do with that this view allows and another does not. What went with an endpoint, of the other, is not
    /// asked for if `is_lasting`.
    pub fn allows_beside(&self, other: &Self, me: &Name, is_lasting: bool) -> BTreeSet<Between> {
        let is_new = |one: &Holding<'_>| match other.record(one.key) {
            Some(Record::Allowed(allowed)) => allowed != one.allowed || !other.holds(one.key, allowed),
            _ => true,
        };
        let lasts = |one: &Holding<'_>| !is_lasting || other.holds(one.key, one.allowed);
        let all = self.allowances().filter(|one| one.concerns(me) && is_new(one) && lasts(one));
        all.map(|one| one.between()).collect()
    }

    /// The nodes on which an endpoint has this name.
    pub fn nodes_of(&self, endpoint: &Name) -> BTreeSet<&Name> {
        let announced = self.endpoints().filter(|(.., one)| one.name == *endpoint).map(|(node, ..)| node);
        let claiming = self.claims().filter(|(_, claim)| claim.endpoint == *endpoint).map(|(_, claim)| &claim.node);
        announced.chain(claiming).collect()
    }

    fn kept_apart(&self) -> impl Iterator<Item = &SharedNetwork> {
        self.networks().map(|(_, network)| network).filter(|network| network.no_icc)
    }

    /// The revision that made the claim of an address.
    fn claimed(&self, network: &str, address: IpAddr) -> Option<i64> {
        self.entries.get(&Key::Claim(network.to_owned(), address)).map(|entry| entry.revision)
    }

    /// The addresses by which two endpoints meet in networks that keep them apart.
    fn pairs(&self, between: &Between) -> Vec<Pair<'_>> {
        let of = |network: &str, (node, name): &(Name, Name)| -> Vec<(IpAddr, i64)> {
            let has = |claim: &Claim| claim.node == *node && claim.endpoint == *name;
            let claims = self.entries.iter().filter_map(|(key, Entry { record, revision, .. })| match (key, record) {
                (Key::Claim(id, address), Record::Claim(claim)) if id == network && has(claim) => {
                    Some((*address, *revision))
                }
                _ => None,
            });
            claims.collect()
        };
        let mut pairs = Vec::new();
        for network in self.kept_apart().map(|network| network.id.as_str()) {
            for from in of(network, &between.from) {
                let theirs = of(network, &between.to).into_iter().filter(|to| to.0.is_ipv4() == from.0.is_ipv4());
                pairs.extend(theirs.map(|to| Pair { network, from, to }));
            }
        }
        pairs
    }

    /// Whether two endpoints have a network in common that keeps them apart.
    pub fn keeps_apart(&self, between: &Between) -> bool {
        !self.pairs(between).is_empty()
    }
}

/// Allows it, if both still have the addresses that they are known to have. `None` where they have no network in common that keeps
/// them apart.
pub fn allow(view: &View, between: &Between) -> Option<Txn> {
    let mut txn = Txn::default();
    for Pair { network, from, to } in view.pairs(between) {
        for (address, revision) in [from, to] {
            let there = Compare::Unchanged(Key::Claim(network.to_owned(), address), revision);
            if !txn.when.contains(&there) {
                txn.when.push(there);
            }
        }
        let party =
            |(node, endpoint): &(Name, Name), claim| Party { node: node.clone(), endpoint: endpoint.clone(), claim };
        let allowed = Allowed { from: party(&between.from, from.1), to: party(&between.to, to.1) };
        let key = Key::Allowance(network.to_owned(), to.0, from.0, between.port);
        txn.then.push(Op::Put(key, Record::Allowed(allowed)));
    }
    (!txn.then.is_empty()).then_some(txn)
}

/// Takes it back, or everything between the two where no port is named.
pub fn deny(view: &View, between: &Between) -> Result<Txn, Rejection> {
    let is_of = |party: &Party, of: &(Name, Name)| (&party.node, &party.endpoint) == (&of.0, &of.1);
    let all: Vec<Holding<'_>> = view
        .allowances()
        .filter(|holding| is_of(&holding.allowed.from, &between.from) && is_of(&holding.allowed.to, &between.to))
        .collect();
    let named = all.iter().filter(|holding| between.port.is_none() || holding.entry.port == between.port);
    let then: Vec<Op> = named.map(|holding| Op::Delete(holding.key.clone())).collect();
    if then.is_empty() {
        let (port, everything) = (between.port, all.iter().any(|holding| holding.entry.port.is_none()));
        let target = port.map_or_else(String::new, |(port, protocol)| format!(":{port}/{protocol}"));
        let (from, target) = (between.from.1.clone(), format!("{}{target}", between.to.1));
        return Err(Rejection::NotAllowed { from, target, everything });
    }
    Ok(Txn { when: Vec::new(), then })
}

/// Takes out what holds no more and was of a container of this node, or of nobody who is there.
pub fn forget_allowances(view: &View, me: &Name) -> Vec<Txn> {
    let holding: BTreeSet<&Key> = view.allowances().map(|holding| holding.key).collect();
    let mut txns = Vec::new();
    for (key, entry) in &view.entries {
        let (Key::Allowance(network, dst, src, _), Record::Allowed(allowed)) = (key, &entry.record) else { continue };
        let parties = [&allowed.from, &allowed.to];
        let is_ours = parties.iter().any(|party| party.node == *me);
        let is_nobodys = parties.iter().all(|party| view.node(&party.node).is_none());
        if holding.contains(key) || !is_ours && !is_nobodys {
            continue;
        }
        // What is known of the claims may be behind what is known of the allowance.
        let as_known = [dst, src].map(|address| {
            let claim = Key::Claim(network.clone(), *address);
            match view.claimed(network, *address) {
                Some(revision) => Compare::Unchanged(claim, revision),
                None => Compare::Absent(claim),
            }
        });
        let when = [vec![Compare::Unchanged(key.clone(), entry.revision)], as_known.to_vec()].concat();
        txns.push(Txn { when, then: vec![Op::Delete(key.clone())] });
    }
    txns
}
