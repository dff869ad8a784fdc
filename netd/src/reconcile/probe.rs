//! What the doctor sends by a tunnel, and what of it is answered.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use netd_common::tuple::Mac;

use super::{LinkName, Sandbox};

/// Who is on other hosts of networks made by hand, as far as it is known here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stations {
    /// The peer that a link-layer address of a segment was last heard of.
    pub learned: BTreeMap<(u32, Mac), IpAddr>,
    /// Whom a container has spoken with of late, by the path of its namespace, and by which of its interfaces; of IPv4.
    pub neighbours: BTreeMap<PathBuf, Vec<(LinkName, Station)>>,
}

/// Questions to a container of another host, in the name of one that is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TunnelProbe {
    /// What the other host is called: a node's name and address, or a peer's address.
    pub host: String,
    /// Whether it is a peer of a network made by hand, which may run anything.
    pub is_peer: bool,
    /// Its address.
    pub vtep: IpAddr,
    /// The network of both containers.
    pub network: String,
    /// Largest packet of the network, in bytes.
    pub mtu: u32,
    /// The namespace of the one that is here, and its interface there.
    pub sandbox: Sandbox,
    /// See `sandbox`.
    pub ifname: LinkName,
    /// Who asks.
    pub from: Station,
    /// Who is asked.
    pub to: Station,
}

/// A container in a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Station {
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: Mac,
}

/// Which TCP segments were answered, each harder to carry than the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// A small one with its checksum.
    pub small: bool,
    /// A small one whose checksum is left to the device.
    pub summed: bool,
    /// One as large as the network's packets may be, and not to be cut.
    pub full: bool,
    /// One of several times that size, which the device is to cut into segments.
    pub cut: bool,
}

impl Heard {
    /// Everything.
    pub const ALL: Self = Self { small: true, summed: true, full: true, cut: true };
}

/// Each question, and what was heard, or why it could not be asked.
pub type Probed = Vec<(TunnelProbe, Result<Heard, String>)>;
