//! TCP under load between two nodes: one server for all loads, and a client for each. What they give are the values of one
//! round. Every load is bounded in time.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
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
    client,
    datagrams::{self, Given},
    figures::{Measure, percentile},
    processor::{Processor, on_processor},
};

/// The port that servers listen on, TCP and UDP.
pub const PORT: u16 = 5000;

/// How often a server that has nothing to do looks whether it is to stop.
pub const TICK: Duration = Duration::from_millis(200);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing has to arrive until nothing is taken to be under way.
const DRAIN: Duration = Duration::from_millis(20);
/// Ticks of silence after which a server gives a connection up.
const SILENCE: u32 = 25;

const MEBIBYTE: f64 = (1 << 20) as f64;

/// The first byte of a connection says what it is for: to swallow what comes.
const SINK: u8 = b's';
/// To send back each byte.
const ECHO: u8 = b'e';
/// To answer this byte once.
const ONCE: u8 = b'o';

/// One kind of load, which gives one or more measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Load {
    /// One TCP stream as fast as it goes.
    Stream,
    /// Requests and responses of 1 byte on one connection.
    Exchange,
    /// Connections with one request each, one after the other.
    Connect,
    /// Datagrams of 64 bytes as fast as they go.
    Datagrams,
}

impl Load {
    /// All, in the order they are run.
    pub const ALL: [Self; 4] = [Self::Stream, Self::Exchange, Self::Connect, Self::Datagrams];

    /// The one that gives a measure.
    pub const fn of(measure: Measure) -> Self {
        match measure {
            Measure::Stream => Self::Stream,
            Measure::Exchange50 | Measure::Exchange99 | Measure::Exchange999 => Self::Exchange,
            Measure::Connect50 | Measure::ConnectRate => Self::Connect,
            Measure::Packets | Measure::Cpu => Self::Datagrams,
        }
    }

    /// What tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Exchange => "round trips",
            Self::Connect => "connects",
            Self::Datagrams => "datagrams",
        }
    }
}

/// Who sends to whom.
#[derive(Clone)]
pub struct Ends {
    /// Where the client runs.
    pub client: Node,
    /// Whether the client is a process of its own there, in the node's control group, and no thread of this one.
    pub apart: bool,
    /// Where the client finds the server.
    pub to: SocketAddrV4,
    /// The server that it finds there.
    pub server: Arc<Server>,
}

impl Ends {
    /// Runs a load for `time` and tells what it measured.
    pub fn run(&self, load: Load, time: Duration) -> Result<Turn> {
        let (bytes, ticks) = (self.server.bytes.load(Ordering::Relaxed), datagrams::busy_ticks()?);
        let datagrams = self.server.datagrams();
        let sent = if self.apart {
            client::run_apart(&self.client, load, self.to, time)?
        } else {
            self.client.enter(|| send(load, self.to, time))?
        };
        match load {
            Load::Stream => {
                let arrived = self.server.bytes.load(Ordering::Relaxed) - bytes;
                ensure!(arrived > 0, "no byte of the stream arrived");
                let values = vec![(Measure::Stream, arrived as f64 * 8e-9 / sent.seconds)];
                Ok(Turn { count: arrived as f64 / MEBIBYTE, values })
            }
            Load::Exchange | Load::Connect => {
                ensure!(sent.count > 0, "no {} with {} ended", load.name(), self.to);
                Ok(Turn { count: sent.count as f64, values: sent.values })
            }
            Load::Datagrams => {
                let arrived = self.server.settled()? - datagrams;
                ensure!(arrived > 0, "no datagram to {} arrived ({})", self.to, sent.given);
                let spent = datagrams::micros(datagrams::busy_ticks()? - ticks);
                let values = vec![
                    (Measure::Packets, arrived as f64 / 1e3 / sent.seconds),
                    (Measure::Cpu, spent / arrived as f64),
                ];
                Ok(Turn { count: arrived as f64, values })
            }
        }
    }
}

/// What a load gave.
#[derive(Clone, PartialEq, Debug)]
pub struct Turn {
    /// So many mebibytes, round trips, connections or packets there were.
    pub count: f64,
    /// What was measured.
    pub values: Vec<(Measure, f64)>,
}

/// What a client can tell by itself.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sent {
    /// How long it sent, where how much of it arrived is what counts.
    pub seconds: f64,
    /// So many round trips or connections there were.
    pub count: u64,
    /// What it sent, of datagrams.
    pub given: Given,
    /// What it measured itself.
    pub values: Vec<(Measure, f64)>,
}

