//! Allowances of two claims: that they hold exactly as long as both, whatever happens meanwhile; and networks that take what a node
//! does not know.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::{
    super::{
        Answer, Between, Entry, Event, Here, Key, Op, Record, SharedNetwork, Txn, View, adopt, allow, deny, elsewhere,
        forwarding, known_features, missing, note_freed, remotes, shared, verified,
    },
    answer,
    nodes::{Cluster, Deed, NETWORK, deed, name, network},
};
use crate::{
    model::{self, Model, RemoteAllowance},
    reconcile::{Family, HostFacts},
};

/// c2 of node n0 opens port 80 of c3 of node n1.
fn between() -> Between {
    let party = |node: &str, endpoint: &str| (name(node), name(endpoint));
    Between { from: party("n0", "c2"), to: party("n1", "c3"), port: Some((80, crate::model::Protocol::Tcp)) }
}

/// Both are there, and it is allowed.
fn allowed() -> Cluster {
    let mut cluster = Cluster::default();
    for deed in [Deed::Start(0), Deed::Start(1), Deed::Attach(0, 2), Deed::Attach(1, 3)] {
        cluster.takes(&deed);
    }
    cluster.settles();
    let txn = allow(&cluster.store.view(), &between()).expect("blue keeps them apart");
    assert!(cluster.store.take(&txn, 0));
    cluster
}

fn entry() -> RemoteAllowance {
    let port = Some((80, crate::model::Protocol::Tcp));
    RemoteAllowance { vni: 4096, src: [10, 0, 0, 2].into(), dst: [10, 0, 0, 3].into(), port }
}

fn count(view: &View) -> usize {
    view.entries.keys().filter(|key| matches!(key, Key::Allowance(..))).count()
}

#[test]
fn it_is_of_both_ends_hosts_and_of_no_other() {
    let view = allowed().store.view();

    let of = |node: &str| view.allowances_of(&name(node)).into_iter().collect::<Vec<_>>();
    assert_eq!((of("n0"), of("n1"), of("n2")), (vec![entry()], vec![entry()], vec![]));
}

#[test]
fn who_has_an_address_next_has_nothing_of_what_was_allowed_and_nothing_of_it_stays_in_the_store() {
    for (node, host) in [(0, 2), (1, 3)] {
        let mut cluster = allowed();
        cluster.takes(&Deed::Detach(node, host));
        cluster.settles();
        assert_eq!(count(&cluster.store.view()), 0);

        // The same name, address and node.
        cluster.takes(&Deed::Attach(node, host));
        cluster.settles();
        assert!(cluster.store.view().allowances().next().is_none());
    }
}

#[test]
fn an_allowance_that_outlived_its_claim_holds_for_nobody_even_while_it_is_in_the_store() {
    let mut cluster = allowed();
    let claim = Key::Claim(NETWORK.to_owned(), [10, 0, 0, 2].into());
    cluster.store.take(&Txn { when: Vec::new(), then: vec![Op::Delete(claim)] }, 0);
    cluster.takes(&Deed::Detach(0, 2));
    cluster.takes(&Deed::Start(2));
    cluster.takes(&Deed::Attach(2, 2));

    let view = cluster.store.view();
    assert_eq!((count(&view), view.allowances().count()), (1, 0));
    assert!(view.allowances_of(&name("n1")).is_empty());
}

#[test]
fn it_stays_while_a_node_is_away_and_goes_when_both_are_forgotten() {
    let mut cluster = allowed();
    cluster.takes(&Deed::Expire(0));
    cluster.takes(&Deed::Start(2));
    cluster.settles();
    assert_eq!(cluster.store.view().allowances_of(&name("n1")), [entry()].into());

    for node in [0, 1] {
        cluster.takes(&Deed::Expire(node));
        cluster.store.forget_node(&name(&format!("n{node}")));
        cluster.nodes[node] = Cluster::default().nodes.remove(2);
    }
    cluster.takes(&Deed::Read(2));
    cluster.takes(&Deed::Write(2));
    assert_eq!(count(&cluster.store.view()), 0);
}

#[test]
fn a_claim_that_a_watch_did_not_tell_of_does_not_take_the_allowance_with_it() {
    let mut cluster = allowed();
    let mut view = cluster.store.view();
    view.entries.remove(&Key::Claim(NETWORK.to_owned(), [10, 0, 0, 3].into()));

    let own = cluster.nodes[0].own().expect("it has started");
    for txn in missing(&own, &view, &[]).txns {
        cluster.store.take(&txn, own.lease);
    }

    assert_eq!(count(&cluster.store.view()), 1);
}

