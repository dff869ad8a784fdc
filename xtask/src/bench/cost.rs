//! What netd's programs themselves cost: the kernel counts their runs and the time in them while somebody asks it to, which
//! costs time too and is therefore done beside the rounds.

use std::{collections::BTreeMap, fs, os::fd::OwnedFd, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};

use serde_json::Value;

use netd_tests::lab::Netd;

use super::{
    load::Load,
    site::{Path, Site},
    turns::Turns,
};

/// How long each load is while it is counted.
pub const COUNTED: Duration = Duration::from_millis(300);

/// A program under one load.
pub struct Cost {
    /// Where the load goes.
    pub path: Path,
    /// The load.
    pub load: Load,
    /// The program's name, which is that of its hook.
    pub program: String,
    /// How often it ran.
    pub runs: u64,
    /// Mean time of a run.
    pub nanoseconds: f64,
    /// Time of all its runs for each packet that arrived, mebibyte, round trip or connection.
    pub each: f64,
    /// Instructions that the verifier walked; `None` where the kernel does not tell (before 5.16).
    pub verified: Option<u32>,
}

/// Puts loads on every path of netd's site, and tells of every program that ran.
pub fn measured(site: &Site, paths: &[Path], loads: &[Load], turns: &mut Turns) -> Result<Vec<Cost>> {
    let _counting = counting()?;
    let mut costs = Vec::new();
    for (path, ends) in site.paths.iter().filter(|(path, _)| paths.contains(path)) {
        for &load in loads {
            let name = format!("{} on {}, counted: {}", site.contender.name(), path.name(), load.name());
            // What was run in a turn that gave nothing is not of those that the next one counts.
            let (before, count, after) = turns.take_steady(site.contender, name, || {
                if load == Load::Connect {
                    site.netds.iter().try_for_each(give_ports_back)?;
                }
                let before = programs(&site.netds)?;
                let given = ends.run(load, COUNTED)?;
                Ok(((before, given.count, programs(&site.netds)?), given.beats))
            })?;
            costs.extend(ran(&before, after).into_iter().filter_map(|ran| cost((*path, load, count), &ran)));
        }
    }
    Ok(costs)
}

/// Ends what the rounds' connections have left in TIME_WAIT: on the host, whose own range of ports they have used up (a connection
/// that looks for a port in vain costs a thousand times what one costs that finds it), and in netd, whose flows between containers by
/// a published port have ports of the host's towards the one that serves (a later connection of the host's own by the same port has
/// its answers taken, and waits for half a minute).
///
/// An error where the kernel ends none.
pub fn give_ports_back(netd: &Netd) -> Result<()> {
    const FEW: usize = 1000;
    netd.run(["flows", "rm", "protocol=tcp"]).ok();
    let ended = netd.host().run(["ss", "-K", "-H", "-t", "state", "time-wait"]);
    ensure!(ended.code() == 0, "the connections that are over cannot be taken from the host: {ended}");
    let left = netd.host().run(["ss", "-H", "-t", "state", "time-wait"]).stdout.lines().count();
    // A kernel without `CONFIG_INET_DIAG_DESTROY` ends none.
    ensure!(left < FEW, "{left} connections that are over keep their ports on the host, whose own would be costly");
    Ok(())
}

/// Has the kernel count runs as long as this is open.
pub fn counting() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("the kernel does not count runs of programs")
}

/// Time that has been spent in all of the daemon's programs while it was counted.
pub fn spent(netd: &Netd) -> Result<Duration> {
    Ok(programs(std::slice::from_ref(netd))?.values().map(|counted| counted.time).sum())
}

/// What of a packet, a round trip, a connection or a mebibyte on a path the programs take: none where they were not counted there.
pub fn of_each(costs: &[Cost], path: Path, load: Load) -> Option<f64> {
    let there = costs.iter().filter(|cost| cost.path == path && cost.load == load);
    there.map(|cost| cost.each).reduce(|all, one| all + one)
}

/// What has run between two counts, the same hook's program of several hosts as one.
fn ran(before: &BTreeMap<u32, Counted>, after: BTreeMap<u32, Counted>) -> Vec<Counted> {
    let mut ran: Vec<Counted> = Vec::new();
    for (id, now) in after {
        let (runs, time) = before.get(&id).map_or((0, Duration::ZERO), |then| (then.runs, then.time));
        let now = Counted { runs: now.runs - runs, time: now.time.saturating_sub(time), ..now };
        match ran.iter_mut().find(|other| other.name == now.name) {
            Some(other) => (other.runs, other.time) = (other.runs + now.runs, other.time + now.time),
            None => ran.push(now),
        }
    }
    ran
}

