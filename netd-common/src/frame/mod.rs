//! A frame in the driver's buffer of an uplink (XDP), before the kernel makes a packet of it.
//!
//! First packets of clients that a port does not let in are dropped ([`deny`]), and what goes on with a flow of the mesh is passed
//! on to its container's host ([`pass_on`]): what `from_uplink` would do, and less. What has options or extensions, is a fragment,
//! opens, ends or is noted on a flow, or is not understood goes there: flows are made and kept in one place.

mod deny;
mod outer;
mod pass_on;

pub use outer::outer;

use crate::{
    packet::ETH,
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, IPV4_HEADER, IPV6_HEADER, Part, Transport, tcp_flags},
    tables::{
        Device, EndpointKey, Flow, Instant, MeshEnd, NextHop, Publications, Scratch, Segment, Settings, SourceKey,
    },
    tuple::{Address, Port, TCP, Tuple, UDP, Zone, echo},
    verdict::{DropReason, Packed, Verdict},
};

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// The checksum field of a datagram that has no checksum (RFC 768).
const NO_CHECKSUM: [u8; 2] = [0, 0];

/// A frame in the driver's buffer. Offsets count from the first byte of its Ethernet header.
pub trait Frame {
    /// Index of the device that received it.
    fn device(&self) -> u32;

    /// Its length in bytes.
    fn length(&self) -> usize;

    /// `N` bytes at `at`; `None` past its end.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Puts `bytes` at `at`; `None` past its end.
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()>;

    /// Makes it longer by `bytes` bytes before its first, which are anything; `None` where there is no room, and then it is as it was.
    fn prepend(&mut self, bytes: usize) -> Option<()>;

    /// Leaves the first `length` bytes of it; `None` where it has fewer.
    fn cut(&mut self, length: usize) -> Option<()>;
}

/// What is looked up.
pub trait Tables: Publications {
    /// This moment.
    fn now(&self) -> Instant;

    /// The settings; `None` before the daemon has written them.
    fn settings(&self) -> Option<&Settings>;

    /// The record of a device.
    fn device(&self, ifindex: u32) -> Option<&Device>;

    /// Whether a list of sources has this address.
    fn is_source(&self, key: &SourceKey) -> bool;

    /// Whether this is an address of the host, those of its loopback aside.
    fn is_hosts(&self, address: &Address) -> bool;

    /// Whether there is a flow with this tuple.
    fn has_flow(&self, tuple: &Tuple) -> bool;

    /// Copies the flow with this key; false if there is none.
    fn flow(&self, key: &Tuple, flow: &mut Flow) -> bool;

    /// Whether a UDP socket of the host is connected to the sender of a packet with this tuple, and would get it.
    fn has_connected(&self, tuple: &Tuple) -> bool;

    /// The segment with this VNI.
    fn segment(&self, vni: u32) -> Option<&Segment>;

    /// Another host's end of what is published on every host.
    fn mesh_end(&self, key: &EndpointKey) -> Option<&MeshEnd>;

    /// Fills in the way of an IP packet of so many bytes that comes by a device and has this tuple, by
    /// [`NextHop::peer`]: true if the host's routing sends it back by the same device, where it fits, to a neighbour whose link-layer
    /// address is known. The source is the device's own.
    fn find_way_back(&self, device: u32, tuple: &Tuple, length: u32, next: &mut NextHop) -> bool;

    /// A number that nobody can foretell.
    fn random(&self) -> u32;
}

/// What becomes of a frame that comes by an uplink. What goes to another host ([`Verdict::Tunnel`]) is whole then, and leaves by the
/// device that it came by.
#[inline(always)]
pub fn meet<F: Frame, T: Tables>(frame: &mut F, t: &T, s: &mut Scratch) -> Packed {
    let Some(plain) = read(frame, &mut s.key) else { return Verdict::Pass.packed() };
    if !plain.decides()
        && let Some(passed_on) = pass_on::pass_on(frame, t, s, &plain)
    {
        return passed_on;
    }
    if plain.may_open() && deny::is_denied(t, s).unwrap_or(false) {
        return Verdict::Drop(DropReason::SourceDenied).packed();
    }
    Verdict::Pass.packed()
}

