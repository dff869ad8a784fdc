//! This host's place among the nodes: what the daemon's task keeps of it, and the task that talks with etcd, on a thread of its
//! own, so that neither waits for the other's work.
//!
//! The daemon says what it has ([`Membership::tell`]) and wishes; the task says what all have ([`News`]). Of both only the last
//! word counts, so nothing is ever missed that matters.

mod answer;
#[cfg(test)]
mod played;
mod task;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use self::task::{Doors, Task};
use crate::{
    cluster::{
        Announcement, Answer, Between, Installed, KeptNodes, Session, SharedNetwork, Uses, Verified, View, Wanted,
    },
    etcd::{Etcd, EtcdConfig},
    model::Name,
};

/// Wishes that wait while one is met.
const WAITING: usize = 64;

/// How long the daemon waits for a wish: everybody else waits with it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing is known of the others where netd itself has failed.
const ENDED: &str = "netd's own task for it has ended";

/// Who this host is among the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Its name.
    pub node: Name,
    /// Which host it is, whatever its name: drawn once, and kept.
    pub host: String,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// UDP port of its tunnels.
    pub vxlan_port: u16,
    /// UDP port of those that are encrypted.
    pub encrypted_port: u16,
    /// Seconds after which the secret of encrypted networks gets another generation.
    pub rekey: u64,
    /// It is out when nothing is heard of it for so many seconds.
    pub lease: u32,
    /// Where etcd is.
    pub etcd: EtcdConfig,
}

/// What the host says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Word {
    /// Its endpoints, by id.
    pub endpoints: BTreeMap<String, Announcement>,
    /// Its part in keys, if it has one.
    pub session: Option<Session>,
    /// What it has in its kernel of keys.
    pub installed: Option<Installed>,
    /// Which addresses it uses beside those of networks of all; `None` before it has looked.
    pub uses: Option<Uses>,
}

/// How the host stands with the others.
#[derive(Clone, Debug)]
pub struct News {
    /// What all have, as of the last read or event. `None` before the first.
    pub view: Option<Arc<View>>,
    /// Why etcd cannot be used just now, and since when; `None` while it can.
    pub away: Option<(Instant, String)>,
    /// When etcd last said something.
    pub heard: Option<Instant>,
    /// Records that a full read found and no event had told of, since the start.
    pub missed: u64,
    /// This node's, since its last start or return.
    pub incarnation: i64,
    /// Addresses of ours that others have, one line each.
    pub conflicts: Vec<String>,
    /// The other nodes that are not back yet and are kept in `view`, by their VTEPs, and until when.
    pub kept: Option<(BTreeMap<Name, IpAddr>, Instant)>,
}

impl News {
    /// Whom this node keeps, as it says when it is asked.
    pub fn keeps(&self) -> Option<KeptNodes> {
        let (nodes, until) = self.kept.clone()?;
        Some(KeptNodes { nodes, seconds: until.saturating_duration_since(Instant::now()).as_secs() })
    }
}

/// Why a wish is not met.
#[derive(Debug, Error)]
pub enum Denial {
    #[error("etcd is away, and networks of several hosts change by it alone: {0}")]
    Away(String),
    /// What it was decided by is not so any more: look again.
    #[error("it was changed at the same time from another host: try again")]
    Changed,
    #[error("{0}")]
    Refused(String),
}

/// Where the reply to a wish goes.
type Reply<T = ()> = oneshot::Sender<Result<T, Denial>>;

enum Wish {
    Create {
        name: Name,
        network: Box<SharedNetwork>,
        known: Arc<View>,
        reply: Reply,
    },
    Remove {
        name: Name,
        reply: Reply,
    },
    Claim {
        endpoint: Name,
        addresses: Vec<Wanted>,
        reply: Reply,
    },
    /// An endpoint is told of before its ports are published on every node.
    Publish {
        id: String,
        endpoint: Box<Announcement>,
        reply: Reply,
    },
    /// For these no endpoint is to come any more.
    Conclude {
        addresses: Vec<Wanted>,
    },
    /// Something may be opened between two containers, or may no more.
    Allow {
        between: Box<Between>,
        allowed: bool,
        reply: Reply,
    },
    /// What the daemon has said last is written.
    Settle {
        reply: Reply,
    },
    Drain {
        node: Name,
        drained: bool,
        reply: Reply,
    },
    Forget {
        node: Name,
        reply: Reply,
    },
    /// The secret gets another generation.
    Rekey {
        reply: Reply,
    },
    Answer {
        question: String,
        answer: Box<Answer>,
    },
    Verify {
        reply: Reply<Verified>,
    },
}

/// What the daemon's task keeps.
pub struct Membership {
    settings: Settings,
    wishes: mpsc::Sender<Wish>,
    own: watch::Sender<Word>,
    news: watch::Receiver<News>,
    answered: BTreeSet<String>,
}

impl Membership {
    /// Starts the task, with what the host has. It ends with this.
    pub fn start(settings: Settings, own: Word) -> Result<Self> {
        let etcd = Etcd::new(settings.etcd.clone())?;
        let (wishes, inbox) = mpsc::channel(WAITING);
        let (own, said) = watch::channel(own);
        let first =
            News { view: None, away: None, heard: None, missed: 0, incarnation: 0, conflicts: Vec::new(), kept: None };
        let (telling, news) = watch::channel(first);
        let task = Task::new(etcd, settings.clone(), telling);
        let mut doors = Doors { wishes: inbox, own: said };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        thread::Builder::new()
            .name("membership".to_owned())
            .spawn(move || runtime.block_on(task.run(&mut doors)))
            .context("cannot start a thread")?;
        Ok(Self { settings, wishes, own, news, answered: BTreeSet::new() })
    }

