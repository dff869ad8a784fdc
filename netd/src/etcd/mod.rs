//! A client of etcd, by the JSON gateway that every member has beside gRPC (etcd 3.4 and later, `/v3/`): HTTP/1.1, which netd
//! speaks anyway. A build needs no compiler of protocol buffers for it, and which member is asked, for how long and who is next
//! is decided here.
//!
//! A request goes to the member that answered last, and to each of the others before it fails.

mod http;
mod member;
#[cfg(test)]
mod tests;
mod tls;
mod watch;
mod wire;

use std::{path::PathBuf, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use thiserror::Error;
use tokio::time::timeout;

use self::http::{Answer, Connection};
pub use self::{
    member::Member,
    tls::{Tls, TlsError},
    watch::{News, Watch},
};
use crate::cluster::{Range, Txn, View};

/// How long a member may take for a request. One that is cut off from the others takes longer (7 s) and is no use. Members of tests
/// share their machine with much else.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 6 } else { 2 });

/// As many keys are asked for at once: the gateway takes no answer above 4 MiB.
const PAGE: usize = 500;

/// Where etcd is and who asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EtcdConfig {
    /// URLs of its members.
    pub members: Vec<Member>,
    /// Certificate of who signed theirs, as PEM.
    pub ca: Option<PathBuf>,
    /// Our own certificate, as PEM.
    pub cert: Option<PathBuf>,
    /// The key of that, as PEM.
    pub key: Option<PathBuf>,
    /// Who we say we are.
    pub user: Option<User>,
}

/// A user of etcd's own.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum EtcdError {
    /// What was asked may have come to pass all the same.
    #[error("etcd does not answer: {0}")]
    Away(String),
    #[error("etcd refuses: {0}")]
    Refused(String),
    #[error("etcd answers what netd does not understand: {0}")]
    Odd(String),
}

/// What a transaction came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Everything held, and was written by this revision.
    Done(i64),
    /// Something did not hold.
    Not,
}

/// A client.
pub struct Etcd {
    config: EtcdConfig,
    tls: Tls,
    /// The member that answered last.
    current: usize,
    connection: Option<Connection>,
    token: Option<String>,
}

impl Etcd {
    /// Reads the certificates. Nobody is asked yet.
    pub fn new(config: EtcdConfig) -> Result<Self, TlsError> {
        let tls = Tls::new(&config)?;
        Ok(Self { config, tls, current: 0, connection: None, token: None })
    }

    /// Every record of ours, as of one moment.
    pub async fn read(&mut self) -> Result<View, EtcdError> {
        let all = Range::all();
        let (mut from, end) = (all.start().to_owned(), wire::encoded(all.end()));
        let (mut revision, mut found) = (0, Vec::new());
        loop {
            let question = json!({ "key": wire::encoded(&from), "range_end": end, "limit": PAGE.to_string(),
                "revision": revision.to_string() });
            let page: wire::Page = self.ask("/v3/kv/range", &question).await?;
            if revision == 0 {
                revision = page.header.revision;
            }
            let last = page.kvs.last().map(wire::KeyValue::key).transpose()?;
            for kv in page.kvs {
                found.push(kv.event()?);
            }
            match last {
                Some(last) if page.more => from = format!("{last}\0"),
                _ => return Ok(View::read(revision, found)),
            }
        }
    }

    /// Takes a transaction. What goes with a lease goes with `lease`.
    pub async fn take(&mut self, txn: &Txn, lease: i64) -> Result<Outcome, EtcdError> {
        let answer: wire::Taken = self.ask("/v3/kv/txn", &wire::txn(txn, lease)).await?;
        Ok(if answer.succeeded { Outcome::Done(answer.header.revision) } else { Outcome::Not })
    }

    /// A lease that lives this many seconds after it was kept alive.
    pub async fn grant(&mut self, seconds: u32) -> Result<i64, EtcdError> {
        let lease: wire::Lease = self.ask("/v3/lease/grant", &json!({ "TTL": seconds.to_string() })).await?;
        Ok(lease.id)
    }

