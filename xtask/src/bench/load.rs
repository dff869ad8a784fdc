//! Loads on a server in another node, a client for each. What they give are the values of one round. Every load is bounded in time.

use std::{
    io::{self, Read, Write},
    net::{SocketAddrV4, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::Node;

use super::{
    busy::Busy,
    client,
    datagrams::{self, Given},
    figures::{Measure, percentile},
    gauge::{Beats, Pulse},
    processor::{Processor, on_processor},
    server::{ECHO, ONCE, SINK, Server},
};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

const MEBIBYTE: f64 = (1 << 20) as f64;

/// One kind of load, which gives one or more measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Load {
    /// One TCP stream as fast as it goes.
    Stream,
    /// Requests and responses of 1 byte on one connection.
    #[value(name = "round-trips")]
    Exchange,
    /// Connections with one request each, one after the other.
    #[value(name = "connects")]
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
            Measure::Packets | Measure::Cpu | Measure::CpuSender | Measure::CpuReceiver => Self::Datagrams,
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
        match load {
            Load::Stream => {
                let before = self.server.bytes();
                let sent = self.sent(load, time)?;
                let arrived = self.server.bytes() - before;
                ensure!(arrived > 0, "no byte of the stream arrived");
                let values = vec![(Measure::Stream, arrived as f64 * 8e-9 / sent.seconds)];
                let beats = Beats { client: sent.beats, ..Beats::default() };
                Ok(Turn { count: arrived as f64 / MEBIBYTE, values, beats })
            }
            Load::Exchange | Load::Connect => {
                let sent = self.sent(load, time)?;
                ensure!(sent.count > 0, "no {} with {} ended", load.name(), self.to);
                let beats = Beats { client: sent.beats, ..Beats::default() };
                Ok(Turn { count: sent.count as f64, values: sent.values, beats })
            }
            Load::Datagrams => {
                let (arrived, (before, sent)) = self.server.arrived(|| Ok((Busy::now()?, self.sent(load, time)?)))?;
                // What was taken after the last was sent is of this turn too.
                let now = Busy::now()?;
                let [sender, receiver] = now.sides_since(&before);
                ensure!(arrived > 0, "no datagram to {} arrived ({})", self.to, sent.given);
                let of_each = |busy: Duration| busy.as_secs_f64() * 1e6 / arrived as f64;
                let values = vec![
                    (Measure::Packets, arrived as f64 / 1e3 / sent.seconds),
                    (Measure::Cpu, of_each(now.since(&before))),
                    (Measure::CpuSender, of_each(sender)),
                    (Measure::CpuReceiver, of_each(receiver)),
                ];
                let beats = Beats { client: sent.beats, receiver: self.server.beats() };
                Ok(Turn { count: arrived as f64, values, beats })
            }
        }
    }

    /// Has the client put a load on the server.
    fn sent(&self, load: Load, time: Duration) -> Result<Sent> {
        if self.apart {
            client::run_apart(&self.client, load, self.to, time)
        } else {
            self.client.enter(|| send(load, self.to, time))
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
    /// What was felt of the machine meanwhile.
    pub beats: Beats,
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
    /// What it felt of its processor.
    pub beats: Vec<u32>,
}

/// Puts a load on a server for `time`, from where the calling thread is.
pub fn send(load: Load, to: SocketAddrV4, time: Duration) -> Result<Sent> {
    on_processor(Processor::First)?;
    let mut pulse = Pulse::new();
    let sent = match load {
        Load::Stream => {
            let seconds = stream(to, time, &mut pulse)?;
            Sent { seconds, ..Sent::default() }
        }
        Load::Exchange => exchange(to, time, &mut pulse)?,
        Load::Connect => connect(to, time, &mut pulse)?,
        Load::Datagrams => {
            let (seconds, given) = datagrams::send(to, time, &mut pulse)?;
            Sent { seconds, given, ..Sent::default() }
        }
    };
    Ok(Sent { beats: pulse.beats(), ..sent })
}

fn stream(to: SocketAddrV4, time: Duration, pulse: &mut Pulse) -> Result<f64> {
    let mut stream = open(to, SINK)?;
    let block = vec![0x5a; 128 << 10];
    let begin = Instant::now();
    let mut now = begin;
    while now - begin < time {
        pulse.beat(now);
        stream.write_all(&block).context("the stream broke off")?;
        now = Instant::now();
    }
    Ok((now - begin).saturating_sub(pulse.spent()).as_secs_f64())
}

fn exchange(to: SocketAddrV4, time: Duration, pulse: &mut Pulse) -> Result<Sent> {
    let mut stream = open(to, ECHO)?;
    let mut trips = Trips { times: Vec::with_capacity(1 << 20), behind_beats: Vec::new() };
    let begin = Instant::now();
    let mut byte = [0];
    let mut now = begin;
    while now - begin < time {
        let beaten = pulse.beat(now);
        if beaten {
            now = Instant::now();
        }
        stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).context("no answer")?;
        let then = std::mem::replace(&mut now, Instant::now());
        trips.add(nanoseconds(now - then), beaten);
    }
    Ok(Sent { count: trips.count(), values: trips.values(), ..Sent::default() })
}

/// Round trips, nanoseconds of each. The first one after a beat finds the caches as the beat has left them. Such are one of some hundreds,
/// more than the longest that are told of a turn, and would be these: they count as round trips, and their times do not.
struct Trips {
    times: Vec<u32>,
    behind_beats: Vec<u32>,
}

impl Trips {
    fn add(&mut self, time: u32, behind_beat: bool) {
        if behind_beat { &mut self.behind_beats } else { &mut self.times }.push(time);
    }

    fn count(&self) -> u64 {
        (self.times.len() + self.behind_beats.len()) as u64
    }

    fn values(self) -> Vec<(Measure, f64)> {
        // Where each took longer than from one beat to the next there are no others.
        let mut times = if self.times.is_empty() { self.behind_beats } else { self.times };
        times.sort_unstable();
        let shares = [(Measure::Exchange50, 0.5), (Measure::Exchange99, 0.99), (Measure::Exchange999, 0.999)];
        shares.map(|(measure, share)| (measure, f64::from(percentile(&times, share)) / 1e3)).to_vec()
    }
}

fn connect(to: SocketAddrV4, time: Duration, pulse: &mut Pulse) -> Result<Sent> {
    let mut times = Vec::with_capacity(1 << 18);
    let begin = Instant::now();
    let mut now = begin;
    while now - begin < time {
        if pulse.beat(now) {
            now = Instant::now();
        }
        let mut answer = [0];
        let mut stream = open(to, ONCE)?;
        stream.read_exact(&mut answer).context("no answer")?;
        drop(stream);
        let then = std::mem::replace(&mut now, Instant::now());
        times.push(nanoseconds(now - then));
    }
    let rate = times.len() as f64 / (now - begin).saturating_sub(pulse.spent()).as_secs_f64();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_that_follow_a_beat_count_and_are_not_among_the_times() {
        let mut trips = Trips { times: Vec::new(), behind_beats: Vec::new() };
        for trip in 0..10_000 {
            let behind_beat = trip % 500 == 499;
            trips.add(if behind_beat { 9_000 } else { 5_000 }, behind_beat);
        }

        assert_eq!(trips.count(), 10_000);
        let values = trips.values();
        assert_eq!(values.len(), 3);
        assert!(values.iter().all(|(_, micros)| *micros == 5.0), "{values:?}");
    }

    #[test]
    fn round_trips_that_each_follow_a_beat_are_the_times() {
        let trips = Trips { times: Vec::new(), behind_beats: vec![9_000_000, 8_000_000] };

        assert_eq!((trips.count(), trips.values()[0]), (2, (Measure::Exchange50, 8e3)));
    }
}
