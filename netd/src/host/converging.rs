//! Arbitrary models on a real host: the steps lead there from wherever the last one has left off, and then there are none.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use rand::{SeedableRng, rngs::StdRng};

use super::{fixtures::*, *};
use crate::{
    ipam::{Pools, unique_local},
    model::{self, AttachOrder, Joining, Mode, Model, NetworkOrder, Surroundings},
    plan::{Choices, plan, sandboxes_of_veths},
    reconcile::{HostFacts, Kernel, Step, diff},
    testing::{add_veth, on_a_host_of_its_own, sandbox},
};

/// Models that follow each other; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 8;

/// What is in a model: networks by what is special about them, and endpoints by the networks that each is in.
#[derive(Clone, Debug)]
struct Wish {
    networks: Vec<(bool, bool)>,
    endpoints: Vec<Vec<usize>>,
    seed: u64,
}

/// A model, and how many steps towards it are taken at first.
fn wishes() -> impl Strategy<Value = (Wish, usize)> {
    let networks = vec((any::<bool>(), any::<bool>()), 0..4);
    let endpoints = vec(vec(0..4_usize, 1..3), 0..4);
    // Few seeds: the same names and numbers come again, in other networks.
    let wish =
        (networks, endpoints, 0..3_u64).prop_map(|(networks, endpoints, seed)| Wish { networks, endpoints, seed });
    (wish, 0..60_usize)
}

fn model(wish: &Wish, facts: &HostFacts, sandboxes: &[Sandbox]) -> Model {
    let mut rng = StdRng::seed_from_u64(wish.seed);
    let pools = Pools::automatic(unique_local(7));
    let mut model = Model::default();
    for (number, (ipv6, internal)) in wish.networks.iter().enumerate() {
        let order =
            NetworkOrder { name: format!("n{number}"), ipv6: *ipv6, internal: *internal, ..NetworkOrder::default() };
        model::create_network(&mut model, &order, Surroundings { facts, pools: &pools, segment: None }, 0, &mut rng)
            .unwrap();
    }
    for (number, (networks, sandbox)) in wish.endpoints.iter().zip(sandboxes).enumerate() {
        let joined: BTreeSet<usize> = networks.iter().copied().filter(|n| *n < wish.networks.len()).collect();
        let order = AttachOrder {
            name: format!("e{number}").parse().unwrap(),
            sandbox: sandbox.clone(),
            mode: Mode::Own,
            netns_made: false,
            process: None,
            command: Vec::new(),
            labels: BTreeMap::new(),
            joining: Joining {
                specs: joined.into_iter().map(|n| format!("n{n}").parse().unwrap()).collect(),
                interfaces: [crate::testing::link("lo")].into(),
                ..Joining::default()
            },
            dns: Vec::new(),
        };
        model::attach(&mut model, order, 0, &mut rng).unwrap();
    }
    model
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

#[test]
fn arbitrary_models_converge_from_wherever_the_last_one_stopped_and_strangers_survive() {
    on_a_host_of_its_own(async |directory| {
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
        let sandboxes: Vec<Sandbox> = (0..4).map(|_| sandbox()).collect();
        let mut host = open(&directory, false).await;

        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
        let mut runner = TestRunner::deterministic();
        for case in 0..cases {
            let (wish, stop) = wishes().new_tree(&mut runner).unwrap().current();
            let facts = host.facts(&BTreeSet::new()).await.unwrap();
            let model = model(&wish, &facts, &sandboxes);

            towards(&mut host, &model, stop).await;
            if case % 3 == 2 {
                // The daemon that goes on is another.
                drop(host);
                host = open(&directory, false).await;
                host.remember_sandboxes(sandboxes_of_veths(&model)).unwrap();
            }
            let steps = towards(&mut host, &model, usize::MAX).await;
            let left = towards(&mut host, &model, usize::MAX).await;

            assert_eq!(left, [], "a second pass has nothing to do after {steps:?} for {wish:?}");
            let found = links();
            assert!(strangers.iter().all(|stranger| found.contains(stranger)), "{found:?} after {wish:?}");
        }
        towards(&mut host, &Model::default(), usize::MAX).await;
        assert_eq!(links(), strangers);
    });
}
