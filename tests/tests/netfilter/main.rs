//! netd beside the kernel's own netfilter, both alive in one run, the same traffic from the same seeds: every end sees the same,
//! but for the ports that masquerade chooses and for the differences that are meant, which are listed with their reasons.
//!
//! `NETFILTER_SEED` and `NETFILTER_PLAYS` choose other traffic; what fails prints the seed of its own play.

mod extensions;
mod frames;
mod odd;
mod raw;
mod sights;
mod site;
mod sockets;
mod stage;

use std::sync::{Mutex, PoisonError};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{site::Site, stage::Stage};

/// Plays of one run, unless `NETFILTER_PLAYS` says otherwise.
const PLAYS: u64 = 600;
/// Where the seeds begin, unless `NETFILTER_SEED` says otherwise.
const SEED: u64 = 1;
/// Plays that at least see a thing which is to be seen in many.
const FEW: usize = 1;

/// One of the things that are played on both sites.
#[derive(Debug)]
enum Play {
    Connection(sockets::Connection),
    Datagrams(sockets::Datagrams),
    Conversation(raw::Conversation),
    Twins(raw::Twins),
}

impl Play {
    fn of_seed(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        match random.random_range(0..10) {
            0..=2 => Self::Connection(sockets::Connection::arbitrary(random)),
            3..=4 => Self::Datagrams(sockets::Datagrams::arbitrary(random)),
            5..=8 => Self::Conversation(raw::Conversation::arbitrary(random)),
            _ => Self::Twins(raw::Twins::arbitrary(random)),
        }
    }

    /// What every end sees.
    fn on(&self, stage: &Stage) -> Vec<String> {
        stage.begin();
        match self {
            Self::Connection(connection) => with_outlines(stage, connection.play(stage)),
            Self::Datagrams(datagrams) => with_outlines(stage, datagrams.play(stage)),
            Self::Conversation(conversation) => conversation.play(stage),
            Self::Twins(twins) => twins.play(stage),
        }
    }
}

/// Adds what the packets of either direction had in common, but for acknowledgements alone.
fn with_outlines(stage: &Stage, mut story: Vec<String>) -> Vec<String> {
    stage.settle();
    for (place, frames) in stage.frames() {
        let got = frames.iter().filter(|frame| !frame.sent && !frame.only_acknowledges());
        let outlines: std::collections::BTreeSet<_> = got.map(|frame| frame.outline()).collect();
        story.extend(outlines.into_iter().map(|outline| format!("{place} {outline}")));
    }
    story
}

/// Plays on both sites at once, each on a processor of its own, and gives back what was seen there: netd's first.
///
/// Nothing is started while somebody plays: a child holds every socket of this process until it has become another program,
/// and what is closed meanwhile stays open for that long.
fn on_both<T: Send>(sites: [fn() -> Site; 2], play: impl Fn(&Stage) -> T + Sync) -> [T; 2] {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);

    let stages = beside_each_other(sites, |site| Stage::on(site()));
    let seen = beside_each_other([&stages[0], &stages[1]], &play);
    for netd in stages.iter().filter_map(|stage| stage.site.netd.as_ref()) {
        netd.say("status").ok();
    }
    seen
}

fn beside_each_other<A: Send, T: Send>(both: [A; 2], work: impl Fn(A) -> T + Sync) -> [T; 2] {
    let work = &work;
    std::thread::scope(|scope| {
        let mut number = 0;
        let threads = both.map(|one| {
            let processor = number;
            number += 1;
            scope.spawn(move || {
                stay_on_processor(processor);
                work(one)
            })
        });
        threads.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn stay_on_processor(number: usize) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = nix::sched::CpuSet::new();
    set.set(number % processors).expect("a processor's number");
    // Where this processor is not to be had, any one is as good.
    let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text}, no number")))
}

#[test]
fn every_end_sees_the_same_whether_netd_or_netfilter_translates() {
    let (first, plays) = (setting("NETFILTER_SEED", SEED), setting("NETFILTER_PLAYS", PLAYS));
    let plays: Vec<_> = (first..first + plays).map(|seed| (seed, Play::of_seed(seed))).collect();

    let [netd, netfilter] = on_both([Site::netd, Site::netfilter], |stage| {
        let seen: Vec<_> = plays.iter().map(|(_, play)| play.on(stage)).collect();
        stage.site.lab.assert_no_checksum_errors();
        seen
    });

    let mut different = 0;
    for ((seed, play), (netd, netfilter)) in plays.iter().zip(netd.iter().zip(&netfilter)) {
        if netd != netfilter {
            different += 1;
            println!("seed {seed} (NETFILTER_SEED={seed} NETFILTER_PLAYS=1): {play:?}\n{}", beside(netd, netfilter));
        }
    }
    assert_eq!(different, 0, "of {} plays, {different} are seen differently", plays.len());
    let seen = plays.iter().zip(&netfilter).map(|((_, play), story)| (play, story.as_slice()));
    for ((seed, play), story) in plays.iter().zip(&netfilter) {
        let lacks = sights::lacks(play, story);
        assert_eq!(lacks, None, "seed {seed} shows no such thing: {play:?}\n{}", story.join("\n"));
    }
    // Other seeds may show other things.
    let is_whole = std::env::var_os("NETFILTER_SEED").is_none() && plays.len() >= PLAYS as usize;
    let rare = sights::rare(seen, FEW);
    assert!(!is_whole || rare.is_empty(), "of {} plays: {rare:#?}", plays.len());
}

#[test]
fn odd_packets_meet_the_same_fate_but_for_the_differences_that_are_meant() {
    let odd = odd::all();

    let [netd, netfilter] =
        on_both([Site::netd, Site::netfilter], |stage| odd.iter().map(|odd| odd.play(stage)).collect::<Vec<_>>());

    let mut wrong = 0;
    for (odd, (netd, netfilter)) in odd.iter().zip(netd.iter().zip(&netfilter)) {
        match &odd.meant {
            None if netd == netfilter && netfilter.is_empty() == odd.is_silent => {}
            Some(meant) if netd != netfilter && begin(netd, &meant.netd) && begin(netfilter, &meant.netfilter) => {
                println!("{}\n{}    {}\n", odd.name, beside(netd, netfilter), meant.reason);
            }
            _ => {
                wrong += 1;
                println!("NOT meant: {}\n{}", odd.name, beside(netd, netfilter));
            }
        }
    }
    assert_eq!(wrong, 0, "{wrong} of {} odd packets meet another fate than they should", odd.len());
}

/// Whether the lines are as many as these, and each begins as its counterpart says.
fn begin(lines: &[String], beginnings: &[String]) -> bool {
    lines.len() == beginnings.len() && lines.iter().zip(beginnings).all(|(line, beginning)| line.starts_with(beginning))
}

/// Two stories, line by line; what both tell, once.
fn beside(netd: &[String], netfilter: &[String]) -> String {
    let lines = netd.len().max(netfilter.len());
    (0..lines)
        .map(|at| match (netd.get(at), netfilter.get(at)) {
            (Some(one), Some(two)) if one == two => format!("    both       {one}\n"),
            (one, two) => [("netd", one), ("netfilter", two)]
                .into_iter()
                .filter_map(|(name, line)| line.map(|line| format!("  ! {name:10} {line}\n")))
                .collect(),
        })
        .collect()
}
