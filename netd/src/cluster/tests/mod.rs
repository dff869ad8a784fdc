//! Nodes on a store in memory, which keeps a log of its changes, and what must hold of them whatever happens when.

mod allowances;
mod keys;
mod nodes;
mod returning;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    Answer, Event, MeshAnswer, Missing, Own, SegmentAnswer, Segments, Uses, Verified, View, Way, create, forwarding,
    missing, remotes, remove, segments::segments, verified,
};
use nodes::{Cluster, Deed, deed, name, network};
use store::Store;

proptest! {
    #[test]
    fn events_in_any_order_and_twice_give_the_view_of_a_full_read(
        deeds in prop::collection::vec(deed(), 1..60),
        from in 0usize..40,
        shuffle in any::<u64>(),
    ) {
        let store = after(&deeds).store;
        let read_at = store.log.get(from).map_or(0, Event::revision);
        let mut view = store.view_at(read_at);
        let later: Vec<Event> = store.log.iter().filter(|event| event.revision() > read_at).cloned().collect();
        let mut twice = [later.clone(), later].concat();
        shuffled(&mut twice, shuffle);

        for event in twice {
            view.apply(event);
        }

        prop_assert_eq!(&view.entries, &store.view().entries);
    }

    #[test]
    fn a_full_read_gives_the_same_view_whatever_was_heard_before(
        deeds in prop::collection::vec(deed(), 1..60),
        heard in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let store = after(&deeds).store;
        let mut view = View::default();
        for index in heard.iter().filter(|_| !store.log.is_empty()) {
            view.apply(index.get(&store.log).clone());
        }
        view = store.view();

        prop_assert_eq!(&view, &store.view());
        for event in &store.log {
            view.apply(event.clone());
        }
        prop_assert_eq!(view, store.view(), "what was before the read is not news");
    }

    #[test]
    fn two_nodes_never_hold_one_address(deeds in prop::collection::vec(deed(), 1..120)) {
        let mut cluster = Cluster::default();
        for deed in &deeds {
            cluster.takes(deed);
            let mut holders = BTreeMap::new();
            for (address, node, endpoint) in cluster.held() {
                let before = holders.insert(address, (node.clone(), endpoint.clone()));
                prop_assert!(before.is_none(), "{address} is {before:?}'s and {endpoint}'s on {node}");
            }
        }
    }

    #[test]
    fn nothing_that_an_earlier_life_writes_changes_the_store(deeds in prop::collection::vec(deed(), 1..80), node in 0usize..3) {
        let mut cluster = after(&deeds);
        cluster.settles();
        let Some(stale) = cluster.nodes[node].own() else { return Ok(()) };
        cluster.takes(&Deed::Start(node));
        let before = cluster.store.view();

        for txn in missing(&stale, &View::default(), &[]).txns {
            cluster.store.take(&txn, stale.lease);
        }

        prop_assert_eq!(cluster.store.view(), before);
    }

    #[test]
    fn when_everybody_has_read_every_map_is_what_the_others_have(deeds in prop::collection::vec(deed(), 1..120)) {
        let mut cluster = after(&deeds);
        cluster.settles();
        let view = cluster.store.view();

        let mut answers = BTreeMap::new();
        for node in &cluster.nodes {
            let Some(own) = node.own() else { continue };
            let found: Vec<_> = remotes(&view, &own.name).into_iter().map(|((_, address), remote)| (address, remote.node)).collect();
            let mut expected: Vec<_> =
                cluster.held().into_iter().filter(|(_, holder, _)| *holder != own.name && view.node(holder).is_some())
                    .map(|(address, holder, _)| (address, holder)).collect();
            expected.sort();
            prop_assert_eq!(found, expected);
            let lacks = missing(&own, &view, &[]);
            prop_assert!(lacks.txns.is_empty() && lacks.conflicts.is_empty(), "{lacks:?}");
            let ways = forwarding(&remotes(&view, &own.name));
            answers.insert(own.name.clone(), Answer { revision: view.revision, ways, segments: Some(segments(&view, &own.name)), ..Answer::default() });
        }
        for node in cluster.nodes.iter().filter_map(nodes::Host::own) {
            prop_assert_eq!(verified(&view, &node.name, &missing(&node, &view, &[]), &answers), Verified::default());
        }
    }
}

#[test]
fn of_two_networks_that_were_chosen_at_once_one_is_made() {
    let mut store = Store::default();
    let seen = store.view().revision;

    assert!(store.take(&create(&name("blue"), &network("aaaaaaaaaaaa", 4096), seen), 0));
    assert!(!store.take(&create(&name("red"), &network("bbbbbbbbbbbb", 4096), seen), 0), "it may have blue's number");
    let seen = store.view().revision;
    assert!(store.take(&create(&name("red"), &network("bbbbbbbbbbbb", 4097), seen), 0));
    assert!(!store.take(&create(&name("red"), &network("cccccccccccc", 4098), store.view().revision), 0));
}

