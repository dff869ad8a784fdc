//! The client on real members of etcd (Debian's `etcd-server`), on the loopback of this machine.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use super::*;
use crate::{
    cluster::{Compare, Event, Key, Op, Record},
    testing::bound,
};

/// How long a member may take until it answers, on a machine that has other work.
const START: Duration = Duration::from_secs(60);

/// Members that end with this.
struct Servers {
    _directory: TempDir,
    members: Vec<Member>,
    processes: Vec<Child>,
}

impl Servers {
    /// As many as make one cluster, started with more arguments.
    fn start(count: usize, scheme: &str, arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        // Held together, so that they differ; free again when etcd takes them.
        let listeners: Vec<_> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        for port in &ports {
            bound(|| TcpListener::bind(("127.0.0.1", *port))).unwrap();
        }
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[count + n]);
        let all = (0..count).map(|n| format!("m{n}={}", peer(n))).collect::<Vec<_>>().join(",");
        let start = |n: usize| {
            let client = format!("{scheme}://127.0.0.1:{}", ports[n]);
            Command::new("etcd")
                .arg("--data-dir")
                .arg(directory.path().join(format!("m{n}")))
                .args(["--name", &format!("m{n}"), "--initial-cluster", &all, "--log-level", "error"])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer(n), "--initial-advertise-peer-urls", &peer(n)])
                .args(arguments)
                .stderr(Stdio::null())
                .spawn()
                .expect("etcd is installed (Debian's package etcd-server)")
        };
        let processes = (0..count).map(start).collect();
        let members = (0..count).map(|n| format!("{scheme}://127.0.0.1:{}", ports[n]).parse().unwrap()).collect();
        Self { _directory: directory, members, processes }
    }

    fn plain(count: usize) -> Self {
        Self::start(count, "http", &[])
    }

    fn config(&self) -> EtcdConfig {
        EtcdConfig { members: self.members.clone(), ..EtcdConfig::default() }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A client whose etcd answers.
async fn client(config: EtcdConfig) -> Etcd {
    let mut etcd = Etcd::new(config).unwrap();
    let deadline = Instant::now() + START;
    while let Err(error) = etcd.read().await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
    etcd
}

fn drained(node: &str) -> Key {
    Key::Drained(node.parse().unwrap())
}

fn put(when: Vec<Compare>, key: &Key) -> Txn {
    Txn { when, then: vec![Op::Put(key.clone(), Record::Mark)] }
}

async fn done(etcd: &mut Etcd, txn: &Txn) -> i64 {
    match etcd.take(txn, 0).await.unwrap() {
        Outcome::Done(revision) => revision,
        Outcome::Not => panic!("{txn:?} did not hold"),
    }
}

#[tokio::test]
async fn a_transaction_is_taken_when_everything_holds_and_not_else() {
    let servers = Servers::plain(1);
    let mut etcd = client(servers.config()).await;
    let (a, b) = (drained("a"), drained("b"));
    let all = || Range::all();

    let made = done(&mut etcd, &put(vec![Compare::Absent(a.clone()), Compare::Empty(all())], &a)).await;

    for (compare, holds) in [
        (Compare::Absent(a.clone()), false),
        (Compare::Absent(b.clone()), true),
        (Compare::Unchanged(a.clone(), made), true),
        (Compare::Unchanged(a.clone(), made + 1), false),
        (Compare::Unchanged(b.clone(), made), false),
        (Compare::Empty(all()), false),
        (Compare::Empty(Range::networks()), true),
        (Compare::NothingNewer(all(), made), true),
        (Compare::NothingNewer(all(), made - 1), false),
        (Compare::NothingNewer(Range::networks(), 0), true),
    ] {
        let txn = Txn { when: vec![compare.clone()], then: Vec::new() };
        let outcome = etcd.take(&txn, 0).await.unwrap();
        assert_eq!(matches!(outcome, Outcome::Done(_)), holds, "{compare:?}");
    }
    let view = etcd.read().await.unwrap();
    assert_eq!(view.entries.keys().collect::<Vec<_>>(), [&a]);
}

#[tokio::test]
async fn more_than_a_page_is_read_whole() {
    let servers = Servers::plain(1);
    let mut etcd = client(servers.config()).await;
    let count = 2 * PAGE + 1;
    let keys: Vec<Key> = (0..count).map(|n| drained(&format!("n{n}"))).collect();
    for some in keys.chunks(100) {
        let then = some.iter().map(|key| Op::Put(key.clone(), Record::Mark)).collect();
        done(&mut etcd, &Txn { when: Vec::new(), then }).await;
    }

    let view = etcd.read().await.unwrap();

    assert_eq!(view.entries.len(), count);
}

#[tokio::test]
async fn what_goes_with_a_lease_goes_when_it_is_revoked_and_a_watch_tells_of_it() {
    let servers = Servers::plain(1);
    let mut etcd = client(servers.config()).await;
    let start = etcd.read().await.unwrap().revision;
    let mut watch = etcd.watch(start).await.unwrap();
    let lease = etcd.grant(60).await.unwrap();
    assert!(etcd.keep_alive(lease).await.unwrap());
    let txn = Txn { when: Vec::new(), then: vec![Op::PutLeased(drained("a"), Record::Mark)] };

    etcd.take(&txn, lease).await.unwrap();
    etcd.revoke(lease).await.unwrap();

    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(watch.next().await.unwrap().events);
    }
    assert!(matches!(&events[0], Event::Put(key, entry) if *key == drained("a") && entry.lease == lease), "{events:?}");
    assert!(matches!(&events[1], Event::Delete(key, _) if *key == drained("a")), "{events:?}");
    assert!(!etcd.keep_alive(lease).await.unwrap());
    assert!(etcd.read().await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn of_three_members_any_two_answer_and_one_alone_does_not() {
    let mut servers = Servers::plain(3);
    let mut etcd = client(servers.config()).await;
    done(&mut etcd, &put(Vec::new(), &drained("a"))).await;

    servers.processes[0].kill().unwrap();
    servers.processes[0].wait().unwrap();
    let deadline = Instant::now() + START;
    while etcd.take(&put(Vec::new(), &drained("b")), 0).await.is_err() {
        assert!(Instant::now() < deadline, "the others have chosen a leader");
    }
    assert_eq!(etcd.read().await.unwrap().entries.len(), 2);

    servers.processes[1].kill().unwrap();
    servers.processes[1].wait().unwrap();
    let error = etcd.read().await.unwrap_err().to_string();
    assert!(servers.members.iter().all(|member| error.contains(&member.to_string())), "each is named: {error}");
}

#[tokio::test]
async fn a_password_is_needed_and_a_token_that_is_over_is_renewed() {
    let servers = Servers::start(1, "http", &["--auth-token-ttl", "1"]);
    let mut etcd = client(servers.config()).await;
    // What etcdctl does for an operator.
    for (path, question) in [
        ("/v3/auth/user/add", json!({ "name": "root", "password": "secret" })),
        ("/v3/auth/role/add", json!({ "name": "root" })),
        ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("/v3/auth/enable", json!({})),
    ] {
        let _: serde_json::Value = etcd.ask(path, &question).await.unwrap();
    }
    assert!(matches!(etcd.read().await, Err(EtcdError::Refused(_))), "nobody is no user");
    let user = |password: &str| Some(User { name: "root".to_owned(), password: password.to_owned() });

    let mut wrong = Etcd::new(EtcdConfig { user: user("guess"), ..servers.config() }).unwrap();
    let error = wrong.read().await.unwrap_err().to_string();
    assert!(error.contains("user root") && !error.contains("guess"), "{error}");

    let mut right = Etcd::new(EtcdConfig { user: user("secret"), ..servers.config() }).unwrap();
    right.read().await.unwrap();
    // A token that the member does not know: after its time, or after a restart.
    right.token = Some("zwxAfPPkqspzzpRJ.1".to_owned());
    right.read().await.unwrap();
    assert!(right.watch(1).await.is_ok());
}

#[tokio::test]
async fn certificates_are_asked_for_and_shown() {
    let files = Files::new();
    let paths = ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"].map(|name| files.path(name));
    let [ca, cert, key, ..] = paths.each_ref().map(|path| path.to_str().unwrap());
    let arguments = ["--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth"];
    let servers = Servers::start(1, "https", &arguments);
    assert!(matches!(Etcd::new(servers.config()), Err(TlsError::NoCa(_))));
    let [ca, _, _, cert, key] = paths.map(Some);

    let with_certificate = EtcdConfig { ca: ca.clone(), cert, key, ..servers.config() };
    let mut etcd = client(with_certificate.clone()).await;
    done(&mut etcd, &put(Vec::new(), &drained("a"))).await;
    assert!(etcd.watch(1).await.is_ok());

    let mut nobody = Etcd::new(EtcdConfig { ca, ..servers.config() }).unwrap();
    assert!(matches!(nobody.read().await, Err(EtcdError::Away(_))));
    let other = Files::new();
    let mut deceived = Etcd::new(EtcdConfig { ca: Some(other.path("ca.pem")), ..with_certificate }).unwrap();
    let error = deceived.read().await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn files_that_are_none_are_named() {
    let files = Files::new();
    let member = "https://127.0.0.1:1".parse().unwrap();
    let config = EtcdConfig { members: vec![member], ca: Some(files.path("ca.pem")), ..EtcdConfig::default() };
    let half = EtcdConfig { cert: Some(files.path("client.pem")), ..config.clone() };
    assert!(matches!(Etcd::new(half), Err(TlsError::HalfAClient)));
    for name in ["nowhere.pem", "client.key"] {
        let unusable = EtcdConfig { ca: Some(files.path(name)), ..config.clone() };
        let Err(error) = Etcd::new(unusable) else { panic!("{name} is no certificate") };
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Certificates of a server at 127.0.0.1 and of a client, and who signed them.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        write(directory.path(), "ca.pem", &authority.pem());
        for name in ["server", "client"] {
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            // etcd's gateway comes to its own member as a client, with the server's certificate, whose name must then be none.
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            write(directory.path(), &format!("{name}.key"), &key.serialize_pem());
            let certificate = params.signed_by(&key, &authority).unwrap();
            write(directory.path(), &format!("{name}.pem"), &certificate.pem());
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}
