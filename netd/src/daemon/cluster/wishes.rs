//! What the daemon asks of all: networks, addresses and ports that all have to agree on, and what is asked of other nodes.

use std::{collections::BTreeMap, net::IpAddr};

use rand::RngCore;
use tokio::sync::oneshot;
use tracing::info;

use super::super::{Daemon, Failure, Reply, answer::on, events::NetworkAction, moment::now};
use crate::{
    cluster::{Taken, Wanted, announcements, elsewhere, free_vni, required, shared, taken, wanted},
    membership::Denial,
    model::{self, Driver, Model, Name, NetworkOrder, Rejection, Segment},
    reconcile::{Family, Kernel},
    reserve::Fresh,
};

/// How often something is chosen anew because others chose at the same time.
const ATTEMPTS: usize = 16;

impl<K: Kernel> Daemon<K> {
    /// The ports that endpoints of other nodes have on every node.
    pub(in crate::daemon) fn taken_everywhere(&self) -> Result<Vec<Taken>, Rejection> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        let view = cluster.latest()?;
        Ok(taken(&view, &cluster.membership.settings().node))
    }

    /// Takes the ports that an endpoint of this model has on every node, before anybody else does.
    pub(in crate::daemon) async fn claim_ports(&self, next: &Model, name: &Name) -> Result<(), Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        let id = next.endpoint(name)?.id.clone();
        let Some(endpoint) = announcements(next).remove(&id) else { return Ok(()) };
        Ok(cluster.membership.publish(id, endpoint).await?)
    }

    /// A network of several hosts is as it was made.
    pub(in crate::daemon) fn of_this_host_alone(&self, name: &Name) -> Result<(), Rejection> {
        match self.model.network(name)?.driver {
            Driver::Overlay(_) => Err(Rejection::OfSeveralHosts(name.clone())),
            _ => Ok(()),
        }
    }

    /// Makes a network of several hosts.
    pub(in crate::daemon) async fn create_shared_network(&mut self, order: &NetworkOrder) -> Result<Reply, Failure> {
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
            let elsewhere = view.used_elsewhere(&settings.node);
            let absent = self.absent_subnets();
            let here = on(&self.facts, &self.pools, &absent);
            let on = model::Surroundings { segment: Some(&segment), elsewhere: &elsewhere, ..here };
            let mut next = self.model.clone();
            let name = model::create_network(&mut next, order, on, now(), &mut *self.rng)?;
            let Some(network) = next.networks.get(&name) else { break };
            if !network.snat_ips.is_empty() {
                return Err(Rejection::NotOfDriver { option: "--snat-ip", driver: "overlay" }.into());
            }
            if let Some((node, why)) = view.ignorant(&required(network)) {
                return Err(Rejection::Cluster(format!("network {name} would not be one on node {node}: {why}")).into());
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
    pub(in crate::daemon) async fn remove_shared_network(&self, name: &Name) -> Result<(), Failure> {
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
    pub(in crate::daemon) async fn with_claims(
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
    pub(in crate::daemon) async fn kept(
        &self,
        attempt: Result<(), Failure>,
        claimed: Vec<Wanted>,
    ) -> Result<(), Failure> {
        let Some(cluster) = self.cluster.as_ref().filter(|_| !claimed.is_empty()) else { return attempt };
        // Also where it has come, and whether or not etcd is there: it has been told of, and keeps its addresses by that alone.
        cluster.membership.conclude(claimed).await;
        if attempt.is_ok() {
            self.settle().await;
        }
        attempt
    }

    /// Lets a node take no more endpoints of networks of several hosts, or again some.
    pub(in crate::daemon) async fn drain(&mut self, name: &Name, drained: bool) -> Result<Reply, Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        cluster.latest()?;
        cluster.membership.drain(name, drained).await?;
        self.follow_cluster().await;
        info!(node = %name, drained, "changed");
        self.node(name).map(Reply::Node)
    }

    /// Forgets a node that is not there: its addresses are free again.
    pub(in crate::daemon) async fn forget(&mut self, name: &Name) -> Result<Reply, Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        cluster.latest()?;
        cluster.membership.forget(name).await?;
        info!(node = %name, "removed");
        Ok(Reply::Done {})
    }

    /// Has the keys of encrypted networks change.
    pub(in crate::daemon) async fn rekey(&mut self) -> Result<Reply, Failure> {
        let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
        cluster.latest()?;
        cluster.membership.rekey().await?;
        self.follow_cluster().await;
        info!("the keys of encrypted networks change");
        Ok(Reply::Done {})
    }

    /// Has the differences of all nodes told to who asked, when they are known.
    pub(in crate::daemon) async fn verify(&mut self, reply: oneshot::Sender<Result<Reply, Failure>>) {
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
                    Ok(verified) => verified.map(Reply::Verified).map_err(Failure::from),
                    Err(_) => Err(Denial::Away("the question was not answered".to_owned()).into()),
                },
                Err(rejection) => Err(rejection.into()),
            };
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        });
    }
}
