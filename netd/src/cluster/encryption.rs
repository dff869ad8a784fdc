//! Which security associations and policies a node has for encrypted networks: computed from a view as a whole.
//!
//! Keys are made of a **secret** that all nodes share, and of both ends' **sessions**. The secret has generations, so that keys
//! change while traffic flows. A session is a random number that a node draws anew whenever associations of its own may be gone,
//! as after the host has booted: then sequence numbers begin anew, and with them must the keys (RFC 4106 section 3: a nonce is
//! never used twice under one key), and what was recorded before must not be taken again.
//!
//! Nobody sends by an association before the other end has said that it has it: each node tells up to which revision of the store
//! it has **installed** what sessions and secrets there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ring::hkdf;

use super::{Installed, Key, Record, Secret, Session, View};
use crate::{
    model::Name,
    reconcile::{Association, AssociationId, Family, Ipsec, KEYING, Keying, PolicyId, Protection},
};

/// The lowest security parameters index that is not reserved (RFC 4303 section 2.1).
const FIRST_SPI: u32 = 256;

/// Security associations, by destination and index, of each generation of the secret.
pub type Generations = BTreeMap<u64, BTreeSet<(IpAddr, u32)>>;

/// What a node has, and what it says of it once it has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Encryption {
    /// What the kernel is to have.
    pub ipsec: Ipsec,
    /// Of which generations it is: all that there are, also one of which there is no association.
    pub generations: Generations,
    /// What the others may rely on then.
    pub installed: Installed,
    /// Nodes to which there is nothing to send by yet.
    pub waiting: Vec<Name>,
}

impl Encryption {
    /// Has an association of a generation. Says whether its index was free.
    fn insert(&mut self, generation: u64, (id, association): (AssociationId, Association)) -> bool {
        self.generations.entry(generation).or_default().insert((id.destination, id.spi));
        self.ipsec.associations.insert(id, association).is_none()
    }
}

/// Two associations would have one index; with another session they have others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Collision;

/// What `me`, in its `session`, has for the encrypted networks of a view.
pub fn encryption(view: &View, me: &Name, session: &Session) -> Result<Encryption, Collision> {
    let mut all = Encryption { installed: installed(view), ..Encryption::default() };
    all.ipsec.policies.extend(Ipsec::guard(session.port));
    all.generations.extend(view.secrets().map(|(generation, ..)| (generation, BTreeSet::new())));
    // What is written and not yet told of by the store may have come after what is not known yet.
    let is_published = published(view, me) == Some(session);
    for (peer, theirs, since) in view.sessions().filter(|(name, ..)| *name != me) {
        if theirs.vtep == session.vtep || Family::of(theirs.vtep) != Family::of(session.vtep) {
            continue;
        }
        // A node that is down may have been replaced by one of another name.
        if view.node(peer).is_none() && view.nodes().any(|(_, node)| node.vtep == theirs.vtep) {
            continue;
        }
        for (generation, secret, _) in view.secrets() {
            if !all.insert(generation, association(generation, secret, theirs, session, true)) {
                return Err(Collision);
            }
        }
        let has = view.installed(peer);
        let knows_both = is_published && has >= view.revision_of(&Key::Session(me.clone())) && has >= since;
        let newest = view.secrets().filter(|(_, _, since)| has >= *since).last().filter(|_| knows_both);
        match newest {
            Some((generation, secret, _)) => {
                if view.node(peer).is_some() {
                    all.installed.oldest = all.installed.oldest.min(generation);
                }
                let (id, association) = association(generation, secret, session, theirs, false);
                let policy = PolicyId {
                    inbound: false,
                    family: Family::of(theirs.vtep),
                    peer: Some(theirs.vtep),
                    port: session.port,
                };
                all.ipsec.policies.insert(policy, Protection::Esp(id.spi));
                all.insert(generation, (id, association));
            }
            None if view.node(peer).is_some() => {
                // It may begin by an old one, if that is what the peer said it has.
                all.installed.oldest = 0;
                all.waiting.push(peer.clone());
            }
            None => {}
        }
    }
    Ok(all)
}

/// What the others may rely on once everything of a view is installed: records that were written later, and are known already since
/// they are one's own, do not count.
fn installed(view: &View) -> Installed {
    let sessions = view.sessions().map(|(_, _, since)| since);
    let known = sessions.chain(view.secrets().map(|(_, _, since)| since)).filter(|since| *since <= view.revision);
    let oldest = view.secrets().last().map_or(0, |(generation, ..)| generation);
    Installed { revision: known.max().unwrap_or(0), oldest }
}

