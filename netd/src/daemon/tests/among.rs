//! A daemon among others, whose words are played: what it makes of them, and what it says of itself.

mod claims;
mod uses;

use std::{net::IpAddr, sync::Arc};

use super::*;
use crate::{
    cluster::{
        Allowed, Claim, Entry, Event as Change, Installed, Key, Node, Party, Record, Secret, Session, Shared,
        SharedNetwork, SharedSubnet, View,
    },
    membership::{News, Word},
    model::Name,
    reconcile::{Ipsec, LinkName, Way},
};

/// Of every network here.
const ID: &str = "aaaaaaaaaaaa";

/// The daemon of node `a`, and what all have.
struct Among {
    bench: Bench,
    telling: watch::Sender<News>,
    said: watch::Receiver<Word>,
    revision: i64,
    records: BTreeMap<Key, Entry>,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn node(number: u8) -> Node {
    Node {
        incarnation: 1,
        host: number.to_string(),
        vtep: [192, 0, 2, number].into(),
        vxlan_port: 4789,
        encrypted_port: 4790,
        version: "0.0.9".to_owned(),
        understands: ["encrypted", "no-icc"].map(str::to_owned).into(),
    }
}

fn network(requires: &[&str]) -> SharedNetwork {
    let subnet = SharedSubnet {
        subnet: "10.0.0.0/24".parse().unwrap(),
        gateway: ip(1),
        ip_range: None,
        gateway_mode: None,
        aux_addresses: BTreeMap::new(),
    };
    SharedNetwork {
        id: ID.to_owned(),
        vni: 4096,
        subnets: vec![subnet],
        internal: false,
        encrypted: requires.contains(&"encrypted"),
        no_icc: requires.contains(&"no-icc"),
        from: Vec::new(),
        requires: requires.iter().map(|one| (*one).to_owned()).collect(),
        no_masquerade: false,
        mtu: None,
        dns: Vec::new(),
        labels: BTreeMap::new(),
        ifname_prefix: None,
        options: BTreeMap::new(),
        created: 0,
    }
}

impl Among {
    async fn new() -> Self {
        Self::by(Membership::played("a")).await
    }

    async fn by((membership, telling, said): (Membership, watch::Sender<News>, watch::Receiver<Word>)) -> Self {
        let Bench { daemon, directory, bound } = Bench::new().await;
        let kernel = daemon.kernel.clone();
        drop(daemon);
        let bench = Bench::among(kernel, directory, bound, Some(membership)).await;
        let mut among = Self { bench, telling, said, revision: 0, records: BTreeMap::new() };
        among.put(Key::Node(name("a")), Record::Node(node(1)));
        among.put(Key::Node(name("b")), Record::Node(node(2)));
        among
    }

    /// The daemon dies, and another starts on the same store and host while etcd is away.
    async fn restarted(self, change: impl FnOnce(&mut FakeKernel)) -> Self {
        let Self { bench: Bench { daemon, directory, bound }, revision, records, .. } = self;
        let mut kernel = daemon.kernel.clone();
        drop(daemon);
        change(&mut kernel);
        let (membership, telling, said) = Membership::played("a");
        let mut bench = Bench::among(kernel, directory, bound, Some(membership)).await;
        bench.daemon.rng = Box::new(StdRng::seed_from_u64(2));
        Self { bench, telling, said, revision, records }
    }

    fn put(&mut self, key: Key, record: Record) -> i64 {
        self.revision += 1;
        self.records.insert(key, Entry { record, revision: self.revision, lease: 0 });
        self.revision
    }

    /// The daemon hears of all that there is.
    async fn hears(&mut self) {
        let found = self.records.iter().map(|(key, entry)| Change::Put(key.clone(), entry.clone()));
        let view = Arc::new(View::read(self.revision, found));
        self.telling.send_modify(|news| news.view = Some(view));
        self.bench.daemon.follow_cluster().await;
    }

