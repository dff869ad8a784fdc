//! What changes of networks while they live: their endpoints, their MTU; and those that nobody is in any more.

use tracing::{info, warn};

use super::{
    ConnectOrder, Daemon, DisconnectOrder, EndpointOrder, Failure, NetworkChange, Reply, answer::on, events::*,
    views::network_view,
};
use crate::{
    model::{self, Joining, Name, Rejection, RenumberOrder},
    reconcile::Kernel,
    reserve::Fresh,
};

impl<K: Kernel> Daemon<K> {
    pub(super) async fn connect(&mut self, name: &Name, order: ConnectOrder) -> Result<Reply, Failure> {
        let endpoint = self.model.endpoint(name)?.clone();
        self.own_network_of(name)?;
        let mut next = self.model.clone();
        let order = EndpointOrder { networks: vec![order.network], ..Default::default() };
        let specs = self.joined_networks(&mut next, &order).await?;
        let sandbox = self.kernel.sandbox(&endpoint.netns).await;
        let sandbox = sandbox.map_err(|error| Rejection::NotASandbox(format!("{error:#}")))?;
        if sandbox.inode != endpoint.netns_inode {
            let gone = format!("the network namespace of {name} is gone ({})", endpoint.netns.display());
            return Err(Rejection::NotASandbox(gone).into());
        }
        let interfaces = self.kernel.interfaces(&sandbox).await?;
        let joined: Vec<Name> = specs.iter().map(|spec| spec.network.clone()).collect();
        let (next, claimed) = self
            .with_claims(name, &next, |next, elsewhere, rng| {
                let joining = Joining { specs: specs.clone(), interfaces: interfaces.clone(), elsewhere };
                model::connect(next, name, joining, rng)
            })
            .await?;
        let connected = self.commit(next, Fresh::new()).await.map_err(Failure::from);
        self.kept(connected, claimed).await?;
        for network in &joined {
            info!(endpoint = %name, %network, "connected");
            self.tell_of_endpoint(EndpointAction::Connect, name, Some(network));
        }
        self.endpoint(name)
    }

    pub(super) async fn disconnect(&mut self, name: &Name, order: &DisconnectOrder) -> Result<Reply, Failure> {
        let network: Name = order.network.parse()?;
        let mut next = self.model.clone();
        let gone = model::disconnect(&mut next, name, &network)?;
        let zone = self.model.network(&network)?.zone();
        self.commit(next, Fresh::new()).await?;
        self.settle().await;
        for address in gone.addresses() {
            if let Err(error) = self.kernel.forget_flows_of(zone, address.into()) {
                warn!("flows of {address} stay until they expire: {error:#}");
            }
        }
        info!(endpoint = %name, %network, "disconnected");
        self.tell_of_endpoint(EndpointAction::Disconnect, name, Some(&network));
        self.endpoint(name)
    }

    pub(super) async fn set_network(&mut self, name: &Name, change: &NetworkChange) -> Result<Reply, Failure> {
        self.look_at_the_host().await?;
        let mut next = self.model.clone();
        if let Some(mtu) = change.mtu {
            self.of_this_host_alone(name)?;
            model::set_mtu(&mut next, name, mtu, &self.facts)?;
        }
        if let Some(from) = &change.from {
            self.of_this_host_alone(name)?;
            model::set_sources(&mut next, name, from)?;
        }
        self.commit(next, Fresh::new()).await?;
        info!(network = %name, "changed");
        self.tell_of_network(NetworkAction::Update, name);
        self.network(name)
    }

    pub(super) async fn renumber(&mut self, name: &Name, order: &RenumberOrder) -> Result<Reply, Failure> {
        self.of_this_host_alone(name)?;
        self.look_at_the_host().await?;
        let (mut next, absent) = (self.model.clone(), self.absent_subnets());
        let gone = model::renumber(&mut next, name, order, on(&self.facts, &self.pools, &absent))?;
        self.commit(next, Fresh::new()).await?;
        let zone = self.model.network(name)?.zone();
        for address in gone {
            if let Err(error) = self.kernel.forget_flows_of(zone, address.into()) {
                warn!("flows of {address} stay until they expire: {error:#}");
            }
        }
        let subnets: Vec<_> =
            self.model.network(name)?.subnets.iter().map(|subnet| subnet.subnet.to_string()).collect();
        info!(network = %name, subnets = subnets.join(" "), "renumbered");
        self.tell_of_network(NetworkAction::Update, name);
        self.take_in_again().await;
        self.network(name)
    }

    /// Has networks without an MTU of the user's follow the host's routes.
    pub(super) async fn follow_the_mtu(&mut self) {
        if model::outdated_mtus(&self.model, &self.facts).is_empty() {
            return;
        }
        let mut next = self.model.clone();
        let changed = model::follow_mtu(&mut next, &self.facts);
        let Some(mtu) = changed.first().and_then(|name| next.networks.get(name)).map(|network| network.mtu) else {
            return;
        };
        match self.commit(next, Fresh::new()).await {
            Ok(()) => changed.iter().for_each(|name| {
                info!(network = %name, mtu, "follows the MTU of the host's routes");
                self.tell_of_network(NetworkAction::Update, name);
            }),
            Err(error) => warn!("cannot follow the MTU of the host's routes, {mtu}: {error:#}"),
        }
    }

    pub(super) async fn prune_networks(&mut self, labels: &[String]) -> Result<Reply, Failure> {
        let mut names = Vec::new();
        for name in model::unused_networks(&self.model, labels) {
            // One that others are in, or that cannot be removed just now, stays.
            if self.remove_shared_network(&name).await.is_ok() {
                names.push(name);
            }
        }
        let mut next = self.model.clone();
        let mut gone = Vec::new();
        for name in &names {
            gone.push(network_view(&self.model, self.model.network(name)?));
            model::remove_network(&mut next, name)?;
        }
        self.commit(next, Fresh::new()).await?;
        for name in &names {
            info!(network = %name, "removed");
            self.tell_of_network(NetworkAction::Remove, name);
        }
        self.take_in_again().await;
        Ok(Reply::Networks(gone))
    }
}
