//! nf_conntrack's entry of a connection, by ctnetlink: made to bear that it does not see every packet.
//!
//! A connection on the fast path goes on without it. Its windows would stand still, and the next packet that it sees be invalid:
//! so both directions of the entry are made liberal about windows, as nf_flow_table does with those that it takes over. Never
//! is the host's sysctl for all of them (`nf_conntrack_tcp_be_liberal`) touched.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use netd_common::tuple::{Address, Tuple};
use nix::{
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt,
    },
    sys::time::TimeVal,
};

use super::sockets::messages;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`.
const NEW: u16 = 1 << 8;
/// Attributes (`linux/netfilter/nfnetlink_conntrack.h`).
const TUPLE_ORIG: u16 = 1;
const PROTOINFO: u16 = 4;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTOINFO_TCP: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`.
const BE_LIBERAL: u8 = 0x08;

/// A connection to ctnetlink.
#[derive(Debug)]
pub struct Conntrack(OwnedFd);

impl Conntrack {
    /// Connects, in the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
            setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
            Ok::<_, io::Error>(Self(netlink))
        };
        open().context("cannot open a netlink socket to nf_conntrack")
    }

    /// Makes the entry of the connection liberal whose packets have this tuple in one of the two directions; false if there is none.
    pub fn make_liberal(&self, tuple: &Tuple) -> Result<bool> {
        let answer = self.ask(&request(tuple)).context("cannot change an entry of nf_conntrack")?;
        match answer {
            0 => Ok(true),
            libc::ENOENT => Ok(false),
            number => Err(io::Error::from_raw_os_error(number)).context("nf_conntrack refuses to change an entry"),
        }
    }

    /// Sends a request and returns the error number that it is answered with.
    fn ask(&self, message: &[u8]) -> io::Result<i32> {
        sendto(self.0.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = [0; 1024];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let number = messages(&buffer[..length]).find_map(|(kind, payload)| {
            let number: [u8; 4] = payload.get(..4)?.try_into().ok()?;
            (i32::from(kind) == libc::NLMSG_ERROR).then(|| -i32::from_ne_bytes(number))
        });
        number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// The kernel finds an entry by the tuple of either direction, whichever is given as the original one.
fn request(tuple: &Tuple) -> Vec<u8> {
    let v4 = tuple.dst.is_v4();
    let address = |kind: u16, address: Address| match address.ip() {
        std::net::IpAddr::V4(ip) => attribute(kind, &ip.octets()),
        std::net::IpAddr::V6(ip) => attribute(kind + 2, &ip.octets()),
    };
    let ip = nested(TUPLE_IP, &[address(1, tuple.src), address(2, tuple.dst)]);
    let proto = nested(
        TUPLE_PROTO,
        &[
            attribute(PROTO_NUM, &[tuple.protocol]),
            attribute(PROTO_SRC_PORT, &tuple.src_port.bytes()),
            attribute(PROTO_DST_PORT, &tuple.dst_port.bytes()),
        ],
    );
    // Flags, and which of them are meant.
    let flags = [BE_LIBERAL; 2];
    let tcp = nested(PROTOINFO_TCP, &[attribute(TCP_FLAGS_ORIGINAL, &flags), attribute(TCP_FLAGS_REPLY, &flags)]);
    let attributes = [nested(TUPLE_ORIG, &[ip, proto]), nested(PROTOINFO, &[tcp])].concat();

    let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    let mut message = ((20 + attributes.len()) as u32).to_ne_bytes().to_vec();
    message.extend(NEW.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family as u8, 0, 0, 0]);
    message.extend(attributes);
    message
}

/// A netlink attribute that holds others.
pub fn nested(kind: u16, inner: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | libc::NLA_F_NESTED as u16, &inner.concat())
}

/// A netlink attribute.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
