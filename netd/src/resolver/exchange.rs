//! One question to one server, and its answer: over UDP, and over TCP where the answer does not fit.

use std::{
    io,
    net::{SocketAddr, UdpSocket as StdUdpSocket},
    sync::Arc,
};

use hickory_proto::op::{Message, ResponseCode};
use nix::sys::socket::SockType;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
};

use super::sockets::{towards, unconnected};
use crate::{dns::Question, netns::Namespace};

/// The longest datagram there is.
const LONGEST: usize = 65_535;

/// The answer of a server that has one: a server that fails or refuses has none. Waits as long as it takes.
pub async fn ask(
    question: Arc<Question>,
    server: SocketAddr,
    namespace: Option<Arc<Namespace>>,
) -> io::Result<(Message, usize)> {
    let mut answer = by_datagram(&question, server, &namespace, true).await?;
    let knows_no_edns = matches!(answer.0.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp);
    if knows_no_edns {
        answer = by_datagram(&question, server, &namespace, false).await?;
    }
    if answer.0.metadata.truncation {
        answer = by_connection(&question, server, &namespace, !knows_no_edns).await?;
    }
    match answer.0.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        // As people know it: `REFUSED`, `SERVFAIL`.
        code => Err(io::Error::other(format!("{server} says {}", format!("{code:?}").to_uppercase()))),
    }
}

async fn by_datagram(
    question: &Question,
    server: SocketAddr,
    namespace: &Option<Arc<Namespace>>,
    edns: bool,
) -> io::Result<(Message, usize)> {
    // A socket a question: its port is as hard to guess as its id (RFC 5452 section 4).
    let socket = opened(server, namespace, SockType::Datagram).await?;
    let socket = UdpSocket::from_std(StdUdpSocket::from(socket))?;
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&bytes_of(&question.message(id, edns))?).await?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this may be anybody's.
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && question.is_answered_by(&answer, id)
        {
            return Ok((answer, length));
        }
    }
}

async fn by_connection(
    question: &Question,
    server: SocketAddr,
    namespace: &Option<Arc<Namespace>>,
    edns: bool,
) -> io::Result<(Message, usize)> {
    let socket = opened(server, namespace, SockType::Stream).await?;
    let mut connection = unconnected(socket).connect(server).await?;
    let id = rand::random();
    let bytes = bytes_of(&question.message(id, edns))?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    connection.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    let mut buffer = vec![0; connection.read_u16().await?.into()];
    connection.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if question.is_answered_by(&answer, id) {
        Ok((answer, buffer.len()))
    } else {
        Err(io::Error::other(format!("{server} answers another question")))
    }
}

/// Entering a namespace takes a thread: another one than that which answers.
async fn opened(
    server: SocketAddr,
    namespace: &Option<Arc<Namespace>>,
    kind: SockType,
) -> io::Result<std::os::fd::OwnedFd> {
    match namespace.clone() {
        None => towards(server, None, kind),
        Some(namespace) => {
            let opened = tokio::task::spawn_blocking(move || towards(server, Some(&namespace), kind));
            opened.await.map_err(io::Error::other)?
        }
    }
}

fn bytes_of(message: &Message) -> io::Result<Vec<u8>> {
    message.to_vec().map_err(io::Error::other)
}
