//! Datagrams of 64 bytes as fast as they go, many a system call.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};

use super::{
    gauge::Pulse,
    processor::{Processor, on_processor},
    server::{PORT, TICK},
};

/// Payload of a datagram.
const LENGTH: usize = 64;
/// Datagrams a system call.
const BATCH: usize = 32;
/// How long a receiver that has taken everything lets more come. It is never woken by a packet while packets come: waking a
/// processor of a virtual machine costs more than the whole way of the packet, and hides it.
const PAUSE: Duration = Duration::from_micros(100);
/// Pauses in a row after which a receiver waits to be woken.
const IDLE: u32 = 200;
/// Room for what comes during some pauses.
const ROOM: usize = 16 << 20;

/// What became of datagrams where they were sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Given {
    /// So many the kernel took.
    pub taken: u64,
    /// System calls of which it took none.
    pub refused: u64,
    /// The last refusal, in the kernel's words.
    pub refusal: Option<String>,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent", self.taken)?;
        match &self.refusal {
            Some(refusal) => write!(f, ", {} calls refused: {refusal}", self.refused),
            None => Ok(()),
        }
    }
}

/// Sends to `to` for `time`; how many seconds it sent, and what.
pub fn send(to: SocketAddrV4, time: Duration, pulse: &mut Pulse) -> Result<(f64, Given)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to).with_context(|| format!("no way to {to}"))?;
    let (mut batch, mut given) = (Batch::new(), Given::default());
    let begin = Instant::now();
    let mut now = begin;
    while now - begin < time {
        pulse.beat(now);
        // What the kernel refuses does not arrive and is not counted.
        match batch.send(&socket) {
            Ok(taken) => given.taken += taken,
            Err(error) => {
                given.refused += 1;
                given.refusal = Some(error.to_string());
            }
        }
        now = Instant::now();
    }
    Ok(((now - begin).saturating_sub(pulse.spent()).as_secs_f64(), given))
}

/// Destinations that one socket sends to in turn, so that each is a flow.
pub struct Spread {
    names: Vec<libc::sockaddr_in>,
    next: usize,
}

impl Spread {
    /// Over these, in order.
    pub fn over(destinations: impl IntoIterator<Item = SocketAddrV4>) -> Self {
        let name = |to: SocketAddrV4| libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
            sin_zero: [0; 8],
        };
        Self { names: destinations.into_iter().map(name).collect(), next: 0 }
    }

    /// Sends from `port` for `time`, and goes on at the next destination the next time; how many seconds it sent.
    pub fn send(&mut self, port: u16, time: Duration, pulse: &mut Pulse) -> Result<f64> {
        let begin = Instant::now();
        self.send_while(port, |_| {
            let now = Instant::now();
            let goes_on = now - begin < time;
            if goes_on {
                pulse.beat(now);
            }
            goes_on
        })?;
        Ok(begin.elapsed().saturating_sub(pulse.spent()).as_secs_f64())
    }

    /// Sends to each destination once.
    pub fn send_round(&mut self, port: u16) -> Result<()> {
        let all = self.names.len();
        self.send_while(port, |sent| sent < all)
    }

    fn send_while(&mut self, port: u16, mut go_on: impl FnMut(usize) -> bool) -> Result<()> {
        let socket =
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("cannot send by {port}"))?;
        let mut batch = Batch::new();
        let mut sent = 0;
        while go_on(sent) {
            for header in &mut batch.headers {
                let name: *mut libc::sockaddr_in = &raw mut self.names[self.next];
                (header.msg_hdr.msg_name, header.msg_hdr.msg_namelen) =
                    (name.cast(), size_of::<libc::sockaddr_in>() as u32);
                self.next = (self.next + 1) % self.names.len();
            }
            // What the kernel refuses does not arrive and is not counted.
            let _ = batch.send(&socket);
            sent += BATCH;
        }
        Ok(())
    }
}

/// A socket for [`receive`] in the network of the calling thread.
pub fn receiver() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("cannot serve UDP")?;
    socket.set_read_timeout(Some(TICK))?;
    setsockopt(&socket, RcvBufForce, &ROOM).context("a socket cannot be given room")?;
    Ok(socket)
}

/// Whether something waits in a socket of [`receiver`] that [`receive`] has not taken.
pub fn waits(socket: &UdpSocket) -> Result<bool> {
    let mut next = 0;
    // SAFETY: the descriptor is open, and the kernel writes one `int`: the length of the datagram that is next, 0 if there is none.
    unsafe { ioctl::next_length(socket.as_raw_fd(), &raw mut next) }
        .context("the kernel does not tell what waits in a socket")?;
    Ok(next > 0)
}

mod ioctl {
    nix::ioctl_read_bad!(next_length, nix::libc::FIONREAD, nix::libc::c_int);
}

