//! The life of a node: it joins, reads, says what it has, listens, and begins again where one of these fails.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::Rng;
use thiserror::Error;
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tracing::warn;

use super::{News, Settings, Wish, Word, answer::Verification, telling::Kept};
use crate::{
    cluster::{
        Compare, Entry, Event, Key, Missing, Node, Op, Own, Record, Txn, View, Wanted, due, known_features, missing,
    },
    etcd::{self, Etcd, EtcdError, Outcome},
};

/// How often everything is read anew, whatever the watch tells.
const READ: Duration = Duration::from_secs(10);

/// How long after a failure the next attempt is.
const RETRY: Duration = Duration::from_secs(1);

/// Rounds of writing and reading anew before it is left to the next time: others write too.
const ROUNDS: usize = 8;

/// Why the node is not one just now.
#[derive(Debug, Error)]
pub enum Fault {
    #[error("{0}")]
    Etcd(#[from] EtcdError),
    #[error("its lease is over")]
    LeaseOver,
    #[error("node {0} was started or removed elsewhere")]
    Fenced(String),
    #[error(
        "the name {name} is taken by the host with VTEP {vtep}: give this one another --node, or wait for that one's lease to end"
    )]
    NameTaken { name: String, vtep: String },
    #[error("the daemon has ended")]
    Over,
}

/// By which the daemon comes in.
pub struct Doors {
    pub wishes: mpsc::Receiver<Wish>,
    pub own: watch::Receiver<Word>,
}

/// A start of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    pub lease: i64,
    pub incarnation: i64,
}

/// The task.
pub struct Task {
    pub etcd: Etcd,
    pub settings: Settings,
    pub view: View,
    pub own: Word,
    /// Claims for endpoints to come.
    pub pending: Vec<Wanted>,
    pub verifications: Vec<Verification>,
    pub life: Option<Life>,
    /// When it was last seen to.
    kept_alive: Instant,
    /// What a full read found that the watch may still tell of, with its revisions.
    untold: BTreeMap<Key, i64>,
    pub kept: Option<Kept>,
    pub news: watch::Sender<News>,
}

impl Task {
    pub fn new(etcd: Etcd, settings: Settings, news: watch::Sender<News>) -> Self {
        Self {
            etcd,
            settings,
            view: View::default(),
            own: Word::default(),
            pending: Vec::new(),
            verifications: Vec::new(),
            life: None,
            kept_alive: Instant::now(),
            untold: BTreeMap::new(),
            kept: None,
            news,
        }
    }

    /// Until the daemon ends.
    pub async fn run(mut self, doors: &mut Doors) {
        loop {
            let Err(fault) = self.live(doors).await;
            if matches!(fault, Fault::Over) {
                return;
            }
            if matches!(fault, Fault::LeaseOver | Fault::Fenced(_) | Fault::NameTaken { .. }) {
                self.life = None;
            }
            if matches!(fault, Fault::LeaseOver) {
                self.keep_others();
            }
            let why = fault.to_string();
            if self.is_away(&why) {
                warn!("not among the nodes: {why}");
            }
            self.end_verifications(&why);
            if !refuse(doors, &mut self.pending, &why, RETRY).await {
                return;
            }
        }
    }

    async fn live(&mut self, doors: &mut Doors) -> Result<Infallible, Fault> {
        self.ensure_life().await?;
        self.read().await?;
        self.own = doors.own.borrow_and_update().clone();
        self.say().await?;
        let mut watch = self.etcd.watch(self.view.revision).await?;
        // It begins after what was read.
        self.untold.clear();
        self.is_back();
        let enough = Instant::now() + self.lease();
        self.keep_until(enough);
        let mut beat = regularly(self.beat());
        let mut reading = regularly(READ);
        loop {
            let patience = self.verifications.iter().map(|verification| verification.until).min();
            select! {
                wish = doors.wishes.recv() => {
                    let wish = wish.ok_or(Fault::Over)?;
                    self.own = doors.own.borrow_and_update().clone();
                    self.meet(wish).await?;
                }
                told = doors.own.changed() => {
                    told.map_err(|_| Fault::Over)?;
                    self.own = doors.own.borrow_and_update().clone();
                    self.say().await?;
                }
                news = watch.next() => self.hear(news?).await?,
                _ = beat.tick() => self.ensure_life().await?,
                _ = reading.tick() => {
                    let has_missed = self.count_missed();
                    self.read().await?;
                    if has_missed || self.etcd.is_beside(&watch) {
                        watch = self.etcd.watch(self.view.revision).await?;
                        self.untold.clear();
                    }
                    self.say().await?;
                }
                () = until(patience) => {}
                () = until(self.kept_until()) => {
                    self.kept = None;
                    self.publish();
                }
            }
            self.keep_secret().await?;
            self.judge().await?;
        }
    }

