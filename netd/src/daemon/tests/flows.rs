//! Flows as they are told and ended.

use netd_common::{
    tables::{Flow, Span},
    tuple::{Address, Port, TCP, Tuple, UDP, Zone},
};

use super::*;

#[tokio::test]
async fn flows_are_told_once_with_names_and_without_those_that_ended() {
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &["8080:80"]).await.unwrap();
    let address = Address::v4;
    let (container, client, host) = (address([10, 176, 0, 2]), address([192, 0, 2, 9]), address([192, 0, 2, 1]));
    let tuple = |src, src_port, dst, dst_port, protocol, zone| Tuple {
        src,
        dst,
        src_port: Port::new(src_port),
        dst_port: Port::new(dst_port),
        protocol,
        echo: 0,
        zone: Zone(zone),
    };
    let now = netd_common::tables::Instant::from_ns(100 << 30);
    let deadline = now.after(Span::at_least_seconds(60));
    let flow = |becomes, direction, legs, deadline| Flow {
        becomes,
        direction,
        legs,
        last_seen: now,
        deadline,
        ..Default::default()
    };
    let outward = tuple(container, 4000, client, 53, UDP, 1);
    let inward = tuple(client, 5000, host, 8080, TCP, 0);
    let ended = tuple(container, 4001, client, 53, UDP, 1);
    bench.daemon.kernel.now = now;
    bench.daemon.kernel.flows = vec![
        (outward, flow(tuple(host, 20_000, client, 53, UDP, 0), 0, [1, 0], deadline)),
        // Of these packets only the other half knows.
        (inward, flow(tuple(client, 5000, container, 80, TCP, 1), 0, [3, 3], netd_common::tables::Instant::from_ns(0))),
        (
            tuple(container, 80, client, 5000, TCP, 1),
            flow(tuple(host, 8080, client, 5000, TCP, 0), 1, [3, 3], deadline),
        ),
        (ended, flow(tuple(host, 20_001, client, 53, UDP, 0), 0, [1, 0], netd_common::tables::Instant::from_ns(0))),
    ];
    let mut listed = async |pairs: &[(&str, &str)]| {
        let pairs: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let filter = FlowFilter::new(pairs).unwrap();
        let Reply::Flows(flows) = bench.daemon.answer(Request::Flows(filter)).await.unwrap() else { panic!("flows") };
        flows
    };

    let all = listed(&[]).await;
    let told: Vec<_> = all
        .iter()
        .map(|f| (f.original.dst.to_string(), f.translated.dst.to_string(), f.container.as_deref(), f.state.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("192.0.2.9:53".to_owned(), "192.0.2.9:53".to_owned(), Some("c1"), "unreplied"),
            ("192.0.2.1:8080".to_owned(), "10.176.0.2:80".to_owned(), Some("c1"), "established"),
        ]
    );
    assert_eq!(listed(&[("protocol", "tcp"), ("port", "80")]).await, all[1..]);
    assert_eq!(listed(&[("address", "192.0.2.1")]).await.len(), 2);
    assert_eq!(listed(&[("network", "bridge"), ("state", "unreplied")]).await, all[..1]);
    assert_eq!(listed(&[("container", "c2")]).await, []);
    let unknown = FlowFilter::new([("colour".to_owned(), "red".to_owned())].into()).unwrap_err();
    assert!(unknown.to_string().starts_with("`colour` is not something to filter by"));

    let only = FlowFilter::of_some([("port".to_owned(), "8080".to_owned())].into()).unwrap();
    let Reply::Flows(gone) = bench.daemon.answer(Request::EndFlows(only)).await.unwrap() else { panic!("flows") };
    assert_eq!(gone.iter().map(|flow| flow.original.dst.to_string()).collect::<Vec<_>>(), ["192.0.2.1:8080"]);
    assert!(bench.daemon.kernel.flows.iter().all(|(tuple, _)| *tuple != inward), "it is ended");
    assert!(FlowFilter::of_some(BTreeMap::new()).is_err(), "no filter is no wish to end everything");
}
