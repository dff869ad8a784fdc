//! `cargo xtask vm`: another kernel, in a virtual machine without hardware virtualization, on this host's own files.
//!
//! The guest sees the host's root read-only, with overlays in its memory where it may write; nothing that it does reaches
//! the host but its output and its exit code.

mod guest;
mod kernel;
mod machine;

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, anyhow, bail};

use crate::{build_ebpf, command, debian, tools, workspace};

/// What virtual machines need: qemu, modprobe and depmod, the guest's device names, what virtiofsd is built with, and what the
/// guest's cases call.
const PACKAGES: [&str; 13] = [
    "bind9-dnsutils",
    "busybox-static",
    "ca-certificates",
    "etcd-server",
    "gcc",
    "kmod",
    "libcap-ng-dev",
    "libseccomp-dev",
    "python3-pip",
    "qemu-system-x86",
    "tcpdump",
    "udev",
    "wireguard-tools",
];

/// Options of the subcommand.
#[derive(clap::Args)]
pub struct Options {
    /// Series of the kernel, such as 6.1, 6.12 or 7: the newest of Debian's cloud kernels is taken
    #[arg(long, value_name = "SERIES")]
    kernel: String,
    /// Only load the programs, without the Lab
    #[arg(long)]
    load_only: bool,
    /// Seconds after which the virtual machine is ended, and has failed
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    timeout: u64,
    /// Run this in the guest, as root
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Options {
    /// Loading every program and the Lab's core cases.
    pub fn smoke(series: &str) -> Self {
        Self { kernel: series.to_owned(), load_only: false, timeout: 1800, command: Vec::new() }
    }
}

/// Debian packages that virtual machines need are installed.
pub fn ensure_requirements() -> Result<()> {
    debian::ensure_packages(&PACKAGES)
}

/// Boots the kernel and fails unless what ran in the guest ended with 0.
pub fn pass(options: &Options) -> Result<()> {
    match boot(options)? {
        0 => Ok(()),
        status => bail!("under kernel {}, the guest ended with exit code {status}", options.kernel),
    }
}

/// Boots the kernel; the exit code of what ran in the guest.
pub fn boot(options: &Options) -> Result<u8> {
    command::need_root(&format!("vm --kernel {}", options.kernel))?;
    ensure_requirements()?;
    let vng = tools::virtme_ng()?;
    let kernel = kernel::newest(&options.kernel)?;
    let (work, complaint) = work(options)?;
    let script = workspace::target().join("vm/guest.sh");
    std::fs::write(&script, guest::script(&work)).with_context(|| format!("cannot write {}", script.display()))?;

    println!("booting {} (software emulation)", workspace::short(&kernel));
    let mut machine = vng;
    machine.arg("--run").arg(&kernel).args(["--disable-kvm", "--cpus", &guest::CPUS.to_string(), "--memory", "2G"]);
    // Two cards with a driver of their own (virtio-net), joined by a hub: a wire that is not a veth pair.
    machine.args(["--network", "loop"]);
    // Wherever the checkout is, also below a directory that the guest has an empty one of its own for.
    machine.arg(format!("--rodir={}", workspace::root().display()));
    machine.args(["--", "sh"]).arg(&script).current_dir(workspace::root());
    let status = machine::run(&mut machine, Duration::from_secs(options.timeout))?;
    let status = u8::try_from(status).unwrap_or(u8::MAX);
    complaint.filter(|_| status == 0).map_or(Ok(status), |complaint| Err(anyhow!(complaint)))
}

/// What the guest shall do, and what of it is missing: said after the rest has run.
fn work(options: &Options) -> Result<(guest::Work, Option<&'static str>)> {
    if !options.command.is_empty() {
        return Ok((guest::Work::Command(options.command.clone()), None));
    }
    build_ebpf::ensure_built()?;
    let xtask = std::env::current_exe().context("cannot find this program's own file")?;
    if options.load_only {
        return Ok((guest::Work::Load { xtask, suites: Vec::new() }, None));
    }
    command::show(&mut workspace::cargo(["build", "--release", "-p", "netd"]))?;
    let suites = suites()?;
    let complaint = suites.is_empty().then_some(
        "THE LAB DID NOT RUN in the guest: netd-tests has no test target `lab`; --load-only says that this is meant",
    );
    Ok((guest::Work::Load { xtask, suites }, complaint))
}

/// Suites of which a guest runs some cases, and what the names of these contain: one host, several, and netd's own where it takes
/// what only a guest's kernel has.
const SUITES: [(&str, &str); 3] = [
    ("lab", "core cards:: endpoint_attach::containers_of fwmark sctp:: wireguard"),
    ("cluster", "core cards:: between_hosts_is_encrypted"),
    ("netd", "link::xfrm"),
];

/// They, built, with at least one case that each of these words is for; none if there is no such target.
fn suites() -> Result<Vec<guest::Suite>> {
    if !has_lab(&command::text(&mut workspace::cargo(["metadata", "--no-deps", "--format-version=1"]))?)? {
        return Ok(Vec::new());
    }
    println!("building the Lab");
    let mut cargo = workspace::with_artifacts(workspace::cargo(["test", "-p", "netd-tests", "-p", "netd"]));
    cargo.args(["--test", "lab", "--test", "cluster", "--bin", "netd"]);
    let messages = command::text_showing_errors(cargo.args(["--no-run", "--message-format=json-render-diagnostics"]))?;
    SUITES.iter().map(|(suite, cases)| with_cases(&messages, suite, cases)).collect()
}

fn with_cases(messages: &str, suite: &str, cases: &'static str) -> Result<guest::Suite> {
    let binary =
        executable(messages, suite).ok_or_else(|| anyhow!("cargo does not say where it put the test `{suite}`"))?;
    for word in cases.split(' ') {
        let found = command::text(Command::new(&binary).args([word, "--list"]))?;
        if !found.lines().any(|line| line.ends_with(": test")) {
            bail!("the test `{suite}` has no case with `{word}` in its name");
        }
    }
    Ok(guest::Suite { binary: binary.into(), cases })
}

fn has_lab(metadata: &str) -> Result<bool> {
    let metadata: serde_json::Value = serde_json::from_str(metadata).context("cannot read cargo's metadata")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut targets =
        packages.filter(|package| package["name"] == "netd-tests").flat_map(|package| package["targets"].as_array());
    Ok(targets.any(|targets| targets.iter().any(|target| target["name"] == "lab" && target["kind"][0] == "test")))
}

/// The file of a suite's test, from cargo's messages, one JSON object a line.
fn executable(messages: &str, suite: &str) -> Option<String> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let is_it = |message: &serde_json::Value| message["target"]["name"] == suite && message["profile"]["test"] == true;
    let mut files = messages.filter(is_it).filter_map(|message| {
        let file = message["executable"].as_str()?;
        Some(file.to_owned())
    });
    files.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_binary_is_read_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"lab"},"profile":{"test":false},"executable":"/x/lab"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"lab"},"profile":{"test":true},"executable":"/x/lab-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n"
        );

        assert_eq!(executable(messages, "lab").as_deref(), Some("/x/lab-1"));
        assert_eq!(executable(messages, "cluster"), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":false}"#, "lab"), None);
    }

    #[test]
    fn a_crate_of_tests_without_a_lab_is_told_from_one_with() {
        let with = r#"{"packages":[{"name":"netd-tests","targets":[{"name":"netd_tests","kind":["lib"]},{"name":"lab","kind":["test"]}]}]}"#;
        let without = r#"{"packages":[{"name":"netd-tests","targets":[{"name":"lab","kind":["lib"]}]}]}"#;

        assert!(has_lab(with).expect("it is JSON"));
        assert!(!has_lab(without).expect("it is JSON"));
    }
}
