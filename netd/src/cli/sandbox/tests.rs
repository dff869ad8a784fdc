//! Paths of namespaces, on a host that has a `/run` of its own.

use std::{process::Command, time::Instant};

use super::*;
use crate::testing::{FREED, on_a_host_of_its_own};

/// Runs `test` where nothing has ever made a namespace, with the path that one would have.
fn at_a_free_path(test: impl FnOnce(&Path) + Send + 'static) {
    on_a_host_of_its_own(async |_| {
        mount(Some("netd"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        test(&path_of(&"job".parse().unwrap()));
    });
}

/// Holds what nobody holds. What another test just starts may have a copy of what this one has let go of for a moment.
fn held(path: &Path) -> Held {
    let deadline = Instant::now() + FREED;
    loop {
        match hold(path) {
            Some(held) => return held,
            None => assert!(Instant::now() < deadline, "{} is held", path.display()),
        }
    }
}

/// Waits until the thread that made a namespace has left it, which is a moment after its end is known.
fn wait_until_empty(held: &Held) {
    let deadline = Instant::now() + FREED;
    while !held.is_empty() {
        assert!(Instant::now() < deadline, "something is in {}", held.path().display());
    }
}

fn ip(namespace: &Namespace, words: &str) {
    let status = namespace.inside(|| Command::new("ip").args(words.split(' ')).status());
    assert!(status.unwrap().unwrap().success(), "ip {words}");
}

#[test]
fn a_path_is_held_from_the_making_of_its_namespace_until_its_maker_lets_go() {
    at_a_free_path(|path| {
        assert!(hold(path).is_none(), "nothing is there");

        let made = make(path).unwrap();
        assert!(made.is_at(path) && hold(path).is_none());
        drop(made);

        let old = held(path);
        assert!(hold(path).is_none());
        assert!(
            make(path).err().unwrap().to_string().starts_with("/run/netns/netd-job exists already: `ip netns del ")
        );
        remove(path).unwrap();
        let new = make(path).unwrap();
        assert!(new.is_at(path) && !old.is_at(path));
    });
}

#[test]
fn a_namespace_is_empty_without_processes_and_devices() {
    at_a_free_path(|path| {
        drop(make(path).unwrap());
        let held = held(path);
        let namespace = Namespace::open(path).unwrap();
        wait_until_empty(&held);

        let mut process = namespace.inside(|| Command::new("sleep").arg("1000").spawn()).unwrap().unwrap();
        assert!(!held.is_empty());
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(held.is_empty());

        ip(&namespace, "link add veth0 type veth peer name veth1");
        assert!(!held.is_empty());
    });
}

#[test]
fn the_file_that_was_to_become_a_namespace_is_empty_and_one_that_somebody_wrote_is_not() {
    at_a_free_path(|path| {
        fs::create_dir("/run/netns").unwrap();
        fs::write(path, "").unwrap();
        assert!(held(path).is_empty());

        fs::write(path, "mine").unwrap();
        assert!(!held(path).is_empty());
    });
}
