//! The daemon among others: it makes its host what all have, says what it has, and takes what all have to agree on.

mod encrypting;
mod found;
mod told;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use anyhow::Result;
use rand::RngCore;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

pub use told::{ClusterView, EncryptionView, NeighbourView, NodeView};

use self::{
    encrypting::Encrypting,
    found::{hidden, published, remembered, ways},
};
use super::{
    Daemon, Failure, Reply,
    answer::on,
    events::{Happening, NetworkAction, NodeAction},
    moment::now,
    without,
};
use crate::{
    cluster::{
        Answer, Elsewhere, Here, Taken, View, Wanted, adopt, alike, announcements, elsewhere, free_vni, known, shared,
        taken, wanted,
    },
    dns::Directory,
    membership::{Denial, Membership, Word},
    model::{self, Driver, Model, Name, NetworkOrder, Rejection, Segment},
    reconcile::{Family, HostFacts, Kernel},
    reserve::Fresh,
};

/// How often something is chosen anew because others chose at the same time.
const ATTEMPTS: usize = 16;

/// What the daemon keeps of the others.
pub struct Cluster {
    membership: Membership,
    /// What the host is made by.
    view: Option<Arc<View>>,
    /// Names of endpoints of other nodes.
    names: Vec<Elsewhere>,
    /// What of the view cannot be on this host, one line each.
    lines: Vec<String>,
    /// How encryption stands.
    encrypting: Encrypting,
}

impl Cluster {
    /// Nothing known yet.
    pub fn new(membership: Membership) -> Self {
        let (names, lines, encrypting) = (Vec::new(), Vec::new(), Encrypting::default());
        Self { membership, view: None, names, lines, encrypting }
    }

