//! What a node keeps of the associations that it has made: as much as it takes, for as long.

use super::*;

impl Cluster {
    /// All have a next generation, and the one before is gone.
    fn changes_keys(&mut self) {
        for deed in [Deed::Read(0), Deed::Rekey(0)] {
            self.takes(&deed);
        }
        self.settles();
        self.takes(&Deed::Keep(0, 20));
        self.settles();
    }

    fn kept(&self, node: usize) -> serde_json::Value {
        serde_json::to_value(&self.hosts[node].kept).expect("it is written to the disk")
    }

    fn sessions(&self) -> Vec<Session> {
        self.hosts.iter().flat_map(|host| &host.kept).map(|kept| kept.session.clone()).collect()
    }
}

#[test]
fn what_is_kept_of_associations_goes_with_the_generation_that_they_were_made_of() {
    let mut cluster = Cluster::new(true);
    let addresses = |cluster: &Cluster| cluster.kept(0).to_string().matches("192.0.2.").count();
    cluster.settles();
    cluster.changes_keys();
    let (few, sessions) = (addresses(&cluster), cluster.sessions());

    for _ in 0..20 {
        cluster.changes_keys();
    }

    let generations: Vec<_> = cluster.store.view().secrets().map(|(number, ..)| number).collect();
    assert_eq!(generations, [22]);
    assert_eq!((addresses(&cluster), cluster.sessions()), (few, sessions));
}

#[test]
fn a_generation_that_is_back_after_what_was_made_of_it_was_forgotten_is_met_in_another_session() {
    let mut cluster = Cluster::new(false);
    cluster.settles();
    let early = cluster.store.revision();
    for _ in 0..3 {
        cluster.changes_keys();
    }
    let sessions = cluster.sessions();

    cluster.store.restore(early);
    cluster.settles();

    // That no key was made twice is seen at every step.
    assert!(cluster.sessions().iter().all(|session| !sessions.contains(session)));
    assert_eq!(cluster.store.view().unsettled(), None);
    cluster.assert_all_is_read();
}

#[test]
fn what_a_netd_has_kept_that_does_not_note_generations_is_gone_on_with() {
    let mut cluster = Cluster::new(true);
    cluster.settles();
    let sessions = cluster.sessions();
    for node in 0..NODES {
        let mut kept = cluster.kept(node);
        let generations = kept.as_object_mut().and_then(|kept| kept.remove("generations")).expect("they are noted");
        let made = generations.as_object().into_iter().flat_map(|all| all.values()).flat_map(|one| one.as_array());
        kept["made"] = made.flatten().cloned().collect();
        cluster.hosts[node].kept = serde_json::from_value(kept).expect("it is read");
        cluster.takes(&Deed::Restart(node));
    }

    cluster.changes_keys();
    assert_eq!(cluster.sessions(), sessions, "nothing is lost");

    cluster.is_lossless = false;
    cluster.hosts[0].kept = Some(serde_json::from_value(cluster.kept(0)).expect("what is written is read again"));
    cluster.takes(&Deed::Flush(0));
    cluster.settles();
    assert!(!sessions.contains(&cluster.sessions()[0]), "what is lost is not made again");
}
