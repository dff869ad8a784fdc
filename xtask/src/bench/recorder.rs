//! `perf record` on every processor, as long as it is told to: a sample for each interval of time, of the task and the function that it
//! finds. What cannot be interrupted is found where interrupts come in again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::{prctl, signal::Signal, stat::Mode},
    unistd::mkfifo,
};

use super::parts;
use crate::{command, workspace};

/// The Debian package that has `perf`.
pub const PACKAGE: &str = "linux-perf";

/// Time between two samples of a processor.
pub const INTERVAL: Duration = Duration::from_micros(100);
/// How long it takes at most to hear a word, or to write what it has.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to see whether it has ended.
const TICK: Duration = Duration::from_millis(10);

/// A `perf record`. It ends with this, and with the thread that started it.
pub struct Recorder {
    process: Child,
    tell: File,
    answer: File,
    directory: PathBuf,
}

impl Recorder {
    /// One that takes no samples yet and keeps what it has in a directory of its own, which it makes anew. An error where there is no perf
    /// or it cannot be told anything (before 5.12).
    pub fn new(directory: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", workspace::short(&directory)))?;
        let [told, answered] = ["tell", "answer"].map(|end| directory.join(end));
        let (tell, answer) = (pipe(&told)?, pipe(&answered)?);
        let mut perf = Command::new("perf");
        perf.args(["record", "--all-cpus", "--event", "cpu-clock", "--no-buildid-cache", "--delay", "-1", "--count"])
            .arg(INTERVAL.as_nanos().to_string())
            .arg(format!("--control=fifo:{},{}", told.display(), answered.display()))
            .arg("--output")
            .arg(directory.join("perf.data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("errors")).context("perf has no place for its errors")?);
        // SAFETY: between fork and exec one system call is made, and nothing is allocated.
        unsafe { perf.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let process = perf.spawn().with_context(|| format!("cannot start perf (it is in Debian's {PACKAGE})"))?;
        let mut recorder = Self { process, tell, answer, directory };
        recorder.tell("ping")?;
        Ok(recorder)
    }

    /// What `work` gives, with samples taken meanwhile. Its error, or that perf cannot be told.
    pub fn while_it_runs<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.tell("enable")?;
        let done = work();
        self.tell("disable")?;
        done
    }

    /// How many samples there are of each function, those of these processes left out. An error where there are none.
    pub fn samples(mut self, without: &BTreeSet<u32>) -> Result<BTreeMap<String, u64>> {
        self.tell("stop")?;
        self.ended()?;
        let mut script = Command::new("perf");
        script.args(["script", "--fields", "comm,pid,ip,sym", "--input"]).arg(self.directory.join("perf.data"));
        let samples = samples(&command::text(&mut script)?, without);
        ensure!(!samples.is_empty(), "perf has found no function");
        Ok(samples)
    }

    /// Waits until it has written what it has.
    fn ended(&mut self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait().context("perf cannot be waited for")? {
                ensure!(status.success(), "perf failed ({status}): {}", self.errors());
                return Ok(());
            }
            thread::sleep(TICK);
        }
        bail!("perf does not end: {}", self.errors())
    }

    /// Tells it a word, and waits until it has heard it.
    fn tell(&mut self, word: &str) -> Result<()> {
        writeln!(self.tell, "{word}").context("perf cannot be told anything")?;
        let begin = Instant::now();
        let tick = u16::try_from(TICK.as_millis())?;
        while poll(&mut [PollFd::new(self.answer.as_fd(), PollFlags::POLLIN)], tick)? == 0 {
            let ended = self.process.try_wait().context("perf cannot be waited for")?;
            ensure!(ended.is_none(), "perf has ended: {}", self.errors());
            ensure!(begin.elapsed() < PATIENCE, "perf does not hear `{word}`: {}", self.errors());
        }
        // One answer for each word, and the zero at its end.
        let mut heard = [0; 16];
        let length = self.answer.read(&mut heard).context("perf does not answer")?;
        let heard = String::from_utf8_lossy(&heard[..length]);
        ensure!(heard.starts_with("ack"), "perf answers {heard:?} to `{word}`");
        Ok(())
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.directory.join("errors")).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // It has ended where all went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What perf says of its version, or why it says nothing.
pub fn version() -> String {
    match command::text(Command::new("perf").arg("--version")) {
        Ok(told) => told.trim().to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

/// One end of a new pipe with a name, open for both ways so that neither side waits for the other to open it.
fn pipe(name: &Path) -> Result<File> {
    let open = || -> io::Result<File> {
        mkfifo(name, Mode::S_IRUSR | Mode::S_IWUSR)?;
        OpenOptions::new().read(true).write(true).open(name)
    };
    open().with_context(|| format!("cannot make {}", workspace::short(name)))
}

/// How many samples there are of each function, of what `perf script` tells of each: a task, its process, an address, the function.
fn samples(told: &str, without: &BTreeSet<u32>) -> BTreeMap<String, u64> {
    let mut samples = BTreeMap::new();
    for line in told.lines() {
        // A task's name may have spaces, and a function's too.
        let words: Vec<_> = line.split_whitespace().collect();
        let is_address = |word: &str| word.len() > 5 && u64::from_str_radix(word, 16).is_ok();
        let at = (1..words.len().saturating_sub(1))
            .find(|at| words[*at].parse::<u32>().is_ok() && is_address(words[at + 1]));
        let Some(at) = at else { continue };
        let (task, function) = (words[..at].join(" "), words[at + 2..].join(" "));
        let is_left_out = words[at].parse().is_ok_and(|process| without.contains(&process));
        if !is_left_out && !parts::is_beside(&task, &function) {
            *samples.entry(function).or_default() += 1;
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;
    use crate::bench::busy::of_thread;

    #[test]
    fn samples_are_counted_by_function_and_those_of_others_are_not() {
        let told = "         swapper     0  ffffffff821f4dab pv_native_safe_halt\n  xtask  4711  ffffffff81388202 udp_sendmsg\n\
                    a task of two 4711  ffffffff81388202 udp_sendmsg\n  swapper 0 ffffffffc0031ea4 process_backlog\n\
                    xtask   4711   7f74805a3000 <std::io as Read>::read\n xtask 4711 ffffffffc0031ea4 [unknown]\n\
                    tokio 7 worker 26259 ffffffff81388202 generic_map_lookup_batch\n\n";

        let samples = samples(told, &BTreeSet::from([26_259]));

        let told: Vec<_> = samples.iter().map(|(function, count)| (function.as_str(), *count)).collect();
        assert_eq!(
            told,
            [("<std::io as Read>::read", 1), ("[unknown]", 1), ("process_backlog", 1), ("udp_sendmsg", 2)]
        );
    }

    #[test]
    fn samples_are_taken_only_while_perf_is_told_to() {
        let directory = std::env::temp_dir().join(format!("netd-samples-{}", std::process::id()));
        let mut recorder = Recorder::new(directory.clone()).expect("perf can be started");

        for_a_while(spin_outside);
        let done = recorder.while_it_runs(|| {
            for_a_while(spin_inside);
            Ok(())
        });
        for_a_while(spin_outside);

        done.expect("it is told");
        let samples = recorder.samples(&BTreeSet::new()).expect("there are some");
        let has = |name: &str| samples.keys().any(|function| function.contains(name));
        assert_eq!((has("spin_inside"), has("spin_outside")), (true, false), "{samples:?}");
        assert!(!directory.exists());
    }

    /// Has a processor do this for some hundred samples, whatever else it does.
    fn for_a_while(work: fn()) {
        let spent = || of_thread().expect("there is such a clock");
        let begin = spent();
        while spent() - begin < 500 * INTERVAL {
            work();
        }
    }

    #[inline(never)]
    fn spin_inside() {
        let mut count = 0_u32;
        while count < 10_000 {
            count = black_box(count + 1);
        }
    }

    #[inline(never)]
    fn spin_outside() {
        let mut count = 20_000_u32;
        while count > 0 {
            count = black_box(count - 1);
        }
    }
}
