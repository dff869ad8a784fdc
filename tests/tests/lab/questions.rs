//! Who asks a resolver: a client that waits for each answer and knows how long it waited, clients that ask by the clock whether or not
//! they have been answered, and rude ones.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{IoSliceMut, Write},
    net::{TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use netd_tests::lab::Node;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns};

/// The resolver, in every container.
pub const RESOLVER: &str = "127.0.0.11:53";

/// How long an answer may take before it counts as lost, and a pace to be kept again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The question for the address of `web`, of this id.
pub fn question(id: u16) -> Vec<u8> {
    [&id.to_be_bytes()[..], b"\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01"].concat()
}

/// A client that waits for each answer.
pub struct Client {
    socket: UdpSocket,
    asked: u16,
}

impl Client {
    /// Of the resolver in `node`.
    pub fn of(node: &Node) -> Self {
        let socket = asks(node, RESOLVER);
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        setsockopt(&socket, ReceiveTimestampns, &true).expect("a socket tells when something came");
        Self { socket, asked: 0 }
    }

    /// Asks, and says how long the answer took. It is there when the kernel has it: how long the client then waits for a processor is
    /// not its server's doing.
    pub fn waits(&mut self) -> Duration {
        self.asked = self.asked.wrapping_add(1);
        let sent = SystemTime::now();
        self.socket.send(&question(self.asked)).expect("sent");
        loop {
            let (begins, came) = self.received().expect("no answer is lost");
            if begins == self.asked.to_be_bytes() {
                return came.duration_since(sent).unwrap_or_default();
            }
        }
    }

    /// How the next datagram begins, and when the kernel had it.
    fn received(&self) -> nix::Result<([u8; 2], SystemTime)> {
        let (mut buffer, mut space) = ([0; 512], nix::cmsg_space!(nix::sys::time::TimeSpec));
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let told = message.cmsgs().expect("the space is enough").find_map(|told| match told {
            ControlMessageOwned::ScmTimestampns(came) => Some(UNIX_EPOCH + Duration::from(came)),
            _ => None,
        });
        Ok(([buffer[0], buffer[1]], told.expect("the kernel tells when it came")))
    }
}

/// A thousand questions a second by a few clients, beside connections that say half a question and noise.
///
/// What could not be asked when it was due, since there was no processor for it, is asked as soon as there is one.
pub struct Load<'a> {
    node: &'a Node,
    server: &'static str,
    clients: [Asker; 4],
    asked: usize,
    lasted: Duration,
    noise: UdpSocket,
    noises: usize,
    stalled: VecDeque<TcpStream>,
    stalls: usize,
}

impl<'a> Load<'a> {
    /// Questions a second.
    pub const RATE: usize = 1_000;
    /// How many connections say half a question at a time, and after how many questions there is another in the place of the oldest.
    const STALLED: usize = 20;
    const QUESTIONS_TO_A_STALL: usize = 50;

    /// On a server, as `node` reaches it, which answers with what begins like the question.
    pub fn on(node: &'a Node, server: &'static str) -> Self {
        let noise = asks(node, server);
        noise.set_nonblocking(true).expect("a socket can be told not to block");
        let clients = std::array::from_fn(|_| Asker::of(node, server));
        let (stalled, lasted) = (VecDeque::new(), Duration::ZERO);
        Self { node, server, clients, asked: 0, lasted, noise, noises: 0, stalled, stalls: 0 }
    }

    /// Goes on: so long has passed since it last did.
    pub fn goes_on(&mut self, passed: Duration) {
        self.lasted += passed;
        self.asks_what_is_due();
        while self.noises < self.asked / 2 {
            let noise: Vec<u8> = (0..self.noises % 90).map(|i| (i * 37 + self.noises) as u8).collect();
            // What is said to it is nobody's concern.
            let _ = self.noise.send(&noise);
            let _ = self.noise.recv(&mut [0; 512]);
            self.noises += 1;
        }
        while self.stalls < Self::STALLED + self.asked / Self::QUESTIONS_TO_A_STALL {
            let mut connection = self.node.enter(|| TcpStream::connect(self.server)).expect("a connection");
            connection.write_all(&[0, 200, 1, 2, 3]).expect("it is taken");
            self.stalled.push_back(connection);
            self.stalls += 1;
            if self.stalled.len() > Self::STALLED {
                self.stalled.pop_front();
            }
        }
    }

    /// Asks what is due still and waits for every answer. How many were asked, and how long it went on.
    ///
    /// # Panics
    /// When a server kept no pace: most was asked only afterwards. (A machine that stands still for seconds keeps none either.)
    pub fn ends(mut self) -> (usize, Duration) {
        let (in_time, due) = (self.asked, self.due());
        println!("{in_time} of {due} questions were asked while it went on");
        assert!(in_time * 4 >= due, "{in_time} of {due} questions were asked while it went on, the rest afterwards");
        let until = Instant::now() + PATIENCE;
        while self.asked < self.due() || self.clients.iter().any(|client| !client.waiting.is_empty()) {
            let waiting: Vec<_> = self.clients.iter().map(|client| client.waiting.len()).collect();
            assert!(
                Instant::now() < until,
                "{} of {} questions were asked, of which so many have no answer: {waiting:?}",
                self.asked,
                self.due()
            );
            self.asks_what_is_due();
            thread::sleep(Duration::from_millis(1));
        }
        (self.asked, self.lasted)
    }

    fn due(&self) -> usize {
        self.lasted.as_micros() as usize * Self::RATE / 1_000_000
    }

    fn asks_what_is_due(&mut self) {
        self.clients.iter_mut().for_each(Asker::hears);
        while self.asked < self.due() {
            let client = &mut self.clients[self.asked % 4];
            if !client.asks() {
                return;
            }
            self.asked += 1;
        }
    }
}

/// A client that does not wait, but for a crowd of answers.
struct Asker {
    socket: UdpSocket,
    asked: u16,
    waiting: BTreeSet<u16>,
}

impl Asker {
    /// How many answers it waits for at most: any socket has room for so many questions.
    const PATIENT_FOR: usize = 16;

    fn of(node: &Node, server: &str) -> Self {
        let socket = asks(node, server);
        socket.set_nonblocking(true).expect("a socket can be told not to block");
        Self { socket, asked: 0, waiting: BTreeSet::new() }
    }

    /// Whether it did.
    fn asks(&mut self) -> bool {
        if self.waiting.len() == Self::PATIENT_FOR {
            self.hears();
        }
        if self.waiting.len() == Self::PATIENT_FOR {
            return false;
        }
        self.asked = self.asked.wrapping_add(1);
        self.socket.send(&question(self.asked)).expect("sent");
        self.waiting.insert(self.asked);
        true
    }

    fn hears(&mut self) {
        let mut buffer = [0; 512];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            assert!(length >= 2, "an answer has an id");
            self.waiting.remove(&u16::from_be_bytes([buffer[0], buffer[1]]));
        }
    }
}

/// A socket in `node` that is connected to a server.
fn asks(node: &Node, server: &str) -> UdpSocket {
    node.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(server).expect("a route");
        socket
    })
}
