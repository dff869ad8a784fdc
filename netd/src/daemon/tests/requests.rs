//! What is asked of the daemon: done whole or not at all, and refused with its line.

use netd_common::tuple::{Address, TCP, Zone};

use super::*;

#[tokio::test]
async fn an_endpoint_that_names_no_network_makes_and_joins_the_default_one() {
    let mut bench = Bench::new().await;

    let endpoint = bench.attach("c1", &[], &["8080:80"]).await.unwrap();

    assert_eq!(endpoint.networks[0].network, "bridge");
    assert_eq!(endpoint.networks[0].ip, Some([10, 176, 0, 2].into()));
    assert_eq!(endpoint.networks[0].ifname, "eth0");
    assert_eq!((endpoint.ports[0].host_port, endpoint.ports[0].port), (8080, 80));
    assert_eq!(endpoint.state, "attached");
    let daemon = &bench.daemon;
    assert_eq!(daemon.kernel.state, daemon.planned(&daemon.model));
    assert_eq!(bench.everything().0, bench.stored().await);
}

#[tokio::test]
async fn an_attach_that_fails_at_any_step_leaves_everything_as_it_was() {
    let mut failures = 0;
    loop {
        let mut bench = Bench::new().await;
        bench.network("front").await;
        bench.attach("c1", &["front"], &["8080:80"]).await.unwrap();
        let before = bench.everything();

        bench.daemon.kernel.fail_after = Some(failures);
        let attached = bench.attach("c2", &["front", "bridge"], &["8000-8002:80-82", "53:53/udp"]).await;

        let Err(failure) = attached else { break };
        let why = line(failure);
        assert!(why.starts_with("cannot ") && why.contains("the kernel refused"), "{why}");
        let mut now = bench.everything();
        assert_eq!(bench.stored().await, now.0);
        // Somebody may have heard of its address, which is therefore given again last.
        let front = now.0.networks.get_mut(&"front".parse().unwrap()).unwrap();
        let heard_of = std::mem::take(&mut front.subnets[0].freed);
        assert_eq!(heard_of, ["10.176.0.3".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(now, before, "after {failures} steps: {why}");
        failures += 1;
    }
    // Bridge, forwarding, veths, programs, the resolver, records, endpoints and publications of two attachments.
    assert_eq!(failures, 20);
}

#[tokio::test]
async fn many_ports_are_opened_by_one_call_and_where_that_fails_one_at_a_time() {
    let specs: Vec<_> = (0..100).map(|n| format!("{}:80", 10_000 + 2 * n)).collect();
    let specs: Vec<_> = specs.iter().map(String::as_str).collect();
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &specs).await.unwrap();
    assert_eq!(bench.daemon.kernel.at_once, 100);
    assert_eq!(bench.daemon.kernel.state.publications.len(), 100);

    let mut other = Bench::new().await;
    other.daemon.kernel.fail_after = Some(1000);
    other.attach("c1", &[], &specs).await.unwrap();

    assert_eq!(other.daemon.kernel.at_once, 0);
    assert_eq!(other.daemon.kernel.state.publications, bench.daemon.kernel.state.publications);
}

#[tokio::test]
async fn a_detach_that_fails_leaves_the_endpoint_attached() {
    let mut bench = Bench::new().await;
    bench.attach("c1", &[], &["8080:80"]).await.unwrap();
    let before = bench.everything();

    bench.daemon.kernel.fail_after = Some(2);
    let failure = bench.daemon.answer(Request::Detach("c1".into())).await.unwrap_err();

    assert!(matches!(failure, Failure::Failed(_)));
    assert_eq!(bench.everything(), before);
    assert_eq!(bench.daemon.kernel.forgotten, []);
}

#[tokio::test]
async fn what_is_detached_is_gone_with_its_flows_and_its_ports() {
    let mut bench = Bench::new().await;
    bench.network("front").await;
    let before = bench.everything();
    bench.attach("c1", &["front"], &["8080:80"]).await.unwrap();
    assert_eq!(bench.daemon.reservations.places().len(), 2, "and the loopback's of the family that it lacks");

    bench.daemon.answer(Request::Detach("c1".into())).await.unwrap();

    assert_eq!(bench.daemon.kernel.forgotten, [(Zone(1), Address::v4([10, 176, 0, 2]))]);
    let after = bench.everything();
    assert_eq!((&after.1, &after.2, &after.3), (&before.1, &before.2, &before.3));
    assert!(after.0.endpoints.is_empty());
}

#[tokio::test]
async fn every_bad_request_is_refused_with_its_line_and_changes_nothing() {
    let mut bench = Bench::new().await;
    bench.network("front").await;
    bench.attach("c1", &["front"], &["8080:80"]).await.unwrap();
    bench.bound.borrow_mut().extend([9090, 9091]);
    let nginx = Process { pid: 123, command: "nginx".into() };
    bench.daemon.kernel.holders.insert((TCP, 9090), nginx);
    let ports = |ports: &[&str]| PortsOrder {
        ports: ports.iter().map(|text| (*text).to_owned()).collect(),
        ..Default::default()
    };
    let attach = |name, networks: &[&str], ports: &[&str]| Request::Attach(wish(name, networks, ports));
    let nowhere = EndpointOrder { netns: Some("/etc/passwd".into()), ..wish("c2", &[], &[]) };
    let pid = EndpointOrder { netns: None, pid: Some(u32::MAX), ..wish("c2", &[], &[]) };
    let neither = EndpointOrder { netns: None, ..wish("c2", &[], &[]) };
    let before = bench.everything();

    let cases = [
        (Request::Network("nope".into()), "there is no network nope"),
        (Request::RemoveNetwork("nope".into()), "there is no network nope"),
        (Request::RemoveNetwork("front".into()), "network front is in use by c1"),
        (Request::Endpoint("c9".into()), "there is no endpoint c9"),
        (Request::Detach("c9".into()), "there is no endpoint c9"),
        (Request::Publish("c9".into(), ports(&["81:80"])), "there is no endpoint c9"),
        (attach("c1", &[], &[]), "endpoint c1 exists already"),
        (attach("c2", &["nope"], &[]), "there is no network nope"),
        (attach("c2", &["front:ip=10.176.0.2"], &[]), "address 10.176.0.2 of network front is taken by c1"),
        (Request::Attach(nowhere), "/etc/passwd is no network namespace"),
        (Request::Attach(pid), "there is no process 4294967295"),
        (Request::Attach(neither), "give the container's network namespace either by its path or by a process id"),
        (attach("c2", &[], &["8080:80"]), "port 8080/tcp of every IPv4 address is published by c1 already"),
        (attach("c2", &[], &["9090:80"]), "port 9090/tcp is held by nginx (pid 123)"),
        (attach("c2", &[], &["9091:80"]), "port 9091/tcp is in use on the host"),
        (attach("c2", &[], &["198.51.100.1:81:80"]), "198.51.100.1 is no address of this host"),
        (
            attach("c2", &[], &["81:80", "81:81"]),
            "`81:81` does not say which port to publish: port 81 is asked for twice",
        ),
        (
            Request::Publish("c1".into(), ports(&["80:132/sctp"])),
            "`80:132/sctp` does not say which port to publish: SCTP keeps its port, so it is 132 on the host too",
        ),
        (Request::Unpublish("c1".into(), ports(&["80", "81"])), "c1 publishes nothing as 81"),
    ];
    for (request, wanted) in cases {
        let failure = bench.daemon.answer(request).await.unwrap_err();
        assert!(matches!(failure, Failure::Refused(_)));
        assert_eq!(line(failure), wanted);
        assert_eq!(bench.everything(), before, "{wanted}");
    }
    assert_eq!(bench.stored().await, before.0);
}

#[tokio::test]
async fn without_a_port_of_the_host_a_free_one_is_chosen() {
    let mut bench = Bench::new().await;
    bench.bound.borrow_mut().insert(46_883);
    bench.daemon.kernel.holders.insert((TCP, 46_884), Process { pid: 1, command: "x".into() });

    let endpoint = bench.attach("c1", &[], &["80", "443", "9000-9002"]).await.unwrap();

    let ports: Vec<_> = endpoint.ports.iter().map(|port| (port.host_port, port.port, port.count)).collect();
    assert_eq!(ports, [(46_885, 80, 1), (46_886, 443, 1), (46_887, 9000, 3)]);
}

#[tokio::test]
async fn the_task_answers_messages_looks_after_a_sign_and_ends_when_told() {
    let mut bench = Bench::new().await;
    let (requests, inbox) = mpsc::channel(1);
    let (sign, signs) = watch::channel(0);
    let (stop, stopped) = oneshot::channel::<()>();
    bench.attach("c1", &[], &[]).await.unwrap();
    bench.daemon.kernel.state.hooks.clear();

    let asks = async {
        let Reply::Networks(networks) = ask(&requests, Request::Networks).await.unwrap() else { panic!("networks") };
        assert_eq!(networks[0].endpoints, ["c1"]);
        sign.send(1).unwrap();
        tokio::time::sleep(looks::SETTLE * 2).await;
        stop.send(()).unwrap();
    };
    let stopped = async {
        let _ = stopped.await;
    };
    tokio::join!(bench.daemon.run(inbox, signs, stopped), asks);

    assert_eq!(bench.daemon.kernel.state.hooks.len(), 5);
    assert!(bench.daemon.kernel.collected > 0);
    assert!(matches!(ask(&requests, Request::Status).await, Err(Failure::Failed(_))));
}
