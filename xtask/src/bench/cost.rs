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
    let netd = site.netd.as_ref().context("only netd has programs")?;
    let _counting = counting()?;
    let mut costs = Vec::new();
    for (path, ends) in site.paths.iter().filter(|(path, _)| paths.contains(path)) {
        for &load in loads {
            let name = format!("{} on {}, counted: {}", site.contender.name(), path.name(), load.name());
            // What was run in a turn that gave nothing is not of those that the next one counts.
            let (before, count, after) = turns.take(name, || {
                if load == Load::Connect {
                    give_ports_back(netd)?;
                }
                let before = programs(netd)?;
                let given = ends.run(load, COUNTED)?;
                Ok((before, given.count, programs(netd)?))
            })?;
            let ran =
                after.into_iter().map(|(id, now)| (before.get(&id).map_or_else(Default::default, Counted::spent), now));
            costs.extend(ran.filter_map(|(then, now)| cost((*path, load, count), then, &now)));
        }
    }
    Ok(costs)
}

/// Ends what the rounds' connections have left in TIME_WAIT: on the host, whose own range of ports they have used up (a connection
/// that looks for a port in vain costs a thousand times what one costs that finds it), and in netd, whose flows between containers by
/// a published port have ports of the host's towards the one that serves (a later connection of the host's own by the same port has
/// its answers taken, and waits for half a minute).
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
    Ok(programs(netd)?.values().map(|counted| counted.time).sum())
}

/// What of a packet, a round trip, a connection or a mebibyte on a path the programs take: none where they were not counted there.
pub fn of_each(costs: &[Cost], path: Path, load: Load) -> Option<f64> {
    let there = costs.iter().filter(|cost| cost.path == path && cost.load == load);
    there.map(|cost| cost.each).reduce(|all, one| all + one)
}

fn cost((path, load, count): (Path, Load, f64), (runs, time): (u64, Duration), now: &Counted) -> Option<Cost> {
    let runs = now.runs - runs;
    let time = (now.time - time).as_nanos() as f64;
    let (program, nanoseconds, each) = (now.name.clone(), time / runs as f64, time / count);
    (runs > 0).then_some(Cost { path, load, program, runs, nanoseconds, each, verified: now.verified })
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

impl Counted {
    const fn spent(&self) -> (u64, Duration) {
        (self.runs, self.time)
    }
}

/// Programs that the daemon holds open, by their ids: others of the same name may be on the machine.
fn programs(netd: &Netd) -> Result<BTreeMap<u32, Counted>> {
    let open = netd.host().path(format!("/proc/{}/fdinfo", netd.id()));
    let mut programs = BTreeMap::new();
    for file in fs::read_dir(&open).with_context(|| format!("cannot read {}", open.display()))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(file?.path()) else { continue };
        if let Some(id) = program_id(&text) {
            programs.insert(id, None);
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
    fn a_program_that_did_not_run_costs_nothing_to_tell() {
        let now = Counted { name: "to_uplink".into(), runs: 10, time: Duration::from_nanos(900), verified: Some(5) };

        let of = (Path::Published, Load::Connect, 2.0);
        let told = cost(of, (7, Duration::from_nanos(600)), &now).expect("it ran");
        assert_eq!((told.runs, told.nanoseconds, told.each), (3, 100.0, 150.0));
        assert!(cost(of, (10, Duration::from_nanos(900)), &now).is_none());
        assert_eq!(of_each(&[told], Path::Published, Load::Connect), Some(150.0));
        assert_eq!(of_each(&[], Path::Published, Load::Connect), None);
    }
}
