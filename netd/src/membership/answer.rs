//! How each wish is met.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::Rng;
use tokio::time::Instant;

use super::{
    Denial, Reply, Wish,
    task::{Fault, Task, seconds_since_1970},
};
use crate::{
    cluster::{
        Announcement, Answer, Between, Claim, Compare, Key, Op, Record, SharedNetwork, Taken, Txn, Verified, View,
        Wanted, allow, claim, create, deny, next, publish, remove, rival, verified,
    },
    etcd::Outcome,
    model::{Name, Rejection},
};

/// How long nodes have to answer a question.
const ANSWERS: Duration = Duration::from_secs(3);

/// How often all are asked anew when something has changed meanwhile.
const ASKED: usize = 3;

/// How often ports are taken anew because others told of endpoints at the same time.
const ATTEMPTS: usize = 16;

/// How long a question stays if whoever asked it goes.
const QUESTION: u32 = 30;

/// Operations of a transaction: etcd takes 128 unless told otherwise.
const OPERATIONS: usize = 100;

/// A question that is open.
pub struct Verification {
    id: String,
    lease: i64,
    /// Who has not answered by then does not.
    pub until: Instant,
    /// What the answers are compared with, as it was when all were asked: a difference may be one of two moments.
    as_of: BTreeMap<Key, i64>,
    /// How often all were asked before.
    asked: usize,
    reply: Reply<Verified>,
}

impl Wish {
    /// Says why it is not met.
    pub fn refuse(self, why: &str) {
        let denial = Err(Denial::Away(why.to_owned()));
        // Whoever wished may be gone.
        match self {
            Self::Create { reply, .. }
            | Self::Remove { reply, .. }
            | Self::Claim { reply, .. }
            | Self::Publish { reply, .. }
            | Self::Allow { reply, .. }
            | Self::Settle { reply }
            | Self::Drain { reply, .. }
            | Self::Forget { reply, .. }
            | Self::Rekey { reply } => drop(reply.send(denial)),
            Self::Verify { reply } => drop(reply.send(Err(Denial::Away(why.to_owned())))),
            // What is not claimed in the end is found and given back when everything is read.
            Self::Conclude { .. } | Self::Answer { .. } => {}
        }
    }
}

impl Task {
    /// Meets a wish. An error is etcd's: the wish is refused with it, and the node begins again.
    pub async fn meet(&mut self, wish: Wish) -> Result<(), Fault> {
        match wish {
            Wish::Create { name, network, known, reply } => {
                let made = self.create(&name, &network, &known).await;
                replied(reply, made)
            }
            Wish::Remove { name, reply } => replied(reply, self.remove(&name).await),
            Wish::Claim { endpoint, addresses, reply } => replied(reply, self.claim(&endpoint, &addresses).await),
            Wish::Publish { id, endpoint, reply } => replied(reply, self.take_ports(id, *endpoint).await),
            Wish::Allow { between, allowed, reply } => replied(reply, self.allow(&between, allowed).await),
            Wish::Conclude { addresses } => {
                self.pending.retain(|pending| !addresses.contains(pending));
                self.say().await
            }
            Wish::Settle { reply } => replied(reply, self.say().await.map(Ok)),
            Wish::Drain { node, drained, reply } => replied(reply, self.drain(&node, drained).await),
            Wish::Forget { node, reply } => replied(reply, self.forget(&node).await),
            Wish::Rekey { reply } => replied(reply, self.rekey().await),
            Wish::Answer { question, answer } => self.give_answer(question, answer).await,
            Wish::Verify { reply } => self.begin_verification(reply, 0).await,
        }
    }

    async fn create(
        &mut self,
        name: &Name,
        network: &SharedNetwork,
        known: &Arc<View>,
    ) -> Result<Result<(), Denial>, Fault> {
        self.read().await?;
        if !self.view.networks().eq(known.networks()) {
            return Ok(Err(Denial::Changed));
        }
        let made = self.take(&create(name, network, self.view.revision)).await?;
        if !made {
            self.read().await?;
        }
        Ok(if made { Ok(()) } else { Err(Denial::Changed) })
    }

    async fn remove(&mut self, name: &Name) -> Result<Result<(), Denial>, Fault> {
        self.read().await?;
        let key = Key::Network(name.clone());
        let Some(entry) = self.view.entries.get(&key) else { return Ok(Ok(())) };
        let Record::Network(network) = &entry.record else { return Ok(Ok(())) };
        let users: Vec<String> = self
            .view
            .claims()
            .filter(|((id, _), _)| *id == network.id)
            .map(|(_, Claim { node, endpoint })| format!("{endpoint} on node {node}"))
            .collect();
        if !users.is_empty() {
            let users = std::collections::BTreeSet::from_iter(users).into_iter().collect::<Vec<_>>().join(", ");
            return Ok(Err(Denial::Refused(format!("network {name} is in use by {users}"))));
        }
        let txn = remove(name, &network.id, entry.revision);
        Ok(if self.take(&txn).await? { Ok(()) } else { Err(Denial::Changed) })
    }

