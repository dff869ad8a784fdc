//! Takes away everything of netd's from the host, and nothing else. Needs no daemon, and no daemon may be running.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{
    dataplane::{Pins, remove_from_clsact, removed_filter},
    firewall::{MARK, Mode, Xtables},
    link::{Firewall, Forwarding, Links, Withheld, xfrm},
    reconcile::{LinkName, Sandbox},
};

/// What was taken away.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Pinned attachments and maps.
    pub pins: Vec<PathBuf>,
    /// Devices that a filter of ours was on.
    pub filters: BTreeSet<LinkName>,
    /// Namespaces of containers that a filter of ours was in.
    pub namespaces: Vec<PathBuf>,
    /// Links.
    pub links: Vec<LinkName>,
    /// How many security associations and policies there were.
    pub encryption: usize,
    /// The iptables that netd's accept was in.
    pub accepts: BTreeSet<Xtables>,
    /// Devices whose forwarding has the value back that it had before netd.
    pub forwarding: Vec<LinkName>,
    /// Whether published ports were withheld from sockets that name none.
    pub withheld: bool,
}

/// Detaches every program, deletes every link and map of ours, and gives the host its forwarding back. What is gone
/// already is no error: a second call finds nothing. `sandboxes` are the containers' namespaces, as far as they are known.
pub async fn uninstall(bpf_dir: &Path, state_dir: &Path, sandboxes: &[Sandbox]) -> Result<Report> {
    let links = Links::open()?;
    let pins = Pins::existing(bpf_dir.to_owned());
    let qdiscs = pins.qdiscs_made()?;

    // The programs last: no container has a network, and nothing forwards for netd, without the programs that bound it.
    let deleted = links.delete_all().await?;
    let encryption = xfrm::remove_everything()?;
    let accepts = Firewall::new(Mode::Aware, MARK).remove_accepts()?;
    let forwarding = Forwarding::open(state_dir)?.give_everything_back()?;
    let withheld = Withheld::open(state_dir)?.give_back()?;
    let names = links.names().await?;
    let mut filters = BTreeSet::new();
    for filter in links.filters().await?.iter().filter(|filter| !filter.shared) {
        if let Some(name) = names.get(&filter.index)
            && removed_filter(name, filter)?
        {
            filters.insert(name.clone());
        }
    }
    for index in qdiscs.into_iter().filter(|index| names.contains_key(index)) {
        links.remove_empty_clsact(index).await?;
    }
    let mut namespaces = Vec::new();
    for sandbox in sandboxes {
        if remove_from_clsact(sandbox).await? {
            namespaces.push(sandbox.path.clone());
        }
    }
    let pins = pins.remove_everything()?;
    Ok(Report { pins, filters, namespaces, links: deleted, encryption, forwarding, withheld, accepts })
}

#[cfg(test)]
mod tests;
