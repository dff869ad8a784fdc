//! The script that a guest runs: first what every guest needs, then its work.

use std::path::PathBuf;

use crate::{command::quoted, workspace};

/// Processors of a guest, on each of which a test runs: most of its time the kernel verifies programs, which one alone does.
pub const CPUS: usize = 2;

/// What a guest is booted for.
pub enum Work {
    /// A command of the user's.
    Command(Vec<String>),
    /// Loading the kernel's programs, and running the suites' core cases, with those that take what only a guest's kernel has.
    Load {
        /// This program.
        xtask: PathBuf,
        /// The suites.
        suites: Vec<Suite>,
    },
}

/// A suite of which a guest runs some cases.
pub struct Suite {
    /// Its test binary.
    pub binary: PathBuf,
    /// What the names of the cases contain.
    pub cases: &'static str,
}

/// The script for `work`, which ends with the work's exit code.
pub fn script(work: &Work) -> String {
    let path = |path: &PathBuf| quoted(&path.display().to_string());
    let mut script = include_str!("guest.sh").to_owned();
    for (name, value) in [("NETD_BIN", workspace::netd()), ("NETD_BPF_OBJECT", workspace::object())] {
        script += &format!("export {name}={}\n", path(&value));
    }
    match work {
        Work::Command(words) => script += &words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        Work::Load { xtask, suites } => {
            script += &format!("{} programs {} || exit\n", path(xtask), path(&workspace::object()));
            // Every suite runs, whatever fails.
            script += "status=0\n";
            script += &suites
                .iter()
                .map(|Suite { binary, cases }| {
                    format!("{} {cases} --include-ignored --test-threads={CPUS} || status=$?\n", path(binary))
                })
                .collect::<String>();
            script += "exit $status";
        }
    }
    script + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_command_reach_the_guest_as_they_are() {
        let script = script(&Work::Command(vec!["echo".to_owned(), "two  words; exit 1".to_owned()]));

        assert!(script.ends_with("\necho 'two  words; exit 1'\n"), "{script}");
    }

    fn suite(binary: &str, cases: &'static str) -> Suite {
        Suite { binary: binary.into(), cases }
    }

    #[test]
    fn the_suites_run_after_the_programs_were_loaded_and_the_guest_fails_if_one_does() {
        let script = script(&Work::Load {
            xtask: "/x/xtask".into(),
            suites: vec![suite("/x/lab", "core"), suite("/x/cluster", "a b")],
        });

        let of = |suite: &str| script.find(&format!("{suite} --include-ignored --test-threads={CPUS} || status=$?\n"));
        let (programs, lab, cluster) = (script.find("/x/xtask programs"), of("/x/lab core"), of("/x/cluster a b"));
        assert!(programs.is_some() && programs < lab && lab < cluster, "{script}");
        assert!(script.ends_with("\nexit $status\n"), "{script}");
    }
}
