//! Loading an object's programs, never attaching them, to see that the verifier takes them and what each costs it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

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

/// A program, and what loading it took.
struct Loaded {
    name: String,
    /// Instructions that the verifier walked; `None` where the kernel does not tell (before 5.16).
    verified: Option<u32>,
    time: Duration,
}

/// Loads the programs of `object` and prints each one's verified instruction count, and how long that took.
pub fn print(object: &Path) -> Result<()> {
    let programs = loaded(object)?;
    if programs.is_empty() {
        bail!("{} holds no program", object.display());
    }
    print!("{}", table(&programs));
    Ok(())
}

/// Whether this process may load programs at all.
pub fn may_load() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    held.unwrap_or_default() & (CAP_SYS_ADMIN | CAP_BPF) != 0
}

fn loaded(object: &Path) -> Result<Vec<Loaded>> {
    let bytes = std::fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut all = Ebpf::load(&bytes).with_context(|| format!("cannot load the maps of {}", object.display()))?;
    let mut programs = Vec::new();
    for (name, program) in all.programs_mut() {
        let begun = Instant::now();
        load(program).with_context(|| format!("the kernel refuses the program {name}"))?;
        let facts = program.info().with_context(|| format!("cannot read back the program {name}"))?;
        let (name, verified, time) = (name.to_owned(), facts.verified_instruction_count(), begun.elapsed());
        programs.push(Loaded { name, verified, time });
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
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

fn table(programs: &[Loaded]) -> String {
    const HEAD: [&str; 3] = ["program", "verified instructions", "ms"];
    let width = programs.iter().map(|program| program.name.len()).max().unwrap_or_default().max(HEAD[0].len());
    let row = |[name, count, time]: [&str; 3]| format!("{name:width$}  {count:>0$}  {time:>6}\n", HEAD[1].len());
    let rows = programs.iter().map(|program| {
        let count = program.verified.map_or_else(|| "not told".to_owned(), |n| grouped(n.into()));
        row([&program.name, &count, &milliseconds(program.time)])
    });
    let whole: Duration = programs.iter().map(|program| program.time).sum();
    std::iter::once(row(HEAD)).chain(rows).chain([row(["all", "", &milliseconds(whole)])]).collect()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
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
        let program =
            |name: &str, verified, ms| Loaded { name: name.to_owned(), verified, time: Duration::from_millis(ms) };
        let table = table(&[program("from_container", Some(14_225), 12), program("to", None, 1)]);

        let expected = "program         verified instructions      ms\n\
                        from_container                 14,225    12.0\n\
                        to                           not told     1.0\n\
                        all                                      13.0\n";
        assert_eq!(table, expected);
    }
}
