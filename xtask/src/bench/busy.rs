//! How long processors were busy, to the nanosecond, and what a process took of them. What `/proc/stat` tells is told in hundredths of a
//! second, and on most kernels guessed from what the clock's tick finds: of a turn of a quarter of a second that is wrong by a twentieth.
//! How long a processor slept the kernel knows (`/proc/timer_list`, of a kernel that stops the tick of one that does,
//! `CONFIG_NO_HZ_COMMON`).

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use super::processor;

/// How long each processor that this process may use has been busy since the machine began.
pub struct Busy(Vec<Duration>);

impl Busy {
    /// Up to now. An error where the kernel does not tell.
    pub fn now() -> Result<Self> {
        let told = processor::usable()?.into_iter().map(|processor| {
            // Asked from there, since what a processor has slept is written when it wakes.
            let asked = thread::spawn(move || -> Result<_> {
                processor::keep_on(processor)?;
                let timers =
                    fs::read_to_string("/proc/timer_list").context("the kernel tells no sleep of processors")?;
                busy(&timers, processor)
                    .with_context(|| format!("/proc/timer_list tells no sleep of processor {processor}"))
            });
            asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        Ok(Self(told.collect::<Result<_>>()?))
    }

    /// All of them together since `before`. What the machine beneath takes from them is in it.
    pub fn since(&self, before: &Self) -> Duration {
        self.each_since(before).sum()
    }

    /// The first one since `before`, where clients run, and all the others together.
    pub fn sides_since(&self, before: &Self) -> [Duration; 2] {
        let mut each = self.each_since(before);
        [each.next().unwrap_or_default(), each.sum()]
    }

    fn each_since(&self, before: &Self) -> impl Iterator<Item = Duration> {
        self.0.iter().zip(&before.0).map(|(now, then)| now.saturating_sub(*then))
    }
}

/// Waits until the processors have next to nothing to do, and no longer than `patience`: what hosts leave that are gone (their namespaces,
/// a million flows) the kernel takes away behind their backs. Whether they came to rest.
pub fn rest(patience: Duration) -> Result<bool> {
    const LOOK: Duration = Duration::from_millis(500);
    const LITTLE: Duration = Duration::from_millis(50);
    let begin = Instant::now();
    while begin.elapsed() < patience {
        let before = Busy::now()?;
        thread::sleep(LOOK);
        if Busy::now()?.since(&before) < LITTLE {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a processor has not slept, of a list of timers.
fn busy(timers: &str, processor: usize) -> Option<Duration> {
    let nanoseconds = |line: &str| line.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    let now = nanoseconds(timers.lines().find(|line| line.starts_with("now at "))?)?;
    let its_own = timers.lines().skip_while(|line| *line != format!("cpu: {processor}")).skip(1);
    let its_own: Vec<_> = its_own.take_while(|line| !line.starts_with("cpu: ")).collect();
    let slept = |field: &str| {
        let line = its_own.iter().find_map(|line| line.trim_start().strip_prefix(field))?;
        nanoseconds(line.trim_start_matches([' ', ':']))
    };
    let asleep = slept(".idle_sleeptime")? + slept(".iowait_sleeptime")?;
    Some(Duration::from_nanos(now.saturating_sub(asleep)))
}

/// What the calling thread has spent of a processor.
pub fn of_thread() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// What a process has spent of processors since it began, its threads that have ended included. An error where there is no such process.
pub fn spent(process: u32) -> io::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(process.cast_signed()))?;
    Ok(clock_gettime(clock)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_busy_while_it_does_not_sleep() {
        let timers = "now at 1000 nsecs\n\ncpu: 0\n  .idle_sleeptime : 300 nsecs\n  .iowait_sleeptime: 20 nsecs\njiffies: 9\n\n\
                      cpu: 1\n  .idle_sleeptime : 900 nsecs\n  .iowait_sleeptime: 0 nsecs\n\nTick Device: mode: 1\n";

        let busy = |processor| busy(timers, processor).map(|busy| busy.as_nanos());
        assert_eq!((busy(0), busy(1), busy(2)), (Some(680), Some(100), None));
        assert_eq!(super::busy("now at 1000 nsecs\ncpu: 0\n  .nohz : 0\n", 0), None);
    }

    #[test]
    fn the_clients_processor_is_told_apart_from_the_others() {
        let busy = |of: [u64; 3]| Busy(of.map(Duration::from_millis).to_vec());

        let (before, now) = (busy([100, 200, 300]), busy([110, 203, 304]));

        assert_eq!(now.sides_since(&before), [10, 7].map(Duration::from_millis));
        assert_eq!(now.since(&before), Duration::from_millis(17));
    }

    #[test]
    fn what_a_process_has_spent_is_what_its_threads_have_also_those_that_ended() {
        let before = spent(std::process::id()).expect("there is such a process");

        let thread = thread::spawn(|| while of_thread().expect("there is such a clock") < Duration::from_millis(20) {});
        thread.join().expect("it ends");

        let after = spent(std::process::id()).expect("there is such a process");
        assert!(after - before >= Duration::from_millis(20), "{before:?}, {after:?}");
        let mut gone = std::process::Command::new("true").spawn().expect("it starts");
        gone.wait().expect("it ends");
        assert!(spent(gone.id()).is_err());
    }

    #[test]
    fn a_thread_that_computes_is_told_to_have_been_busy() {
        const WHILE: Duration = Duration::from_millis(50);
        let own = || of_thread().expect("there is such a clock");
        let before = Busy::now().expect("the kernel tells");
        let begin = own();
        while own() - begin < WHILE {}

        let busy = Busy::now().expect("the kernel tells").since(&before);

        assert!(busy >= WHILE, "{busy:?}");
    }
}
