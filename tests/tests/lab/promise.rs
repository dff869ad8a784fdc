//! netd's promise that it notices within two seconds, where it is netd's to keep.
//!
//! What can be held against a daemon is the time in which it had nothing to do and let be what was broken. How long a machine with
//! much else to do lets it wait for a processor, or its kernel for a lock, can not: then it does not sleep.

use std::{
    fs,
    path::Path,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use netd_tests::lab::Netd;

const PROMISE: Duration = Duration::from_secs(2);

/// How long it is from one look at the daemon to the next, or longer.
const STRIDE: Duration = Duration::from_millis(20);

/// Looks at what a daemon does, until it is dropped.
pub struct Vigil {
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
        let idle = thread::spawn(move || {
            let mut idle = Vec::new();
            while ended.recv_timeout(STRIDE) == Err(RecvTimeoutError::Timeout) {
                if is_idle(&process) {
                    idle.push(Timestamp::now());
                }
            }
            idle
        });
        Self { began, ends, idle }
    }

    /// Asserts that the daemon, which told of what was broken at this moment, was not idle for longer before than it promises.
    #[track_caller]
    pub fn assert_promise(self, told: Timestamp) {
        let Self { began, ends, idle } = self;
        drop(ends);
        let looks = idle.join().expect("looking does not panic").into_iter().filter(|at| *at <= told).count();
        let (idle, took) = (STRIDE * u32::try_from(looks).expect("few"), told.duration_since(began));
        println!("told after {took:?}, of which it was idle for {idle:?}");
        assert!(idle < PROMISE, "told after {took:?}, and was idle for {idle:?} of that");
    }
}

/// Whether every thread of a process sleeps: none runs, wants to, or waits for something in the kernel that is not to be interrupted.
fn is_idle(process: &Path) -> bool {
    let Ok(threads) = fs::read_dir(process.join("task")) else { return false };
    // A thread that has just ended keeps nobody from sleeping.
    let sleeps = |stat: std::io::Result<String>| stat.map_or(true, |stat| state(&stat) == Some('S'));
    threads.flatten().all(|thread| sleeps(fs::read_to_string(thread.path().join("stat"))))
}

/// The state in a line of `stat`, after the command's name, which stands in parentheses and may hold anything (proc_pid_stat(5)).
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}
