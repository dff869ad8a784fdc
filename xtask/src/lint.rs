//! `cargo xtask lint`: formatting, clippy, the arrows between modules and the house rules for files.

mod arrows;
mod files;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{build_ebpf, command, workspace};

/// Something against a rule, at a line of a file.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

/// Checks everything; what is found is printed, each at its place.
pub fn everything() -> Result<()> {
    let mut failed = Vec::new();
    let mut check = |name: &'static str, result: Result<()>| {
        if let Err(error) = result {
            println!("{error:#}");
            failed.push(name);
        }
    };
    check("fmt", command::show(&mut workspace::cargo(["fmt", "--all", "--check"])));
    check("clippy", clippy());
    check("files", house_rules());
    if !failed.is_empty() {
        bail!("lint: {} failed", failed.join(", "));
    }
    println!("lint: nothing found");
    Ok(())
}

/// Without the kernel's programs, which only their own target compiles.
fn clippy() -> Result<()> {
    build_ebpf::ensure_built()?;
    let cargo = workspace::cargo(["clippy", "--quiet", "--workspace", "--exclude", "netd-ebpf", "--all-targets"]);
    command::show(workspace::with_artifacts(cargo).args(["--", "-D", "warnings"]))
}

fn house_rules() -> Result<()> {
    let root = workspace::root();
    let private = files::private_paths(&root, std::env::var("HOME").ok().as_deref());
    let mut findings = Vec::new();
    for_each_file(&root, &mut |path, text| {
        let name = path.strip_prefix(&root).unwrap_or(path).to_string_lossy();
        findings.extend(files::findings(&name, text, &private));
        findings.extend(arrows::findings(&name, text));
    })?;
    findings.sort();
    for Finding { path, line, what } in &findings {
        println!("{path}:{line}: {what}");
    }
    if !findings.is_empty() {
        bail!("{} against the house rules", findings.len());
    }
    Ok(())
}

/// Calls `each` with every text file below `directory`, what is built or belongs to git aside.
fn for_each_file(directory: &Path, each: &mut impl FnMut(&Path, &str)) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name == "target" || name == ".git" || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            for_each_file(&path, each)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            each(&path, &text);
        }
    }
    Ok(())
}
