//! How long processors were busy, to the nanosecond. What `/proc/stat` tells is told in hundredths of a second, and on most kernels
//! guessed from what the clock's tick finds: of a turn of a quarter of a second that is wrong by a twentieth. How long a processor
//! slept the kernel knows (`/proc/timer_list`, of a kernel that stops the tick of one that does, `CONFIG_NO_HZ_COMMON`).

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result};

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
        self.0.iter().zip(&before.0).map(|(now, then)| now.saturating_sub(*then)).sum()
    }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

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
    fn a_thread_that_computes_is_told_to_have_been_busy() {
        const WHILE: Duration = Duration::from_millis(50);
        let before = Busy::now().expect("the kernel tells");
        let begin = Instant::now();
        while begin.elapsed() < WHILE {}

        let busy = Busy::now().expect("the kernel tells").since(&before);

        assert!(busy >= WHILE, "{busy:?}");
    }
}
