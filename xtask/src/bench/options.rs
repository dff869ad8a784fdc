//! What a run of the bench is asked for.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::{ValueEnum, builder::PossibleValue};

use super::{
    QUICK, TIME,
    load::Load,
    report::Manner,
    site::{Contender, Path},
};
use crate::workspace;

/// Of the time that turns take, what may be spent on taking some again while the machine runs slow.
const SPARE: f64 = 0.5;
/// And where it is to be quick.
const QUICK_SPARE: f64 = 0.08;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// Loads on a path.
    Path(Path),
    /// Packet rates and TCP with many flows and published ports, and the memory that they take.
    Scale,
    /// What commands take.
    Control,
}

impl Subject {
    const ALL: [Self; 9] = [
        Self::Path(Path::ContainerToContainer),
        Self::Path(Path::Masquerade),
        Self::Path(Path::Published),
        Self::Path(Path::Host),
        Self::Path(Path::Loopback),
        Self::Path(Path::Hairpin),
        Self::Path(Path::Overlay),
        Self::Scale,
        Self::Control,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Path(path) => path.name(),
            Self::Scale => "scale",
            Self::Control => "control",
        }
    }
}

impl ValueEnum for Subject {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Path(path) => path.to_possible_value(),
            Self::Scale => {
                Some(PossibleValue::new(self.name()).help("Packet rates and TCP with many flows and published ports"))
            }
            Self::Control => Some(PossibleValue::new(self.name()).help("What commands take, and the daemon's memory")),
        }
    }
}

/// Options of the subcommand.
#[derive(clap::Args)]
pub struct Options {
    /// Under three minutes: fewer and shorter rounds
    #[arg(long)]
    pub quick: bool,
    /// Rounds that count, after one that does not
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// Only this path, or what no path gives; may be given again
    #[arg(long, value_name = "SUBJECT")]
    only: Vec<Subject>,
    /// Only this contender; may be given again
    #[arg(long, value_name = "NAME")]
    contender: Vec<Contender>,
    /// Only this load; may be given again
    #[arg(long, value_name = "LOAD")]
    load: Vec<Load>,
    /// Have perf tell where the time goes; a run of everything that is not quick does so where netd misses a target
    #[arg(long)]
    pub profile: bool,
    /// Docker's engine too, from Debian's packages, in a root of its own
    #[arg(long)]
    engines: bool,
    /// Only what the packet code costs by itself, in memory and loaded, a path at a time, and a million flows beside a thousand
    #[arg(long, conflicts_with_all = ["quick", "rounds", "only", "contender", "load", "profile"])]
    pub programs: bool,
    /// With `--programs`: only the loaded programs, packet by packet beside those of this object, of another state of the project
    #[arg(long, value_name = "OBJECT", requires = "programs")]
    pub against: Option<PathBuf>,
}

impl Options {
    /// The paths that are measured.
    pub fn paths(&self) -> Vec<Path> {
        Path::ALL.into_iter().filter(|path| self.measures(Subject::Path(*path))).collect()
    }

    /// Whether it is measured.
    pub fn measures(&self, subject: Subject) -> bool {
        // Those who take part in these are given, and so are their loads.
        let is_of_picked = matches!(subject, Subject::Path(_)) || (self.contender.is_empty() && self.load.is_empty());
        if self.only.is_empty() { is_of_picked } else { self.only.contains(&subject) }
    }

    /// An error where what is picked does not go together.
    pub fn check(&self) -> Result<()> {
        let is_path = |subject: &Subject| matches!(subject, Subject::Path(_));
        let without_a_path = self.only.iter().find(|subject| !is_path(subject));
        if let Some(subject) = without_a_path.filter(|_| !self.contender.is_empty() || !self.load.is_empty()) {
            bail!("{} has its own contenders and loads: leave out --contender and --load", subject.name());
        }
        Ok(())
    }

    /// The contenders that are measured.
    pub fn contenders(&self) -> Vec<Contender> {
        let chosen = |contender: &Contender| match contender {
            Contender::Docker if !self.engines => false,
            _ => self.contender.is_empty() || self.contender.contains(contender),
        };
        Contender::ALL.into_iter().filter(chosen).collect()
    }

    /// The loads that are measured.
    pub fn loads(&self) -> Vec<Load> {
        Load::ALL.into_iter().filter(|load| self.load.is_empty() || self.load.contains(load)).collect()
    }