    async fn claim(&mut self, endpoint: &Name, addresses: &[Wanted]) -> Result<Result<(), Denial>, Fault> {
        let Some(own) = self.own() else { return Ok(Err(Denial::Changed)) };
        let mut wanted = Vec::new();
        for (network, id, address) in addresses {
            let entry = self.view.entries.get(&Key::Network(network.clone()));
            let Some(entry) = entry.filter(|_| self.view.network(network).is_some_and(|network| network.id == *id))
            else {
                return Ok(Err(Denial::Refused(format!("network {network} is removed"))));
            };
            wanted.push((network.clone(), id.clone(), entry.revision, *address));
        }
        let mine = Claim { node: own.name.clone(), endpoint: endpoint.clone() };
        self.pending.extend(addresses.iter().cloned());
        if self.take(&claim(own.fence(), &mine, &wanted)).await? {
            return Ok(Ok(()));
        }
        self.read().await?;
        // Of a request without an answer it is not known whether it was taken.
        let is_mine = |(_, id, address): &Wanted| {
            self.view.record(&Key::Claim(id.clone(), *address)) == Some(&Record::Claim(mine.clone()))
        };
        if addresses.iter().all(is_mine) {
            return Ok(Ok(()));
        }
        self.pending.retain(|pending| !addresses.contains(pending));
        Ok(Err(Denial::Changed))
    }

    async fn take_ports(&mut self, id: String, mut endpoint: Announcement) -> Result<Result<(), Denial>, Fault> {
        for _ in 0..ATTEMPTS {
            self.read().await?;
            let Some(own) = self.own() else { break };
            if let Some((port, Taken { node, endpoint: by, port: taken })) = rival(&self.view, &own.name, &endpoint) {
                let protocol = taken.publication.protocol;
                let rejection = Rejection::MeshTaken { port, protocol, by, node };
                return Ok(Err(Denial::Refused(rejection.to_string())));
            }
            endpoint.incarnation = own.node.incarnation;
            let key = Key::Endpoint(own.name.clone(), id.clone());
            if self.take(&publish(own.fence(), key, &endpoint, self.view.revision)).await? {
                return Ok(Ok(()));
            }
        }
        Ok(Err(Denial::Changed))
    }

    async fn allow(&mut self, between: &Between, allowed: bool) -> Result<Result<(), Denial>, Fault> {
        self.read().await?;
        let txn = if allowed {
            let Some(txn) = allow(&self.view, between) else { return Ok(Err(Denial::Changed)) };
            txn
        } else {
            match deny(&self.view, between) {
                Ok(txn) => txn,
                Err(rejection) => return Ok(Err(Denial::Refused(rejection.to_string()))),
            }
        };
        Ok(if self.take(&txn).await? { Ok(()) } else { Err(Denial::Changed) })
    }

    async fn drain(&mut self, node: &Name, drained: bool) -> Result<Result<(), Denial>, Fault> {
        self.read().await?;
        let known = Key::Incarnation(node.clone());
        let Some(entry) = self.view.entries.get(&known) else { return Ok(Err(no_node(node))) };
        let when = vec![Compare::Unchanged(known, entry.revision)];
        let key = Key::Drained(node.clone());
        let then = vec![if drained { Op::Put(key, Record::Mark) } else { Op::Delete(key) }];
        Ok(if self.take(&Txn { when, then }).await? { Ok(()) } else { Err(Denial::Changed) })
    }

    async fn forget(&mut self, node: &Name) -> Result<Result<(), Denial>, Fault> {
        self.read().await?;
        if !self.view.known_nodes().any(|known| known == node) {
            return Ok(Err(no_node(node)));
        }
        if self.view.node(node).is_some() {
            return Ok(Err(Denial::Refused(format!(
                "node {node} is there: stop its daemon, and wait for its lease to end"
            ))));
        }
        let claims = self.view.claims().filter(|(_, claim)| claim.node == *node);
        let mut gone: Vec<Key> = claims.map(|((id, address), _)| Key::Claim(id.to_owned(), address)).collect();
        gone.extend([Key::Session(node.clone()), Key::Installed(node.clone()), Key::Uses(node.clone())]);
        gone.extend([Key::Drained(node.clone()), Key::Incarnation(node.clone())]);
        for keys in gone.chunks(OPERATIONS) {
            let when = vec![Compare::Absent(Key::Node(node.clone()))];
            let then = keys.iter().cloned().map(Op::Delete).collect();
            if !self.take(&Txn { when, then }).await? {
                return Ok(Err(Denial::Changed));
            }
        }
        Ok(Ok(()))
    }

