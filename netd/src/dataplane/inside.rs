//! The program at the loopback device of each container's own namespace, which leads questions to the resolver's sockets there.
//!
//! A clsact filter, which holds itself in its namespace and costs no grace period of RCU; one that a former daemon attached counts
//! only when this one has put its own program in its place. TCX links, as former versions made them, are pinned by the inode of
//! the namespace, and stay what they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use anyhow::{Context, Result, anyhow};
use aya::programs::SchedClassifier;
use netd_common::tables::Hook;

use super::{
    Pins,
    attach::{self, update},
    syscall::device_of_link,
};
use crate::{
    link::{Filter, Links},
    netns::{Entered, Namespace},
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
}

impl Inside {
    /// Those that are pinned.
    pub const fn open(pins: Pins) -> Self {
        Self { pins, on_clsact: BTreeSet::new() }
    }

    /// Puts `program` in the place of ours on the clsact qdiscs in these namespaces. One that cannot be entered is left to the
    /// next look.
    pub fn take_over(&mut self, program: &mut SchedClassifier, sandboxes: &BTreeSet<Sandbox>) -> Result<()> {
        let replaced = |sandbox: &Sandbox| -> Result<bool> {
            let _inside = Entered::new(&Namespace::of(sandbox)?)?;
            attach::replace_filter(program, &loopback(), Hook::DnsLo)
        };
        let visits = thread::scope(|scope| scope.spawn(|| sandboxes.iter().map(replaced).collect::<Vec<_>>()).join());
        let visits = visits.map_err(|_| anyhow!("what was done inside a namespace panicked"))?;
        let taken = sandboxes.iter().zip(visits).filter(|(_, replaced)| matches!(replaced, Ok(true)));
        self.on_clsact.extend(taken.map(|(sandbox, _)| sandbox.inode));
        Ok(())
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

    /// In which namespaces our program is attached; `loopbacks` is what is on the clsact qdiscs of those that could be looked at. Pins of namespaces that
    /// are gone hold nothing but memory, and go.
    pub fn observed(&self, loopbacks: &BTreeMap<u64, BTreeSet<Filter>>) -> Result<BTreeSet<u64>> {
        let here = |namespace: &&u64| loopbacks.get(namespace).is_none_or(|filters| filters.iter().any(is_ours));
        let mut found: BTreeSet<u64> = self.on_clsact.iter().filter(here).copied().collect();
        for namespace in self.pins.resolvers()? {
            let path = self.pins.resolver(namespace);
            let attached = device_of_link(&path).with_context(|| format!("cannot read about {}", path.display()))?;
            if attached.is_some() {
                found.insert(namespace);
            } else {
                Pins::unpin(&path)?;
            }
        }
        Ok(found)
    }

    /// How the program is attached, or would be.
    pub fn manner(&self) -> Result<&'static str> {
        Ok(match (self.pins.resolvers()?.is_empty(), self.on_clsact.is_empty()) {
            (true, _) => "clsact",
            (false, true) => "tcx",
            (false, false) => "tcx, clsact",
        })
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

fn is_ours(filter: &Filter) -> bool {
    filter.index == LOOPBACK_INDEX && attach::is_at(filter, Hook::DnsLo)
}

fn loopback() -> LinkName {
    LinkName::new(LOOPBACK).unwrap_or_else(|| unreachable!("two clean bytes"))
}
