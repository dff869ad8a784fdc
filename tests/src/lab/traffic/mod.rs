//! Servers and clients whose two ends both know what should have arrived. All of them end by themselves.

mod bulk;
mod http;
mod icmp;
mod server;
mod trace;
mod udp;

use std::{
    io::{self, ErrorKind},
    net::UdpSocket,
    time::{Duration, Instant},
};

pub use bulk::{Download, Received, Transfer};
pub use server::Server;
pub use udp::{UdpPinging, UdpPings};

/// How long a client waits for what should come. Emulated machines are slow, and on loaded ones anybody may stand still for seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// When a client says once more what nobody has answered: what a machine has thrown away nobody else says again.
const AGAIN: Duration = Duration::from_secs(10);

/// How long a client waits for what should not come.
pub const IMPATIENCE: Duration = Duration::from_secs(1);

/// How often servers look whether they are to stop.
const TICK: Duration = Duration::from_millis(5);

/// Bytes of datagrams that wait at a socket for a thread that stands still.
const ROOM: usize = 8 << 20;

/// Says something until it is answered, and returns whether it was within `wait`, before there was an error.
fn is_answered(socket: &UdpSocket, said: &[u8], wait: Duration, is_answer: impl Fn(&[u8]) -> bool) -> bool {
    let deadline = Instant::now() + wait;
    loop {
        if socket.send(said).is_err() {
            return false;
        }
        match hears(socket, deadline.min(Instant::now() + AGAIN), &is_answer) {
            Ok(false) if Instant::now() < deadline => {}
            heard => return heard.unwrap_or(false),
        }
    }
}

/// Whether something comes until then that is what is waited for. What is there already counts however late it is.
fn hears(socket: &UdpSocket, until: Instant, is_it: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
    let mut buffer = vec![0; 65536];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match socket.recv(&mut buffer) {
            Ok(length) if is_it(&buffer[..length]) => return Ok(true),
            // Somebody else's, an error message about an earlier request, or an answer that comes twice.
            Ok(_) if Instant::now() < until => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
