//! What becomes of a packet.

use bytemuck::{CheckedBitPattern, checked};

/// The decision about one packet. The hook's last act turns it into what the kernel understands.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// To the stack, and to whoever else is attached.
    Pass,
    /// To the stack too, though a shorter way is known: the host's firewall must see it.
    Show,
    /// Into the network namespace behind this host-side veth, its Ethernet header already written.
    Peer(u32),
    /// Out of this device, to the neighbour in [`Scratch::flow`](crate::tables::Scratch); the kernel writes the Ethernet header.
    Neighbour(u32),
    /// Into this VXLAN device, to the host in [`Scratch::tunnel`](crate::tables::Scratch).
    Tunnel(u32),
    /// Out of this device, its frame as it is.
    Device(u32),
    /// To the stack, as what came by this bridge: past the bridge's own work.
    Host(u32),
    /// Gone, and counted.
    Drop(DropReason),
}

/// A [`Verdict`] in one word: its kind in the low half, what it says of in the high half.
///
/// An enum leaves the bytes undefined that a variant does not use. Where paths meet, LLVM may keep any register there, a
/// pointer too, and the kernel's verifier rejects what is then done to it as a number. In a word every bit is defined.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packed(u64);

impl Verdict {
    /// The same in one word.
    #[inline(always)]
    pub const fn packed(self) -> Packed {
        let (kind, of) = match self {
            Self::Pass => (0, 0),
            // The kernel is asked for the same as with `Pass`.
            Self::Show => (0, 1),
            Self::Peer(device) => (1, device as u64),
            Self::Neighbour(device) => (2, device as u64),
            Self::Tunnel(device) => (3, device as u64),
            Self::Device(device) => (4, device as u64),
            Self::Host(bridge) => (5, bridge as u64),
            Self::Drop(reason) => (6, reason as u64),
        };
        Packed(kind | of << 32)
    }
}

impl Packed {
    /// The word itself.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// That of [`word`](Self::word).
    #[inline(always)]
    pub const fn of_word(word: u64) -> Self {
        Self(word)
    }

    /// The verdict.
    #[inline(always)]
    pub fn verdict(self) -> Verdict {
        let of = (self.0 >> 32) as u32;
        match self.0 as u32 {
            0 if of != 0 => Verdict::Show,
            1 => Verdict::Peer(of),
            2 => Verdict::Neighbour(of),
            3 => Verdict::Tunnel(of),
            4 => Verdict::Device(of),
            5 => Verdict::Host(of),
            6 => Verdict::Drop(DropReason::ALL.get(of as usize).copied().unwrap_or(DropReason::Refused)),
            _ => Verdict::Pass,
        }
    }

    /// Counters before those of the drop reasons: passed, to a peer, to a neighbour, to a tunnel, to a device, shown to the
    /// firewall.
    pub const SENT: usize = 6;

    /// Number of the counter to raise for it, [`Self::SENT`] and more for a drop reason.
    #[inline(always)]
    pub const fn counter(self) -> usize {
        let (kind, of) = (self.0 as u32 as usize, (self.0 >> 32) as usize);
        match kind {
            0 => of * 5,
            1..5 => kind,
            5 => 0,
            _ => Self::SENT + of,
        }
    }

    /// Why it is a drop, if it is one.
    #[inline(always)]
    pub fn reason(self) -> Option<DropReason> {
        let (kind, of) = (self.0 as u32, self.0 >> 32);
        (kind == 6).then(|| checked::try_cast(of).unwrap_or(DropReason::Refused))
    }

    /// Whether the stack gets the packet.
    #[inline(always)]
    pub const fn is_for_stack(self) -> bool {
        matches!(self.0 as u32, 0 | 5)
    }

    /// What the kernel is asked to do.
    #[inline(always)]
    pub const fn action(self) -> Action {
        let of = (self.0 >> 32) as u32;
        match self.0 as u32 {
            0 => Action::Pass,
            1 => Action::Peer(of),
            2 => Action::Neighbour(of),
            3 => Action::Tunnel(of),
            4 => Action::Device(of),
            5 => Action::Host(of),
            _ => Action::Drop,
        }
    }
}

