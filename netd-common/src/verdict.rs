//! What becomes of a packet.

/// The decision about one packet. The hook's last act turns it into what the kernel understands.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// To the stack, and to whoever else is attached.
    Pass,
    /// Into the network namespace behind this host-side veth, its Ethernet header already written.
    Peer(u32),
    /// Out of this device, to the neighbour in [`Scratch::flow`](crate::tables::Scratch); the kernel writes the Ethernet header.
    Neighbour(u32),
    /// Gone, and counted.
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was dropped. One list serves the counters, the listings and the documentation.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
    /// A container sent with, or claimed by ARP or ND, another address than its own.
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
    /// The flow table is full.
    TableFull = 9, "table_full";
    /// The way out is by a device that netd does not masquerade on, or that has no address of the packet's family.
    UncoveredDevice = 10, "uncovered_device";
    /// The protocol, or this kind of message of it, cannot be translated.
    Untranslatable = 11, "untranslatable";
    /// A loopback address from the wire.
    LoopbackFromWire = 12, "loopback_from_wire";
    /// Transit traffic on a host that is no router but for netd.
    NotARouter = 13, "not_a_router";
    /// A fragment whose flow cannot be known.
    Fragment = 14, "fragment";
    /// The kernel refused to change the packet or to run one of our lookups.
    Refused = 15, "refused";
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
        }
    }
}
