//! Sockets of the calling thread's network namespace by sock_diag(7): ended, so that their process reads ECONNABORTED or finds that a
//! UDP socket has no peer any more (EDESTADDRREQ); and those that no table of `/proc/net` has.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result};
use netd_common::tuple::{Address, Port, TCP, UDP};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt,
    },
    sys::time::TimeVal,
};
use rtnetlink::packet_core::NlasIterator;

use super::conntrack::{attribute, nested};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// Bytes of `nlmsghdr`, and from the start of `inet_diag_msg` and of `inet_diag_req_v2` to the `inet_diag_sockid` in each.
const HEADER: usize = 16;
const ID_IN_MESSAGE: usize = 4;
/// Bytes of `inet_diag_sockid`, the last eight of which are the socket's cookie, and of `inet_diag_msg`, after which its attributes
/// are.
const ID: usize = 48;
const MESSAGE: usize = 72;
/// Attributes by which the values of a map of the type `BPF_MAP_TYPE_SK_STORAGE` are asked for and told (`linux/inet_diag.h`,
/// `linux/sock_diag.h`).
const REQ_SK_BPF_STORAGES: u16 = 2;
const BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const SK_BPF_STORAGES: u16 = 20;
const BPF_STORAGE: u16 = 1;
const BPF_STORAGE_MAP_VALUE: u16 = 3;
/// `TCP_ESTABLISHED`, which a connected UDP socket is in too, and `TCP_LISTEN`, as bits.
const ESTABLISHED: u32 = 1 << 1;
const LISTEN: u32 = 1 << 10;
/// `TCP_BOUND_INACTIVE`, as a bit.
const BOUND: u32 = 1 << 13;
/// Bytes from the start of `inet_diag_msg` to the socket's inode.
const INODE_IN_MESSAGE: usize = 68;

/// A connected socket.
pub struct Connected {
    id: [u8; ID],
    /// The kernel's number for it.
    pub cookie: u64,
    /// With whom.
    pub peer: (Address, Port),
    /// What a program keeps with it. The kernel does not tell of UDP sockets (seen with 6.18).
    pub kept: Option<Vec<u8>>,
}

/// Ends the connected TCP and UDP sockets that are meant; how many there were. What programs keep with them is told of this map, a
/// socket storage.
pub fn end(storage: Option<BorrowedFd<'_>>, is_meant: impl Fn(&Connected) -> bool) -> Result<usize> {
    let netlink = open().context("cannot ask the kernel for the host's sockets")?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for (protocol, states) in [(TCP, !LISTEN), (UDP, ESTABLISHED)] {
            let meant = |message: &[u8]| connected(family, message).filter(&is_meant).map(|socket| socket.id);
            let listed = listed(&netlink, (family, protocol, states), storage, meant);
            for id in listed.context("cannot list the host's sockets")? {
                let gone = destroy(&netlink, family, protocol, &id);
                ended += usize::from(gone.context("cannot end a socket of the host")?);
            }
        }
    }
    Ok(ended)
}

fn connected(family: u8, message: &[u8]) -> Option<Connected> {
    let id: [u8; ID] = message.get(ID_IN_MESSAGE..ID_IN_MESSAGE + ID)?.try_into().ok()?;
    let peer = place(family, &id[2..4], &id[20..36])?;
    let address = match peer.ip() {
        IpAddr::V4(address) => Address::v4(address.octets()),
        IpAddr::V6(address) => Address::v6(address.octets()),
    };
    let half = |at: usize| u64::from(u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]));
    let cookie = half(ID - 8) | half(ID - 4) << 32;
    Some(Connected { id, cookie, peer: (address, Port::new(peer.port())), kept: message.get(MESSAGE..).and_then(kept) })
}

/// The value of the one map that was asked about, of the attributes of a socket.
fn kept(attributes: &[u8]) -> Option<Vec<u8>> {
    within(&within(&within(attributes, SK_BPF_STORAGES)?, BPF_STORAGE)?, BPF_STORAGE_MAP_VALUE)
}

/// The first attribute of a kind.
fn within(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|found| found.kind() == kind)
        .map(|found| found.value().to_vec())
}

/// TCP sockets that are bound and neither listen nor are connected: where each is bound, and its inode. Kernels before 6.8 do not
/// tell of them (91051f003948, "tcp: Dump bound-only sockets in inet_diag").
pub fn bound() -> io::Result<Vec<(SocketAddr, u64)>> {
    let netlink = open()?;
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let listed = listed(&netlink, (family, TCP, BOUND), None, |message| {
            let id = message.get(ID_IN_MESSAGE..ID_IN_MESSAGE + ID)?;
            let inode = message.get(INODE_IN_MESSAGE..INODE_IN_MESSAGE + 4)?;
            Some((place(family, &id[..2], &id[4..20])?, u32::from_ne_bytes(inode.try_into().ok()?).into()))
        });
        found.extend(listed?);
    }
    Ok(found)
}