    /// Rounds that count.
    pub fn rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 2 } else { 28 }, usize::from)
    }

    /// How long each load takes in a round.
    pub const fn time(&self) -> Duration {
        if self.quick { QUICK } else { TIME }
    }

    /// How much longer it may be while the machine runs slow, a share of the time that turns take.
    pub const fn spare(&self) -> f64 {
        if self.quick { QUICK_SPARE } else { SPARE }
    }

    /// Whether everything is measured that targets are about, and not only what was picked.
    pub fn everything(&self) -> bool {
        self.only.is_empty() && self.contender.is_empty() && self.load.is_empty()
    }

    /// Whether perf tells where the time goes: of what was missed, or of all that was picked for it.
    pub fn profiles(&self) -> bool {
        self.profile || self.is_whole()
    }

    fn is_whole(&self) -> bool {
        !self.quick && self.everything()
    }

    /// Results that are kept with the project are those of whole runs.
    pub fn directory(&self) -> PathBuf {
        if self.is_whole() { workspace::root().join("bench") } else { workspace::target().join("bench") }
    }

    /// How the run is made, for its document.
    pub fn manner(&self) -> Manner {
        let mut command = "cargo xtask bench".to_owned();
        command += if self.quick { " --quick" } else { "" };
        command += if self.profile { " --profile" } else { "" };
        command += if self.engines { " --engines" } else { "" };
        command.extend(self.rounds.map(|rounds| format!(" --rounds {rounds}")));
        command.extend(self.only.iter().map(|subject| format!(" --only {}", subject.name())));
        command.extend(self.contender.iter().map(|contender| format!(" --contender {}", contender.name())));
        command.extend(self.load.iter().map(|load| format!(" --load {}", load.name().replace(' ', "-"))));
        Manner { command, rounds: self.rounds(), seconds: self.time().as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn options(line: &str) -> Options {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }

        // The first two words are the program and the project's name for what it does.
        Line::try_parse_from(line.split(' ').skip(2)).expect("the line is taken").options
    }

    #[test]
    fn only_whole_runs_are_kept_with_the_project() {
        let is_kept = |line: &str| !options(line).directory().starts_with(workspace::target());

        assert!(is_kept("cargo xtask bench") && is_kept("cargo xtask bench --engines --rounds 11"));
        for part in ["--quick", "--only published", "--contender netd", "--load stream"] {
            assert!(!is_kept(&format!("cargo xtask bench {part}")), "{part}");
        }
    }

    #[test]
    fn what_no_path_gives_is_measured_with_everything_and_by_itself() {
        let measures = |line: &str| [Subject::Scale, Subject::Control].map(|subject| options(line).measures(subject));

        assert_eq!(measures("cargo xtask bench --quick"), [true, true]);
        assert_eq!(measures("cargo xtask bench --only scale"), [true, false]);
        assert_eq!(measures("cargo xtask bench --only host"), [false, false]);
        assert_eq!(measures("cargo xtask bench --load stream"), [false, false]);
        assert_eq!(options("cargo xtask bench --only scale --only host").paths(), [Path::Host]);
        assert!(options("cargo xtask bench --only scale --only host --engines").check().is_ok());
        let refused = options("cargo xtask bench --only control --contender cni").check().map_err(|e| e.to_string());
        assert_eq!(refused, Err("control has its own contenders and loads: leave out --contender and --load".into()));
        assert!(Path::ALL.into_iter().all(|path| Subject::ALL.contains(&Subject::Path(path))));
    }

    #[test]
    fn what_is_missed_in_a_whole_run_is_profiled_and_what_is_asked_for() {
        let profiles = |line| options(line).profiles();

        assert!(profiles("cargo xtask bench") && profiles("cargo xtask bench --quick --profile"));
        assert!(!profiles("cargo xtask bench --quick") && !profiles("cargo xtask bench --only host"));
    }

    #[test]
    fn what_is_measured_can_be_repeated_from_what_is_written() {
        let line = "cargo xtask bench --quick --profile --engines --rounds 5 --only published --contender cni --load round-trips";

        let manner = options(line).manner();

        assert_eq!(manner.command, line);
        assert_eq!((manner.rounds, manner.seconds), (5, 0.15));
        assert_eq!(options("cargo xtask bench").time(), TIME);
    }
}
