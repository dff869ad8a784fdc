//! The packet in hand, seen through offsets and values. The seam between one body of logic and two worlds.

use crate::{
    chapter::Chapter,
    checksum::Delta,
    parse::Noted,
    tables::{Scratch, Tables, TunnelKey},
    verdict::{DropReason, Packed},
};

/// Length of an Ethernet header without tags.
pub const ETH: usize = 14;

/// What a change that a transport checksum covers belongs to. The two differ where the checksum is left to the device: the
/// field then holds the sum of the pseudo-header alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Covers {
    /// The pseudo-header: an address.
    PseudoHeader,
    /// The segment itself: a port or an identifier.
    Segment,
}

/// How a transport protocol writes its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zero {
    /// Zero is a sum like any other: TCP, ICMP.
    IsASum,
    /// Zero says that there is none, and a sum of zero is written as `0xffff`: UDP (RFC 768).
    MeansNone,
}

impl Zero {
    /// The sum `field` as the protocol writes it.
    #[inline(always)]
    pub fn written(self, field: [u8; 2]) -> [u8; 2] {
        if self == Self::MeansNone && field == [0; 2] { [0xff; 2] } else { field }
    }
}

/// What a `from_*` hook notes on a packet for the hooks after it on this host. Every `from_*` hook writes it first, so that
/// nothing can be brought along.
#[repr(u16)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label {
    /// Nothing is known: the host itself sends it.
    None = 0,
    /// One of our hooks has seen it come, and nothing is decided.
    Came = 0x6e63,
    /// One of our hooks has decided about it and translated what had to be.
    Approved = 0x6e64,
    /// As `Approved`, and it leaves this host encrypted or not at all.
    Sealed = 0x6e65,
}

/// A packet that can be read and rewritten.
///
/// Offsets count from the first byte of the Ethernet header; of a packet without one, from where it would be. What is out of
/// bounds is [`DropReason::Malformed`], and so is a header that is not there.
pub trait Packet {
    /// Whether it has an Ethernet header. At a device of layer 3 (tun, WireGuard, PPP) a packet begins with its IP header.
    fn has_link_header(&self) -> bool;

    /// Gives it an Ethernet header with these link-layer addresses, the destination's first, and, if it has none, this
    /// ethertype. The last step before it goes to a device with such headers.
    fn put_link_header(&mut self, macs: [u8; 12], ethertype: [u8; 2]) -> Result<(), DropReason>;

    /// Makes the first `bytes` bytes readable where they are, as far as the packet has so many: the kernel keeps the rest of
    /// a packet elsewhere.
    fn reach(&mut self, bytes: usize);

    /// `N` bytes at `at`.
    fn read<const N: usize>(&self, at: usize) -> Result<[u8; N], DropReason>;

    /// Puts `bytes` at `at`. Checksums stay as they are.
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Result<(), DropReason>;

    /// Tells the IPv4 header checksum at `at` what changed in the header.
    fn replace_l3(&mut self, at: usize, delta: Delta) -> Result<(), DropReason>;

    /// Tells the transport checksum at `at` what changed under it.
    fn replace_l4(&mut self, at: usize, delta: Delta, covers: Covers, zero: Zero) -> Result<(), DropReason>;

    /// Tells a device's sum of the whole packet, where there is one, what changed without a checksum that makes up for it: an
    /// IPv6 header has none of its own.
    fn replace_sum(&mut self, delta: Delta);

    /// Its whole length in bytes, with the Ethernet header that it has or would have.
    fn length(&self) -> usize;

    /// Payload bytes of each segment it will be cut into, 0 where it goes out as it is (GSO).
    fn segment_size(&self) -> usize;

    /// Whether it is of a virtual LAN, whose tag the kernel keeps beside the bytes.
    fn is_tagged(&self) -> bool;

    /// Takes a tag that is of no LAN and tells a priority alone (VID 0, IEEE 802.1Q) off a packet that has one, which is to the
    /// kernel as one without: it does the same behind the programs. Whether the packet is of no LAN; one that is may have been of
    /// another beneath.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] for a packet with another such tag beneath, [`DropReason::Refused`] by the kernel.
    fn shed_priority(&mut self) -> Result<bool, DropReason>;

    /// Whether its frame is addressed to another station, which a promiscuous device receives all the same.
    fn is_for_another(&self) -> bool;

    /// Fills in the host and the segment that it came from; false where no VXLAN device has unwrapped it.
    fn came_through(&self, from: &mut TunnelKey) -> bool;

    /// Sends a copy of it into a VXLAN device, to a host.
    fn copy_into_tunnel(&mut self, device: u32, to: &TunnelKey);

    /// Makes it `length` bytes long, of headers that are read: for what takes its place.
    fn cut(&mut self, length: usize) -> Result<(), DropReason>;

    /// Makes room for `bytes` bytes after the Ethernet header, zero.
    fn insert(&mut self, bytes: usize) -> Result<(), DropReason>;

    /// Index of the device at whose hook it is.
    fn device(&self) -> u32;

    /// Index of the device by which the stack received it, 0 if this host sent it.
    fn came_by(&self) -> u32;

    /// The mark that netfilter and the host's routing see.
    fn mark(&self) -> u32;

    /// Gives it this mark.
    fn set_mark(&mut self, mark: u32);

    /// What an earlier hook noted.
    fn label(&self) -> Label;

    /// Notes something for later hooks.
    fn set_label(&mut self, label: Label);

    /// Makes what is known of the value in this memory forgotten, that it is one of a few too: what comes after is then the same for
    /// each. Changes nothing.
    fn forget(&self, noted: &mut Noted);

    /// Has a chapter of its story told, as [`chapter::tell`](crate::chapter::tell) tells it.
    fn tell<T: Tables>(&mut self, chapter: Chapter, t: &T, s: &mut Scratch, with: u64) -> Packed
    where
        Self: Sized;
}
