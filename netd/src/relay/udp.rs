//! Datagrams: each client has a socket towards the container for as long as something is said.

use std::{
    cell::RefCell,
    collections::HashMap,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as Bound},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use nix::{
    cmsg_space,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recv, recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use super::Shared;
use crate::reconcile::RelayTarget;

/// How long a client is known that says nothing and is told nothing.
const IDLE: Duration = Duration::from_secs(120);

/// Clients of a port at once; another's datagrams are lost, as they may be.
const CLIENTS: usize = 256;

/// Datagrams of a client that wait.
const WAITING: usize = 64;

/// Bytes that the kernel keeps for a port (`net.core.rmem_default`).
const KEPT: usize = 212_992;

/// The longest datagram.
const LONGEST: usize = 1 << 16;

/// A client: its address, and the one of the host that it sent to.
type Client = (SocketAddr, IpAddr);

thread_local! {
    /// Where every datagram is read, of all ports and clients: a thousand ports that are silent take no memory for what may come.
    static INBOX: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST]);
}

/// A datagram as it is read into the inbox, and what is told of it.
fn read_one<T>(read: impl FnOnce(&mut [u8]) -> io::Result<(usize, T)>) -> io::Result<(Vec<u8>, T)> {
    INBOX.with_borrow_mut(|inbox| {
        let (length, told) = read(inbox)?;
        Ok((inbox[..length].to_vec(), told))
    })
}

/// Has a bound socket tell which address a datagram came to.
pub fn receiving(socket: OwnedFd) -> io::Result<UdpSocket> {
    let socket = Bound::from(socket);
    match socket.local_addr()? {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    setsockopt(&socket, sockopt::RcvBuf, &KEPT)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Takes datagrams until it is dropped, and forgets its clients with it.
pub async fn serve(shared: Arc<Shared>, socket: UdpSocket, target: RelayTarget) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<Client, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut talks = JoinSet::new();
    loop {
        let receive = || read_one(|inbox| receive(socket.as_raw_fd(), inbox));
        let (datagram, client) = match socket.async_io(Interest::READABLE, receive).await {
            Ok(received) => received,
            Err(error) => {
                debug!("cannot take a datagram: {error}");
                continue;
            }
        };
        while let Some(ended) = talks.try_join_next() {
            if let Ok(client) = ended {
                forget_ended(&mut clients, client);
            }
        }
        if !shared.relays().admits(&target, client.0.ip()) {
            continue;
        }
        let Err(unheard) = tell(&clients, client, datagram) else { continue };
        if clients.len() >= CLIENTS {
            continue;
        }
        let Ok(room) = Arc::clone(&shared.room).try_acquire_owned() else { continue };
        let (sender, waiting) = mpsc::channel(WAITING);
        // It has room for one.
        let _ = sender.try_send(unheard);
        clients.insert(client, sender);
        talks.spawn(talk(Arc::clone(&socket), client, target.to, waiting, room));
    }
}

/// One that has ended, unless another has begun in its place.
fn forget_ended(clients: &mut HashMap<Client, mpsc::Sender<Vec<u8>>>, client: Client) {
    if clients.get(&client).is_some_and(mpsc::Sender::is_closed) {
        clients.remove(&client);
    }
}

/// Hands a datagram to whoever serves its client; gives it back if nobody does. What finds no room is lost.
fn tell(clients: &HashMap<Client, mpsc::Sender<Vec<u8>>>, client: Client, datagram: Vec<u8>) -> Result<(), Vec<u8>> {
    match clients.get(&client).map(|sender| sender.try_send(datagram.clone())) {
        Some(Ok(()) | Err(mpsc::error::TrySendError::Full(_))) => Ok(()),
        Some(Err(mpsc::error::TrySendError::Closed(datagram))) => Err(datagram),
        None => Err(datagram),
    }
}

/// Carries datagrams of one client both ways, until it falls silent or the container refuses.
async fn talk(
    socket: Arc<UdpSocket>,
    client: Client,
    to: SocketAddr,
    mut waiting: mpsc::Receiver<Vec<u8>>,
    _room: OwnedSemaphorePermit,
) -> Client {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let Ok(container) = UdpSocket::bind((any, 0)).await else { return client };
    if container.connect(to).await.is_err() {
        return client;
    }
    let answered = || read_one(|inbox| Ok((recv(container.as_raw_fd(), inbox, MsgFlags::empty())?, ())));
    loop {
        let said = timeout(IDLE, async {
            tokio::select! {
                datagram = waiting.recv() => match datagram {
                    Some(datagram) => container.send(&datagram).await.map(|_| ()),
                    None => Err(io::ErrorKind::BrokenPipe.into()),
                },
                answer = container.async_io(Interest::READABLE, answered) => {
                    let (answer, ()) = answer?;
                    socket.async_io(Interest::WRITABLE, || send(socket.as_raw_fd(), &answer, client)).await
                }
            }
        });
        // Refused by the container, or nothing was said: the next datagram begins anew.
        if !matches!(said.await, Ok(Ok(()))) {
            return client;
        }
    }
}

/// A datagram, and who sent it to which address.
fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut space = cmsg_space!(in6_pktinfo);
    let message = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut space), MsgFlags::empty())?;
    let to = message.cmsgs()?.find_map(|told| match told {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into()),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into()),
        _ => None,
    });
    let from = message.address.and_then(socket_address);
    from.zip(to).map(|client| (message.bytes, client)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::from((address.ip(), address.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::from((address.ip(), address.port()))))
}

/// Sends a datagram to a client from the address that it sent to.
fn send(socket: RawFd, datagram: &[u8], (client, from): Client) -> io::Result<()> {
    let parts = [IoSlice::new(datagram)];
    let to = SockaddrStorage::from(client);
    match from {
        IpAddr::V4(from) => {
            let address = in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: in_addr { s_addr: 0 } };
            sendmsg(socket, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::empty(), Some(&to))?;
        }
        IpAddr::V6(from) => {
            let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            sendmsg(socket, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], MsgFlags::empty(), Some(&to))?;
        }
    }
    Ok(())
}