/// How many datagrams a receiver has taken, and what it felt meanwhile.
#[derive(Default)]
pub struct Arrived {
    count: AtomicU64,
    taking: AtomicBool,
    /// What the receiver has felt of its processor.
    beats: Mutex<Vec<u32>>,
}

impl Arrived {
    /// So many so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// What the receiver has felt of its processor since it was last asked.
    pub fn beats(&self) -> Vec<u32> {
        std::mem::take(&mut self.beats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there may be some that are no more in the socket and not yet in the count.
    pub fn is_taking(&self) -> bool {
        self.taking.load(Ordering::SeqCst)
    }

    /// Adds as many as `take` takes out of the socket. One receiver at a time.
    pub fn take(&self, take: impl FnOnce() -> u64) -> u64 {
        self.taking.store(true, Ordering::SeqCst);
        let taken = take();
        self.count.fetch_add(taken, Ordering::SeqCst);
        self.taking.store(false, Ordering::SeqCst);
        taken
    }
}

/// Counts what arrives until told to stop.
pub fn receive(socket: &UdpSocket, arrived: &Arrived, stop: &AtomicBool) {
    // Where there is but one processor, or none to choose, the kernel places the threads.
    let _ = on_processor(Processor::Last);
    let mut batch = Batch::new();
    let mut empty = IDLE;
    let mut pulse = Pulse::new();
    while !stop.load(Ordering::Relaxed) {
        if empty >= IDLE {
            // Waits and leaves what comes where it is: what is taken is counted at once.
            let _ = socket.peek(&mut [0]);
        }
        let taken = arrived.take(|| batch.receive(socket));
        if taken > 0 {
            empty = 0;
            if pulse.beat(Instant::now()) {
                arrived.beats.lock().unwrap_or_else(PoisonError::into_inner).extend(pulse.beats());
            }
        } else if empty < IDLE {
            empty += 1;
            thread::sleep(PAUSE);
        }
    }
}

/// Room for some datagrams and what the kernel wants to know of it. Not moved once made: it points into itself.
struct Batch {
    headers: Vec<libc::mmsghdr>,
    _slices: Vec<libc::iovec>,
    _bytes: Vec<[u8; LENGTH]>,
}

impl Batch {
    fn new() -> Self {
        let mut bytes = vec![[0x5a; LENGTH]; BATCH];
        let mut slices: Vec<_> =
            bytes.iter_mut().map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: LENGTH }).collect();
        let header = |slice: &mut libc::iovec| {
            // SAFETY: a `msghdr` of zeros is valid: no name, no control message, no slice.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (slice, 1);
            header
        };
        let headers = slices.iter_mut().map(header).collect();
        Self { headers, _slices: slices, _bytes: bytes }
    }

    /// How many of them the kernel took.
    fn send(&mut self, socket: &UdpSocket) -> io::Result<u64> {
        // SAFETY: the headers point to slices and bytes that `self` owns on the heap and that do not move while it lives, and to
        // names, if they have some, of a caller that keeps them through the call.
        let taken = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), BATCH as u32, 0) };
        u64::try_from(taken).map_err(|_| io::Error::last_os_error())
    }

    /// Takes what is there and does not wait.
    fn receive(&mut self, socket: &UdpSocket) -> u64 {
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_DONTWAIT);
        // SAFETY: as for `send`, and nothing else borrows the bytes.
        let taken = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as u32, flags, ptr::null_mut()) };
        u64::try_from(taken).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_a_batch_arrive() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        receiver.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket takes a timeout");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        sender.connect(receiver.local_addr().expect("it is bound")).expect("loopback is reachable");

        assert!(!waits(&receiver).expect("the kernel tells"));
        assert_eq!(Batch::new().send(&sender).expect("the loopback takes them"), BATCH as u64);
        assert!(waits(&receiver).expect("the kernel tells"));
        let mut batch = Batch::new();
        let mut arrived = 0;
        while arrived < BATCH as u64 {
            receiver.peek(&mut [0]).expect("something comes");
            let more = batch.receive(&receiver);
            assert!(more > 0, "{arrived} of {BATCH} datagrams arrived");
            arrived += more;
        }

        assert!(batch.headers.iter().all(|header| header.msg_len as usize == LENGTH));
        assert!(!waits(&receiver).expect("the kernel tells"));
    }

    #[test]
    fn what_the_kernel_took_and_refused_is_told() {
        let mut given = Given { taken: 64, ..Given::default() };
        assert_eq!(given.to_string(), "64 sent");

        (given.refused, given.refusal) = (2, Some("Operation not permitted".into()));
        assert_eq!(given.to_string(), "64 sent, 2 calls refused: Operation not permitted");
    }
}
