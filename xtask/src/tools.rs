//! What building and testing need beyond cargo, fetched when it is missing: bpf-linker, rust-src, virtiofsd, virtme-ng.
//! Everything goes into `target/tools`, but for rust-src, which rustc looks for in its own sysroot.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    archive::{self, Archive},
    command, debian, workspace,
};

/// The last that loads rustc's own LLVM at run time; later ones want LLVM's development files.
const BPF_LINKER: &str = "0.10.4";
const VIRTIOFSD: &str = "1.14.0";
const VIRTME_NG: &str = "1.42";

/// The linker for the kernel's programs, there and of the right version.
pub fn bpf_linker() -> Result<PathBuf> {
    cargo_tool("bpf-linker", BPF_LINKER)
}

/// The daemon that shows a directory to a virtual machine. Distributions' own are often the C one, which virtme-ng
/// refuses, or too new for the C library.
pub fn virtiofsd() -> Result<PathBuf> {
    cargo_tool("virtiofsd", VIRTIOFSD)
}

/// A command that starts a kernel in a virtual machine on the host's own files.
pub fn virtme_ng() -> Result<Command> {
    let python = workspace::tools().join("python");
    if !python.join(format!("virtme_ng-{VIRTME_NG}.dist-info")).exists() {
        println!("installing virtme-ng {VIRTME_NG} into {}", workspace::short(&python));
        archive::ensure_empty(&python)?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target"]).arg(&python);
        command::quiet(pip.arg(format!("virtme-ng=={VIRTME_NG}")))?;
    }
    let daemon = virtiofsd()?;
    let mut path = python.join("bin").into_os_string();
    for directory in [daemon.parent(), std::env::var_os("PATH").as_deref().map(Path::new)].into_iter().flatten() {
        path.push(":");
        path.push(directory);
    }
    let mut vng = Command::new(python.join("bin/vng"));
    // Cargo's library path leads to rustc's libraries, which are none of qemu's business.
    vng.env("PYTHONPATH", &python).env("PATH", path).env_remove("LD_LIBRARY_PATH");
    Ok(vng)
}

/// The compiler's own directory.
pub fn sysroot() -> Result<PathBuf> {
    let sysroot = command::text(Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace::root()))?;
    Ok(PathBuf::from(sysroot.trim_end()))
}

/// The sources of the core library, which the kernel's target is built from, are where rustc looks for them.
pub fn rust_src() -> Result<()> {
    rust_src_in(&sysroot()?.join("lib/rustlib/src/rust/library"))
}

fn rust_src_in(library: &Path) -> Result<()> {
    if library.join("core/src/lib.rs").exists() {
        return Ok(());
    }
    let version = rustc_version()?;
    if debian::is_debian() && rust_src_from_debian(&version, library)? {
        return Ok(());
    }
    if command::succeeds(Command::new("rustup").arg("--version")) {
        println!("installing rust-src {version} by `rustup component add rust-src`");
        return command::quiet(
            Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(workspace::root()),
        );
    }
    bail!("the sources of Rust's core library are missing: install rust-src {version}, that of this rustc exactly")
}

/// Whether Debian has the sources of exactly `version` and they are in `library`.
fn rust_src_from_debian(version: &str, library: &Path) -> Result<bool> {
    let archive = Archive::open()?;
    let of_this_rustc = |package: &archive::Package| upstream(&package.version) == version;
    let Some(package) = archive.versions("rust-src")?.into_iter().find(of_this_rustc) else { return Ok(false) };
    println!("installing rust-src {} from Debian's package into rustc's sysroot", package.version);
    let unpacked = workspace::target().join("apt/rust-src");
    archive::ensure_empty(&unpacked)?;
    archive.unpack(&package, &unpacked)?;
    let parent = library.parent().ok_or_else(|| anyhow!("{} has no parent", library.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let source = unpacked.join(format!("usr/src/rustc-{version}/library"));
    command::quiet(Command::new("cp").arg("-r").arg(source).arg(library))?;
    fs::remove_dir_all(unpacked)?;
    Ok(true)
}

/// Debian's version without the revision and what was repackaged: `1.95.0+dfsg1-2~bpo13+1` is `1.95.0`.
fn upstream(version: &str) -> &str {
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

fn rustc_version() -> Result<String> {
    let text = command::text(Command::new("rustc").arg("--version").current_dir(workspace::root()))?;
    let version = text.split_whitespace().nth(1).ok_or_else(|| anyhow!("`rustc --version` says {text:?}"))?;
    Ok(version.to_owned())
}

fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let tools = workspace::tools();
    let binary = tools.join("bin").join(name);
    let says = command::text(Command::new(&binary).arg("--version")).unwrap_or_default();
    if says.split_whitespace().last() == Some(version) {
        return Ok(binary);
    }
    println!("installing {name} {version} into {} (about a minute)", workspace::short(&tools));
    let mut install = workspace::cargo(["install", name, "--version", version, "--locked", "--root"]);
    // Outside the workspace, so that neither its lock file nor its settings count.
    command::quiet(install.arg(&tools).current_dir("/"))?;
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debian_version_names_the_rust_release_it_packages() {
        for version in ["1.95.0+dfsg1-2~bpo13+1", "1.95.0-1", "1.95.0"] {
            assert_eq!(upstream(version), "1.95.0");
        }
    }
}
