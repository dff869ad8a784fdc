//! A program run in a Lab: to its end within a bound, or beside the test until its handle goes.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::{fs::FileExt, process::ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;

use super::namespaces::Namespaces;

/// How long a program may take that is waited for. Long, because the same tests run on emulated machines.
const PATIENCE: Duration = Duration::from_secs(180);

/// Shared by those who are just starting a program.
static STARTING: RwLock<()> = RwLock::new(());

/// Starts a program, which has copies of every descriptor of this process, sockets too, until it begins: when this returns, it has
/// begun. The only way in which programs are started here, for the sake of [`descriptors_are_gone`].
///
/// # Errors
/// Why it cannot be started.
pub fn begin(command: &mut Command) -> io::Result<Child> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Waits until no program that another test is just starting has a copy of what this one has closed: a port is free then, a
/// connection has ended, a file that is to be run is open for writing nowhere.
pub fn descriptors_are_gone() {
    drop(STARTING.write().unwrap_or_else(PoisonError::into_inner));
}

/// What a program left behind.
pub struct Outcome {
    command: String,
    status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output of a program that succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert!(self.status.success(), "{self} but should have succeeded");
        self.stdout.clone()
    }

    /// Whether it succeeded.
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Asserts that it was refused as everything is refused: exit code 1, and one line on standard error that has all of
    /// `words` in it.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn refused<'a>(&self, words: impl IntoIterator<Item = &'a str>) {
        assert_eq!(self.code(), 1, "{self} but should have been refused with exit code 1");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{self} but the reason should be one line");
        for word in words {
            assert!(self.stderr.contains(word), "{self} but the reason should name {word:?}");
        }
    }

    /// Asserts its exit code.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "{self} but should have exited with {code}");
        self
    }

    /// Standard output of a program that succeeded, as JSON.
    ///
    /// # Panics
    /// When it failed or wrote something else.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{self}, which is not JSON: {error}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` exited with {}", self.command, self.code())?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "\n  {name}: {}\n", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A program that runs beside the test. Dropped, it is killed.
pub struct Running {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
    ended: Option<ExitStatus>,
    /// Dropped after `child` is reaped: a pid namespace waits for its last process.
    _host: Arc<Namespaces>,
}

impl Running {
    /// Its process id as the machine sees it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its process id as its host sees it, for `--pid`.
    ///
    /// # Panics
    /// When it has ended.
    pub fn id_inside(&self) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the process runs");
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("the kernel tells NSpid");
        ids.split_whitespace().next_back().and_then(|id| id.parse().ok()).expect("NSpid is a list of numbers")
    }

    /// How long its threads have waited for a processor so far, by the kernel's account of each (`schedstat`).
    pub fn waited(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).into_iter().flatten().flatten();
        let of_thread = |thread: std::fs::DirEntry| {
            let account = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            account.split(' ').nth(1)?.parse().ok().map(Duration::from_nanos)
        };
        threads.filter_map(of_thread).sum()
    }

    /// What it has written so far, standard output first.
    pub fn log(&self) -> String {
        text_of(&self.stdout) + &text_of(&self.stderr)
    }

    /// Its exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it runs for longer than a minute.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "`{}` still runs after {PATIENCE:?}:\n{}", self.command, self.log());
            await_end(self.id(), deadline.saturating_duration_since(Instant::now()));
        };
        let command = self.command.clone();
        Outcome { command, status, stdout: text_of(&self.stdout), stderr: text_of(&self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sleeps until a child that has not been reaped ends, or for so long.
fn await_end(child: u32, most: Duration) {
    // SAFETY: the call takes two numbers and returns a descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
    let Some(fd) = i32::try_from(fd).ok().filter(|fd| *fd >= 0) else {
        return thread::sleep(Duration::from_millis(3));
    };
    // SAFETY: it is new, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // A call that a signal interrupts is a shorter sleep.
    let _ = poll(
        &mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)],
        PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX),
    );
}

/// A command from a list of words, in a process group of its own (Ctrl-C ends the Lab, and the Lab ends it), with nothing
/// to read.
pub(super) fn command<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut words = words.into_iter();
    let program = words.next().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}

/// Starts `command` by `spawn`, its output kept in memory: a file, unlike a pipe, never fills up, nor does it wait for
/// grandchildren that keep it open.
pub(super) fn start(
    mut command: Command,
    host: &Arc<Namespaces>,
    spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
) -> Running {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    let [stdout, stderr] = [in_memory(), in_memory()];
    let dup = |file: &File| file.try_clone().expect("a descriptor can be duplicated");
    command.stdout(dup(&stdout)).stderr(dup(&stderr));
    let child = spawn(&mut command).unwrap_or_else(|error| panic!("cannot run `{shown}`: {error}"));
    Running { command: shown, child, stdout, stderr, ended: None, _host: Arc::clone(host) }
}

fn in_memory() -> File {
    memfd_create(c"output", MFdFlags::MFD_CLOEXEC).expect("the kernel makes files in memory").into()
}

fn text_of(file: &File) -> String {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    let read = file.read_at(&mut bytes, 0).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}
