//! `cargo xtask build-ebpf`: the kernel's programs, as one object in target/bpf.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind,
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

use crate::{command, programs, tools, workspace};

/// Parts of names that only code for panicking has.
const PANICS: [&str; 3] = ["panicking", "rust_begin_unwind", "panic_fmt"];

/// The object is built; its size and, where we may load it, each program's verified instruction count are printed.
pub fn build(log: bool) -> Result<()> {
    let built = compile(log)?;
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    refuse_panics(&bytes)?;
    let bytes = without_debug_sections(&bytes)?;
    let object = workspace::object();
    write_if_changed(&object, &bytes)?;
    let (size, code) = (programs::grouped(bytes.len() as u64), programs::grouped(code_size(&bytes)?));
    println!("{}: {size} bytes, of which {code} are instructions", workspace::short(&object));
    if !programs::may_load() {
        println!("the verified instruction counts need root: run `sudo -E env \"PATH=$PATH\" cargo xtask build-ebpf`");
        return Ok(());
    }
    programs::print(&object)
}

/// The object exists; it is built if it does not.
pub fn ensure_built() -> Result<()> {
    if workspace::object().exists() { Ok(()) } else { build(false) }
}

fn compile(log: bool) -> Result<std::path::PathBuf> {
    let linker = tools::bpf_linker()?;
    tools::rust_src()?;
    let mut cargo = workspace::cargo(["build", "-p", "netd-ebpf", "--profile", "bpf"]);
    cargo.args(["--target", "bpfel-unknown-none", "-Zbuild-std=core", "--target-dir", "target/bpf-build"]);
    if log {
        cargo.args(["--features", "log"]);
    }
    // A stable compiler builds the core library for the kernel's target with this one permission; --btf makes BTF of the
    // debug information; memory is filled and copied by words, not by a function that does it by bytes; v3 instructions (kernel 5.1)
    // compare 32 bits at once; the linker loads rustc's own LLVM, found by the library path.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        "-Cdebuginfo=2\u{1f}-Clink-arg=--btf\u{1f}-Clink-arg=--disable-expand-memcpy-in-order\u{1f}-Ctarget-cpu=v3",
    );
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker);
    cargo.env("LD_LIBRARY_PATH", tools::sysroot()?.join("lib"));
    println!("building the kernel's programs");
    command::show(&mut cargo)?;
    Ok(workspace::target().join("bpf-build/bpfel-unknown-none/bpf/netd-ebpf"))
}

/// A panic cannot unwind in the kernel: the verifier refuses it with a message that says nothing of its place.
fn refuse_panics(object: &[u8]) -> Result<()> {
    let file = object::File::parse(object).context("the object is no ELF file")?;
    let names = file.symbols().filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    let panics: Vec<_> = names.filter(|name| PANICS.iter().any(|part| name.contains(part))).collect();
    if !panics.is_empty() {
        bail!(
            "a reachable panic: the object has {}; look for indexing, division, overflow and unwrap",
            panics.join(", ")
        );
    }
    Ok(())
}

/// The object without what only debuggers read, three quarters of it: the daemon has all of it in its binary, and in memory. The BTF
/// stays, by which maps are made and the verifier names source lines.
fn without_debug_sections(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the object is no ELF file")?;
    for section in &mut builder.sections {
        let name = section.name.to_vec();
        section.delete = [".debug_", ".rel.debug_"].iter().any(|prefix| name.starts_with(prefix.as_bytes()));
    }
    builder.delete_orphans();
    // LLVM has one table for the names of sections and of symbols, the builder one for each.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        (names.name, names.sh_type, names.sh_addralign) = (".shstrtab".into(), SHT_STRTAB, 1);
        names.data = SectionData::SectionString;
    }
    let mut kept = Vec::new();
    builder.write(&mut kept).context("cannot write the object without its debugging sections")?;
    Ok(kept)
}

fn code_size(object: &[u8]) -> Result<u64> {
    let file = object::File::parse(object).context("the object is no ELF file")?;
    Ok(file.sections().filter(|section| section.kind() == SectionKind::Text).map(|section| section.size()).sum())
}

/// Leaves an equal file as it is, so that what depends on it is not built again.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use object::elf::SHT_PROGBITS;

    use super::*;

    #[test]
    fn what_only_debuggers_read_is_not_in_the_object_and_all_else_is() {
        let mut whole = Builder::new(object::Endianness::Little, true);
        for name in ["classifier", ".debug_info", ".BTF", ".BTF.ext"] {
            let section = whole.sections.add();
            (section.name, section.sh_type, section.sh_addralign) = (name.into(), SHT_PROGBITS, 1);
            section.data = SectionData::Data(name.as_bytes().into());
        }
        let names = whole.sections.add();
        (names.name, names.sh_type, names.sh_addralign) = (".strtab".into(), SHT_STRTAB, 1);
        names.data = SectionData::SectionString;
        let mut bytes = Vec::new();
        whole.write(&mut bytes).unwrap();

        let kept = without_debug_sections(&bytes).unwrap();

        let file = object::File::parse(&*kept).unwrap();
        let text = |name: &str| file.section_by_name(name).map(|section| section.data().unwrap().to_vec());
        for name in ["classifier", ".BTF", ".BTF.ext"] {
            assert_eq!(text(name).as_deref(), Some(name.as_bytes()));
        }
        assert_eq!(text(".debug_info"), None);
    }
}
