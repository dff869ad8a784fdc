//! What passes an interface, told in words that do not depend on what either contender may choose: the ports that masquerade
//! takes, identifications, and whatever lies below IP.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use etherparse::{SlicedPacket, TransportSlice};
use netd_common::packet::ETH;
use netd_tests::{
    lab::Node,
    packets::{checksums_hold, reassembled},
};
use nix::{
    libc,
    sys::socket::{AddressFamily, LinkAddr, SockFlag, SockType, recvfrom, setsockopt, socket, sockopt},
};

use crate::site::{HOST, PUBLISHED};

/// Ports of what settles a site between two steps.
pub const MARKER: u16 = 9;

/// Everything that passes an interface from now on.
pub struct Capture {
    name: &'static str,
    socket: OwnedFd,
}

/// A packet at an interface, from its Ethernet header on.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Whether it left by the interface.
    pub sent: bool,
    pub bytes: Vec<u8>,
}

impl Capture {
    /// Begins; `name` is what the story calls the place.
    pub fn of(node: &Node, interface: &str, name: &'static str) -> Self {
        let index = node.ifindex(interface).expect("the interface exists");
        let every = u16::to_be(libc::ETH_P_ALL as u16);
        let socket = node.enter(|| {
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
            setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
            // SAFETY: all zeroes are an address of no interface.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = every;
            address.sll_ifindex = index.cast_signed();
            let length = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: a whole address of the length told.
            let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
            nix::errno::Errno::result(bound).map(|_| socket)
        });
        Self { name, socket: socket.expect("root may capture") }
    }

    /// What the story calls the place.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Packets since the last call, in order, but for what settles the site and what the kernel says to everyone.
    pub fn take(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            let bytes = buffer[..length].to_vec();
            let sent = from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
            if counts(&bytes) {
                frames.push(Frame { sent, bytes });
            }
        }
        frames
    }
}

fn counts(bytes: &[u8]) -> bool {
    match bytes.get(12..14) {
        Some([0x08, 0x00]) if bytes.len() >= ETH + 20 => bytes[ETH + 16] < 224 && !is_marker(bytes),
        // Of ICMPv6 errors and echoes alone: the others are about the link, as is what goes to many.
        Some([0x86, 0xdd]) if bytes.len() > ETH + 40 => {
            bytes[ETH + 24] != 0xff && (bytes[ETH + 6] != 58 || bytes[ETH + 40] <= 129)
        }
        _ => false,
    }
}

fn is_marker(bytes: &[u8]) -> bool {
    let l4 = ETH + usize::from(bytes[ETH] & 15) * 4;
    let marker = MARKER.to_be_bytes();
    bytes[ETH + 9] == 17 && bytes.len() >= l4 + 4 && (bytes[l4..l4 + 2] == marker || bytes[l4 + 2..l4 + 4] == marker)
}

impl Frame {
    pub fn protocol(&self) -> u8 {
        self.bytes[ETH + 9]
    }

    pub fn source(&self) -> Ipv4Addr {
        address(&self.bytes[ETH..], 12)
    }

    pub fn destination(&self) -> Ipv4Addr {
        address(&self.bytes[ETH..], 16)
    }

    fn l4(&self) -> usize {
        ETH + usize::from(self.bytes[ETH] & 15) * 4
    }

    fn is_v6(&self) -> bool {
        self.bytes[12..14] == [0x86, 0xdd]
    }

    /// Type of an ICMP message.
    pub fn icmp_type(&self) -> u8 {
        self.bytes[self.l4()]
    }

    /// Whether it has a transport header: it is no later fragment.
    pub fn is_first(&self) -> bool {
        u16::from_be_bytes([self.bytes[ETH + 6], self.bytes[ETH + 7]]) & 0x1fff == 0
    }

    /// Source and destination port of TCP and UDP; an echo's identifier twice.
    pub fn ports(&self) -> [u16; 2] {
        let l4 = self.l4();
        let at = |at: usize| u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        if self.protocol() == 1 { [at(l4 + 4); 2] } else { [at(l4), at(l4 + 2)] }
    }

