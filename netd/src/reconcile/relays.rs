//! Ports of the host at which a process of its own is served by the daemon, because no program can lead it to the container.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::model::Protocol;

/// A port of the host: address (unspecified for all), protocol, number.
pub type HostPort = (IpAddr, Protocol, u16);

/// What is to be relayed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Relays {
    /// Where a connection or a datagram comes in, and where it goes.
    pub ports: BTreeMap<HostPort, RelayTarget>,
    /// The host's own addresses, those of its loopback aside: who comes from elsewhere is refused.
    pub own: BTreeSet<IpAddr>,
    /// Published ports that are not relayed, because they are too many.
    pub left_out: usize,
}

/// Where a relayed port leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayTarget {
    /// The container's address and port.
    pub to: SocketAddr,
    /// Who may come; empty for everybody.
    pub from: Vec<IpNet>,
}

impl Relays {
    /// Whether a client at this address may come to a port that leads there: one of the host's own, whom the port lets in.
    pub fn admits(&self, target: &RelayTarget, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let is_own = client.is_loopback() || self.own.contains(&client);
        is_own && (target.from.is_empty() || target.from.iter().any(|net| net.contains(&client)))
    }
}
