//! Whether the machine ran at its usual speed in a turn, and what follows: a turn in which it did not is taken again, within bounds.
//! Nothing here performs IO.
//!
//! Whether a turn counts is decided by what was felt of the machine ([`Beats`]) and by nothing that the turn has measured: else those of
//! netd that suit it would be picked.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use anyhow::Result;

use super::{figures::percentile, gauge::Beats, site::Contender};

/// From how many times the usual time a beat is slow, and up to how many. The usual one is exact to half of a hundredth, whoever sends
/// what. Where a neighbour works on the same core it is 1.24 to 1.5 times that; what a turn does to its processor itself makes 1.06 of it
/// (a fifth of the beats while connections are made) or 1.18 (a tenth while datagrams are sent), and what is longer was interrupted (a
/// twentieth of those of a stream, by the server).
const SLOW_BEATS: RangeInclusive<f64> = 1.2..=2.0;
/// Of which share of its beats a turn is slow. In turns of which more were slow a client's rate of connections was 4 to 12 % lower and its
/// median round trip up to 20 % longer, below that 1 % and a thousandth; one turn in six was such a one on a shared machine of two
/// processors.
const SLOW: f64 = 0.15;
/// Of which share a turn is so slow that what is left of a scarce spare is kept for its like: a machine may be slow in four turns of ten.
const VERY_SLOW: f64 = 0.4;
/// How many turns' time is kept so.
const KEPT: u32 = 4;
/// How often a turn is taken at most.
const TIMES: usize = 6;
/// How many beats back a usual speed is learnt from: those of some minutes, so that it is that of the machine as it has become.
const WINDOW: usize = 8192;
/// The share of them that are faster than the usual: a machine that is slow for most of the time is so all the same.
const FASTEST: f64 = 0.1;
/// How long a machine that runs slow has to run as usual before a turn is taken again. It is spent like the turn.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// What may be spent before turns have brought something in: one such wait.
const AT_FIRST: Duration = PATIENCE;

/// What was felt in a run, and what was done about it.
#[derive(Default)]
pub struct Steady {
    felt: Beats,
    /// Of the time that turns take, how much may be spent on taking some again.
    share: f64,
    /// How much so far, and how much was: more than may be, where one took longer than was to be foreseen. Then others bring it in first.
    earned: Duration,
    spent: Duration,
    counts: BTreeMap<Contender, Count>,
    /// How many that were taken again gave nothing, and why the last one did not.
    failed: Option<(usize, String)>,
}

/// Of a contender's turns.
#[derive(Default)]
struct Count {
    turns: usize,
    again: usize,
    slow: usize,
}

/// A turn that was taken.
pub struct Taken<T> {
    /// Its values, and what was felt meanwhile.
    pub gave: Result<(T, Beats)>,
    /// How long it took, and how long was waited for it.
    pub took: Duration,
}

impl Steady {
    /// One that has felt nothing, and makes a run longer by this share at most.
    pub fn new(share: f64) -> Self {
        Self { share, earned: AT_FIRST, ..Self::default() }
    }

    /// Learns the usual speed.
    pub fn learn(&mut self, beats: &Beats) {
        self.felt.client.extend(&beats.client);
        self.felt.receiver.extend(&beats.receiver);
    }

    /// The share of the client's beats that were slow; 0 where nothing was felt. Those of a receiver are told and decide nothing: six turns
    /// of ten would be slow by them, of which rates hardly know.
    fn slowness(&self, beats: &Beats) -> f64 {
        let Some(usual) = usual(&self.felt.client) else { return 0.0 };
        let slow = beats.client.iter().filter(|beat| SLOW_BEATS.contains(&(f64::from(**beat) / usual))).count();
        slow as f64 / beats.client.len().max(1) as f64
    }

    /// Whether the machine ran slow while this was felt.
    pub fn is_slow(&self, beats: &Beats) -> bool {
        self.slowness(beats) > SLOW
    }

