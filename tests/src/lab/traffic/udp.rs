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

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

#[cfg(doc)]
use super::super::Losses;
use super::{
    super::{Node, losses::machine_losses},
    PATIENCE, ROOM, TICK, is_answered,
};

/// How long those that came before the last answered one may still be on their way.
const LATE: Duration = Duration::from_millis(2500);

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

/// Datagrams that go on beside the test, until this goes.
pub struct UdpPinging {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<UdpPings>>,
}

impl UdpPinging {
    /// How many have come back so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until a second and more of what is sent has no answer.
    ///
    /// # Panics
    /// When something is answered for a minute.
    #[track_caller]
    pub fn stops_being_answered(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (began, sent, answered) = (Instant::now(), self.sent.load(Ordering::Relaxed), self.answered());
            // Those of before may yet be on their way, or wait for a thread that stands still.
            while self.sent.load(Ordering::Relaxed) < sent + 20 || began.elapsed() < Duration::from_secs(1) {
                assert!(began.elapsed() < PATIENCE, "nothing is sent any more");
                thread::sleep(TICK);
            }
            if self.answered() == answered {
                return;
            }
            assert!(Instant::now() < deadline, "it is answered still");
        }
    }

    /// Sends no more, waits for the last answers and counts.
    ///
    /// # Panics
    /// When its thread panicked.
    pub fn finish(mut self) -> UdpPings {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is joined once").join().expect("pinging does not panic")
    }
}

impl Drop for UdpPinging {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Node {
    /// Sends `count` datagrams of `length` bytes (8 at least), one after the other's answer, and returns how many were
    /// answered within `wait` each. What is not answered for ten seconds is sent again.
    ///
    /// # Panics
    /// When `server` is no `ADDRESS:PORT`, or there is no route to it.
    pub fn asks_udp(&self, server: &str, count: u64, length: usize, wait: Duration) -> u64 {
        let socket = self.udp_to(server);
        let answered = |number: &u64| {
            let mut datagram = vec![0x5a; length.max(8)];
            datagram[..8].copy_from_slice(&number.to_le_bytes());
            is_answered(&socket, &datagram, wait, |answer| answer == datagram)
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
        setsockopt(&socket, RcvBufForce, &ROOM).expect("root may");
        let stop = Arc::new(AtomicBool::new(false));
        let [sent, answered] = [0, 0].map(|none| Arc::new(AtomicU64::new(none)));
        let (stop_inside, counts) = (Arc::clone(&stop), [Arc::clone(&sent), Arc::clone(&answered)]);
        let thread = thread::spawn(move || {
            let [sent, answered] = &counts;
            ping(&socket, Duration::from_secs(1) / rate, &stop_inside, (sent, answered))
        });
        UdpPinging { stop, sent, answered, thread: Some(thread) }
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

fn ping(
    socket: &UdpSocket,
    pause: Duration,
    stop: &AtomicBool,
    (count, answered): (&AtomicU64, &AtomicU64),
) -> UdpPings {
    let (begin, thrown_away) = (Instant::now(), machine_losses());
    let mut waited_for = BTreeSet::new();
    let (mut sent, mut last_answer, mut longest_silence) = (0_u64, begin, Duration::ZERO);
    let (mut last, mut last_sent) = (0, begin);
    let sending = |sent: u64| !stop.load(Ordering::Relaxed) && sent < 300 * 1_000_000 / pause.as_micros().max(1) as u64;
    let patience = |last_is_answered: bool| if last_is_answered { LATE } else { PATIENCE };
    while sending(sent) || (!waited_for.is_empty() && last_sent.elapsed() < patience(!waited_for.contains(&last))) {
        if sending(sent) && begin.elapsed() >= pause * u32::try_from(sent).unwrap_or(u32::MAX) {
            if socket.send(&sent.to_le_bytes()).is_ok() {
                waited_for.insert(sent);
                last = sent;
            }
            sent += 1;
            count.store(sent, Ordering::Relaxed);
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
