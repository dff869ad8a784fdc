//! Memberships whose task is played, for tests of the daemon.

use tokio::task::JoinHandle;

use super::{task::refuse, *};

/// A membership, by what it is told what all have, and where what the host says is heard.
type Played = (Membership, watch::Sender<News>, watch::Receiver<Word>);

impl Membership {
    /// One whose task is played: by what all have, and by what the host says.
    pub fn played(node: &str) -> Played {
        let settings = Settings {
            node: node.parse().unwrap(),
            host: node.to_owned(),
            vtep: [192, 0, 2, 1].into(),
            vxlan_port: 4789,
            encrypted_port: 4790,
            rekey: 3600,
            lease: 15,
            etcd: EtcdConfig::default(),
        };
        let heard = Some(Instant::now());
        let news = News { view: None, away: None, heard, missed: 0, incarnation: 1, conflicts: Vec::new(), kept: None };
        let ((telling, news), (own, said)) = (watch::channel(news), watch::channel(Word::default()));
        let wishes = mpsc::channel(1).0;
        (Self { settings, wishes, own, news, answered: BTreeSet::new() }, telling, said)
    }

    /// Such a one, whose etcd grants one claim and then is away. What is kept for endpoints to come is told when the daemon ends.
    pub fn granting_once(node: &str) -> (Played, JoinHandle<Vec<Wanted>>) {
        let (mut membership, telling, said) = Self::played(node);
        let (wishes, inbox) = mpsc::channel(WAITING);
        membership.wishes = wishes;
        let mut doors = Doors { wishes: inbox, own: said.clone() };
        let task = async move {
            let Some(Wish::Claim { addresses: mut pending, reply, .. }) = doors.wishes.recv().await else {
                panic!("nothing is claimed")
            };
            reply.send(Ok(())).expect("the daemon waits");
            while refuse(&mut doors, &mut pending, "it is away", PATIENCE).await {}
            pending
        };
        ((membership, telling, said), tokio::spawn(task))
    }
}