#[test]
fn what_is_denied_is_named_and_nothing_is_allowed_between_who_is_not_there() {
    let cluster = allowed();
    let view = cluster.store.view();

    assert_eq!(deny(&view, &between()).expect("it was").then.len(), 1);
    assert_eq!(deny(&view, &Between { port: None, ..between() }).expect("all of it").then.len(), 1);
    let other = Between { port: Some((81, crate::model::Protocol::Tcp)), ..between() };
    assert_eq!(deny(&view, &other).expect_err("it was not").to_string(), "c2 was not allowed to reach c3:81/tcp");
    assert_eq!(allow(&view, &Between { to: (name("n1"), name("c4")), ..between() }), None);
    assert_eq!(allow(&view, &Between { to: (name("n0"), name("c3")), ..between() }), None);

    // Claims that are others' by then.
    let stale = allow(&view, &between()).expect("as it was");
    let mut cluster = cluster;
    cluster.takes(&Deed::Detach(1, 3));
    cluster.settles();
    assert!(!cluster.store.take(&stale, 0));
}

proptest! {
    #[test]
    fn whatever_happens_it_holds_exactly_as_long_as_both_claims(deeds in prop::collection::vec(deed(), 1..80)) {
        let mut cluster = allowed();
        let revisions = |view: &View| {
            [2, 3].map(|host| view.entries.get(&Key::Claim(NETWORK.to_owned(), [10, 0, 0, host].into())).map(|e| e.revision))
        };
        let made = revisions(&cluster.store.view());
        for deed in &deeds {
            cluster.takes(deed);
            let view = cluster.store.view();
            prop_assert_eq!(view.allowances().count() == 1, revisions(&view) == made);
        }
        cluster.settles();
        let view = cluster.store.view();
        if cluster.nodes.iter().any(|node| node.own().is_some_and(|own| ["n0", "n1"].contains(&own.name.as_str()))) {
            prop_assert_eq!(count(&view), view.allowances().count(), "what holds no more is gone");
        }
    }
}

fn view_of(network: SharedNetwork) -> View {
    let entry = Entry { record: Record::Network(Box::new(network)), revision: 1, lease: 0 };
    View::read(1, [Event::Put(Key::Network(name("blue")), entry)])
}

#[test]
fn a_network_that_takes_what_this_netd_does_not_know_is_left_alone_by_name() {
    let facts = HostFacts::default();
    let here = Here { port: 4789, encrypted_port: 4790, underlay: Family::V4, facts: &facts };
    let known = SharedNetwork { requires: known_features(), ..network(NETWORK, 4096) };
    let newer = SharedNetwork { requires: ["no-icc", "quic"].map(str::to_owned).into(), ..known.clone() };
    let mut model = Model::default();

    let lines = adopt(&mut model, &view_of(newer), here);
    let Some(line) = lines.get(&name("blue")) else { panic!("{lines:?}") };
    assert!(line.starts_with("network blue of all nodes is not here: it takes `quic`, which this netd ("), "{line}");
    assert!(model.networks.is_empty());

    assert_eq!(adopt(&mut model, &view_of(known), here), BTreeMap::new());
    assert_eq!(model.networks.len(), 1);
}

#[test]
fn a_network_made_elsewhere_is_here_what_it_is_there() {
    let facts = HostFacts::default();
    let here = Here { port: 4789, encrypted_port: 4790, underlay: Family::V4, facts: &facts };
    let made = SharedNetwork {
        internal: true,
        encrypted: true,
        no_icc: true,
        from: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        requires: known_features(),
        no_masquerade: true,
        mtu: Some(1400),
        dns: vec![[192, 0, 2, 53].into()],
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        ifname_prefix: Some("net".to_owned()),
        options: [("mtu".to_owned(), "1400".to_owned())].into(),
        created: 7,
        ..network(NETWORK, 4096)
    };
    let mut model = Model::default();

    assert_eq!(adopt(&mut model, &view_of(made.clone()), here), BTreeMap::new());

    assert_eq!(shared(&model.networks[&name("blue")]), Some(made));
}