/// A [`Verdict`] without its reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// To the stack.
    Pass,
    /// Into the namespace behind this veth.
    Peer(u32),
    /// Out of this device.
    Neighbour(u32),
    /// Into this VXLAN device.
    Tunnel(u32),
    /// Out of this device as it is.
    Device(u32),
    /// To the stack, by this bridge.
    Host(u32),
    /// Gone.
    Drop,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:tt, $text:literal;)+) => {
        /// Why a packet was dropped. One list serves the counters, the listings and the documentation.
        // A word wide, so that a result with it has no undefined bytes either.
        #[repr(u64)]
        #[derive(CheckedBitPattern, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum DropReason { $($(#[doc = $doc])+ $name = $number,)+ }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in listings and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say, or a header that contradicts itself.
    Malformed = 0, "malformed";
    /// The device has no record (yet, or no longer): container traffic fails closed.
    UnknownDevice = 1, "unknown_device";
    /// A container sent with another link-layer address than its own.
    SpoofedMac = 2, "spoofed_mac";
    /// A container sent with, or claimed by ARP or ND, another address than its own, or sent an ICMP error about another's flow.
    SpoofedAddress = 3, "spoofed_address";
    /// Towards a container of another network.
    Isolated = 4, "isolated";
    /// From outside to a container's own address.
    NotPublished = 5, "not_published";
    /// From an internal network to the outside.
    Internal = 6, "internal";
    /// A TCP segment that opens nothing and belongs to no flow.
    NoFlow = 7, "no_flow";
    /// Every candidate port for this destination is taken.
    PortsExhausted = 8, "ports_exhausted";
    /// The flow table is full, or the kernel has no memory for more of it.
    TableFull = 9, "table_full";
    /// The way out is by a device that netd does not masquerade on, or that has no address of the packet's family.
    UncoveredDevice = 10, "uncovered_device";
    /// The protocol, or this kind of message of it, cannot be translated.
    Untranslatable = 11, "untranslatable";
    /// For a loopback address, from the wire or from a container.
    LoopbackFromWire = 12, "loopback_from_wire";
    /// Transit traffic on a host that is no router but for netd.
    NotARouter = 13, "not_a_router";
    /// A fragment whose flow cannot be known.
    Fragment = 14, "fragment";
    /// The kernel refused to change the packet or to run one of our lookups.
    Refused = 15, "refused";
    /// For a container that is gone.
    NoEndpoint = 16, "no_endpoint";
    /// A question to the resolver while the daemon is away: whoever asks will ask again.
    NoResolver = 17, "no_resolver";
    /// Its answers would be another flow's, and its ports cannot be changed (SCTP).
    TupleTaken = 18, "tuple_taken";
    /// From a source that may not come to the published port (`from=`).
    SourceDenied = 19, "source_denied";
    /// From another host, of a network that this host does not have.
    UnknownSegment = 20, "unknown_segment";
    /// From a host that has no part in the network, or from a container that would speak as its host to the port of a tunnel.
    UnknownVtep = 21, "unknown_vtep";
    /// A container announced itself as a router, or another way than by its gateway.
    SpoofedRouter = 22, "spoofed_router";
    /// Between containers of a network that keeps them apart, and nothing allows it.
    NotAllowed = 23, "not_allowed";
    /// A fragment from outside that came before its first: it was left to the host, whose own it might have been, and was a
    /// container's. Counted when the first comes, besides as passed.
    FragmentOvertook = 24, "fragment_overtook";
    /// Larger than what is on its way, and not to be cut: its sender is told.
    TooBig = 25, "too_big";
    /// Of an encrypted network, from another host or to one, and in clear.
    NotEncrypted = 26, "not_encrypted";
    /// Of an encrypted network, to a host with which no keys are agreed on yet.
    NoKeys = 27, "no_keys";
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gaps() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert_eq!(Verdict::Drop(*reason).packed().verdict(), Verdict::Drop(*reason));
        }
    }
}
