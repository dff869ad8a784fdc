//! netd's promise that it notices within two seconds, where it is netd's to keep.
//!
//! What can be held against a daemon is the time in which it had nothing to do and let be what was broken, and that in which it worked. How long a machine with
//! much else to do lets it wait for a processor, or its kernel for a lock, can not: then it does not sleep.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use netd_tests::lab::Netd;

const PROMISE: Duration = Duration::from_secs(2);

/// How long it may compute until the test has heard of it, which asks it again and again meanwhile.
const WORK: Duration = Duration::from_secs(10);

/// How long it is from one look at the daemon to the next, or longer.
const STRIDE: Duration = Duration::from_millis(20);

/// Looks at what a daemon does, until it is dropped.
pub struct Vigil {
    process: PathBuf,
    worked: Duration,
    began: Timestamp,
    ends: Sender<()>,
    idle: JoinHandle<Vec<Timestamp>>,
}

impl Vigil {
    /// Begins now that something was broken.
    pub fn over(netd: &Netd) -> Self {
        let began = Timestamp::now();
        let process = Path::new("/proc").join(netd.id_outside().to_string());
        let (ends, ended) = channel();
        let (worked, seen) = (worked(&process), process.clone());
        let idle = thread::spawn(move || {
            let mut idle = Vec::new();
            while ended.recv_timeout(STRIDE) == Err(RecvTimeoutError::Timeout) {
                if is_idle(&seen) {
                    idle.push(Timestamp::now());
                }
            }
            idle
        });
        Self { process, worked, began, ends, idle }
    }

    /// Asserts that the daemon, which told of what was broken at this moment, was not idle for longer before than it promises, nor busy
    /// for much longer.
    #[track_caller]
    pub fn assert_promise(self, told: Timestamp) {
        let Self { process, worked: before, began, ends, idle } = self;
        // Threads that have ended take what they did along.
        let work = worked(&process).saturating_sub(before);
        drop(ends);
        let looks = idle.join().expect("looking does not panic").into_iter().filter(|at| *at <= told).count();
        let (idle, took) = (STRIDE * u32::try_from(looks).expect("few"), told.duration_since(began));
        println!("told after {took:?}, of which it was idle for {idle:?}; it has computed for {work:?}");
        assert!(idle < PROMISE, "told after {took:?}, and was idle for {idle:?} of that");
        assert!(work < WORK, "told after {took:?}, and has computed for {work:?}");
    }
}

/// Whether every thread of a process sleeps: none runs, wants to, or waits for something in the kernel that is not to be interrupted.
fn is_idle(process: &Path) -> bool {
    let Ok(threads) = fs::read_dir(process.join("task")) else { return false };
    // A thread that has just ended keeps nobody from sleeping.
    let sleeps = |stat: std::io::Result<String>| stat.map_or(true, |stat| state(&stat) == Some('S'));
    threads.flatten().all(|thread| sleeps(fs::read_to_string(thread.path().join("stat"))))
}

/// How long the threads of a process have been on a processor (the first field of `schedstat`, in nanoseconds).
///
/// # Panics
/// When there is no such process.
fn worked(process: &Path) -> Duration {
    let threads = fs::read_dir(process.join("task")).expect("the daemon lives");
    let of_thread = |thread: fs::DirEntry| {
        let told = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        Duration::from_nanos(told.split(' ').next().and_then(|run| run.parse().ok()).unwrap_or_default())
    };
    threads.flatten().map(of_thread).sum()
}

/// The state in a line of `stat`, after the command's name, which stands in parentheses and may hold anything (proc_pid_stat(5)).
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}