    /// Keeps the lease alive, or joins anew.
    async fn ensure_life(&mut self) -> Result<(), Fault> {
        let life = match self.life {
            Some(life) if self.etcd.keep_alive(life.lease).await? => life,
            Some(_) => return Err(Fault::LeaseOver),
            None => self.join().await?,
        };
        (self.life, self.kept_alive) = (Some(life), Instant::now());
        self.news.send_modify(|news| {
            news.heard = Some(Instant::now());
            news.incarnation = life.incarnation;
        });
        Ok(())
    }

    /// How often the lease is kept alive.
    fn beat(&self) -> Duration {
        self.lease() / 3
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(self.settings.lease.into())
    }

    async fn join(&mut self) -> Result<Life, Fault> {
        let name = self.settings.node.clone();
        let view = self.etcd.read().await?;
        if let Some(node) = view.node(&name).filter(|node| node.host != self.settings.host) {
            return Err(Fault::NameTaken { name: name.to_string(), vtep: node.vtep.to_string() });
        }
        let key = Key::Incarnation(name);
        let before = match view.entries.get(&key) {
            Some(entry) => Compare::Unchanged(key.clone(), entry.revision),
            None => Compare::Absent(key.clone()),
        };
        let lease = self.etcd.grant(self.settings.lease).await?;
        let txn = Txn { when: vec![before], then: vec![Op::Put(key, Record::Mark)] };
        match self.etcd.take(&txn, lease).await? {
            Outcome::Done(incarnation) => Ok(Life { lease, incarnation }),
            Outcome::Not => Err(Fault::Fenced(self.settings.node.to_string())),
        }
    }

    /// Reads everything. What it finds may be on its way by the watch too.
    pub async fn read(&mut self) -> Result<(), Fault> {
        let view = self.etcd.read().await?;
        self.untold.extend(view.news_to(&self.view));
        self.view = view;
        self.publish();
        self.ensure_no_later_life()
    }

    fn ensure_no_later_life(&self) -> Result<(), Fault> {
        let Some(life) = self.life else { return Ok(()) };
        let entry = self.view.entries.get(&Key::Incarnation(self.settings.node.clone()));
        if entry.is_some_and(|entry| entry.revision == life.incarnation) {
            return Ok(());
        }
        Err(Fault::Fenced(self.settings.node.to_string()))
    }

    /// Counts what an earlier read found and the watch has not told of since. Says whether there is any.
    fn count_missed(&mut self) -> bool {
        let missed = u64::try_from(std::mem::take(&mut self.untold).len()).unwrap_or(u64::MAX);
        if missed > 0 {
            warn!(records = missed, "a full read had found what the watch did not tell of");
            self.news.send_modify(|news| news.missed += missed);
        }
        missed > 0
    }

    async fn hear(&mut self, news: etcd::News) -> Result<(), Fault> {
        let questions = news.events.iter().any(|event| matches!(event, Event::Put(Key::Question(_), _)));
        for event in news.events {
            if let Event::Put(key, _) | Event::Delete(key, _) = &event {
                self.untold.remove(key);
            }
            self.view.apply(event);
        }
        self.view.revision = self.view.revision.max(news.revision);
        if questions {
            // Who asks wants to know whether something was missed.
            return self.read().await;
        }
        self.publish();
        self.ensure_no_later_life()
    }

