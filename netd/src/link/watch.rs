//! What changes on the host and in the containers, as the kernel tells it: listened to, never asked for.
//!
//! One socket hears the host's own namespace and every other that has a number there, which each has that one of our veths
//! leads to. What a message says is not read, only what sort it is and where it comes from.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use nix::libc;
use rtnetlink::{
    MulticastGroup,
    sys::{
        Socket,
        protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
    },
};
use tokio::{io::unix::AsyncFd, sync::watch};

/// Groups of messages that tell of what netd depends on.
const GROUPS: [MulticastGroup; 11] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Tc,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// Room for what the kernel says while nobody listens, in bytes: a thousand containers that come at once.
const ROOM: libc::c_int = 8 << 20;

/// The group of what changes in nftables (`linux/netfilter/nfnetlink.h`).
const NFNLGRP_NFTABLES: u32 = 7;

/// The containers in which something has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed {
    /// All of them may have: messages were lost.
    Everywhere,
    /// The namespaces with these numbers.
    In(BTreeSet<i32>),
}

/// Listens in the network namespace of the thread that opened it.
#[derive(Clone)]
pub struct Watch(Arc<Inner>);

struct Inner {
    socket: AsyncFd<Socket>,
    /// Counts the changes of the host.
    version: AtomicU64,
    insides: Mutex<Insides>,
    told: watch::Sender<u64>,
}

struct Insides {
    ours: BTreeSet<i32>,
    changed: Changed,
}

impl Watch {
    /// Begins to listen, as long as the runtime lives that it is called in.
    pub fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM)?;
            socket.set_listen_all_namespaces(true)?;
            for group in GROUPS {
                socket.add_membership(group as u32)?;
            }
            // SAFETY: the socket is one descriptor as long as it lives, and nobody else has it.
            unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
        };
        let socket = open().context("cannot watch the host's links and routes")?;
        let insides = Mutex::new(Insides { ours: BTreeSet::new(), changed: Changed::In(BTreeSet::new()) });
        let inner = Inner { socket, version: AtomicU64::new(0), insides, told: watch::channel(0).0 };
        let watch = Self(Arc::new(inner));
        tokio::spawn(watch.clone().listen());
        // A kernel without nftables has none to tell of.
        if let Ok(socket) = firewall_socket() {
            tokio::spawn(watch.clone().listen_to_firewall(socket));
        }
        Ok(watch)
    }

    /// Wakes whoever waits when something has changed, on the host or in a container of ours: several changes may be one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.told.subscribe()
    }

    /// The number of changes of the host so far, those included that the kernel has just told.
    pub fn version(&self) -> u64 {
        self.hear();
        self.0.version.load(Ordering::Relaxed)
    }

    /// Says which namespaces are containers of ours, by their numbers; where something has changed since the last call.
    pub fn changed_inside(&self, ours: BTreeSet<i32>) -> Changed {
        self.hear();
        let mut insides = self.insides();
        insides.ours = ours;
        std::mem::replace(&mut insides.changed, Changed::In(BTreeSet::new()))
    }

    async fn listen(self) {
        while let Ok(mut ready) = self.0.socket.readable().await {
            self.hear();
            ready.clear_ready();
        }
    }

    /// Wakes whoever waits when nftables changes.
    async fn listen_to_firewall(self, socket: AsyncFd<Socket>) {
        let mut buffer = [0; 64];
        while let Ok(mut ready) = socket.readable().await {
            let mut heard = false;
            loop {
                match receive(socket.as_raw_fd(), &mut buffer) {
                    Ok(_) => heard = true,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            if heard {
                self.0.told.send_modify(|count| *count = count.wrapping_add(1));
            }
            ready.clear_ready();
        }
    }

    /// Takes what is there to be heard.
    fn hear(&self) {
        let mut buffer = [0; 64];
        let (mut host, mut inside) = (false, false);
        loop {
            match receive(self.0.socket.as_raw_fd(), &mut buffer) {
                Ok(Message { from: None, sort }) => host |= concerns_host(sort),
                Ok(Message { from: Some(number), sort }) => inside |= concerns_inside(sort) && self.note(number),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.insides().changed = Changed::Everywhere;
                    (host, inside) = (true, true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if host {
            self.0.version.fetch_add(1, Ordering::Relaxed);
        }
        if host || inside {
            self.0.told.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn note(&self, number: i32) -> bool {
        let mut insides = self.insides();
        let ours = insides.ours.contains(&number);
        if let (true, Changed::In(numbers)) = (ours, &mut insides.changed) {
            numbers.insert(number);
        }
        ours
    }

    fn insides(&self) -> MutexGuard<'_, Insides> {
        self.0.insides.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that hears what changes in nftables.
fn firewall_socket() -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.add_membership(NFNLGRP_NFTABLES)?;
    // SAFETY: the socket is one descriptor as long as it lives, and nobody else has it.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// The start of a message.
struct Message {
    /// Number of the namespace it is from, if that is not the socket's own.
    from: Option<i32>,
    sort: Sort,
}

/// Its `nlmsg_type`, and the family that everything after the header begins with.
#[derive(Clone, Copy)]
struct Sort {
    kind: u16,
    family: u8,
}

/// Neighbours come and go all the time; only the entries of bridges are anybody's doing.
fn concerns_host(Sort { kind, family }: Sort) -> bool {
    let neighbour = matches!(kind, libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH);
    !neighbour || i32::from(family) == libc::AF_BRIDGE
}

fn concerns_inside(Sort { kind, .. }: Sort) -> bool {
    matches!(
        kind,
        libc::RTM_NEWLINK
            | libc::RTM_DELLINK
            | libc::RTM_NEWADDR
            | libc::RTM_DELADDR
            | libc::RTM_NEWROUTE
            | libc::RTM_DELROUTE
            | libc::RTM_DELQDISC
            | libc::RTM_NEWTFILTER
            | libc::RTM_DELTFILTER
    )
}

fn receive(socket: RawFd, buffer: &mut [u8; 64]) -> io::Result<Message> {
    // Aligned as the kernel wants it, and room for one message of control.
    let mut control = [0_u64; 8];
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: integers and pointers, for which zeros are valid: no address.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: every pointer in `message` leads to something that lives through the call and is as long as it says.
    let length = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_DONTWAIT) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let word = |at: usize| [buffer[at], buffer[at + 1]];
    let sort = Sort { kind: u16::from_ne_bytes(word(4)), family: buffer[16] };
    // SAFETY: the kernel has filled `message`, whose control buffer still lives.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let from = header
        .filter(|header| header.cmsg_level == libc::SOL_NETLINK && header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID);
    // SAFETY: the data of this message is one int.
    let from = from.map(|header| unsafe { libc::CMSG_DATA(header).cast::<i32>().read_unaligned() });
    Ok(Message { from, sort })
}

fn set(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` lives through the call and is `length` bytes long.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