    /// What `turn`, one of `who`, gives when the machine runs at its usual speed, or, where it did in none of the turns that may be taken,
    /// when it was the least slow. `turn` is told of this when it is taken again; where it gives nothing then, what it has given before
    /// counts. An error only where the first gives nothing.
    pub fn taken<T>(&mut self, who: Contender, mut turn: impl FnMut(Option<&Self>) -> Taken<T>) -> Result<T> {
        let Taken { gave, took } = turn(None);
        let (value, beats) = gave?;
        self.learn(&beats);
        self.earned += took.mul_f64(self.share);
        self.count(who).turns += 1;
        let mut best = (self.slowness(&beats), value);
        for _ in 1..TIMES {
            let kept = if best.0 > VERY_SLOW { Duration::ZERO } else { took * KEPT };
            // Another one may be waited for, and take as long as the first did.
            if best.0 <= SLOW || self.earned < self.spent + kept + PATIENCE + took {
                break;
            }
            let Taken { gave, took } = turn(Some(self));
            self.spent += took;
            self.count(who).again += 1;
            match gave {
                Ok((value, beats)) => {
                    self.learn(&beats);
                    let slowness = self.slowness(&beats);
                    if slowness < best.0 {
                        best = (slowness, value);
                    }
                }
                Err(error) => {
                    let before = self.failed.take().map_or(0, |(times, _)| times);
                    self.failed = Some((before + 1, format!("{error:#}")));
                    break;
                }
            }
        }
        self.count(who).slow += usize::from(best.0 > SLOW);
        Ok(best.1)
    }

    fn count(&mut self, who: Contender) -> &mut Count {
        self.counts.entry(who).or_default()
    }

    /// For the facts of a run.
    pub fn told(&self) -> Vec<(&'static str, String)> {
        let sum = |of: fn(&Count) -> usize| self.counts.values().map(of).sum::<usize>();
        let (turns, again, slow) = (sum(|count| count.turns), sum(|count| count.again), sum(|count| count.slow));
        let mut told = format!(
            "{again} times beside {turns} turns, for {:.0} s with what was waited; counted though it ran slow: {slow}",
            self.spent.as_secs_f64()
        );
        told.extend(
            self.failed.iter().map(|(times, because)| format!("; gave nothing when taken again: {times} ({because})")),
        );
        let whose = self.counts.iter().map(|(who, Count { turns, again, slow })| {
            format!("{} {again} beside {turns} turns, {slow} slow all the same", who.name())
        });
        let whose: Vec<_> = whose.collect();
        let speeds = [("clients", &self.felt.client), ("receivers", &self.felt.receiver)].map(|(whose, felt)| {
            let mut sorted = felt.clone();
            sorted.sort_unstable();
            let [low, middle, high] =
                [0.05, 0.5, 0.95].map(|share| format!("{:.2}", f64::from(percentile(&sorted, share)) / 1e3));
            format!("{low}, {middle} and {high} µs on the {whose}' processor")
        });
        vec![
            ("turns taken again since the machine ran slow", told),
            ("whose they were", whose.join("; ")),
            ("the same work took, 5th, 50th and 95th percentile", speeds.join("; ")),
        ]
    }
}

