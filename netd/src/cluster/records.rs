//! The values of records: JSON objects. A field that is not known is passed over, so that an older netd reads what a newer one
//! of the same schema writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use netd_common::tuple::Mac;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Key, Segments, Uses};
use crate::model::{GatewayMode, Name, Protocol, RemoteAllowance, mac};

/// What a key holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Of [`Key::Incarnation`], [`Key::Drained`] and [`Key::Question`]: it is there, and that is all.
    Mark,
    /// Of [`Key::Network`].
    Network(Box<SharedNetwork>),
    /// Of [`Key::Claim`].
    Claim(Claim),
    /// Of [`Key::Allowance`].
    Allowed(Allowed),
    /// Of [`Key::Node`].
    Node(Node),
    /// Of [`Key::Endpoint`].
    Endpoint(Box<Announcement>),
    /// Of [`Key::Answer`].
    Answer(Box<Answer>),
    /// Of [`Key::Secret`].
    Secret(Secret),
    /// Of [`Key::Session`].
    Session(Session),
    /// Of [`Key::Installed`].
    Installed(Installed),
    /// Of [`Key::Uses`].
    Uses(Uses),
}

/// A node that is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// The revision of [`Key::Incarnation`] at its last start.
    pub incarnation: i64,
    /// Which host it is: two hosts with one name are told apart by it.
    pub host: String,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// UDP port of its tunnels.
    pub vxlan_port: u16,
    /// UDP port of those that are encrypted; 0 of a node that knows of none.
    #[serde(default)]
    pub encrypted_port: u16,
    /// Of its netd.
    pub version: String,
    /// What of networks its netd knows, beside what every netd does.
    #[serde(default)]
    pub understands: BTreeSet<String>,
}

/// A network of all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharedNetwork {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// Its number in tunnels (RFC 7348 section 5), which no other network has.
    pub vni: u32,
    /// At most one of a family, IPv4 first.
    pub subnets: Vec<SharedSubnet>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether it goes encrypted between nodes.
    #[serde(default)]
    pub encrypted: bool,
    /// Whether its containers reach one another only as somebody allowed.
    #[serde(default)]
    pub no_icc: bool,
    /// Who may come to the published ports that say nothing of it; whom each node's configuration lets in, if it is nobody.
    #[serde(default)]
    pub from: Vec<IpNet>,
    /// What a node must know to have part in it: one that does not know all of it leaves it alone.
    #[serde(default)]
    pub requires: BTreeSet<String>,
    /// Whether its containers leave as themselves.
    #[serde(default)]
    pub no_masquerade: bool,
    /// In bytes; what each node's underlay leaves where none is given.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Servers for what is no name of its own.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// The user's own.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What the names of interfaces in its containers begin with, if not with `eth`.
    #[serde(default)]
    pub ifname_prefix: Option<String>,
    /// The options that it was made with.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub created: u64,
}

/// A subnet of a network of all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharedSubnet {
    /// All of its addresses.
    pub subnet: IpNet,
    /// The gateway's, on every node.
    pub gateway: IpAddr,
    /// Where automatic addresses are taken from, if not from the whole subnet.
    #[serde(default)]
    pub ip_range: Option<IpNet>,
    /// What the gateway is to its containers and to the outside.
    #[serde(default)]
    pub gateway_mode: Option<GatewayMode>,
    /// Addresses that are never given out, by name.
    #[serde(default)]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// Whose an address is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The endpoint's node.
    pub node: Name,
    /// The endpoint's name there.
    pub endpoint: Name,
}

/// What may be opened to an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Allowed {
    /// By whom.
    pub from: Party,
    /// To whom.
    pub to: Party,
}

/// An endpoint that has an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Party {
    /// Its node.
    pub node: Name,
    /// Its name there.
    pub endpoint: Name,
    /// The revision that made its claim of the address.
    pub claim: i64,
}

/// An endpoint as its node tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// Its node's when this was written.
    pub incarnation: i64,
    /// Its name.
    pub name: Name,
    /// Its places in networks of all nodes.
    pub places: Vec<Place>,
    /// Its addresses in every network, its node's own too, by the network's name: to be shown.
    #[serde(default)]
    pub networks: BTreeMap<Name, Vec<IpAddr>>,
    /// Its published ports, as `port` prints them.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Those that every node publishes.
    #[serde(default)]
    pub mesh: Vec<MeshPort>,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub created: u64,
}

/// A port that every node publishes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MeshPort {
    /// The network by which the endpoint answers, by its id.
    pub network_id: String,
    /// The endpoint's address there.
    pub address: IpAddr,
    /// The first that clients come to, at every address of each node.
    pub node_port: u16,
    /// The first in the container.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// Of both.
    pub protocol: Protocol,
    /// Who may come; where it is empty, whom each node lets in.
    #[serde(default)]
    pub from: Vec<IpNet>,
}