/// What the headers of a frame to one station say, where they are plain: TCP or UDP, whole, without options or extensions.
#[derive(Clone, Copy)]
struct Plain {
    h: Headers,
    /// Type of service or traffic class.
    service: u8,
    /// Bytes of the transport header and what follows it, as the IP header says.
    segment: u16,
}

impl Plain {
    /// Where the IP packet ends. What follows fills an Ethernet frame.
    #[inline(always)]
    const fn end(&self) -> usize {
        self.h.l4 + self.segment as usize
    }

    /// Whether it opens or ends a connection.
    #[inline(always)]
    const fn decides(&self) -> bool {
        self.h.tcp_flags & (tcp_flags::SYN | tcp_flags::RST | tcp_flags::FIN) != 0
    }

    /// Whether it may open something: a SYN, or a datagram.
    #[inline(always)]
    fn may_open(&self) -> bool {
        let deciding = tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST | tcp_flags::FIN;
        self.h.transport == Transport::Udp || self.h.tcp_flags & deciding == tcp_flags::SYN
    }
}

/// Reads the headers of a frame, and its tuple. `None` where they are not plain.
#[inline(always)]
fn read<F: Frame>(frame: &F, tuple: &mut Tuple) -> Option<Plain> {
    let ethernet = frame.read::<ETH>(0)?;
    if ethernet[0] & 1 != 0 {
        return None;
    }
    let mut plain = match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => read_ipv4(frame, tuple)?,
        ETHERTYPE_IPV6 => read_ipv6(frame, tuple)?,
        _ => return None,
    };
    let l4 = plain.h.l4;
    let ports = frame.read::<4>(l4)?;
    tuple.src_port = Port::from_wire([ports[0], ports[1]]);
    tuple.dst_port = Port::from_wire([ports[2], ports[3]]);
    tuple.echo = echo::NONE;
    tuple.zone = Zone::HOST;
    match tuple.protocol {
        TCP => plain.h.tcp_flags = frame.read::<20>(l4)?[13],
        UDP => {
            frame.read::<8>(l4)?;
            plain.h.transport = Transport::Udp;
        }
        _ => return None,
    }
    Some(plain)
}

#[inline(always)]
fn read_ipv4<F: Frame>(frame: &F, tuple: &mut Tuple) -> Option<Plain> {
    let b = frame.read::<IPV4_HEADER>(ETH)?;
    let is_whole = b[6] & 0x3f == 0 && b[7] == 0;
    // The loopback's addresses from the wire are dropped for a reason of their own.
    if b[0] != 0x45 || !is_whole || b[16] == 127 {
        return None;
    }
    tuple.protocol = b[9];
    tuple.src = Address::v4([b[12], b[13], b[14], b[15]]);
    tuple.dst = Address::v4([b[16], b[17], b[18], b[19]]);
    let segment = u16::from_be_bytes([b[2], b[3]]).saturating_sub(IPV4_HEADER as u16);
    Some(Plain { h: headers(ETH + IPV4_HEADER, true, b[8]), service: b[1], segment })
}

/// The same. What follows must be the transport header: an extension is not followed.
#[inline(always)]
fn read_ipv6<F: Frame>(frame: &F, tuple: &mut Tuple) -> Option<Plain> {
    let b = frame.read::<8>(ETH)?;
    if b[0] >> 4 != 6 {
        return None;
    }
    tuple.protocol = b[6];
    tuple.src = Address::v6(frame.read::<16>(ETH + 8)?);
    tuple.dst = Address::v6(frame.read::<16>(ETH + 24)?);
    if tuple.dst.is_link_local() {
        return None;
    }
    let segment = u16::from_be_bytes([b[4], b[5]]);
    Some(Plain { h: headers(ETH + IPV6_HEADER, false, b[7]), service: b[0] << 4 | b[1] >> 4, segment })
}

#[inline(always)]
const fn headers(l4: usize, v4: bool, ttl: u8) -> Headers {
    Headers { l4, transport: Transport::Tcp, v4, ttl, tcp_flags: 0, part: Part::Whole, identification: 0 }
}
