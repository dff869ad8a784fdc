//! What is kept of nodes that are not back yet when one is.

use std::collections::BTreeMap;

use super::{
    super::{Answer, KeptNodes, Missing, Verified, View, forwarding, keeping, remotes, verified},
    answer,
    nodes::{Cluster, Deed, name},
};

/// Nodes 0 and 1, with an endpoint each; what they said; and both gone from the store.
fn both_gone() -> (Cluster, View) {
    let mut cluster = Cluster::default();
    let start = [Deed::Start(0), Deed::Start(1), Deed::Read(0), Deed::Read(1), Deed::Attach(0, 2), Deed::Attach(1, 3)];
    start.iter().for_each(|deed| cluster.takes(deed));
    cluster.settles();
    let last = cluster.store.view();
    cluster.takes(&Deed::Expire(0));
    cluster.takes(&Deed::Expire(1));
    assert!(remotes(&cluster.store.view(), &name("n1")).is_empty(), "it is out");
    (cluster, last)
}

#[test]
fn nodes_that_are_all_gone_at_once_are_known_as_they_were_while_each_comes_back() {
    let (mut cluster, last) = both_gone();
    let [zero, one] = ["n0", "n1"].map(name);
    let before = remotes(&last, &one);
    let kept = |cluster: &Cluster| keeping(&cluster.store.view(), &last);
    assert_eq!((remotes(&kept(&cluster), &one), before.len()), (before.clone(), 1));
    assert_eq!(kept(&cluster).node(&one), last.node(&one), "and itself");

    // Its endpoints are told of before the node is.
    cluster.takes(&Deed::Start(0));
    cluster.takes(&Deed::Read(0));
    for count in [0, 1] {
        cluster.takes(&Deed::WriteSome(0, count));
        assert_eq!(cluster.store.view().node(&zero), None);
        let now = remotes(&kept(&cluster), &one);
        assert!(now.keys().eq(before.keys()) && now.values().all(|remote| remote.node == zero), "{now:?}");
    }
    cluster.takes(&Deed::Write(0));
    let view = cluster.store.view();
    assert_eq!(remotes(&kept(&cluster), &one), remotes(&view, &one), "what it says itself is all there is");
}

#[test]
fn what_is_kept_of_nodes_that_are_not_back_yet_is_told_and_is_no_difference() {
    let (mut cluster, last) = both_gone();
    [Deed::Start(1), Deed::Read(1), Deed::Write(1)].iter().for_each(|deed| cluster.takes(deed));
    let (view, [zero, one]) = (cluster.store.view(), ["n0", "n1"].map(name));
    assert!(view.node(&zero).is_none() && view.node(&one).is_some());
    let seen = keeping(&view, &last);
    let says = |kept: Option<KeptNodes>| {
        let answer = Answer { kept, ..answer(&seen, "n1", forwarding(&remotes(&seen, &one))) };
        verified(&view, &one, &Missing::default(), &BTreeMap::from([(one.clone(), answer)]))
    };

    let vtep = last.node(&zero).expect("it was there").vtep;
    let kept = says(Some(KeptNodes { nodes: [(zero.clone(), vtep)].into(), seconds: 7 }));

    let line = format!("node n1 keeps what it knows of node n0 ({vtep}), which has not come back yet, for 7 s more");
    assert_eq!(kept, Verified { differences: Vec::new(), kept: vec![line] });
    assert_eq!(says(None).differences.len(), 2, "what nobody keeps is one: a way, and whom it lets in");
}

#[test]
fn a_node_that_has_another_vtep_or_less_than_before_is_taken_as_new() {
    let (mut cluster, last) = both_gone();
    cluster.nodes[0].vtep = [192, 0, 2, 99].into();
    for deed in [Deed::Start(0), Deed::Detach(0, 2), Deed::Attach(0, 4), Deed::Read(0), Deed::Write(0)] {
        cluster.takes(&deed);
    }

    let now = remotes(&keeping(&cluster.store.view(), &last), &name("n1"));

    assert_eq!(now.len(), 1, "{now:?}");
    let (key, remote) = now.first_key_value().unwrap();
    assert_eq!((key.1, remote.vtep), ([10, 0, 0, 4].into(), [192, 0, 2, 99].into()));
}

#[test]
fn what_is_somebody_elses_by_now_is_not_kept() {
    let (mut cluster, last) = both_gone();
    cluster.store.forget_node(&name("n0"));
    let kept = keeping(&cluster.store.view(), &last);
    assert_eq!(kept.node(&name("n0")), None, "it was removed");

    // The claim alone is another's.
    for deed in [Deed::Start(2), Deed::Read(2), Deed::Attach(2, 2), Deed::Read(2), Deed::Write(2), Deed::Start(0)] {
        cluster.takes(&deed);
    }
    let kept = keeping(&cluster.store.view(), &last);
    assert!(kept.node(&name("n0")).is_some(), "it has begun anew");
    let holders: Vec<_> = remotes(&kept, &name("n1")).into_values().map(|remote| remote.node).collect();
    assert_eq!(holders, [name("n2")]);

    // And the VTEP.
    cluster.nodes[2].vtep = cluster.nodes[0].vtep;
    for deed in [Deed::Start(2), Deed::Read(2), Deed::Write(2)] {
        cluster.takes(&deed);
    }
    assert_eq!(keeping(&cluster.store.view(), &last).node(&name("n0")), None);
}
