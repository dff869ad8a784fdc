//! `cargo xtask mutate`: puts one fault after another into a copy of the packet code, and expects the fast tests (those of
//! `netd-common`, and the World's) to notice each. A fault that nobody notices is a promise that no test holds.

mod faults;

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;

use self::faults::{FAULTS, Fault};
use crate::{command, workspace};

/// A fault may keep a test from ending, which is noticed too.
const PATIENCE: Duration = Duration::from_secs(300);

/// The same random packets for each fault and each time, so that a verdict is one.
const SEED: &str = "7003152";

/// Options of the subcommand.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Only faults whose name contains this
    filter: Option<String>,
}

/// Tries every fault and prints who notices it. Fails if nobody notices one, or its text is not in the code once.
pub fn run(options: &Options) -> Result<()> {
    let begin = Instant::now();
    let chosen = |fault: &&Fault| options.filter.as_ref().is_none_or(|filter| fault.name.contains(filter.as_str()));
    let faults: Vec<_> = FAULTS.iter().filter(chosen).collect();
    ensure!(!faults.is_empty(), "no fault has such a name");
    let tree = Tree::copied()?;
    let unfit: Vec<_> = faults.iter().filter_map(|fault| tree.with(fault).err()).map(|e| e.to_string()).collect();
    ensure!(unfit.is_empty(), "faults that do not fit the code:\n{}", unfit.join("\n"));

    if let Verdict::Noticed(failed) = tree.tests(0)?.verdict()? {
        bail!("without a fault there fails {}", noticed_by(failed));
    }
    println!("of each fault: to compile its tests + to run them until one fails, and which");
    let survivors = survivors(faults, |fault, place| {
        let tests = tree.tests_with(fault, place)?;
        Ok(move || tests.verdict())
    })?;
    println!("mutate: {:.0} s", begin.elapsed().as_secs_f64());
    ensure!(survivors.is_empty(), "faults that no test notices: {}", survivors.join(", "));
    Ok(())
}

/// Names of the faults that nobody notices. `compiled` gives what asks the tests of a fault, compiled into one of two places; while it
/// is asked, the next one's are compiled.
fn survivors<A: FnOnce() -> Result<Verdict> + Send + 'static>(
    faults: Vec<&'static Fault>,
    mut compiled: impl FnMut(&'static Fault, usize) -> Result<A>,
) -> Result<Vec<&'static str>> {
    let (mut survivors, mut asked) = (Vec::new(), None);
    for (fault, place) in faults.into_iter().zip([1, 0].into_iter().cycle()) {
        let begin = Instant::now();
        let ask = compiled(fault, place);
        let compiling = begin.elapsed();
        // Where this one does not compile, what is said of the one before it is heard all the same.
        survivors.extend(asked.take().map(Asked::told).transpose()?.flatten());
        let ask = ask.with_context(|| format!("with the fault `{}`", fault.name))?;
        asked = Some(Asked::begun(fault, compiling, ask));
    }
    survivors.extend(asked.map(Asked::told).transpose()?.flatten());
    Ok(survivors)
}

/// A fault of which the tests are asked.
struct Asked {
    fault: &'static Fault,
    compiling: Duration,
    verdict: JoinHandle<Result<(Verdict, Duration)>>,
}

impl Asked {
    fn begun(
        fault: &'static Fault,
        compiling: Duration,
        ask: impl FnOnce() -> Result<Verdict> + Send + 'static,
    ) -> Self {
        let timed = move || {
            let begin = Instant::now();
            Ok((ask()?, begin.elapsed()))
        };
        Self { fault, compiling, verdict: thread::spawn(timed) }
    }

    /// Waits and prints who notices the fault; its name if nobody does.
    fn told(self) -> Result<Option<&'static str>> {
        let Self { fault, compiling, verdict } = self;
        let verdict = verdict.join().map_err(|_| anyhow!("the tests could not be asked"));
        let (verdict, testing) = verdict.flatten().with_context(|| format!("with the fault `{}`", fault.name))?;
        let (by, survivor) = match verdict {
            Verdict::Unnoticed => ("NOBODY".to_owned(), Some(fault.name)),
            Verdict::Noticed(failed) => (noticed_by(failed), None),
        };
        let [compiling, testing] = [compiling, testing].map(|time| time.as_secs_f64());
        println!("{:<46} {compiling:>5.1} + {testing:>5.1} s  {by}", fault.name);
        Ok(survivor)
    }
}

fn noticed_by(failed: Option<String>) -> String {
    failed.unwrap_or_else(|| "a test that does not end".to_owned())
}

