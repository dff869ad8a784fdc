//! The daemon among others: it makes its host what all have, says what it has, and takes what all have to agree on.

mod encrypting;
mod found;
mod told;
mod using;
mod wishes;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use anyhow::Result;
use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{error, info, warn};

pub use told::{ClusterView, EncryptionView, NeighbourView, NodeView};

use self::{
    encrypting::Encrypting,
    found::{allowances, hidden, published, remembered, segments, ways},
    using::Using,
};
use super::{
    Daemon, Failure,
    events::{Happening, NetworkAction, NodeAction},
    without,
};
use crate::{
    cluster::{Answer, Between, Elsewhere, Here, View, adopt, alike, announcements, known, note_freed},
    dns::Directory,
    membership::{Denial, Membership, Word},
    model::{Model, Name, Rejection},
    plan::there,
    reconcile::{Family, HostFacts, Kernel},
    reserve::Fresh,
};

/// What the daemon keeps of the others.
pub struct Cluster {
    membership: Membership,
    /// What the host is made by.
    view: Option<Arc<View>>,
    /// Names of endpoints of other nodes.
    names: Vec<Elsewhere>,
    /// Networks of the view that are not on this host as all have them, and why, in a line.
    absent: BTreeMap<Name, String>,
    /// What else of the view cannot be on this host, one line each.
    lines: Vec<String>,
    /// How encryption stands.
    encrypting: Encrypting,
    /// What it tells them that this host uses.
    using: Using,
}

impl Cluster {
    /// Nothing known yet.
    pub fn new(membership: Membership) -> Self {
        Self {
            membership,
            view: None,
            names: Vec::new(),
            absent: BTreeMap::new(),
            lines: Vec::new(),
            encrypting: Encrypting::default(),
            using: Using::default(),
        }
    }

    /// What is not as the user may think, one line each.
    pub fn warnings(&self, facts: &HostFacts) -> Vec<String> {
        let (news, view) = (self.membership.news(), self.view.as_deref());
        let mut lines: Vec<String> = news.away.iter().map(|(_, why)| format!("cluster: {why}")).collect();
        lines.extend(news.conflicts.iter().chain(self.absent.values()).chain(&self.lines).cloned());
        lines.extend(self.lacks_of_keys());
        lines.extend(view.into_iter().flat_map(|view| view.misread()));
        lines.extend(view.into_iter().flat_map(View::not_understood).map(|line| format!("etcd: {line}")));
        lines.extend(self.misfits(facts));
        lines
    }

    /// What keeps this host and other nodes from reaching each other's containers, one line each.
    pub(super) fn misfits(&self, facts: &HostFacts) -> Vec<String> {
        let (settings, view) = (self.membership.settings(), self.view.as_deref());
        let mut lines = Vec::new();
        if !facts.addresses.contains(&settings.vtep) {
            lines.push(format!("--vtep {} is no address of this host", settings.vtep));
        }
        for (name, node) in view.into_iter().flat_map(View::nodes).filter(|(name, _)| **name != settings.node) {
            if node.vtep == settings.vtep {
                lines.push(format!("node {name} has this host's VTEP {}", node.vtep));
            }
            let source = facts.ways.nodes.get(&node.vtep).and_then(|way| way.source);
            if let Some(source) = source.filter(|source| {
                // Between two families is no tunnel, whatever the source.
                *source != settings.vtep && source.is_ipv4() == settings.vtep.is_ipv4()
            }) {
                lines.push(format!(
                    "to node {name} ({}) this host sends as {source}, and not as --vtep {}: what it sends is dropped there; give the \
                     route the source {}, or the daemon --vtep {source}",
                    node.vtep, settings.vtep, settings.vtep
                ));
            }
            if node.vxlan_port != settings.vxlan_port {
                lines.push(format!(
                    "node {name} has UDP port {} for VXLAN, and this host {}: they do not reach each other",
                    node.vxlan_port, settings.vxlan_port
                ));
            }
            if node.encrypted_port != settings.encrypted_port && !self.encrypting.wanted.ipsec.policies.is_empty() {
                lines.push(format!(
                    "node {name} has UDP port {} for encrypted networks, and this host {}: they do not reach each other there",
                    node.encrypted_port, settings.encrypted_port
                ));
            }
            if Family::of(node.vtep) != Family::of(settings.vtep) {
                lines.push(format!(
                    "node {name} has VTEP {}, and this host {}: no tunnel is of two families",
                    node.vtep, settings.vtep
                ));
            }
        }
        lines
    }

    /// What the host is made by.
    pub(super) fn seen(&self) -> Option<&View> {
        self.view.as_deref()
    }

