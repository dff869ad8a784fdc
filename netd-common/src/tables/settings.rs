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
    /// No port.
    pub const NONE: Self = Self { first: 1, last: 0 };

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
    /// ICMPv6 echo.
    EchoV6 = 9,
    /// SCTP: what opens an association or a path of one, without an answer.
    SctpOpening = 10,
    /// SCTP: answered.
    SctpEstablished = 11,
}

impl Timeout {
    /// How many there are.
    pub const COUNT: usize = 12;
}

/// Value of the settings table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Settings {
    /// Key of the hash that picks where the search for a port starts (RFC 6056 section 3.3.4).
    pub secret: [u32; 2],
    /// Ports that masquerade may take: disjoint from the host's ephemeral range.
    pub pools: [PortRange; 2],
    /// Ports that masquerade takes where the pools have none left for a destination: the host's own range, each port
    /// looked up against its sockets, and guarded against those that come later.
    pub second: PortRange,
    /// The host's `net.ipv4.ip_local_port_range`: never kept as a masqueraded source port, the host's own sockets use it.
    pub ephemeral: PortRange,
    /// How the way of a packet that leaves is found: one of [`Routing`].
    pub routing: u32,
    /// By [`Timeout`].
    pub timeouts: [Span; Timeout::COUNT],
    /// What the host's own firewall may say.
    pub firewall: Firewall,
}

/// How the way of a packet that leaves a container's network is found.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routing {
    /// Programs ask the host's routing for a packet without a mark.
    Asked = 0,
    /// The stack alone knows: the host picks routes by what no program is told (marks that netfilter sets, the type of service).
    ByStack = 1,
    /// Programs ask for a packet with the mark that containers' packets have in the stack ([`Firewall::mark`]).
    AskedWithMark = 2,
}

impl Routing {
    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::ByStack => "stack",
            Self::AskedWithMark => "asked_with_mark",
        }
    }
}

/// How packets that enter or leave by an uplink stand to the host's own firewall.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Firewall {
    /// Bits that a packet of a container's carries in its mark while the stack has it; 0 for none.
    pub mark: u32,
    /// Another number for each ruleset, 0 where there is none that could stop a packet: then no flow has anything to prove.
    pub generation: u16,
    /// Of [`firewall_flags`].
    pub flags: u16,
}

/// Flags of a [`Firewall`].
pub mod firewall_flags {
    /// No flow ever leaves the stack's way.
    pub const ALWAYS_STACK: u16 = 1;
    /// nf_conntrack follows connections: none may leave its sight before it bears gaps in what it sees.
    pub const TRACKED: u16 = 2;
}

/// Elements of the cursor table, a power of two.
pub const CURSORS: u32 = 1024;

/// Elements of the table of searches: by how many ports were tried, failures first.
pub const SEARCHES: u32 = crate::nat::PROBES + 1;

/// Value of the table of reserved ports (`net.ipv4.ip_local_reserved_ports`): a bit each, which masquerade leaves alone.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct ReservedPorts([u64; 1024]);

impl ReservedPorts {
    /// Those of some ranges.
    pub fn of(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut ports = Self([0; 1024]);
        for port in ranges.into_iter().flat_map(|range| range.first..=range.last) {
            ports.0[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        ports
    }

    /// Whether this port is one of them.
    #[inline(always)]
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] & 1 << (port & 63) != 0
    }

    /// As ranges, apart from one another, in order.
    pub fn ranges(&self) -> impl Iterator<Item = PortRange> {
        let mut next = 0;
        core::iter::from_fn(move || {
            let first = (next..=u32::from(u16::MAX)).find(|port| self.contains(*port as u16))?;
            let end = (first..=u32::from(u16::MAX)).find(|port| !self.contains(*port as u16)).unwrap_or(65_536);
            next = end;
            Some(PortRange { first: first as u16, last: (end - 1) as u16 })
        })
    }
}
