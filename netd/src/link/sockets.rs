//! Sockets of the calling thread's network namespace by sock_diag(7): ended, so that their process reads ECONNABORTED or finds that a
//! UDP socket has no peer any more (EDESTADDRREQ); and those that no table of `/proc/net` has.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use netd_common::tuple::{TCP, UDP};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt,
    },
    sys::time::TimeVal,
};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// Bytes of `nlmsghdr`, and from the start of `inet_diag_msg` and of `inet_diag_req_v2` to the `inet_diag_sockid` in each.
const HEADER: usize = 16;
const ID_IN_MESSAGE: usize = 4;
/// Bytes of `inet_diag_sockid`, the last eight of which are the socket's cookie.
const ID: usize = 48;
/// `TCP_ESTABLISHED`, which a connected UDP socket is in too, and `TCP_LISTEN`, as bits.
const ESTABLISHED: u32 = 1 << 1;
const LISTEN: u32 = 1 << 10;
/// `TCP_BOUND_INACTIVE`, as a bit.
const BOUND: u32 = 1 << 13;
/// Bytes from the start of `inet_diag_msg` to the socket's inode.
const INODE_IN_MESSAGE: usize = 68;

/// Ends the connected TCP and UDP sockets that have these cookies; how many there were.
pub fn end(cookies: &BTreeSet<u64>) -> Result<usize> {
    let netlink = open().context("cannot ask the kernel for the host's sockets")?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for (protocol, states) in [(TCP, !LISTEN), (UDP, ESTABLISHED)] {
            for id in connected(&netlink, family, protocol, states).context("cannot list the host's sockets")? {
                if cookies.contains(&cookie(&id)) {
                    let gone = destroy(&netlink, family, protocol, &id);
                    ended += usize::from(gone.context("cannot end a socket of the host")?);
                }
            }
        }
    }
    Ok(ended)
}

/// TCP sockets that are bound and neither listen nor are connected: where each is bound, and its inode. Kernels before 6.8 do not
/// tell of them (91051f003948, "tcp: Dump bound-only sockets in inet_diag").
pub fn bound() -> io::Result<Vec<(SocketAddr, u64)>> {
    let netlink = open()?;
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let listed = listed(&netlink, family, TCP, BOUND)?;
        found.extend(listed.iter().filter_map(|message| {
            let id = message.get(ID_IN_MESSAGE..ID_IN_MESSAGE + ID)?;
            let inode = message.get(INODE_IN_MESSAGE..INODE_IN_MESSAGE + 4)?;
            Some((bound_to(family, id)?, u32::from_ne_bytes(inode.try_into().ok()?).into()))
        }));
    }
    Ok(found)
}

/// The address and port of an `inet_diag_sockid`: ports of source and destination, then their addresses, all in network order.
fn bound_to(family: u8, id: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(id.get(..2)?.try_into().ok()?);
    let address = if family == libc::AF_INET as u8 {
        IpAddr::from(<[u8; 4]>::try_from(id.get(4..8)?).ok()?)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(id.get(4..20)?).ok()?).to_canonical()
    };
    Some(SocketAddr::new(address, port))
}

fn open() -> io::Result<OwnedFd> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    // The kernel answers at once; a daemon that waited for ever would answer nobody.
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    Ok(netlink)
}

/// The ids of all sockets of a family and protocol in these states.
fn connected(netlink: &OwnedFd, family: u8, protocol: u8, states: u32) -> io::Result<Vec<[u8; ID]>> {
    let id = |message: &Vec<u8>| message.get(ID_IN_MESSAGE..ID_IN_MESSAGE + ID)?.try_into().ok();
    Ok(listed(netlink, family, protocol, states)?.iter().filter_map(id).collect())
}

/// The `inet_diag_msg` of each of them.
fn listed(netlink: &OwnedFd, family: u8, protocol: u8, states: u32) -> io::Result<Vec<Vec<u8>>> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    send(netlink, BY_FAMILY, flags, family, protocol, states, &[0; ID])?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, payload) in messages(&buffer[..length]) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => answer(payload).map(drop)?,
                _ => found.push(payload.to_vec()),
            }
        }
    }
}

/// False if it is gone already.
fn destroy(netlink: &OwnedFd, family: u8, protocol: u8, id: &[u8; ID]) -> io::Result<bool> {
    send(netlink, DESTROY, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, family, protocol, 0, id)?;
    let mut buffer = [0; 512];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut answers = messages(&buffer[..length]).filter(|(kind, _)| i32::from(*kind) == libc::NLMSG_ERROR);
    let (_, payload) = answers.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    answer(payload)
}

/// Sends an `inet_diag_req_v2` about the socket with this id.
fn send(
    netlink: &OwnedFd,
    kind: u16,
    flags: u16,
    family: u8,
    protocol: u8,
    states: u32,
    id: &[u8; ID],
) -> io::Result<()> {
    let mut message = Vec::with_capacity(HEADER + 8 + ID);
    message.extend(((HEADER + 8 + ID) as u32).to_ne_bytes());
    message.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    message.extend([0; 8]);
    message.extend([family, protocol, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(id);
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
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

fn cookie(id: &[u8; ID]) -> u64 {
    let half = |at: usize| u64::from(u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]));
    half(ID - 8) | half(ID - 4) << 32
}

#[cfg(test)]
mod tests {
    use std::{
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

            assert_eq!(end(&cookies).unwrap(), 4);

            for mut stream in streams {
                assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            }
            for socket in datagrams {
                let failed = socket.send(b"x").unwrap_err().raw_os_error();
                assert!([Some(libc::ECONNABORTED), Some(libc::EDESTADDRREQ)].contains(&failed), "{failed:?}");
            }
            other_datagram.send(b"x").unwrap();
            assert!(other_stream.peer_addr().is_ok() && listener.local_addr().is_ok() && server.local_addr().is_ok());
            assert_eq!(end(&cookies).unwrap(), 0);
        });
    }
}