    /// Keeps a lease alive. Says whether it still was.
    pub async fn keep_alive(&mut self, lease: i64) -> Result<bool, EtcdError> {
        let question = json!({ "ID": lease.to_string() });
        let answer: wire::Streamed<wire::Lease> = self.ask("/v3/lease/keepalive", &question).await?;
        Ok(answer.result.is_some_and(|lease| lease.ttl > 0))
    }

    /// Ends a lease with everything that goes with it.
    pub async fn revoke(&mut self, lease: i64) -> Result<(), EtcdError> {
        let _: serde_json::Value = self.ask("/v3/lease/revoke", &json!({ "ID": lease.to_string() })).await?;
        Ok(())
    }

    /// Every change of our records after this revision, over a connection of its own to the member that answered last.
    pub async fn watch(&mut self, after: i64) -> Result<Watch, EtcdError> {
        let all = Range::all();
        let create = json!({ "create_request": { "key": wire::encoded(all.start()), "range_end": wire::encoded(all.end()),
            "start_revision": (after + 1).to_string(), "progress_notify": true } });
        let connection = self.connected(self.current).await.map_err(EtcdError::Away)?;
        let answer = timeout(PATIENCE, connection.stream("/v3/watch", &create, self.token.as_deref())).await;
        match answer.map_err(|_| EtcdError::Away(format!("{} is silent", self.config.members[self.current])))? {
            Ok(body) => Ok(Watch::new(self.current, body)),
            Err(why) => Err(EtcdError::Away(why)),
        }
    }

    /// Whether another member answers by now than the one that tells: that one may be cut off from the others, and silent.
    pub fn is_beside(&self, watch: &Watch) -> bool {
        watch.member != self.current
    }

    /// The answer of the first member that has one, with a new token where the one we have is none any more.
    async fn ask<T: DeserializeOwned>(&mut self, path: &str, question: &impl Serialize) -> Result<T, EtcdError> {
        for attempt in 0..2 {
            self.ensure_token().await?;
            match self.ask_as_we_are(path, question).await? {
                Answer::Good(body) => return wire::read(&body),
                Answer::Refused { unknown_token: true, .. } if attempt == 0 && self.config.user.is_some() => {
                    self.token = None
                }
                Answer::Refused { why, .. } => return Err(EtcdError::Refused(why)),
            }
        }
        Err(EtcdError::Refused("it knows no token that it has just given".to_owned()))
    }

    async fn ensure_token(&mut self) -> Result<(), EtcdError> {
        let Some(user) = self.config.user.clone().filter(|_| self.token.is_none()) else { return Ok(()) };
        let question = json!({ "name": user.name, "password": user.password });
        match self.ask_as_we_are("/v3/auth/authenticate", &question).await? {
            Answer::Good(body) => self.token = Some(wire::read::<wire::Token>(&body)?.token),
            Answer::Refused { why, .. } => return Err(EtcdError::Refused(format!("user {}: {why}", user.name))),
        }
        Ok(())
    }

    /// Asks one member after the other until one answers.
    async fn ask_as_we_are(&mut self, path: &str, question: &impl Serialize) -> Result<Answer, EtcdError> {
        let members = self.config.members.len();
        let mut silent = Vec::new();
        let first = self.current;
        for member in (0..members).map(|offset| (first + offset) % members) {
            match timeout(PATIENCE, self.ask_member(member, path, question)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(why)) => silent.push(why),
                Err(_) => silent.push(format!("{} is silent", self.config.members[member])),
            }
            self.connection = None;
        }
        Err(EtcdError::Away(silent.join("; ")))
    }

    async fn ask_member(&mut self, member: usize, path: &str, question: &impl Serialize) -> Result<Answer, String> {
        if member != self.current {
            self.connection = None;
        }
        let mut connection = match self.connection.take().filter(Connection::is_open) {
            Some(connection) => connection,
            None => self.connected(member).await?,
        };
        let answer = connection.ask(path, question, self.token.as_deref()).await?;
        (self.current, self.connection) = (member, Some(connection));
        Ok(answer)
    }

    async fn connected(&self, member: usize) -> Result<Connection, String> {
        let member = &self.config.members[member];
        let connecting = timeout(PATIENCE, Connection::open(member, &self.tls)).await;
        connecting.map_err(|_| format!("{member} is silent"))?
    }
}
