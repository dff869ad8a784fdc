//! Where the processors are while a load runs: `perf` looks at each of them ten thousand times a second, and a look that finds a
//! function is that much time in it. What cannot be interrupted is found where interrupts come in again.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::fd::AsFd,
    path::{Path as FilePath, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::stat::Mode,
    unistd::mkfifo,
};

use super::{
    figures::Figures,
    load::{Ends, Load},
    parts::{self, Part},
    site::{Contender, Path, Site},
    targets::missed_on_paths,
    turns::Turns,
};
use crate::{command, workspace};

/// The Debian package that has `perf`.
pub const PACKAGE: &str = "linux-perf";

/// Time between two looks at a processor.
const INTERVAL: Duration = Duration::from_micros(100);
/// Rounds of each load that are looked at.
const ROUNDS: usize = 8;
/// Functions that are told by name.
const TOLD: usize = 10;
/// How long it takes at most to hear a word.
const PATIENCE: u16 = 10_000;

/// Nanoseconds of all processors for each of what is counted (a packet, a round trip, a connection, a mebibyte), by function.
type Times = BTreeMap<String, f64>;

/// What was found under a load, of several sides in turn.
pub struct Profile {
    /// Of what.
    pub of: String,
    /// The side that netd is compared with, others, netd's.
    sides: Vec<(String, Times)>,
}

impl Profile {
    /// Names of the sides.
    pub fn sides(&self) -> impl Iterator<Item = &str> {
        self.sides.iter().map(|(name, _)| name.as_str())
    }

    /// Nanoseconds of each side in a part; in all of them without one.
    pub fn nanoseconds(&self, part: Option<Part>) -> Vec<f64> {
        let is_in = |function: &str| part.is_none_or(|part| Part::of(function) == part);
        let in_it =
            |times: &Times| times.iter().filter(|(function, _)| is_in(function)).fold(0.0, |sum, (_, time)| sum + time);
        self.sides.iter().map(|(_, times)| in_it(times)).collect()
    }

    /// The functions in which netd's side is longer than the first, and by how many nanoseconds: those that are most, the most first.
    pub fn longer(&self) -> Vec<(String, f64)> {
        let [(_, first), .., (_, netd)] = &self.sides[..] else { return Vec::new() };
        let mut longer: BTreeMap<String, f64> = BTreeMap::new();
        for (times, sign) in [(first, -1.0), (netd, 1.0)] {
            for (function, time) in times {
                *longer.entry(parts::shown(function)).or_default() += sign * time;
            }
        }
        let mut longer: Vec<_> = longer.into_iter().filter(|(_, time)| *time > 0.0).collect();
        longer.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        longer.truncate(TOLD);
        longer
    }
}

/// A load on a path, and whom netd is looked at beside.
pub type Wanted = (Path, Load, Vec<Contender>);

/// What netd has missed on paths.
pub fn missed(figures: &Figures) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for (path, measure, against) in missed_on_paths(figures) {
        let load = Load::of(measure);
        match wanted.iter_mut().find(|(on, under, _)| (*on, *under) == (path, load)) {
            Some((.., others)) if others.contains(&against) => {}
            Some((.., others)) => others.push(against),
            None => wanted.push((path, load, vec![against])),
        }
    }
    wanted
}

/// Everything that was picked.
pub fn picked(paths: &[Path], loads: &[Load], contenders: &[Contender]) -> Vec<Wanted> {
    let others = contenders.iter().filter(|who| !matches!(who, Contender::Netd | Contender::Redirect));
    let others: Vec<_> = others.copied().collect();
    paths.iter().flat_map(|path| loads.iter().map(|load| (*path, *load, others.clone()))).collect()
}

/// All of that once more, looked at.
pub fn of_paths(wanted: Vec<Wanted>, sites: &[Site], turns: &mut Turns, time: Duration) -> Result<Vec<Profile>> {
    wanted.into_iter().map(|(path, load, beside)| of_load(sites, path, load, &beside, turns, time)).collect()
}

/// One load on one path.
fn of_load(
    sites: &[Site],
    path: Path,
    load: Load,
    beside: &[Contender],
    turns: &mut Turns,
    time: Duration,
) -> Result<Profile> {
    let who = beside.iter().copied().chain([Contender::Redirect, Contender::Netd]);
    let sides = who.filter_map(|who| {
        let on_path = sites.iter().filter(|site| site.contender == who).find_map(|site| site.paths.get(&path));
        Some((who.name(), on_path?))
    });
    let sides: Vec<(&str, &Ends)> = sides.collect();
    let names: Vec<_> = sides.iter().map(|(name, _)| (*name).to_owned()).collect();
    taken(format!("{}, {}", path.name(), load.name()), names, turns, |side, recorder| {
        let (_, ends) = sides[side];
        Ok(recorder.while_it_runs(|| ends.run(load, time))?.count)
    })
}