fn cost((path, load, count): (Path, Load, f64), ran: &Counted) -> Option<Cost> {
    let time = ran.time.as_nanos() as f64;
    let (program, nanoseconds, each) = (ran.name.clone(), time / ran.runs as f64, time / count);
    let cost = Cost { path, load, program, runs: ran.runs, nanoseconds, each, verified: ran.verified };
    (ran.runs > 0).then_some(cost)
}

/// What the programs have dropped and why, from `netd status`: nothing should be, and a drop costs its sender a second.
pub fn drops(status: &Value) -> String {
    let programs = status["programs"].as_array().into_iter().flatten();
    let dropped = programs.flat_map(|program| {
        let reasons = program["dropped"].as_object().into_iter().flatten();
        reasons.map(|(reason, count)| format!("{} {reason}={count}", program["name"].as_str().unwrap_or("unnamed")))
    });
    let dropped: Vec<_> = dropped.collect();
    if dropped.is_empty() { "nothing".to_owned() } else { dropped.join(", ") }
}

/// What the kernel tells of a program.
struct Counted {
    name: String,
    runs: u64,
    time: Duration,
    verified: Option<u32>,
}

/// Programs that these daemons hold open, by their ids: others of the same name may be on the machine.
fn programs(netds: &[Netd]) -> Result<BTreeMap<u32, Counted>> {
    let mut programs = BTreeMap::new();
    for netd in netds {
        let open = netd.host().path(format!("/proc/{}/fdinfo", netd.id()));
        for file in fs::read_dir(&open).with_context(|| format!("cannot read {}", open.display()))? {
            // A descriptor may be closed meanwhile.
            let Ok(text) = fs::read_to_string(file?.path()) else { continue };
            if let Some(id) = program_id(&text) {
                programs.insert(id, None);
            }
        }
    }
    for program in loaded_programs() {
        let program = program.context("the kernel does not tell of its programs")?;
        let name = program.name_as_str().unwrap_or("unnamed").to_owned();
        let (runs, time, verified) = (program.run_count(), program.run_time(), program.verified_instruction_count());
        programs.entry(program.id()).and_modify(|entry| *entry = Some(Counted { name, runs, time, verified }));
    }
    Ok(programs.into_iter().filter_map(|(id, counted)| Some((id, counted?))).collect())
}

fn program_id(descriptor: &str) -> Option<u32> {
    let is_program = descriptor.lines().any(|line| line.starts_with("prog_type:"));
    let id = descriptor.lines().find_map(|line| line.strip_prefix("prog_id:"))?;
    is_program.then(|| id.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_from_a_link_to_one() {
        assert_eq!(program_id("pos:\t0\nprog_type:\t3\nprog_jited:\t1\nprog_id:\t77\n"), Some(77));
        assert_eq!(program_id("link_type:\ttcx\nlink_id:\t5\nprog_tag:\tab\nprog_id:\t77\n"), None);
        assert_eq!(program_id("pos:\t0\n"), None);
    }

    #[test]
    fn drops_are_told_with_the_program_and_the_reason() {
        let status = serde_json::json!({ "programs": [
            { "name": "from_container", "dropped": { "no_flow": 2, "ports_exhausted": 4 } },
            { "name": "to_uplink", "dropped": {} },
        ] });

        assert_eq!(drops(&status), "from_container no_flow=2, from_container ports_exhausted=4");
        assert_eq!(drops(&serde_json::json!({ "programs": [] })), "nothing");
    }

    #[test]
    fn a_program_that_did_not_run_costs_nothing_to_tell_and_that_of_two_hosts_is_one() {
        let counted = |runs, time| Counted {
            name: "to_uplink".into(),
            runs,
            time: Duration::from_nanos(time),
            verified: Some(5),
        };
        let before = BTreeMap::from([(7, counted(7, 600))]);
        let of = (Path::Published, Load::Connect, 2.0);
        let told = |after: &[(u32, Counted)]| {
            let after = after.iter().map(|(id, c)| (*id, counted(c.runs, c.time.as_nanos() as u64))).collect();
            ran(&before, after).iter().filter_map(|ran| cost(of, ran)).collect::<Vec<_>>()
        };

        let once = told(&[(7, counted(10, 900))]);
        assert_eq!((once[0].runs, once[0].nanoseconds, once[0].each), (3, 100.0, 150.0));
        let twice = told(&[(7, counted(10, 900)), (8, counted(1, 500))]);
        assert_eq!((twice.len(), twice[0].runs, twice[0].nanoseconds, twice[0].each), (1, 4, 200.0, 400.0));
        assert!(told(&[(7, counted(7, 600))]).is_empty());
        assert_eq!(of_each(&once, Path::Published, Load::Connect), Some(150.0));
        assert_eq!(of_each(&[], Path::Published, Load::Connect), None);
    }
}
