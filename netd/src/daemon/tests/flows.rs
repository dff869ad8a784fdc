//! Flows as they are told and ended.

use std::net::SocketAddr;

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
        let filter = FlowFilter::new(owned(pairs)).unwrap();
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

    let only = FlowFilter::of_some(owned(&[("port", "8080")])).unwrap();
    let Reply::Flows(gone) = bench.daemon.answer(Request::EndFlows(only)).await.unwrap() else { panic!("flows") };
    assert_eq!(gone.iter().map(|flow| flow.original.dst.to_string()).collect::<Vec<_>>(), ["192.0.2.1:8080"]);
    assert!(bench.daemon.kernel.flows.iter().all(|(tuple, _)| *tuple != inward), "it is ended");
    assert!(FlowFilter::of_some([]).is_err(), "no filter is no wish to end everything");
}

#[tokio::test]
async fn a_flow_of_either_family_is_told_whole_and_ended_by_any_of_several_values() {
    let mut bench = Bench::new().await;
    let order = NetworkOrder {
        name: "both".into(),
        subnets: vec!["10.9.0.0/24".into(), "fd09::/64".into()],
        ..Default::default()
    };
    bench.daemon.answer(Request::CreateNetwork(order)).await.unwrap();
    bench.attach("c1", &["both:ip=10.9.0.5,ip6=fd09::5"], &[]).await.unwrap();
    let zone = bench.daemon.model.networks.values().find(|network| network.name.to_string() == "both").unwrap().zone();
    let second = |n: u64| netd_common::tables::Instant::from_ns(n * 1_000_000_000);
    let flow = |from: &str, host: &str, to: &str, protocol| {
        let [from, host, to] = [from, host, to].map(|end| end.parse::<SocketAddr>().unwrap());
        let tuple = |src: SocketAddr, zone| Tuple {
            src: src.ip().into(),
            src_port: Port::new(src.port()),
            dst: to.ip().into(),
            dst_port: Port::new(to.port()),
            protocol,
            echo: 0,
            zone,
        };
        let (key, becomes) = (tuple(from, zone), tuple(host, Zone::HOST));
        let times = Flow { created: second(1000), last_seen: second(1040), deadline: second(1170), ..Flow::default() };
        (key, Flow { becomes, legs: [3, 3], ..times })
    };
    bench.daemon.kernel.now = second(1050);
    bench.daemon.kernel.flows = vec![
        flow("10.9.0.5:4000", "192.0.2.1:4000", "198.51.100.7:80", TCP),
        flow("10.9.0.5:4001", "192.0.2.1:20000", "198.51.100.7:443", TCP),
        flow("[fd09::5]:4002", "[2001:db8::1]:4002", "[2001:db8:7::7]:53", UDP),
    ];
    let told = |protocol: &str, ends: [&str; 3], state: &str| FlowView {
        protocol: protocol.to_owned(),
        network: Some("both".to_owned()),
        container: Some("c1".to_owned()),
        original: FlowEnds { src: ends[0].parse().unwrap(), dst: ends[2].parse().unwrap() },
        translated: FlowEnds { src: ends[1].parse().unwrap(), dst: ends[2].parse().unwrap() },
        state: state.to_owned(),
        // By a clock that ticks every 1.07 s.
        age: 49,
        idle: 9,
        timeout: 120,
    };
    let wanted = [
        told("tcp", ["10.9.0.5:4000", "192.0.2.1:4000", "198.51.100.7:80"], "established"),
        told("tcp", ["10.9.0.5:4001", "192.0.2.1:20000", "198.51.100.7:443"], "established"),
        told("udp", ["[fd09::5]:4002", "[2001:db8::1]:4002", "[2001:db8:7::7]:53"], "replied"),
    ];
    let mut listed = async |pairs: &[(&str, &str)]| {
        let filter = FlowFilter::of_some(owned(pairs)).unwrap();
        let Reply::Flows(flows) = bench.daemon.answer(Request::Flows(filter)).await.unwrap() else { panic!("flows") };
        flows
    };

    assert_eq!(listed(&[("container", "c1")]).await, wanted);
    assert_eq!(listed(&[("port", "80"), ("port", "53")]).await, [wanted[0].clone(), wanted[2].clone()]);
    assert_eq!(listed(&[("port", "80"), ("port", "53"), ("protocol", "17")]).await, wanted[2..], "keys hold together");
    for address in ["2001:db8:7::7", "2001:0DB8:7:0::0007", "2001:db8::/32", "fd00::/8"] {
        assert_eq!(listed(&[("address", address)]).await, wanted[2..], "{address}");
    }
    assert_eq!(listed(&[("address", "192.0.2.0/24")]).await, wanted[..2]);
    assert_eq!(listed(&[("address", "192.0.2.0/32")]).await, []);

    let both = FlowFilter::of_some(owned(&[("port", "80"), ("port", "443")])).unwrap();
    let Reply::Flows(gone) = bench.daemon.answer(Request::EndFlows(both)).await.unwrap() else { panic!("flows") };
    assert_eq!(gone, wanted[..2]);
    assert_eq!(bench.daemon.kernel.flows.len(), 1);
}

#[test]
fn what_no_flow_can_have_is_refused_with_what_there_is() {
    for (key, value, why) in [
        ("colour", "red", "`colour` is not something to filter by: network, container, address, port, protocol, state"),
        ("state", "estab", "`estab` is not a state of a flow: unreplied, replied, syn_sent"),
        ("protocol", "TPC", "`TPC` is not a protocol: tcp, udp, sctp, icmp or a number below 256"),
        ("protocol", "256", "`256` is not a protocol"),
        ("port", "http", "`http` is not a port"),
        ("address", "10.0.0", "`10.0.0` is not an address or a range of addresses"),
    ] {
        let refused = FlowFilter::new(owned(&[("port", "80"), (key, value)])).unwrap_err();
        assert!(refused.to_string().starts_with(why), "{refused}");
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
