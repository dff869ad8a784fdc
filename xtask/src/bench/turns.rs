//! Turns of a load that may give nothing: a machine that is shared can stand still for longer than a turn takes. Such a turn is taken
//! again a bounded number of times, and the results name it. What gives nothing then either is out of order, and ends the run. One while
//! the machine runs slow is taken again too, as [`Steady`] decides.

use std::{
    collections::BTreeMap,
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    gauge::{self, Beats},
    processor::Processor,
    site::Contender,
    steady::{PATIENCE, Steady, Taken},
};

/// How often a turn is taken.
const TIMES: usize = 4;
/// How long a machine has to come to itself before it is taken again.
const PAUSE: Duration = Duration::from_secs(1);

/// Of how many beats it is told whether the machine runs as usual again, some hundredths of a second of the client's processor.
const LOOK: usize = 20;
/// By how many the usual speed is known at first.
const CALIBRATION: usize = 500;

/// The turns of a run.
#[derive(Default)]
pub struct Turns {
    failed: Failed,
    steady: Steady,
}

/// Those that gave nothing at first.
#[derive(Default)]
struct Failed(BTreeMap<String, Again>);

/// Of one contender under one load.
struct Again {
    times: usize,
    /// Why, the last time.
    because: String,
}

/// Whose turn it is, of so many: another one begins each round, so that nobody always follows the same one, and the first one begins the
/// first that counts, after round zero, so that tables begin with it.
pub const fn whose(round: usize, turn: usize, of: usize) -> usize {
    (round + turn + of - 1) % of
}

impl Turns {
    /// Those of a run that may be longer by this share while the machine runs slow.
    pub fn new(share: f64) -> Self {
        Self { steady: Steady::new(share), ..Self::default() }
    }

    /// Learns how fast the machine is. An error where no thread can be kept on a processor.
    pub fn calibrate(&mut self) -> Result<()> {
        let (client, receiver) = (at_rest(Processor::First, CALIBRATION)?, at_rest(Processor::Last, CALIBRATION)?);
        self.steady.learn(&Beats { client, receiver });
        Ok(())
    }

    /// What `turn` gives, which is whose turn it is by `name`. An error only where it gives none however often it is taken.
    pub fn take<T>(&mut self, name: impl Display, turn: impl FnMut() -> Result<T>) -> Result<T> {
        self.failed.take_with(name, PAUSE, turn)
    }

    /// The same of a turn of `who` that tells what it felt of the machine, and is taken again where that ran slow.
    pub fn take_steady<T>(
        &mut self,
        who: Contender,
        name: impl Display,
        mut turn: impl FnMut() -> Result<(T, Beats)>,
    ) -> Result<T> {
        let Self { failed, steady } = self;
        steady.taken(who, |slow| {
            let begin = Instant::now();
            let gave = match slow {
                None => failed.take_with(&name, PAUSE, &mut turn),
                // Something is at hand: it is not tried more often.
                Some(steady) => wait(steady).and_then(|()| turn()).inspect_err(|error| {
                    println!("        {name}: nothing when taken again, the slow turn counts: {error:#}");
                }),
            };
            Taken { gave, took: begin.elapsed() }
        })
    }

    /// For the facts of a run.
    pub fn told(&self) -> Vec<(&'static str, String)> {
        let failed = ("turns that gave nothing and were taken again", self.failed.told());
        std::iter::once(failed).chain(self.steady.told()).collect()
    }
}

fn wait(steady: &Steady) -> Result<()> {
    let begin = Instant::now();
    let felt = || Ok::<_, anyhow::Error>(Beats { client: at_rest(Processor::First, LOOK)?, ..Beats::default() });
    while steady.is_slow(&felt()?) && begin.elapsed() < PATIENCE {}
    Ok(())
}

fn at_rest(on: Processor, count: usize) -> Result<Vec<u32>> {
    gauge::at_rest(on, count).context("the speed of a processor cannot be felt")
}

impl Failed {
    fn take_with<T>(&mut self, name: impl Display, pause: Duration, mut turn: impl FnMut() -> Result<T>) -> Result<T> {
        let mut last = turn();
        for _ in 1..TIMES {
            let Err(error) = &last else { break };
            let because = format!("{error:#}");
            println!("        {name}: taken again: {because}");
            let again = self.0.entry(name.to_string()).or_insert_with(|| Again { times: 0, because: String::new() });
            (again.times, again.because) = (again.times + 1, because);
            thread::sleep(pause);
            last = turn();
        }
        last.with_context(|| format!("{name}: nothing in {TIMES} turns, the last time"))
    }

    fn told(&self) -> String {
        let told = self.0.iter().map(|(name, Again { times, because })| format!("{name} × {times} ({because})"));
        let told: Vec<_> = told.collect();
        if told.is_empty() { "none".to_owned() } else { told.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn everybody_has_a_turn_in_each_round_and_another_one_begins_it() {
        let rounds: Vec<Vec<_>> = (0..4).map(|round| (0..3).map(|turn| whose(round, turn, 3)).collect()).collect();

        assert_eq!(rounds, [[2, 0, 1], [0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }

    #[test]
    fn a_turn_that_gives_nothing_is_taken_again_and_named() {
        let mut turns = Failed::default();
        let mut results = vec![Ok(5), Err(anyhow!("no datagram arrived")), Err(anyhow!("no answer"))];

        let value =
            turns.take_with("docker on c2c: datagrams", Duration::ZERO, || results.pop().expect("no more turns"));

        assert_eq!(value.expect("the third gave one"), 5);
        assert_eq!(turns.told(), "docker on c2c: datagrams × 2 (no datagram arrived)");
    }

    #[test]
    fn what_never_gives_anything_ends_with_its_name() {
        let (mut turns, mut taken) = (Failed::default(), 0);

        let value: Result<()> = turns.take_with("cni on host: connects", Duration::ZERO, || {
            taken += 1;
            Err(anyhow!("no answer"))
        });

        assert_eq!(taken, TIMES);
        let told = format!("{:#}", value.expect_err("it never gave one"));
        assert_eq!(told, "cni on host: connects: nothing in 4 turns, the last time: no answer");
    }

    #[test]
    fn a_run_of_good_turns_has_none_to_name() {
        let mut turns = Failed::default();

        assert_eq!(turns.take_with("netd on host: stream", PAUSE, || Ok(1)).expect("it gave one"), 1);

        assert_eq!(turns.told(), "none");
    }
}
