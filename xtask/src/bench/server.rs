//! The server that all loads are put on: it swallows streams, answers, and counts what arrives.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::Node;
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

use super::{
    datagrams::{self, Arrived},
    processor::{Processor, on_processor},
};

/// The port that servers listen on, TCP and UDP.
pub const PORT: u16 = 5000;

/// How often a server that has nothing to do looks whether it is to stop.
pub const TICK: Duration = Duration::from_millis(200);
/// Ticks of silence after which a server gives a connection up.
const SILENCE: u32 = 25;

/// How long nothing has to arrive for one quiet look.
const DRAIN: Duration = Duration::from_millis(20);
/// Quiet looks in a row after which nothing is taken to be under way: what waits in a queue of the kernel's for a processor that stands
/// still is in no socket yet.
const QUIET: u32 = 2;
/// How long to wait for them.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first byte of a connection says what it is for: to swallow what comes.
pub const SINK: u8 = b's';
/// To send back each byte.
pub const ECHO: u8 = b'e';
/// To answer this byte once.
pub const ONCE: u8 = b'o';

/// A server on [`PORT`]. Dropped, it stops within some ticks.
pub struct Server {
    bytes: Arc<AtomicU64>,
    datagrams: Arc<Arrived>,
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves TCP and UDP on every address of `node`.
    pub fn new(node: &Node) -> Result<Self> {
        let listener = node.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
        let listener = listener.with_context(|| format!("cannot serve on {}", node.name()))?;
        // Connections inherit it, so that no one of them can hold the server up.
        setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(TICK.as_millis().try_into()?))?;
        let socket = Arc::new(node.enter(datagrams::receiver)?);
        let (bytes, datagrams, stop) = (Arc::default(), Arc::default(), Arc::default());
        let mut server = Self { bytes, datagrams, socket: Arc::clone(&socket), stop, threads: Vec::new() };
        let (bytes, stop) = (Arc::clone(&server.bytes), Arc::clone(&server.stop));
        server.threads.push(thread::spawn(move || serve_tcp(&listener, &bytes, &stop)));
        let (datagrams, stop) = (Arc::clone(&server.datagrams), Arc::clone(&server.stop));
        server.threads.push(thread::spawn(move || datagrams::receive(&socket, &datagrams, &stop)));
        Ok(server)
    }

    /// Bytes of streams that have arrived so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many datagrams arrive of those that `sending` sends, and what it gives. What was under way before does not count, and what
    /// is under way afterwards does.
    pub fn arrived<T>(&self, sending: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let before = self.settled()?;
        self.beats();
        let sent = sending()?;
        Ok((self.settled()? - before, sent))
    }

    /// What the receiver of datagrams has felt of its processor since it was last asked or something was sent by [`Self::arrived`].
    pub fn beats(&self) -> Vec<u32> {
        self.datagrams.beats()
    }

    /// Datagrams that have arrived when nothing more does and everything is taken. A processor of a virtual machine may stand
    /// still for longer than a turn: what then waits for the receiver has arrived, and does not belong to the turn that follows.
    /// An error where there is no end of them.
    pub fn settled(&self) -> Result<u64> {
        self.settled_within(PATIENCE)
    }

    fn settled_within(&self, patience: Duration) -> Result<u64> {
        let begin = Instant::now();
        let (mut last, mut quiet) = (self.datagrams.count(), 0);
        while quiet < QUIET {
            ensure!(begin.elapsed() < patience, "datagrams still arrive or wait to be taken after {patience:?}");
            thread::sleep(DRAIN);
            // In this order: what is not in the socket is counted, or being taken.
            let waits = datagrams::waits(&self.socket)? || self.datagrams.is_taking();
            let now = self.datagrams.count();
            quiet = if waits || now != last { 0 } else { quiet + 1 };
            last = now;
        }
        Ok(last)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One connection after the other: no load has two, and a thread for each would cost more than what is measured.
fn serve_tcp(listener: &TcpListener, bytes: &AtomicU64, stop: &AtomicBool) {
    // Who waits for each other shares the client's processor. Waking another one costs a virtual machine some ten times what
    // a packet's way costs, and how often that happens would else be chance. A refusal leaves it to the kernel.
    let _ = on_processor(Processor::First);
    let mut buffer = vec![0; 256 << 10];
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else { continue };
        // A client that breaks off says so itself.
        let _ = serve(stream, &mut buffer, bytes, stop);
    }
}

