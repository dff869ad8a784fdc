//! netd in a Lab's host: the daemon as a process, and the CLI.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Host, Outcome, Running};

/// How long a daemon may take until it answers: it loads its programs, and emulated machines are slow at that.
const PATIENCE: Duration = Duration::from_secs(240);

/// The binary under test, from `NETD_BIN`.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    let Some(path) = env::var_os("NETD_BIN").map(PathBuf::from) else {
        panic!("NETD_BIN does not say where the netd binary is: run `sudo cargo xtask test`, which builds it");
    };
    assert!(path.is_file(), "NETD_BIN names {}, which is no file: run `sudo cargo xtask test`", path.display());
    path
}

/// How a daemon is started.
#[derive(Clone, Default)]
pub struct NetdOptions {
    binary: Option<PathBuf>,
    arguments: Vec<OsString>,
    variables: Vec<(String, String)>,
}

impl NetdOptions {
    /// This binary, not that of `NETD_BIN`.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// With arguments after `netd daemon`.
    #[must_use]
    pub fn arguments<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// The daemon of a host, and the CLI there. Dropped, the daemon is killed; what it keeps in the host stays as long as the host.
///
/// When the test panics, the daemon's log is printed.
pub struct Netd {
    host: Host,
    binary: PathBuf,
    options: NetdOptions,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    daemon: Option<Running>,
    /// Logs of daemons that have ended.
    earlier_logs: String,
}

impl Life {
    #[track_caller]
    fn running(&mut self) -> &mut Running {
        self.daemon.as_mut().expect("the daemon was started")
    }

    fn ended(&mut self) -> Outcome {
        let outcome = self.daemon.take().expect("the daemon was started").wait();
        self.earlier_logs += &format!("{}{}-- ended with {}\n", outcome.stdout, outcome.stderr, outcome.code());
        outcome
    }
}

impl Host {
    /// Starts `netd daemon` here with all its defaults and waits until it answers.
    ///
    /// # Panics
    /// When it does not, with its log.
    #[track_caller]
    pub fn netd(&self) -> Netd {
        self.netd_with(NetdOptions::default())
    }

    /// As [`Host::netd`], started in a special way.
    ///
    /// # Panics
    /// When it does not answer, with its log.
    #[track_caller]
    pub fn netd_with(&self, options: NetdOptions) -> Netd {
        let mut netd = self.netd_stopped(options);
        netd.start();
        netd
    }

    /// The CLI of a host on which no daemon runs.
    pub fn netd_stopped(&self, options: NetdOptions) -> Netd {
        let binary = options.binary.clone().unwrap_or_else(binary);
        Netd { host: self.clone(), binary, options, life: Mutex::default() }
    }
}

impl Netd {
    /// Starts the daemon and waits until it answers.
    ///
    /// # Panics
    /// When it runs already, ends, or does not answer in time.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_without_waiting();
        self.wait_until_it_answers();
    }

    /// Kills the daemon as `kill -9` does, in the middle of whatever it does, and starts another, while others use the command line.
    ///
    /// # Panics
    /// As [`Netd::start`].
    #[track_caller]
    pub fn restart_beside_others(&self) {
        let mut life = self.life();
        life.running().signal(Signal::SIGKILL);
        life.ended();
        life.daemon = Some(self.spawn_daemon());
        drop(life);
        self.wait_until_it_answers();
    }

    #[track_caller]
    fn wait_until_it_answers(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.run(["status"]).succeeded() {
            if let Some(status) = self.life().running().ended() {
                panic!("the daemon has ended before it answered: {status}");
            }
            assert!(Instant::now() < deadline, "the daemon does not answer for {PATIENCE:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the daemon, which may well fail.
    ///
    /// # Panics
    /// When it runs already.
    #[track_caller]
    pub fn start_without_waiting(&mut self) {
        assert!(self.life().daemon.is_none(), "the daemon of {} runs already", self.host.name());
        let daemon = self.spawn_daemon();
        self.life().daemon = Some(daemon);
    }

    #[track_caller]
    fn spawn_daemon(&self) -> Running {
        let mut words = vec![self.binary.clone().into_os_string(), "daemon".into()];
        words.extend(self.options.arguments.iter().cloned());
        self.host.spawn_with(words, &self.options.variables)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the daemon as `kill -9` does, in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends the daemon as a service supervisor does, and returns how it ended.
    pub fn terminate(&mut self) -> Outcome {
        self.end(Signal::SIGTERM)
    }

    /// Waits until the daemon has ended by itself.
    ///
    /// # Panics
    /// When it was not started or does not end.
    #[track_caller]
    pub fn wait(&mut self) -> Outcome {
        self.life().ended()
    }

    #[track_caller]
    fn end(&mut self, signal: Signal) -> Outcome {
        self.life().running().signal(signal);
        self.wait()
    }

    /// The host that it is the daemon of.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Process id of the daemon in its host.
    ///
    /// # Panics
    /// When it does not run.
    pub fn id(&self) -> u32 {
        self.life().running().id_inside()
    }

    /// Process id of the daemon as the machine sees it.
    ///
    /// # Panics
    /// When it was not started.
    pub fn id_outside(&self) -> u32 {
        self.life().running().id()
    }

    /// How long the daemon has waited for a processor since its start; no time where it does not run.
    pub fn waited(&self) -> Duration {
        self.life().daemon.as_ref().map_or(Duration::ZERO, Running::waited)
    }

    /// Runs the CLI to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Outcome {
        self.spawn(words).wait()
    }

    /// Starts the CLI beside the test.
    #[track_caller]
    pub fn spawn<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Running {
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        self.host.spawn(std::iter::once(self.binary.clone().into_os_string()).chain(words))
    }

    /// Runs the CLI with words separated by white space: for commands without odd arguments.
    #[track_caller]
    pub fn say(&self, words: &str) -> Outcome {
        self.run(words.split_whitespace())
    }

    /// The JSON that the CLI prints for `words`, which it is asked for with `--format json`.
    #[track_caller]
    pub fn json(&self, words: &str) -> Value {
        self.run(words.split_whitespace().chain(["--format", "json"])).json()
    }

    /// Everything that netd says exists: its listings by command.
    #[track_caller]
    pub fn listings(&self) -> BTreeMap<&'static str, Value> {
        ["network ls", "ps"].into_iter().map(|listing| (listing, self.json(listing))).collect()
    }

    /// What all daemons of this handle have written.
    pub fn log(&self) -> String {
        let life = self.life();
        life.earlier_logs.clone() + &life.daemon.as_ref().map(Running::log).unwrap_or_default()
    }
}

impl Drop for Netd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- netd on {} ----\n{}----", self.host.name(), self.log());
        }
    }
}
