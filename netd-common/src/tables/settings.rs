//! What the daemon sets for all packets.

use bytemuck::{Pod, Zeroable};

use super::Span;

/// Ports from `first` to `last`, both included; empty where `last` is less.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl PortRange {
    /// How many ports it has.
    #[inline(always)]
    pub const fn len(self) -> u32 {
        if self.last < self.first { 0 } else { self.last as u32 - self.first as u32 + 1 }
    }

    /// Whether it has none.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether `port` is one of them.
    #[inline(always)]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// How long a flow lives after its last packet. Indexes [`Settings::timeouts`].
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Timeout {
    /// TCP: a SYN without an answer.
    SynSent = 0,
    /// TCP: answered, the handshake not finished.
    SynReceived = 1,
    /// TCP: established.
    Established = 2,
    /// TCP: one side has closed.
    Closing = 3,
    /// TCP: both sides have closed.
    TimeWait = 4,
    /// TCP: reset.
    Reset = 5,
    /// UDP without an answer.
    UdpUnreplied = 6,
    /// UDP with answers.
    UdpReplied = 7,
    /// ICMP echo.
    Echo = 8,
}

impl Timeout {
    /// How many there are.
    pub const COUNT: usize = 9;
}

/// Value of the settings table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Settings {
    /// Key of the hash that picks where the search for a port starts (RFC 6056 section 3.3.4).
    pub secret: [u32; 2],
    /// Ports that masquerade may take: disjoint from the host's ephemeral range.
    pub pools: [PortRange; 2],
    /// The host's `net.ipv4.ip_local_port_range`: never kept as a masqueraded source port, the host's own sockets use it.
    pub ephemeral: PortRange,
    /// By [`Timeout`].
    pub timeouts: [Span; Timeout::COUNT],
}

/// Elements of the cursor table, a power of two.
pub const CURSORS: u32 = 1024;
