//! Debian packages that tests need: which are missing, and their installation. For versions that the machine's own
//! suites do not have, see [`crate::archive`].

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::command;

/// Whether this is Debian itself, with its package tools.
pub fn is_debian() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian") && Path::new("/usr/bin/apt-get").exists()
}

/// Those of `packages` that are not there are installed; each one is named.
pub fn ensure_packages(packages: &[&str]) -> Result<()> {
    if !is_debian() {
        println!(
            "this is not Debian: nothing is installed, expecting what these packages hold: {}",
            packages.join(" ")
        );
        return Ok(());
    }
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        println!("installing Debian package {package}");
    }
    command::quiet(Command::new("apt-get").args(["update"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command::quiet(&mut install).with_context(|| format!("cannot install {}", missing.join(" ")))
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"]);
    let installed = installed(&command::text(&mut query)?);
    Ok(packages.iter().copied().filter(|package| !installed.contains(*package)).collect())
}

fn installed(listing: &str) -> BTreeSet<String> {
    listing.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_whose_files_are_gone_is_missing() {
        let listing = "installed curl\nconfig-files tcpdump\nnot-installed kmod\n";

        assert_eq!(installed(listing), BTreeSet::from(["curl".to_owned()]));
    }
}
