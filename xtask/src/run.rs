//! `cargo xtask run`: everything built, and the daemon in the foreground on this host.

use std::process::Command;

use anyhow::Result;

use crate::{build_ebpf, command, workspace};

/// Builds, then becomes `netd daemon` with `options`.
pub fn daemon(options: &[String]) -> Result<()> {
    let words: Vec<_> = options.iter().map(|word| command::quoted(word)).collect();
    command::need_root(
        if words.is_empty() { "run".to_owned() } else { format!("run -- {}", words.join(" ")) }.as_str(),
    )?;
    build_ebpf::build(false)?;
    command::show(&mut workspace::cargo(["build", "--release", "-p", "netd"]))?;
    let mut netd = workspace::with_artifacts(Command::new(workspace::netd()));
    command::become_it(netd.arg("daemon").args(options).env_remove("LD_LIBRARY_PATH"))
}
