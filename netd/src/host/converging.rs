//! Arbitrary models on a real host: the steps lead there from wherever the last one has left off, and then there are none.

use std::{cell::RefCell, collections::BTreeMap, env, path::PathBuf, sync::mpsc, thread};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{TestCaseResult, TestRunner},
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{fixtures::*, *};
use crate::{
    ipam::{Pools, unique_local},
    model::{
        self, AttachOrder, Joining, Mode, Model, Name, NetworkOrder, PortPublication, PortSpec, Surroundings, Target,
    },
    plan::{Choices, plan, sandboxes_of_veths},
    reconcile::{HostFacts, Kernel, Step, diff},
    testing::{add_veth, link, on_a_host_of_its_own, sandbox},
};

/// Stories that are tried; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 4;

/// How long a story that ends badly is made shorter, in milliseconds.
const SHRINKING: u32 = 60_000;

/// How many endpoints there may be.
const ENDPOINTS: usize = 4;

/// What somebody asks for of a network.
#[derive(Clone, Debug)]
struct NetworkWish {
    ipv6: bool,
    internal: bool,
    no_icc: bool,
}

/// What somebody asks for of an endpoint: its networks and its ports by number, and who may open something to it.
#[derive(Clone, Debug)]
struct EndpointWish {
    networks: Vec<usize>,
    ports: Vec<PortWish>,
    allows: Option<(usize, bool)>,
}

#[derive(Clone, Debug)]
struct PortWish {
    first: u16,
    more: u16,
    udp: bool,
    from_some: bool,
}

/// A model; how many steps towards it are taken at first; and whether the daemon that goes on then is another.
#[derive(Clone, Debug)]
struct Chapter {
    networks: Vec<NetworkWish>,
    endpoints: Vec<EndpointWish>,
    seed: u64,
    stop: usize,
    restarts: bool,
}

fn chapter() -> impl Strategy<Value = Chapter> {
    let network = (any::<bool>(), any::<bool>(), any::<bool>());
    let network = network.prop_map(|(ipv6, internal, no_icc)| NetworkWish { ipv6, internal, no_icc });
    // Few numbers: what one endpoint had another has next, and what one asks for another has.
    let port = (8080..8084_u16, 0..3_u16, any::<bool>(), any::<bool>());
    let port = port.prop_map(|(first, more, udp, from_some)| PortWish { first, more, udp, from_some });
    let allows = prop::option::of((0..ENDPOINTS, any::<bool>()));
    let endpoint = (vec(0..4_usize, 1..3), vec(port, 0..3), allows);
    let endpoint = endpoint.prop_map(|(networks, ports, allows)| EndpointWish { networks, ports, allows });
    // The same names come again, in other networks.
    let parts = (vec(network, 0..4), vec(endpoint, 0..=ENDPOINTS), 0..3_u64, 0..60_usize, any::<bool>());
    parts.prop_map(|(networks, endpoints, seed, stop, restarts)| Chapter { networks, endpoints, seed, stop, restarts })
}

fn model(wish: &Chapter, facts: &HostFacts, sandboxes: &[Sandbox]) -> Model {
    let mut rng = StdRng::seed_from_u64(wish.seed);
    let pools = Pools::automatic(unique_local(7));
    let mut model = Model::default();
    for (number, NetworkWish { ipv6, internal, no_icc }) in wish.networks.iter().enumerate() {
        let (name, ipv6, internal, no_icc) = (format!("n{number}"), *ipv6, *internal, *no_icc);
        let order = NetworkOrder { name, ipv6, internal, no_icc, ..NetworkOrder::default() };
        let surroundings = Surroundings { facts, pools: &pools, segment: None, elsewhere: &[], absent: &[] };
        model::create_network(&mut model, &order, surroundings, 0, &mut rng).unwrap();
    }
    for (number, (endpoint, sandbox)) in wish.endpoints.iter().zip(sandboxes).enumerate() {
        let joined: BTreeSet<usize> = endpoint.networks.iter().copied().filter(|n| *n < wish.networks.len()).collect();
        let order = AttachOrder {
            name: name(number),
            sandbox: sandbox.clone(),
            mode: Mode::Own,
            netns_made: false,
            process: None,
            command: Vec::new(),
            labels: BTreeMap::new(),
            joining: Joining {
                specs: joined.into_iter().map(|n| format!("n{n}").parse().unwrap()).collect(),
                interfaces: [link("lo")].into(),
                ..Joining::default()
            },
            dns: Vec::new(),
        };
        model::attach(&mut model, order, 0, &mut rng).unwrap();
    }
    for (number, endpoint) in wish.endpoints.iter().enumerate() {
        endpoint.ports.iter().for_each(|port| publish(&mut model, &name(number), port));
        if let Some((from, everything)) = endpoint.allows {
            let port = if everything { "" } else { ":80" };
            let target: Target = format!("{}{port}", name(number)).parse().unwrap();
            // Refused where nothing keeps the two apart.
            drop(model::allow(&mut model, &name(from), &target));
        }
    }
    model
}

fn name(endpoint: usize) -> Name {
    format!("e{endpoint}").parse().unwrap()
}