    /// What is not as the user may think, one line each.
    pub fn warnings(&self, facts: &HostFacts) -> Vec<String> {
        let (news, settings) = (self.membership.news(), self.membership.settings());
        let mut lines: Vec<String> = news.away.iter().map(|(_, why)| format!("cluster: {why}")).collect();
        lines.extend(news.conflicts.iter().chain(&self.lines).cloned());
        lines.extend(self.lacks_of_keys());
        if !facts.addresses.contains(&settings.vtep) {
            lines.push(format!("--vtep {} is no address of this host", settings.vtep));
        }
        let view = self.view.as_deref();
        lines
            .extend(view.into_iter().flat_map(|view| &view.unreadable).map(|(key, why)| format!("etcd: {key}: {why}")));
        for (name, node) in view.into_iter().flat_map(View::nodes).filter(|(name, _)| **name != settings.node) {
            if node.vtep == settings.vtep {
                lines.push(format!("node {name} has this host's VTEP {}", node.vtep));
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

    /// What it last heard, taken into account or not.
    fn latest(&self) -> Result<Arc<View>, Rejection> {
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
                    let answer = Answer { revision: view.revision, ways: ways(&self.model, &observed), mesh };
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
        let lines = adopt(&mut next, view, here);
        let (remotes, names) = known(view, &me);
        let lines = lines.into_iter().chain(hidden(&next, view, &me)).chain(alike(view, &me)).collect();
        let is_new = (&next, &remotes, &names) != (&self.model, &self.choices.remotes, &cluster.names);
        let before = cluster.view.replace(Arc::clone(view));
        (cluster.names, cluster.lines) = (names, lines);
        self.choices.remotes = remotes;
        self.tell_of_nodes(before.as_deref(), view);
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

    /// Makes the host this model with what is known of others, as far as it goes: what fails here is tried again at every look.
    async fn make_shared(&mut self, next: Model) {
        let names = |model: &Model| model.networks.keys().map(Name::to_string).collect::<Vec<_>>();
        let (before, after) = (names(&self.model), names(&next));
        if let Err(error) = self.commit(next.clone(), Fresh::new()).await {
            warn!("cannot make the host at once what all have: {error:#}");
            if let Err(error) = self.store.write(&self.model, &next) {
                return error!("cannot keep what all have: {error:#}");
            }
            self.model = next;
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
        elsewhere.fold(Directory::of(&self.model), |directory, endpoint| {
            directory.with(&endpoint.network, &endpoint.names, &endpoint.addresses)
        })
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

    /// Says what this host has.
    pub(super) fn tell_cluster(&self) {
        if let Some(cluster) = &self.cluster {
            let (session, installed) = cluster.said_of_keys();
            cluster.membership.tell(Word { endpoints: announcements(&self.model), session, installed });
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

    /// The ports that endpoints of other nodes have on every node.
    pub(super) fn taken_everywhere(&self) -> Result<Vec<Taken>, Rejection> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        let view = cluster.latest()?;
        Ok(taken(&view, &cluster.membership.settings().node))
    }

    /// Takes the ports that an endpoint of this model has on every node, before anybody else does.
    pub(super) async fn claim_ports(&self, next: &Model, name: &Name) -> Result<(), Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        let id = next.endpoint(name)?.id.clone();
        let Some(endpoint) = announcements(next).remove(&id) else { return Ok(()) };
        Ok(cluster.membership.publish(id, endpoint).await?)
    }

    /// A network of several hosts is as it was made.
    pub(super) fn of_this_host_alone(&self, name: &Name) -> Result<(), Rejection> {
        match self.model.network(name)?.driver {
            Driver::Overlay(_) => Err(Rejection::OfSeveralHosts(name.clone())),
            _ => Ok(()),
        }
    }

    /// Makes a network of several hosts.
    pub(super) async fn create_shared_network(&mut self, order: &NetworkOrder) -> Result<Reply, Failure> {
        if order.encrypted
            && let Some(why) = self.obstacle()?
        {
            return Err(Rejection::NoEsp { network: order.name.parse()?, why }.into());
        }
        for _ in 0..ATTEMPTS {
            self.follow_cluster().await;
            let cluster = self.cluster.as_ref().ok_or(Rejection::NoCluster)?;
            let view = cluster.followed()?;
            let settings = cluster.membership.settings();
            let vni =
                free_vni(&self.model, &view).ok_or_else(|| Rejection::Cluster("every VNI is taken".to_owned()))?;
            let underlay = Family::of(settings.vtep);
            let port = if order.encrypted { settings.encrypted_port } else { settings.vxlan_port };
            let segment = Segment { vni, port, underlay, encrypted: order.encrypted, peers: Default::default() };
            let on = model::Surroundings { segment: Some(&segment), ..on(&self.facts, &self.pools) };
            let mut next = self.model.clone();
            let name = model::create_network(&mut next, order, on, now(), &mut *self.rng)?;
            let Some(network) = next.networks.get(&name) else { break };
            let of_one_host = [("--snat-ip", !network.snat_ips.is_empty()), ("--no-icc", network.no_icc)];
            if let Some((option, _)) = of_one_host.into_iter().find(|(_, given)| *given) {
                return Err(Rejection::NotOfDriver { option, driver: "overlay" }.into());
            }
            let Some(network) = shared(network) else { break };
            match cluster.membership.create(&name, network, view).await {
                Err(Denial::Changed) => continue,
                made => made?,
            }
            if let Err(error) = self.commit(next, Fresh::new()).await {
                // It is nobody's: it goes here, and with the next word of etcd on every other node.
                self.remove_shared(&name).await?;
                return Err(error.into());
            }
            info!(network = %name, vni, "created");
            self.tell_of_network(NetworkAction::Create, &name);
            return self.network(&name);
        }
        Err(Denial::Changed.into())
    }

    /// Takes a network away from all, if it is one of several hosts.
    pub(super) async fn remove_shared_network(&self, name: &Name) -> Result<(), Failure> {
        match (&self.model.network(name)?.driver, &self.cluster) {
            (Driver::Overlay(_), Some(_)) => self.remove_shared(name).await,
            _ => Ok(()),
        }
    }

    async fn remove_shared(&self, name: &Name) -> Result<(), Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        cluster.latest()?;
        Ok(cluster.membership.remove(name).await?)
    }

    /// `base` with a change of an endpoint, whose new addresses in networks of several hosts are claimed. The change is given who
    /// has which address elsewhere.
    pub(super) async fn with_claims(
        &mut self,
        endpoint: &Name,
        base: &Model,
        change: impl Fn(&mut Model, BTreeMap<Name, BTreeMap<IpAddr, String>>, &mut dyn RngCore) -> Result<(), Rejection>,
    ) -> Result<(Model, Vec<Wanted>), Failure> {
        for _ in 0..ATTEMPTS {
            let view = self.cluster.as_ref().and_then(|cluster| cluster.membership.news().view);
            let taken = view.as_deref().map(elsewhere).unwrap_or_default();
            let mut next = base.clone();
            change(&mut next, taken, &mut *self.rng)?;
            let addresses = wanted(&self.model, &next, endpoint);
            if addresses.is_empty() {
                return Ok((next, addresses));
            }
            self.require_encryption(addresses.iter().map(|(network, ..)| network))?;
            let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
            let me = &cluster.membership.settings().node;
            if cluster.latest()?.is_drained(me) {
                return Err(Rejection::Drained(me.clone()).into());
            }
            match cluster.membership.claim(endpoint, addresses.clone()).await {
                Ok(()) => return Ok((next, addresses)),
                Err(Denial::Changed) => {}
                Err(denial) => return Err(denial.into()),
            }
        }
        Err(Denial::Changed.into())
    }

    /// After an attempt to have an endpoint that these were claimed for: they go back if it failed, else the others are told.
    pub(super) async fn kept(&self, attempt: Result<(), Failure>, claimed: Vec<Wanted>) -> Result<(), Failure> {
        let Some(cluster) = self.cluster.as_ref().filter(|_| !claimed.is_empty()) else { return attempt };
        match attempt {
            Ok(()) => self.settle().await,
            Err(_) => cluster.membership.abandon(claimed).await,
        }
        attempt
    }

    /// Lets a node take no more endpoints of networks of several hosts, or again some.
    pub(super) async fn drain(&mut self, name: &Name, drained: bool) -> Result<Reply, Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        cluster.latest()?;
        cluster.membership.drain(name, drained).await?;
        self.follow_cluster().await;
        info!(node = %name, drained, "changed");
        self.node(name).map(Reply::Node)
    }

    /// Forgets a node that is not there: its addresses are free again.
    pub(super) async fn forget(&mut self, name: &Name) -> Result<Reply, Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        cluster.latest()?;
        cluster.membership.forget(name).await?;
        info!(node = %name, "removed");
        Ok(Reply::Done {})
    }

    /// Has the keys of encrypted networks change.
    pub(super) async fn rekey(&mut self) -> Result<Reply, Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        cluster.latest()?;
        cluster.membership.rekey().await?;
        self.follow_cluster().await;
        info!("the keys of encrypted networks change");
        Ok(Reply::Done {})
    }

    /// Has the differences of all nodes told to who asked, when they are known.
    pub(super) async fn verify(&mut self, reply: oneshot::Sender<Result<Reply, Failure>>) {
        let differences = match &self.cluster {
            None => Err(Rejection::InNoCluster),
            Some(cluster) => match cluster.latest() {
                Ok(_) => Ok(cluster.membership.verify().await),
                Err(rejection) => Err(rejection),
            },
        };
        tokio::spawn(async move {
            let answer = match differences {
                Ok(differences) => match differences.await {
                    Ok(lines) => lines.map(Reply::Differences).map_err(Failure::from),
                    Err(_) => Err(Denial::Away("the question was not answered".to_owned()).into()),
                },
                Err(rejection) => Err(rejection.into()),
            };
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        });
    }
}
