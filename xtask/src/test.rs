//! `cargo xtask test`: everything built and tested from a clean checkout, in phases that all run, whatever fails.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{build_ebpf, command, debian, lint, mutate, root, vm, workspace};

/// What the tests themselves run.
const PACKAGES: [&str; 14] = [
    "bind9-dnsutils",
    "busybox-static",
    "ca-certificates",
    "curl",
    "etcd-server",
    "ethtool",
    "iproute2",
    "iptables",
    "gcc",
    "iputils-ping",
    "musl-tools",
    "nftables",
    "systemd",
    "tcpdump",
];

/// Options of the subcommand.
#[derive(clap::Args)]
pub struct Options {
    /// Leave out the virtual machine
    #[arg(long)]
    no_vm: bool,
    /// Only build, and run the tests whose name contains this: no lint, no virtual machine
    filter: Option<String>,
}

/// Runs every phase. Fails if one did, naming it.
pub fn everything(options: &Options) -> Result<()> {
    command::need_root("test")?;
    let filter = options.filter.as_deref();
    let (whole, with_vm) = (filter.is_none(), filter.is_none() && !options.no_vm);
    let mut phases = Phases::default();

    phases.run("requirements", || requirements(with_vm));
    phases.run("build-ebpf", || build_ebpf::build(false));
    if whole {
        phases.run("lint", lint::everything);
    }
    phases.run("build", || command::show(&mut workspace::cargo(["build", "--release", "-p", "netd"])));
    if whole {
        phases.run("mutate", || mutate::run(&mutate::Options::default()));
    }
    phases.run("unit tests", || cargo_test(&["netd-common", "netd", "xtask"], filter));
    if with_vm {
        phases.run("kernel 6.1", || vm::pass(&vm::Options::smoke("6.1")));
    }
    phases.last("tests", || cargo_test(&["netd-tests"], filter))
}

fn requirements(with_vm: bool) -> Result<()> {
    debian::ensure_packages(&PACKAGES)?;
    root::firewalls()?;
    if with_vm { vm::ensure_requirements() } else { Ok(()) }
}

fn cargo_test(packages: &[&str], filter: Option<&str>) -> Result<()> {
    let mut cargo = workspace::with_artifacts(workspace::cargo(["test", "--no-fail-fast"]));
    for package in packages {
        cargo.args(["-p", package]);
    }
    command::show(cargo.args(filter))
}

/// What ran, how long it took, and what failed.
#[derive(Default)]
struct Phases {
    failed: Vec<&'static str>,
    took: Vec<(&'static str, Duration)>,
}

impl Phases {
    fn run(&mut self, name: &'static str, phase: impl FnOnce() -> Result<()>) {
        println!("==> {name}");
        let start = Instant::now();
        let result = phase();
        let took = start.elapsed();
        self.took.push((name, took));
        match result {
            Ok(()) => println!("==> {name}: passed in {:.1} s", took.as_secs_f64()),
            Err(error) => {
                self.failed.push(name);
                println!("{error:#}\n==> {name}: FAILED in {:.1} s", took.as_secs_f64());
            }
        }
    }

    /// Tells how long the others took, runs the last one, and fails if any did. Where all passed, the last line of the output
    /// is the last one's own.
    fn last(mut self, name: &'static str, phase: impl FnOnce() -> Result<()>) -> Result<()> {
        let times = self.took.iter().map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f64()));
        println!("==> {}\n==> {name}", times.collect::<Vec<_>>().join(", "));
        if let Err(error) = phase() {
            println!("{error:#}");
            self.failed.push(name);
        }
        if !self.failed.is_empty() {
            anyhow::bail!("failed: {}", self.failed.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_after_a_failed_one_run_and_the_verdict_names_the_failed() {
        let mut phases = Phases::default();
        let mut ran = false;

        phases.run("first", || anyhow::bail!("no"));
        let verdict = phases.last("second", || {
            ran = true;
            Ok(())
        });

        assert!(ran);
        assert_eq!(verdict.expect_err("one failed").to_string(), "failed: first");
    }
}
