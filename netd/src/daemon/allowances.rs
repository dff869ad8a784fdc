//! What is allowed between containers that a network keeps apart, as it changes: of a network of this host alone in its model, of
//! one of several hosts by all.

use std::collections::BTreeSet;

use netd_common::{
    tables::{AllowanceKey, Flow},
    tuple::Tuple,
};
use tracing::{info, warn};

use super::{
    AllowanceOrder, Daemon, Failure, Reply,
    events::{EndpointAction, Happening},
    views::AllowanceView,
};
use crate::{
    cluster::{Between, View},
    membership::Denial,
    model::{self, Name, Party, Protocol, Rejection, Target},
    reconcile::{Kernel, State},
    reserve::Fresh,
};

/// How often something is allowed anew because addresses have changed hands at the same time.
const ATTEMPTS: usize = 16;

impl<K: Kernel> Daemon<K> {
    pub(super) async fn allow(&mut self, from: &Party, order: &AllowanceOrder) -> Result<Reply, Failure> {
        let target: Target = order.to.parse()?;
        let nodes = [self.node_of(from)?, self.node_of(&target.to)?];
        let (one, other) = (&from.endpoint, &target.to.endpoint);
        if nodes[0] == nodes[1] && one == other {
            return Err(Rejection::AllowedToItself(one.clone()).into());
        }
        let is_here = nodes == [None, None] && model::keeps_apart(&self.model, one, other);
        let is_shared = self.is_shared(from, &target, &nodes)?;
        if !is_here && !is_shared {
            return Err(Rejection::NotKeptApart { from: one.clone(), to: other.clone() }.into());
        }
        if is_shared {
            self.agree(from, &target, &nodes, true).await?;
        }
        if is_here {
            let mut next = self.model.clone();
            model::allow(&mut next, one, &target)?;
            self.commit(next, Fresh::new()).await?;
        }
        info!(%from, to = %target, "allowed");
        self.told(EndpointAction::Allow, &target, (&nodes, is_shared))
    }

    pub(super) async fn deny(&mut self, from: &Party, order: &AllowanceOrder) -> Result<Reply, Failure> {
        let target: Target = order.to.parse()?;
        let nodes = [self.node_of(from)?, self.node_of(&target.to)?];
        let mut next = self.model.clone();
        let here = match &nodes {
            [None, None] => model::deny(&mut next, &from.endpoint, &target),
            _ => Err(Rejection::UnknownEndpoint(target.to.endpoint.to_string())),
        };
        let is_shared = self.is_shared(from, &target, &nodes)?;
        if is_shared {
            let agreed = self.agree(from, &target, &nodes, false).await;
            agreed.or_else(|failure| if here.is_ok() { Ok(()) } else { Err(failure) })?;
        } else {
            here.clone()?;
        }
        if here.is_ok() {
            self.commit(next, Fresh::new()).await?;
        }
        info!(%from, to = %target, "denied");
        self.told(EndpointAction::Deny, &target, (&nodes, is_shared))
    }

    /// What may be opened to an endpoint of this host in networks of several hosts.
    pub(super) fn allowed_by_all(&self, name: &Name) -> Vec<AllowanceView> {
        let Some((cluster, view)) = self.cluster.as_ref().and_then(|cluster| Some((cluster, cluster.seen()?))) else {
            return Vec::new();
        };
        let me = cluster.me();
        let to_it = view.allowances().filter(|one| (&one.allowed.to.node, &one.allowed.to.endpoint) == (me, name));
        let said = to_it.map(|one| {
            let from = Party { endpoint: one.allowed.from.endpoint.clone(), node: Some(one.allowed.from.node.clone()) };
            (from.to_string(), one.entry.port)
        });
        // Of each family there is one.
        let once: BTreeSet<_> = said.collect();
        let view = |(from, port): (String, Option<(u16, Protocol)>)| {
            let (port, proto) = port.unzip();
            AllowanceView { from, port, proto }
        };
        once.into_iter().map(view).collect()
    }