#[test]
fn a_node_that_does_not_say_that_it_knows_is_taken_for_one_that_does_not() {
    let mut cluster = Cluster::default();
    cluster.takes(&Deed::Start(0));
    cluster.settles();
    let mut view = cluster.store.view();
    let all = known_features();

    let (node, why) = view.ignorant(&all).expect("the nodes of the test say nothing");
    assert_eq!((node, why.contains("does not know `encrypted`")), (&name("n0"), true));
    assert_eq!(view.ignorant(&Default::default()), None);
    let key = Key::Node(name("n0"));
    if let Some(Entry { record: Record::Node(node), .. }) = view.entries.get_mut(&key) {
        node.understands = all.clone();
    }
    assert_eq!(view.ignorant(&all), None);
}

#[test]
fn a_network_that_was_removed_elsewhere_while_a_container_was_in_it_here_is_no_part_of_the_one_that_has_its_number_next()
 {
    let facts = HostFacts::default();
    let here = Here { port: 4789, encrypted_port: 4790, underlay: Family::V4, facts: &facts };
    let mut model = Model::default();
    assert_eq!(adopt(&mut model, &view_of(network(NETWORK, 4096)), here), BTreeMap::new());
    model::attach(&mut model, model::tests::order("web", &["blue"]), 0, &mut StdRng::seed_from_u64(1)).unwrap();
    let vni = |model: &Model| model.networks[&name("blue")].driver.segment().unwrap().vni;
    assert_eq!(vni(&model), 4096);

    let anew = view_of(network("bbbbbbbbbbbb", 4096));
    let lines = adopt(&mut model, &anew, here);

    let expected = "network blue was removed and made anew elsewhere and ends at this host: detach what is in it here";
    assert_eq!((lines, vni(&model)), ([(name("blue"), expected.to_owned())].into(), 0));
    assert_eq!(adopt(&mut model, &View::default(), here).len(), 1, "nor is it where there is none");
    assert_eq!(
        (adopt(&mut model, &view_of(network(NETWORK, 4096)), here), vni(&model)),
        (BTreeMap::new(), 4096),
        "it is back"
    );
    model.endpoints.clear();
    adopt(&mut model, &anew, here);
    assert_eq!(model.networks[&name("blue")].id, "bbbbbbbbbbbb");
}

#[test]
fn an_address_that_another_node_has_given_back_is_given_again_last() {
    let facts = HostFacts::default();
    let here = Here { port: 4789, encrypted_port: 4790, underlay: Family::V4, facts: &facts };
    let (before, mut model) = (allowed().store.view(), Model::default());
    adopt(&mut model, &before, here);
    let mut view = before.clone();
    view.entries.remove(&Key::Claim(NETWORK.to_owned(), [10, 0, 0, 2].into())).expect("c2 has it");

    note_freed(&mut model, &before, &view);

    let mut wish = model::tests::order("web", &["blue"]);
    wish.joining.elsewhere = elsewhere(&view);
    model::attach(&mut model, wish, 0, &mut StdRng::seed_from_u64(1)).unwrap();
    assert_eq!(model.endpoints[&name("web")].attachments[0].ip, Some([10, 0, 0, 4].into()));
}

#[test]
fn who_does_not_say_what_its_containers_may_open_is_named_where_there_is_something_to_say() {
    let cluster = allowed();
    let view = cluster.store.view();
    let answer = |node: &str, allowances| {
        let ways = forwarding(&remotes(&view, &name(node)));
        (name(node), Answer { allowances, ..answer(&view, node, ways) })
    };
    let answers = [answer("n0", None), answer("n1", Some([entry()].into()))].into();

    let lines = verified(&view, &name("n1"), &Default::default(), &answers).differences;

    assert_eq!(lines, ["node n0: its netd () does not say what its containers may open: update it"]);
    let answers = [answer("n0", Some([entry()].into())), answer("n1", Some(Default::default()))].into();
    let lines = verified(&view, &name("n1"), &Default::default(), &answers).differences;
    assert_eq!(lines, ["node n1: lacks what 10.0.0.2 may open to 10.0.0.3 of network blue (80/tcp)"]);
}

#[test]
fn what_another_version_keeps_is_one_line_a_kind_and_what_is_broken_is_named() {
    let unreadable = |key: &str| Event::Unreadable(key.to_owned(), 1, "no key of this version of netd".to_owned());
    let keys = ["/netd/v1/tunnels/a", "/netd/v1/tunnels/b/c", "/netd/v1/nodes/a/b"];

    let lines = View::read(1, keys.map(unreadable)).not_understood();

    let [broken, others] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(broken, "/netd/v1/nodes/a/b is not understood: no key of this version of netd");
    assert!(others.starts_with("/netd/v1/tunnels/: this netd ("), "{others}");
    assert!(others.ends_with(") does not know what another one keeps there, and passes over 2 of it"), "{others}");
}
