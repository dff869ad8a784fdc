//! Whatever becomes of a model, a part of the plan and the whole say the same.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    super::{plan, there},
    *,
};
use crate::{
    dns::Directory,
    model::{
        Endpoint, Joining, NetworkOrder, Party, PortPublication, PortSpec, Rejection, Target, allow, attach, connect,
        detach, disconnect, places, tests as models, unpublish,
    },
    reconcile::{Sandbox, diff},
};

/// Networks of every kind that a part must tell apart: plain, internal, of both families, kept apart, unprotected, with sources.
const NETWORKS: [&str; 6] = ["front", "back", "dual", "apart", "open", "limited"];
const PORTS: [&str; 7] =
    ["8080:80", "8081:81/udp", "192.0.2.1:8082:80", "9000-9009:9000-9009", "8083:80,from=10.0.0.0/8", "80", "41000:80"];

#[derive(Clone, Debug)]
enum Change {
    Attach { name: u8, namespace: u8, networks: Vec<usize> },
    Detach(u8),
    Connect(u8, usize),
    Disconnect(u8, usize),
    Publish(u8, &'static str),
    Unpublish(u8, &'static str),
    Allow(u8, u8),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let (name, network) = (|| 0..5_u8, || 0..NETWORKS.len());
    let change = prop_oneof![
        4 => (name(), 0..6_u8, vec(network(), 1..3))
            .prop_map(|(name, namespace, networks)| Change::Attach { name, namespace, networks }),
        1 => name().prop_map(Change::Detach),
        1 => (name(), network()).prop_map(|(name, network)| Change::Connect(name, network)),
        1 => (name(), network()).prop_map(|(name, network)| Change::Disconnect(name, network)),
        2 => (name(), select(&PORTS)).prop_map(|(name, port)| Change::Publish(name, port)),
        1 => (name(), select(&PORTS)).prop_map(|(name, port)| Change::Unpublish(name, port)),
        1 => (name(), name()).prop_map(|(from, to)| Change::Allow(from, to)),
    ];
    vec(change, 1..24)
}

fn named(number: u8) -> Name {
    format!("c{number}").parse().unwrap()
}

fn networks() -> Model {
    let mut model = Model::default();
    for name in NETWORKS {
        let order = NetworkOrder {
            name: name.into(),
            internal: name == "back",
            ipv6: name == "dual",
            no_icc: name == "apart",
            from: if name == "limited" { vec!["10.0.0.0/8".into()] } else { Vec::new() },
            options: match name {
                "open" => BTreeMap::from([(
                    "com.docker.network.bridge.gateway_mode_ipv4".to_owned(),
                    "nat-unprotected".to_owned(),
                )]),
                _ => BTreeMap::new(),
            },
            ..Default::default()
        };
        models::create(&mut model, order).unwrap();
    }
    model
}

fn joining(networks: &[usize]) -> Joining {
    let mut specs: Vec<_> = networks.iter().map(|network| NETWORKS[*network].parse().unwrap()).collect();
    specs.dedup();
    Joining { specs, ..Joining::default() }
}

fn made(model: &mut Model, change: &Change, rng: &mut StdRng) -> Result<(), Rejection> {
    match change {
        Change::Attach { name, namespace, networks } => {
            let sandbox = sandbox(*namespace);
            let order = model::AttachOrder { sandbox, joining: joining(networks), ..models::order("c", &[]) };
            attach(model, model::AttachOrder { name: named(*name), ..order }, 0, rng)
        }
        Change::Detach(name) => detach(model, &named(*name)).map(drop),
        Change::Connect(name, network) => connect(model, &named(*name), joining(&[*network]), rng),
        Change::Disconnect(name, network) => {
            disconnect(model, &named(*name), &NETWORKS[*network].parse().unwrap()).map(drop)
        }
        Change::Publish(name, text) => {
            let spec: PortSpec = text.parse().unwrap();
            let at = |place: model::Place| PortPublication {
                host_ip: place.address,
                direct: place.direct,
                host_port: if place.direct { spec.port } else { spec.host_port.unwrap_or(32_768 + u16::from(*name)) },
                port: spec.port,
                count: spec.count,
                protocol: spec.protocol,
                from: spec.from.clone(),
                mesh: false,
            };
            let wishes: Vec<_> = places(model, &named(*name), &spec, &[])?.into_iter().map(at).collect();
            model::publish(model, &named(*name), &wishes)
        }
        Change::Unpublish(name, text) => unpublish(model, &named(*name), &[text.parse().unwrap()]),
        Change::Allow(from, to) => {
            allow(model, &named(*from), &Target { to: Party { endpoint: named(*to), node: None }, port: None })
        }
    }
}

fn sandbox(number: u8) -> Sandbox {
    Sandbox { path: format!("/run/netns/{number}").into(), inode: 100 + u64::from(number) }
}

/// A host that has every namespace but the last.
fn facts() -> HostFacts {
    let sandboxes = (0..5).map(|number| (sandbox(number).path, sandbox(number))).collect();
    HostFacts { sandboxes, ..HostFacts::default() }
}

proptest! {
    #[test]
    fn a_part_takes_the_steps_of_the_whole_and_leaves_the_whole(changes in changes(), limited in any::<bool>()) {
        let from = if limited { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        let (facts, choices) = (facts(), Choices { from, ..Choices::default() });
        let (mut before, mut rng) = (networks(), StdRng::seed_from_u64(1));
        for change in changes {
            let mut after = before.clone();
            if made(&mut after, &change, &mut rng).is_err() {
                continue;
            }
            if let Some(names) = touched(&before, &after, &choices.from) {
                let wholes = [&before, &after].map(|model| plan(model, &facts, &choices));
                let [left, came] = [&before, &after].map(|model| part(model, &facts, &choices, &names));
                prop_assert_eq!(diff(&came, &left), diff(&wholes[1], &wholes[0]), "{:?}", change);
                let mut whole = wholes[0].clone();
                exchange(&mut whole, &left, came);
                prop_assert_eq!(&whole, &wholes[1], "{:?}", change);
                let is_there = |endpoint: &Endpoint| there(endpoint, &facts).is_some();
                let mut directory = Directory::of(&before, is_there);
                directory.follow(&before, &after, &names, is_there);
                prop_assert_eq!(directory, Directory::of(&after, is_there), "{:?}", change);
            }
            before = after;
        }
    }
}

#[test]
fn what_is_asked_for_every_day_is_planned_in_part() {
    let (before, mut rng) = (networks(), StdRng::seed_from_u64(1));
    let attached = Change::Attach { name: 0, namespace: 0, networks: vec![0, 2] };
    let (mut before, mut counted) = (before, 0);
    for change in [
        attached,
        Change::Publish(0, PORTS[0]),
        Change::Attach { name: 1, namespace: 1, networks: vec![4] },
        Change::Connect(1, 0),
        Change::Unpublish(0, PORTS[0]),
        Change::Detach(0),
    ] {
        let mut after = before.clone();
        made(&mut after, &change, &mut rng).unwrap();
        assert_eq!(touched(&before, &after, &[]).map(|names| names.len()), Some(1), "{change:?}");
        (before, counted) = (after, counted + 1);
    }
    assert_eq!(counted, 6);
}

#[test]
fn what_others_have_a_share_in_is_planned_as_a_whole() {
    let mut rng = StdRng::seed_from_u64(1);
    for (first, change) in [
        // One namespace of two endpoints, containers that are kept apart, sources, and a port of one address.
        (0, Change::Attach { name: 1, namespace: 0, networks: vec![1] }),
        (0, Change::Attach { name: 1, namespace: 1, networks: vec![3] }),
        (5, Change::Publish(0, PORTS[0])),
        (0, Change::Publish(0, PORTS[4])),
        (0, Change::Publish(0, PORTS[2])),
    ] {
        let mut before = networks();
        made(&mut before, &Change::Attach { name: 0, namespace: 0, networks: vec![first] }, &mut rng).unwrap();
        let mut after = before.clone();
        made(&mut after, &change, &mut rng).unwrap();
        assert_eq!(touched(&before, &after, &[]), None, "{change:?}");
    }
    let mut more = networks();
    models::create(&mut more, NetworkOrder { name: "more".into(), ..Default::default() }).unwrap();
    assert_eq!(touched(&networks(), &more, &[]), None, "networks differ");
}
