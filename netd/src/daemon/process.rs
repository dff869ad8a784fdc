//! Whether a process is still the one that was meant.

use std::fs;

use crate::model::ProcessMark;

/// The process with this id, marked; `None` if there is none.
pub fn mark_of(pid: u32) -> Option<ProcessMark> {
    let (state, started) = stat(pid)?;
    (!matches!(state, 'Z' | 'X')).then_some(ProcessMark { pid, started })
}

/// Whether the marked process runs. One that has ended and was not waited for does not.
pub fn is_alive(mark: &ProcessMark) -> bool {
    mark_of(mark.pid).as_ref() == Some(mark)
}

/// State and start time. The command's name stands in parentheses and may hold anything, so what follows is counted from the
/// last one (proc_pid_stat(5)).
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_ended_is_not_alive_before_and_after_it_is_waited_for() {
        let own = mark_of(std::process::id()).unwrap();
        assert!(is_alive(&own));
        assert!(!is_alive(&ProcessMark { started: own.started + 1, ..own }));

        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mark = mark_of(child.id()).unwrap();
        assert!(is_alive(&mark));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&mark));
    }
}