/// Has the sides take turns, and tells what was found. A turn has a recorder look at what it does, and gives how much that was.
pub fn taken(
    of: String,
    names: Vec<String>,
    turns: &mut Turns,
    mut turn: impl FnMut(usize, &mut Recorder) -> Result<f64>,
) -> Result<Profile> {
    let mut recorders = (0..names.len()).map(Recorder::new).collect::<Result<Vec<_>>>()?;
    let mut counts = vec![0.0; names.len()];
    for _ in 0..ROUNDS {
        for (side, recorder) in recorders.iter_mut().enumerate() {
            counts[side] += turns.take(format!("{of}, profiled: {}", names[side]), || turn(side, recorder))?;
        }
    }
    let times = recorders.into_iter().zip(counts).map(|(recorder, count)| recorder.times(count));
    let sides = names.into_iter().zip(times).map(|(name, times)| Ok((name, times?)));
    Ok(Profile { of, sides: sides.collect::<Result<_>>()? })
}

/// A `perf record` that looks when it is told to. It ends with this.
pub struct Recorder {
    process: Child,
    tell: File,
    answer: File,
    directory: PathBuf,
}

impl Recorder {
    /// One that does not look yet, beside others with other numbers.
    fn new(number: usize) -> Result<Self> {
        let directory = workspace::target().join("bench").join(format!("profile-{number}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", workspace::short(&directory)))?;
        let [told, answered] = ["tell", "answer"].map(|end| directory.join(end));
        let (tell, answer) = (pipe(&told)?, pipe(&answered)?);
        let process = Command::new("perf")
            .args(["record", "--all-cpus", "--event", "cpu-clock", "--delay", "-1", "--count"])
            .arg(INTERVAL.as_nanos().to_string())
            .arg(format!("--control=fifo:{},{}", told.display(), answered.display()))
            .arg("--output")
            .arg(directory.join("perf.data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("errors"))?)
            .spawn()
            .with_context(|| format!("cannot start perf (it is in Debian's {PACKAGE})"))?;
        let mut recorder = Self { process, tell, answer, directory };
        recorder.tell("ping")?;
        Ok(recorder)
    }

    /// What `work` gives, looked at meanwhile.
    pub fn while_it_runs<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.tell("enable")?;
        let done = work();
        self.tell("disable")?;
        done
    }

    /// The time in each function for each of `count`.
    fn times(mut self, count: f64) -> Result<Times> {
        self.tell("stop")?;
        let status = self.process.wait().context("perf cannot be waited for")?;
        ensure!(status.success(), "perf failed ({status}): {}", self.errors());
        let mut script = Command::new("perf");
        script.args(["script", "--fields", "comm,ip,sym", "--input"]).arg(self.directory.join("perf.data"));
        let looks = looks(&command::text(&mut script)?);
        ensure!(!looks.is_empty(), "perf has found no function");
        let each = INTERVAL.as_nanos() as f64 / count;
        Ok(looks.into_iter().map(|(function, looks)| (function, looks as f64 * each)).collect())
    }

    /// Tells it a word, and waits until it has heard it.
    fn tell(&mut self, word: &str) -> Result<()> {
        const HEARD: &[u8] = b"ack\n\0";
        writeln!(self.tell, "{word}").context("perf cannot be told anything")?;
        let mut heard = [0; HEARD.len()];
        let waits = poll(&mut [PollFd::new(self.answer.as_fd(), PollFlags::POLLIN)], PATIENCE)?;
        ensure!(waits > 0, "perf does not hear `{word}`: {}", self.errors());
        self.answer.read_exact(&mut heard).context("perf does not answer")?;
        ensure!(heard == HEARD, "perf answers {:?} to `{word}`", String::from_utf8_lossy(&heard));
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
    }
}

/// One end of a new pipe with a name, open for both ways so that neither side waits for the other to open it.
fn pipe(name: &FilePath) -> Result<File> {
    let open = || -> io::Result<File> {
        mkfifo(name, Mode::S_IRUSR | Mode::S_IWUSR)?;
        OpenOptions::new().read(true).write(true).open(name)
    };
    open().with_context(|| format!("cannot make {}", workspace::short(name)))
}

/// How often each function was found, of what `perf script` tells of a task, an address and a function. What is beside the load is left out.
fn looks(told: &str) -> BTreeMap<String, u64> {
    let mut looks = BTreeMap::new();
    for line in told.lines() {
        // A task's name may have spaces, and a function's too.
        let is_address = |word: &&str| word.len() >= 5 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(at) = (1..words.len()).find(|at| is_address(&words[*at])) else { continue };
        let (task, function) = (words[..at].join(" "), words[at + 1..].join(" "));
        if !parts::is_beside(&task, &function) {
            *looks.entry(function).or_default() += 1;
        }
    }
    looks
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use nix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::bench::figures::Measure;

    #[test]
    fn looks_are_counted_by_function_and_those_at_nothing_are_not() {
        let told = "         swapper  ffffffff821f4dab pv_native_safe_halt\n  xtask  ffffffff81388202 udp_sendmsg\n\
                    a task of two  ffffffff81388202 udp_sendmsg\n  swapper ffffffffc0031ea4 process_backlog\n\
                    xtask     7f74805a3000 <std::io as Read>::read\n xtask  ffffffffc0031ea4 [unknown]\n\n";

        let looks = looks(told);

        let told: Vec<_> = looks.iter().map(|(function, looks)| (function.as_str(), *looks)).collect();
        assert_eq!(
            told,
            [("<std::io as Read>::read", 1), ("[unknown]", 1), ("process_backlog", 1), ("udp_sendmsg", 2)]
        );
    }

    #[test]
    fn what_is_missed_is_looked_at_once_a_load() {
        let mut figures = Figures::default();
        for (who, value) in [(Contender::Netd, 20.0), (Contender::Veth, 10.0), (Contender::Cni, 15.0)] {
            for measure in [Measure::Exchange50, Measure::Exchange99, Measure::Stream] {
                figures.add(Path::Published, who, measure, value);
            }
        }

        assert_eq!(missed(&figures), [(Path::Published, Load::Exchange, vec![Contender::Veth, Contender::Cni])]);
        let picked = picked(&[Path::Host], &Load::ALL[..1], &[Contender::Veth, Contender::Redirect, Contender::Netd]);
        assert_eq!(picked, [(Path::Host, Load::Stream, vec![Contender::Veth])]);
    }

    #[test]
    fn a_profile_tells_each_part_and_what_is_longer_by_name() {
        let times =
            |times: &[(&str, f64)]| times.iter().map(|(function, time)| ((*function).to_owned(), *time)).collect();
        let program = "bpf_prog_f323c61c9d7cf869_rewrite_3C_netd_ebpf_3A__3A_skb";
        let profile = Profile {
            of: "published, datagrams".into(),
            sides: vec![
                ("veth".into(), times(&[("udp_sendmsg", 70.0), ("veth_xmit", 50.0)])),
                ("netd".into(), times(&[("udp_sendmsg", 60.0), ("veth_xmit", 55.0), (program, 30.0)])),
            ],
        };

        assert_eq!(profile.sides().collect::<Vec<_>>(), ["veth", "netd"]);
        assert_eq!(profile.nanoseconds(Some(Part::Programs)), [0.0, 30.0]);
        assert_eq!(profile.nanoseconds(Some(Part::Devices)), [50.0, 55.0]);
        assert_eq!(profile.nanoseconds(None), [120.0, 145.0]);
        assert_eq!(profile.longer(), [("rewrite".to_owned(), 30.0), ("veth_xmit".to_owned(), 5.0)]);
    }

    #[test]
    fn perf_looks_only_while_it_is_told_to() {
        let mut recorder = Recorder::new(usize::MAX).expect("perf can be started");

        for_a_while(not_looked_at);
        let looked = recorder.while_it_runs(|| {
            for_a_while(looked_at);
            Ok(())
        });
        looked.expect("it is told");
        for_a_while(not_looked_at);

        let found = recorder.times(1.0).expect("it has looked");
        let has = |name: &str| found.keys().any(|function| function.ends_with(name));
        assert_eq!((has("::looked_at"), has("::not_looked_at")), (true, false), "{found:?}");
    }

    /// Has a processor do this for a hundred looks and more, whatever else it does.
    fn for_a_while(work: fn()) {
        let spent = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("there is such a clock");
        let begin = spent();
        while Duration::from(spent() - begin) < 500 * INTERVAL {
            work();
        }
    }

    #[inline(never)]
    fn looked_at() {
        let mut count = 0_u32;
        while count < 10_000 {
            count = black_box(count + 1);
        }
    }

    #[inline(never)]
    fn not_looked_at() {
        let mut count = 20_000_u32;
        while count > 0 {
            count = black_box(count - 1);
        }
    }
}
