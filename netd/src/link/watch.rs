//! What changes on the host and in the containers, as the kernel tells it: listened to, never asked for.
//!
//! One socket hears the host's own namespace and every other that has a number there, which each has that one of our veths
//! leads to. Of a message is read what sort it is, where it comes from and which device it is about, and no more.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

use super::kept::Touched;

/// Groups of messages that tell of what netd depends on.
const GROUPS: [MulticastGroup; 12] = [
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
    MulticastGroup::Nexthop,
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

/// What of the host is kept, each by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Links,
    Addresses,
    Routes,
    Connected,
    Stations,
    Filters,
}

impl Part {
    const ALL: [Self; 6] = [Self::Links, Self::Addresses, Self::Routes, Self::Connected, Self::Stations, Self::Filters];
}

/// Listens in the network namespace of the thread that opened it.
#[derive(Clone)]
pub struct Watch(Arc<Inner>);

struct Inner {
    socket: AsyncFd<Socket>,
    /// What has changed of the host since it was asked for, by [`Part`].
    touched: Mutex<[Touched; Part::ALL.len()]>,
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
        let inner = Inner { socket, touched: Mutex::default(), insides, told: watch::channel(0).0 };
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

    /// Of which of the host's devices something has changed since the last call, what the kernel has just told included.
    pub fn touched(&self, part: Part) -> Touched {
        self.hear();
        std::mem::take(&mut self.host()[part as usize])
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
        let mut buffer = [0; HEARD];
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
        let mut buffer = [0; HEARD];
        let mut heard = false;
        loop {
            match receive(self.0.socket.as_raw_fd(), &mut buffer) {
                Ok(Message { from: None, about }) => heard |= self.note_of_host(&about),
                Ok(Message { from: Some(number), about }) => heard |= concerns_inside(about.kind) && self.note(number),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.insides().changed = Changed::Everywhere;
                    self.host().fill(Touched::Everything);
                    heard = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if heard {
            self.0.told.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Whether it is anybody's concern.
    fn note_of_host(&self, about: &About) -> bool {
        let mut host = self.host();
        for part in parts(about) {
            match about.index {
                Some(index) => host[*part as usize].add(index),
                None => host[*part as usize] = Touched::Everything,
            }
        }
        concerns_host(about)
    }

    fn host(&self) -> MutexGuard<'_, [Touched; Part::ALL.len()]> {
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner)
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

/// As much of a message as is heard: the attribute that names a route's device is within that.
const HEARD: usize = 512;

/// The start of a message.
struct Message {
    /// Number of the namespace it is from, if that is not the socket's own.
    from: Option<i32>,
    about: About,
}

/// What a message is about.
#[derive(Clone, Copy, Debug)]
struct About {
    /// Its `nlmsg_type`.
    kind: u16,
    /// The family that everything after the header begins with.
    family: u8,
    /// The device; none where it is about several, or about none that is named.
    index: Option<u32>,
}

impl About {
    fn of(message: &[u8]) -> Self {
        let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
        let family = message.get(16).copied().unwrap_or_default();
        let index = match kind {
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => output(message),
            // Where links, addresses, neighbours, qdiscs and filters have it. Of a block of filters there is -1.
            _ => word(message, 20).filter(|index| *index != u32::MAX),
        };
        Self { kind, family, index }
    }
}

/// The device of a route that has one: the attributes come after a header of 16 bytes and one of 12.
fn output(message: &[u8]) -> Option<u32> {
    let mut rest = message.get(28..)?;
    while rest.len() >= 4 {
        let (length, kind) = (u16::from_ne_bytes([rest[0], rest[1]]), u16::from_ne_bytes([rest[2], rest[3]]));
        if kind == libc::RTA_OIF {
            return word(rest, 4);
        }
        rest = rest.get(usize::from(length.max(4)).next_multiple_of(4)..)?;
    }
    None
}

fn word(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// What may be other than it was after such a message. With a device go its addresses, routes, stations and filters, not all of
/// them with a message of their own, and with an address the routes that have it as their source.
fn parts(about: &About) -> &'static [Part] {
    match about.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => &Part::ALL,
        libc::RTM_NEWADDR | libc::RTM_DELADDR => &[Part::Addresses, Part::Routes, Part::Connected],
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => &[Part::Routes, Part::Connected],
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH if is_of_bridge(about) => &[Part::Stations],
        libc::RTM_NEWQDISC | libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => &[Part::Filters],
        _ => &[],
    }
}

/// Neighbours come and go all the time; only the entries of bridges are anybody's doing.
fn concerns_host(about: &About) -> bool {
    !matches!(about.kind, libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH) || is_of_bridge(about)
}

fn is_of_bridge(about: &About) -> bool {
    i32::from(about.family) == libc::AF_BRIDGE
}

const fn concerns_inside(kind: u16) -> bool {
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

fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<Message> {
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
    let about = About::of(&buffer[..buffer.len().min(length.cast_unsigned())]);
    // SAFETY: the kernel has filled `message`, whose control buffer still lives.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let from = header
        .filter(|header| header.cmsg_level == libc::SOL_NETLINK && header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID);
    // SAFETY: the data of this message is one int.
    let from = from.map(|header| unsafe { libc::CMSG_DATA(header).cast::<i32>().read_unaligned() });
    Ok(Message { from, about })
}

fn set(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` lives through the call and is `length` bytes long.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
