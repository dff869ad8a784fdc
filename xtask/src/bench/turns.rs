//! Turns of a load that may give nothing: a machine that is shared can stand still for longer than a turn takes. Such a turn is taken
//! again a bounded number of times, and the results name it. What gives nothing then either is out of order, and ends the run.

use std::{collections::BTreeMap, fmt::Display, thread, time::Duration};

use anyhow::{Context, Result};

/// How often a turn is taken.
const TIMES: usize = 4;
/// How long a machine has to come to itself before it is taken again.
const PAUSE: Duration = Duration::from_secs(1);

/// The turns that gave nothing at first.
#[derive(Default)]
pub struct Turns(BTreeMap<String, Again>);

/// Of one contender under one load.
struct Again {
    times: usize,
    /// Why, the last time.
    because: String,
}

impl Turns {
    /// What `turn` gives, which is whose turn it is by `name`. An error only where it gives none however often it is taken.
    pub fn take<T>(&mut self, name: impl Display, turn: impl FnMut() -> Result<T>) -> Result<T> {
        self.take_with(name, PAUSE, turn)
    }

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

    /// For the facts of a run.
    pub fn told(&self) -> String {
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
    fn a_turn_that_gives_nothing_is_taken_again_and_named() {
        let mut turns = Turns::default();
        let mut results = vec![Ok(5), Err(anyhow!("no datagram arrived")), Err(anyhow!("no answer"))];

        let value =
            turns.take_with("docker on c2c: datagrams", Duration::ZERO, || results.pop().expect("no more turns"));

        assert_eq!(value.expect("the third gave one"), 5);
        assert_eq!(turns.told(), "docker on c2c: datagrams × 2 (no datagram arrived)");
    }

    #[test]
    fn what_never_gives_anything_ends_with_its_name() {
        let (mut turns, mut taken) = (Turns::default(), 0);

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
        let mut turns = Turns::default();

        assert_eq!(turns.take("netd on host: stream", || Ok(1)).expect("it gave one"), 1);

        assert_eq!(turns.told(), "none");
    }
}
