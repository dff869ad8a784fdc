//! Wires: a veth pair between two hosts, in two kinds.

use super::{Host, Node};

/// Whether the ends of a wire leave checksums to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offloads {
    /// They do: a packet crosses a veth with its checksum unfinished, and nobody notices if it is wrong.
    On,
    /// `tx off`: checksums are finished before the wire and verified after it, as between machines.
    Off,
}

impl Offloads {
    /// Both kinds, for a test to loop over.
    pub const BOTH: [Self; 2] = [Self::On, Self::Off];

    /// Makes this true of an interface.
    ///
    /// # Panics
    /// When it did not come true.
    #[track_caller]
    pub fn apply(self, node: &Node, interface: &str) {
        let word = match self {
            Self::On => "on",
            Self::Off => "off",
        };
        node.run(["ethtool", "-K", interface, "tx", word]).ok();
        let features = node.run(["ethtool", "-k", interface]).ok();
        let wanted = format!("tx-checksumming: {word}");
        assert!(features.lines().any(|line| line.trim() == wanted), "{interface} of {} has no {wanted}", node.name());
    }
}

/// A wire being laid: [`Wire::from`] says where it begins.
#[must_use = "a wire is laid by `.from(…).to(…)`"]
pub struct Wire {
    offloads: Offloads,
}

impl Wire {
    pub(super) fn new(offloads: Offloads) -> Self {
        Self { offloads }
    }

    /// One end: an interface of `host` and its address with the prefix length.
    pub fn from<'a>(self, host: &'a Host, interface: &'a str, address: &'a str) -> WireFrom<'a> {
        WireFrom { offloads: self.offloads, host, interface, address }
    }
}

/// A wire with one end: [`WireFrom::to`] lays it.
#[must_use = "a wire is laid by `.to(…)`"]
pub struct WireFrom<'a> {
    offloads: Offloads,
    host: &'a Host,
    interface: &'a str,
    address: &'a str,
}

impl WireFrom<'_> {
    /// The other end. The wire is up when this returns.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn to(self, host: &Host, interface: &str, address: &str) {
        let near = self.interface;
        let far_netns = host.net_path();
        let pair = format!("ip link add name {near} type veth peer name {interface} netns {far_netns}");
        self.host.run_with_machines_files(pair.split(' ')).ok();
        for (host, interface, address) in [(self.host, near, self.address), (host, interface, address)] {
            host.ip(&format!("address add {address} dev {interface}"));
            self.offloads.apply(host, interface);
        }
        self.host.ip(&format!("link set {near} up"));
        host.ip(&format!("link set {interface} up"));
    }
}
