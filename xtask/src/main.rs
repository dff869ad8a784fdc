//! `cargo xtask`: every task of the project, one file a subcommand. What CI runs is what a user runs.

mod archive;
mod bench;
mod build_ebpf;
mod command;
mod debian;
mod demo;
mod fuzz;
mod lint;
mod mutate;
mod programs;
mod root;
mod run;
mod stage;
mod test;
mod tools;
mod vm;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Every task of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel's programs into target/bpf, and say how large they are
    BuildEbpf {
        /// With decision logs from inside the kernel (costs some 2,000 verified instructions a line)
        #[arg(long)]
        log: bool,
    },
    /// Build everything and run the daemon in the foreground on this host
    Run {
        /// Options of `netd daemon`
        #[arg(last = true, value_name = "OPTION")]
        options: Vec<String>,
    },
    /// See netd at work in ten seconds, on a private host made of namespaces
    Demo,
    /// Measure netd beside the limit and its peers, all in one run on private hosts
    Bench(bench::Options),
    /// The part of the bench that is a process of its own
    #[command(hide = true)]
    BenchClient(bench::client::Options),
    /// Build and test everything, installing what that needs
    Test(test::Options),
    /// Load the programs and run the Lab's core cases under another kernel, in a virtual machine
    Vm(vm::Options),
    /// Check formatting, clippy, the arrows between modules, and the house rules for files
    Lint,
    /// Fuzz the parser and sequences of packets
    Fuzz(fuzz::Options),
    /// Put faults into a copy of the packet code, one at a time: the fast tests must notice each
    Mutate(mutate::Options),
    /// Load an object's programs and print each one's verified instruction count
    #[command(hide = true)]
    Programs {
        /// The object; that of build-ebpf if absent
        object: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run_task(Arguments::parse().task) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The exit code: that of the guest for a virtual machine, else 0.
fn run_task(task: Task) -> anyhow::Result<u8> {
    match task {
        Task::BuildEbpf { log } => build_ebpf::build(log)?,
        Task::Run { options } => run::daemon(&options)?,
        Task::Demo => return demo::run(),
        Task::Bench(options) => bench::run(&options)?,
        Task::BenchClient(options) => bench::client::run(&options)?,
        Task::Test(options) => test::everything(&options)?,
        Task::Vm(options) => return vm::boot(&options),
        Task::Lint => lint::everything()?,
        Task::Fuzz(options) => fuzz::run(&options)?,
        Task::Mutate(options) => mutate::run(&options)?,
        Task::Programs { object } => programs::print(&object.unwrap_or_else(workspace::object))?,
    }
    Ok(0)
}
