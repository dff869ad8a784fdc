//! Loading an object's programs, never attaching them, to see that the verifier takes them and what each costs it.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};

/// Lines of the verifier's log that are shown: it tells of every instruction it walked, and of the refusal at the end.
const TAIL: usize = 40;

/// Bits of `CapEff` either of which allows loading programs.
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_BPF: u64 = 1 << 39;

/// Loads the programs of `object` and prints each one's verified instruction count.
pub fn print(object: &Path) -> Result<()> {
    let counts = verified(object)?;
    if counts.is_empty() {
        bail!("{} holds no program", object.display());
    }
    print!("{}", table(&counts));
    Ok(())
}

/// Whether this process may load programs at all.
pub fn may_load() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    held.unwrap_or_default() & (CAP_SYS_ADMIN | CAP_BPF) != 0
}

/// Names of the programs with their counts; `None` where the kernel does not tell (before 5.16).
fn verified(object: &Path) -> Result<Vec<(String, Option<u32>)>> {
    let bytes = std::fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut loaded = Ebpf::load(&bytes).with_context(|| format!("cannot load the maps of {}", object.display()))?;
    let mut counts = Vec::new();
    for (name, program) in loaded.programs_mut() {
        load(program).with_context(|| format!("the kernel refuses the program {name}"))?;
        let facts = program.info().with_context(|| format!("cannot read back the program {name}"))?;
        counts.push((name.to_owned(), facts.verified_instruction_count()));
    }
    counts.sort();
    Ok(counts)
}

fn load(program: &mut Program) -> Result<()> {
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        other => bail!("nothing here loads programs of the type {:?}", other.prog_type()),
    };
    loaded.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            anyhow!("{io_error}\n{}", tail(&verifier_log.to_string()))
        }
        other => other.into(),
    })
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

fn table(counts: &[(String, Option<u32>)]) -> String {
    const HEAD: (&str, &str) = ("program", "verified instructions");
    let width = counts.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max(HEAD.0.len());
    let row = |name: &str, count: &str| format!("{name:width$}  {count:>0$}\n", HEAD.1.len());
    let counted = |count: &Option<u32>| count.map_or_else(|| "not told".to_owned(), |n| grouped(n.into()));
    let rows = counts.iter().map(|(name, count)| row(name, &counted(count)));
    std::iter::once(row(HEAD.0, HEAD.1)).chain(rows).collect()
}

/// `number` with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let comma = |at: usize| at > 0 && (digits.len() - at).is_multiple_of(3);
    digits.char_indices().flat_map(|(at, digit)| comma(at).then_some(',').into_iter().chain([digit])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn names_and_counts_are_aligned() {
        let table = table(&[("from_container".to_owned(), Some(14_225)), ("to".to_owned(), None)]);

        let expected = "program         verified instructions\n\
                        from_container                 14,225\n\
                        to                           not told\n";
        assert_eq!(table, expected);
    }
}
