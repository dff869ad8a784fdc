//! Sockets in another namespace: the resolver's own, and those by which a container's own servers are asked.

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use netd_common::dns::{FIRST_SOCKET, RESOLVER, SOCKETS};
use nix::{
    libc,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
    },
};

use crate::netns::Namespace;

/// Connections that wait to be taken.
const BACKLOG: i32 = 64;

/// Opens the resolver's sockets in the calling thread's namespace: each at the first of its ports that is free, for datagrams and
/// for connections apart.
pub fn open() -> io::Result<(UdpSocket, TcpListener)> {
    raise_loopback()?;
    let udp = bound(SockType::Datagram)?;
    let tcp = bound(SockType::Stream)?;
    listen(&tcp, Backlog::new(BACKLOG)?)?;
    Ok((UdpSocket::from(udp), TcpListener::from(tcp)))
}

/// A socket to ask `server` with, in this namespace, or in the calling thread's.
pub fn towards(server: SocketAddr, namespace: Option<&Namespace>, kind: SockType) -> io::Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let open = || Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?);
    namespace.map_or_else(open, |namespace| namespace.inside(open)?)
}

/// As a socket for a connection that is not made yet.
pub fn unconnected(socket: OwnedFd) -> tokio::net::TcpSocket {
    tokio::net::TcpSocket::from_std_stream(TcpStream::from(socket))
}

/// Sets the loopback device of the calling thread's namespace up. Before it is, a socket can be bound to an address there and then
/// answers from another.
pub fn raise_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a structure of numbers and bytes, for which zeros are values.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the request lives through the call, which fills in the flags of the device it names.
    unsafe { flags_of_device(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the call before has filled in this member.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above; the call only reads.
    unsafe { set_flags_of_device(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

nix::ioctl_read_bad!(
    /// Of netdevice(7): what a device is like.
    flags_of_device,
    libc::SIOCGIFFLAGS,
    libc::ifreq
);
nix::ioctl_write_ptr_bad!(
    /// Of netdevice(7): makes it so.
    set_flags_of_device,
    libc::SIOCSIFFLAGS,
    libc::ifreq
);

fn bound(kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, kind, flags, None)?;
    if kind == SockType::Stream {
        // What a former daemon's connections left behind (TIME-WAIT) is not in the way.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for port in FIRST_SOCKET..FIRST_SOCKET + SOCKETS {
        let place = SocketAddr::from((Ipv4Addr::from(RESOLVER), port));
        match bind(socket.as_raw_fd(), &SockaddrStorage::from(place)) {
            Ok(()) => return Ok(socket),
            Err(error) => taken = error.into(),
        }
    }
    Err(taken)
}
