//! `netd run` and `exec`: a command in a network of its own, its status, and what it leaves, however it ends.

use netd_tests::lab::{Offloads, Outcome, Running};

use crate::{
    says::{inspected, names},
    town::{FRONT, Town, wait_until},
};

#[test]
fn a_command_runs_in_a_network_of_its_own() {
    let town = Town::new(Offloads::On);
    town.network("blue");

    let run = "run -d --name web --network blue -p 8080:80 -- busybox httpd -f -p 80 -h /etc";
    town.netd.say(run).ok();

    let page = || town.client.curl(&format!("http://{FRONT}:8080/hostname"));
    wait_until("the web server answers", || page().succeeded());
    assert_eq!(town.netd.say("ps -q").ok(), "web\n");
    assert!(town.host.ip("netns list").contains("netd-web"));
    let inside = town.netd.say("exec web -- ip -o address show dev eth0").ok();
    assert!(inside.contains(&town.address("web")), "{inside}");
    town.netd.run(["exec", "web", "--", "sh", "-c", "exit 9"]).exits(9);

    town.netd.say("rm web").refused(["web"]);
    assert!(page().succeeded(), "what is refused changes nothing");
    town.netd.say("rm -f web").ok();

    assert_eq!(names(&town.netd.json("ps")), [""; 0]);
    assert!(!town.host.ip("netns list").contains("netd-web"));
    assert!(!town.host.path("/run/netd/logs/web.log").exists());
    assert!(!page().succeeded());
}

#[test]
fn a_command_in_the_foreground_tells_its_own_status() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    town.container("taken", "blue", &[]);
    let before = town.host.snapshot();
    let run = |words: &[&str]| town.netd.run(["run", "--rm", "--network", "blue", "--"].iter().chain(words));

    assert_eq!(run(&["sh", "-c", "echo here; echo there >&2"]).ok(), "here\n");
    run(&["sh", "-c", "exit 7"]).exits(7);
    run(&["sh", "-c", "kill -9 $$"]).exits(137);
    names_the_thing(run(&["/no/such/command"]).exits(127), "/no/such/command");
    names_the_thing(run(&["/etc/passwd"]).exits(126), "/etc/passwd");
    names_the_thing(town.netd.say("run --network nowhere -- true").exits(125), "nowhere");
    names_the_thing(town.netd.say("run --name taken --network blue -- true").exits(125), "taken");
    names_the_thing(town.netd.say("exec nobody -- true").exits(125), "nobody");

    assert_eq!(names(&town.netd.json("ps")), ["taken"]);
    town.host.assert_as_in(&before);
}

#[test]
fn an_interrupted_command_is_taken_away_with_its_network() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let mut running = town.netd.spawn(["run", "--rm", "--name", "job", "--network", "blue", "--", "sleep", "1000"]);
    wait_until("the command is listed", || names(&town.netd.json("ps")) == ["job"]);
    assert!(running.ended().is_none());

    running.signal(nix::sys::signal::Signal::SIGTERM);

    running.wait().exits(128 + 15);
    assert_eq!(names(&town.netd.json("ps")), [""; 0]);
    assert!(!town.host.ip("netns list").contains("netd-job"));
}

#[test]
fn a_command_that_is_removed_while_it_runs_tells_its_own_status_and_the_next_one_goes_too() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    for _ in 0..5 {
        let running = run_job(&town, "--rm");
        town.netd.say("run -d --name other --network blue -- sleep 1000").ok();

        town.netd.say("rm -f job other").ok();

        running.wait().exits(137);
        assert_eq!(names(&town.netd.json("ps")), [""; 0]);
        wait_until("nothing is left of it", || leaves_nothing(&town));
    }
}

#[test]
fn a_command_that_ends_while_the_daemon_is_restarted_tells_its_own_status_and_is_removed() {
    let mut town = Town::new(Offloads::On);
    town.network("blue");
    let running = run_job(&town, "--rm");
    let pid = pid_of_job(&town);

    town.netd.kill();
    town.host.run(["kill", "-9", &pid]).ok();
    town.netd.start();

    running.wait().exits(137);
    assert_eq!(names(&town.netd.json("ps")), [""; 0]);
    assert!(leaves_nothing(&town));
}

