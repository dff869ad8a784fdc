//! What a node knows of all: a full read of the store, and the events since.
//!
//! Events may come in any order, twice, or not at all: the newest revision of a record wins, also over its removal, and the next
//! full read replaces everything.

use std::collections::BTreeMap;

use super::{
    Announcement, Claim, Key, Node, Record, SharedNetwork,
    keys::{PREFIX, is_kind},
};
use crate::model::Name;

/// A record and where it stands in the history of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it says.
    pub record: Record,
    /// The revision that wrote it last.
    pub revision: i64,
    /// The lease that it goes with; 0 for none.
    pub lease: i64,
}

/// A change of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It was written.
    Put(Key, Entry),
    /// It was removed, by this revision.
    Delete(Key, i64),
    /// It was written, and is not understood, for this reason.
    Unreadable(String, i64, String),
}

/// What is known of the store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// The revision of the full read or of the last event, whichever is later.
    pub revision: i64,
    /// Every record that is understood.
    pub entries: BTreeMap<Key, Entry>,
    /// Why keys are not understood.
    pub unreadable: BTreeMap<String, String>,
    /// The revision that removed what was removed since the full read.
    removed: BTreeMap<String, i64>,
    /// The revision of the full read.
    since: i64,
}

impl Event {
    /// Its own.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(_, entry) => entry.revision,
            Self::Delete(_, revision) | Self::Unreadable(_, revision, _) => *revision,
        }
    }
}

impl View {
    /// What a full read at `revision` found.
    pub fn read(revision: i64, found: impl IntoIterator<Item = Event>) -> Self {
        let mut view = Self::default();
        for event in found {
            view.apply(event);
        }
        Self { revision, since: revision, removed: BTreeMap::new(), ..view }
    }

    /// Takes a change in, unless something later is known.
    pub fn apply(&mut self, event: Event) {
        let revision = event.revision();
        self.note(event);
        self.revision = self.revision.max(revision);
    }

    /// Takes a change of one's own in: what others changed before it may not be known yet, so the revision stays.
    pub fn note(&mut self, event: Event) {
        let revision = event.revision();
        let key = match &event {
            Event::Put(key, _) | Event::Delete(key, _) => key.to_string(),
            Event::Unreadable(key, ..) => key.clone(),
        };
        if revision <= self.since && self.since > 0 || self.known(&key) >= revision {
            return;
        }
        self.unreadable.remove(&key);
        self.removed.remove(&key);
        match event {
            Event::Put(key, entry) => {
                self.entries.insert(key, entry);
            }
            Event::Delete(name, revision) => {
                self.entries.remove(&name);
                self.removed.insert(key, revision);
            }
            Event::Unreadable(_, revision, why) => {
                if let Ok(parsed) = key.parse() {
                    self.entries.remove(&parsed);
                }
                // Later than a removal of the same key, and as such as late as one.
                self.removed.insert(key.clone(), revision);
                self.unreadable.insert(key, why);
            }
        }
    }

    /// The last revision that is known of a key; 0 for none.
    fn known(&self, key: &str) -> i64 {
        let entry = key.parse().ok().and_then(|key: Key| self.entries.get(&key)).map_or(0, |entry| entry.revision);
        entry.max(self.removed.get(key).copied().unwrap_or(0))
    }

    /// The records of this full read that `heard` has otherwise, with their revisions.
    pub fn news_to(&self, heard: &Self) -> BTreeMap<Key, i64> {
        let news = self.entries.iter().filter(|(key, entry)| heard.entries.get(key) != Some(entry));
        news.map(|(key, entry)| (key.clone(), entry.revision)).collect()
    }

    /// This one, as if there were none of these networks.
    pub fn without<'a>(&self, networks: impl IntoIterator<Item = &'a Name>) -> Self {
        let mut view = self.clone();
        for name in networks {
            view.entries.remove(&Key::Network(name.clone()));
        }
        view
    }

    /// The questions that are open, by id.
    pub fn questions(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().filter_map(|key| match key {
            Key::Question(id) => Some(id.as_str()),
            _ => None,
        })
    }

    /// What is there and passed over, one line each; what another version of netd keeps beside, one line for each kind.
    pub fn not_understood(&self) -> Vec<String> {
        let mut kinds = BTreeMap::<&str, usize>::new();
        let mut lines = Vec::new();
        for (key, why) in &self.unreadable {
            let kind =
                key.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')).filter(|(kind, _)| !is_kind(kind));
            match kind {
                Some((kind, _)) => *kinds.entry(kind).or_default() += 1,
                None => lines.push(format!("{key} is not understood: {why}")),
            }
        }
        let version = env!("CARGO_PKG_VERSION");
        lines.extend(kinds.into_iter().map(|(kind, count)| {
            format!("{PREFIX}{kind}/: this netd ({version}) does not know what another one keeps there, and passes over {count} of it")
        }));
        lines
    }

    /// What a key holds.
    pub fn record(&self, key: &Key) -> Option<&Record> {
        self.entries.get(key).map(|entry| &entry.record)
    }

    /// The nodes that are there.
    pub fn nodes(&self) -> impl Iterator<Item = (&Name, &Node)> {
        self.entries.iter().filter_map(|(key, entry)| match (key, &entry.record) {
            (Key::Node(name), Record::Node(node)) => Some((name, node)),
            _ => None,
        })
    }

    /// The node of this name, if it is there.
    pub fn node(&self, name: &Name) -> Option<&Node> {
        match self.record(&Key::Node(name.clone())) {
            Some(Record::Node(node)) => Some(node),
            _ => None,
        }
    }

    /// The nodes that were ever there and not removed.
    pub fn known_nodes(&self) -> impl Iterator<Item = &Name> {
        self.entries.keys().filter_map(|key| match key {
            Key::Incarnation(name) => Some(name),
            _ => None,
        })
    }

    /// Whether a node takes no more endpoints.
    pub fn is_drained(&self, name: &Name) -> bool {
        self.entries.contains_key(&Key::Drained(name.clone()))
    }

    /// Every network.
    pub fn networks(&self) -> impl Iterator<Item = (&Name, &SharedNetwork)> {
        self.entries.iter().filter_map(|(key, entry)| match (key, &entry.record) {
            (Key::Network(name), Record::Network(network)) => Some((name, &**network)),
            _ => None,
        })
    }

    /// The network of this name.
    pub fn network(&self, name: &Name) -> Option<&SharedNetwork> {
        match self.record(&Key::Network(name.clone())) {
            Some(Record::Network(network)) => Some(network),
            _ => None,
        }
    }

    /// Every address that somebody has, by its network's id.
    pub fn claims(&self) -> impl Iterator<Item = ((&str, std::net::IpAddr), &Claim)> {
        self.entries.iter().filter_map(|(key, entry)| match (key, &entry.record) {
            (Key::Claim(network, address), Record::Claim(claim)) => Some(((network.as_str(), *address), claim)),
            _ => None,
        })
    }

    /// The endpoints of nodes that are there, of the node's incarnation or of one that is just coming up, with their ids.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Name, &str, &Announcement)> {
        self.entries.iter().filter_map(|(key, entry)| match (key, &entry.record) {
            (Key::Endpoint(node, id), Record::Endpoint(endpoint)) => {
                let incarnation = self.node(node)?.incarnation;
                (endpoint.incarnation >= incarnation).then_some((node, id.as_str(), &**endpoint))
            }
            _ => None,
        })
    }
}