/// A port and an address of an `inet_diag_sockid`, in network order: those of the source come first in it, then those of the
/// destination, ports before addresses.
fn place(family: u8, port: &[u8], address: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(port.try_into().ok()?);
    let address = if family == libc::AF_INET as u8 {
        IpAddr::from(<[u8; 4]>::try_from(address.get(..4)?).ok()?)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(address).ok()?).to_canonical()
    };
    Some(SocketAddr::new(address, port))
}

fn open() -> io::Result<OwnedFd> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    // The kernel answers at once; a daemon that waited for ever would answer nobody.
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    Ok(netlink)
}

/// What is made of the `inet_diag_msg`, with attributes, of each socket of a family and protocol in these states.
fn listed<T>(
    netlink: &OwnedFd,
    which: (u8, u8, u32),
    storage: Option<BorrowedFd<'_>>,
    mut of: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let storage = storage.map(|map| attribute(BPF_STORAGE_REQ_MAP_FD, &map.as_raw_fd().to_ne_bytes()));
    let asked = storage.map_or_else(Vec::new, |map| nested(REQ_SK_BPF_STORAGES, &[map]));
    let request = request(BY_FAMILY, flags, which, &[0; ID], &asked);
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, payload) in messages(&buffer[..length]) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => answer(payload).map(drop)?,
                _ => found.extend(of(payload)),
            }
        }
    }
}

/// False if it is gone already.
fn destroy(netlink: &OwnedFd, family: u8, protocol: u8, id: &[u8; ID]) -> io::Result<bool> {
    let request = request(DESTROY, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, (family, protocol, 0), id, &[]);
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = [0; 512];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut answers = messages(&buffer[..length]).filter(|(kind, _)| i32::from(*kind) == libc::NLMSG_ERROR);
    let (_, payload) = answers.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    answer(payload)
}

/// An `inet_diag_req_v2` about sockets of a family and protocol in some states, or about the one with this id.
fn request(
    kind: u16,
    flags: u16,
    (family, protocol, states): (u8, u8, u32),
    id: &[u8; ID],
    attributes: &[u8],
) -> Vec<u8> {
    let length = HEADER + 8 + ID + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    message.extend([0; 8]);
    message.extend([family, protocol, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(id);
    message.extend(attributes);
    message
}

/// The kind and payload of each message of an answer.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// What an NLMSG_ERROR says: true for done, false for no such socket.
fn answer(payload: &[u8]) -> io::Result<bool> {
    let number = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match number.map(i32::wrapping_neg) {
        Some(0) => Ok(true),
        Some(number) if number == Errno::ENOENT as i32 => Ok(false),
        Some(number) => Err(io::Error::from_raw_os_error(number)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        io::Read,
        net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    };

    use super::*;
    use crate::testing::on_a_host_of_its_own;

    fn cookie_of(socket: &impl AsRawFd) -> u64 {
        let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
        // SAFETY: the kernel writes at most `length` bytes, the size of the number.
        let got = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        assert_eq!(got, 0);
        cookie
    }

    #[test]
    fn the_sockets_that_are_meant_end_and_no_others() {
        on_a_host_of_its_own(async |_| {
            std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7)).unwrap();
            let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 7)).unwrap();
            let tcp = |address: &str| TcpStream::connect((address, 7)).unwrap();
            let udp = |address: &str| {
                let any = if address.contains('.') { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect((address, 7)).unwrap();
                socket
            };
            let (streams, datagrams) = (["127.0.0.1", "::1"].map(tcp), ["127.0.0.1", "::1"].map(udp));
            let (other_stream, other_datagram) = (tcp("127.0.0.1"), udp("127.0.0.1"));
            let mut cookies: BTreeSet<u64> = streams.iter().map(cookie_of).collect();
            cookies.extend(datagrams.iter().map(cookie_of));

            let one_to_7 = |socket: &Connected| socket.peer.1 == Port::new(7) && cookies.contains(&socket.cookie);
            assert_eq!(end(None, one_to_7).unwrap(), 4);

            for mut stream in streams {
                assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            }
            for socket in datagrams {
                let failed = socket.send(b"x").unwrap_err().raw_os_error();
                assert!([Some(libc::ECONNABORTED), Some(libc::EDESTADDRREQ)].contains(&failed), "{failed:?}");
            }
            other_datagram.send(b"x").unwrap();
            assert!(other_stream.peer_addr().is_ok() && listener.local_addr().is_ok() && server.local_addr().is_ok());
            assert_eq!(end(None, one_to_7).unwrap(), 0);
        });
    }
}
