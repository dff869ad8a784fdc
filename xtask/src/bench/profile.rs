//! Where the processors are while a load runs: a sample of `perf` in a function is as much time in it as there is between two.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::Netd;

use super::{
    busy::of_thread,
    cost::give_ports_back,
    figures::Figures,
    load::{Ends, Load},
    parts::{self, Part},
    recorder::{INTERVAL, Recorder},
    site::{Contender, Path, Site},
    targets::missed_on_paths,
};
use crate::workspace;

/// Rounds of each load that are sampled.
const ROUNDS: usize = 8;
/// Functions that are told by name.
const TOLD: usize = 10;

/// What was sampled, and what could not be and why.
#[derive(Default)]
pub struct Profiles {
    /// Those that there are.
    pub taken: Vec<Profile>,
    failed: Vec<String>,
    /// Whether more are to be taken.
    pub wanted: bool,
}

impl Profiles {
    /// Some to be taken if `asked`, unless perf does not work: then that is told, or the error if `insisted`.
    pub fn asked(asked: bool, insisted: bool) -> Result<Self> {
        let works = if asked { works() } else { Ok(()) };
        match works {
            Err(error) if insisted => Err(error),
            Err(error) => Ok(Self { failed: vec![one_line(&error)], ..Self::default() }),
            Ok(()) => Ok(Self { wanted: asked, ..Self::default() }),
        }
    }

    /// Adds one of something.
    pub fn add(&mut self, of: &str, profile: Result<Profile>) {
        match profile {
            Ok(profile) => self.taken.push(profile),
            Err(error) => self.failed.push(format!("{of}: {}", one_line(&error))),
        }
    }

    /// What could not be sampled and why, for the facts of a run.
    pub fn untold(&self) -> Option<String> {
        (!self.failed.is_empty()).then(|| self.failed.join("; "))
    }
}

/// Nanoseconds of all processors for each of what is counted (a packet, a round trip, a connection, a mebibyte), by function.
type Times = BTreeMap<String, f64>;

/// What was found under a load, of several sides in turn.
pub struct Profile {
    /// Of what.
    pub of: String,
    /// The side that netd is compared with, others, netd's.
    sides: Vec<(String, Times)>,
}

impl Profile {
    /// Names of the sides.
    pub fn sides(&self) -> impl Iterator<Item = &str> {
        self.sides.iter().map(|(name, _)| name.as_str())
    }

    /// Nanoseconds of each side, for each of what is counted, in a part; in all of them without one.
    pub fn nanoseconds(&self, part: Option<Part>) -> Vec<f64> {
        let is_in = |function: &str| part.is_none_or(|part| Part::of(function) == part);
        let in_it =
            |times: &Times| times.iter().filter(|(function, _)| is_in(function)).fold(0.0, |sum, (_, time)| sum + time);
        self.sides.iter().map(|(_, times)| in_it(times)).collect()
    }

    /// The functions in which the last side is longer than the first, and by how many nanoseconds: the longest, the longest first.
    pub fn longer(&self) -> Vec<(String, f64)> {
        let [(_, first), .., (_, last)] = &self.sides[..] else { return Vec::new() };
        let mut longer: BTreeMap<String, f64> = BTreeMap::new();
        for (times, sign) in [(first, -1.0), (last, 1.0)] {
            for (function, time) in times {
                *longer.entry(parts::shown(function)).or_default() += sign * time;
            }
        }
        let mut longer: Vec<_> = longer.into_iter().filter(|(_, time)| *time > 0.0).collect();
        longer.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        longer.truncate(TOLD);
        longer
    }
}

/// A load on a path, and beside whom netd is sampled.
pub type Wanted = (Path, Load, Vec<Contender>);

/// What netd has missed on paths.
pub fn missed(figures: &Figures) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for (path, measure, against) in missed_on_paths(figures) {
        let load = Load::of(measure);
        match wanted.iter_mut().find(|(on, under, _)| (*on, *under) == (path, load)) {
            Some((.., others)) if others.contains(&against) => {}
            Some((.., others)) => others.push(against),
            None => wanted.push((path, load, vec![against])),
        }
    }
    wanted
}

/// Everything that was picked.
pub fn picked(paths: &[Path], loads: &[Load], contenders: &[Contender]) -> Vec<Wanted> {
    let others = contenders.iter().filter(|who| !matches!(who, Contender::Netd | Contender::Redirect));
    let others: Vec<_> = others.copied().collect();
    paths.iter().flat_map(|path| loads.iter().map(|load| (*path, *load, others.clone()))).collect()
}

/// An error where perf takes no samples on this machine.
fn works() -> Result<()> {
    let mut recorder = Recorder::new(directory(0))?;
    recorder.while_it_runs(|| {
        let begin = of_thread()?;
        while of_thread()? - begin < 100 * INTERVAL {}
        Ok(())
    })?;
    recorder.samples(&BTreeSet::new()).map(drop)
}

