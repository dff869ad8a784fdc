//! The host is looked at, compared with what should exist, and mended as far as it goes.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use netd_common::tables::Hook;
use tracing::{error, info, warn};

use super::{
    Daemon,
    allowances::denies,
    events::{Happening, RepairAction},
    without,
};
use crate::{
    model::peers,
    plan::{plan, relays},
    reconcile::{HostFacts, Kernel, State, Step, diff, repair},
};

impl<K: Kernel> Daemon<K> {
    pub(super) async fn look_again(&mut self) {
        if let Err(error) = self.reconcile().await {
            error!("cannot compare the host with what was asked for: {error:#}");
        }
        self.follow_the_mtu().await;
    }

    /// What the plan depends on, as it is at this moment.
    pub(super) async fn read_facts(&mut self) -> Result<HostFacts> {
        self.kernel.know_vteps(&self.choices.remotes.vteps, &peers(&self.model));
        self.kernel.facts(&self.model.sandboxes()).await
    }

    /// Compares the host with what should exist, and mends what differs, as far as it goes.
    pub(super) async fn reconcile(&mut self) -> Result<()> {
        let facts = self.read_facts().await?;
        let observed = self.kernel.observe().await?;
        self.follow_keys();
        // Mostly neither side has changed, and the plan of a thousand containers would be what it was.
        if self.is_as_planned && facts == self.facts && observed == self.applied {
            debug_assert!(observed == self.planned(&self.model), "it is as it is planned by now");
            self.keys_are_installed();
            self.note_look(facts, Vec::new()).await;
            if let Err(error) = self.kernel.settle().await {
                warn!("{error:#}");
            }
            return Ok(());
        }
        let desired = plan(&self.model, &facts, &self.choices);
        let steps = diff(&desired, &observed);
        let mut trouble: Vec<String> =
            observed.unclear.iter().map(|(link, why)| format!("cannot see where {link} leads: {why}")).collect();
        let followed = if steps.is_empty() { Vec::new() } else { self.followed(&desired, &observed) };
        let mut failed = Vec::new();
        for step in &steps {
            match self.make_true(step, &failed).await {
                Ok(()) if followed.contains(step) => info!("{step}"),
                Ok(()) => {
                    info!("made true: {step}");
                    self.events
                        .tell(Happening::Repair { action: RepairAction::Mend, message: repair(step, &observed) });
                }
                Err(error) => {
                    trouble.push(format!("cannot {step}: {error:#}"));
                    failed.push(step.clone());
                }
            }
        }
        if !failed.iter().any(Step::is_of_keys) {
            self.keys_are_installed();
        }
        let (narrowed, denied) = (closes(&observed, &desired), denies(&observed, &desired));
        self.is_as_planned = trouble.is_empty();
        (self.applied, self.wanted) =
            if trouble.is_empty() { (desired, None) } else { (self.seen_or(observed).await, Some(desired)) };
        self.note_look(facts, trouble).await;
        if narrowed {
            self.end_what_is_closed();
        }
        if denied {
            self.end_denied_flows();
        }
        Ok(())
    }

    /// Has what follows a look follow it.
    async fn note_look(&mut self, facts: HostFacts, trouble: Vec<String>) {
        self.note_facts(facts);
        self.note_trouble(trouble);
        self.follow_published_ports().await;
    }

    /// The steps that nobody's doing has made due: they make what is desired now and was not before, as at the first start since
    /// the host has booted, or follow what the host has changed of itself. What was to be made before and could not is due as it was:
    /// what somebody breaks while the host is looked at is seen in part, fails in part, and is mended by the next look.
    fn followed(&self, desired: &State, observed: &State) -> Vec<Step> {
        let taken_over = self.applied.settings.is_none() && observed.settings.is_some();
        if taken_over { Vec::new() } else { diff(desired, self.wanted.as_ref().unwrap_or(&self.applied)) }
    }

    /// Holds the ports that are to be held, and serves the host's own clients at those where no program leads them.
    pub(super) async fn follow_published_ports(&mut self) {
        let relays = relays(&self.model, &self.facts, &self.choices);
        let refused = self.reservations.follow(&self.model, &relays);
        let refused = refused.into_iter().map(|((address, protocol, port), error)| {
            format!("cannot hold {}/{protocol}, which is published: {error}", SocketAddr::new(address, port))
        });
        let refused: Vec<_> = refused.collect();
        without(&refused, &self.unheld).iter().for_each(|line| warn!("{line}"));
        self.unheld = refused;
        self.not_relayed = relays.left_out;
        self.kernel.relay(relays, self.reservations.held()).await;
    }

    /// Ends the flows that came in where nobody, or not they, may come in any more, and the host's sockets that were led there: a
    /// connected UDP socket would send to whoever has the address next.
    pub(super) fn end_what_is_closed(&mut self) {
        if let Err(error) = self.end_unpublished_flows() {
            warn!("flows of closed ports stay until they expire: {error:#}");
        }
        match self.kernel.end_strays(&self.applied) {
            Ok(0) => {}
            Ok(ended) => info!(ended, "sockets of the host that were led to a port which is closed"),
            Err(error) => warn!("sockets of the host stay connected to a port that is closed: {error:#}"),
        }
    }

    /// Takes a step, unless one that it stands on has failed. A container whose program cannot be attached has no network until
    /// it can.
    pub(super) async fn make_true(&mut self, step: &Step, failed: &[Step]) -> Result<()> {
        if let Some(missing) = failed.iter().find(|failed| step.stands_on(failed)) {
            bail!("not without what failed before it ({missing})");
        }
        let taken = self.kernel.apply(step).await;
        if let (Err(_), Step::Attach(link, Hook::FromContainer | Hook::ToContainer)) = (&taken, step) {
            let closed = self.kernel.apply(&Step::Close(link.clone())).await;
            closed.with_context(|| format!("{link} stays open without {step}"))?;
        }
        taken
    }
}

/// Whether something that was published is published no more, leads elsewhere or is for others.
pub(super) fn closes(before: &State, after: &State) -> bool {
    before.publications.iter().any(|(key, to)| after.publications.get(key) != Some(to))
}