/// What the tests say of a tree.
#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    /// All pass.
    Unnoticed,
    /// This is the first that fails; none where one did not end.
    Noticed(Option<String>),
}

/// A copy of the checkout, in which faults may be made.
struct Tree(PathBuf);

impl Tree {
    fn copied() -> Result<Self> {
        let tree = workspace::target().join("mutate");
        if tree.exists() {
            fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", workspace::short(&tree)))?;
        }
        copy(&workspace::root(), &tree)?;
        Ok(Self(tree))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join("netd-common/src").join(file)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.path(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", workspace::short(&path)))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", workspace::short(&path)))
    }

    /// The text of a fault's file with the fault in it.
    fn with(&self, fault: &Fault) -> Result<String> {
        faulty(&self.read(fault.file)?, fault)
    }

    /// The tests of the tree with the fault in it, which is as it was afterwards.
    fn tests_with(&self, fault: &Fault, place: usize) -> Result<Tests> {
        let right = self.read(fault.file)?;
        self.write(fault.file, &self.with(fault)?)?;
        let tests = self.tests(place);
        self.write(fault.file, &right)?;
        tests
    }

    /// The tests of the tree as it is, compiled, in one of two places. Crates from elsewhere are compiled once for the checkout and for
    /// this.
    fn tests(&self, place: usize) -> Result<Tests> {
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "-p", "netd-common", "-p", "netd-tests", "--lib", "--test", "world"]);
        // The compiler's own words go where they are shown if it fails, and not among cargo's.
        cargo.args(["--no-run", "--message-format", "json-render-diagnostics"]);
        // To compile them well takes longer than they then run less, once.
        cargo.args(["--config", "profile.dev.package.netd-tests.opt-level=0"]);
        cargo.current_dir(&self.0).env("CARGO_TARGET_DIR", workspace::target());
        let built = executables(&command::text(&mut cargo)?);
        ensure!(!built.is_empty(), "cargo has compiled no tests");
        // The next ones are compiled where cargo leaves these.
        let directory = self.0.join("target").join(place.to_string());
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", workspace::short(&directory)))?;
        let kept = |executable: PathBuf| {
            let kept = directory.join(executable.file_name().unwrap_or_default());
            fs::copy(&executable, &kept).with_context(|| format!("cannot copy {}", workspace::short(&executable)))?;
            Ok(kept)
        };
        Ok(Tests { tree: self.0.clone(), executables: built.into_iter().map(kept).collect::<Result<_>>()? })
    }
}

/// Compiled tests of a tree.
struct Tests {
    tree: PathBuf,
    executables: Vec<PathBuf>,
}

impl Tests {
    /// Runs them until one fails.
    fn verdict(&self) -> Result<Verdict> {
        for executable in &self.executables {
            let mut bounded = Command::new("timeout");
            bounded.arg(PATIENCE.as_secs().to_string()).arg(executable).current_dir(&self.tree);
            bounded.env("PROPTEST_RNG_SEED", SEED).env("PROPTEST_MAX_SHRINK_ITERS", "0");
            bounded.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true").env("RUST_BACKTRACE", "0");
            match verdict_of(&mut bounded).context("cannot start `timeout`")? {
                Verdict::Unnoticed => {}
                noticed => return Ok(noticed),
            }
        }
        Ok(Verdict::Unnoticed)
    }
}

/// What tests say that print as those of the standard library do. Once one has failed the others are ended.
fn verdict_of(tests: &mut Command) -> io::Result<Verdict> {
    // A group of their own, of which all are ended: `timeout` passes no signal on before it knows whom it has started.
    tests.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = tests.spawn()?;
    let lines = running.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines());
    let failed = lines.map_while(Result::ok).find_map(|line| failure(&line));
    if failed.is_some() {
        // Those who have ended by themselves do not mind.
        let _ = killpg(Pid::from_raw(running.id().cast_signed()), Signal::SIGKILL);
    }
    let passed = running.wait()?.success() && failed.is_none();
    Ok(if passed { Verdict::Unnoticed } else { Verdict::Noticed(failed) })
}

/// The tests that cargo says it has made; other programs are made beside them.
fn executables(messages: &str) -> Vec<PathBuf> {
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"] == true;
        message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
    };
    messages.lines().filter_map(executable).collect()
}

/// `text` with the fault in it; an error if there is not one place for it.
fn faulty(text: &str, fault: &Fault) -> Result<String> {
    let places = text.matches(fault.right).count();
    ensure!(places == 1, "{}: {} has {places} places for it, not one", fault.name, fault.file);
    Ok(text.replacen(fault.right, fault.wrong, 1))
}

