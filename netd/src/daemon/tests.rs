//! The daemon over a kernel in memory: requests in, model, store and host compared before and after.

mod addresses;
mod repairs;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::PathBuf,
    rc::Rc,
};

use netd_common::{
    tables::{Flow, Span},
    tuple::{Address, Port, TCP, Tuple, UDP, Zone},
};
use rand::{SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::*;
use crate::{
    config::Config,
    model::{NetworkOrder, Protocol},
    reconcile::{Family, LinkName, Process, Sandbox, Uplink, Use, fake::FakeKernel},
    reserve::Binder,
};

struct Bench {
    daemon: Daemon<FakeKernel>,
    directory: TempDir,
    /// Ports that processes of the host have bound.
    bound: Rc<RefCell<BTreeSet<u16>>>,
}

impl Bench {
    /// A host with `eth0`, a few namespaces, and a daemon on an empty store.
    async fn new() -> Self {
        let link = LinkName::new("eth0").unwrap();
        let addresses = vec!["192.0.2.1/24".parse().unwrap()];
        let mut kernel = FakeKernel::default();
        let was_no_router = Family::BOTH.into();
        kernel.facts.uplinks =
            [(link, Uplink { layer3: false, mtu: 1500, path_mtu: 1500, addresses, was_no_router })].into();
        let route = Use::Route { device: "eth0".to_owned() };
        kernel.facts.uses = [("192.0.2.0/24".parse().unwrap(), route)].into();
        for (inode, name) in (1..).zip(["c1", "c2", "c3"]) {
            let path = PathBuf::from(format!("/run/netns/{name}"));
            kernel.namespaces.insert(path.clone(), Sandbox { path, inode });
        }
        kernel.interfaces = [LinkName::new("lo").unwrap()].into();
        Self::with(kernel, tempfile::tempdir().unwrap(), Rc::default()).await
    }

    async fn with(kernel: FakeKernel, directory: TempDir, bound: Rc<RefCell<BTreeSet<u16>>>) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let opened = Store::open(directory.path(), &mut rng).unwrap();
        let binder = binder(bound.clone());
        let about = About::default();
        let daemon =
            Daemon::start(kernel, opened, &Config::default(), Reservations::with(binder), None, Box::new(rng), about)
                .await
                .unwrap();
        Self { daemon, directory, bound }
    }

    /// The daemon dies, and another starts on the same store and host.
    async fn restarted(self) -> Self {
        let Self { daemon, directory, bound } = self;
        let kernel = daemon.kernel.clone();
        drop(daemon);
        Self::with(kernel, directory, bound).await
    }

    async fn network(&mut self, name: &str) {
        let order = NetworkOrder { name: name.into(), ..Default::default() };
        self.daemon.answer(Request::CreateNetwork(order)).await.unwrap();
    }

    async fn attach(&mut self, name: &str, networks: &[&str], ports: &[&str]) -> Result<EndpointView, Failure> {
        match self.daemon.answer(Request::Attach(wish(name, networks, ports))).await? {
            Reply::Endpoint(endpoint) => Ok(endpoint),
            other => panic!("{other:?}"),
        }
    }

    /// All that a failed request must leave as it was.
    fn everything(&self) -> (Model, State, State, Vec<crate::reserve::Place>) {
        let daemon = &self.daemon;
        (daemon.model.clone(), daemon.kernel.state.clone(), daemon.applied.clone(), daemon.reservations.places())
    }

    async fn stored(self) -> Model {
        let directory = self.directory;
        drop(self.daemon);
        Store::open(directory.path(), &mut StdRng::seed_from_u64(2)).unwrap().1
    }
}

fn binder(bound: Rc<RefCell<BTreeSet<u16>>>) -> Binder {
    Box::new(move |(address, _, port)| {
        if bound.borrow().contains(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        if address.to_string() == "198.51.100.1" {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(File::open("/dev/null")?.into())
    })
}

fn wish(name: &str, networks: &[&str], ports: &[&str]) -> EndpointOrder {
    EndpointOrder {
        name: name.into(),
        netns: Some(format!("/run/netns/{name}").into()),
        networks: networks.iter().map(|text| (*text).to_owned()).collect(),
        ports: ports.iter().map(|text| (*text).to_owned()).collect(),
        ..Default::default()
    }
}

fn line(failure: Failure) -> String {
    match failure {
        Failure::Refused(rejection) => rejection.to_string(),
        Failure::Failed(error) => format!("{error:#}"),
    }
}

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
        assert_eq!(bench.everything(), before, "after {failures} steps: {why}");
        assert_eq!(bench.stored().await, before.0);
        failures += 1;
    }
    // Bridge, forwarding, veths, programs, the resolver, records, endpoints and publications of two attachments.
    assert_eq!(failures, 20);
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
        tokio::time::sleep(SETTLE * 2).await;
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
