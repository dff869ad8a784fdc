//! An address is an endpoint's that is listed, or free: whatever cuts a change off, none is lost.

use super::*;

/// Addresses that a container of a /29 can have.
const ROOM: usize = 5;

/// A host with a network `small` of [`ROOM`] addresses and as many more namespaces.
async fn small() -> Bench {
    let mut bench = Bench::new().await;
    for inode in 11..=11 + ROOM as u64 {
        let path = PathBuf::from(format!("/run/netns/n{inode}"));
        bench.daemon.kernel.namespaces.insert(path.clone(), Sandbox { path, inode });
    }
    let order = NetworkOrder { name: "small".into(), subnets: vec!["10.9.0.0/29".into()], ..Default::default() };
    bench.daemon.answer(Request::CreateNetwork(order)).await.unwrap();
    bench
}

/// Has a request made, up to the step at which the daemon dies, and starts it again; whether it did die.
async fn cut_off(mut bench: Bench, step: usize, request: Request) -> (Bench, bool) {
    bench.daemon.kernel.stop_after = Some(step);
    let died = tokio::select! {
        biased;
        _ = bench.daemon.answer(request) => false,
        () = std::future::ready(()) => true,
    };
    bench.daemon.kernel.stop_after = None;
    (bench.restarted().await, died)
}

/// Asserts that all of the addresses are there: those that listed endpoints have, and those that are given out until none is left.
#[track_caller]
fn assert_none_lost(listed: usize, given: usize) {
    assert_eq!(listed + given, ROOM, "{listed} endpoints have an address, {given} more were given one");
}

/// Attaches until the network is full; how many it took.
async fn fill(bench: &mut Bench) -> usize {
    for given in 0.. {
        let name = format!("n{}", 11 + given);
        match bench.attach(&name, &["small"], &[]).await {
            Ok(_) => {}
            Err(refused) => {
                let refused = line(refused);
                assert!(refused.contains("small") && refused.contains("no free address"), "{refused}");
                return given;
            }
        }
    }
    unreachable!("a network has an end")
}

#[tokio::test]
async fn wherever_the_daemon_dies_in_an_attachment_or_a_departure_no_address_is_lost() {
    let attach = || Request::Attach(wish("c2", &["small"], &[]));
    for (has_c2, request) in [(false, attach as fn() -> Request), (true, || Request::Detach("c2".into()))] {
        for step in 0.. {
            let mut bench = small().await;
            bench.attach("c1", &["small"], &[]).await.unwrap();
            if has_c2 {
                bench.attach("c2", &["small"], &[]).await.unwrap();
            }

            let (mut bench, died) = cut_off(bench, step, request()).await;

            let listed = bench.daemon.model.endpoints.len();
            assert_none_lost(listed, fill(&mut bench).await);
            if !died {
                assert!(step > 3, "a change has steps to die at");
                break;
            }
        }
    }
}

#[tokio::test]
async fn an_attachment_that_fails_at_any_step_gives_its_address_back() {
    for step in 0.. {
        let mut bench = small().await;
        bench.daemon.kernel.fail_after = Some(step);

        let failed = bench.attach("c1", &["small"], &[]).await.is_err();

        bench.daemon.kernel.fail_after = None;
        assert_none_lost(usize::from(!failed), fill(&mut bench).await);
        if !failed {
            return;
        }
    }
}

#[tokio::test]
async fn a_vanished_namespace_and_a_boot_keep_addresses_for_endpoints_that_are_listed_and_no_others() {
    let mut bench = small().await;
    bench.attach("c1", &["small"], &[]).await.unwrap();
    bench.attach("c2", &["small"], &[]).await.unwrap();
    bench.daemon.kernel.namespaces.remove(&PathBuf::from("/run/netns/c1"));
    bench.daemon.look_again().await;
    assert_none_lost(2, fill(&mut bench).await);

    bench.daemon.kernel.state = State::default();
    bench.daemon.kernel.namespaces.retain(|path, _| path.ends_with("n11"));
    let mut bench = bench.restarted().await;
    let listed: Vec<crate::model::Name> = bench.daemon.model.endpoints.keys().cloned().collect();
    assert_eq!(listed.len(), ROOM);
    for name in listed {
        bench.daemon.answer(Request::Detach(name.to_string())).await.unwrap();
    }
    for inode in 11..=11 + ROOM as u64 {
        let path = PathBuf::from(format!("/run/netns/n{inode}"));
        bench.daemon.kernel.namespaces.insert(path.clone(), Sandbox { path, inode });
    }

    assert_none_lost(0, fill(&mut bench).await);
}