fn published<'a>(view: &'a View, node: &Name) -> Option<&'a Session> {
    match view.record(&Key::Session(node.clone())) {
        Some(Record::Session(session)) => Some(session),
        _ => None,
    }
}

/// The association by which what `from` sends to `to` is encrypted in a generation of the secret.
fn association(
    generation: u64,
    secret: &Secret,
    from: &Session,
    to: &Session,
    inbound: bool,
) -> (AssociationId, Association) {
    let Session { vtep: source, id: sender, .. } = from;
    let Session { vtep: destination, id: receiver, port } = to;
    let of = format!("netd esp v1\n{generation}\n{source} {sender}\n{destination} {receiver}\n{port}\n");
    let mut material = [0; KEYING + 4];
    expand(&secret.secret.0, of.as_bytes(), &mut material);
    let (mut keying, mut spi) = ([0; KEYING], [0; 4]);
    keying.copy_from_slice(&material[..KEYING]);
    spi.copy_from_slice(&material[KEYING..]);
    let spi = FIRST_SPI + u32::from_be_bytes(spi) % (u32::MAX - FIRST_SPI);
    let id = AssociationId { destination: *destination, spi };
    (id, Association { source: *source, port: *port, inbound, intact: true, keying: Keying(keying) })
}

/// HKDF with SHA-256 (RFC 5869).
fn expand(secret: &[u8], info: &[u8], material: &mut [u8; KEYING + 4]) {
    struct Length;
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            KEYING + 4
        }
    }
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, b"netd").extract(secret);
    let expanded = pseudorandom.expand(&[info], Length).and_then(|okm| okm.fill(material));
    expanded.unwrap_or_else(|_| unreachable!("40 bytes are less than 255 blocks of SHA-256"));
}

impl View {
    /// What keys depend on: which records, by which revisions.
    pub fn of_keys(&self) -> Vec<(&Key, i64)> {
        let matters = |key: &Key, record: &Record| match (key, record) {
            (Key::Network(_), Record::Network(network)) => network.encrypted,
            (key, _) => matches!(key, Key::Secret(_) | Key::Session(_) | Key::Installed(_) | Key::Node(_)),
        };
        let entries = self.entries.iter().filter(|(key, entry)| matters(key, &entry.record));
        entries.map(|(key, entry)| (key, entry.revision)).collect()
    }

    /// Whether any network is encrypted.
    pub fn is_any_encrypted(&self) -> bool {
        self.networks().any(|(_, network)| network.encrypted)
    }

    /// The generations of the secret, oldest first, and the revisions that made them.
    pub fn secrets(&self) -> impl Iterator<Item = (u64, &Secret, i64)> {
        self.entries.iter().filter_map(|(key, entry)| match (key, &entry.record) {
            (Key::Secret(generation), Record::Secret(secret)) => Some((*generation, secret, entry.revision)),
            _ => None,
        })
    }

    /// The sessions of nodes, and the revisions that published them.
    pub fn sessions(&self) -> impl Iterator<Item = (&Name, &Session, i64)> {
        self.entries.iter().filter_map(|(key, entry)| match (key, &entry.record) {
            (Key::Session(node), Record::Session(session)) => Some((node, session, entry.revision)),
            _ => None,
        })
    }

    /// Up to which revision a node has installed what there is; 0 for nothing.
    fn installed(&self, node: &Name) -> i64 {
        self.said_installed(node).map_or(0, |installed| installed.revision)
    }

    fn said_installed(&self, node: &Name) -> Option<Installed> {
        match self.record(&Key::Installed(node.clone())) {
            Some(Record::Installed(installed)) => Some(*installed),
            _ => None,
        }
    }

    fn revision_of(&self, key: &Key) -> i64 {
        self.entries.get(key).map_or(i64::MAX, |entry| entry.revision)
    }

    /// Nodes that are there and have not said that they read what another encrypts in its session, with the other.
    pub fn unread(&self) -> impl Iterator<Item = (&Name, &Name)> {
        let there = || self.sessions().filter(|(node, ..)| self.node(node).is_some());
        there().flat_map(move |(node, ..)| {
            let lacks = move |(peer, _, since): (&Name, &Session, i64)| *peer != *node && self.installed(node) < since;
            there().filter(move |one| lacks(*one)).map(move |(peer, ..)| (node, peer))
        })
    }

    /// The first node that is there and has not yet taken the newest generation of the secret into use everywhere.
    pub fn unsettled(&self) -> Option<&Name> {
        let (newest, _, since) = self.secrets().last()?;
        let lags = |node: &Name| {
            let said = self.said_installed(node).unwrap_or_default();
            said.revision < since || said.oldest < newest
        };
        self.sessions().map(|(node, ..)| node).find(|node| self.node(node).is_some() && lags(node))
    }
}
