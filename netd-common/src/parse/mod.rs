//! From bytes to a tuple: what the headers of a packet say, and where they stand.
//!
//! Parsing only reads. What it does not understand it names ([`Transport::Opaque`]) instead of guessing.

mod extensions;
mod noted;

use bytemuck::CheckedBitPattern;

pub use self::{
    extensions::{EXTENSION_BYTES, EXTENSIONS, Extensions, skip_extensions},
    noted::Noted,
};

use crate::{
    packet::{ETH, Packet},
    tables::Scratch,
    tuple::{Address, ICMP, ICMPV6, Mac, Port, SCTP, TCP, Tuple, UDP, echo},
    verdict::DropReason,
};

/// EtherType of IPv4 (IEEE 802).
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of ARP (RFC 826).
pub const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// EtherType of IPv6 (RFC 2464).
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_HEADER: usize = 40;
/// Bytes of an IPv6 fragment header.
pub const FRAGMENT_HEADER: usize = 8;
/// Next-header number of an IPv6 fragment header.
pub const IPV6_FRAGMENT: u8 = 44;
/// Bytes of the largest transport header, without options: TCP's.
const TRANSPORT_HEADER: usize = 20;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

/// ICMP types that quote a packet, as bits: destination unreachable (fragmentation needed is one), source quench, time
/// exceeded, parameter problem (RFC 792). Redirects are for hosts, not for who is behind them.
const ICMP_ERRORS: u32 = 1 << 3 | 1 << 4 | 1 << 11 | 1 << 12;
/// ICMPv6 types that quote a packet: destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
const ICMPV6_ERRORS: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4;

/// Flag bits of the TCP header's byte 13 (RFC 9293 section 3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends it at once.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field holds one.
    pub const ACK: u8 = 0x10;
}

/// Types of an SCTP chunk (RFC 9260 section 3.2).
pub mod sctp_chunk {
    /// Opens an association; alone in its packet.
    pub const INIT: u8 = 1;
    /// Asks whether the other end is there, also by a way not used before.
    pub const HEARTBEAT: u8 = 4;
}

/// The Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What follows.
    pub ethertype: [u8; 2],
}

/// Reads the Ethernet header, or what it would say.
#[inline(always)]
pub fn ethernet<P: Packet>(p: &mut P) -> Result<Ethernet, DropReason> {
    p.reach(ETH + IPV4_HEADER);
    if !p.has_link_header() {
        return without_link_header(p);
    }
    // A read for each field: of one for all LLVM makes a wide number, which it takes apart by bytes and shifts.
    Ok(Ethernet { destination: Mac(p.read(0)?), source: Mac(p.read(6)?), ethertype: p.read(12)? })
}

/// The Ethernet header that a packet of layer 3 would have: only its version says what it is, and its destination whether it is
/// for a group.
#[inline(always)]
fn without_link_header<P: Packet>(p: &P) -> Result<Ethernet, DropReason> {
    let b = p.read::<IPV4_HEADER>(ETH)?;
    let (ethertype, to_group) = match b[0] >> 4 {
        4 => (ETHERTYPE_IPV4, b[16] >= 224),
        6 => (ETHERTYPE_IPV6, p.read::<1>(ETH + 24)? == [0xff]),
        _ => ([0; 2], false),
    };
    let destination = if to_group { Mac::BROADCAST } else { Mac([0; 6]) };
    Ok(Ethernet { destination, source: Mac([0; 6]), ethertype })
}

/// What an IP packet carries, as far as translation cares.
#[repr(u8)]
#[derive(CheckedBitPattern, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP, or SCTP: the tuple's protocol tells them apart where it matters, since the kernel's verifier follows each kind by
    /// itself. SCTP's checksum is a CRC32c that covers its ports and not its addresses, and that no helper mends: its ports stay.
    Udp,
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An ICMP or ICMPv6 echo reply.
    EchoReply,
    /// An ICMP or ICMPv6 error, which quotes the packet that it is about.
    Error,
    /// Unknown: a later fragment whose first has not come by.
    Fragment,
    /// Anything else: other protocols, other ICMP messages, extension headers.
    Opaque,
}

impl Transport {
    /// Whether the tuple tells the packet's flow. An error's flow is that of the packet it quotes; fragments and what is
    /// opaque belong to none.
    #[inline(always)]
    pub fn has_flow(self) -> bool {
        !matches!(self, Self::Error | Self::Fragment | Self::Opaque)
    }
}

