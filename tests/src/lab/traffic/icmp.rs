//! ICMP echo from a raw socket, so that no `ping` has to be installed.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, Ipv4HeaderSlice};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket};

use super::{super::Node, is_answered};

impl Node {
    /// Sends `count` echo requests of 64 bytes, one after the other, and returns how many were answered within `wait` each. What
    /// is not answered for ten seconds is sent again.
    ///
    /// # Panics
    /// When `address` is no IP address.
    pub fn pings(&self, address: &str, count: u16, wait: Duration) -> u16 {
        let address: IpAddr = address.parse().unwrap_or_else(|_| panic!("{address} is no IP address"));
        let Ok(socket) = self.enter(|| raw_socket(address)) else { return 0 };
        // Unique among everything of this process that pings at the same time.
        let id = u16::try_from(socket.as_raw_fd() & 0xffff).unwrap_or_default() ^ (std::process::id() & 0xffff) as u16;
        let answered = |sequence: &u16| echo(&socket, address.is_ipv4(), IcmpEchoHeader { id, seq: *sequence }, wait);
        u16::try_from((0..count).filter(answered).count()).unwrap_or(u16::MAX)
    }
}

/// A raw ICMP socket that talks to one address. The standard library has the send and receive calls on its UDP type, which
/// are the same for every datagram socket.
fn raw_socket(address: IpAddr) -> nix::Result<UdpSocket> {
    let (family, protocol) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let raw: OwnedFd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    connect(raw.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0)))?;
    Ok(UdpSocket::from(raw))
}

fn echo(socket: &UdpSocket, v4: bool, header: IcmpEchoHeader, wait: Duration) -> bool {
    let payload = [0xa5; 56];
    // The kernel finishes the checksum of ICMPv6.
    let mut request = match v4 {
        true => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(header), &payload).to_bytes().to_vec(),
        false => Icmpv6Header::new(Icmpv6Type::EchoRequest(header)).to_bytes().to_vec(),
    };
    request.extend(payload);
    is_answered(socket, &request, wait, |packet| is_answer(packet, v4, header, &payload))
}

/// A raw socket receives IPv4's header too, and not IPv6's.
fn is_answer(packet: &[u8], v4: bool, asked: IcmpEchoHeader, payload: &[u8]) -> bool {
    if !v4 {
        let Ok((icmp, rest)) = Icmpv6Header::from_slice(packet) else { return false };
        return icmp.icmp_type == Icmpv6Type::EchoReply(asked) && rest == payload;
    }
    let Ok(ip) = Ipv4HeaderSlice::from_slice(packet) else { return false };
    let Ok((icmp, rest)) = Icmpv4Header::from_slice(&packet[ip.slice().len()..]) else { return false };
    icmp.icmp_type == Icmpv4Type::EchoReply(asked) && rest == payload
}
