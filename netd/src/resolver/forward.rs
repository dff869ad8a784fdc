//! Questions that others answer: whose servers they are, and their answers kept.

use std::{
    fs,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::op::Message;
use netd_common::dns::PORT;
use nix::net::if_::if_nametoindex;
use tokio::time::timeout;

use super::{exchange, race::race};
use crate::{
    dns::{Cache, Forwarding, Found, Key, Relay, ResolvConf, Server, failure, relayed},
    netns::Namespace,
};

/// Where the host says whom it asks.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Answers that are kept.
const KEPT: usize = 4_096;

/// How long a question is worth an answer: the C libraries ask again after five seconds.
const PATIENCE: Duration = Duration::from_millis(4_500);

/// How long an answer that is kept and over its time is held back for a better one (RFC 8767 section 5).
const HOLD_BACK: Duration = Duration::from_millis(1_800);

/// Whom the host asks, and what they have said.
pub struct Forwarder {
    cache: Arc<Mutex<Cache>>,
    host: Mutex<HostServers>,
}

impl Forwarder {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self { cache: Arc::new(Mutex::new(Cache::new(KEPT))), host: Mutex::default() }
    }

    /// What is told to a container that asks what is not in the directory.
    pub async fn answer(&self, relay: &Relay, namespace: &Arc<Namespace>) -> Message {
        let (servers, from) = match &relay.forwarding {
            Forwarding::Never => return failure(relay),
            Forwarding::Host => (locked(&self.host).servers(Path::new(RESOLV_CONF)), None),
            Forwarding::To(servers) => {
                let servers = servers.iter().copied().map(Server::from);
                (servers.collect(), Some(Arc::clone(namespace)))
            }
        };
        let question = &relay.question;
        let key = Key {
            from: from.as_ref().map(|namespace| namespace.sandbox().inode),
            servers: servers.clone(),
            name: question.name(),
            kind: question.kind(),
            dnssec: (question.dnssec, question.unchecked),
        };
        let found = locked(&self.cache).find(&key, Instant::now());
        if let Found::Fresh(answer) = &found {
            return relayed(relay, answer);
        }
        // Apart: it goes on, and is kept, when nobody waits for it any more.
        let cache = Arc::clone(&self.cache);
        let question = Arc::new(question.clone());
        let asking = tokio::spawn(async move {
            let places: Vec<_> = servers.iter().filter_map(place).collect();
            let ask = |server| exchange::ask(Arc::clone(&question), server, from.clone());
            let (answer, bytes) = timeout(PATIENCE, race(&places, ask)).await.ok()??;
            locked(&cache).keep(key, &answer, bytes, Instant::now());
            Some(answer)
        });
        let stale = match found {
            Found::Stale(answer) => Some(answer),
            _ => None,
        };
        let wait = if stale.is_some() { HOLD_BACK } else { PATIENCE };
        let new = timeout(wait, asking).await.ok().and_then(Result::ok).flatten();
        match new.or(stale) {
            Some(answer) => relayed(relay, &answer),
            None => failure(relay),
        }
    }
}

/// Where a server is reached; `None` without the device that it is on.
pub fn place(server: &Server) -> Option<SocketAddr> {
    match (server.address, &server.zone) {
        (IpAddr::V6(address), Some(zone)) => {
            let index = zone.parse().ok().or_else(|| if_nametoindex(zone.as_str()).ok())?;
            Some(SocketAddrV6::new(address, PORT, 0, index).into())
        }
        (address, _) => Some((address, PORT).into()),
    }
}

/// The host's servers, read anew whenever the file is another or has changed.
#[derive(Default)]
struct HostServers {
    seen: Option<(u64, u64, i64, i64, u64)>,
    servers: Vec<Server>,
}

impl HostServers {
    fn servers(&mut self, path: &Path) -> Vec<Server> {
        let seen = fs::metadata(path).ok().map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size()));
        if seen.is_none() || seen != self.seen {
            let text = fs::read_to_string(path).unwrap_or_default();
            self.servers = ResolvConf::read(&text).servers;
            self.seen = seen;
        }
        self.servers.clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_followed_when_it_is_rewritten_replaced_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut host = HostServers::default();
        let mut told = |path: &Path| host.servers(path).iter().map(|s| s.address.to_string()).collect::<Vec<_>>();
        assert_eq!(told(&path), [""; 0]);

        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(told(&path), ["192.0.2.1"]);

        fs::write(&path, "nameserver 192.0.2.11\n").unwrap();
        assert_eq!(told(&path), ["192.0.2.11"]);

        fs::write(directory.path().join("new"), "nameserver 192.0.2.12\n").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(told(&path), ["192.0.2.12"]);

        fs::remove_file(&path).unwrap();
        assert_eq!(told(&path), [""; 0]);
    }

    #[test]
    fn a_link_local_server_is_asked_on_its_link() {
        let server = |zone: &str| Server { address: "fe80::1".parse().unwrap(), zone: Some(zone.to_owned()) };

        assert_eq!(place(&server("7")), Some("[fe80::1%7]:53".parse().unwrap()));
        assert_eq!(place(&server("lo")), Some("[fe80::1%1]:53".parse().unwrap()));
        assert_eq!(place(&server("nosuch0")), None);
    }
}
