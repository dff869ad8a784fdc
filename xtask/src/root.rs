//! Roots of Debian's packages programs that want the whole machine, as engines and firewalls do, see one of
//! these in place of the machine's own.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{
    archive::{self, mirror},
    command, debian, workspace,
};

/// A mirror that stands still has lists whose date is past; their signatures count all the same.
const MIRRORS_MAY_BE_OLD: &str = "--aptopt=Acquire::Check-Valid-Until \"false\"";
/// Packages of the root in which the tests' firewalls run: ufw, and firewalld with its bus.
const FIREWALLS: &str = "dbus,firewalld,iptables,nftables,procps,ufw";

/// The root of the tests' firewalls. Made when it is not there.
pub fn firewalls() -> Result<()> {
    make(&workspace::firewalls(), "bookworm", FIREWALLS)
}

/// There is a root at `root`, with the essential packages of a suite and those in `packages`, separated by commas.
pub fn make(root: &Path, suite: &str, packages: &str) -> Result<()> {
    let made = root.with_extension("made");
    if made.exists() {
        return Ok(());
    }
    debian::ensure_packages(&["mmdebstrap"])?;
    println!("making a root with {packages} from Debian's {suite} in {} (a minute)", workspace::short(root));
    archive::ensure_empty(root)?;
    command::quiet(
        Command::new("mmdebstrap")
            .args([
                "--variant=minbase",
                "--mode=root",
                "--aptopt=APT::Install-Recommends \"false\"",
                MIRRORS_MAY_BE_OLD,
            ])
            // What a crash would leave half-written is made anew.
            .arg("--dpkgopt=force-unsafe-io")
            .arg(format!("--include={packages}"))
            .args([suite.as_ref(), root.as_os_str(), mirror()?.as_ref()]),
    )?;
    fs::write(&made, "").context("cannot note that the root is whole")
}