    /// This host's name there.
    pub(super) fn me(&self) -> &Name {
        &self.membership.settings().node
    }

    /// Has something allowed between two containers by all, or no more.
    pub(super) async fn allow(&self, between: Between, allowed: bool) -> Result<(), Denial> {
        self.membership.allow(between, allowed).await
    }

    /// What it last heard, taken into account or not.
    pub(super) fn latest(&self) -> Result<Arc<View>, Rejection> {
        let news = self.membership.news();
        match (news.away, news.view) {
            (Some((_, why)), _) => Err(Rejection::Cluster(Denial::Away(why).to_string())),
            (None, Some(view)) => Ok(view),
            (None, None) => Err(Rejection::Cluster("etcd has not been read yet".to_owned())),
        }
    }

    /// What the model is made by. More may be heard of meanwhile, which the model knows nothing of: what is chosen by both
    /// together must be chosen by this one.
    fn followed(&self) -> Result<Arc<View>, Rejection> {
        let latest = self.latest()?;
        Ok(self.view.clone().unwrap_or(latest))
    }
}

/// Ready when there is something to follow.
pub async fn news(cluster: &mut Option<Cluster>) {
    match cluster {
        Some(cluster) => cluster.membership.changed().await,
        None => std::future::pending().await,
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        Self::Refused(Rejection::Cluster(denial.to_string()))
    }
}

impl<K: Kernel> Daemon<K> {
    /// Until something is heard of the others they are where the host has them: an earlier daemon's word.
    pub(super) async fn remember_remotes(&mut self) -> Result<()> {
        if self.cluster.is_some() {
            let observed = self.kernel.observe().await?;
            self.choices.remotes = remembered(&self.model, &observed);
        }
        Ok(())
    }

    /// Takes in what was last heard: networks, ways, names, questions.
    pub(super) async fn follow_cluster(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        let Some(view) = cluster.membership.seen().view else { return self.note_warnings() };
        if !cluster.view.as_ref().is_some_and(|known| Arc::ptr_eq(known, &view)) {
            self.take_in(&view).await;
        }
        self.note_warnings();
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.membership.is_asked(&view) {
            match self.kernel.observe().await {
                Ok(observed) => {
                    let me = &cluster.membership.settings().node;
                    let mesh = Some(published(&self.model, &observed, &view, me));
                    let allowances = Some(allowances(&self.model, &observed));
                    let ways = ways(&self.model, &observed);
                    let (segments, kept) = (Some(segments(&observed)), cluster.membership.news().keeps());
                    let absent = cluster.absent.clone();
                    let answer = Answer { revision: view.revision, ways, allowances, mesh, segments, kept, absent };
                    cluster.membership.answer(&view, answer).await;
                }
                Err(error) => warn!("cannot see what this host forwards: {error:#}"),
            }
        }
    }

    async fn take_in(&mut self, view: &Arc<View>) {
        let Some(cluster) = &mut self.cluster else { return };
        let settings = cluster.membership.settings();
        let here = Here {
            port: settings.vxlan_port,
            encrypted_port: settings.encrypted_port,
            underlay: Family::of(settings.vtep),
            facts: &self.facts,
        };
        let (mut next, me) = (self.model.clone(), settings.node.clone());
        cluster.absent = adopt(&mut next, view, here);
        if let Some(before) = &cluster.view {
            note_freed(&mut next, before, view);
        }
        let (remotes, mut names) = known(view, &me);
        // A network of the same name may be another one here.
        let id = |name: &Name| next.networks.get(name).map(|network| network.id.as_str());
        names.retain(|one| view.network(&one.network).map(|network| network.id.as_str()) == id(&one.network));
        let lines = hidden(&next, view, &me).into_iter().chain(alike(view, &me)).collect();
        let is_new = (&next, &remotes, &names) != (&self.model, &self.choices.remotes, &cluster.names);
        let before = cluster.view.replace(Arc::clone(view));
        (cluster.names, cluster.lines) = (names, lines);
        self.is_as_planned &= self.choices.remotes == remotes;
        self.choices.remotes = remotes;
        self.tell_of_nodes(before.as_deref(), view);
        self.tell_of_allowances(before.as_deref(), view);
        let is_any = |view: &View| view.is_any_encrypted();
        let has_new_keys = (is_any(view) || before.as_deref().is_some_and(is_any))
            && before.as_deref().is_none_or(|before| before.of_keys() != view.of_keys());
        if is_new {
            self.make_shared(next).await;
        }
        if has_new_keys && let Err(error) = self.reconcile().await {
            error!("cannot take the keys of encrypted networks into use: {error:#}");
        }
    }