/// Publishes what is wished for, unless it is refused: another has it, or no way leads out.
fn publish(model: &mut Model, name: &Name, wish: &PortWish) {
    let PortWish { first, more, udp, from_some } = wish;
    let (last, protocol) = (first + more, if *udp { "udp" } else { "tcp" });
    let from = if *from_some { ",from=192.0.2.0/24" } else { "" };
    let spec: PortSpec = format!("{first}-{last}:80-{}/{protocol}{from}", 80 + more).parse().unwrap();
    let Ok(places) = model::places(model, name, &spec, &[]) else { return };
    let publication = |place: model::Place| PortPublication {
        host_ip: place.address,
        direct: place.direct,
        host_port: if place.direct { spec.port } else { *first },
        port: spec.port,
        count: spec.count,
        protocol: spec.protocol,
        from: spec.from.clone(),
        mesh: false,
    };
    let mut next = model.clone();
    if model::publish(&mut next, name, &places.into_iter().map(publication).collect::<Vec<_>>()).is_ok() {
        *model = next;
    }
}

/// Takes the first `most` of the steps that are due; how many there were.
async fn towards(host: &mut Host, model: &Model, most: usize) -> Vec<Step> {
    let facts = host.facts(&model.sandboxes()).await.unwrap();
    let desired = plan(model, &facts, &Choices { secret: [1, 2], ..Choices::default() });
    let observed = host.observe().await.unwrap();
    let steps = diff(&desired, &observed);
    for step in steps.iter().take(most) {
        if let Err(error) = host.apply(step).await {
            panic!("{step}: {error:#}");
        }
    }
    steps
}

/// A host on which one story after the other is played; after one that has ended badly it is another.
#[derive(Default)]
struct Stage(Option<Company>);

struct Company {
    stories: UnboundedSender<Vec<Chapter>>,
    ended: mpsc::Receiver<()>,
    host: thread::JoinHandle<()>,
}

impl Company {
    fn new() -> Self {
        let ((stories, told), (ends, ended)) = (unbounded_channel(), mpsc::channel());
        let host = thread::spawn(|| on_a_host_of_its_own(async move |directory| play(told, ends, directory).await));
        Self { stories, ended, host }
    }
}

impl Stage {
    fn plays(&mut self, story: Vec<Chapter>) -> TestCaseResult {
        let company = self.0.take().unwrap_or_else(Company::new);
        if company.stories.send(story).is_ok() && company.ended.recv().is_ok() {
            self.0 = Some(company);
            return Ok(());
        }
        let why = company.host.join().expect_err("it ends when there are no more stories");
        let said = why.downcast_ref::<String>().cloned();
        Err(TestCaseError::fail(said.unwrap_or_else(|| "it ended badly".to_owned())))
    }

    /// Takes everything away again.
    fn close(self) {
        let Some(Company { stories, host, .. }) = self.0 else { return };
        drop(stories);
        host.join().unwrap();
    }
}

async fn play(mut stories: UnboundedReceiver<Vec<Chapter>>, ends: mpsc::Sender<()>, directory: PathBuf) {
    add_veth("wan0", "wan1", 7).await;
    ip(&["address", "add", "192.0.2.1/24", "dev", "wan0"]);
    for name in ["wan0", "wan1"] {
        ip(&["link", "set", name, "up"]);
    }
    // Each lacks one of the marks that a device of netd's has.
    ip(&["link", "add", "ndb-00000000", "type", "bridge"]);
    ip(&["link", "add", "ndv-00000000", "type", "veth", "peer", "name", "ndv-00000001"]);
    ip(&["link", "add", "br0", "type", "bridge"]);
    ip(&["link", "set", "br0", "alias", "netd network n0"]);
    let strangers = links();
    let sandboxes: Vec<Sandbox> = (0..ENDPOINTS).map(|_| sandbox()).collect();
    let mut host = open(&directory, false).await;
    while let Some(story) = stories.recv().await {
        for chapter in story {
            let facts = host.facts(&BTreeSet::new()).await.unwrap();
            let model = model(&chapter, &facts, &sandboxes);

            towards(&mut host, &model, chapter.stop).await;
            if chapter.restarts {
                drop(host);
                host = open(&directory, false).await;
                host.remember_sandboxes(sandboxes_of_veths(&model)).unwrap();
            }
            let steps = towards(&mut host, &model, usize::MAX).await;
            let left = towards(&mut host, &model, usize::MAX).await;

            assert_eq!(left, [], "a second pass has nothing to do after {steps:?} for {chapter:?}");
            let found = links();
            assert!(strangers.iter().all(|stranger| found.contains(stranger)), "{found:?} after {chapter:?}");
        }
        // Each story is one of its own.
        towards(&mut host, &Model::default(), usize::MAX).await;
        assert_eq!(links(), strangers);
        if ends.send(()).is_err() {
            return;
        }
    }
}

#[test]
fn arbitrary_models_converge_from_wherever_the_last_one_stopped_and_strangers_survive() {
    let cases = env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config = ProptestConfig {
        cases,
        max_shrink_time: SHRINKING,
        source_file: Some(file!()),
        test_name: Some("arbitrary_models_converge"),
        ..ProptestConfig::default()
    };
    let stage = RefCell::new(Stage::default());

    let outcome = TestRunner::new(config).run(&vec(chapter(), 1..4), |story| stage.borrow_mut().plays(story));

    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    stage.into_inner().close();
}
