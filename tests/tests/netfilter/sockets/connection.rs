//! A TCP connection, and what its ends see of each act.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use netd_tests::lab::Node;
use nix::{
    libc,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
            sockopt::{self, Linger},
        },
        time::{TimeVal, TimeValLike},
    },
};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::{Act, End, Way, any, ends, listening_port, source, way};
use crate::{
    extensions::Extensions,
    site::{BLACKHOLE, OWN},
    stage::Stage,
};

/// How long an end waits for what should come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection to nowhere is tried.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// What is told of an end to which nothing came of what the other said.
const NOTHING: &str = "hears nothing";

/// A TCP connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub way: Way,
    pub v6: bool,
    /// Whether anybody listens.
    pub listens: bool,
    /// What stands before each segment of either end, by IPv6.
    pub extensions: Extensions,
    pub acts: Vec<Act>,
}

impl Connection {
    pub fn arbitrary(random: &mut StdRng) -> Self {
        let way = way(random);
        let mut acts = Vec::new();
        let mut open = vec![End::Client, End::Server];
        for _ in 0..random.random_range(0..7) {
            let Some(end) = open.choose(random).copied() else { break };
            acts.push(match random.random_range(0..10) {
                0..=5 => Act::Say(end, size(random)),
                6 => Act::Reset(end),
                7 => Act::Close(end),
                _ => Act::HalfClose(end),
            });
            match acts.last() {
                Some(Act::HalfClose(end)) => open.retain(|other| other != end),
                // The other end says something into the void, or notices at once.
                Some(Act::Close(end) | Act::Reset(end)) => {
                    open.retain(|other| other != end);
                    if let (Some(other), true) = (open.first(), random.random()) {
                        acts.push(Act::Say(*other, 100));
                    }
                    break;
                }
                _ => {}
            }
        }
        let (v6, listens) = (random.random_ratio(2, 5), random.random_ratio(9, 10));
        let extensions = if v6 { Extensions::arbitrary(random) } else { Extensions::default() };
        Self { way, v6, listens, extensions, acts }
    }

    /// Plays it and tells what both ends see.
    pub fn play(&self, stage: &Stage) -> Vec<String> {
        let mut story = Vec::new();
        let ([client, server], to) = ends(self.way, stage, true, self.v6);
        let port = listening_port(self.way, true);
        let listener =
            self.listens.then(|| server.enter(|| TcpListener::bind((any(self.v6), port))).expect("the port is free"));
        let wait = if self.way == Way::Out(BLACKHOLE) { IMPATIENCE } else { PATIENCE };
        let client = match self.connect(client, to, wait) {
            Ok(stream) => stream,
            Err(error) => {
                story.push(format!("client: {error}"));
                return story;
            }
        };
        story.push("client: connected".to_owned());
        let Some(listener) = listener else {
            story.push("client: connected to nobody".to_owned());
            return story;
        };
        let (server, from) = listener.accept().expect("who is connected can be accepted");
        story.push(format!("server: accepts from {}", from.ip()));
        self.extensions.put_on(&server);
        let mut streams = [Some(client), Some(server)];
        for stream in streams.iter().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
            stream.set_write_timeout(Some(PATIENCE)).expect("a socket can be given a timeout");
        }
        for act in &self.acts {
            story.push(format!("{act:?}: {}", perform(&mut streams, *act, stage)));
        }
        // What never got through would be sent again and again, and be seen in later plays.
        if story.iter().any(|line| line.contains(NOTHING)) {
            streams.iter().flatten().for_each(reset_at_close);
        }
        story
    }

    fn connect(&self, node: &Node, to: SocketAddr, wait: Duration) -> nix::Result<TcpStream> {
        let family = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let socket = node.enter(|| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None))?;
        if self.way == Way::Inside {
            setsockopt(&socket, sockopt::Mark, &OWN)?;
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source(self.way, self.v6), 0)))?;
        self.extensions.put_on(&socket);
        // It bounds a connect, too.
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(wait.as_millis() as i64))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(socket))
    }
}

/// Does it, and tells what came of it at the other end.
fn perform(streams: &mut [Option<TcpStream>; 2], act: Act, stage: &Stage) -> String {
    let (Act::Say(end, _) | Act::HalfClose(end) | Act::Close(end) | Act::Reset(end)) = act;
    let other = streams[1 - end as usize].as_ref().and_then(|stream| stream.try_clone().ok());
    let Some(mut stream) = streams[end as usize].take() else { return "is gone".to_owned() };
    match act {
        Act::Say(_, size) => {
            let data: Vec<u8> = (0..size).map(|at| (at * 7 + size) as u8).collect();
            let said = data.clone();
            let mut saying = stream.try_clone().expect("a descriptor can be duplicated");
            let writer = std::thread::spawn(move || saying.write_all(&said));
            let heard = other.map(|mut other| {
                let mut heard = vec![0; size];
                match other.read_exact(&mut heard) {
                    Ok(()) if heard == data => "hears it".to_owned(),
                    Ok(()) => "hears something else".to_owned(),
                    Err(error) => format!("{NOTHING}: {}", error.kind()),
                }
            });
            let result = writer.join().expect("writing does not panic");
            let heard = heard.unwrap_or_else(|| {
                // Nobody is there: a reset comes back.
                stage.settle();
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(length) => format!("nobody hears; then {length} bytes"),
                    Err(error) => format!("nobody hears; then {}", error.kind()),
                }
            });
            streams[end as usize] = Some(stream);
            match result {
                Ok(()) => heard,
                Err(error) => format!("cannot: {}", error.kind()),
            }
        }
        Act::HalfClose(_) => {
            let result = stream.shutdown(Shutdown::Write);
            streams[end as usize] = Some(stream);
            format!(
                "{}, {}",
                result.map_or_else(|error| error.kind().to_string(), |()| "done".to_owned()),
                notice(other)
            )
        }
        Act::Close(_) => {
            drop(stream);
            notice(other)
        }
        Act::Reset(_) => {
            reset_at_close(&stream);
            drop(stream);
            notice(other)
        }
    }
}

fn reset_at_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, Linger, &linger).expect("a socket can be told to reset");
}

fn notice(other: Option<TcpStream>) -> String {
    let Some(mut other) = other else { return "nobody is there".to_owned() };
    let mut byte = [0];
    match other.read(&mut byte) {
        Ok(0) => "the other sees the end".to_owned(),
        Ok(_) => "the other reads something".to_owned(),
        Err(error) => format!("the other sees {}", error.kind()),
    }
}

fn size(random: &mut StdRng) -> usize {
    [1, 17, 1000, 1448, 1461, 20_000, 60_000].choose(random).copied().unwrap_or(1)
}
