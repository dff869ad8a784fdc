//! This host's part in the keys of encrypted networks: its session, and what the kernel has of both.

use anyhow::{Context, Result};
use rand::Rng;
use tracing::{error, info};

use super::{Cluster, Daemon, Failure};
use crate::{
    cluster::{Encryption, Installed, Kept, Session, View},
    model::{Name, Rejection},
    reconcile::{Family, Ipsec, Kernel},
};

/// How encryption stands on this host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Encrypting {
    /// Why the kernel cannot do it, where something asks for it.
    pub obstacle: Option<String>,
    /// Whether it was tried, and can.
    able: bool,
    /// What the kernel is to have.
    pub wanted: Encryption,
    /// What the others may rely on; `None` before this daemon has seen to it.
    installed: Option<Installed>,
    /// As the disk has it; `None` before it is read or first written.
    kept: Option<Kept>,
}

impl<K: Kernel> Daemon<K> {
    /// Until something is heard of the others, encrypted networks have what the host has of them: an earlier daemon's work.
    pub(in crate::daemon) fn remember_keys(&mut self) -> Result<()> {
        if self.cluster.is_some() && self.store.kept::<Kept>()?.is_some() {
            self.choices.ipsec = self.kernel.ipsec()?;
        }
        Ok(())
    }

    /// Sees what encrypted networks need by the last view. What is noted here as made must be made before this is asked again.
    pub(in crate::daemon) fn follow_keys(&mut self) {
        let view = self.cluster.as_ref().and_then(|cluster| cluster.view.clone());
        let keys = match &view {
            Some(view) => self.keys(view),
            None => self.remembered_keys(),
        };
        match keys {
            Ok(ipsec) => {
                self.is_as_planned &= self.choices.ipsec == ipsec;
                self.choices.ipsec = ipsec;
            }
            Err(error) => error!("cannot see to the keys of encrypted networks: {error:#}"),
        }
    }

    /// What an earlier daemon has left and is still there.
    fn remembered_keys(&mut self) -> Result<Ipsec> {
        let mut ipsec = self.choices.ipsec.clone();
        if !ipsec.associations.is_empty() {
            ipsec.forget_lost(&self.kernel.ipsec()?);
        }
        Ok(ipsec)
    }

    fn keys(&mut self, view: &View) -> Result<Ipsec> {
        let is_any = view.is_any_encrypted();
        let obstacle = if is_any { self.obstacle()? } else { None };
        let Some(cluster) = &mut self.cluster else { return Ok(Ipsec::default()) };
        if !is_any || obstacle.is_some() {
            cluster.encrypting = Encrypting { obstacle, able: cluster.encrypting.able, ..Encrypting::default() };
            return Ok(Ipsec::default());
        }
        let settings = cluster.membership.settings();
        let (me, vtep, port) = (settings.node.clone(), settings.vtep, settings.encrypted_port);
        let found = self.kernel.ipsec()?;
        let before = match &cluster.encrypting.kept {
            None => self.store.kept::<Kept>()?,
            kept => kept.clone(),
        };
        let here = before.clone().filter(|kept| (kept.session.vtep, kept.session.port) == (vtep, port));
        let fresh = || Session { id: format!("{:032x}", self.rng.random::<u128>()), vtep, port };
        let (kept, wanted) =
            Kept::go_on(here, view, &me, &found, fresh).context("every session has two associations of one index")?;
        if before.as_ref().is_some_and(|before| before.session != kept.session) {
            info!("security associations were gone: every key is made anew");
            // Perhaps they cannot be made any more.
            cluster.encrypting.able = false;
        }
        // On the disk before it is in the kernel.
        if before.as_ref() != Some(&kept) {
            self.store.keep(&kept)?;
        }
        let ipsec = wanted.ipsec.clone();
        cluster.encrypting =
            Encrypting { obstacle, wanted, kept: Some(kept), ..std::mem::take(&mut cluster.encrypting) };
        Ok(ipsec)
    }

    /// Why this host cannot encrypt. What it can it is not asked again.
    pub(in crate::daemon) fn obstacle(&mut self) -> Result<Option<String>> {
        let Some(cluster) = &mut self.cluster else { return Ok(None) };
        if cluster.encrypting.able {
            return Ok(None);
        }
        let obstacle = self.kernel.obstacle_to_encryption(Family::of(cluster.membership.settings().vtep))?;
        cluster.encrypting.able = obstacle.is_none();
        Ok(obstacle)
    }

    /// The host has what it is to have: the others may rely on it.
    pub(in crate::daemon) fn keys_are_installed(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.encrypting.kept.is_some() {
            cluster.encrypting.installed = Some(cluster.encrypting.wanted.installed);
            self.tell_cluster();
        }
    }

    /// Refuses to have an endpoint in an encrypted network where the host cannot encrypt.
    pub(super) fn require_encryption<'a>(
        &mut self,
        mut networks: impl Iterator<Item = &'a Name>,
    ) -> Result<(), Failure> {
        let is_encrypted = |name: &&Name| {
            let network = self.model.networks.get(*name).and_then(|network| network.driver.segment());
            network.is_some_and(|segment| segment.encrypted)
        };
        let Some(network) = networks.find(is_encrypted).cloned() else { return Ok(()) };
        match self.obstacle()? {
            Some(why) => Err(Rejection::NoEsp { network, why }.into()),
            None => Ok(()),
        }
    }
}

impl Cluster {
    /// What keeps traffic of encrypted networks from going, one line each.
    pub(in crate::daemon) fn lacks_of_keys(&self) -> Vec<String> {
        let obstacle = self
            .encrypting
            .obstacle
            .iter()
            .map(|why| format!("this host has no part in encrypted networks: its kernel cannot do it: {why}"));
        let waiting = self.encrypting.wanted.waiting.iter().map(|node| {
            format!("encrypted networks: no keys are agreed on with node {node} yet, and nothing goes there")
        });
        obstacle.chain(waiting).collect()
    }

    /// What of its part in keys the host says.
    pub(super) fn said_of_keys(&self) -> (Option<Session>, Option<Installed>) {
        let Encrypting { kept, installed, .. } = &self.encrypting;
        (kept.as_ref().map(|kept| kept.session.clone()), *installed)
    }
}
