//! The process that becomes the command of `netd run`: it exists, so that its endpoint can name it, before its network does.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::RawFd, unix::process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use nix::unistd::{close, setsid};

use super::{args::StartArgs, sandbox};

/// netd itself failed.
pub const FAILED: u8 = 125;
/// There is a command, and it cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
pub const NOT_FOUND: u8 = 127;

/// Waits for the word, enters the namespace, and is the command from then on. Returns only if that fails.
pub fn done(args: StartArgs) -> ExitCode {
    let Ok(true) = is_told_to_go(args.go) else { return ExitCode::from(FAILED) };
    let Ok(mut told) = taken(args.told, true) else { return ExitCode::from(FAILED) };
    let (code, why) = match prepared(&args) {
        Err(error) => (FAILED, format!("{error:#}")),
        Ok(()) => replaced_by(&args.command),
    };
    // With the other end gone there is nobody to tell.
    let _ = write!(told, "{code} {why}");
    ExitCode::from(code)
}

/// Becomes the command; the exit code and the reason if it cannot.
pub fn replaced_by(command: &[String]) -> (u8, String) {
    let Some((program, arguments)) = command.split_first() else {
        return (NOT_FOUND, "there is no command".to_owned());
    };
    let error = Command::new(program).args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    (code, format!("cannot run {program}: {error}"))
}

fn prepared(args: &StartArgs) -> Result<()> {
    if let Some(netns) = &args.netns {
        sandbox::enter(netns, args.etc.as_deref().unwrap_or(Path::new("")))?;
    }
    if args.session {
        setsid().context("cannot begin a session")?;
    }
    Ok(())
}

fn is_told_to_go(go: RawFd) -> io::Result<bool> {
    let mut word = [0; 1];
    Ok(taken(go, false)?.read(&mut word)? == 1)
}

/// Opens an inherited descriptor anew, so that it closes when the command begins, and closes the inherited one.
fn taken(descriptor: RawFd, write: bool) -> io::Result<File> {
    let path = format!("/proc/self/fd/{descriptor}");
    let file = File::options().read(!write).write(write).open(Path::new(&path))?;
    close(descriptor)?;
    Ok(file)
}
