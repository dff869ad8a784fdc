//! What the gateway reads and writes: protocol buffers as JSON, with bytes in base 64 and numbers of 64 bits as strings.

use std::{fmt::Display, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};

use super::EtcdError;
use crate::cluster::{Compare, Entry, Event, Key, Op, Range, Record, Txn};

/// What every answer has.
#[derive(Debug, Default, Deserialize)]
pub struct Header {
    /// The store's.
    #[serde(default, deserialize_with = "number")]
    pub revision: i64,
}

/// A part of a range.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    /// Whether there is more than was asked for.
    #[serde(default)]
    pub more: bool,
}

/// A key and what it holds.
#[derive(Debug, Deserialize)]
pub struct KeyValue {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default, deserialize_with = "number")]
    mod_revision: i64,
    #[serde(default, deserialize_with = "number")]
    lease: i64,
}

/// What became of a transaction.
#[derive(Debug, Deserialize)]
pub struct Taken {
    pub header: Header,
    #[serde(default)]
    pub succeeded: bool,
}

/// A lease.
#[derive(Debug, Deserialize)]
pub struct Lease {
    #[serde(rename = "ID", default, deserialize_with = "number")]
    pub id: i64,
    /// Seconds; 0 of one that is over.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub ttl: i64,
}

/// Who we are, for a while.
#[derive(Debug, Deserialize)]
pub struct Token {
    pub token: String,
}

/// One answer of several.
#[derive(Debug, Deserialize)]
pub struct Streamed<T> {
    pub result: Option<T>,
    pub error: Option<Value>,
}

/// Changes that a watch tells of.
#[derive(Debug, Deserialize)]
pub struct Changes {
    #[serde(default)]
    pub header: Header,
    #[serde(default)]
    pub events: Vec<Change>,
    /// Whether this only says that the watch is there: what happened before that is told next.
    #[serde(default)]
    pub created: bool,
    /// Whether nothing more comes.
    #[serde(default)]
    pub canceled: bool,
    #[serde(default)]
    pub cancel_reason: String,
}

/// One of them.
#[derive(Debug, Deserialize)]
pub struct Change {
    /// `DELETE`, or nothing for a put.
    #[serde(default, rename = "type")]
    kind: String,
    kv: KeyValue,
}

impl KeyValue {
    pub fn key(&self) -> Result<String, EtcdError> {
        let bytes = decoded(&self.key)?;
        String::from_utf8(bytes).map_err(|_| EtcdError::Odd("a key that is no text".to_owned()))
    }

    /// The record as one that was put.
    pub fn event(self) -> Result<Event, EtcdError> {
        let (name, value) = (self.key()?, decoded(&self.value)?);
        let (revision, lease) = (self.mod_revision, self.lease);
        let Ok(key) = name.parse::<Key>() else {
            return Ok(Event::Unreadable(name, revision, "no key of this version of netd".to_owned()));
        };
        Ok(match Record::read(&key, &value) {
            Ok(record) => Event::Put(key, Entry { record, revision, lease }),
            Err(why) => Event::Unreadable(name, revision, why),
        })
    }
}

impl Change {
    /// What it is, unless it is a removal of what we do not know.
    pub fn event(self) -> Result<Option<Event>, EtcdError> {
        if self.kind != "DELETE" {
            return self.kv.event().map(Some);
        }
        Ok(self.kv.key()?.parse().ok().map(|key| Event::Delete(key, self.kv.mod_revision)))
    }
}

/// A transaction as the gateway takes it.
pub fn txn(txn: &Txn, lease: i64) -> Value {
    let when: Vec<Value> = txn.when.iter().map(compare).collect();
    let then: Vec<Value> = txn.then.iter().map(|op| operation(op, lease)).collect();
    json!({ "compare": when, "success": then })
}

fn compare(compare: &Compare) -> Value {
    let of_key = |key: &Key| json!({ "key": encoded(key.to_string()), "result": "EQUAL" });
    let of_range = |range: &Range| json!({ "key": encoded(range.start()), "range_end": encoded(range.end()) });
    let with = |mut value: Value, more: Value| {
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        value
    };
    match compare {
        Compare::Absent(key) => with(of_key(key), json!({ "target": "CREATE", "create_revision": "0" })),
        Compare::Unchanged(key, revision) => {
            with(of_key(key), json!({ "target": "MOD", "mod_revision": revision.to_string() }))
        }
        // Of a range it must hold for every key, and for one that is not there if there is none.
        Compare::Empty(range) => {
            with(of_range(range), json!({ "target": "CREATE", "result": "EQUAL", "create_revision": "0" }))
        }
        Compare::NothingNewer(range, revision) => with(
            of_range(range),
            json!({ "target": "MOD", "result": "LESS", "mod_revision": (revision + 1).to_string() }),
        ),
    }
}

fn operation(op: &Op, lease: i64) -> Value {
    match op {
        Op::Put(key, record) => {
            json!({ "requestPut": { "key": encoded(key.to_string()), "value": encoded(record.value()) } })
        }
        Op::PutLeased(key, record) => json!({ "requestPut": {
            "key": encoded(key.to_string()), "value": encoded(record.value()), "lease": lease.to_string() } }),
        Op::Delete(key) => json!({ "requestDeleteRange": { "key": encoded(key.to_string()) } }),
    }
}

/// Bytes as the gateway takes them.
pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn decoded(text: &str) -> Result<Vec<u8>, EtcdError> {
    BASE64_STANDARD.decode(text).map_err(|error| EtcdError::Odd(error.to_string()))
}

/// An answer.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, EtcdError> {
    serde_json::from_slice(body).map_err(|error| EtcdError::Odd(error.to_string()))
}

/// A number of 64 bits.
fn number<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
