//! `cargo xtask bench`: netd beside the limit and its peers. Every contender has a private host of its own, all are alive in
//! the same run, and a round measures one after the other, so that what the machine does meanwhile meets them all.

mod busy;
mod chart;
pub mod client;
mod connections;
mod contenders;
mod control;
mod cost;
mod datagrams;
mod docker;
mod figures;
mod findings;
mod floor;
mod gaps;
mod gauge;
mod load;
mod machine;
mod memory;
mod options;
mod overlay;
mod parts;
mod peers;
mod processor;
mod profile;
mod proxy;
mod recorder;
mod report;
mod scale;
mod server;
mod site;
mod steady;
mod table;
mod targets;
mod traffic;
mod turns;

use std::{
    collections::BTreeSet,
    fs,
    path::Path as FilePath,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

pub use self::options::Options;
use self::{
    busy::Busy,
    cost::Cost,
    figures::{Figures, Measure},
    findings::{Area, Findings},
    options::Subject,
    profile::Profiles,
    site::{Contender, Path, Site},
    turns::{Turns, whose},
};
use crate::{build_ebpf, command, debian, stage, workspace};

/// What the Lab runs.
const PACKAGES: [&str; 2] = ["ethtool", "iproute2"];

/// How long each load takes in a round. What a machine that is shared does besides comes and goes within seconds and moves a rate by
/// a fifth: many short turns meet it alike, of a few long ones one contender meets more.
const TIME: Duration = Duration::from_millis(250);
/// And where it is to be quick.
const QUICK: Duration = Duration::from_millis(150);
/// And in the round that does not count.
const WARM_UP: Duration = Duration::from_millis(100);
/// How long what hosts leave that are gone may keep the processors from what is measured next.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures the packet code by itself.
fn programs(against: Option<&FilePath>) -> Result<()> {
    let Some(object) = against else {
        let all = workspace::cargo(["bench", "-p", "netd-tests", "--benches"]);
        return command::show(&mut workspace::with_artifacts(all));
    };
    let object = object.canonicalize().with_context(|| format!("cannot find the object {}", object.display()))?;
    let mut beside = workspace::cargo(["bench", "-p", "netd-tests", "--bench", "programs"]);
    beside.env("NETD_BPF_AGAINST", object);
    command::show(&mut workspace::with_artifacts(beside))
}

/// Gets what is needed, builds, measures, and writes the results.
pub fn run(options: &Options) -> Result<()> {
    command::need_root("bench")?;
    if options.programs {
        build_ebpf::build(false)?;
        return programs(options.against.as_deref());
    }
    options.check()?;
    let (contenders, paths) = (options.contenders(), options.paths());
    debian::ensure_packages(&packages(&contenders))?;
    if options.profiles()
        && let Err(error) = debian::ensure_packages(&[recorder::PACKAGE])
    {
        println!("{error:#}");
    }
    if contenders.iter().any(|who| matches!(who, Contender::Netd | Contender::NetdTcx)) {
        build_ebpf::build(false)?;
        command::show(&mut workspace::cargo(["build", "--release", "-p", "netd"]))?;
    }
    Busy::now()?;
    let profiles = Profiles::asked(options.profiles(), options.profile)?;
    let mut facts = machine::facts(&contenders)?;
    facts.extend(options.profiles().then(|| ("perf", recorder::version())));

    let mut measured = Measured { profiles, turns: Turns::new(options.spare()), ..Measured::default() };
    measured.turns.calibrate()?;
    let whole = stage::play("the bench", || everything_on_paths(options, &contenders, &paths, &mut measured));
    let whole = whole.and_then(|()| stage::play("the bench", || besides(options, &mut measured)));
    if !measured.drops.is_empty() {
        facts.push(("dropped by netd's programs", Vec::from_iter(std::mem::take(&mut measured.drops)).join("; ")));
    }
    facts.extend(measured.profiles.untold().map(|why| ("not profiled", why)));
    facts.extend(measured.turns.told());
    if whole.is_err() && measured.is_nothing() {
        // What an earlier run has left stays.
        return whole;
    }
    // What was measured until then is not lost, but it is no whole run.
    let broken_off = whole.as_ref().err().map(|error| ("NOT WHOLE", format!("{error:#}")));
    let directory = if whole.is_ok() { options.directory() } else { workspace::target().join("bench") };
    let told = machine::load().and_then(|load| {
        facts.push(("load after", load));
        facts.extend(broken_off);
        tell(options, &facts, &measured, &directory)
    });
    both(whole, told)
}

/// How a run ended whose results were told: why it broke off is said, whatever else went wrong with what it had.
fn both(whole: Result<()>, told: Result<()>) -> Result<()> {
    match (whole, told) {
        (Err(broken_off), Err(untold)) => {
            Err(broken_off.context(format!("the results are not told either ({untold:#})")))
        }
        (whole, told) => whole.and(told),
    }
}

/// What a run gives.
#[derive(Default)]
struct Measured {
    figures: Figures,
    findings: Findings,
    costs: Vec<Cost>,
    profiles: Profiles,
    /// What netd's programs dropped.
    drops: BTreeSet<String>,
    turns: Turns,
}

impl Measured {
    /// Whether there is not one number.
    fn is_nothing(&self) -> bool {
        self.figures.paths().is_empty() && Area::ALL.into_iter().all(|area| self.findings.of(area).next().is_none())
    }
}

/// Prints the tables and writes them.
fn tell(options: &Options, facts: &[(&'static str, String)], measured: &Measured, directory: &FilePath) -> Result<()> {
    let Measured { figures, findings, costs, profiles, .. } = measured;
    let mut verdicts = targets::judged(figures, findings);
    if !options.everything() {
        verdicts.retain(|verdict| verdict.measured.is_some());
    }
    println!();
    for (name, value) in facts {
        println!("{name}: {value}");
    }
    for path in figures.paths() {
        println!("\n{}\n{}", path.name(), table::results(figures, path).aligned());
    }
    for area in Area::ALL.into_iter().filter(|area| findings.of(*area).next().is_some()) {
        println!("{}\n{}", area.title(), table::findings(findings, area).aligned());
    }
    if !costs.is_empty() {
        println!("netd's programs\n{}", table::costs(costs).aligned());
    }
    for profile in &profiles.taken {
        println!("{}\n{}", profile.of, table::profile(profile).aligned());
    }
    println!("targets\n{}\n{}", table::targets(&verdicts).aligned(), report::summary(&verdicts));
    let document = report::document(&options.manner(), facts, measured, &verdicts);
    write(directory, figures, &document, &table::everything(figures, findings, costs, &verdicts).csv())?;
    println!("written: RESULTS.md, results.csv and charts in {}", workspace::short(directory));
    Ok(())
}

/// What no path gives: scale and the control plane.
fn besides(options: &Options, measured: &mut Measured) -> Result<()> {
    let Measured { findings, turns, profiles, .. } = measured;
    let begin = Instant::now();
    if options.measures(Subject::Scale) {
        let rounds = if options.quick { 1 } else { options.rounds() };
        let manner = scale::Manner { whole: !options.quick, rounds, time: options.time() };
        scale::measured(findings, turns, profiles, &manner)?;
        println!("{:>5.0} s  scale", begin.elapsed().as_secs_f64());
    }
    if options.measures(Subject::Control) {
        if !busy::rest(PATIENCE)? {
            println!("        the processors do not come to rest: what commands take will be longer");
        }
        control::measured(findings, !options.quick)?;
        println!("{:>5.0} s  control plane", begin.elapsed().as_secs_f64());
    }
    Ok(())
}

fn packages(contenders: &[Contender]) -> Vec<&'static str> {
    let own = |contender: &Contender| -> &[&'static str] {
        match contender {
            Contender::Veth
            | Contender::Redirect
            | Contender::Tracking
            | Contender::Netd
            | Contender::NetdTcx
            | Contender::Bridge
            | Contender::Docker
            | Contender::Vxlan => &[],
            Contender::Iptables => &["iptables"],
            Contender::Cni => &["iptables", "containernetworking-plugins"],
            Contender::Netavark => &["iptables", "netavark"],
        }
    };
    let mut packages: Vec<_> = PACKAGES.into_iter().chain(contenders.iter().flat_map(own).copied()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Every contender on every path, then what netd's programs take there.
fn everything_on_paths(
    options: &Options,
    contenders: &[Contender],
    paths: &[Path],
    measured: &mut Measured,
) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let sites = contenders.iter().map(|contender| Site::of_contender(*contender, paths));
    let sites: Vec<_> = sites.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    rounds(options, &sites, paths, measured)?;
    if measured.profiles.wanted {
        let wanted = if options.profile {
            profile::picked(paths, &options.loads(), contenders)
        } else {
            profile::missed(&measured.figures)
        };
        profile::of_paths(&mut measured.profiles, &wanted, &sites, options.time());
    }
    for site in sites.iter().filter(|site| !site.netds.is_empty()) {
        measured.costs.extend(cost::measured(site, paths, &options.loads(), &mut measured.turns)?);
        for netd in &site.netds {
            measured.drops.insert(format!("{} on {}", cost::drops(&netd.json("status")), netd.host().name()));
        }
    }
    Ok(())
}

/// Round zero warms caches and neighbours up and does not count.
fn rounds(options: &Options, sites: &[Site], paths: &[Path], measured: &mut Measured) -> Result<()> {
    let Measured { figures, turns, .. } = measured;
    let begin = Instant::now();
    for path in paths {
        let on_path: Vec<_> = sites.iter().filter_map(|site| Some((site.contender, site.paths.get(path)?))).collect();
        ensure!(!on_path.is_empty(), "none of the contenders takes the path {}", path.name());
        if path.is_from_host() {
            sites.iter().try_for_each(Site::settle)?;
        }
        for load in options.loads() {
            for round in 0..=options.rounds() {
                for turn in 0..on_path.len() {
                    let (contender, ends) = on_path[whose(round, turn, on_path.len())];
                    let time = if round == 0 { WARM_UP } else { options.time() };
                    let name = format!("{} on {}: {}", contender.name(), path.name(), load.name());
                    if round == 0 {
                        turns.take(name, || ends.run(load, time))?;
                        continue;
                    }
                    let values = turns.take_steady(contender, name, || {
                        let load::Turn { values, beats, .. } = ends.run(load, time)?;
                        Ok((values, beats))
                    })?;
                    for (measure, value) in values {
                        figures.add(*path, contender, measure, value);
                    }
                }
            }
            println!("{:>5.0} s  {}: {}", begin.elapsed().as_secs_f64(), path.name(), load.name());
        }
    }
    Ok(())
}

fn write(directory: &FilePath, figures: &Figures, document: &str, rows: &str) -> Result<()> {
    let written = |name: &str, text: &str| {
        let file = directory.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", workspace::short(&file)))
    };
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", workspace::short(directory)))?;
    for measure in Measure::ALL.into_iter().filter(|_| !figures.paths().is_empty()) {
        chart::draw(figures, measure, &directory.join(format!("{}.svg", measure.slug())))?;
    }
    written("results.csv", rows)?;
    written("RESULTS.md", document)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_run_that_broke_off_says_why_though_its_results_cannot_be_written() {
        let (no_answer, full) = (|| Err(anyhow!("no answer")), || Err(anyhow!("no space left on device")));
        let said = |whole, told| both(whole, told).map_err(|error| format!("{error:#}"));

        assert_eq!(said(Ok(()), Ok(())), Ok(()));
        assert_eq!(said(no_answer(), Ok(())), Err("no answer".into()));
        assert_eq!(said(Ok(()), full()), Err("no space left on device".into()));
        let both = "the results are not told either (no space left on device): no answer";
        assert_eq!(said(no_answer(), full()), Err(both.into()));
    }

    #[test]
    fn a_run_that_has_one_number_has_something_to_write() {
        let mut measured = Measured::default();
        assert!(measured.is_nothing());

        measured.figures.add(Path::Host, Contender::Netd, Measure::Stream, 1.0);
        assert!(!measured.is_nothing());

        let mut measured = Measured::default();
        measured.findings.add(Area::Control, "attach", Contender::Netd, "ms", 9.0);
        assert!(!measured.is_nothing());
    }
}
