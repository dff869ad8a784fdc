//! A store as etcd is: keys with revisions and leases, transactions, a log.

use std::collections::BTreeMap;

use crate::{
    cluster::{Compare, Entry, Event, Key, Op, Record, Txn, View},
    model::Name,
};

#[derive(Default)]
pub struct Store {
    revision: i64,
    entries: BTreeMap<Key, Entry>,
    /// Every change.
    pub log: Vec<Event>,
}

impl Store {
    /// Takes a transaction if what must hold holds. Says whether it did.
    pub fn take(&mut self, txn: &Txn, lease: i64) -> bool {
        if !txn.when.iter().all(|compare| self.holds(compare)) {
            return false;
        }
        self.revision += 1;
        for op in &txn.then {
            match op {
                Op::Put(key, record) => self.put(key, record, 0),
                Op::PutLeased(key, record) => self.put(key, record, lease),
                Op::Delete(key) => self.delete(key),
            }
        }
        true
    }

    /// Writes a mark, whatever holds, and says by which revision.
    pub fn mark(&mut self, key: &Key) -> i64 {
        self.revision += 1;
        self.put(key, &Record::Mark, 0);
        self.revision
    }

    /// What goes with a lease goes.
    pub fn expire(&mut self, lease: i64) {
        self.revision += 1;
        let gone: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| entry.lease == lease).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.delete(key));
    }

    /// What `netd node rm` removes.
    pub fn forget_node(&mut self, node: &Name) {
        self.revision += 1;
        let claimed = |entry: &Entry| matches!(&entry.record, Record::Claim(claim) if claim.node == *node);
        let mut gone: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| claimed(entry)).map(|(key, _)| key.clone()).collect();
        gone.push(Key::Incarnation(node.clone()));
        gone.iter().for_each(|key| self.delete(key));
    }

    /// Puts it back to what it was at an earlier revision, as from a copy: what came later is gone, and its revisions come again.
    pub fn restore(&mut self, revision: i64) {
        self.entries = self.view_at(revision).entries;
        self.log.retain(|event| event.revision() <= revision);
        self.revision = revision;
    }

    /// A full read.
    pub fn view(&self) -> View {
        let found = self.entries.iter().map(|(key, entry)| Event::Put(key.clone(), entry.clone()));
        View::read(self.revision, found)
    }

    /// That of the last change.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// A full read at a time that is past.
    pub fn view_at(&self, revision: i64) -> View {
        let mut view = View::default();
        for event in &self.log {
            if event.revision() <= revision {
                view.apply(event.clone());
            }
        }
        View::read(revision, view.entries.into_iter().map(|(key, entry)| Event::Put(key, entry)))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut keys = self.entries.iter();
        match compare {
            Compare::Absent(key) => !self.entries.contains_key(key),
            Compare::Unchanged(key, revision) => self.entries.get(key).is_some_and(|entry| entry.revision == *revision),
            Compare::Empty(range) => !keys.any(|(key, _)| range.contains(key)),
            Compare::NothingNewer(range, revision) => {
                !keys.any(|(key, entry)| range.contains(key) && entry.revision > *revision)
            }
        }
    }

    fn put(&mut self, key: &Key, record: &Record, lease: i64) {
        // As it comes back from the wire.
        let record = Record::read(key, &record.value()).expect("what is written can be read");
        let entry = Entry { record, revision: self.revision, lease };
        self.entries.insert(key.clone(), entry.clone());
        self.log.push(Event::Put(key.clone(), entry));
    }

    fn delete(&mut self, key: &Key) {
        if self.entries.remove(key).is_some() {
            self.log.push(Event::Delete(key.clone(), self.revision));
        }
    }
}