/// Which part of a packet this is.
#[repr(u8)]
#[derive(CheckedBitPattern, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment, which has the transport header.
    First,
    /// A later fragment, which has none.
    Later,
}

/// Where the headers of a packet stand, and what does not go into its tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Offset of the transport header.
    pub l4: usize,
    /// What it is; of a later fragment, [`Transport::Fragment`] until it is recalled.
    pub transport: Transport,
    /// Whether the packet is IPv4.
    pub v4: bool,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Of [`tcp_flags`]; none where it is no TCP. Beside the enum and not in it, so that every byte here is defined.
    pub tcp_flags: u8,
    /// Whether it is a fragment.
    pub part: Part,
    /// What fragments of one packet have in common; 0 for a whole one.
    pub identification: u32,
}

/// Reads the headers of a packet of this ethertype into `s.noted`, and its tuple, but for its zone, into `s.key`. `None` if it is no
/// IP.
#[inline(always)]
pub fn note<P: Packet>(p: &mut P, s: &mut Scratch, ethertype: [u8; 2]) -> Result<Option<Headers>, DropReason> {
    let Some(h) = ip(p, ethertype, &mut s.key)? else { return Ok(None) };
    s.noted = Noted::of(h);
    p.forget(&mut s.noted);
    Ok(Some(s.noted.headers()))
}

/// Reads the IP and transport headers of a packet of this ethertype and fills in `tuple`, but for its zone. `None` if it is no IP.
#[inline(always)]
pub fn ip<P: Packet>(p: &mut P, ethertype: [u8; 2], tuple: &mut Tuple) -> Result<Option<Headers>, DropReason> {
    let Some(mut h) = network(p, ethertype, tuple)? else { return Ok(None) };
    tuple.echo = echo::NONE;
    tuple.src_port = Port::NONE;
    tuple.dst_port = Port::NONE;
    if h.part != Part::Later {
        h.transport = transport(p, h.l4, h.v4, tuple)?;
    }
    if h.transport == Transport::Tcp {
        h.tcp_flags = p.read::<1>(h.l4 + 13)?[0];
    }
    Ok(Some(h))
}

/// The IP header of such a packet alone, with the addresses and the protocol.
#[inline(always)]
pub fn network<P: Packet>(p: &mut P, ethertype: [u8; 2], tuple: &mut Tuple) -> Result<Option<Headers>, DropReason> {
    if ethertype == ETHERTYPE_IPV4 {
        ipv4(p, tuple).map(Some)
    } else if ethertype == ETHERTYPE_IPV6 {
        ipv6(p, tuple).map(Some)
    } else {
        Ok(None)
    }
}

/// The destination of a packet of this ethertype. `None` if it is no IP, or cut short.
#[inline(always)]
pub fn destination<P: Packet>(p: &mut P, ethertype: [u8; 2]) -> Option<Address> {
    match ethertype {
        ETHERTYPE_IPV4 => p.read::<4>(ETH + 16).ok().map(Address::v4),
        ETHERTYPE_IPV6 => {
            p.reach(ETH + IPV6_HEADER);
            p.read::<16>(ETH + 24).ok().map(Address::v6)
        }
        _ => None,
    }
}

/// Whether a packet of this protocol may open something: of SCTP not every one. Asked of first packets alone, and so not inlined.
#[inline(never)]
pub fn may_open<P: Packet>(p: &P, l4: usize, protocol: u8) -> bool {
    protocol != SCTP
        || p.read::<1>(l4 + 12).is_ok_and(|[chunk]| chunk == sctp_chunk::INIT || chunk == sctp_chunk::HEARTBEAT)
}

#[inline(always)]
fn ipv4<P: Packet>(p: &mut P, tuple: &mut Tuple) -> Result<Headers, DropReason> {
    // A read for each field, as of the Ethernet header; the last one is the header's end.
    let [first] = p.read::<1>(ETH)?;
    let fragment = p.read::<4>(ETH + 4)?;
    let [ttl, protocol] = p.read::<2>(ETH + 8)?;
    tuple.src = Address::v4(p.read(ETH + 12)?);
    tuple.dst = Address::v4(p.read(ETH + 16)?);
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < IPV4_HEADER {
        return Err(DropReason::Malformed);
    }
    p.reach(ETH + header + TRANSPORT_HEADER);
    tuple.protocol = protocol;
    let [a, b, flags, low] = fragment;
    let (more, offset) = (flags & 0x20 != 0, flags & 0x1f != 0 || low != 0);
    let part = part(more, offset);
    let identification = if part == Part::Whole { 0 } else { u32::from(u16::from_be_bytes([a, b])) };
    let transport = Transport::Fragment;
    Ok(Headers { l4: ETH + header, transport, v4: true, ttl, tcp_flags: 0, part, identification })
}

