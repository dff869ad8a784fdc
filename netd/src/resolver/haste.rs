//! The thread that answers goes before others that want its processor: an answer takes microseconds of it, and somebody waits.
//!
//! Between a question and its answer there is one thing that can take milliseconds, which is to be put on a processor behind those
//! that have work for it: containers, builds, the daemon's own task. So the thread has more weight (nice) and, where the kernel knows
//! it (6.12, 857b158dc5e8), asks for short slices, with which a thread that wakes up goes before one that has a long one.

use std::{io, mem};

use nix::libc;

/// How much before others: each is about a quarter more weight.
const NICE: i32 = -10;
/// The shortest slice that the kernel grants, in nanoseconds.
const SLICE: u64 = 100_000;

/// Has the calling thread go before others. Threads that it starts do not.
pub fn go_before_others() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: mem::size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: libc::SCHED_FLAG_RESET_ON_FORK as u64,
        sched_nice: NICE,
        sched_priority: 0,
        sched_runtime: SLICE,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: 0 is the calling thread, and the attributes say their own size and outlive the call, which only reads them.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the calling thread.
    fn nice() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("a thread has one");
        let after_name = stat.rsplit(')').next().expect("there is a name");
        after_name.split_whitespace().nth(16).and_then(|nice| nice.parse().ok()).expect("proc(5): field 19")
    }

    #[test]
    fn the_thread_goes_before_others_and_those_that_it_starts_do_not() {
        let before = nice();
        let (own, started) = std::thread::spawn(|| {
            go_before_others().expect("root may");
            (nice(), std::thread::spawn(nice).join().expect("it ends"))
        })
        .join()
        .expect("it ends");

        assert_eq!((own, started, nice()), (NICE, 0, before));
    }
}
