//! Nodes that take keys into use when chance will have it: what one sends the other can read, and no key is used twice.

mod kept;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    nodes::{name, network},
    store::Store,
};
use crate::{
    cluster::{
        Encryption, Installed, Kept, Key, Missing, Node, Own, Session, SharedNetwork, View, create, due, missing, next,
        verified,
    },
    model::Name,
    reconcile::{AssociationId, Ipsec, KEYING, Protection, State, Step, diff},
};

const NODES: usize = 3;
const PORT: u16 = 4790;
/// Seconds after which keys change.
const INTERVAL: u64 = 100;

/// What happens.
#[derive(Clone, Debug)]
enum Deed {
    /// A node reads everything.
    Read(usize),
    /// It sees what its kernel is to have, and takes so many steps towards that.
    Install(usize, usize),
    /// It says what it has.
    Say(usize),
    /// It writes what is due of the secret, after so many seconds.
    Keep(usize, u64),
    /// Somebody asks it for other keys.
    Rekey(usize),
    /// Its daemon is killed, and starts anew.
    Restart(usize),
    /// All that its kernel has is gone.
    Flush(usize),
    /// The store is put back to what it was so many revisions earlier.
    Restore(i64),
}

/// `with_losses` also such after which a node must draw another session: what its kernel had is gone, or may be.
fn deed(with_losses: bool) -> impl Strategy<Value = Deed> {
    let node = || 0..NODES;
    let losses = if with_losses { 1 } else { 0 };
    prop_oneof![
        6 => node().prop_map(Deed::Read),
        6 => node().prop_map(|node| Deed::Install(node, usize::MAX)),
        losses => (node(), 0..6_usize).prop_map(|(node, steps)| Deed::Install(node, steps)),
        5 => node().prop_map(Deed::Say),
        2 => (node(), 0..40_u64).prop_map(|(node, later)| Deed::Keep(node, later)),
        1 => node().prop_map(Deed::Rekey),
        1 => node().prop_map(Deed::Restart),
        losses => node().prop_map(Deed::Flush),
        losses => (0..30_i64).prop_map(Deed::Restore),
    ]
}

struct Host {
    name: Name,
    view: View,
    incarnation: i64,
    kernel: Ipsec,
    /// On its disk.
    kept: Option<Kept>,
    /// What its daemon says.
    word: Option<(Session, Installed)>,
}

struct Cluster {
    store: Store,
    hosts: Vec<Host>,
    now: u64,
    drawn: u32,
    /// Whether nothing is lost, so that everything can be read at every step.
    is_lossless: bool,
    /// How often each key was made, to send by and to receive by.
    made: BTreeMap<([u8; KEYING], bool), usize>,
}

impl Cluster {
    fn new(is_lossless: bool) -> Self {
        let mut store = Store::default();
        let network = SharedNetwork { encrypted: true, ..network("aaaaaaaaaaaa", 4096) };
        assert!(store.take(&create(&name("blue"), &network, 0), 0));
        let hosts = (0..NODES).map(|index| {
            let name = name(&format!("n{index}"));
            let incarnation = store.mark(&Key::Incarnation(name.clone()));
            Host { name, view: View::default(), incarnation, kernel: Ipsec::default(), kept: None, word: None }
        });
        let hosts = hosts.collect();
        Self { store, hosts, now: 1000, drawn: 0, is_lossless, made: BTreeMap::new() }
    }

    fn takes(&mut self, deed: &Deed) {
        match *deed {
            Deed::Read(node) => self.hosts[node].view = self.store.view(),
            Deed::Install(node, steps) => self.installs(node, steps),
            Deed::Say(node) => self.says(node),
            Deed::Keep(node, later) => self.keeps(node, later),
            Deed::Rekey(node) => self.rekeys(node),
            Deed::Restart(node) => self.hosts[node].word = None,
            Deed::Flush(node) => self.hosts[node].kernel = Ipsec::default(),
            // Not to before there were nodes.
            Deed::Restore(by) => self.store.restore((self.store.revision() - by).max(1 + NODES as i64)),
        }
    }

