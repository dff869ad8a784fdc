//! The names of records. All begin with [`PREFIX`], which holds the version of the schema: a change that an older netd would
//! misread takes the next one.

use std::{fmt, net::IpAddr, str::FromStr};

use super::Opening;
use crate::model::{Name, Protocol};

/// What every key begins with.
pub const PREFIX: &str = "/netd/v1/";

/// What comes next, of every kind of record.
const KINDS: [&str; 13] = [
    "addresses",
    "allowances",
    "answers",
    "drained",
    "endpoints",
    "incarnations",
    "installed",
    "networks",
    "nodes",
    "questions",
    "secrets",
    "sessions",
    "uses",
];

/// Whether this netd knows records of a kind.
pub fn is_kind(kind: &str) -> bool {
    KINDS.contains(&kind)
}

/// The name of a record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// Written at every start of a node: its revision is the node's incarnation. Stays when the node goes.
    Incarnation(Name),
    /// There while a node takes no more endpoints. Stays when the node goes.
    Drained(Name),
    /// A network.
    Network(Name),
    /// An address of a network, by the network's id. Stays when the node goes: its containers may still have it.
    Claim(String, IpAddr),
    /// What one address of a network may open to another, by the network's id and the one that is opened to. Stays when a node goes,
    /// and holds no longer than the claims of both.
    Allowance(String, IpAddr, IpAddr, Opening),
    /// A node that is there. Goes with the node's lease.
    Node(Name),
    /// An endpoint of a node, by its id. Goes with the node's lease.
    Endpoint(Name, String),
    /// Somebody wants every node to say what it forwards.
    Question(String),
    /// What a node says to that.
    Answer(String, Name),
    /// A generation of what keys of encrypted networks are made of.
    Secret(u64),
    /// A node's own part in them. Stays when the node goes.
    Session(Name),
    /// What a node has installed of them. Stays when the node goes.
    Installed(Name),
    /// Which addresses a node uses beside those of networks of all. Stays when the node goes: it may come back.
    Uses(Name),
}

/// Keys that begin alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range(String);

impl Range {
    /// All of ours.
    pub fn all() -> Self {
        Self(PREFIX.to_owned())
    }

    /// Every network.
    pub fn networks() -> Self {
        Self(format!("{PREFIX}networks/"))
    }

    /// Every endpoint.
    pub fn endpoints() -> Self {
        Self(format!("{PREFIX}endpoints/"))
    }

    /// Every address of a network that somebody has, by the network's id.
    pub fn claims_of(network: &str) -> Self {
        Self(format!("{PREFIX}addresses/{network}/"))
    }

    /// The first key.
    pub fn start(&self) -> &str {
        &self.0
    }

    /// The key after the last one: the last byte, a slash, by one more.
    pub fn end(&self) -> String {
        format!("{}0", self.0.trim_end_matches('/'))
    }

    /// Whether a key is one of these.
    #[cfg(test)]
    pub fn contains(&self, key: &Key) -> bool {
        key.to_string().starts_with(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::Incarnation(node) => write!(f, "incarnations/{node}"),
            Self::Drained(node) => write!(f, "drained/{node}"),
            Self::Network(name) => write!(f, "networks/{name}"),
            Self::Claim(network, address) => write!(f, "addresses/{network}/{address}"),
            Self::Allowance(network, dst, src, port) => {
                write!(f, "allowances/{network}/{dst}/{src}/")?;
                match port {
                    Some((port, protocol)) => write!(f, "{protocol}-{port}"),
                    None => f.write_str("all"),
                }
            }
            Self::Node(node) => write!(f, "nodes/{node}"),
            Self::Endpoint(node, id) => write!(f, "endpoints/{node}/{id}"),
            Self::Question(id) => write!(f, "questions/{id}"),
            Self::Answer(question, node) => write!(f, "answers/{question}/{node}"),
            Self::Secret(generation) => write!(f, "secrets/{generation}"),
            Self::Session(node) => write!(f, "sessions/{node}"),
            Self::Installed(node) => write!(f, "installed/{node}"),
            Self::Uses(node) => write!(f, "uses/{node}"),
        }
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.strip_prefix(PREFIX).ok_or(())?.split('/').collect();
        let name = |text: &str| text.parse::<Name>().map_err(drop);
        match parts[..] {
            ["incarnations", node] => Ok(Self::Incarnation(name(node)?)),
            ["drained", node] => Ok(Self::Drained(name(node)?)),
            ["networks", network] => Ok(Self::Network(name(network)?)),
            ["addresses", network, address] => Ok(Self::Claim(network.to_owned(), address.parse().map_err(drop)?)),
            ["allowances", network, dst, src, opening] => {
                let address = |text: &str| text.parse().map_err(drop);
                Ok(Self::Allowance(network.to_owned(), address(dst)?, address(src)?, read_opening(opening).ok_or(())?))
            }
            ["nodes", node] => Ok(Self::Node(name(node)?)),
            ["endpoints", node, id] => Ok(Self::Endpoint(name(node)?, id.to_owned())),
            ["questions", id] => Ok(Self::Question(id.to_owned())),
            ["answers", question, node] => Ok(Self::Answer(question.to_owned(), name(node)?)),
            ["secrets", generation] => Ok(Self::Secret(generation.parse().map_err(drop)?)),
            ["sessions", node] => Ok(Self::Session(name(node)?)),
            ["installed", node] => Ok(Self::Installed(name(node)?)),
            ["uses", node] => Ok(Self::Uses(name(node)?)),
            _ => Err(()),
        }
    }
}

fn read_opening(text: &str) -> Option<Opening> {
    if text == "all" {
        return Some(None);
    }
    let (protocol, port) = text.split_once('-')?;
    Some(Some((port.parse().ok()?, Protocol::named(protocol)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let ip = |text: &str| text.parse().unwrap();
        let keys = [
            Key::Incarnation(name("a.b")),
            Key::Drained(name("a-b")),
            Key::Network(name("web_1")),
            Key::Claim("0123456789ab".into(), "10.0.0.1".parse().unwrap()),
            Key::Claim("0123456789ab".into(), "fd00::1".parse().unwrap()),
            Key::Allowance("0123456789ab".into(), ip("10.0.0.1"), ip("10.0.0.2"), None),
            Key::Allowance("0123456789ab".into(), ip("fd00::1"), ip("fd00::2"), Some((53, Protocol::Udp))),
            Key::Node(name("a")),
            Key::Endpoint(name("a"), "ba9876543210".into()),
            Key::Question("q".into()),
            Key::Answer("q".into(), name("a")),
            Key::Secret(10),
            Key::Session(name("a")),
            Key::Installed(name("a")),
            Key::Uses(name("a")),
        ];
        for key in keys {
            assert!(is_kind(key.to_string().split('/').nth(3).unwrap()), "{key}");
            assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn what_is_no_key_of_this_version_is_none() {
        for text in
            ["/netd/v1/nodes/", "/netd/v1/nodes/a/b", "/netd/v2/nodes/a", "/netd/v1/addresses/x/y", "nodes/a", ""]
        {
            assert_eq!(text.parse::<Key>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_range_holds_what_begins_alike_and_ends_behind_it() {
        let (claims, other) = (Range::claims_of("ab"), Range::claims_of("abc"));
        let key = Key::Claim("ab".into(), "10.0.0.1".parse().unwrap());
        assert!(claims.contains(&key) && !other.contains(&key) && Range::all().contains(&key));
        assert!(claims.start() < key.to_string().as_str() && key.to_string() < claims.end());
        assert_eq!(claims.end(), "/netd/v1/addresses/ab0");
    }
}
