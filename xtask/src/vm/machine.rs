//! A virtual machine's run: its output passed on, its exit code, and its end when it takes too long.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::command;

/// How often the clock is looked at.
const PAUSE: Duration = Duration::from_millis(100);
/// What a machine has to end by itself after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// The exit code of what `machine` runs in its guest. Qemu writes from the start of a file that is its output or that its
/// errors go to, over what is there: so there is a pipe for both.
pub fn run(machine: &mut Command, limit: Duration) -> Result<i32> {
    let line = command::line(machine);
    let (mut output, input) = io::pipe().context("cannot make a pipe")?;
    machine.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut child = machine.spawn().with_context(|| format!("cannot start `{line}`"))?;
    // Our own ends of the pipe would keep it open.
    machine.stdout(Stdio::null()).stderr(Stdio::null());
    let passing_on = thread::spawn(move || io::copy(&mut output, &mut io::stdout()).and_then(|_| io::stdout().flush()));
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            end(&mut child)?;
            bail!("the virtual machine was ended: it took longer than {} s", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
    // Output that breaks while we print is of no account: the exit code counts.
    let _ = passing_on.join();
    Ok(child.wait()?.code().unwrap_or(255))
}

/// `child` and everything that it started, qemu among it, is gone.
fn end(child: &mut Child) -> Result<()> {
    let family = held_family(child.id());
    signal_all(&family, Signal::SIGTERM);
    signal_all(&family, Signal::SIGCONT);
    let deadline = Instant::now() + GRACE;
    while child.try_wait()?.is_none() && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    signal_all(&family, Signal::SIGKILL);
    child.wait()?;
    // A signal is sent, not met: the others go on for a moment, and what they hold with them.
    let deadline = Instant::now() + GRACE;
    while family.iter().any(|pid| is_alive(*pid)) && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether a process has not ended. One that has, and that nobody has waited for, is a zombie (proc(5), the third field of `stat`).
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

fn signal_all(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
        // One that is gone already is what we want.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// `ancestor` and all its descendants, stopped: one that runs may start another while the rest are looked for.
fn held_family(ancestor: u32) -> Vec<u32> {
    let mut held = Vec::new();
    loop {
        let new: Vec<u32> = family(ancestor).into_iter().filter(|pid| !held.contains(pid)).collect();
        if new.is_empty() {
            return held;
        }
        signal_all(&new, Signal::SIGSTOP);
        held.extend(new);
    }
}

/// `ancestor` and all its descendants.
fn family(ancestor: u32) -> Vec<u32> {
    let processes = parents();
    let mut family = vec![ancestor];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(processes.iter().filter(|(_, its_parent)| **its_parent == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

/// Each process with its parent.
fn parents() -> BTreeMap<u32, u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, parent_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// The parent in a line of `/proc/PID/stat`. The command's name may hold spaces and parentheses: it ends at the last one.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_machine() {
        let mut machine = Command::new("sh");

        assert_eq!(run(machine.args(["-c", "exit 7"]), Duration::from_secs(10)).expect("it ends"), 7);
    }

    #[test]
    fn a_machine_that_hangs_is_ended_with_all_it_started() {
        let mut machine = Command::new("sh");
        machine.args(["-c", "sh -c 'sleep 98765; true'; true"]);

        let error = run(&mut machine, Duration::from_millis(300)).expect_err("it hangs").to_string();

        assert!(error.contains("was ended"), "{error}");
        let lines = parents().into_keys().filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
        assert_eq!(lines.filter(|line| line == b"sleep\x0098765\0").count(), 0);
    }

    #[test]
    fn a_parent_is_read_past_a_strange_command_name() {
        assert_eq!(parent_in("12 (a) b (c) S 7 12 12 0"), Some(7));
    }
}
