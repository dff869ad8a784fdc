//! The command line: reads words, asks the daemon, prints. Decides nothing that another door would have to know.

mod alone;
mod args;
mod cluster;
mod compose;
mod daemon;
mod doctor;
mod drops;
mod endpoint;
mod events;
mod exposure;
mod filters;
mod flows;
mod host;
mod job;
mod manual;
mod names;
mod network;
mod node;
mod out;
mod run;
mod sandbox;
mod start;
mod status;
mod supervise;
mod table;
mod uninstall;

use std::{future::Future, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use nix::sys::signal::{SigHandler, Signal, signal};

use self::args::{Cli, Command};
use crate::{api::Client, model::Name};

/// Where the store is, unless told otherwise.
const STATE_DIR: &str = "/var/lib/netd";

/// Where the socket is, unless told otherwise.
const RUN_DIR: &str = "/run/netd";

/// Where maps are pinned, unless told otherwise.
const BPF_DIR: &str = "/sys/fs/bpf/netd";

/// Name of the socket in the run directory.
const SOCKET: &str = "netd.sock";

/// The whole program.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    if !matches!(command, Command::Daemon(_)) {
        end_with_the_reader();
    }
    match done(command) {
        Ok(code) => match out::failure() {
            None => code,
            Some(error) => {
                out::complain(format_args!("netd: cannot write the answer: {error}"));
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            out::complain(format_args!("netd: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn done(command: Command) -> Result<ExitCode> {
    let client = Client::new(socket());
    match command {
        Command::Daemon(args) => daemon::run(args),
        Command::Network(command) => block_on(network::done(&client, command)),
        Command::Attach(args) => block_on(endpoint::attach(&client, args)),
        Command::Detach { name } => block_on(endpoint::detach(&client, &name)),
        Command::Publish(args) => block_on(endpoint::publish(&client, args)),
        Command::Unpublish(args) => block_on(endpoint::unpublish(&client, args)),
        Command::Allow(args) => block_on(endpoint::allow(&client, args)),
        Command::Deny(args) => block_on(endpoint::deny(&client, args)),
        Command::Run(args) => run::done(client, args),
        Command::Exec { name, command } => run::exec(&client, &name, &command),
        Command::Ps(args) if args.all_nodes => block_on(node::ps(&client, args.list)),
        Command::Ps(args) => block_on(endpoint::ps(&client, args.list)),
        Command::Node(command) => block_on(node::done(&client, command)),
        Command::Overlay(command) => block_on(node::overlay(&client, command)),
        Command::Port { name, port } => block_on(endpoint::port(&client, &name, port.as_deref())),
        Command::Inspect { names } => block_on(endpoint::inspect(&client, &names)),
        Command::Rm { force, names } => block_on(endpoint::rm(&client, force, &names)),
        Command::Flows(args) => block_on(flows::done(&client, args)),
        Command::Drops(args) => block_on(drops::show(&client, args)),
        Command::Up { file } => compose::up(&client, file.as_deref()),
        Command::Down { file } => compose::down(&client, file.as_deref()),
        Command::Events(args) => block_on(events::done(&client, args)),
        Command::Status { format } => block_on(status::show(&client, format)),
        Command::Exposure { format } => block_on(exposure::show(&client, format)),
        Command::Doctor { format } => block_on(doctor::done(&client, format)),
        Command::Uninstall(args) => block_on(uninstall::done(&client, args)),
        Command::Completion { shell } => Ok(manual::completion(shell)),
        Command::Man { command } => manual::man(&command),
        Command::Version => {
            out::line(format_args!("netd {}", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
        Command::Start(args) => Ok(start::done(args)),
        Command::Supervise { name } => supervise::done(&client, &name),
    }
}

/// Ends in silence when whoever reads our output has read enough, as commands do.
fn end_with_the_reader() {
    // SAFETY: no handler is installed that could run; the default action ends the process.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

/// Runs on one thread: namespaces belong to threads.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(future)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")
}

fn socket() -> PathBuf {
    std::env::var_os("NETD_SOCKET").map_or_else(|| PathBuf::from(RUN_DIR).join(SOCKET), PathBuf::from)
}

/// The route of a network or an endpoint; a name that is none is refused here, it could be any route.
fn route(kind: &str, name: &str) -> Result<String> {
    Ok(format!("/v1/{kind}/{}", name.parse::<Name>()?))
}

/// Pairs as the query of a route.
fn query(pairs: &[(String, String)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Text as a query takes it (RFC 3986 section 2.3: what is not unreserved is escaped).
fn escaped(text: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if kept(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Wrong usage that clap does not know of: one line, exit 2.
fn wrong_usage(line: &str) -> ExitCode {
    out::complain(format_args!("netd: {line}"));
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::args::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_this_version_cannot_do_is_wrong_usage() {
        let cases = [
            "network create n -d macvlan",
            "network create n --vni seven",
            "network connect n",
            "attach c",
            "attach c --pid 1 --netns /x",
            "run --name x",
            "exposure x",
            "flows rm",
            "ps --format yaml",
            "publish c",
        ];
        for case in cases {
            let error = Cli::try_parse_from(["netd"].into_iter().chain(case.split(' '))).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{case}");
        }
    }

    #[test]
    fn what_a_query_cannot_hold_is_escaped() {
        assert_eq!(super::escaped("fd00::7 &c1"), "fd00%3A%3A7%20%26c1");
    }

    #[test]
    fn arguments_after_two_dashes_are_the_command() {
        Cli::try_parse_from(["netd", "run", "-p", "80:80", "-d", "--", "sh", "-c", "exit 1", "--rm"]).unwrap();
        Cli::try_parse_from(["netd", "exec", "c1", "--", "ls", "-l"]).unwrap();
    }
}
