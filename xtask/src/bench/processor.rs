//! Where threads run: chance would else decide, and move results more than what is measured.

use std::{io, sync::OnceLock};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// One of those that this process may use; both are the same if there is but one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Processor {
    /// Where clients run.
    First,
    /// Where servers run that take what comes without answering.
    Last,
}

/// Keeps the calling thread there.
pub fn on_processor(which: Processor) -> io::Result<()> {
    let (first, last) = *bounds()?;
    let mut set = CpuSet::new();
    set.set(if which == Processor::First { first } else { last })?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The first and the last that this process was given, before any of its threads was bound.
fn bounds() -> io::Result<&'static (usize, usize)> {
    static BOUNDS: OnceLock<(usize, usize)> = OnceLock::new();
    if let Some(bounds) = BOUNDS.get() {
        return Ok(bounds);
    }
    // That of the process is that of its first thread, which is never bound.
    let set = sched_getaffinity(Pid::this())?;
    let usable = || (0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap_or(false));
    let (Some(first), Some(last)) = (usable().min(), usable().max()) else {
        return Err(io::Error::other("this process may use no processor"));
    };
    Ok(BOUNDS.get_or_init(|| (first, last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_kept_and_no_other_does() {
        let kept = std::thread::spawn(|| {
            on_processor(Processor::First).expect("a thread can be kept");
            sched_getaffinity(Pid::from_raw(0)).expect("the kernel tells")
        });

        let kept = kept.join().expect("it does not panic");

        let (first, last) = *bounds().expect("there are some");
        assert!((0..CpuSet::count()).all(|at| kept.is_set(at).expect("it is in range") == (at == first)));
        assert!(sched_getaffinity(Pid::this()).expect("the kernel tells").is_set(last).expect("it is in range"));
    }
}
