//! After a restart, a crash, what others break and what fails meanwhile: the host becomes what was asked for, and no container is
//! connected without its programs.

use std::path::Path;

use netd_common::tables::Hook;

use super::*;
use crate::reconcile::diff;

#[tokio::test]
async fn a_restart_finds_nothing_to_do_and_holds_the_published_ports_again() {
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &["8080:80"]).await.unwrap();
    let before = bench.everything();

    bench.daemon.kernel.fail_after = Some(0);
    let bench = bench.restarted().await;

    assert_eq!(bench.daemon.kernel.fail_after, Some(0), "a step was taken");
    assert_eq!(bench.everything(), before);
    let held = ["0.0.0.0", "::1"].map(|at| (at.parse().unwrap(), Protocol::Tcp, 8080));
    assert_eq!(bench.daemon.reservations.places(), held);
    assert_eq!(bench.daemon.kernel.relayed, held.into());
}

#[tokio::test]
async fn a_crash_between_store_and_host_is_made_good_at_the_next_start() {
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &[]).await.unwrap();
    let whole = bench.everything();
    // As if the daemon had died after the store was written and three steps were taken.
    let steps = diff(&whole.1, &State::default());
    bench.daemon.kernel.state = State::default();
    steps.iter().take(3).for_each(|step| bench.daemon.kernel.take(step));

    let bench = bench.restarted().await;

    assert_eq!(bench.everything(), whole);
}

#[tokio::test]
async fn what_others_break_is_mended_and_a_namespace_that_is_gone_is_let_go() {
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &[]).await.unwrap();
    let whole = bench.everything();

    bench.daemon.kernel.state.hooks.clear();
    bench.daemon.kernel.state.veths.clear();
    bench.daemon.look_again().await;
    assert_eq!(bench.everything(), whole);

    bench.daemon.kernel.namespaces.clear();
    bench.daemon.look_again().await;
    assert!(bench.daemon.kernel.state.veths.is_empty());
    let Reply::Endpoint(endpoint) = bench.daemon.answer(Request::Endpoint("c1".into())).await.unwrap() else {
        panic!("an endpoint");
    };
    assert_eq!(endpoint.state, "gone");
}

#[tokio::test]
async fn a_container_whose_namespace_has_the_number_of_one_that_is_gone_asks_in_its_own_name() {
    let mut bench = Bench::new().await;
    bench.network("red").await;
    bench.attach("c1", &[], &[]).await.unwrap();
    let knows = |bench: &Bench, asker, name| bench.daemon.kernel.directory.addresses(asker, name).is_some();
    assert!(knows(&bench, 1, "c1"));

    let namespaces = &mut bench.daemon.kernel.namespaces;
    namespaces.remove(Path::new("/run/netns/c1"));
    namespaces.get_mut(Path::new("/run/netns/c2")).unwrap().inode = 1;
    bench.daemon.look_again().await;
    assert!(!bench.daemon.kernel.directory.knows(1));
    bench.attach("c2", &["red"], &[]).await.unwrap();

    assert!(knows(&bench, 1, "c2") && !knows(&bench, 1, "c1"));
    let bench = bench.restarted().await;
    assert!(knows(&bench, 1, "c2") && !knows(&bench, 1, "c1"));
}

#[tokio::test]
async fn what_could_not_be_mended_does_not_fail_another_request() {
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &[]).await.unwrap();
    bench.daemon.kernel.state.hooks.clear();
    bench.daemon.kernel.fail_after = Some(0);
    bench.daemon.look_again().await;
    let Reply::Status(status) = bench.daemon.answer(Request::Status).await.unwrap() else { panic!("a status") };
    assert!(!status.attached && status.warnings.iter().any(|line| line.contains("the kernel refused")));

    // The veth of c2 and its record first, then the program that is still due.
    bench.daemon.kernel.fail_after = Some(2);
    bench.attach("c2", &[], &[]).await.unwrap();
    assert_eq!(bench.daemon.kernel.fail_after, None);

    bench.daemon.look_again().await;
    let Reply::Status(status) = bench.daemon.answer(Request::Status).await.unwrap() else { panic!("a status") };
    assert!(status.attached, "{:?}", status.warnings);
}

#[tokio::test]
async fn whatever_fails_no_container_is_connected_and_nothing_forwards_without_programs_and_records() {
    for failing in 0.. {
        let mut bench = Bench::new().await;
        bench.attach("c1", &[], &["8080:80"]).await.unwrap();
        let whole = std::mem::take(&mut bench.daemon.kernel.state);

        bench.daemon.kernel.fail_after = Some(failing);
        bench.daemon.look_again().await;

        let state = &bench.daemon.kernel.state;
        let is_bounded = |link: &LinkName| {
            let hooks = whole.hooks.iter().filter(|(at, _)| at == link);
            state.devices.contains_key(link) && hooks.into_iter().all(|hook| state.hooks.contains(hook))
        };
        let connected = state.veths.iter().filter(|(link, veth)| whole.veths.get(link) == Some(veth));
        for (link, veth) in connected {
            assert!(is_bounded(link) && is_bounded(&veth.bridge), "{link} is connected, {:?}", bench.daemon.trouble);
        }
        for (link, _) in &state.forwarding {
            assert!(is_bounded(link), "{link} forwards, {:?}", bench.daemon.trouble);
        }
        if bench.daemon.trouble.is_empty() {
            assert_eq!((state, failing), (&whole, 18));
            return;
        }
        bench.daemon.look_again().await;
        assert_eq!(bench.daemon.kernel.state, whole);
    }
}

#[tokio::test]
async fn wherever_a_departure_stops_no_container_is_connected_and_nothing_forwards_without_programs() {
    for failing in 0.. {
        let mut bench = Bench::new().await;
        bench.attach("c1", &[], &["8080:80"]).await.unwrap();
        let whole = bench.daemon.kernel.state.clone();

        for step in diff(&State::default(), &whole).iter().take(failing) {
            bench.daemon.kernel.apply(step).await.unwrap();
        }

        let state = &bench.daemon.kernel.state;
        for link in state.veths.keys().chain(state.forwarding.iter().map(|(link, _)| link)) {
            let programs = |state: &State| state.hooks.iter().filter(|(at, _)| at == link).count();
            assert_eq!(programs(state), programs(&whole), "{link} after {failing} steps");
        }
        if state.veths.is_empty() && state.forwarding.is_empty() {
            return;
        }
    }
}

#[tokio::test]
async fn a_container_whose_program_cannot_be_attached_again_has_no_network_until_it_can() {
    let mut bench = Bench::new().await;
    bench.network("blue").await;
    bench.attach("c1", &["blue"], &[]).await.unwrap();
    let whole = bench.daemon.kernel.state.clone();
    let veth = whole.veths.keys().next().unwrap().clone();
    let addresses = |bench: &Bench| bench.daemon.kernel.state.veths[&veth].interface.addresses.len();

    bench.daemon.kernel.state.hooks.remove(&(veth.clone(), Hook::FromContainer));
    bench.daemon.kernel.fail_after = Some(0);
    bench.daemon.reconcile().await.unwrap();
    assert_eq!(addresses(&bench), 0, "it is closed");

    bench.daemon.reconcile().await.unwrap();
    assert_eq!(bench.daemon.kernel.state, whole);
}
