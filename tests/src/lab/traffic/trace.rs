//! The way to an address, hop by hop, as `traceroute` finds it: by datagrams that live for one hop, two hops and so on, and the
//! errors that come of them.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};

use super::{super::Node, AGAIN};

impl Node {
    /// Who said that a datagram to `target`, where no socket is, ended there: after one hop, after two and so on, until the
    /// target itself is heard, at most eight hops. `None` for a hop that says nothing within `wait`.
    ///
    /// # Panics
    /// When `target` is no `ADDRESS:PORT`, or there is no way to it.
    #[track_caller]
    pub fn traces(&self, target: &str, wait: Duration) -> Vec<Option<IpAddr>> {
        let target: SocketAddr = target.parse().unwrap_or_else(|_| panic!("{target} is no ADDRESS:PORT"));
        let mut hops = Vec::new();
        for hop in 1..=8 {
            let by = self.enter(|| ended_by(target, hop, wait)).unwrap_or_else(|e| panic!("no way to {target}: {e}"));
            hops.push(by);
            if by == Some(target.ip()) {
                break;
            }
        }
        hops
    }
}

fn ended_by(target: SocketAddr, hops: i32, wait: Duration) -> std::io::Result<Option<IpAddr>> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    if target.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        setsockopt(&socket, sockopt::Ipv4Ttl, &hops)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        setsockopt(&socket, sockopt::Ipv6Ttl, &hops)?;
    }
    socket.connect(target)?;
    socket.send(b"how far")?;
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.min(AGAIN)).unwrap_or(PollTimeout::MAX);
        // An error in its queue is told whatever is asked for.
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::empty())], timeout)?;
        if let Some(by) = told_by(&socket)? {
            return Ok(Some(by));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        // What has come meanwhile is told here, and stays in the queue.
        let _ = socket.send(b"how far");
    }
}

/// Who has said an error that is in the queue of a socket.
fn told_by(socket: &UdpSocket) -> std::io::Result<Option<IpAddr>> {
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let Ok(message) = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut space), flags) else {
        return Ok(None);
    };
    Ok(message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(_, Some(by)) => Some(u32::from_be(by.sin_addr.s_addr).to_be_bytes().into()),
        ControlMessageOwned::Ipv6RecvErr(_, Some(by)) => Some(by.sin6_addr.s6_addr.into()),
        _ => None,
    }))
}
