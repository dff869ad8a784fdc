//! The table: who reaches what, by the mode of its network's gateway.
//!
//! It follows Docker's own tests (`integration/network/bridge` of moby), cell by cell, but for those that [`UNLIKE`] names.

/// The networks of the table, in the order of its columns: name and what it is made with.
pub const NETWORKS: [(&str, &str); 7] = [
    ("nat", ""),
    ("unprotected", "--gateway-mode nat-unprotected"),
    ("routed", "--gateway-mode routed"),
    ("isolated", "--internal --gateway-mode isolated"),
    ("internal", "--internal"),
    ("apart", "--no-icc"),
    ("unmasked", "--no-masquerade"),
];

/// Who asks. Those that begin with `Far` are at or behind another host than what is asked, where the network spans hosts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asker {
    /// A client on the wire, with a route to every network by the host.
    Outside,
    /// The host itself.
    Host,
    /// A container of another network, which is `nat`'s like.
    Other,
    /// Another container of the network.
    Same,
    /// The container itself.
    Own,
    /// A client on the wire, with a route to every network by the other host.
    FarOutside,
    /// The other host itself.
    FarHost,
    /// A container of another network there.
    FarOther,
    /// Another container of the network there.
    FarSame,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asked {
    /// The host's address and port at which the container's port is published.
    HostPort,
    /// The other host's address and the port at which every host publishes the container's.
    MeshPort,
    /// The published port at the container's own address.
    Published,
    /// Another port there.
    Unpublished,
    /// An echo there.
    Ping,
    /// A service of the asker's host at the network's gateway.
    Gateway,
    /// The same service at the address on the wire of the container's host.
    HostService,
    /// A server outside, beside the asker's host.
    Outward,
}

use Asked::{Gateway, HostPort, HostService, MeshPort, Outward, Ping, Published, Unpublished};
use Asker::{FarHost, FarOther, FarOutside, FarSame, Host, Other, Outside, Own, Same};

const Y: bool = true;
const N: bool = false;

/// A row: who asks, what, and a column a network, in the order of [`NETWORKS`].
pub type Row = (Asker, Asked, [bool; 7]);

/// What holds on one host, whatever the network's driver.
#[rustfmt::skip]
pub const ON_ONE_HOST: [Row; 27] = [
    //                     nat unprot. routed isol. intern. apart unmasked
    (Outside, HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Outside, Published,   [N,   Y,      Y,    N,    N,      N,    N]),
    (Outside, Unpublished, [N,   Y,      N,    N,    N,      N,    N]),
    (Outside, Ping,        [N,   Y,      Y,    N,    N,      N,    N]),
    (Outside, Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Host,    HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Host,    Published,   [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Host,    Unpublished, [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Host,    Ping,        [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Host,    Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Other,   HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Other,   Published,   [N,   Y,      Y,    N,    N,      N,    N]),
    (Other,   Unpublished, [N,   Y,      N,    N,    N,      N,    N]),
    (Other,   Ping,        [N,   Y,      Y,    N,    N,      N,    N]),
    (Other,   Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Same,    HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Same,    Published,   [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (Same,    Unpublished, [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (Same,    Ping,        [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (Same,    Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Own,     HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Own,     Published,   [Y,   Y,      Y,    Y,    Y,      Y,    Y]),
    (Own,     Unpublished, [Y,   Y,      Y,    Y,    Y,      Y,    Y]),
    (Own,     Ping,        [Y,   Y,      Y,    Y,    Y,      Y,    Y]),
    (Own,     Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (Own,     HostService, [Y,   Y,      Y,    N,    N,      Y,    Y]),
    (Own,     Outward,     [Y,   Y,      Y,    N,    N,      Y,    Y]),
];

/// What holds besides where a network spans hosts: on the wire, and for processes of a host, another host's containers are at the ports
/// that are published, since no stack has a way to them. A container that keeps its address (`unmasked`) does not reach the ports that another host publishes
/// at addresses of its own: to that host it is a neighbour that comes by the wire, whom it would not answer there.
#[rustfmt::skip]
pub const ACROSS_HOSTS: [Row; 24] = [
    //                        nat unprot. routed isol. intern. apart unmasked
    (FarOutside, HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (FarOutside, Published,   [N,   N,      N,    N,    N,      N,    N]),
    (FarOutside, Ping,        [N,   N,      N,    N,    N,      N,    N]),
    (FarHost,    HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (FarHost,    Published,   [N,   N,      N,    N,    N,      N,    N]),
    (FarHost,    Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (FarOther,   HostPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (FarOther,   Published,   [N,   N,      N,    N,    N,      N,    N]),
    (FarOther,   Ping,        [N,   N,      N,    N,    N,      N,    N]),
    (FarSame,    HostPort,    [Y,   Y,      N,    N,    N,      Y,    N]),
    (FarSame,    Published,   [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (FarSame,    Unpublished, [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (FarSame,    Ping,        [Y,   Y,      Y,    Y,    Y,      N,    Y]),
    (FarSame,    Gateway,     [Y,   Y,      Y,    N,    Y,      Y,    Y]),
    (FarSame,    Outward,     [Y,   Y,      Y,    N,    N,      Y,    Y]),
    (Outside,    MeshPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (FarOutside, MeshPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Host,       MeshPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Other,      MeshPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (Same,       MeshPort,    [Y,   Y,      N,    N,    N,      Y,    N]),
    (Own,        MeshPort,    [Y,   Y,      N,    N,    N,      Y,    N]),
    (FarOther,   MeshPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (FarSame,    MeshPort,    [Y,   Y,      N,    N,    N,      Y,    Y]),
    (FarHost,    MeshPort,    [N,   N,      N,    N,    N,      N,    N]),
];

/// Cells that are not as in Docker, and why.
pub const UNLIKE: [(Asker, Asked, &str, &str); 1] = [(
    Outside,
    Unpublished,
    "unprotected",
    "TCP, UDP, SCTP and pings are let in, and no other protocol: nothing would tell its answers from what a container opens",
)];
