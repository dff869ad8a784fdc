//! Connections.

use std::{io, net::TcpListener as Bound, os::fd::OwnedFd, sync::Arc, time::Duration};

use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use super::Shared;
use crate::reconcile::RelayTarget;

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

/// How long a container may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long to wait where the kernel has no room for one more.
const PAUSE: Duration = Duration::from_millis(50);

/// Has a bound socket listen.
pub fn listening(socket: OwnedFd) -> io::Result<TcpListener> {
    listen(&socket, Backlog::new(BACKLOG)?)?;
    // For those that it takes: closed ones (TIME-WAIT) are not in the way of a daemon that starts. While this one listens, nobody
    // else gets the port by it.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let listener = Bound::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Takes connections until it is dropped, and with it all that it has taken.
pub async fn serve(shared: Arc<Shared>, listener: TcpListener, target: RelayTarget) {
    let mut connections = JoinSet::new();
    loop {
        let room = Arc::clone(&shared.room);
        // Who finds no room waits to be taken.
        let Ok(room) = Semaphore::acquire_owned(room).await else { return };
        let (client, peer) = match listener.accept().await {
            Ok(taken) => taken,
            Err(error) => {
                debug!("cannot take a connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if !shared.relays().admits(&target, peer.ip()) {
            refuse(&client);
            continue;
        }
        let to = target.to;
        connections.spawn(async move {
            let _room = room;
            match timeout(CONNECT, TcpStream::connect(to)).await {
                Ok(Ok(container)) => carry(client, container).await,
                _ => refuse(&client),
            }
        });
    }
}

/// Carries bytes both ways; where one side says no more, the other is told, and may go on.
async fn carry(mut client: TcpStream, mut container: TcpStream) {
    for side in [&client, &container] {
        // Of one that is gone without a word the kernel tells after two hours. Neither failure matters.
        let _ = setsockopt(side, sockopt::KeepAlive, &true);
        let _ = side.set_nodelay(true);
    }
    if copy_bidirectional(&mut client, &mut container).await.is_err() {
        refuse(&client);
        refuse(&container);
    }
}

/// Has a connection end with a reset when it is dropped.
fn refuse(client: &TcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(client, sockopt::Linger, &at_once);
}