    /// After a network of this host alone has gone or moved: one of all that it was in the way of can be here at once.
    pub(super) async fn take_in_again(&mut self) {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| !cluster.absent.is_empty()) else { return };
        if let Some(view) = cluster.membership.news().view {
            self.take_in(&view).await;
            self.note_warnings();
        }
    }

    /// Subnets of networks of all that are not on this host.
    pub(super) fn absent_subnets(&self) -> Vec<(Name, IpNet)> {
        let all = self.cluster.as_ref().and_then(Cluster::seen).into_iter().flat_map(View::networks);
        let absent =
            all.filter(|(name, network)| self.model.networks.get(*name).is_none_or(|ours| ours.id != network.id));
        absent.flat_map(|(name, network)| network.subnets.iter().map(|one| (name.clone(), one.subnet))).collect()
    }

    /// Makes the host this model with what is known of others, as far as it goes: what fails here is tried again at every look.
    async fn make_shared(&mut self, next: Model) {
        let names = |model: &Model| model.networks.keys().map(Name::to_string).collect::<Vec<_>>();
        let (before, after) = (names(&self.model), names(&next));
        if let Err(error) = self.commit(next.clone(), Fresh::new()).await {
            warn!("cannot make the host at once what all have: {error:#}");
            if let Err(error) = self.store.write(&self.model, &next) {
                return error!("cannot keep what all have: {error:#}");
            }
            let before = std::mem::replace(&mut self.model, next);
            self.rewrite_hosts(&before);
            self.kernel.know_names(self.directory());
            if let Err(error) = self.reconcile().await {
                error!("cannot compare the host with what all have: {error:#}");
            }
        }
        let tell = |action, network| self.events.tell(Happening::Network { action, network });
        without(&after, &before).into_iter().for_each(|network| tell(NetworkAction::Create, network));
        without(&before, &after).into_iter().for_each(|network| tell(NetworkAction::Remove, network));
    }

    fn tell_of_nodes(&self, before: Option<&View>, after: &View) {
        let names = |view: &View| view.nodes().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        let (before, after) = (before.map(names).unwrap_or_default(), names(after));
        for (action, nodes) in
            [(NodeAction::Join, without(&after, &before)), (NodeAction::Leave, without(&before, &after))]
        {
            for node in nodes {
                info!(%node, ?action, "the cluster has changed");
                self.events.tell(Happening::Node { action, node });
            }
        }
    }

    /// Who is called what, here and on other nodes.
    pub(super) fn directory(&self) -> Directory {
        let elsewhere = self.cluster.iter().flat_map(|cluster| &cluster.names);
        let here = Directory::of(&self.model, |endpoint| there(endpoint, &self.facts).is_some());
        elsewhere
            .fold(here, |directory, endpoint| directory.with(&endpoint.network, &endpoint.names, &endpoint.addresses))
    }

    /// The other nodes that are there, by their VTEPs.
    pub(super) fn vteps(&self) -> BTreeMap<IpAddr, String> {
        let Some(cluster) = &self.cluster else { return BTreeMap::new() };
        let nodes = cluster.view.iter().flat_map(|view| view.nodes());
        let others = nodes.filter(|(name, _)| **name != cluster.membership.settings().node);
        others.map(|(name, node)| (node.vtep, name.to_string())).collect()
    }

    /// The name of the container of another host at an address of a network.
    pub(super) fn name_elsewhere(&self, network: &str, address: IpAddr) -> Option<String> {
        let mut elsewhere = self.cluster.iter().flat_map(|cluster| &cluster.names);
        let there = elsewhere.find(|one| one.network.as_str() == network && one.addresses.contains(&address))?;
        there.names.first().cloned()
    }

    /// Says what this host uses, after a look at it by which that has changed or not.
    pub(super) fn follow_uses(&mut self, has_changed: bool, now: Instant) {
        if let Some(cluster) = &mut self.cluster
            && cluster.using.follow(&self.model, &self.facts, has_changed, now)
        {
            self.tell_cluster();
        }
    }

    /// Says what this host has.
    pub(super) fn tell_cluster(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            let (session, installed) = cluster.said_of_keys();
            let uses = cluster.using.said(&self.model, &self.facts);
            cluster.membership.tell(Word { endpoints: announcements(&self.model), session, installed, uses });
        }
    }

    /// Waits until the others can know what this host has. Where they cannot, they will when etcd is back.
    pub(super) async fn settle(&self) {
        if let Some(cluster) = &self.cluster
            && cluster.latest().is_ok()
            && let Err(denial) = cluster.membership.settle().await
        {
            warn!("the others do not know yet what has changed here: {denial}");
        }
    }
}