    /// On which node an endpoint is; `None` for this host.
    fn node_of(&self, Party { endpoint, node }: &Party) -> Result<Option<Name>, Rejection> {
        let is_here = self.model.endpoints.contains_key(endpoint);
        let unknown = || Rejection::UnknownEndpoint(endpoint.to_string());
        let Some(cluster) = &self.cluster else {
            return match node {
                Some(_) => Err(Rejection::InNoCluster),
                None if is_here => Ok(None),
                None => Err(unknown()),
            };
        };
        let me = cluster.me();
        if is_here && node.as_ref().is_none_or(|node| node == me) {
            return Ok(None);
        }
        let view = cluster.latest()?;
        let mut nodes = view.nodes_of(endpoint);
        nodes.remove(me);
        match (node, nodes.len()) {
            (Some(node), _) if nodes.contains(node) => Ok(Some(node.clone())),
            (Some(node), _) if !view.known_nodes().any(|known| known == node) => {
                Err(Rejection::UnknownNode(node.clone()))
            }
            (Some(node), _) => Err(Rejection::NotOnNode { endpoint: endpoint.clone(), node: node.clone() }),
            (None, 0 | 1) => nodes.first().map(|node| Some((*node).clone())).ok_or_else(unknown),
            (None, _) => {
                let nodes = nodes.iter().map(|node| node.as_str()).collect::<Vec<_>>().join(", ");
                Err(Rejection::OnSeveralNodes { endpoint: endpoint.clone(), nodes })
            }
        }
    }

    /// Whether two endpoints meet in a network of several hosts that keeps them apart.
    fn is_shared(&self, from: &Party, target: &Target, nodes: &[Option<Name>; 2]) -> Result<bool, Rejection> {
        let Some(cluster) = &self.cluster else { return Ok(false) };
        let both_here = *nodes == [None, None];
        if both_here && !self.model.networks.values().any(|network| network.no_icc && network.is_shared()) {
            // It is no affair of the others, who may be away.
            return Ok(false);
        }
        let me = cluster.me();
        Ok(cluster.latest()?.keeps_apart(&between(me, from, target, nodes)))
    }

    /// Has all agree on it, and follows what they have then.
    async fn agree(
        &mut self,
        from: &Party,
        target: &Target,
        nodes: &[Option<Name>; 2],
        allowed: bool,
    ) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let cluster = self.cluster.as_ref().ok_or(Rejection::InNoCluster)?;
            match cluster.allow(between(cluster.me(), from, target, nodes), allowed).await {
                Err(Denial::Changed) => {}
                Ok(()) => {
                    self.follow_cluster().await;
                    return Ok(());
                }
                Err(denial) => return Err(denial.into()),
            }
        }
        Err(Denial::Changed.into())
    }

    /// Tells of a change at an endpoint, unless every host tells that has to do with it, and shows the endpoint if it is here.
    fn told(
        &self,
        action: EndpointAction,
        target: &Target,
        (nodes, is_shared): (&[Option<Name>; 2], bool),
    ) -> Result<Reply, Failure> {
        if nodes[1].is_some() {
            return Ok(Reply::Done {});
        }
        if !is_shared {
            self.tell_of_endpoint(action, &target.to.endpoint, None);
        }
        self.endpoint(&target.to.endpoint)
    }

    /// Tells of what was allowed and denied between containers of several hosts, of which one is here. What went with a container
    /// was not denied.
    pub(super) fn tell_of_allowances(&self, before: Option<&View>, after: &View) {
        let (Some(before), Some(cluster)) = (before, &self.cluster) else { return };
        let me = cluster.me();
        for (action, all) in [
            (EndpointAction::Deny, before.allows_beside(after, me, true)),
            (EndpointAction::Allow, after.allows_beside(before, me, false)),
        ] {
            for Between { to: (node, endpoint), .. } in all {
                let party = Party { endpoint, node: (node != *me).then_some(node) };
                self.events.tell(Happening::Endpoint { action, endpoint: party.to_string(), network: None });
            }
        }
    }

    /// Ends the flows between containers of one network that nobody allows any more.
    pub(super) fn end_denied_flows(&mut self) {
        let allowances = &self.applied.allowances;
        let allowed = |tuple: &Tuple| {
            let key = AllowanceKey::for_opening(tuple);
            allowances.contains(&key) || allowances.contains(&key.or_everything())
        };
        let mut ending = Vec::new();
        let found = self.kernel.flows(&mut |tuple: &Tuple, flow: &Flow| {
            if flow.direction == 0 && flow.stays(tuple) && !allowed(tuple) {
                ending.push(*tuple);
            }
        });
        if let Err(error) = found.and_then(|_| self.kernel.forget_flows(&ending)) {
            warn!("flows that are allowed no more stay until they expire: {error:#}");
        }
    }
}

/// Whether something that was allowed between two containers is allowed no more.
pub fn denies(before: &State, after: &State) -> bool {
    !before.allowances.is_subset(&after.allowances)
}

/// Who may open what to whom, as all know them.
fn between(me: &Name, from: &Party, target: &Target, nodes: &[Option<Name>; 2]) -> Between {
    let [one, other] = nodes.clone().map(|node| node.unwrap_or_else(|| me.clone()));
    let from = (one, from.endpoint.clone());
    Between { from, to: (other, target.to.endpoint.clone()), port: target.port }
}