    /// Addresses, time to live, service and protocol: what all packets of one direction of a conversation have in common.
    pub fn outline(&self) -> String {
        let ip = &self.bytes[ETH..];
        if self.is_v6() {
            let address =
                |at: usize| std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("16 bytes"));
            let class = (ip[0] & 15) << 4 | ip[1] >> 4;
            return format!("gets protocol {} {} > {} ttl {} tos {class}", ip[6], address(8), address(24), ip[7]);
        }
        format!("gets protocol {} {} > {} ttl {} tos {}", ip[9], self.source(), self.destination(), ip[8], ip[1])
    }

    /// Whether it is a segment of TCP that says nothing but how much has come. When one goes is a matter of time (RFC 9293 section
    /// 3.8.6.3), and so is who sends it: a socket, with what was put on it, or what is left of it in TIME-WAIT, without.
    pub fn only_acknowledges(&self) -> bool {
        let Ok(packet) = SlicedPacket::from_ethernet(&self.bytes) else { return false };
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return false };
        tcp.payload().is_empty() && tcp.ack() && !(tcp.syn() || tcp.fin() || tcp.rst())
    }

    fn fragment(&self) -> Option<FragmentOf> {
        let flags = u16::from_be_bytes([self.bytes[ETH + 6], self.bytes[ETH + 7]]);
        let (more, offset) = (flags & 0x2000 != 0, usize::from(flags & 0x1fff) * 8);
        let key = (self.source(), self.destination(), self.protocol(), [self.bytes[ETH + 4], self.bytes[ETH + 5]]);
        (more || offset != 0).then_some(FragmentOf { key, offset, more })
    }

    /// All of it, but for ports that a contender chose and identifications. Wrong checksums are told.
    fn story(&self) -> String {
        let checksums = checksums_hold(&self.bytes).err().map(|wrong| format!(" WRONG {wrong}")).unwrap_or_default();
        format!("gets {}{checksums}", packet(&self.bytes[ETH..]))
    }
}

/// Of which packet a frame is a fragment, and which one.
struct FragmentOf {
    key: (Ipv4Addr, Ipv4Addr, u8, [u8; 2]),
    offset: usize,
    more: bool,
}

/// What was got by IPv4, in order. Fragments are told as the packet that they make up, once it is whole; it is a forwarder's own affair how
/// it was cut. What never becomes whole is told by its fragments.
pub fn stories(frames: &[Frame]) -> Vec<String> {
    let got: Vec<_> = frames.iter().filter(|frame| !frame.sent && !frame.is_v6()).collect();
    let mut told = Vec::new();
    for (at, frame) in got.iter().enumerate() {
        let Some(part) = frame.fragment() else {
            told.push(frame.story());
            continue;
        };
        let of_packet = |frames: &[&Frame]| -> Vec<Frame> {
            let same = frames.iter().filter(|other| other.fragment().is_some_and(|other| other.key == part.key));
            same.map(|frame| (**frame).clone()).collect()
        };
        match (whole(of_packet(&got[..at])), whole(of_packet(&got[..=at])), whole(of_packet(&got))) {
            // This one completes it.
            (None, Some(packet), _) => told.push(packet.story()),
            (None, None, None) => told.push(frame.story()),
            _ => {}
        }
    }
    told
}

/// The packet that these fragments make up, if they do.
fn whole(mut fragments: Vec<Frame>) -> Option<Frame> {
    fragments.sort_by_key(|frame| frame.fragment().map(|part| part.offset));
    fragments.dedup_by_key(|frame| frame.fragment().map(|part| part.offset));
    let mut end = 0;
    for frame in &fragments {
        let part = frame.fragment()?;
        if part.offset != end {
            return None;
        }
        end += frame.bytes.len() - frame.l4();
        if !part.more {
            let bytes = fragments.into_iter().map(|frame| frame.bytes).collect::<Vec<_>>();
            return Some(Frame { sent: false, bytes: reassembled(&bytes) });
        }
    }
    None
}