    /// Who this host is.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The last word.
    pub fn news(&self) -> News {
        let news = self.news.borrow().clone();
        self.said_by_nobody(news)
    }

    /// Ready when there is a word that [`Membership::seen`] has not returned.
    pub async fn changed(&mut self) {
        if self.news.changed().await.is_err() {
            // The task is no more; there will be no news.
            std::future::pending::<()>().await;
        }
    }

    /// The last word, taken as known.
    pub fn seen(&mut self) -> News {
        let news = self.news.borrow_and_update().clone();
        self.said_by_nobody(news)
    }

    /// Where the task is no more, nothing is known of the others any more, whatever it said last.
    fn said_by_nobody(&self, news: News) -> News {
        if self.news.has_changed().is_ok() {
            return news;
        }
        let since = news.heard.unwrap_or_else(Instant::now);
        News { away: Some((since, format!("{ENDED}: start the daemon anew"))), ..news }
    }

    /// Says what the host has. The task writes it when it can.
    pub fn tell(&self, own: Word) {
        self.own.send_if_modified(|said| {
            let differs = *said != own;
            *said = own;
            differs
        });
    }

    /// Makes a network, if the networks are still those of the view that it was chosen by.
    pub async fn create(&self, name: &Name, network: SharedNetwork, known: Arc<View>) -> Result<(), Denial> {
        self.wish(|reply| Wish::Create { name: name.clone(), network: Box::new(network), known, reply }).await
    }

    /// Removes a network that nobody is in.
    pub async fn remove(&self, name: &Name) -> Result<(), Denial> {
        self.wish(|reply| Wish::Remove { name: name.clone(), reply }).await
    }

    /// Takes addresses for an endpoint to come: [`Membership::tell`] of it, if it comes, then [`Membership::conclude`] the claim.
    pub async fn claim(&self, endpoint: &Name, addresses: Vec<Wanted>) -> Result<(), Denial> {
        let claimed =
            self.wish(|reply| Wish::Claim { endpoint: endpoint.clone(), addresses: addresses.clone(), reply });
        let claimed = claimed.await;
        if let Err(Denial::Away(_)) = claimed {
            // It may have been granted since.
            self.conclude(addresses).await;
        }
        claimed
    }

    /// Takes the ports that an endpoint is to have on every node: [`Membership::tell`] of it, or of what it was.
    pub async fn publish(&self, id: String, endpoint: Announcement) -> Result<(), Denial> {
        self.wish(|reply| Wish::Publish { id, endpoint: Box::new(endpoint), reply }).await
    }

    /// Has something allowed between two containers, or no more.
    pub async fn allow(&self, between: Between, allowed: bool) -> Result<(), Denial> {
        self.wish(|reply| Wish::Allow { between: Box::new(between), allowed, reply }).await
    }

    /// Ends a claim: from here on its addresses are those of endpoints that the host tells of, and what none has goes back.
    pub async fn conclude(&self, addresses: Vec<Wanted>) {
        // A task that is no more has no claims.
        let _ = self.wishes.send(Wish::Conclude { addresses }).await;
    }

    /// Waits until what was told last is written, or cannot be.
    pub async fn settle(&self) -> Result<(), Denial> {
        self.wish(|reply| Wish::Settle { reply }).await
    }

    /// Lets a node take no more endpoints, or again some.
    pub async fn drain(&self, node: &Name, drained: bool) -> Result<(), Denial> {
        self.wish(|reply| Wish::Drain { node: node.clone(), drained, reply }).await
    }

    /// Forgets a node that is not there, with its addresses.
    pub async fn forget(&self, node: &Name) -> Result<(), Denial> {
        self.wish(|reply| Wish::Forget { node: node.clone(), reply }).await
    }

    /// Has the keys of encrypted networks change.
    pub async fn rekey(&self) -> Result<(), Denial> {
        self.wish(|reply| Wish::Rekey { reply }).await
    }

    /// Whether a view has questions that are not answered yet.
    pub fn is_asked(&self, view: &View) -> bool {
        view.questions().any(|id| !self.answered.contains(id))
    }

    /// Answers the questions of a view that are not answered yet.
    pub async fn answer(&mut self, view: &View, answer: Answer) {
        let open: Vec<String> = view.questions().filter(|id| !self.answered.contains(*id)).map(str::to_owned).collect();
        self.answered.retain(|id| view.questions().any(|open| open == id));
        for question in open {
            self.answered.insert(question.clone());
            // A task that is no more is asked nothing.
            let answer = Box::new(answer.clone());
            let _ = self.wishes.send(Wish::Answer { question, answer }).await;
        }
    }

    /// Asks every node what it forwards. What comes of it is told when all have answered or have had time to.
    pub async fn verify(&self) -> oneshot::Receiver<Result<Verified, Denial>> {
        let (reply, differences) = oneshot::channel();
        let _ = self.wishes.send(Wish::Verify { reply }).await;
        differences
    }

    async fn wish(&self, wish: impl FnOnce(Reply) -> Wish) -> Result<(), Denial> {
        let silent = || Denial::Away(format!("it has not answered for {} s", PATIENCE.as_secs()));
        let (reply, answer) = oneshot::channel();
        let ended = |_| Denial::Away(ENDED.to_owned());
        let asking = async {
            self.wishes.send(wish(reply)).await.map_err(|_| ended(()))?;
            answer.await.map_err(|_| ended(()))?
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(silent()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_has_ended_is_not_taken_for_one_that_has_nothing_to_say() {
        let (mut membership, telling, _said) = Membership::played("a");
        assert!(membership.news().away.is_none());

        drop(telling);

        for news in [membership.news(), membership.seen()] {
            let (_, why) = news.away.expect("it is said");
            assert!(why.starts_with("netd's own task for it has ended"), "{why}");
        }
    }
}
