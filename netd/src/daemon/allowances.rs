//! What is allowed between containers that a network keeps apart, as it changes.

use netd_common::tables::{AllowanceKey, Flow};
use netd_common::tuple::Tuple;
use tracing::{info, warn};

use super::{AllowanceOrder, Daemon, Failure, Reply, events::EndpointAction};
use crate::{
    model::{self, Name, Target},
    reconcile::Kernel,
    reserve::Fresh,
};

impl<K: Kernel> Daemon<K> {
    pub(super) async fn allow(&mut self, from: &Name, order: &AllowanceOrder) -> Result<Reply, Failure> {
        let target: Target = order.to.parse()?;
        let mut next = self.model.clone();
        model::allow(&mut next, from, &target)?;
        self.commit(next, Fresh::new()).await?;
        info!(%from, to = %target, "allowed");
        self.tell_of_endpoint(EndpointAction::Allow, &target.endpoint, None);
        self.endpoint(&target.endpoint)
    }

    pub(super) async fn deny(&mut self, from: &Name, order: &AllowanceOrder) -> Result<Reply, Failure> {
        let target: Target = order.to.parse()?;
        let mut next = self.model.clone();
        model::deny(&mut next, from, &target)?;
        self.commit(next, Fresh::new()).await?;
        if let Err(error) = self.end_denied_flows() {
            warn!("flows that are allowed no more stay until they expire: {error:#}");
        }
        info!(%from, to = %target, "denied");
        self.tell_of_endpoint(EndpointAction::Deny, &target.endpoint, None);
        self.endpoint(&target.endpoint)
    }

    /// Ends the flows between containers of one network that nobody allows any more.
    fn end_denied_flows(&mut self) -> anyhow::Result<usize> {
        let allowances = &self.applied.allowances;
        let allowed = |tuple: &Tuple| {
            let key = AllowanceKey::for_opening(tuple);
            allowances.contains(&key) || allowances.contains(&key.or_everything())
        };
        let mut ending = Vec::new();
        self.kernel.flows(&mut |tuple: &Tuple, flow: &Flow| {
            if flow.direction == 0 && flow.stays(tuple) && !allowed(tuple) {
                ending.push(*tuple);
            }
        })?;
        self.kernel.forget_flows(&ending)
    }
}