fn serve(mut stream: TcpStream, buffer: &mut [u8], bytes: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut purpose = [0];
    if read(&mut stream, &mut purpose, stop)? == 0 {
        return Ok(());
    }
    match purpose[0] {
        ONCE => {
            stream.write_all(&purpose)?;
            read(&mut stream, &mut purpose, stop)?;
        }
        ECHO => {
            stream.set_nodelay(true)?;
            while read(&mut stream, &mut purpose, stop)? > 0 {
                stream.write_all(&purpose)?;
            }
        }
        _ => loop {
            let length = read(&mut stream, buffer, stop)?;
            if length == 0 {
                break;
            }
            bytes.fetch_add(length as u64, Ordering::Relaxed);
        },
    }
    Ok(())
}

/// Reads, waiting for some ticks if nothing comes.
fn read(stream: &mut TcpStream, buffer: &mut [u8], stop: &AtomicBool) -> io::Result<usize> {
    for _ in 0..SILENCE {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && !stop.load(Ordering::Relaxed) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
    Err(ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// How long a receiver stands still: far longer than a server needs to settle.
    const STILL: Duration = DRAIN.saturating_mul(10);

    #[test]
    fn what_arrives_while_its_receiver_stands_still_belongs_to_the_turn_that_sent_it() {
        let (server, address) = served_by(|socket, arrived, stop| {
            thread::sleep(STILL);
            datagrams::receive(socket, arrived, stop);
        });

        assert_eq!(server.arrived(|| Ok(send_seven(address))).expect("there is an end of them"), (7, 7));
    }

    #[test]
    fn what_its_receiver_has_taken_and_not_counted_belongs_to_the_turn_that_sent_it() {
        let (server, address) = served_by(|socket, arrived, _| {
            arrived.take(|| {
                for _ in 0..7 {
                    while socket.recv(&mut [0; 64]).is_err() {}
                }
                thread::sleep(STILL);
                7
            });
        });

        send_seven(address);

        assert_eq!(server.settled().expect("there is an end of them"), 7);
    }

    #[test]
    fn what_was_under_way_before_a_turn_does_not_belong_to_it() {
        let (server, address) = served_by(|socket, arrived, stop| {
            thread::sleep(STILL);
            datagrams::receive(socket, arrived, stop);
        });

        send_seven(address);

        assert_eq!(server.arrived(|| Ok(0)).expect("there is an end of them"), (0, 0));
    }

    #[test]
    fn a_turn_after_which_there_is_no_end_of_what_arrives_gives_nothing() {
        let (server, address) = served_by(|_, _, _| ());

        send_seven(address);

        let error = server.settled_within(STILL).expect_err("nobody takes them").to_string();
        assert!(error.starts_with("datagrams still arrive"), "{error}");
    }

    /// A server of datagrams alone, with a receiver that does this.
    fn served_by(receiver: impl FnOnce(&UdpSocket, &Arrived, &AtomicBool) + Send + 'static) -> (Server, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        socket.set_read_timeout(Some(TICK)).expect("a socket takes a timeout");
        let (address, socket) = (socket.local_addr().expect("it is bound"), Arc::new(socket));
        let mut server = Server {
            bytes: Arc::default(),
            datagrams: Arc::default(),
            socket: Arc::clone(&socket),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let (arrived, stop) = (Arc::clone(&server.datagrams), Arc::clone(&server.stop));
        server.threads.push(thread::spawn(move || receiver(&socket, &arrived, &stop)));
        (server, address)
    }

    /// Seven datagrams to `address`; that they are seven.
    fn send_seven(address: SocketAddr) -> u64 {
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        for _ in 0..7 {
            sender.send_to(&[0x5a; 64], address).expect("the loopback takes it");
        }
        7
    }
}