#[inline(always)]
fn ipv6<P: Packet>(p: &mut P, tuple: &mut Tuple) -> Result<Headers, DropReason> {
    p.reach(ETH + IPV6_HEADER + FRAGMENT_HEADER + TRANSPORT_HEADER);
    let b = p.read::<8>(ETH)?;
    if b[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    tuple.src = Address::v6(p.read::<16>(ETH + 8)?);
    tuple.dst = Address::v6(p.read::<16>(ETH + 24)?);
    tuple.protocol = b[6];
    let l4 = ETH + IPV6_HEADER;
    let whole = Headers {
        l4,
        transport: Transport::Fragment,
        v4: false,
        ttl: b[7],
        tcp_flags: 0,
        part: Part::Whole,
        identification: 0,
    };
    let Extensions { l4, fragment } = skip_extensions(p, l4, tuple);
    if fragment == 0 {
        return Ok(Headers { l4, ..whole });
    }
    let f = p.read::<FRAGMENT_HEADER>(fragment)?;
    let part = part(f[3] & 1 != 0, f[2] != 0 || f[3] & 0xf8 != 0);
    let identification = u32::from_be_bytes([f[4], f[5], f[6], f[7]]);
    Ok(Headers { l4, part, identification, ..whole })
}

#[inline(always)]
fn part(more: bool, offset: bool) -> Part {
    match (more, offset) {
        (_, true) => Part::Later,
        (true, false) => Part::First,
        (false, false) => Part::Whole,
    }
}

#[inline(always)]
fn transport<P: Packet>(p: &P, l4: usize, v4: bool, tuple: &mut Tuple) -> Result<Transport, DropReason> {
    match tuple.protocol {
        TCP => {
            let b = p.read::<20>(l4)?;
            ports(tuple, [b[0], b[1], b[2], b[3]]);
            Ok(Transport::Tcp)
        }
        UDP | SCTP => {
            let b = p.read::<8>(l4)?;
            ports(tuple, [b[0], b[1], b[2], b[3]]);
            Ok(Transport::Udp)
        }
        ICMP if v4 => icmp(p, l4, [ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY], ICMP_ERRORS, tuple),
        ICMPV6 if !v4 => icmp(p, l4, [ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY], ICMPV6_ERRORS, tuple),
        _ => Ok(Transport::Opaque),
    }
}

/// As for a packet of its own, of which an error quotes no more than eight bytes (RFC 792); TCP's flags are not among them.
#[inline(always)]
pub fn quoted_transport<P: Packet>(p: &P, l4: usize, v4: bool, tuple: &mut Tuple) -> Result<Transport, DropReason> {
    if tuple.protocol != TCP {
        return transport(p, l4, v4, tuple);
    }
    let b = p.read::<8>(l4)?;
    ports(tuple, [b[0], b[1], b[2], b[3]]);
    Ok(Transport::Tcp)
}

#[inline(always)]
fn ports(tuple: &mut Tuple, b: [u8; 4]) {
    tuple.src_port = Port::from_wire([b[0], b[1]]);
    tuple.dst_port = Port::from_wire([b[2], b[3]]);
}

#[inline(always)]
fn icmp<P: Packet>(p: &P, l4: usize, types: [u8; 2], errors: u32, tuple: &mut Tuple) -> Result<Transport, DropReason> {
    let b = p.read::<8>(l4)?;
    let id = Port::from_wire([b[4], b[5]]);
    if b[0] == types[0] {
        tuple.src_port = id;
        tuple.echo = echo::REQUEST;
        return Ok(Transport::EchoRequest);
    }
    if b[0] == types[1] {
        tuple.dst_port = id;
        tuple.echo = echo::REPLY;
        return Ok(Transport::EchoReply);
    }
    let is_error = b[0] < 32 && errors & 1 << (b[0] & 31) != 0;
    Ok(if is_error { Transport::Error } else { Transport::Opaque })
}