#[test]
fn a_network_goes_when_nobody_has_an_address_in_it() {
    let mut cluster = Cluster::default();
    for deed in [Deed::Start(0), Deed::Read(0), Deed::Attach(0, 7), Deed::Write(0)] {
        cluster.takes(&deed);
    }
    let remove = remove(&name("blue"), nodes::NETWORK, 1);
    assert!(!cluster.store.take(&remove, 0));

    for deed in [Deed::Detach(0, 7), Deed::Read(0), Deed::Write(0)] {
        cluster.takes(&deed);
    }
    assert!(cluster.store.take(&remove, 0));
}

#[test]
fn a_node_that_comes_back_under_another_address_is_reached_there_with_all_that_it_has() {
    let mut cluster = Cluster::default();
    for deed in [Deed::Start(0), Deed::Start(1), Deed::Read(0), Deed::Attach(0, 7)] {
        cluster.takes(&deed);
    }
    cluster.settles();
    let before = remotes(&cluster.store.view(), &name("n1"));
    assert_eq!(before.len(), 1);

    cluster.nodes[0].vtep = "192.0.2.99".parse().unwrap();
    cluster.takes(&Deed::Start(0));
    let meanwhile = remotes(&cluster.store.view(), &name("n1"));
    assert_eq!(meanwhile, before, "until it has said so, it is where it was");
    cluster.settles();

    let after = remotes(&cluster.store.view(), &name("n1"));
    assert_eq!(
        after.values().map(|remote| remote.vtep).collect::<Vec<_>>(),
        ["192.0.2.99".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn what_a_node_uses_is_written_when_it_changes_and_outlives_its_lease() {
    let mut cluster = Cluster::default();
    cluster.takes(&Deed::Start(0));
    cluster.settles();
    let uses = |range: &str| Uses { ranges: [(range.parse().unwrap(), "there".to_owned())].into(), more: 0 };
    let written = |store: &mut Store, own: &Own| -> usize {
        let txns = missing(own, &store.view(), &[]).txns;
        txns.iter().for_each(|txn| assert!(store.take(txn, own.lease)));
        txns.len()
    };
    let said = |store: &Store| store.view().used_elsewhere(&name("n1")).into_iter().map(|used| used.net.to_string());
    let mut own = cluster.nodes[0].own().expect("it has started");
    assert_eq!(written(&mut cluster.store, &own), 0, "it has not looked yet");

    own.uses = Some(uses("10.8.0.0/16"));
    assert_eq!([written(&mut cluster.store, &own), written(&mut cluster.store, &own)], [1, 0]);
    own.uses = Some(uses("10.9.0.0/16"));
    assert_eq!([written(&mut cluster.store, &own), written(&mut cluster.store, &own)], [1, 0]);
    cluster.takes(&Deed::Expire(0));
    assert!(said(&cluster.store).eq(["10.9.0.0/16"]), "it may come back");

    // Who has not looked takes nothing back, and an earlier life says nothing.
    let stale = own;
    cluster.takes(&Deed::Start(0));
    cluster.settles();
    let told = Own { uses: Some(uses("10.7.0.0/16")), ..stale };
    let txns = missing(&told, &cluster.store.view(), &[]).txns;
    assert!(!txns.is_empty() && txns.iter().all(|txn| !cluster.store.take(txn, told.lease)));
    assert!(said(&cluster.store).eq(["10.9.0.0/16"]));
}

#[test]
fn an_address_that_another_took_while_a_removed_node_was_away_is_named_and_not_told() {
    let mut cluster = Cluster::default();
    for deed in [Deed::Start(0), Deed::Start(1), Deed::Read(0), Deed::Attach(0, 7)] {
        cluster.takes(&deed);
    }
    cluster.settles();
    cluster.takes(&Deed::Expire(0));
    cluster.store.forget_node(&name("n0"));
    for deed in [Deed::Read(1), Deed::Attach(1, 7)] {
        cluster.takes(&deed);
    }
    cluster.settles();
    cluster.takes(&Deed::Start(0));
    cluster.takes(&Deed::Read(0));

    let lacks = missing(&cluster.nodes[0].own().unwrap(), &cluster.store.view(), &[]);

    assert_eq!(lacks.conflicts, ["c7 has 10.0.0.7 of network blue, which is c7's on node n1: attach c7 anew"]);
    cluster.takes(&Deed::Write(0));
    let seen = remotes(&cluster.store.view(), &name("n2"));
    assert_eq!(seen.values().map(|remote| remote.node.clone()).collect::<Vec<_>>(), [name("n1")]);
}

#[test]
fn every_difference_of_a_map_is_said() {
    let mut cluster = Cluster::default();
    let deeds = [Deed::Start(0), Deed::Start(1), Deed::Start(2), Deed::Read(0), Deed::Attach(0, 7), Deed::Attach(0, 8)];
    for deed in deeds {
        cluster.takes(&deed);
    }
    cluster.settles();
    let view = cluster.store.view();
    let right = forwarding(&remotes(&view, &name("n1")));
    let mut wrong = right.clone();
    wrong[0].vtep = "192.0.2.77".parse().unwrap();
    wrong[1].address = "10.0.0.9".parse().unwrap();
    let mut spoiled = segments(&view, &name("n1"));
    let vni = spoiled.networks.first().expect("blue").vni;
    spoiled.networks = spoiled.networks.into_iter().map(|network| SegmentAnswer { port: 8472, ..network }).collect();
    spoiled.networks.insert(SegmentAnswer { vni: 9, ..spoiled.networks.first().expect("blue").clone() });
    assert!(spoiled.vteps.remove(&(vni, "192.0.2.0".parse().unwrap())));
    spoiled.vteps.insert((vni, "192.0.2.77".parse().unwrap()));
    let answers = BTreeMap::from([
        (name("n0"), answer(&view, "n0", Vec::new())),
        (name("n1"), Answer { segments: Some(spoiled), ..answer(&view, "n1", wrong) }),
    ]);

    let own = cluster.nodes[0].own().unwrap();
    let lines = verified(&view, &own.name, &missing(&own, &view, &[]), &answers).differences;

    let expected = [
        "node n1: has the way to 10.0.0.7 of network blue (02:00:00:00:00:07) by 192.0.2.77; the store says 10.0.0.7 of network blue (02:00:00:00:00:07) by 192.0.2.0",
        "node n1: lacks the way to 10.0.0.8 of network blue (02:00:00:00:00:08) by 192.0.2.0",
        "node n1: has the way to 10.0.0.9 of network blue (02:00:00:00:00:08) by 192.0.2.0, which nobody has",
        "node n1: has VNI 9 in tunnels by UDP port 8472, containers kept apart, gateway 10.0.0.1 (02:6e:64:00:10:00), where there is none",
        "node n1: has network blue in tunnels by UDP port 8472, containers kept apart, gateway 10.0.0.1 (02:6e:64:00:10:00); the store says by UDP port 4789, containers kept apart, gateway 10.0.0.1 (02:6e:64:00:10:00)",
        "node n1: lets nothing of 192.0.2.0 into network blue",
        "node n1: lets 192.0.2.77 send into network blue, which is none of its nodes",
        "node n2 does not answer",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_network_that_a_node_could_not_take_over_is_one_difference_in_the_nodes_own_words() {
    let mut cluster = Cluster::default();
    let deeds = [Deed::Start(0), Deed::Start(1), Deed::Read(0), Deed::Attach(0, 7), Deed::Attach(0, 8)];
    deeds.iter().for_each(|deed| cluster.takes(deed));
    cluster.settles();
    let (view, [zero, one, blue]) = (cluster.store.view(), ["n0", "n1", "blue"].map(name));
    let said = |view: &View, of_one: Answer| {
        let of_zero = answer(view, "n0", forwarding(&remotes(view, &zero)));
        verified(view, &zero, &Missing::default(), &BTreeMap::from([(zero.clone(), of_zero), (one.clone(), of_one)]))
            .differences
    };
    let why = "network blue of all nodes is not here: this host has another one of that name";
    let without = Answer {
        allowances: Some(BTreeSet::new()),
        mesh: Some(MeshAnswer::default()),
        segments: Some(Segments::default()),
        absent: [(blue.clone(), why.to_owned())].into(),
        ..Answer::default()
    };

    assert_eq!(said(&view, without.clone()), [format!("node n1 says: {why}")]);

    // One that has ended there: the node has it still, and whom it would answer.
    let hosts = [view.node(&zero).expect("it is there").vtep].into();
    let ended = Answer { mesh: Some(MeshAnswer { hosts, ..MeshAnswer::default() }), ..without.clone() };
    assert_eq!(said(&view, ended), [format!("node n1 says: {why}")]);
    // What else differs is said all the same.
    let strange = Way { vni: 9, ..forwarding(&remotes(&view, &one)).remove(0) };
    let lines = said(&view, Answer { ways: vec![strange], ..without.clone() });
    assert!(lines.len() == 2 && lines[1].starts_with("node n1: has the way to 10.0.0.7 of VNI 9"), "{lines:?}");
    // When it is gone for all it is no difference, and who gives no reason is not believed.
    let gone = view.without([&blue]);
    assert_eq!(said(&gone, without.clone()), [""; 0]);
    assert_eq!(said(&view, Answer { absent: BTreeMap::new(), ..without }).len(), 4, "a network, two ways, a way back");
}

/// What a node says that forwards by these ways and has all else as it is to be.
fn answer(view: &View, node: &str, ways: Vec<Way>) -> Answer {
    let segments = Some(segments(view, &name(node)));
    Answer { revision: view.revision, ways, segments, ..Answer::default() }
}

/// The cluster after these.
fn after(deeds: &[Deed]) -> Cluster {
    let mut cluster = Cluster::default();
    for deed in deeds {
        cluster.takes(deed);
    }
    cluster
}

/// Any order, from a number.
fn shuffled<T>(items: &mut [T], mut seed: u64) {
    for index in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(seed >> 33).unwrap_or(0) % (index + 1);
        items.swap(index, other);
    }
}
