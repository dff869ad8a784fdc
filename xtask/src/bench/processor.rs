//! Where threads run: chance would else decide, and move results more than what is measured.

use std::{collections::BTreeSet, fs, io, sync::OnceLock};

use nix::{
    errno::Errno,
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
    keep_on(number(which)?)
}

fn number(which: Processor) -> io::Result<usize> {
    let usable = usable()?;
    let at = if which == Processor::First { usable.first() } else { usable.last() };
    at.copied().ok_or_else(|| io::Error::other("this process may use no processor"))
}

fn only(processor: usize) -> io::Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(set)
}

/// Keeps the calling thread on the processor with this number. An error where it may not use it.
pub fn keep_on(processor: usize) -> io::Result<()> {
    Ok(sched_setaffinity(Pid::from_raw(0), &only(processor)?)?)
}

/// Keeps every thread of a process on the last one, and those that they will start. An error where there is no such process.
pub fn keep_process_on_last(process: u32) -> io::Result<()> {
    let set = only(number(Processor::Last)?)?;
    let mut kept = BTreeSet::new();
    loop {
        let before = kept.len();
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let Ok(thread) = thread?.file_name().to_string_lossy().parse() else { continue };
            match sched_setaffinity(Pid::from_raw(thread), &set) {
                // It has ended meanwhile.
                Err(Errno::ESRCH) => {}
                done => done?,
            }
            kept.insert(thread);
        }
        // One that was not kept yet may have started others.
        if kept.len() == before {
            return Ok(());
        }
    }
}

/// The numbers of those that this process was given, before any of its threads was bound, in order. An error where the kernel does not
/// tell.
pub fn usable() -> io::Result<Vec<usize>> {
    static USABLE: OnceLock<Vec<usize>> = OnceLock::new();
    if let Some(usable) = USABLE.get() {
        return Ok(usable.clone());
    }
    // That of the process is that of its first thread, which is never bound.
    let set = sched_getaffinity(Pid::this())?;
    let usable = (0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap_or(false)).collect();
    Ok(USABLE.get_or_init(|| usable).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_kept_too() {
        let mut sleeps = std::process::Command::new("sleep").arg("60").spawn().expect("it starts");

        let kept = keep_process_on_last(sleeps.id());
        let set = sched_getaffinity(Pid::from_raw(sleeps.id().cast_signed()));
        sleeps.kill().and_then(|()| sleeps.wait()).expect("it can be ended");

        kept.expect("it is kept");
        let last = usable().expect("there are some").last().copied();
        let on: Vec<_> = (0..CpuSet::count()).filter(|at| set.is_ok_and(|set| set.is_set(*at) == Ok(true))).collect();
        assert_eq!(on, Vec::from_iter(last));
    }

    #[test]
    fn a_thread_stays_where_it_is_kept_and_no_other_does() {
        let kept = std::thread::spawn(|| {
            on_processor(Processor::First).expect("a thread can be kept");
            sched_getaffinity(Pid::from_raw(0)).expect("the kernel tells")
        });

        let kept = kept.join().expect("it does not panic");

        let usable = usable().expect("there are some");
        let (Some(&first), Some(&last)) = (usable.first(), usable.last()) else { panic!("there is one at least") };
        assert!((0..CpuSet::count()).all(|at| kept.is_set(at).expect("it is in range") == (at == first)));
        assert!(sched_getaffinity(Pid::this()).expect("the kernel tells").is_set(last).expect("it is in range"));
    }
}