/// An endpoint's place in a network of all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The network's name.
    pub network: Name,
    /// The network's id: one of the same name that came later is another.
    pub network_id: String,
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its link-layer address there.
    #[serde(with = "mac")]
    pub mac: Mac,
    /// More names for it there.
    #[serde(default)]
    pub aliases: Vec<Name>,
}

/// What a node forwards into tunnels.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The revision of the view that it had made true.
    pub revision: i64,
    /// Every entry of its map.
    pub ways: Vec<Way>,
    /// What it has of allowances in networks of several hosts; an older netd does not say.
    #[serde(default)]
    pub allowances: Option<BTreeSet<RemoteAllowance>>,
    /// What it has of ports that every node publishes; an older netd does not say.
    #[serde(default)]
    pub mesh: Option<MeshAnswer>,
    /// What it has of networks in tunnels; an older netd does not say.
    #[serde(default)]
    pub segments: Option<Segments>,
    /// Whom it still knows as they were, since its own lease was over as theirs was; `None` mostly.
    #[serde(default)]
    pub kept: Option<KeptNodes>,
    /// The networks that it could not take over as all have them, and why, as its own status says it; an older netd does not say.
    #[serde(default)]
    pub absent: BTreeMap<Name, String>,
}

/// Nodes that have not come back yet, and are kept by one that has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeptNodes {
    /// Their VTEPs.
    pub nodes: BTreeMap<Name, IpAddr>,
    /// How many seconds more.
    pub seconds: u64,
}

/// What a node has of ports that every node publishes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MeshAnswer {
    /// The containers of others that it publishes.
    pub ways: Vec<Way>,
    /// The hosts to which answers go back.
    pub hosts: BTreeSet<IpAddr>,
    /// Containers, by their network's number in tunnels and their address, that it does not publish: something of its own has every port.
    pub hidden: BTreeSet<(u32, IpAddr)>,
}

/// An entry of a forwarding map.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Way {
    /// The network's number in tunnels.
    pub vni: u32,
    /// The endpoint's address there.
    pub address: IpAddr,
    /// The endpoint's link-layer address.
    #[serde(with = "mac")]
    pub mac: Mac,
    /// Where the tunnel to it ends.
    pub vtep: IpAddr,
}

/// A generation of the secret that keys of encrypted networks are made of. Who reads it, and the sessions, can read what goes
/// between nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Secret {
    /// Random.
    pub secret: Shared,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub created: u64,
}

/// The bytes of a secret. No log has them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared(#[serde(with = "base64_text")] pub [u8; 32]);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A node's own part in keys: other than any that it ever had.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Random, 32 hexadecimal digits.
    pub id: String,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    /// UDP port of those that are encrypted.
    pub port: u16,
}

/// What a node has in its kernel of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Installed {
    /// It decrypts what is encrypted by every secret and session that was there at this revision.
    pub revision: i64,
    /// The oldest generation of the secret by which it still encrypts.
    pub oldest: u64,
}

impl Record {
    /// The record that `value` is under `key`.
    pub fn read(key: &Key, value: &[u8]) -> Result<Self, String> {
        match key {
            Key::Incarnation(_) | Key::Drained(_) | Key::Question(_) => Ok(Self::Mark),
            Key::Network(_) => parsed(value).map(|network| Self::Network(Box::new(network))),
            Key::Claim(..) => parsed(value).map(Self::Claim),
            Key::Allowance(..) => parsed(value).map(Self::Allowed),
            Key::Node(_) => parsed(value).map(Self::Node),
            Key::Endpoint(..) => parsed(value).map(|endpoint| Self::Endpoint(Box::new(endpoint))),
            Key::Answer(..) => parsed(value).map(|answer| Self::Answer(Box::new(answer))),
            Key::Secret(_) => parsed(value).map(Self::Secret),
            Key::Session(_) => parsed(value).map(Self::Session),
            Key::Installed(_) => parsed(value).map(Self::Installed),
            Key::Uses(_) => parsed(value).map(Self::Uses),
        }
    }

    /// As the store keeps it.
    pub fn value(&self) -> Vec<u8> {
        match self {
            Self::Mark => Vec::new(),
            Self::Network(network) => json(network),
            Self::Claim(claim) => json(claim),
            Self::Allowed(allowed) => json(allowed),
            Self::Node(node) => json(node),
            Self::Endpoint(endpoint) => json(endpoint),
            Self::Answer(answer) => json(answer),
            Self::Secret(secret) => json(secret),
            Self::Session(session) => json(session),
            Self::Installed(installed) => json(installed),
            Self::Uses(uses) => json(uses),
        }
    }
}

/// Bytes as text (RFC 4648 section 4).
mod base64_text {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let bytes = STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("it has not 32 bytes"))
    }
}

fn parsed<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| unreachable!("records have string keys and no errors of their own"))
}