/// The time of a piece of work when nobody takes from the processor's speed; `None` where nothing was felt.
fn usual(felt: &[u32]) -> Option<f64> {
    let mut last = felt[felt.len().saturating_sub(WINDOW)..].to_vec();
    last.sort_unstable();
    (!last.is_empty()).then(|| f64::from(percentile(&last, FASTEST)))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn beats(client: &[u32], receiver: &[u32]) -> Beats {
        Beats { client: client.to_vec(), receiver: receiver.to_vec() }
    }

    /// One that knows 1000 ns as the usual time of both, and may spend this many turns of a second beside the wait for one.
    fn knowing(spare: u32) -> Steady {
        let mut steady = Steady { earned: PATIENCE + SECOND * spare, ..Steady::new(0.0) };
        steady.learn(&beats(&[1000; 1000], &[1000; 1000]));
        steady
    }

    /// So many slow beats of twenty.
    fn slow(count: usize) -> Vec<u32> {
        [vec![1300; count], vec![1001; 20 - count]].concat()
    }

    /// What counts of turns in which so many of twenty beats are slow: its number, and how many were taken.
    fn counted(steady: &mut Steady, slow_beats: &[usize]) -> (usize, usize) {
        let mut taken = 0;
        let value = steady.taken(Contender::Netd, |_| {
            taken += 1;
            Taken { gave: Ok((taken, beats(&slow(slow_beats[taken - 1]), &[]))), took: SECOND }
        });
        (value.expect("it gives something"), taken)
    }

    #[test]
    fn a_turn_while_the_machine_ran_slow_is_taken_again() {
        let mut steady = knowing(100);

        assert_eq!(counted(&mut steady, &[3]), (1, 1));
        assert_eq!(counted(&mut steady, &[20, 4, 0, 0]), (3, 3));

        let told = steady.told();
        assert_eq!(told[0].1, "2 times beside 2 turns, for 2 s with what was waited; counted though it ran slow: 0");
        assert_eq!(told[1].1, "netd 2 beside 2 turns, 0 slow all the same");
        assert!(told[2].1.starts_with("1.00, 1.00 and 1.00 µs on the clients' processor; "), "{}", told[2].1);
    }

    #[test]
    fn of_turns_that_were_all_slow_the_least_slow_counts() {
        let mut steady = knowing(100);

        assert_eq!(counted(&mut steady, &[20, 10, 5, 5, 9, 20]), (3, TIMES));
        assert!(steady.told()[0].1.ends_with("though it ran slow: 1"));
    }

    #[test]
    fn a_machine_that_is_always_slow_makes_a_run_longer_by_no_more_than_its_share() {
        let mut steady = Steady { share: 0.5, ..knowing(0) };
        let mut again = 0;

        for _ in 0..100 {
            again += counted(&mut steady, &[10; TIMES]).1 - 1;
        }

        assert_eq!((again, steady.spent), (50, SECOND * 50));
    }

    #[test]
    fn what_is_waited_for_turns_makes_a_run_no_longer_than_its_share_either() {
        let (turn, share) = (SECOND / 4, 0.5);
        for waited in [PATIENCE, PATIENCE * 3] {
            let mut steady = Steady { share, ..knowing(0) };

            for turns in 1..=400 {
                let value = steady.taken(Contender::Netd, |again| Taken {
                    gave: Ok(((), beats(&slow(10), &[]))),
                    took: turn + again.map_or(Duration::ZERO, |_| waited),
                });

                value.expect("it gives something");
                let longest = AT_FIRST + (turn * turns).mul_f64(share) + (waited - PATIENCE);
                assert!(steady.spent <= longest, "{:?} of {longest:?}", steady.spent);
            }

            assert!(steady.spent > SECOND * 40, "what may be spent is: {:?}", steady.spent);
        }
    }

    #[test]
    fn where_little_may_be_spent_yet_it_is_kept_for_turns_that_were_very_slow() {
        let mut steady = knowing(KEPT);

        assert_eq!(counted(&mut steady, &[8, 0]), (1, 1));
        assert_eq!(counted(&mut steady, &[9, 8, 0]), (2, 2));
    }

    #[test]
    fn the_usual_speed_is_the_one_of_late() {
        let mut steady = knowing(0);
        assert!(steady.is_slow(&beats(&[1250; 30], &[])));

        steady.learn(&beats(&[1250; WINDOW], &[]));

        assert!(!steady.is_slow(&beats(&[1250; 30], &[])));
    }

    #[test]
    fn a_machine_that_is_slow_for_most_of_the_time_is_slow_all_the_same() {
        let mut steady = Steady::new(0.0);

        steady.learn(&beats(&[[1000; 100].as_slice(), &[1300; 700]].concat(), &[]));

        assert!(steady.is_slow(&beats(&[1300; 30], &[])));
    }

    #[test]
    fn a_turn_is_as_slow_as_its_client() {
        let steady = knowing(0);

        assert!(!steady.is_slow(&beats(&[1000; 30], &[1300; 30])));
        assert!(steady.is_slow(&beats(&[1300; 30], &[1000; 30])));
        assert!(!steady.is_slow(&Beats::default()) && !Steady::new(0.0).is_slow(&beats(&[1300; 30], &[])));
    }

    #[test]
    fn beats_that_were_interrupted_and_what_a_turn_does_to_its_processor_make_no_slow_turn() {
        let steady = knowing(0);

        for time in [1190, 2100, 5_000_000] {
            assert!(!steady.is_slow(&beats(&[time; 30], &[])), "{time}");
        }
    }

    #[test]
    fn a_turn_that_gives_nothing_ends_it() {
        let nothing =
            knowing(0).taken::<()>(Contender::Netd, |_| Taken { gave: Err(anyhow!("no answer")), took: SECOND });

        assert_eq!(nothing.map_err(|error| error.to_string()), Err("no answer".to_owned()));
    }

    #[test]
    fn where_a_turn_gives_nothing_when_it_is_taken_again_what_it_gave_before_counts() {
        let (mut steady, mut gives) = (knowing(100), vec![Err(anyhow!("no answer")), Ok(20)]);

        let value = steady.taken(Contender::Veth, |_| {
            let gave: Result<usize> = gives.pop().expect("no more turns");
            Taken { gave: gave.map(|count| (count, beats(&slow(count), &[]))), took: SECOND }
        });

        assert_eq!(value.map_err(|error| error.to_string()), Ok(20));
        let told = steady.told();
        assert!(told[0].1.ends_with("ran slow: 1; gave nothing when taken again: 1 (no answer)"), "{}", told[0].1);
        assert_eq!(told[1].1, "veth 1 beside 1 turns, 1 slow all the same");
    }
}
