//! Each request: read, decided on a copy of the model, committed, told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow};
use ipnet::IpNet;
use tracing::{info, warn};

use super::{
    Daemon, EndpointOrder, Failure, PortsOrder, Reply, Request,
    events::{EndpointAction, Happening, NetworkAction, PortAction},
    messages::process_of,
    moment::now,
    views::{EndpointView, endpoint_view, network_view},
};
use crate::{
    ipam::Pools,
    model::{
        self, AttachOrder, DEFAULT_NETWORK, Endpoint, Joining, Mode, Model, Name, NetSpec, NetworkOrder, Options,
        PortSpec, PublishMode, Rejection, Surroundings,
    },
    reconcile::{HostFacts, Kernel},
    reserve::Fresh,
};

impl<K: Kernel> Daemon<K> {
    /// Does what is asked.
    pub async fn answer(&mut self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::CreateNetwork(order) => self.create_network(&order).await,
            Request::Networks => {
                Ok(Reply::Networks(self.model.networks.values().map(|n| network_view(&self.model, n)).collect()))
            }
            Request::Network(name) => self.network(&name.parse()?),
            Request::SetNetwork(name, change) => self.set_network(&name.parse()?, &change).await,
            Request::RenumberNetwork(name, order) => self.renumber(&name.parse()?, &order).await,
            Request::RemoveNetwork(name) => self.remove_network(&name.parse()?).await,
            Request::PruneNetworks(labels) => self.prune_networks(&labels).await,
            Request::Attach(order) => self.attach(order).await,
            Request::Endpoints => {
                Ok(Reply::Endpoints(self.model.endpoints.values().map(|endpoint| self.shown(endpoint)).collect()))
            }
            Request::Endpoint(name) => self.endpoint(&name.parse()?),
            Request::Connect(name, order) => self.connect(&name.parse()?, order).await,
            Request::Disconnect(name, order) => self.disconnect(&name.parse()?, &order).await,
            Request::Detach(name) => self.detach(&name.parse()?).await,
            Request::Publish(name, order) => self.publish(&name.parse()?, &order).await,
            Request::Unpublish(name, order) => self.unpublish(&name.parse()?, &order).await,
            Request::Allow(name, order) => self.allow(&name.parse()?, &order).await,
            Request::Deny(name, order) => self.deny(&name.parse()?, &order).await,
            Request::Flows(filter) => self.flows(&filter),
            Request::EndFlows(filter) => self.end_flows(&filter),
            Request::Status => self.status(),
            Request::Exposure => Ok(Reply::Exposure(self.exposure())),
            Request::Doctor => Ok(Reply::Findings(self.examine().await?)),
            Request::Nodes => self.nodes().map(Reply::Nodes),
            Request::Node(name) => self.node(&name.parse()?).map(Reply::Node),
            Request::DrainNode(name, change) => self.drain(&name.parse()?, change.drained).await,
            Request::RemoveNode(name) => self.forget(&name.parse()?).await,
            Request::Neighbours => self.neighbours().map(Reply::Neighbours),
            Request::Rekey => self.rekey().await,
            Request::Verify => Err(anyhow!("the differences of nodes are told when all have answered").into()),
        }
    }

    pub(super) fn network(&self, name: &Name) -> Result<Reply, Failure> {
        Ok(Reply::Network(network_view(&self.model, self.model.network(name)?)))
    }

    pub(super) fn endpoint(&self, name: &Name) -> Result<Reply, Failure> {
        Ok(Reply::Endpoint(self.shown(self.model.endpoint(name)?)))
    }

    /// An endpoint, with what all know of it.
    fn shown(&self, endpoint: &Endpoint) -> EndpointView {
        let mut view = endpoint_view(endpoint, &self.facts);
        view.allows.extend(self.allowed_by_all(&endpoint.name));
        view
    }

    /// The endpoint, and what of the ports that were just published is ignored.
    fn endpoint_with_ports(&self, name: &Name, ports: &[String]) -> Result<Reply, Failure> {
        let mut view = self.shown(self.model.endpoint(name)?);
        for text in ports {
            view.warnings.extend(model::ignored(&self.model, name, &text.parse()?));
        }
        Ok(Reply::Endpoint(view))
    }

    async fn create_network(&mut self, order: &NetworkOrder) -> Result<Reply, Failure> {
        self.look_at_the_host().await?;
        let encrypted = order.encrypted || Options::read(&order.options)?.encrypted;
        let order = &NetworkOrder { encrypted, ..order.clone() };
        if order.driver.as_deref() == Some("overlay") {
            return self.create_shared_network(order).await;
        }
        let (mut next, absent) = (self.model.clone(), self.absent_subnets());
        let on = on(&self.facts, &self.pools, &absent);
        let name = model::create_network(&mut next, order, on, now(), &mut *self.rng)?;
        self.commit(next, Fresh::new()).await?;
        info!(network = %name, "created");
        self.tell_of_network(NetworkAction::Create, &name);
        self.network(&name)
    }

    async fn remove_network(&mut self, name: &Name) -> Result<Reply, Failure> {
        let mut next = self.model.clone();
        model::remove_network(&mut next, name)?;
        self.remove_shared_network(name).await?;
        self.commit(next, Fresh::new()).await?;
        info!(network = %name, "removed");
        self.tell_of_network(NetworkAction::Remove, name);
        self.take_in_again().await;
        Ok(Reply::Done {})
    }

    async fn attach(&mut self, order: EndpointOrder) -> Result<Reply, Failure> {
        let name: Name = order.name.parse()?;
        if self.model.endpoints.contains_key(&name) {
            return Err(Rejection::EndpointExists(name).into());
        }
        let dns = model::servers(&order.dns)?;
        let mut next = self.model.clone();
        let (mode, joins) = Mode::read(&order.networks)?;
        let specs = if joins { self.joined_networks(&mut next, &order).await? } else { Vec::new() };
        let process = process_of(&order);
        let sandbox = self.sandbox_of(&order, &mode, process.as_ref()).await?;
        let interfaces = if joins { self.kernel.interfaces(&sandbox).await? } else { BTreeSet::new() };
        let (ports, publish_mode) = (order.ports, order.publish_mode);
        let order = AttachOrder {
            name: name.clone(),
            sandbox,
            mode,
            netns_made: order.netns_made,
            process,
            command: order.command,
            labels: order.labels,
            joining: Joining { specs, interfaces, elsewhere: BTreeMap::new() },
            dns,
        };
        let (next, claimed) = self
            .with_claims(&name, &next, |next, elsewhere, rng| {
                let joining = Joining { elsewhere, ..order.joining.clone() };
                model::attach(next, AttachOrder { joining, ..order.clone() }, now(), rng)
            })
            .await?;
        let attached = self.published(next, &name, &ports, publish_mode).await;
        self.kept(attached, claimed).await?;
        info!(endpoint = %name, "attached");
        self.tell_of_endpoint(EndpointAction::Attach, &name, None);
        self.tell_of_ports(PortAction::Publish, &name, &ports);
        self.endpoint_with_ports(&name, &ports)
    }

    /// Commits a model with these ports of an endpoint published.
    async fn published(
        &mut self,
        mut next: Model,
        name: &Name,
        ports: &[String],
        mode: PublishMode,
    ) -> Result<(), Failure> {
        let (publications, fresh) = self.taken_ports(&next, name, ports, mode).await?;
        model::publish(&mut next, name, &publications)?;
        if publications.iter().any(|publication| publication.mesh) {
            self.claim_ports(&next, name).await?;
        }
        Ok(self.commit(next, fresh).await?)
    }

    /// The networks that an order names, the default one made if it is among them and not there.
    pub(super) async fn joined_networks(
        &mut self,
        next: &mut Model,
        order: &EndpointOrder,
    ) -> Result<Vec<NetSpec>, Failure> {
        let mut specs = order.networks.iter().map(|text| text.parse()).collect::<Result<Vec<NetSpec>, _>>()?;
        let default: Name = DEFAULT_NETWORK.parse()?;
        if specs.is_empty() {
            specs.push(NetSpec::anywhere_in(default.clone()));
        }
        if specs.iter().any(|spec| spec.network == default) && !next.networks.contains_key(&default) {
            self.look_at_the_host().await?;
            let absent = self.absent_subnets();
            let on = on(&self.facts, &self.pools, &absent);
            model::ensure_default_network(next, &self.default_network, on, now(), &mut *self.rng)?;
        }
        Ok(specs)
    }

    async fn detach(&mut self, name: &Name) -> Result<Reply, Failure> {
        let mut next = self.model.clone();
        let gone = model::detach(&mut next, name)?;
        let zones = self.model.networks.clone();
        self.commit(next, Fresh::new()).await?;
        self.settle().await;
        for attachment in &gone.attachments {
            let Some(network) = zones.get(&attachment.network) else { continue };
            for address in attachment.addresses() {
                if let Err(error) = self.kernel.forget_flows_of(network.zone(), address.into()) {
                    warn!("flows of {address} stay until they expire: {error:#}");
                }
            }
        }
        info!(endpoint = %name, "detached");
        self.tell_of_endpoint(EndpointAction::Detach, name, None);
        Ok(Reply::Done {})
    }

    async fn publish(&mut self, name: &Name, order: &PortsOrder) -> Result<Reply, Failure> {
        self.model.endpoint(name)?;
        self.published(self.model.clone(), name, &order.ports, order.publish_mode).await?;
        if order.publish_mode == PublishMode::Mesh {
            self.settle().await;
        }
        info!(endpoint = %name, ports = first_few(&order.ports), "published");
        self.tell_of_ports(PortAction::Publish, name, &order.ports);
        self.endpoint_with_ports(name, &order.ports)
    }

    async fn unpublish(&mut self, name: &Name, order: &PortsOrder) -> Result<Reply, Failure> {
        let mut next = self.model.clone();
        let specs: Vec<PortSpec> = order.ports.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        model::unpublish(&mut next, name, &specs)?;
        self.commit(next, Fresh::new()).await?;
        info!(endpoint = %name, ports = first_few(&order.ports), "unpublished");
        self.tell_of_ports(PortAction::Unpublish, name, &order.ports);
        self.endpoint(name)
    }

    pub(super) fn tell_of_network(&self, action: NetworkAction, name: &Name) {
        self.events.tell(Happening::Network { action, network: name.to_string() });
    }

    pub(super) fn tell_of_endpoint(&self, action: EndpointAction, name: &Name, network: Option<&Name>) {
        let network = network.map(Name::to_string);
        self.events.tell(Happening::Endpoint { action, endpoint: name.to_string(), network });
    }

    fn tell_of_ports(&self, action: PortAction, name: &Name, ports: &[String]) {
        if !ports.is_empty() {
            self.events.tell(Happening::Port { action, endpoint: name.to_string(), ports: ports.to_vec() });
        }
    }

    /// Before a decision that depends on the host's routes or devices.
    pub(super) async fn look_at_the_host(&mut self) -> Result<(), Failure> {
        let facts = self.read_facts().await.context("cannot look at the host")?;
        self.is_as_planned &= facts == self.facts;
        self.know_facts(facts);
        Ok(())
    }

    /// The endpoint at an address of a zone.
    pub(super) fn endpoint_at(&self, zone: u16, ip: std::net::IpAddr) -> Option<(&Name, &Endpoint)> {
        let network = self.model.networks.values().find(|network| network.zone == zone)?;
        let (endpoint, _) =
            self.model.attachments_of(&network.name).find(|(_, at)| at.addresses().any(|address| address == ip))?;
        Some((&network.name, endpoint))
    }
}

/// What a network is made on.
pub(super) fn on<'a>(facts: &'a HostFacts, pools: &'a Pools, absent: &'a [(Name, IpNet)]) -> Surroundings<'a> {
    Surroundings { facts, pools, segment: None, elsewhere: &[], absent }
}

/// Specifications as one writes them, of many the first few and how many more: a line of the log is read by people.
fn first_few(ports: &[String]) -> String {
    const FEW: usize = 8;
    let shown = ports.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join(" ");
    let more = ports.len().saturating_sub(FEW);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::first_few;

    #[test]
    fn a_line_of_the_log_names_few_ports_and_counts_the_rest() {
        let ports: Vec<_> = (1..=10_000).map(|port| format!("{port}:80")).collect();

        assert_eq!(first_few(&ports[..2]), "1:80 2:80");
        assert_eq!(first_few(&ports), "1:80 2:80 3:80 4:80 5:80 6:80 7:80 8:80 and 9992 more");
    }
}
