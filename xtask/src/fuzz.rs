//! `cargo xtask fuzz`: the fuzz targets of `tests/tests/fuzz`, for longer than the tests run them. What fails is printed,
//! shrunk, with the seed that repeats it; kept as a file in `tests/tests/fuzz/__fuzz__/TARGET/crashes`, it is played first from
//! then on.

use std::time::Duration;

use anyhow::Result;

use crate::{command, workspace};

/// Options of the subcommand.
#[derive(clap::Args)]
pub struct Options {
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Only this one
    target: Option<Target>,
}

/// A fuzz target, by the name of its test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Target {
    /// One packet of any bytes at any hook
    Parser,
    /// Any schedule of packets, waiting and loss
    Sequences,
}

impl Target {
    const ALL: [Self; 2] = [Self::Parser, Self::Sequences];

    const fn name(self) -> &'static str {
        match self {
            Self::Parser => "parser",
            Self::Sequences => "sequences",
        }
    }
}

/// Runs the targets one after the other until the first that fails.
pub fn run(options: &Options) -> Result<()> {
    let time = Duration::from_secs(u64::from(options.seconds)).as_millis().to_string();
    for target in Target::ALL.into_iter().filter(|target| options.target.is_none_or(|only| only == *target)) {
        let mut cargo = workspace::cargo(["test", "-p", "netd-tests", "--test", "fuzz", "--", "--exact"]);
        cargo.arg(target.name()).env("BOLERO_RANDOM_TEST_TIME_MS", &time);
        command::show(&mut cargo)?;
    }
    Ok(())
}
