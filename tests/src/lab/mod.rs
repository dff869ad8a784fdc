//! The Lab: hosts, wires and containers made of Linux namespaces, for tests and for the demo.
//!
//! Nothing of the machine's own network, mounts or files is touched, and nothing has a name outside: every namespace is
//! held by file descriptors and by one process that dies with this one, so a Lab goes with its last handle, with a panic,
//! and with `kill -9`. Any number of Labs stand side by side.
//!
//! ```ignore
//! let lab = Lab::new();
//! let host = lab.host("host");
//! let internet = lab.host("internet");
//! lab.wire(Offloads::On).from(&host, "eth0", "192.0.2.1/24").to(&internet, "eth0", "192.0.2.2/24");
//! let netd = host.netd();
//! netd.run(["network", "create", "blue"]).ok();
//! let web = host.container("web");
//! ```

mod api;
mod card;
mod command;
mod losses;
mod namespaces;
mod netd;
mod node;
mod snapshot;
pub mod traffic;
mod tunnel;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};

pub use card::Cards;
pub use command::{Outcome, Running, begin, descriptors_are_gone};
pub use losses::Losses;
pub use netd::{Netd, NetdOptions, binary as netd_binary};
pub use node::{Container, Host, Node, assert_no_checksum_errors};
pub use snapshot::{Snapshot, difference, flattened};
pub use tunnel::Tunnel;
pub use wire::{Offloads, Wire};

/// Panics with the command to run unless this process is root. Tests never skip.
///
/// # Panics
/// When the effective user is not root.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the Lab makes network namespaces and loads programs into the kernel, which needs root: run `sudo cargo xtask test`"
    );
}

/// A set of hosts and the wires between them.
#[derive(Default)]
pub struct Lab {
    nodes: Nodes,
}

impl Lab {
    /// An empty Lab.
    ///
    /// # Panics
    /// When not run by root.
    pub fn new() -> Self {
        require_root();
        Self::default()
    }

    /// A private host: its own network, mounts, processes and name, `lo` up, a bpffs at `/sys/fs/bpf`, and empty `/run`,
    /// `/etc/netd` and `/var/lib/netd`, so that `netd daemon` runs there with all its defaults.
    ///
    /// # Panics
    /// When the kernel refuses; the message says what.
    pub fn host(&self, name: &str) -> Host {
        Host::new(name, &self.nodes)
    }

    /// The start of a sentence that lays a wire: `lab.wire(kind).from(&a, "eth0", "192.0.2.1/24").to(&b, "eth0", "192.0.2.2/24")`.
    pub fn wire(&self, offloads: Offloads) -> Wire {
        Wire::new(offloads)
    }

    /// The start of a sentence that joins hosts by two of the machine's own network cards, as [`Lab::wire`] does by a veth pair.
    ///
    /// # Panics
    /// When the machine does not have two that are idle, such as `cargo xtask vm` gives its guests.
    #[track_caller]
    pub fn cards(&self) -> Cards {
        Cards::idle()
    }

    /// Asserts that no host and no container of this Lab has received a packet with a wrong checksum.
    ///
    /// # Panics
    /// When one has, naming it and the counter.
    pub fn assert_no_checksum_errors(&self) {
        let nodes = self.nodes.all();
        assert!(!nodes.is_empty(), "a Lab without hosts has no checksums to look at");
        assert_no_checksum_errors(&nodes.iter().collect::<Vec<_>>());
    }
}

/// Every host and container of a Lab.
#[derive(Clone, Default)]
pub(crate) struct Nodes(Arc<Mutex<Vec<Node>>>);

impl Nodes {
    fn add(&self, node: &Node) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
    }

    fn remove(&self, node: &Node) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !other.is(node));
    }

    fn all(&self) -> Vec<Node> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