#[test]
fn a_command_that_was_detached_while_it_ran_leaves_nothing_when_it_ends() {
    let town = Town::new(Offloads::On);
    town.network("blue");

    let running = run_job(&town, "--rm");
    let pid = pid_of_job(&town);
    town.netd.say("detach job").ok();
    town.host.run(["kill", "-9", &pid]).ok();
    running.wait().exits(137);
    assert!(leaves_nothing(&town));

    run_job(&town, "-d --rm").wait().exits(0);
    let pid = pid_of_job(&town);
    town.netd.say("detach job").ok();
    town.host.run(["kill", "-9", &pid]).ok();
    wait_until("nothing is left of it", || leaves_nothing(&town));
}

#[test]
fn the_namespace_that_a_command_has_left_is_in_nobodys_way() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    run_job(&town, "-d").wait().exits(0);
    let pid = pid_of_job(&town);
    town.netd.say("detach job").ok();
    let again = || town.netd.say("run --rm --name job --network blue -- true");

    names_the_thing(again().exits(125), "/run/netns/netd-job");
    town.host.run(["kill", "-9", &pid]).ok();
    wait_until("the namespace is free with its last process", || again().succeeded());
    assert!(leaves_nothing(&town));

    town.host.ip("netns add netd-job");
    town.host.ip("-n netd-job link add veth0 type veth peer name veth1");
    names_the_thing(again().exits(125), "/run/netns/netd-job");
    town.host.ip("-n netd-job link show dev veth0");
    town.host.ip("netns del netd-job");
}

#[test]
fn a_command_killed_before_it_begins_leaves_nothing() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let before = town.host.snapshot();

    // So many ports that there is time between the process and its network. Where the command has begun all the same, or its network
    // was not begun yet, once more.
    let gone = "the process that was to become the command is gone";
    let killed = (0..50).map(|_| run_and_kill(&town)).find(|outcome| outcome.stderr.contains(gone));

    killed.expect("one of fifty is killed between the two").exits(125);
    assert_eq!(names(&town.netd.json("ps")), [""; 0]);
    town.host.assert_as_in_but_for(&before, &["mount"]);
}

/// `netd run` of `job`, which is attached when this returns.
fn run_job(town: &Town, how: &str) -> Running {
    let words = format!("run {how} --name job --network blue -- sleep 1000");
    let running = town.netd.spawn(words.split(' '));
    wait_until("the command is listed", || names(&town.netd.json("ps")) == ["job"]);
    running
}

/// The process of `job`, once it is the command.
fn pid_of_job(town: &Town) -> String {
    let pid = inspected(&town.netd, "inspect job")["pid"].to_string();
    let words = || town.host.run(["cat", &format!("/proc/{pid}/cmdline")]).stdout;
    wait_until("the command has begun", || words().starts_with("sleep"));
    pid
}

/// Whether there is neither a namespace nor a file of `job`.
fn leaves_nothing(town: &Town) -> bool {
    let paths = ["/run/netns/netd-job", "/run/netd/etc/job", "/run/netd/logs/job.log"];
    paths.iter().all(|path| !town.host.path(path).exists())
}

/// Kills a command's process as soon as there is one; takes away what a command that has begun leaves.
fn run_and_kill(town: &Town) -> Outcome {
    let words = "run --name job --network blue -p 20000-20999:20000-20999 -- sleep 1000";
    let running = town.netd.spawn(words.split(' '));
    let parent = running.id();
    let child = || std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    wait_until("a process waits for its network", || !child().trim().is_empty());
    let child = child().trim().parse().expect("one process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).expect("it is there");
    let outcome = running.wait();
    if outcome.code() != 125 {
        town.netd.say("rm -f job").ok();
    }
    outcome
}

#[track_caller]
fn names_the_thing(outcome: &Outcome, thing: &str) {
    assert!(outcome.stderr.contains(thing), "{outcome} but should name {thing}");
}
