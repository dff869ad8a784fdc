//! The program at the loopback device of each container's own namespace, which leads questions to the resolver's sockets there.
//!
//! TCX links are pinned as those of the host's devices are, by the inode of the namespace. A clsact filter holds itself in
//! its namespace; one that a former daemon attached counts only when this one has put its own program in its place.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aya::programs::{LinkOrder, SchedClassifier, links::FdLink, tc::TcAttachOptions};
use netd_common::tables::Hook;

use super::{
    Pins,
    attach::{self, direction, lacks_tcx, update},
    syscall::tcx_link,
};
use crate::{
    link::{Filter, Links},
    netns::Namespace,
    reconcile::{LinkName, Sandbox},
};

/// The loopback device of every namespace.
const LOOPBACK: &str = "lo";
const LOOPBACK_INDEX: u32 = 1;

/// The attachments inside of namespaces.
pub struct Inside {
    pins: Pins,
    /// By the namespace's inode; attached by this process.
    on_clsact: BTreeSet<u64>,
    without_tcx: bool,
}

impl Inside {
    /// Those that are pinned.
    pub fn open(pins: Pins, without_tcx: bool) -> Self {
        Self { pins, on_clsact: BTreeSet::new(), without_tcx }
    }

    /// Puts `program` in the place of every one that is pinned; what is attached to nothing any more goes.
    pub fn replace(&self, program: &mut SchedClassifier) -> Result<()> {
        for namespace in self.pins.resolvers()? {
            let path = self.pins.resolver(namespace);
            if !update(program, &path)? {
                Pins::unpin(&path)?;
            }
        }
        Ok(())
    }

    /// Attaches `program` in a namespace, or puts it in the place of ours there.
    pub fn attach(&mut self, program: &mut SchedClassifier, sandbox: &Sandbox) -> Result<()> {
        let path = self.pins.resolver(sandbox.inode);
        if path.exists() {
            if update(program, &path)? {
                return Ok(());
            }
            Pins::unpin(&path)?;
        }
        let namespace = Namespace::of(sandbox)?;
        if !self.without_tcx {
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let attached = namespace.inside(|| program.attach_with_options(LOOPBACK, direction(Hook::DnsLo), order))?;
            match attached {
                Ok(id) => {
                    let attached: FdLink = program.take_link(id)?.try_into()?;
                    attached.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
                    return Ok(());
                }
                Err(error) if lacks_tcx(&error) => self.without_tcx = true,
                Err(error) => return Err(error.into()),
            }
        }
        namespace.inside(|| attach::add_to_clsact(program, &loopback(), Hook::DnsLo))??;
        self.on_clsact.insert(sandbox.inode);
        Ok(())
    }

    /// Detaches our program in a namespace, if it is there.
    pub async fn detach(&mut self, sandbox: &Sandbox) -> Result<()> {
        Pins::unpin(&self.pins.resolver(sandbox.inode))?;
        if !self.on_clsact.remove(&sandbox.inode) {
            return Ok(());
        }
        remove_from_clsact(sandbox).await.map(|_| ())
    }

    /// In which of these namespaces our program is attached. Pins of namespaces that are gone hold nothing but memory, and go.
    pub async fn observed(&mut self, sandboxes: &BTreeMap<u64, Sandbox>) -> Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        for namespace in self.pins.resolvers()? {
            let path = self.pins.resolver(namespace);
            let attached = tcx_link(&path).with_context(|| format!("cannot read about {}", path.display()))?;
            if attached.is_some() {
                found.insert(namespace);
            } else {
                Pins::unpin(&path)?;
            }
        }
        for namespace in self.on_clsact.clone() {
            let Some(sandbox) = sandboxes.get(&namespace) else { continue };
            if is_on_clsact(sandbox).await? {
                found.insert(namespace);
            }
        }
        Ok(found)
    }

    /// How the program is attached, or would be.
    pub const fn manner(&self) -> &'static str {
        if self.without_tcx { "clsact" } else { "tcx" }
    }

    /// The loopback devices that it is attached to: `lo@` and the inode of the namespace.
    pub fn devices(&self) -> Result<Vec<String>> {
        let namespaces = self.pins.resolvers()?.into_iter().chain(self.on_clsact.iter().copied());
        Ok(namespaces.map(|namespace| format!("{LOOPBACK}@{namespace}")).collect())
    }
}

/// Removes the filter of ours from the loopback device of a namespace, and the clsact qdisc if nothing else is on it; whether there was one.
/// For a namespace that is gone there is nothing to do.
pub async fn remove_from_clsact(sandbox: &Sandbox) -> Result<bool> {
    let namespace = match Namespace::of(sandbox) {
        Err(error) if error.is_final() => return Ok(false),
        namespace => namespace?,
    };
    let links = Links::open_inside(&namespace)?;
    if !links.filters().await?.iter().any(is_ours) {
        return Ok(false);
    }
    namespace.inside(|| attach::remove_filter(&loopback(), Hook::DnsLo))??;
    links.remove_empty_clsact(LOOPBACK_INDEX).await?;
    Ok(true)
}

async fn is_on_clsact(sandbox: &Sandbox) -> Result<bool> {
    let namespace = match Namespace::of(sandbox) {
        Err(error) if error.is_final() => return Ok(false),
        namespace => namespace?,
    };
    Ok(Links::open_inside(&namespace)?.filters().await?.iter().any(is_ours))
}

fn is_ours(filter: &Filter) -> bool {
    filter.index == LOOPBACK_INDEX && attach::is_at(filter, Hook::DnsLo)
}

fn loopback() -> LinkName {
    LinkName::new(LOOPBACK).unwrap_or_else(|| unreachable!("two clean bytes"))
}