fn address(ip: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3])
}

/// `ADDRESS:PORT`, the port as `*` where masquerade has chosen it.
fn end(address: Ipv4Addr, port: u16) -> String {
    let published = PUBLISHED.iter().any(|(on, ..)| *on == port);
    if address.to_string() == HOST && !published && port >= 1024 {
        format!("{address}:*")
    } else {
        format!("{address}:{port}")
    }
}

fn packet(ip: &[u8]) -> String {
    let header = usize::from(ip[0] & 15) * 4;
    let (src, dst) = (address(ip, 12), address(ip, 16));
    let flags = u16::from_be_bytes([ip[6], ip[7]]);
    let mut text = format!("ttl {} tos {}", ip[8], ip[1]);
    if header > 20 {
        let _ = write!(text, " options {:02x?}", &ip[20..header.min(ip.len())]);
    }
    if flags & 0x4000 != 0 {
        text += " df";
    }
    let (more, offset) = (flags & 0x2000 != 0, (flags & 0x1fff) * 8);
    if more || offset != 0 {
        let _ = write!(text, " fragment at {offset}{}", if more { ", more follow" } else { "" });
    }
    let Some(l4) = ip.get(header..).filter(|l4| l4.len() >= 8) else { return format!("{src} > {dst} {text}, cut") };
    if offset != 0 {
        return format!("{src} > {dst} {text} protocol {} {}", ip[9], bytes(l4));
    }
    let at = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    let ends = format!("{} > {}", end(src, at(0)), end(dst, at(2)));
    match ip[9] {
        6 if l4.len() >= 20 => {
            let names = [(2, 'S'), (16, 'A'), (8, 'P'), (1, 'F'), (4, 'R'), (32, 'U')];
            let flags: String = names.iter().filter(|(bit, _)| l4[13] & bit != 0).map(|(_, name)| *name).collect();
            let number = |at: usize| u32::from_be_bytes([l4[at], l4[at + 1], l4[at + 2], l4[at + 3]]);
            let payload = &l4[(usize::from(l4[12] >> 4) * 4).min(l4.len())..];
            format!("tcp {ends} {text} [{flags}] seq {} ack {} {}", number(4), number(8), bytes(payload))
        }
        17 => {
            let unsummed = if at(6) == 0 { " without checksum" } else { "" };
            format!("udp {ends} {text}{unsummed} {}", bytes(&l4[8..]))
        }
        1 if matches!(l4[0], 3 | 4 | 5 | 11 | 12) => {
            // The address of the error's own is the gateway's, whichever contender's gateway it is.
            let about = l4.get(8..).filter(|quoted| quoted.len() >= 20).map(quoted).unwrap_or_default();
            format!("icmp {src} > {dst} {text} type {} code {} rest {} about {about}", l4[0], l4[1], at(6))
        }
        1 => format!("icmp {src} > {dst} {text} type {} code {} {}", l4[0], l4[1], bytes(&l4[8..])),
        other => format!("protocol {other} {src} > {dst} {text} {}", bytes(l4)),
    }
}

/// A quoted packet: whose it is and what of it is quoted.
fn quoted(ip: &[u8]) -> String {
    let header = usize::from(ip[0] & 15) * 4;
    let (src, dst) = (address(ip, 12), address(ip, 16));
    let Some(l4) = ip.get(header..header + 8) else { return format!("({src} > {dst}, cut)") };
    let at = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    match ip[9] {
        6 | 17 => format!("(protocol {} {} > {} ttl {})", ip[9], end(src, at(0)), end(dst, at(2)), ip[8]),
        1 => format!("(icmp {src} > {dst} type {} ttl {})", l4[0], ip[8]),
        other => format!("(protocol {other} {src} > {dst} ttl {})", ip[8]),
    }
}

/// Bytes in short: their number and a sum that tells one payload from another.
fn bytes(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
    format!("{} bytes {sum:08x}", bytes.len())
}