    /// What it says of its keys is written.
    fn writes(&mut self) {
        let Word { session, installed, .. } = self.said.borrow_and_update().clone();
        let record = session.map(|session| (Key::Session(name("a")), Record::Session(session)));
        let installed = installed.map(|installed| (Key::Installed(name("a")), Record::Installed(installed)));
        for (key, record) in record.into_iter().chain(installed) {
            if self.records.get(&key).is_none_or(|entry| entry.record != record) {
                self.put(key, record);
            }
        }
    }

    fn puts_secret(&mut self, generation: u64) {
        let secret = Secret { secret: Shared([generation as u8; 32]), created: 0 };
        self.put(Key::Secret(generation), Record::Secret(secret));
    }

    /// Node b has all keys that there are.
    fn installs_b(&mut self) {
        let installed = Installed { revision: self.revision, oldest: 1 };
        self.put(Key::Installed(name("b")), Record::Installed(installed));
    }

    /// An encrypted network, in which both nodes have keys.
    async fn encrypted() -> Self {
        let mut among = Self::new().await;
        among.put(Key::Network(name("blue")), Record::Network(Box::new(network(&["encrypted"]))));
        let session = Session { id: "b".repeat(32), vtep: [192, 0, 2, 2].into(), port: 4790 };
        among.put(Key::Session(name("b")), Record::Session(session));
        among.puts_secret(1);
        among.hears().await;
        among.writes();
        among.installs_b();
        among.hears().await;
        among
    }

    fn session(&self) -> String {
        self.said.borrow().session.clone().expect("it has part in keys").id
    }

    fn ipsec(&self) -> &Ipsec {
        &self.bench.daemon.kernel.state.ipsec
    }

