//! What encrypts networks between hosts: the kernel's security associations and policies (IPsec, RFC 4301), desired or observed.
//!
//! Policies select by the UDP port that encrypted networks have for themselves. Outward that of a host names the one association
//! that is used, by its SPI, and everything else to that port is blocked; inward nothing comes to the port that was not decrypted.
//! So nothing depends on an order, and what is missing stops traffic instead of letting it through in clear.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use super::{Family, State, Step};

/// Bytes of the keying material of AES-GCM in ESP with a 256-bit key: the key and a salt (RFC 4106 section 8.1).
pub const KEYING: usize = 32 + 4;

/// Which association it is, in the kernel's table of those of ESP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AssociationId {
    /// The host that decrypts.
    pub destination: IpAddr,
    /// Security parameters index (RFC 4303 section 2.1).
    pub spi: u32,
}

/// A security association of ESP in transport mode, with extended sequence numbers, AES-GCM and a key of 256 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Association {
    /// The host that encrypts.
    pub source: IpAddr,
    /// UDP port of the tunnels that it is for.
    pub port: u16,
    /// Whether this host decrypts by it.
    pub inbound: bool,
    /// Whether its options are as they were made.
    pub intact: bool,
    /// What it encrypts by.
    pub keying: Keying,
}

/// Keying material. Any equals any other: the kernel need not tell it, and the SPI, which is made of the same secret, says which it
/// is.
#[derive(Clone, Copy, Eq)]
pub struct Keying(pub [u8; KEYING]);

impl Keying {
    /// Of an association whose own is not known.
    pub const UNKNOWN: Self = Self([0; KEYING]);

    /// Whether something may be encrypted by it.
    pub fn is_known(&self) -> bool {
        self.0 != Self::UNKNOWN.0
    }
}

impl PartialEq for Keying {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Keying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Which packets a policy is for: UDP datagrams to a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PolicyId {
    /// Those that come, else those that leave.
    pub inbound: bool,
    /// Of this family.
    pub family: Family,
    /// To this host; `None` for every one.
    pub peer: Option<IpAddr>,
    /// To this port.
    pub port: u16,
}

/// What a policy wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// Nothing passes.
    Block,
    /// What passes is encrypted by the association with this SPI; 0 for any of ours.
    Esp(u32),
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ipsec {
    /// The associations.
    pub associations: BTreeMap<AssociationId, Association>,
    /// The policies.
    pub policies: BTreeMap<PolicyId, Protection>,
}

impl Ipsec {
    /// What holds at a port whatever keys there are: nothing leaves, and nothing comes that was not encrypted.
    pub fn guard(port: u16) -> impl Iterator<Item = (PolicyId, Protection)> {
        Family::BOTH.into_iter().flat_map(move |family| {
            let at = |inbound| PolicyId { inbound, family, peer: None, port };
            [(at(false), Protection::Block), (at(true), Protection::Esp(0))]
        })
    }

    /// Whether that holds at a port.
    pub fn guards(&self, port: u16) -> bool {
        Self::guard(port).all(|(id, protection)| self.policies.get(&id) == Some(&protection))
    }

    /// Forgets the associations that are not among those found, and the policies that name them: what was only ever found in the
    /// kernel cannot be made again, since its keys are not known, nor may they be used anew from the start.
    pub fn forget_lost(&mut self, found: &Self) {
        self.associations.retain(|id, _| found.associations.contains_key(id));
        let associations = &self.associations;
        self.policies.retain(|policy, protection| match (policy.peer, protection) {
            (Some(destination), Protection::Esp(spi)) => {
                associations.contains_key(&AssociationId { destination, spi: *spi })
            }
            _ => true,
        });
    }

    /// The hosts to which something can be sent.
    pub fn peers(&self) -> impl Iterator<Item = IpAddr> {
        self.policies.iter().filter(|(id, _)| !id.inbound).filter_map(|(id, _)| id.peer)
    }
}

/// What goes when nothing uses it any more, after the devices whose packets it is for.
pub fn departures(desired: &State, observed: &State) -> Vec<Step> {
    let policies = observed.ipsec.policies.keys().filter(|id| !desired.ipsec.policies.contains_key(id));
    policies.map(|id| Step::RemovePolicy(*id)).collect()
}

/// What comes before the devices whose packets it is for: an association before the policy that names it.
pub fn arrivals(desired: &State, observed: &State) -> Vec<Step> {
    let (wanted, found) = (&desired.ipsec, &observed.ipsec);
    let associations = wanted.associations.iter().filter(|(id, one)| found.associations.get(id) != Some(one));
    let policies = wanted.policies.iter().filter(|(id, one)| found.policies.get(id) != Some(one));
    associations
        .map(|(id, association)| Step::PutAssociation(*id, *association))
        .chain(policies.map(|(id, protection)| Step::PutPolicy(*id, *protection)))
        .collect()
}

/// Associations that no policy names any more.
pub fn leftovers(desired: &State, observed: &State) -> Vec<Step> {
    let kept: BTreeSet<_> = desired.ipsec.associations.keys().collect();
    let gone = observed.ipsec.associations.keys().filter(|id| !kept.contains(id));
    gone.map(|id| Step::RemoveAssociation(*id)).collect()
}

impl fmt::Display for AssociationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the security association {:#010x} to {}", self.spi, self.destination)
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inbound, family, peer, port } = self;
        let way = if *inbound { "from" } else { "to" };
        match peer {
            Some(peer) => write!(f, "the policy for UDP port {port} {way} {peer}"),
            None => write!(f, "the policy for UDP port {port} {way} anywhere of {family}"),
        }
    }
}