/// Puts a load on a server for `time`, from where the calling thread is.
pub fn send(load: Load, to: SocketAddrV4, time: Duration) -> Result<Sent> {
    on_processor(Processor::First)?;
    match load {
        Load::Stream => stream(to, time).map(|seconds| Sent { seconds, ..Sent::default() }),
        Load::Exchange => exchange(to, time),
        Load::Connect => connect(to, time),
        Load::Datagrams => {
            let (seconds, given) = datagrams::send(to, time)?;
            Ok(Sent { seconds, given, ..Sent::default() })
        }
    }
}

fn stream(to: SocketAddrV4, time: Duration) -> Result<f64> {
    let mut stream = open(to, SINK)?;
    let block = vec![0x5a; 128 << 10];
    let begin = Instant::now();
    while begin.elapsed() < time {
        stream.write_all(&block).context("the stream broke off")?;
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn exchange(to: SocketAddrV4, time: Duration) -> Result<Sent> {
    let mut stream = open(to, ECHO)?;
    let mut times = Vec::with_capacity(1 << 20);
    let begin = Instant::now();
    let mut byte = [0];
    let mut now = begin;
    while now - begin < time {
        stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).context("no answer")?;
        let then = std::mem::replace(&mut now, Instant::now());
        times.push(nanoseconds(now - then));
    }
    times.sort_unstable();
    let micros = |share| f64::from(percentile(&times, share)) / 1e3;
    let values = vec![
        (Measure::Exchange50, micros(0.5)),
        (Measure::Exchange99, micros(0.99)),
        (Measure::Exchange999, micros(0.999)),
    ];
    Ok(Sent { count: times.len() as u64, values, ..Sent::default() })
}

fn connect(to: SocketAddrV4, time: Duration) -> Result<Sent> {
    let mut times = Vec::with_capacity(1 << 18);
    let begin = Instant::now();
    let mut now = begin;
    while now - begin < time {
        let mut answer = [0];
        let mut stream = open(to, ONCE)?;
        stream.read_exact(&mut answer).context("no answer")?;
        drop(stream);
        let then = std::mem::replace(&mut now, Instant::now());
        times.push(nanoseconds(now - then));
    }
    let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
    times.sort_unstable();
    let values = vec![(Measure::Connect50, f64::from(percentile(&times, 0.5)) / 1e3), (Measure::ConnectRate, rate)];
    Ok(Sent { count: times.len() as u64, values, ..Sent::default() })
}

fn open(to: SocketAddrV4, purpose: u8) -> Result<TcpStream> {
    let open = || -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[purpose])?;
        Ok(stream)
    };
    open().with_context(|| format!("cannot connect to {to}"))
}

fn nanoseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}

/// A server on [`PORT`]. Dropped, it stops within some ticks.
pub struct Server {
    bytes: Arc<AtomicU64>,
    datagrams: Arc<AtomicU64>,
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

    /// Datagrams that have arrived so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// Datagrams that have arrived when nothing more does and everything is taken. A processor of a virtual machine may stand
    /// still for longer than a turn: what then waits for the receiver has arrived, and does not belong to the turn that follows.
    pub fn settled(&self) -> Result<u64> {
        let begin = Instant::now();
        let mut last = self.datagrams();
        while begin.elapsed() < PATIENCE {
            thread::sleep(DRAIN);
            let waits = datagrams::waits(&self.socket)?;
            if std::mem::replace(&mut last, self.datagrams()) == last && !waits {
                break;
            }
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
    use super::*;

    #[test]
    fn what_arrives_while_its_receiver_stands_still_belongs_to_the_turn_that_sent_it() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        socket.set_read_timeout(Some(TICK)).expect("a socket takes a timeout");
        let address = socket.local_addr().expect("it is bound");
        let socket = Arc::new(socket);
        let mut server = Server {
            bytes: Arc::default(),
            datagrams: Arc::default(),
            socket: Arc::clone(&socket),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let (datagrams, stop) = (Arc::clone(&server.datagrams), Arc::clone(&server.stop));
        server.threads.push(thread::spawn(move || {
            thread::sleep(10 * DRAIN);
            datagrams::receive(&socket, &datagrams, &stop);
        }));

        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        for _ in 0..7 {
            sender.send_to(&[0x5a; 64], address).expect("the loopback takes it");
        }

        assert_eq!(server.settled().expect("the kernel tells"), 7);
    }
}
