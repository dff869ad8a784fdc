//! Listings by a socket of one's own, without a runtime: on whatever thread, in whatever namespace, of whatever protocol.

use std::{fmt::Debug, io};

use anyhow::{Result, anyhow, bail};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkMessage,
        NetlinkPayload, NetlinkSerializable,
    },
    sys::{Socket, SocketAddr},
};

use super::kernel::DUMPS;

/// A socket of a netlink protocol, in the namespace of the calling thread.
pub fn socket(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Has a request met.
pub fn tell<M>(socket: &Socket, request: M) -> io::Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
    NetlinkPayload<M>: From<M>,
{
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<M>::deserialize(&answer).map_err(io::Error::other)?;
        if let NetlinkPayload::Error(error) = answer.payload {
            return if error.code.is_some() { Err(error.to_io()) } else { Ok(()) };
        }
    }
}

/// A listing that nothing changed under, as [`super::Links`] lists.
pub fn dump<M>(socket: &Socket, request: &M) -> Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable + Clone + Debug,
    NetlinkPayload<M>: From<M>,
{
    for _ in 0..DUMPS {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        socket.send(&bytes, 0)?;
        let (mut listed, mut torn, mut done) = (Vec::new(), false, false);
        while !done {
            let (datagram, _) = socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let length = NetlinkBuffer::new_checked(rest).map_err(|error| anyhow!("{error}"))?.length() as usize;
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(|error| anyhow!("{error}"))?;
                torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => listed.push(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io().into()),
                    NetlinkPayload::Done(_) => done = true,
                    _ => {}
                }
                // Each begins at a multiple of four bytes.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        if !torn {
            return Ok(listed);
        }
    }
    bail!("it changed in the middle, {DUMPS} times over")
}
