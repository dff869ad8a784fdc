//! Endpoints that have not a network namespace of their own: the host's, or another endpoint's.

use std::path::PathBuf;

use super::{Daemon, EndpointOrder, Failure};
use crate::{
    model::{self, Mode, Name, ProcessMark, Rejection},
    reconcile::{Kernel, Sandbox},
};

impl<K: Kernel> Daemon<K> {
    /// The network namespace that an order means. That of the host has no number: nothing is ever done in it.
    pub(super) async fn sandbox_of(
        &mut self,
        order: &EndpointOrder,
        mode: &Mode,
        process: Option<&ProcessMark>,
    ) -> Result<Sandbox, Failure> {
        let path = match (&order.netns, order.pid) {
            (Some(path), _) => path.clone(),
            (None, Some(pid)) if process.is_none() => return Err(Rejection::NoProcess(pid).into()),
            (None, Some(pid)) => model::netns_of(pid),
            (None, None) => return Err(Rejection::SandboxUnclear.into()),
        };
        match mode {
            Mode::Own => self.open(path).await,
            Mode::Host => Ok(Sandbox { path, inode: 0 }),
            Mode::Container(name) => {
                let other = self.model.endpoint(name)?;
                let theirs = other.sandbox();
                self.own_network_of(name)?;
                let sandbox = self.open(theirs.path.clone()).await?;
                if sandbox != theirs {
                    let gone = format!("the network namespace of {name} is gone ({})", theirs.path.display());
                    return Err(Rejection::NotASandbox(gone).into());
                }
                Ok(sandbox)
            }
        }
    }

    /// Refuses an endpoint that has another's network.
    pub(super) fn own_network_of(&self, name: &Name) -> Result<(), Rejection> {
        match &self.model.endpoint(name)?.mode {
            Mode::Own => Ok(()),
            Mode::Host => Err(Rejection::NotItsOwn { endpoint: name.clone(), whose: "the host".to_owned() }),
            Mode::Container(other) => {
                Err(Rejection::NotItsOwn { endpoint: name.clone(), whose: format!("endpoint {other}") })
            }
        }
    }

    async fn open(&mut self, path: PathBuf) -> Result<Sandbox, Failure> {
        let sandbox = self.kernel.sandbox(&path).await;
        Ok(sandbox.map_err(|error| Rejection::NotASandbox(format!("{error:#}")))?)
    }
}