    /// Writes what the store lacks of what this node has to say.
    pub async fn say(&mut self) -> Result<(), Fault> {
        for _ in 0..ROUNDS {
            let Missing { txns, conflicts } = self.missing();
            self.news.send_if_modified(|news| {
                let differs = news.conflicts != conflicts;
                news.conflicts = conflicts;
                differs
            });
            let mut all_held = true;
            for txn in &txns {
                // A host of many endpoints and an etcd on a slow disk take longer than a lease lives.
                if self.kept_alive.elapsed() >= self.beat() {
                    self.ensure_life().await?;
                }
                all_held &= self.take(txn).await?;
            }
            if txns.is_empty() {
                return Ok(());
            }
            if !all_held {
                self.read().await?;
            }
        }
        Ok(())
    }

    /// Writes what is due of the secret of encrypted networks. Where another has done so first, the watch tells.
    async fn keep_secret(&mut self) -> Result<(), Fault> {
        if self.own.session.is_none() {
            return Ok(());
        }
        let due = due(&self.view, seconds_since_1970(), self.settings.rekey, rand::rng().random());
        match due {
            Some(txn) => self.take(&txn).await.map(drop),
            None => Ok(()),
        }
    }

    /// What the store lacks, as far as is known.
    pub fn missing(&self) -> Missing {
        let pending: Vec<_> = self.pending.iter().map(|(_, id, address)| (id.clone(), *address)).collect();
        self.own().map(|own| missing(&own, &self.view, &pending)).unwrap_or_default()
    }

    pub fn own(&self) -> Option<Own> {
        let Life { lease, incarnation } = self.life?;
        let node = Node {
            incarnation,
            host: self.settings.host.clone(),
            vtep: self.settings.vtep,
            vxlan_port: self.settings.vxlan_port,
            encrypted_port: self.settings.encrypted_port,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            understands: known_features(),
        };
        let Word { endpoints, session, installed, uses } = self.own.clone();
        Some(Own { name: self.settings.node.clone(), node, lease, endpoints, session, installed, uses })
    }

    /// Takes a transaction, and what it wrote into the view. Says whether it held.
    pub async fn take(&mut self, txn: &Txn) -> Result<bool, Fault> {
        let lease = self.life.map_or(0, |life| life.lease);
        let Outcome::Done(revision) = self.etcd.take(txn, lease).await? else { return Ok(false) };
        for op in &txn.then {
            let entry = |record: &Record, lease| Entry { record: record.clone(), revision, lease };
            self.view.note(match op {
                Op::Put(key, record) => Event::Put(key.clone(), entry(record, 0)),
                Op::PutLeased(key, record) => Event::Put(key.clone(), entry(record, lease)),
                Op::Delete(key) => Event::Delete(key.clone(), revision),
            });
        }
        self.publish();
        Ok(true)
    }
}

/// Meets no wish for a while, and says why; but what is given back is not kept, or nobody would ever have it again. Whether the daemon
/// is still there.
pub async fn refuse(doors: &mut Doors, pending: &mut Vec<Wanted>, why: &str, duration: Duration) -> bool {
    let pause = sleep(duration);
    tokio::pin!(pause);
    loop {
        select! {
            () = &mut pause => return true,
            wish = doors.wishes.recv() => match wish {
                Some(Wish::Conclude { addresses }) => pending.retain(|one| !addresses.contains(one)),
                Some(wish) => wish.refuse(why),
                None => return false,
            }
        }
    }
}

/// By the host's clock.
pub fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn regularly(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

/// Ready then; never without a then.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_given_back_while_etcd_is_away_is_not_kept() {
        let address = |last: u8| ("web".parse().unwrap(), "0123456789ab".to_owned(), [10, 9, 0, last].into());
        let (wishes, inbox) = mpsc::channel(1);
        let (_own, said) = watch::channel(Word::default());
        let mut doors = Doors { wishes: inbox, own: said };
        let mut pending: Vec<Wanted> = vec![address(2), address(3)];
        wishes.try_send(Wish::Conclude { addresses: vec![address(2)] }).unwrap();
        drop(wishes);

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let there = runtime.block_on(refuse(&mut doors, &mut pending, "it is away", RETRY));

        assert_eq!((there, pending), (false, vec![address(3)]));
    }
}
