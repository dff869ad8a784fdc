//! Numbered datagrams to an echo server at a steady rate: how many came back, and the longest silence.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

#[cfg(doc)]
use super::super::Losses;
use super::{
    super::{Node, losses::machine_losses},
    PATIENCE, TICK,
};

/// What came of a row of datagrams.
#[derive(Debug)]
pub struct UdpPings {
    /// How many were sent.
    pub sent: u64,
    /// How many of them came back, copies not counted.
    pub answered: u64,
    /// The longest time between two answers.
    pub longest_silence: Duration,
    /// Packets, whoever's, that the machine itself threw away meanwhile ([`Losses::of_the_machine`]).
    pub thrown_away: u64,
}

impl UdpPings {
    /// Asserts that some were sent and all came back, but for as many as the machine itself may have thrown away.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn assert_none_lost(&self) {
        let lost = self.sent - self.answered;
        assert!(self.answered > 0 && lost <= self.thrown_away, "datagrams were lost: {self:?}");
    }
}

/// Datagrams that go on beside the test.
pub struct UdpPinging {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<UdpPings>,
}

impl UdpPinging {
    /// How many have come back so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Sends no more, waits for the last answers and counts.
    ///
    /// # Panics
    /// When its thread panicked.
    pub fn finish(self) -> UdpPings {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("pinging does not panic")
    }
}

impl Node {
    /// Sends `count` datagrams of `length` bytes (8 at least), one after the other's answer, and returns how many were
    /// answered within `wait` each.
    ///
    /// # Panics
    /// When `server` is no `ADDRESS:PORT`, or there is no route to it.
    pub fn asks_udp(&self, server: &str, count: u64, length: usize, wait: Duration) -> u64 {
        let socket = self.udp_to(server);
        socket.set_read_timeout(Some(wait)).expect("a socket can be given a timeout");
        let mut buffer = vec![0; 65536];
        let answered = |number: &u64| {
            let mut datagram = vec![0x5a; length.max(8)];
            datagram[..8].copy_from_slice(&number.to_le_bytes());
            socket.send(&datagram).is_ok() && socket.recv(&mut buffer).is_ok_and(|length| buffer[..length] == datagram)
        };
        (0..count).filter(answered).count() as u64
    }

    /// Sends numbered datagrams to an echo server, `rate` a second, until told to finish, five minutes at most.
    ///
    /// # Panics
    /// When `server` is no `ADDRESS:PORT`, or there is no route to it.
    pub fn pings_udp(&self, server: &str, rate: u32) -> UdpPinging {
        let socket = self.udp_to(server);
        socket.set_nonblocking(true).expect("a socket can be told not to block");
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (stop_inside, answered_inside) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread =
            thread::spawn(move || ping(&socket, Duration::from_secs(1) / rate, &stop_inside, &answered_inside));
        UdpPinging { stop, answered, thread }
    }

    fn udp_to(&self, server: &str) -> UdpSocket {
        let server: SocketAddr = server.parse().unwrap_or_else(|_| panic!("{server} is no ADDRESS:PORT"));
        let socket = self.enter(|| {
            let any: IpAddr =
                if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(server)?;
            std::io::Result::Ok(socket)
        });
        socket.unwrap_or_else(|error| panic!("{} has no way to {server}: {error}", self.name()))
    }
}

fn ping(socket: &UdpSocket, pause: Duration, stop: &AtomicBool, answered: &AtomicU64) -> UdpPings {
    let (begin, thrown_away) = (Instant::now(), machine_losses());
    let mut waited_for = BTreeSet::new();
    let (mut sent, mut last_answer, mut longest_silence) = (0_u64, begin, Duration::ZERO);
    let mut last_sent = begin;
    let sending = |sent: u64| !stop.load(Ordering::Relaxed) && sent < 300 * 1_000_000 / pause.as_micros().max(1) as u64;
    while sending(sent) || (!waited_for.is_empty() && last_sent.elapsed() < PATIENCE / 4) {
        if sending(sent) && begin.elapsed() >= pause * u32::try_from(sent).unwrap_or(u32::MAX) {
            if socket.send(&sent.to_le_bytes()).is_ok() {
                waited_for.insert(sent);
            }
            sent += 1;
            last_sent = Instant::now();
        }
        let mut number = [0; 8];
        while let Ok(8) = socket.recv(&mut number) {
            if waited_for.remove(&u64::from_le_bytes(number)) {
                answered.fetch_add(1, Ordering::Relaxed);
                longest_silence = longest_silence.max(last_answer.elapsed());
                last_answer = Instant::now();
            }
        }
        thread::sleep(TICK / 10);
    }
    let thrown_away = machine_losses() - thrown_away;
    UdpPings { sent, answered: answered.load(Ordering::Relaxed), longest_silence, thrown_away }
}