    fn installs(&mut self, node: usize, most: usize) {
        let Host { name, view, kernel, kept, .. } = &self.hosts[node];
        let (vtep, drawn) = (format!("192.0.2.{node}").parse().unwrap(), &mut self.drawn);
        let fresh = || {
            *drawn += 1;
            Session { id: format!("{drawn:032x}"), vtep, port: PORT }
        };
        let (kept, wanted) = Kept::go_on(kept.clone(), view, name, kernel, fresh).expect("a session");
        let Encryption { ipsec, installed, .. } = wanted;
        let state = |ipsec: &Ipsec| State { ipsec: ipsec.clone(), ..State::default() };
        let steps = diff(&state(&ipsec), &state(kernel));
        let is_whole = most >= steps.len();
        let host = &mut self.hosts[node];
        let session = kept.session.clone();
        host.kept = Some(kept);
        for step in steps.into_iter().take(most) {
            let host = &mut self.hosts[node];
            match step {
                Step::PutAssociation(id, association) => {
                    *self.made.entry((association.keying.0, association.inbound)).or_default() += 1;
                    host.kernel.associations.insert(id, association);
                }
                Step::RemoveAssociation(id) => drop(host.kernel.associations.remove(&id)),
                Step::PutPolicy(id, protection) => drop(host.kernel.policies.insert(id, protection)),
                Step::RemovePolicy(id) => drop(host.kernel.policies.remove(&id)),
                other => panic!("{other}"),
            }
            self.assert_no_key_is_made_twice();
            if self.is_lossless {
                self.assert_all_is_read();
            }
        }
        if is_whole {
            self.hosts[node].word = Some((session, installed));
        }
    }

    fn says(&mut self, node: usize) {
        let Host { name, view, incarnation, word, .. } = &self.hosts[node];
        let vtep = format!("192.0.2.{node}").parse().unwrap();
        let host = name.to_string();
        let there = Node {
            incarnation: *incarnation,
            host,
            vtep,
            vxlan_port: 4789,
            encrypted_port: PORT,
            version: String::new(),
            understands: Default::default(),
        };
        let (session, installed) = word.clone().unzip();
        let lease = node as i64 + 1;
        let own =
            Own { name: name.clone(), node: there, lease, endpoints: BTreeMap::new(), session, installed, uses: None };
        for txn in missing(&own, view, &[]).txns {
            self.store.take(&txn, lease);
        }
    }

    fn keeps(&mut self, node: usize, later: u64) {
        self.now += later;
        let fresh = self.secret();
        let Host { view, word, .. } = &self.hosts[node];
        if word.is_some()
            && let Some(txn) = due(view, self.now, INTERVAL, fresh)
        {
            self.store.take(&txn, 0);
        }
    }

    /// Another than any before.
    fn secret(&mut self) -> [u8; 32] {
        self.drawn += 1;
        let mut secret = [232; 32];
        secret[..4].copy_from_slice(&self.drawn.to_be_bytes());
        secret
    }

    fn rekeys(&mut self, node: usize) {
        let fresh = self.secret();
        let view = &self.hosts[node].view;
        if view.unsettled().is_none() && view.is_any_encrypted() {
            self.now += 1;
            let txn = next(view, self.now, fresh);
            self.store.take(&txn, 0);
        }
    }

    fn settles(&mut self) {
        for _ in 0..6 {
            for node in 0..NODES {
                [Deed::Read(node), Deed::Install(node, usize::MAX), Deed::Say(node), Deed::Keep(node, 0)]
                    .iter()
                    .for_each(|deed| self.takes(deed));
            }
        }
    }

    fn assert_no_key_is_made_twice(&self) {
        assert!(self.made.values().all(|times| *times == 1), "a key is used anew from the start");
    }

    /// What a node sends by, to each other.
    fn sends(&self, node: usize) -> impl Iterator<Item = AssociationId> {
        self.hosts[node].kernel.policies.iter().filter_map(|(id, protection)| match (id.peer, protection) {
            (Some(destination), Protection::Esp(spi)) => Some(AssociationId { destination, spi: *spi }),
            _ => None,
        })
    }

    /// Whoever a node sends to has the key.
    fn assert_all_is_read(&self) {
        for node in 0..NODES {
            for id in self.sends(node) {
                let sent = self.hosts[node].kernel.associations.get(&id).expect("what is named is there");
                let receiver = self
                    .hosts
                    .iter()
                    .find(|host| host.kept.as_ref().is_some_and(|kept| kept.session.vtep == id.destination));
                let read = receiver.and_then(|host| host.kernel.associations.get(&id)).expect("the other end has it");
                assert!((sent.keying.0, sent.inbound, read.inbound) == (read.keying.0, false, true));
            }
        }
    }
}

proptest! {
    #[test]
    fn what_one_node_encrypts_the_other_can_read_whoever_does_what_when(
        deeds in prop::collection::vec(deed(false), 1..200),
    ) {
        let mut cluster = Cluster::new(true);
        for deed in &deeds {
            cluster.takes(deed);
        }
    }

    #[test]
    fn no_key_is_used_twice_and_all_pairs_have_the_newest_in_the_end_whatever_is_lost(
        deeds in prop::collection::vec(deed(true), 1..200),
    ) {
        let mut cluster = Cluster::new(false);
        for deed in &deeds {
            cluster.takes(deed);
        }
        cluster.settles();

        cluster.assert_all_is_read();
        let view = cluster.store.view();
        prop_assert_eq!(view.unsettled(), None);
        for node in 0..NODES {
            prop_assert_eq!(cluster.sends(node).count(), NODES - 1);
        }
    }
}

