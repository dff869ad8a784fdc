//! The kernel as the reconciler sees it: links, programs and maps put together. Decides nothing.

mod applying;
mod checkup;
#[cfg(test)]
mod converging;
#[cfg(test)]
pub mod fixtures;
mod kernel;
mod looking;
mod settling;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context, Result};
use netd_common::tables::Hook;
use nix::{errno::Errno, net::if_::if_nametoindex};
use tokio::sync::watch;

use self::settling::Settling;
use crate::{
    dataplane::{Dataplane, RoutingChanges},
    firewall::Mode,
    link::{Filter, Firewall, Forwarding, Links, Withheld, xfrm::Xfrm},
    netns::Namespace,
    reconcile::{LinkName, Sandbox, Veth},
    relay::Relay,
    resolver::Resolver,
};

pub use crate::dataplane::{Cgroup, Options as DataplaneOptions};

/// What a host is opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostOptions {
    /// Where maps and attachments are pinned (`--bpf-dir`).
    pub bpf_dir: PathBuf,
    /// Where the notes for `uninstall` are (`--state-dir`); it exists.
    pub state_dir: PathBuf,
    /// Devices towards the outside (`--uplink`); none for every one that looks like it.
    pub uplinks: Vec<LinkName>,
    /// How flows stand to the host's firewall (`--firewall`), and the mark of their packets.
    pub firewall: (Mode, u32),
    /// Of the programs and maps.
    pub dataplane: DataplaneOptions,
}

/// The host that the calling thread's network namespace is.
pub struct Host {
    links: Links,
    dataplane: Dataplane,
    forwarding: Forwarding,
    withheld: Withheld,
    resolver: Resolver,
    relay: Relay,
    uplinks: Vec<LinkName>,
    sandboxes: BTreeMap<LinkName, Sandbox>,
    firewall: Firewall,
    /// Other hosts of the cluster, and of networks made by hand.
    vteps: [BTreeSet<IpAddr>; 2],
    /// Only where something is or was encrypted: to ask has the kernel load what many hosts need not.
    ipsec: Option<Xfrm>,
    settling: Settling,
}

impl Host {
    /// Checks what is needed, loads the programs, and takes over what a former daemon left.
    pub async fn open(options: HostOptions, resolver: Resolver) -> Result<Self> {
        let links = Links::open()?;
        let names = links.names().await?;
        let filters = links.filters().await?;
        let dataplane = Dataplane::open(options.bpf_dir, &options.dataplane, &names, &filters)?;
        for hook in Hook::OF_DEVICES {
            let Some((filter, program)) = dataplane.shared(hook)? else { continue };
            let is_it = |found: &Filter| filter == Filter { index: 0, ..found.clone() };
            if filters.iter().any(is_it)
                && let Err(error) = links.put_into_block(&filter, program).await
                // With its last device the block goes, and there is nothing to take over.
                && links.filters().await?.iter().any(is_it)
            {
                return Err(error);
            }
        }
        // Only a process that may do all this may listen.
        let links = Links::open_watched()?;
        let changes = links.changes().context("nobody listens to the host's changes")?;
        tokio::spawn(tell_of_changes(changes, dataplane.routing_changes()?));
        let forwarding = Forwarding::open(&options.state_dir)?;
        let withheld = Withheld::open(&options.state_dir)?;
        let firewall = Firewall::new(options.firewall.0, options.firewall.1);
        let (relay, uplinks, sandboxes) = (Relay::start()?, options.uplinks, BTreeMap::new());
        let vteps = Default::default();
        let (ipsec, settling) = (None, Settling::new(Instant::now()));
        Ok(Self {
            links,
            dataplane,
            forwarding,
            withheld,
            resolver,
            relay,
            uplinks,
            sandboxes,
            firewall,
            vteps,
            ipsec,
            settling,
        })
    }

    /// Says in which sandbox the other side of each veth is, which the kernel does not tell. To be called at start with
    /// the model's, before the first [`observe`](crate::reconcile::Kernel::observe); steps keep it up from then on.
    pub fn remember_sandboxes(&mut self, sandboxes: BTreeMap<LinkName, Sandbox>) -> Result<()> {
        let known = sandboxes.values().cloned().collect();
        self.sandboxes.extend(sandboxes);
        self.dataplane.take_over_inside(&known)
    }

    /// Wakes whoever waits when something of the host's or of a container's network has changed.
    pub fn changes(&self) -> Result<watch::Receiver<u64>> {
        self.links.changes().context("nobody listens to the host's changes")
    }

    /// The tables of encryption, which are looked at from now on.
    fn xfrm(&mut self) -> Result<&Xfrm> {
        if self.ipsec.is_none() {
            self.ipsec = Some(Xfrm::open()?);
        }
        self.ipsec.as_ref().context("the tables of encryption are open")
    }

    /// A sandbox that a veth leads to, by its inode: the kernel gives that of a namespace which is gone to the next one, so a path that
    /// still leads there goes before others.
    fn sandbox_of(&self, namespace: u64) -> Option<&Sandbox> {
        let of_number = || self.sandboxes.values().filter(|sandbox| sandbox.inode == namespace);
        of_number().find(|sandbox| Namespace::of(sandbox).is_ok()).or_else(|| of_number().next())
    }

    /// Forgets the sandboxes of veths that went with them.
    fn forget_sandboxes_but(&mut self, veths: &BTreeMap<LinkName, Veth>) {
        let is_gone = |sandbox: &Sandbox| Namespace::of(sandbox).is_err_and(|unfit| unfit.is_final());
        self.sandboxes.retain(|link, sandbox| veths.contains_key(link) || !is_gone(sandbox));
    }

    /// Takes the clsact qdisc of a device away that is our making, if nothing is on it.
    async fn remove_qdisc(&mut self, index: u32) -> Result<()> {
        if self.links.remove_empty_clsact(index).await? {
            self.dataplane.forget_qdisc(index)?;
        }
        Ok(())
    }
}

/// Has the programs know that the host's routing may have changed, first of all while nobody listened. Without it flows look their
/// way up seldom, and not never.
async fn tell_of_changes(mut changes: watch::Receiver<u64>, mut routing: RoutingChanges) {
    loop {
        if let Err(error) = routing.changed() {
            tracing::warn!("{error:#}");
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The index of a device; `None` if there is no such device.
fn index(link: &LinkName) -> Result<Option<u32>> {
    match if_nametoindex(link.as_str()) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV | Errno::ENXIO) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at {link}")),
    }
}

fn needed_index(link: &LinkName) -> Result<u32> {
    index(link)?.with_context(|| format!("there is no device {link}"))
}
