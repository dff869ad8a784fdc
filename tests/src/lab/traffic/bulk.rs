//! TCP transfers in both directions at once, each byte checked by its place in the stream at both ends.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{super::Node, PATIENCE, Server};

/// Length of the block that streams repeat: a prime, so that no segment, page or buffer boundary falls on the same bytes.
const BLOCK: usize = 262_139;

/// Bytes without a pattern of their own (xorshift64).
static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(BLOCK).collect()
});

/// Slow downloads that are to end soon. Both ends of each are threads of this process.
static HURRIED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// How many times as fast a slow download goes when it is to end.
const HURRY: u32 = 500;

/// What came of a stream of known bytes.
#[derive(Debug)]
pub struct Received {
    /// Bytes that should have come.
    pub expected: u64,
    /// Bytes that came, each of them the right one.
    pub bytes: u64,
    /// The longest time in which nothing came.
    pub longest_stall: Duration,
    /// Why it ended early, or which byte was wrong.
    pub error: Option<String>,
}

impl Received {
    /// Asserts that every byte came, in order and unchanged.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn assert_whole(&self) {
        assert!(self.error.is_none() && self.bytes == self.expected, "the stream is not whole: {self:?}");
    }
}

/// What came of a transfer in both directions.
#[derive(Debug)]
pub struct Transfer {
    /// At the client.
    pub down: Received,
    /// Bytes of the client's that the server received, each of them the right one.
    pub up: u64,
}

/// A download that goes on beside the test.
pub struct Download {
    number: u64,
    received: Arc<AtomicU64>,
    thread: JoinHandle<Received>,
}

impl Download {
    /// Bytes that have come so far.
    pub fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Has the rest come five hundred times as fast.
    pub fn hurry(&self) {
        HURRIED.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number);
    }

    /// Hurries, and waits for its end.
    ///
    /// # Panics
    /// When its thread panicked.
    pub fn finish(self) -> Received {
        self.hurry();
        self.thread.join().expect("a download does not panic")
    }
}

impl Node {
    /// Serves bulk transfers on `port`.
    #[track_caller]
    pub fn serve_bulk(&self, port: u16) -> Server {
        self.serve_tcp(port, |stream| {
            let _ = serve(stream);
        })
    }

    /// Sends and receives `bytes` at once, from and to a server of [`Node::serve_bulk`], and asserts that all arrived,
    /// byte for byte, at both ends.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn transfers(&self, server: &str, bytes: u64) {
        let transfer =
            self.transfer(server, bytes).unwrap_or_else(|error| panic!("no transfer with {server}: {error}"));
        transfer.down.assert_whole();
        assert_eq!(transfer.up, bytes, "the server at {server} should have received everything");
    }

    /// As [`Node::transfers`], asserting nothing.
    ///
    /// # Errors
    /// Why it could not begin or tell its end.
    pub fn transfer(&self, server: &str, bytes: u64) -> std::io::Result<Transfer> {
        let mut stream = self.connect(server, PATIENCE)?;
        ask(&mut stream, [bytes, bytes, 0, 0])?;
        let mut sending = stream.try_clone()?;
        let sender = thread::spawn(move || send(&mut sending, bytes, 0, 0));
        let down = receive(&mut stream, bytes, &AtomicU64::new(0));
        let sent = sender.join().map_err(|_| std::io::Error::other("the sender panicked"))?;
        sent?;
        let mut up = [0; 8];
        stream.read_exact(&mut up)?;
        Ok(Transfer { down, up: u64::from_le_bytes(up) })
    }

    /// Begins a download that lasts `time` at `rate` bytes a second, if it is not [finished](Download::finish) before.
    ///
    /// # Panics
    /// When it cannot begin.
    #[track_caller]
    pub fn downloads_slowly(&self, server: &str, time: Duration, rate: u64) -> Download {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let bytes = rate * time.as_millis() as u64 / 1000;
        let mut stream =
            self.connect(server, PATIENCE).unwrap_or_else(|error| panic!("no download from {server}: {error}"));
        ask(&mut stream, [0, bytes, rate, number]).unwrap_or_else(|error| panic!("no download from {server}: {error}"));
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let thread = thread::spawn(move || receive(&mut stream, bytes, &counted));
        Download { number, received, thread }
    }
}

/// The client's request: how much it will send, how much it wants, how fast (bytes a second; 0 is as fast as it goes), and what the
/// download is known by among slow ones.
fn ask(stream: &mut TcpStream, numbers: [u64; 4]) -> std::io::Result<()> {
    let mut request = [0; 32];
    for (place, number) in request.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    stream.write_all(&request)
}

/// The server's side: sends and receives what was asked for, then tells how much arrived.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [[0; 8]; 4];
    for number in &mut request {
        stream.read_exact(number)?;
    }
    let [up, down, rate, number] = request.map(u64::from_le_bytes);
    let mut sending = stream.try_clone()?;
    let sender = thread::spawn(move || send(&mut sending, down, rate, number));
    let received = receive(&mut stream, up, &AtomicU64::new(0));
    if let Ok(sent) = sender.join() {
        sent?;
    }
    stream.write_all(&received.bytes.to_le_bytes())?;
    stream.shutdown(Shutdown::Write)
}

fn send(stream: &mut TcpStream, bytes: u64, rate: u64, number: u64) -> std::io::Result<()> {
    // A hundred portions a second when paced.
    let portion = if rate == 0 { 65536 } else { (rate / 100).max(1) };
    let (mut sent, mut due) = (0, Instant::now());
    while sent < bytes {
        let at = place(sent);
        let length = (BLOCK - at).min(portion.min(bytes - sent) as usize);
        stream.write_all(&STREAM[at..at + length])?;
        sent += length as u64;
        if let Some(nanoseconds) = (length as u64 * 1_000_000_000).checked_div(rate) {
            let is_hurried = HURRIED.lock().unwrap_or_else(PoisonError::into_inner).contains(&number);
            due += Duration::from_nanos(nanoseconds) / if is_hurried { HURRY } else { 1 };
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, expected: u64, count: &AtomicU64) -> Received {
    let mut received = Received { expected, bytes: 0, longest_stall: Duration::ZERO, error: None };
    let mut buffer = vec![0; 65536];
    let mut last = Instant::now();
    while received.bytes < expected {
        let at = place(received.bytes);
        let wanted = buffer.len().min(BLOCK - at).min((expected - received.bytes) as usize);
        let length = match stream.read(&mut buffer[..wanted]) {
            Ok(0) => Err("the connection was closed".to_owned()),
            Ok(length) => Ok(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error.to_string()),
        };
        received.longest_stall = received.longest_stall.max(last.elapsed());
        last = Instant::now();
        let right = length.and_then(|length| match first_wrong(&buffer[..length], at) {
            None => Ok(length),
            Some(wrong) => Err(format!("byte {} is not the one sent", received.bytes + wrong as u64)),
        });
        match right {
            Ok(length) => received.bytes += length as u64,
            Err(error) => {
                received.error = Some(error);
                return received;
            }
        }
        count.store(received.bytes, Ordering::Relaxed);
    }
    received
}

fn first_wrong(bytes: &[u8], at: usize) -> Option<usize> {
    let right = &STREAM[at..at + bytes.len()];
    if bytes == right { None } else { bytes.iter().zip(right).position(|(byte, right)| byte != right) }
}

fn place(offset: u64) -> usize {
    (offset % BLOCK as u64) as usize
}