#[test]
fn an_old_generation_stays_while_a_node_waits_for_another_by_whose_word_it_may_begin_with_that() {
    let mut cluster = Cluster::new(true);
    let all = usize::MAX;
    // The other reads of two generations before its peer has said that it has the second, and acts on it when the first is old.
    for deed in [
        Deed::Read(0),
        Deed::Rekey(0),
        Deed::Read(0),
        Deed::Install(0, all),
        Deed::Install(1, all),
        Deed::Read(2),
        Deed::Say(1),
        Deed::Read(1),
        Deed::Say(0),
        Deed::Read(0),
        Deed::Rekey(2),
        Deed::Read(1),
        Deed::Install(1, all),
        Deed::Install(0, all),
        Deed::Say(1),
        Deed::Say(0),
        Deed::Read(1),
        Deed::Read(0),
        Deed::Install(0, all),
        Deed::Read(0),
        Deed::Say(0),
        Deed::Keep(0, 20),
        Deed::Read(0),
        Deed::Keep(0, 0),
        Deed::Install(1, all),
        Deed::Read(0),
        Deed::Install(0, all),
    ] {
        cluster.takes(&deed);
    }

    let generations = cluster.store.view().secrets().map(|(number, ..)| number).collect::<Vec<_>>();
    assert_eq!(generations, [1, 2]);
}

#[test]
fn an_old_generation_goes_when_everybody_sends_by_the_next_and_a_change_waits_for_the_last_one() {
    let mut cluster = Cluster::new(false);
    cluster.settles();
    let generations = |cluster: &Cluster| cluster.store.view().secrets().map(|(number, ..)| number).collect::<Vec<_>>();
    assert_eq!(generations(&cluster), [1]);

    cluster.takes(&Deed::Read(0));
    cluster.takes(&Deed::Rekey(0));
    assert_eq!(generations(&cluster), [1, 2]);
    cluster.takes(&Deed::Read(0));
    cluster.takes(&Deed::Rekey(0));
    assert_eq!(generations(&cluster), [1, 2], "nobody has the second one yet");
    cluster.settles();
    assert_eq!(generations(&cluster), [1, 2], "packets are on their way");
    cluster.takes(&Deed::Keep(0, 20));
    assert_eq!(generations(&cluster), [2]);
    cluster.takes(&Deed::Keep(0, INTERVAL));
    cluster.takes(&Deed::Read(0));
    cluster.takes(&Deed::Keep(0, 0));
    assert_eq!(generations(&cluster), [2, 3], "after its time");
}

#[test]
fn a_secret_is_in_no_log() {
    let mut cluster = Cluster::new(false);
    cluster.settles();

    let said = format!("{:?}", cluster.store.view());

    assert!(said.contains("Secret") && !said.contains("232, 232, 232"), "{said}");
}

#[test]
fn a_secret_of_a_clock_that_was_years_ahead_is_followed_by_one_of_the_right_time() {
    let mut cluster = Cluster::new(false);
    cluster.settles();
    let (years, now) = (1_000_000_000, cluster.now);
    cluster.now += years;
    cluster.takes(&Deed::Read(0));
    cluster.takes(&Deed::Keep(0, 0));
    cluster.settles();
    cluster.now = now;

    for _ in 0..3 {
        cluster.takes(&Deed::Keep(0, 20));
        cluster.settles();
    }

    let view = cluster.store.view();
    let secrets: Vec<_> = view.secrets().map(|(number, secret, _)| (number, secret.created < now + years)).collect();
    assert_eq!(secrets, [(3, true)]);
}

#[test]
fn what_was_said_of_a_store_that_was_put_back_is_not_written_into_it() {
    let mut cluster = Cluster::new(false);
    let early = cluster.store.revision();
    cluster.settles();
    cluster.store.restore(early);

    cluster.takes(&Deed::Read(0));
    cluster.takes(&Deed::Say(0));

    let said = |cluster: &Cluster| cluster.store.view().record(&Key::Installed(name("n0"))).cloned();
    assert_eq!(said(&cluster), None, "these revisions are of other records");
    cluster.settles();
    assert!(said(&cluster).is_some());
    assert_eq!(cluster.store.view().unread().count(), 0);
}

#[test]
fn who_cannot_read_yet_what_another_encrypts_is_named() {
    let mut cluster = Cluster::new(false);
    cluster.settles();
    assert_eq!(cluster.store.view().unread().count(), 0);

    cluster.takes(&Deed::Flush(0));
    cluster.takes(&Deed::Install(0, usize::MAX));
    cluster.takes(&Deed::Say(0));

    let view = cluster.store.view();
    let lines = verified(&view, &name("n0"), &Missing::default(), &BTreeMap::new()).differences;
    for node in ["n1", "n2"] {
        let line = format!("node {node} cannot read yet what node n0 encrypts");
        assert!(lines.contains(&line), "{lines:?}");
    }
}