/// The name of the test that failed, by the line that it prints.
fn failure(line: &str) -> Option<String> {
    Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned())
}

/// What is built, and what belongs to git, stays.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", workspace::short(to)))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if name == "target" || name == ".git" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", workspace::short(&path)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    };

    use super::*;

    #[test]
    fn every_fault_has_one_place_in_the_code_and_changes_it() {
        for fault in FAULTS {
            let file = workspace::root().join("netd-common/src").join(fault.file);
            let text = fs::read_to_string(file).expect("the file is there");

            let faulty = faulty(&text, fault).expect("it has one place");

            assert_ne!(faulty, text, "{}", fault.name);
        }
    }

    #[test]
    fn a_fault_without_a_place_or_with_two_is_named() {
        let fault = Fault { name: "one for two", file: "a.rs", right: "1", wrong: "2" };

        for text in ["0", "1 1"] {
            let error = faulty(text, &fault).expect_err("there is not one place").to_string();
            assert!(error.starts_with("one for two: a.rs has"), "{error}");
        }
        assert_eq!(faulty("1 + 0", &fault).expect("there is one"), "2 + 0");
    }

    #[test]
    fn what_is_said_of_a_fault_is_heard_though_the_next_one_does_not_compile() {
        let said = Arc::new(AtomicBool::new(false));
        let (saying, (go_on, gone_on)) = (Arc::clone(&said), mpsc::channel());
        let mut first = Some(move || {
            gone_on.recv()?;
            thread::sleep(Duration::from_millis(200));
            saying.store(true, Ordering::SeqCst);
            Ok(Verdict::Unnoticed)
        });

        let survivors = survivors(FAULTS.iter().take(2).collect(), |_, _| {
            let Some(ask) = first.take() else {
                go_on.send(())?;
                bail!("no such type");
            };
            Ok(ask)
        });

        assert!(said.load(Ordering::SeqCst));
        let error = format!("{:#}", survivors.expect_err("the second does not compile"));
        assert_eq!(error, format!("with the fault `{}`: no such type", FAULTS[1].name));
    }

    #[test]
    fn faults_that_nobody_notices_are_named_in_order() {
        let noticed = |fault: &Fault| fault.name == FAULTS[1].name;

        let survivors = survivors(FAULTS.iter().take(4).collect(), |fault, _| {
            let verdict = if noticed(fault) { Verdict::Noticed(Some("a::b".into())) } else { Verdict::Unnoticed };
            Ok(move || Ok(verdict))
        });

        assert_eq!(survivors.expect("all compile"), [0, 2, 3].map(|at: usize| FAULTS[at].name));
    }

    #[test]
    fn compiled_tests_are_those_that_cargo_names() {
        let messages = concat!(
            r#"{"profile":{"test":false},"executable":"/t/dial"}"#,
            "\n",
            r#"{"profile":{"test":true},"executable":"/t/deps/world-1"}"#,
            "\nnot a message\n",
        );

        assert_eq!(executables(messages), [PathBuf::from("/t/deps/world-1")]);
    }

    fn said_by(script: &str) -> Verdict {
        verdict_of(Command::new("timeout").args(["900", "sh", "-c", script])).expect("there is a shell")
    }

    #[test]
    fn the_first_test_that_fails_says_it_and_ends_the_others() {
        let number = std::env::temp_dir().join(format!("netd-mutate-{}", std::process::id()));
        let tests = format!("echo $$ > {}; echo 'test a::c ... FAILED'; exec sleep 800", number.display());
        let (saying, said) = mpsc::channel();

        thread::spawn(move || saying.send(said_by(&tests)));

        let said = said.recv_timeout(Duration::from_secs(60)).expect("it does not wait for the others");
        assert_eq!(said, Verdict::Noticed(Some("a::c".into())));
        let process = fs::read_to_string(&number).expect("it has said its number");
        fs::remove_file(&number).expect("it is there");
        let deadline = Instant::now() + Duration::from_secs(60);
        while Path::new("/proc").join(process.trim()).exists() {
            assert!(Instant::now() < deadline, "the others go on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn tests_that_say_nothing_and_fail_have_noticed_it_too() {
        assert_eq!(said_by("echo 'test a::b ... ok'; exit 101"), Verdict::Noticed(None));
        assert_eq!(said_by("echo 'test a::b ... ok'"), Verdict::Unnoticed);
    }
}
