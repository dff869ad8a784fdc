//! `cargo xtask test`: everything built and tested from a clean checkout, in phases that all run, whatever fails.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{build_ebpf, command, debian, lint, mutate, root, vm, workspace};

/// What the tests themselves run.
const PACKAGES: [&str; 15] = [
    "bind9-dnsutils",
    "busybox-static",
    "ca-certificates",
    "curl",
    "etcd-server",
    "ethtool",
    "gcc",
    "iproute2",
    "iptables",
    "iputils-ping",
    "linux-perf",
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
    let release = || workspace::cargo(["build", "--release", "-p", "netd"]);
    if whole {
        // The last crate of a release is compiled by one thread for minutes, and into a directory of its own.
        let build = Beside::begun("build", move || command::quiet(&mut release()));
        phases.run("lint", lint::everything);
        phases.run("mutate", || mutate::run(&mutate::Options::default()));
        phases.end(build);
    } else {
        phases.run("build", || command::show(&mut release()));
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

/// A phase that goes on in silence while others run. Its failure is told when it happens.
struct Beside {
    name: &'static str,
    done: JoinHandle<(bool, Duration)>,
}

impl Beside {
    fn begun(name: &'static str, phase: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        println!("==> {name}, beside what follows");
        let start = Instant::now();
        let told = move || {
            let passed = phase().inspect_err(|error| println!("{error:#}\n==> {name}: FAILED, others go on")).is_ok();
            (passed, start.elapsed())
        };
        Self { name, done: thread::spawn(told) }
    }
}

impl Phases {
    fn run(&mut self, name: &'static str, phase: impl FnOnce() -> Result<()>) {
        println!("==> {name}");
        let start = Instant::now();
        let passed = phase().inspect_err(|error| println!("{error:#}")).is_ok();
        self.note(name, passed, start.elapsed());
    }

    /// Waits for a phase that others ran beside.
    fn end(&mut self, Beside { name, done }: Beside) {
        // A panic has said why itself.
        let (passed, took) = done.join().unwrap_or_default();
        self.note(name, passed, took);
    }

    fn note(&mut self, name: &'static str, passed: bool, took: Duration) {
        self.took.push((name, took));
        println!("==> {name}: {} in {:.1} s", if passed { "passed" } else { "FAILED" }, took.as_secs_f64());
        self.failed.extend((!passed).then_some(name));
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

    #[test]
    fn a_phase_beside_others_fails_like_one_of_them() {
        let mut phases = Phases::default();
        let (go, gone) = std::sync::mpsc::channel::<()>();

        let beside = Beside::begun("beside", move || Ok(gone.recv()?));
        phases.run("others", || Ok(go.send(())?));
        phases.end(beside);
        let panicking = Beside::begun("torn", || panic!("no curtain"));
        phases.end(panicking);

        assert_eq!(phases.took.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["others", "beside", "torn"]);
        assert_eq!(phases.last("last", || Ok(())).expect_err("one failed").to_string(), "failed: torn");
    }
}