    async fn rekey(&mut self) -> Result<Result<(), Denial>, Fault> {
        self.read().await?;
        if !self.view.is_any_encrypted() {
            return Ok(Err(Denial::Refused("no network is encrypted".to_owned())));
        }
        if let Some(node) = self.view.unsettled() {
            let why = format!("node {node} has not taken the keys of the last change into use yet: try again");
            return Ok(Err(Denial::Refused(why)));
        }
        let txn = next(&self.view, seconds_since_1970(), rand::rng().random());
        Ok(if self.take(&txn).await? { Ok(()) } else { Err(Denial::Changed) })
    }

    async fn give_answer(&mut self, question: String, answer: Box<Answer>) -> Result<(), Fault> {
        let asked = Key::Question(question.clone());
        let Some(entry) = self.view.entries.get(&asked) else { return Ok(()) };
        let lease = entry.lease;
        let when = vec![Compare::Unchanged(asked, entry.revision)];
        let key = Key::Answer(question, self.settings.node.clone());
        // Whoever asked may have gone, and its lease with it.
        let _ = self.etcd.take(&Txn { when, then: vec![Op::PutLeased(key, Record::Answer(answer))] }, lease).await;
        Ok(())
    }

    async fn begin_verification(&mut self, reply: Reply<Verified>, asked: usize) -> Result<(), Fault> {
        let id = format!("{:016x}", rand::rng().random::<u64>());
        let begin = async {
            let lease = self.etcd.grant(QUESTION).await?;
            let ask = Txn { when: Vec::new(), then: vec![Op::PutLeased(Key::Question(id.clone()), Record::Mark)] };
            self.etcd.take(&ask, lease).await.map(|_: Outcome| lease)
        };
        match begin.await {
            Ok(lease) => {
                self.verifications.push(Verification {
                    id,
                    lease,
                    until: Instant::now() + ANSWERS,
                    as_of: compared(&self.view),
                    asked,
                    reply,
                });
                Ok(())
            }
            Err(error) => {
                // Whoever asked may be gone.
                let _ = reply.send(Err(Denial::Away(error.to_string())));
                Err(error.into())
            }
        }
    }

    /// Ends the verifications that all nodes have answered or that have waited long enough.
    pub async fn judge(&mut self) -> Result<(), Fault> {
        let answers = |view: &View, id: &str| -> BTreeMap<Name, Answer> {
            let answers = view.entries.iter().filter_map(|(key, entry)| match (key, &entry.record) {
                (Key::Answer(question, node), Record::Answer(answer)) if question == id => {
                    Some((node.clone(), (**answer).clone()))
                }
                _ => None,
            });
            answers.collect()
        };
        let now = Instant::now();
        let is_ripe = |verification: &Verification| {
            let answers = answers(&self.view, &verification.id);
            verification.until <= now || self.view.nodes().all(|(node, _)| answers.contains_key(node))
        };
        let Some(index) = self.verifications.iter().position(is_ripe) else { return Ok(()) };
        let Verification { id, lease, as_of, asked, reply, .. } = self.verifications.remove(index);
        self.read().await?;
        let verified = verified(&self.view, &self.settings.node, &self.missing(), &answers(&self.view, &id));
        self.etcd.revoke(lease).await?;
        if !verified.differences.is_empty() && asked < ASKED && as_of != compared(&self.view) {
            return self.begin_verification(reply, asked + 1).await;
        }
        // Whoever asked may be gone.
        let _ = reply.send(Ok(verified));
        Ok(())
    }

    /// Nobody answers any more.
    pub fn end_verifications(&mut self, why: &str) {
        for Verification { reply, .. } in self.verifications.drain(..) {
            // Whoever asked may be gone.
            let _ = reply.send(Err(Denial::Away(why.to_owned())));
        }
    }
}

/// The records that say what every node forwards, by their revisions.
fn compared(view: &View) -> BTreeMap<Key, i64> {
    let is_one = |key: &Key| {
        matches!(
            key,
            Key::Network(_) | Key::Claim(..) | Key::Allowance(..) | Key::Node(_) | Key::Endpoint(..) | Key::Session(_)
        )
    };
    view.entries.iter().filter(|(key, _)| is_one(key)).map(|(key, entry)| (key.clone(), entry.revision)).collect()
}

fn no_node(node: &Name) -> Denial {
    Denial::Refused(format!("there is no node {node}"))
}

/// Replies, also where etcd has failed, which is then the node's fault to mend.
fn replied(reply: Reply, result: Result<Result<(), Denial>, Fault>) -> Result<(), Fault> {
    let (answer, fault) = match result {
        Ok(answer) => (answer, Ok(())),
        Err(fault) => (Err(Denial::Away(fault.to_string())), Err(fault)),
    };
    // Whoever wished may be gone.
    let _ = reply.send(answer);
    fault
}
