//! What is told as a repair: what somebody has broken, and nothing that is made for the first time.

use netd_common::tuple::Address;

use super::*;

/// Messages of the repairs told so far.
async fn repairs(bench: &Bench) -> Vec<String> {
    bench.daemon.events.end();
    let wish = EventWish::new([("since".to_owned(), "1h".to_owned()), ("type".to_owned(), "repair".to_owned())]);
    let Ok(wish) = wish else { panic!("a wish") };
    let mut listener = bench.daemon.events.listen(wish);
    let mut messages = Vec::new();
    while let Some(event) = listener.next().await {
        if let Happening::Repair { message, .. } = &event.what {
            messages.push(message.clone());
        }
    }
    messages
}

#[tokio::test]
async fn what_is_made_for_the_first_time_is_no_repair() {
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &["8080:80"]).await.unwrap();
    bench.daemon.look_again().await;

    assert_eq!(repairs(&bench).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_follows_the_host_is_no_repair_and_what_was_lost_is_one() {
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &[]).await.unwrap();
    bench.daemon.kernel.facts.addresses.insert("198.51.100.9".parse().unwrap());
    bench.daemon.look_again().await;
    bench.daemon.kernel.state.addresses.remove(&Address::v4([198, 51, 100, 9]));
    bench.daemon.look_again().await;

    assert_eq!(repairs(&bench).await, ["record the host's address 198.51.100.9"]);
}

/// As where a look sees a part of what somebody is just breaking.
#[tokio::test]
async fn what_was_lost_and_cannot_be_mended_at_once_is_told_when_it_is() {
    let mut bench = Bench::new().await;
    bench.network("blue").await;
    bench.daemon.kernel.state.bridges.clear();
    bench.daemon.kernel.fail_after = Some(0);
    bench.daemon.look_again().await;
    bench.daemon.look_again().await;

    let told = repairs(&bench).await;
    assert!(told.iter().any(|message| message.starts_with("network blue: the bridge")), "{told:?}");

    bench.daemon.kernel.state.bridges.clear();
    bench.daemon.look_again().await;
    assert!(repairs(&bench).await.len() > told.len(), "it is known again what was made");
}

#[tokio::test]
async fn what_was_lost_while_the_daemon_was_away_is_told_and_what_a_boot_lost_is_not() {
    let mut bench = Bench::new().await;
    bench.network("blue").await;
    bench.daemon.kernel.state.bridges.clear();
    let bench = bench.restarted().await;
    let told = repairs(&bench).await;
    assert!(told.iter().any(|message| message.starts_with("network blue: the bridge")), "{told:?}");

    let mut bench = bench;
    bench.daemon.kernel.state = State::default();
    let bench = bench.restarted().await;

    assert_eq!(repairs(&bench).await, Vec::<String>::new());
    assert_eq!(bench.daemon.kernel.state.bridges.len(), 1);
}
