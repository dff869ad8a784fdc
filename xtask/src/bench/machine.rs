//! What a run was made on: the processor, the kernel, the versions of everybody measured, and how busy the machine was.

use std::{fs, process::Command};

use anyhow::Result;

use super::{docker, proxy, site::Contender};
use crate::{command, workspace};

/// Facts that stand above every table, each with its name.
pub fn facts(contenders: &[Contender]) -> Result<Vec<(&'static str, String)>> {
    let mut facts = vec![
        ("date", command::text(Command::new("date").args(["--utc", "+%Y-%m-%d %H:%M UTC"]))?.trim().to_owned()),
        ("commit", commit()?),
        ("processor", processor(&fs::read_to_string("/proc/cpuinfo")?)),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned()),
        ("load before", load()?),
        ("bridge-nf-call-iptables", bridge_netfilter()),
    ];
    if contenders.contains(&Contender::Iptables) {
        facts.push(("iptables", command::text(Command::new("iptables").arg("--version"))?.trim().to_owned()));
        facts.push(("docker-proxy", proxy::program()?.1));
    }
    if contenders.contains(&Contender::Docker) {
        facts.push(("docker", docker::root()?.1));
    }
    for (contender, package) in [(Contender::Cni, "containernetworking-plugins"), (Contender::Netavark, "netavark")] {
        if contenders.contains(&contender) {
            facts.push((package, version(package)?));
        }
    }
    Ok(facts)
}

/// The machine's load over the last minute, in processes that run or want to.
pub fn load() -> Result<String> {
    let averages = fs::read_to_string("/proc/loadavg")?;
    Ok(averages.split(' ').next().unwrap_or_default().to_owned())
}

fn commit() -> Result<String> {
    let git = |arguments: &[&str]| command::text(Command::new("git").args(arguments).current_dir(workspace::root()));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?.trim().to_owned();
    // The results of the last run are no change of what is measured.
    let changed = !git(&["status", "--porcelain", "--untracked-files=no", "--", ":!bench"])?.is_empty();
    Ok(if changed { format!("{commit} with changes") } else { commit })
}

/// `2 × AMD EPYC`.
fn processor(cpuinfo: &str) -> String {
    let models: Vec<_> = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model.trim())
        .collect();
    match models.first() {
        Some(model) => format!("{} × {model}", models.len()),
        None => "not told".to_owned(),
    }
}

fn bridge_netfilter() -> String {
    let setting = fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    setting.map_or_else(|_| "absent".to_owned(), |value| format!("{} (as found)", value.trim()))
}

fn version(package: &str) -> Result<String> {
    command::text(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}", package]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_and_named() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n";

        assert_eq!(processor(cpuinfo), "2 × AMD EPYC");
        assert_eq!(processor("Features: fp\n"), "not told");
    }
}