    async fn status(&mut self) -> StatusView {
        match self.bench.daemon.answer(Request::Status).await.unwrap() {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Lines of the doctor's about encryption.
    async fn examined(&mut self) -> Vec<String> {
        let found = self.bench.daemon.examine().await.unwrap();
        found.into_iter().filter(|finding| finding.check == "encryption").map(|finding| finding.found).collect()
    }

    /// What was told of endpoints since the last time.
    async fn told(&mut self) -> Vec<(String, String)> {
        self.bench.daemon.events.end();
        let since = [("since".to_owned(), "1h".to_owned()), ("type".to_owned(), "endpoint".to_owned())];
        let mut listener = self.bench.daemon.events.listen(EventWish::new(since).unwrap());
        self.bench.daemon.events = Events::default();
        let mut all = Vec::new();
        while let Some(event) = listener.next().await {
            if let Happening::Endpoint { action, endpoint, .. } = &event.what {
                all.push((format!("{action:?}"), endpoint.clone()));
            }
        }
        all
    }
}

#[tokio::test]
async fn keys_are_noted_once_and_a_session_lasts_while_nothing_is_lost() {
    let mut among = Among::encrypted().await;
    let session = among.session();
    assert_eq!(among.ipsec().associations.len(), 2, "one to receive by and one to send by");

    for generation in 2..4 {
        among.puts_secret(generation);
        among.hears().await;
        among.writes();
        among.installs_b();
        among.hears().await;
        among.bench.daemon.look_again().await;
        assert_eq!(among.session(), session, "of generation {generation}");
    }
    assert!(among.bench.daemon.trouble.is_empty());

    among.bench.daemon.kernel.state.ipsec = Ipsec::default();
    among.bench.daemon.look_again().await;
    assert_ne!(among.session(), session, "what is lost is not made again");
}

#[tokio::test]
async fn what_is_kept_of_keys_is_not_read_at_every_look() {
    let mut among = Among::encrypted().await;
    let session = among.session();
    among.bench.daemon.store.keep(&"what cannot be read").unwrap();

    among.puts_secret(2);
    among.hears().await;

    assert_eq!(among.ipsec().associations.len(), 3, "two to receive by");
    assert_eq!(among.session(), session);
}

#[tokio::test]
async fn what_was_lost_before_anything_is_heard_is_not_made_again_by_what_was_found() {
    let among = Among::encrypted().await;
    let (session, guard) = (among.session(), Ipsec::guard(4790).collect::<BTreeMap<_, _>>());
    let mut among = among.restarted(|_| {}).await;
    assert_eq!(among.ipsec().associations.len(), 2, "they are taken over");

    among.bench.daemon.kernel.state.ipsec.associations.clear();
    among.bench.daemon.look_again().await;

    assert_eq!(among.ipsec(), &Ipsec { policies: guard, ..Ipsec::default() }, "the keys are not known, nor new");
    assert!(among.bench.daemon.trouble.is_empty(), "{:?}", among.bench.daemon.trouble);

    among.hears().await;
    assert_ne!(among.session(), session);
    assert_eq!(among.ipsec().associations.len(), 1, "to receive by, until the other has the like");
}

#[tokio::test]
async fn how_encryption_stands_is_told_and_who_has_no_keys_is_named() {
    let mut among = Among::encrypted().await;
    let view = among.status().await.cluster.and_then(|cluster| cluster.encryption).expect("a network is encrypted");
    assert_eq!((view.port, view.generation, view.oldest, view.associations), (4790, 1, 1, 2));
    assert!(view.obstacle.is_none() && view.waiting.is_empty() && view.age > 1_000_000_000, "{view:?}");
    assert!(among.examined().await.is_empty());
    let Reply::Networks(networks) = among.bench.daemon.answer(Request::Networks).await.unwrap() else { panic!() };
    let segment = networks[0].segment.clone().expect("it spans hosts");
    assert_eq!((segment.encrypted, segment.port), (true, 4790));

    among.puts_secret(2);
    among.put(Key::Node(name("c")), Record::Node(node(3)));
    let session = Session { id: "c".repeat(32), vtep: [192, 0, 2, 3].into(), port: 4790 };
    among.put(Key::Session(name("c")), Record::Session(session));
    among.hears().await;

    let view = among.status().await.cluster.and_then(|cluster| cluster.encryption).expect("a network is encrypted");
    assert_eq!((view.generation, view.oldest, view.waiting), (2, 0, vec!["c".to_owned()]));
    let line = "encrypted networks: no keys are agreed on with node c yet, and nothing goes there";
    assert_eq!(among.examined().await, [line]);
    assert!(among.status().await.warnings.contains(&line.to_owned()));

    let mut among = among.restarted(|kernel| kernel.no_esp = Some("it has no ESP".to_owned())).await;
    among.hears().await;
    let line = "this host has no part in encrypted networks: its kernel cannot do it: it has no ESP";
    assert_eq!(among.examined().await, [line]);
    let view = among.status().await.cluster.and_then(|cluster| cluster.encryption).expect("a network is encrypted");
    assert_eq!(view.obstacle.as_deref(), Some("it has no ESP"));
}

#[tokio::test]
async fn a_node_that_does_not_know_what_a_network_takes_is_named_in_the_status_of_the_others() {
    let mut among = Among::new().await;
    among.put(Key::Network(name("blue")), Record::Network(Box::new(network(&["no-icc"]))));
    among.hears().await;
    assert!(!among.status().await.warnings.iter().any(|line| line.contains("blue")));

    among.put(Key::Node(name("b")), Record::Node(Node { understands: BTreeSet::new(), ..node(2) }));
    among.hears().await;

    let line = "node b has no part in network blue, or a wrong one: its netd (0.0.9) does not know `no-icc`; update it";
    assert!(among.status().await.warnings.contains(&line.to_owned()));
}

#[tokio::test]
async fn every_host_that_has_to_do_with_an_allowance_tells_of_it_once() {
    let mut among = Among::new().await;
    among.put(Key::Network(name("blue")), Record::Network(Box::new(network(&["no-icc"]))));
    let mut claims = Vec::new();
    for (last, of, endpoint) in [(2, "a", "web"), (3, "b", "db"), (4, "c", "far")] {
        let claim = Claim { node: name(of), endpoint: name(endpoint) };
        let claim = among.put(Key::Claim(ID.to_owned(), ip(last)), Record::Claim(claim));
        claims.push((last, Party { node: name(of), endpoint: name(endpoint), claim }));
    }
    let [web, db, far] = &claims[..] else { panic!("three") };
    let key = |from: &(u8, Party), to: &(u8, Party), port: Option<u16>| {
        Key::Allowance(ID.to_owned(), ip(to.0), ip(from.0), port.map(|port| (port, Protocol::Tcp)))
    };
    let allowed =
        |from: &(u8, Party), to: &(u8, Party)| Record::Allowed(Allowed { from: from.1.clone(), to: to.1.clone() });
    among.put(key(db, web, None), allowed(db, web));
    among.hears().await;
    assert_eq!(among.told().await, [], "what was there before is no news");

    among.put(key(web, db, Some(80)), allowed(web, db));
    among.put(key(far, db, Some(80)), allowed(far, db));
    among.hears().await;
    among.hears().await;
    among.bench.daemon.look_again().await;
    let told = |action: &str, endpoint: &str| (action.to_owned(), endpoint.to_owned());
    assert_eq!(among.told().await, [told("Allow", "db@b")], "what is others' is told there");

    among.records.remove(&key(db, web, None));
    among.hears().await;
    assert_eq!(among.told().await, [told("Deny", "web")]);

    among.records.remove(&Key::Claim(ID.to_owned(), ip(3)));
    among.hears().await;
    among.records.remove(&key(web, db, Some(80)));
    among.hears().await;
    assert_eq!(among.told().await, [], "it went with the container, and nobody has denied it");
}

#[tokio::test]
async fn nodes_that_do_not_fit_this_one_are_named_in_its_status() {
    let mut among = Among::new().await;
    let way = |source: [u8; 4]| Way { link: LinkName::new("eth0").unwrap(), mtu: 1500, source: Some(source.into()) };
    let facts = &mut among.bench.daemon.kernel.facts;
    facts.ways.nodes.insert([192, 0, 2, 2].into(), way([192, 0, 2, 1]));
    facts.ways.nodes.insert([192, 0, 2, 5].into(), way([198, 51, 100, 9]));
    among.put(Key::Node(name("c")), Record::Node(Node { vtep: [192, 0, 2, 1].into(), ..node(3) }));
    among.put(Key::Node(name("d")), Record::Node(Node { vxlan_port: 8472, ..node(4) }));
    among.put(Key::Node(name("e")), Record::Node(node(5)));
    among.put(Key::Node(name("f")), Record::Node(Node { vtep: "2001:db8::6".parse().unwrap(), ..node(6) }));
    among.hears().await;
    among.bench.daemon.look_again().await;

    let warnings = among.status().await.warnings;

    for expected in [
        "node c has this host's VTEP 192.0.2.1",
        "node d has UDP port 8472 for VXLAN, and this host 4789: they do not reach each other",
        "to node e (192.0.2.5) this host sends as 198.51.100.9, and not as --vtep 192.0.2.1: what it sends is dropped there; give the \
         route the source 192.0.2.1, or the daemon --vtep 198.51.100.9",
        "node f has VTEP 2001:db8::6, and this host 192.0.2.1: no tunnel is of two families",
    ] {
        assert!(warnings.iter().any(|line| line == expected), "{expected}: {warnings:#?}");
    }
    assert!(!warnings.iter().any(|line| line.contains("node b")), "{warnings:#?}");
    let found = among.bench.daemon.examine().await.unwrap();
    let found: Vec<_> = found.into_iter().filter(|finding| finding.check == "nodes").collect();
    assert!(!found.is_empty() && found.iter().all(|finding| warnings.contains(&finding.found)), "{found:#?}");
    let wrong = ["c", "d", "e", "f"].map(|node| format!("node {node} "));
    assert!(wrong.iter().all(|node| found.iter().any(|finding| finding.found.contains(node))), "{found:#?}");
}