/// All of that once more, sampled.
pub fn of_paths(profiles: &mut Profiles, wanted: &[Wanted], sites: &[Site], time: Duration) {
    for (path, load, beside) in wanted {
        let of = format!("{}, {}", path.name(), load.name());
        profiles.add(&of, of_load(&of, sites, (*path, *load), beside, time));
    }
}

/// One load on one path.
fn of_load(
    of: &str,
    sites: &[Site],
    (path, load): (Path, Load),
    beside: &[Contender],
    time: Duration,
) -> Result<Profile> {
    let without = sites.iter().flat_map(|site| &site.netds).map(Netd::id_outside).collect();
    if load == Load::Connect {
        let on_path = sites.iter().filter(|site| site.paths.contains_key(&path));
        on_path.flat_map(|site| &site.netds).try_for_each(give_ports_back)?;
    }
    let who = beside.iter().copied().chain([Contender::Redirect, Contender::Netd]);
    let sides = who.filter_map(|who| {
        let on_path = sites.iter().filter(|site| site.contender == who).find_map(|site| site.paths.get(&path));
        Some((who.name(), on_path?))
    });
    let sides: Vec<(&str, &Ends)> = sides.collect();
    let names: Vec<_> = sides.iter().map(|(name, _)| (*name).to_owned()).collect();
    // Neighbours that have not answered for a while are asked first, which takes longer than the rounds' did.
    for (_, ends) in &sides {
        ends.run(Load::Exchange, time)?;
    }
    taken(of, names, &without, |side, recorder| {
        let (_, ends) = sides[side];
        Ok(recorder.while_it_runs(|| ends.run(load, time))?.count)
    })
}

/// Has the sides take turns, and tells what was found besides these processes. A turn has a recorder take samples of what it does,
/// and gives how much that was; one that fails is not taken again, since its samples are there already, and its error is this one's.
pub fn taken(
    of: &str,
    names: Vec<String>,
    without: &BTreeSet<u32>,
    mut turn: impl FnMut(usize, &mut Recorder) -> Result<f64>,
) -> Result<Profile> {
    let sides = names.len();
    ensure!(sides > 1, "there is nobody to compare with");
    let mut recorders = (0..sides).map(|side| Recorder::new(directory(side))).collect::<Result<Vec<_>>>()?;
    let mut counts = vec![0.0; sides];
    for round in 0..ROUNDS {
        for step in 0..sides {
            let side = (step + round) % sides;
            let given = turn(side, &mut recorders[side]);
            counts[side] += given.with_context(|| format!("nothing in a turn of {}", names[side]))?;
        }
    }
    let times = recorders.into_iter().zip(counts).map(|(recorder, count)| -> Result<Times> {
        let each = INTERVAL.as_nanos() as f64 / count;
        Ok(recorder
            .samples(without)?
            .into_iter()
            .map(|(function, samples)| (function, samples as f64 * each))
            .collect())
    });
    let sides = names.into_iter().zip(times).map(|(name, times)| Ok((name, times?)));
    Ok(Profile { of: of.to_owned(), sides: sides.collect::<Result<_>>()? })
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a recorder keeps its samples.
fn directory(number: usize) -> PathBuf {
    workspace::target().join("bench").join(format!("profile-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Measure;

    #[test]
    fn what_is_missed_is_sampled_once_a_load() {
        let mut figures = Figures::default();
        for (who, value) in [(Contender::Netd, 20.0), (Contender::Veth, 10.0), (Contender::Cni, 15.0)] {
            for measure in [Measure::Exchange50, Measure::Exchange99, Measure::Stream] {
                figures.add(Path::Published, who, measure, value);
            }
        }

        assert_eq!(missed(&figures), [(Path::Published, Load::Exchange, vec![Contender::Veth, Contender::Cni])]);
        let picked = picked(&[Path::Host], &Load::ALL[..1], &[Contender::Veth, Contender::Redirect, Contender::Netd]);
        assert_eq!(picked, [(Path::Host, Load::Stream, vec![Contender::Veth])]);
    }

    #[test]
    fn a_profile_tells_each_part_and_what_is_longer_by_name() {
        let times =
            |times: &[(&str, f64)]| times.iter().map(|(function, time)| ((*function).to_owned(), *time)).collect();
        let program = "bpf_prog_f323c61c9d7cf869_rewrite_3C_netd_ebpf_3A__3A_skb";
        let profile = Profile {
            of: "published, datagrams".into(),
            sides: vec![
                ("veth".into(), times(&[("udp_sendmsg", 70.0), ("veth_xmit", 50.0)])),
                ("netd".into(), times(&[("udp_sendmsg", 60.0), ("veth_xmit", 55.0), (program, 30.0)])),
            ],
        };

        assert_eq!(profile.sides().collect::<Vec<_>>(), ["veth", "netd"]);
        assert_eq!(profile.nanoseconds(Some(Part::Programs)), [0.0, 30.0]);
        assert_eq!(profile.nanoseconds(Some(Part::Devices)), [50.0, 55.0]);
        assert_eq!(profile.nanoseconds(None), [120.0, 145.0]);
        assert_eq!(profile.longer(), [("rewrite".to_owned(), 30.0), ("veth_xmit".to_owned(), 5.0)]);
    }
}
