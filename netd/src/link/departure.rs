//! Deleting a device. It is off every list, and its other side with it, as soon as the kernel has begun; what the kernel waits
//! for after that (readers of RCU, the last references; tens of milliseconds), nobody else needs to.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::{libc, net::if_::if_indextoname};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, link::LinkMessage},
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::{task::spawn_blocking, time::sleep};

use super::{Links, kernel::answered};

/// How often it is looked whether the device is off the list.
const LOOK: Duration = Duration::from_millis(1);

impl Links {
    /// Deletes the device of an index; there may be none. It is there no more when this returns, though the kernel may not be
    /// done with it: a runtime that ends waits for that.
    pub(super) async fn delete_index(&self, index: u32) -> Result<()> {
        // A request is answered within the call that sends it, which therefore is made on a thread of its own.
        let mut deletion = spawn_blocking(move || delete(index));
        loop {
            tokio::select! {
                deleted = &mut deletion => return deleted.context("what deletes a device panicked")?,
                () = sleep(LOOK) => if !is_listed(index) { return Ok(()) },
            }
        }
    }
}

/// For an index that no device has, the name is empty.
fn is_listed(index: u32) -> bool {
    if_indextoname(index).is_ok_and(|name| !name.is_empty())
}

/// Returns when the kernel is done.
fn delete(index: u32) -> Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelLink(link));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => match error.to_io().into() {
            gone if answered(&gone, libc::ENODEV) => Ok(()),
            refused => Err(refused),
        },
        _ => bail!("the kernel does not say whether it has deleted device {index}"),
    }
}
