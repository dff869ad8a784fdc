//! The `/etc/hosts` of commands of `netd run`, when the addresses of their endpoints change: whoever starts one writes it (`cli::names`).

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    net::IpAddr,
    path::Path,
};

use tracing::warn;

use super::Daemon;
use crate::{
    dns::hosts,
    model::{Endpoint, Model},
    reconcile::Kernel,
};

impl<K: Kernel> Daemon<K> {
    /// Has the files say the addresses of the model, where those were others before.
    pub(super) fn rewrite_hosts(&self, before: &Model) {
        let Some(run_dir) = self.about.socket.parent() else { return };
        let moved = |endpoint: &&Endpoint| {
            let was = before.endpoints.get(&endpoint.name);
            was.is_some_and(|was| !addresses(was).eq(addresses(endpoint)))
        };
        for endpoint in self.model.endpoints.values().map(AsRef::as_ref).filter(moved) {
            let path = run_dir.join("etc").join(endpoint.name.as_str()).join("hosts");
            match rewrite(&path, &hosts(endpoint.name.as_str(), addresses(endpoint))) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    warn!("{} says addresses that {} had: {error}", path.display(), endpoint.name);
                }
                // An endpoint that was attached by other means has none.
                _ => {}
            }
        }
    }
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let of = |ip: Option<_>, ip6: Option<_>| [ip.map(IpAddr::V4), ip6.map(IpAddr::V6)].into_iter().flatten();
    endpoint.attachments.iter().flat_map(move |attachment| of(attachment.ip, attachment.ip6))
}

/// In place: the command sees this very file, which is bound over the host's.
fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(text.as_bytes())
}
