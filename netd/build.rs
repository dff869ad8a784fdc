//! Tells the daemon where its eBPF object is, so that the compiler can put it into the binary.
//!
//! Without one, an empty file stands in: `cargo check` and editors work without the eBPF toolchain, and the daemon says at
//! its start what is missing.

use std::{env, error::Error, fs, path::PathBuf};

const VARIABLE: &str = "NETD_BPF_OBJECT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let built = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../target/bpf");
    let object = env::var_os(VARIABLE).map_or_else(|| built.join("netd-ebpf.o"), PathBuf::from);
    if object.is_file() {
        println!("cargo::rerun-if-changed={}", object.display());
        println!("cargo::rustc-env={VARIABLE}={}", fs::canonicalize(&object)?.display());
        return Ok(());
    }

    // Cargo runs a script at every build while a file it names is missing: the directory is watched in its stead.
    if let Some(directory) = object.parent()
        && fs::create_dir_all(directory).is_ok()
    {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
    let placeholder = PathBuf::from(env::var("OUT_DIR")?).join("no-object");
    fs::write(&placeholder, [])?;
    println!("cargo::rustc-env={VARIABLE}={}", placeholder.display());
    Ok(())
}
