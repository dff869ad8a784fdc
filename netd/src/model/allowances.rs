//! Who may open what to whom in networks that keep their containers apart.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use netd_common::{tables::AllowanceKey, tuple::Port};
use serde::{Deserialize, Serialize};

use super::{Driver, Endpoint, Model, Name, Network, Protocol, Rejection};
use crate::reconcile::Family;

/// What an endpoint allows: who may open something to it, and what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Allowance {
    /// The one that may.
    pub from: Name,
    /// What; everything where it is not said.
    pub port: Option<(u16, Protocol)>,
}

/// An endpoint of this host, or of another: `NAME[@NODE]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Party {
    /// The endpoint.
    pub endpoint: Name,
    /// On which node; where it is not said, this one if it has such an endpoint, else the only one that has.
    pub node: Option<Name>,
}

impl FromStr for Party {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let (name, node) = text.split_once('@').map_or((text, None), |(name, node)| (name, Some(node)));
        Ok(Self { endpoint: name.parse()?, node: node.map(str::parse).transpose()? })
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{}@{node}", self.endpoint),
            None => write!(f, "{}", self.endpoint),
        }
    }
}

/// To whom something is allowed: `DST[@NODE][:PORT[/PROTO]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The endpoint.
    pub to: Party,
    /// What of it; everything where it is not said.
    pub port: Option<(u16, Protocol)>,
}

impl FromStr for Target {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        let malformed = || Rejection::Malformed { given: text.to_owned(), wanted: "DST[@NODE][:PORT[/PROTO]]" };
        let Some((name, port)) = text.split_once(':') else {
            return Ok(Self { to: text.parse()?, port: None });
        };
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let number = number.parse().ok().filter(|number| *number != 0).ok_or_else(malformed)?;
        let protocol = Protocol::named(protocol).ok_or_else(malformed)?;
        Ok(Self { to: name.parse()?, port: Some((number, protocol)) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some((port, protocol)) => write!(f, "{}:{port}/{protocol}", self.to),
            None => write!(f, "{}", self.to),
        }
    }
}

/// Lets `from` open something to a container that a network of this host alone keeps apart from it.
pub fn allow(model: &mut Model, from: &Name, target: &Target) -> Result<(), Rejection> {
    let to = &target.to.endpoint;
    require_two(model, from, to)?;
    if !keeps_apart(model, from, to) {
        return Err(Rejection::NotKeptApart { from: from.clone(), to: to.clone() });
    }
    model.endpoint_mut(to)?.allows.insert(Allowance { from: from.clone(), port: target.port });
    Ok(())
}

/// Takes an allowance back, or every one between the two where no port is named.
pub fn deny(model: &mut Model, from: &Name, target: &Target) -> Result<(), Rejection> {
    model.endpoint(from)?;
    let endpoint = model.endpoint_mut(&target.to.endpoint)?;
    let named =
        |allowance: &Allowance| allowance.from == *from && (target.port.is_none() || allowance.port == target.port);
    if !endpoint.allows.iter().any(named) {
        let everything = endpoint.allows.contains(&Allowance { from: from.clone(), port: None });
        return Err(Rejection::NotAllowed { from: from.clone(), target: target.to_string(), everything });
    }
    endpoint.allows.retain(|allowance| !named(allowance));
    Ok(())
}

/// Refuses what is no two endpoints.
fn require_two(model: &Model, from: &Name, to: &Name) -> Result<(), Rejection> {
    model.endpoint(from)?;
    model.endpoint(to)?;
    if from == to { Err(Rejection::AllowedToItself(from.clone())) } else { Ok(()) }
}

/// The networks whose allowances are this host's own: of others all nodes have them.
fn kept_apart(model: &Model) -> impl Iterator<Item = &Network> {
    model.networks.values().filter(|network| network.no_icc && network.driver == Driver::Bridge)
}

/// Whether two endpoints have a network of this host alone in common that keeps its containers apart.
pub fn keeps_apart(model: &Model, one: &Name, other: &Name) -> bool {
    kept_apart(model).any(|network| {
        let is_in = |name: &Name| model.attachments_of(&network.name).any(|(endpoint, _)| endpoint.name == *name);
        is_in(one) && is_in(other)
    })
}

/// Forgets what was allowed to an endpoint that is gone.
pub fn forget(model: &mut Model, gone: &Name) {
    let allows = |endpoint: &Endpoint| endpoint.allows.iter().any(|allowance| allowance.from == *gone);
    for endpoint in model.endpoints.values_mut().filter(|endpoint| allows(endpoint)) {
        Arc::make_mut(endpoint).allows.retain(|allowance| allowance.from != *gone);
    }
}

/// The table of what is allowed: an entry a network, family and allowance.
pub fn allowed(model: &Model) -> BTreeSet<AllowanceKey> {
    let mut keys = BTreeSet::new();
    for network in kept_apart(model) {
        for (endpoint, at) in model.attachments_of(&network.name) {
            for allowance in &endpoint.allows {
                let Some(from) = model.endpoints.get(&allowance.from) else { continue };
                let theirs = from.attachments.iter().filter(|their| their.network == network.name);
                let pairs = theirs.flat_map(|their| {
                    Family::BOTH.into_iter().filter_map(|family| Some((their.address(family)?, at.address(family)?)))
                });
                keys.extend(pairs.map(|(src, dst)| match allowance.port {
                    Some((port, protocol)) => AllowanceKey::of_port(
                        network.zone(),
                        src.into(),
                        dst.into(),
                        protocol.number(),
                        Port::new(port),
                    ),
                    None => AllowanceKey::of_everything(network.zone(), src.into(), dst.into()),
                }));
            }
        }
    }
    keys
}
