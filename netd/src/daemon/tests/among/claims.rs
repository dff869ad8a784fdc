//! Addresses that this host claims for endpoints to come.

use super::*;

#[tokio::test]
async fn an_address_is_kept_for_nobody_after_its_container_though_etcd_went_as_that_one_came() {
    let (played, pending) = Membership::granting_once("a");
    let mut among = Among::by(played).await;
    among.put(Key::Network(name("blue")), Record::Network(Box::new(network(&[]))));
    among.hears().await;

    among.bench.attach("c1", &["blue"], &[]).await.unwrap();
    among.bench.daemon.answer(Request::Detach("c1".to_owned())).await.unwrap();
    drop(among);

    assert_eq!(pending.await.unwrap(), []);
}
