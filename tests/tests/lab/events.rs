//! `netd events`: what happens is told as it happens, and what happened is still told.

use netd_tests::lab::{NetdOptions, Offloads};
use serde_json::Value;

use crate::{
    says::{self, inspected, text},
    town::{Town, wait_until},
};

/// The events that `netd events` prints for `words` and then ends.
#[track_caller]
fn told(town: &Town, words: &str) -> Vec<Value> {
    let words = format!("events --format json {words}");
    let lines = town.netd.say(&words).ok();
    lines.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let town = Town::new(Offloads::On);
    let listener = town.netd.spawn(["events", "--since", "1h"]);
    wait_until("the past is told", || listener.log().contains("start"));

    town.network("blue");
    town.container("web", "blue", &["8080:80"]);
    town.netd.say("publish web 8081:81").ok();
    town.netd.say("unpublish web 8080:80").ok();
    town.netd.say("detach web").ok();
    town.netd.say("network rm blue").ok();

    wait_until("all of it is told", || {
        let log = listener.log();
        let words = [
            "network    create       blue",
            "endpoint   attach       web",
            "port       publish      web (8080:80)",
            "web (8081:81)",
            "unpublish",
            "detach",
        ];
        words.iter().all(|word| log.contains(word)) && log.contains("remove       blue")
    });
    let elsewhere = town.lab.host("elsewhere").netd_stopped(NetdOptions::default());
    elsewhere.say("events").refused(["no daemon answers"]);
}

#[test]
fn what_happened_is_told_afterwards_filtered_and_in_order() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    town.network("red");
    town.container("web", "blue", &["8080:80"]);

    let all = told(&town, "--until 0s");
    let actions: Vec<String> = all.iter().map(|event| text(event, "/type") + " " + &text(event, "/action")).collect();
    assert_eq!(actions[0], "daemon start");
    // What netd mends and warns of is the machine's doing, here and below.
    let asked_for = |action: &&str| !["daemon", "repair", "warning"].iter().any(|kind| action.starts_with(kind));
    let happened: Vec<&str> = actions.iter().map(String::as_str).filter(asked_for).collect();
    assert_eq!(happened, ["network create", "network create", "endpoint attach", "port publish"]);
    let times: Vec<String> = all.iter().map(|event| text(event, "/time")).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");

    assert_eq!(told(&town, "--until 0s -f network=red").len(), 1);
    assert_eq!(told(&town, "--until 0s -f network=red -f network=blue").len(), 2);
    assert_eq!(told(&town, "--since 1h --until 0s -f type=port").len(), 1);
    let published = actions.iter().position(|action| action == "port publish").expect("just seen");
    let (since, until) = (format!("--since {}", times[published]), format!("--until {}", times[published]));
    let asked_for = "-f type=network -f type=endpoint -f type=port";
    assert_eq!(told(&town, &format!("{since} --until 0s {asked_for}")), all[published..=published]);
    assert_eq!(told(&town, &format!("{until} {asked_for}")).len(), happened.len() - 1);
    assert_eq!(told(&town, &until), all[..published]);
    for wrong in ["--since yesterday", "-f colour=red"] {
        town.netd.say(&format!("events {wrong}")).exits(2);
    }
}

#[test]
fn a_repair_is_told_and_a_daemon_that_ends_ends_the_stream() {
    let mut town = Town::new(Offloads::On);
    town.network("blue");
    let listener = town.netd.spawn(["events", "--since", "1h"]);
    wait_until("the daemon's start is told", || listener.log().contains("start"));
    let bridge = text(&inspected(&town.netd, "network inspect blue"), "/bridge");

    town.host.ip(&format!("link del {bridge}"));

    wait_until("the repair is told", || {
        listener.log().lines().any(|line| line.contains("repair") && line.contains("mend") && line.contains(&bridge))
    });
    town.netd.terminate().ok();
    let outcome = listener.wait();
    outcome.refused(["the daemon has ended"]);
    assert!(outcome.stdout.contains("daemon     stop"), "{outcome}");
}

#[test]
fn an_answer_that_cannot_be_written_is_one_line_and_exit_1() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    let netd = netd_tests::lab::netd_binary().to_string_lossy().into_owned();
    let full = |words: &str| town.host.run(["sh", "-c", &format!("exec {netd} {words} >/dev/full")]);
    for words in ["network ls", "network ls -q", "ps", "status", "version", "network inspect blue", "events --until 0s"]
    {
        full(words).refused(["cannot write", "No space left"]);
    }
    // What was asked for is done all the same.
    full("network create red").refused(["cannot write"]);
    assert_eq!(says::names(&town.netd.json("network ls")), ["blue", "red"]);
    // Nobody reads any more: that is no error to tell.
    let cut = town.host.run(["sh", "-c", &format!("{netd} events --until 0s | true")]);
    assert_eq!(cut.stderr, "");
    // Neither output can be written: still no panic.
    town.host.run(["sh", "-c", &format!("exec {netd} network rm nowhere >/dev/full 2>/dev/full")]).exits(1);
}
