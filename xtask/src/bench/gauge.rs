//! How fast the processors run while a turn does. A neighbour on the machine beneath, on the other half of the same core, makes each
//! processor slower by a quarter to a half for some milliseconds or for seconds, and no kernel tells of it: the clock is the same and no
//! time is stolen. So the turn's own threads do a piece of work that is always the same, now and then between two packets.
//!
//! It is system calls since they feel what packets feel: a chain of multiplications never took a hundredth longer (it waits for itself, and
//! leaves its core to others), calls took up to 37 % longer. And it is done within a turn since what was felt before it told little: a
//! neighbour works for some milliseconds or some tenths of a second. Over 120 turns of round trips their median correlated by 0.12 with
//! calls before and after, and by 0.78 with those within. How many of these were slow, in 16 rounds of five contenders, correlated by 0.83
//! to 0.96 with it, by -0.71 to -0.97 with the rate of connections, by -0.63 to -0.95 with that of datagrams, and by -0.32 to -0.82 with
//! that of a stream, where others use no processor; where they do, datagrams depend on them more. What is felt by the receiver of datagrams
//! explains little (-0.58 to 0.06). What others take of caches or of the way to memory is not felt: a walk that feels it would take it
//! from the turn.

use std::{
    io, iter, mem, thread,
    time::{Duration, Instant},
};

use nix::libc;

use super::processor::{Processor, on_processor};

/// Time between two pieces of work.
const EVERY: Duration = Duration::from_millis(8);
/// And where nothing else is done.
const SOON: Duration = Duration::from_millis(1);
/// Calls of one try. Together the tries take some 50 µs: half of a hundredth of a turn, for everybody alike.
const CALLS: u32 = 80;
/// Tries of a piece, of which the fastest counts: what interrupts one is not what makes the processor slow.
const TRIES: usize = 3;

/// What was felt on the processors: nanoseconds of each piece of work.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Beats {
    /// By the client.
    pub client: Vec<u32>,
    /// By the receiver of datagrams, on another processor if there is one.
    pub receiver: Vec<u32>,
}

/// A thread's own.
pub struct Pulse {
    every: Duration,
    last: Instant,
    beats: Vec<u32>,
    spent: Duration,
}

impl Pulse {
    /// Of the calling thread while it does something.
    pub fn new() -> Self {
        Self { every: EVERY, last: Instant::now(), beats: Vec::new(), spent: Duration::ZERO }
    }

    /// Does a piece of work if it is time for one, as it is `now`. Whether it was.
    pub fn beat(&mut self, now: Instant) -> bool {
        self.beat_by(now, piece)
    }

    fn beat_by(&mut self, now: Instant, piece: impl FnMut() -> Duration) -> bool {
        if now.saturating_duration_since(self.last) < self.every {
            return false;
        }
        let fastest = iter::repeat_with(piece).take(TRIES).min().unwrap_or_default();
        self.beats.push(u32::try_from(fastest.as_nanos()).unwrap_or(u32::MAX));
        self.last = Instant::now();
        self.spent += fastest * TRIES as u32;
        true
    }

    /// How long all the work has taken by itself. What interrupted it is not in it: a server on the same processor takes then what the turn
    /// has sent, and counts it.
    pub const fn spent(&self) -> Duration {
        self.spent
    }

    /// What was felt since it was last asked.
    pub fn beats(&mut self) -> Vec<u32> {
        mem::take(&mut self.beats)
    }
}

fn piece() -> Duration {
    let begin = Instant::now();
    for _ in 0..CALLS {
        // SAFETY: the call takes nothing and only tells a number.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    begin.elapsed()
}

/// So many beats of a processor, a millisecond between two, while nothing else is done. An error where no thread can be kept there.
pub fn at_rest(on: Processor, count: usize) -> io::Result<Vec<u32>> {
    let felt = || {
        on_processor(on)?;
        let mut pulse = Pulse { every: SOON, ..Pulse::new() };
        while pulse.beats.len() < count {
            thread::sleep(SOON);
            pulse.beat(Instant::now());
        }
        Ok(pulse.beats())
    };
    // In a thread of its own: the calling one is left where it is.
    let thread = thread::scope(|scope| scope.spawn(felt).join());
    thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_beats_when_it_is_time_and_tells_each_beat_once() {
        let mut pulse = Pulse { every: Duration::from_secs(3600), ..Pulse::new() };
        assert!(!pulse.beat(Instant::now()));
        assert_eq!((pulse.spent(), pulse.beats()), (Duration::ZERO, vec![]));

        pulse.every = Duration::ZERO;
        assert!(pulse.beat(Instant::now()) && pulse.beat(Instant::now()));

        let beats = pulse.beats();
        assert!(beats.len() == 2 && beats.iter().all(|beat| *beat > 0), "{beats:?}");
        assert!(pulse.beats().is_empty());
    }

    #[test]
    fn of_work_that_was_interrupted_only_its_own_time_is_taken_from_a_turns() {
        let mut pulse = Pulse { every: Duration::ZERO, ..Pulse::new() };
        let mut tries = [16, 5_000, 15, 15, 15, 16].map(Duration::from_micros).into_iter();

        for _ in 0..2 {
            assert!(pulse.beat_by(Instant::now(), || tries.next().expect("a beat is of three tries")));
        }

        assert_eq!((pulse.spent(), pulse.beats()), (Duration::from_micros(90), vec![15_000; 2]));
    }

    #[test]
    fn each_processor_is_felt_while_nothing_is_done() {
        for on in [Processor::First, Processor::Last] {
            assert_eq!(at_rest(on, 3).expect("a thread can be kept").len(), 3, "{on:?}");
        }
    }
}
