//! The one task that owns the model, the store and the kernel: requests come in as messages, one after the other.
//!
//! Every change is: clone the model, change the clone, plan, write the store, take the steps; if one fails, everything is
//! put back. What happens to the host meanwhile is found by looking again, at wake-ups and at intervals.

mod allowances;
mod answer;
mod cluster;
mod commit;
mod connect;
mod events;
mod examine;
mod fill;
mod flows;
mod healing;
mod hosts;
mod looks;
mod messages;
mod mode;
mod moment;
mod ports;
mod process;
mod status;
#[cfg(test)]
mod tests;
mod views;

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use rand::RngCore;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::warn;

pub use cluster::{ClusterView, EncryptionView, NeighbourView, NodeView};
pub use events::{DaemonAction, Event, EventWish, Events, Happening, Listener};
pub use flows::{FlowEnds, FlowFilter, FlowView};
pub use messages::{
    AllowanceOrder, ConnectOrder, DisconnectOrder, EndpointOrder, NetworkChange, NodeChange, PortsOrder, Reply, Request,
};
pub use process::{is_alive, mark_of};
pub use status::{FirewallView, FlowTableView, ProgramView, StatusView};
pub use views::{AttachmentView, EndpointView, NetworkView, PortView, SubnetView};

use self::{
    cluster::Cluster,
    events::{RepairAction, WarningAction},
    fill::Fill,
    looks::Looks,
};
use crate::{
    config::Config,
    ipam::{self, Pools},
    membership::Membership,
    model::{Endpoint, Model, NetworkOrder, Rejection},
    plan::{Choices, plan, there, warnings},
    reconcile::{Guard, HostFacts, Kernel, State},
    reserve::Reservations,
    store::Store,
};

/// How often expired flows are collected.
const COLLECT: Duration = Duration::from_secs(1);

/// Why there is no reply.
#[derive(Debug)]
pub enum Failure {
    /// The request cannot be met as it is.
    Refused(Rejection),
    /// It could, and something went wrong.
    Failed(anyhow::Error),
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// A request, and where its reply goes.
pub struct Message {
    /// What is asked.
    pub request: Request,
    /// Gone if nobody waits.
    pub reply: oneshot::Sender<Result<Reply, Failure>>,
}

/// What the daemon knows of itself and only tells.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Where it answers.
    pub socket: PathBuf,
    /// Where its file is.
    pub state_dir: PathBuf,
    /// Where its maps are.
    pub bpf_dir: PathBuf,
}

/// The daemon's own task.
pub struct Daemon<K> {
    kernel: K,
    store: Store,
    model: Model,
    facts: HostFacts,
    /// The hosts that this one is among, if it is.
    cluster: Option<Cluster>,
    /// What the host is, as far as known.
    applied: State,
    /// What it should have been when that could not be made in part; `None` where it is as it was planned.
    wanted: Option<State>,
    /// Whether that is the plan of the model, the facts and the choices as they are.
    is_as_planned: bool,
    /// What was warned of, one line each.
    warned: Vec<String>,
    /// What could not be made true, one line each.
    trouble: Vec<String>,
    fill: Fill,
    reservations: Reservations,
    /// The port of the host that was chosen last.
    chosen: Option<u16>,
    /// What could not be held, one line each.
    unheld: Vec<String>,
    /// How many published ports are not relayed.
    not_relayed: usize,
    /// Where automatic subnets come from.
    pools: Pools,
    /// The network that is made on first use.
    default_network: NetworkOrder,
    /// Addresses that ports are published at which name none.
    usual_addresses: Vec<IpAddr>,
    /// What the plan needs and neither the model nor the host says.
    choices: Choices,
    rng: Box<dyn RngCore>,
    about: About,
    started: Instant,
    events: Events,
}

impl<K: Kernel> Daemon<K> {
    /// Makes the host what the model says. `model` is the store's.
    pub async fn start(
        kernel: K,
        (store, model): (Store, Model),
        config: &Config,
        reservations: Reservations,
        membership: Option<Membership>,
        rng: Box<dyn RngCore>,
        about: About,
    ) -> Result<Self> {
        let from = config.publish.from.clone();
        let no_tunnel_offload = config.daemon.tunnel_offload == Some(false);
        let choices = Choices { secret: store.secret(), from, no_tunnel_offload, ..Choices::default() };
        let pools = config.pools(Pools::automatic(ipam::unique_local(store.global_id())));
        let mut daemon = Self {
            kernel,
            store,
            model,
            facts: HostFacts::default(),
            cluster: membership.map(Cluster::new),
            applied: State::default(),
            wanted: None,
            is_as_planned: false,
            warned: Vec::new(),
            trouble: Vec::new(),
            fill: Fill::default(),
            reservations,
            chosen: None,
            unheld: Vec::new(),
            not_relayed: 0,
            pools,
            default_network: config.default_network(),
            usual_addresses: config.publish.address.clone(),
            choices,
            rng,
            about,
            started: Instant::now(),
            events: Events::default(),
        };
        daemon.events.tell(Happening::Daemon { action: DaemonAction::Start });
        if matches!(daemon.kernel.guard(), Guard::Programs { .. }) {
            daemon.reservations.leave_to_programs();
        }
        daemon.remember_remotes().await?;
        daemon.remember_keys()?;
        daemon.reconcile().await.context("cannot make the host what was asked for")?;
        daemon.follow_the_mtu().await;
        daemon.tell_cluster();
        Ok(daemon)
    }

    /// What should exist if the model were this one.
    fn planned(&self, model: &Model) -> State {
        plan(model, &self.facts, &self.choices)
    }

    /// Where it tells what happens.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// Answers until `stop` is ready or nobody can ask any more. What is in the kernel stays as it is.
    pub async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Message>,
        mut changes: watch::Receiver<u64>,
        stop: impl Future<Output = ()>,
    ) {
        tokio::pin!(stop);
        let mut looks = Looks::after(Instant::now());
        let mut collect = interval(COLLECT);
        collect.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = true;
        loop {
            tokio::select! {
                () = &mut stop => return self.events.end(),
                message = requests.recv() => {
                    let Some(Message { request, reply }) = message else { return };
                    if request == Request::Verify {
                        self.verify(reply).await;
                        continue;
                    }
                    if request == Request::Doctor {
                        self.examine_with_tunnels(reply).await;
                        continue;
                    }
                    // Whoever asked may be gone.
                    let answer = self.answer(request).await.map_err(|failure| self.explained(failure));
                    let _ = reply.send(answer);
                }
                change = changes.changed(), if told => {
                    told = change.is_ok();
                    looks.hasten(Instant::now());
                }
                () = sleep_until(looks.next()) => {
                    let began = Instant::now();
                    self.look_again().await;
                    looks.done(began, Instant::now());
                }
                _ = collect.tick() => self.collect(),
                () = cluster::news(&mut self.cluster) => self.follow_cluster().await,
            }
        }
    }

    fn note_facts(&mut self, facts: HostFacts) {
        self.know_facts(facts);
        self.note_warnings();
    }

    fn know_facts(&mut self, facts: HostFacts) {
        let before = std::mem::replace(&mut self.facts, facts);
        if before.sandboxes != self.facts.sandboxes {
            let comes_or_goes =
                |endpoint: &Arc<Endpoint>| there(endpoint, &before).is_some() != there(endpoint, &self.facts).is_some();
            if self.model.endpoints.values().any(comes_or_goes) {
                self.kernel.know_names(self.directory());
            }
        }
        self.follow_uses(before.uses != self.facts.uses, Instant::now());
    }

    fn note_warnings(&mut self) {
        let warnings = self.all_warnings();
        let (raised, cleared) = (without(&warnings, &self.warned), without(&self.warned, &warnings));
        self.warned = warnings;
        for message in raised {
            warn!("{message}");
            self.events.tell(Happening::Warning { action: WarningAction::Raise, message });
        }
        for message in cleared {
            self.events.tell(Happening::Warning { action: WarningAction::Clear, message });
        }
    }

    /// What works, and not as well as the user may think, one line each.
    fn all_warnings(&self) -> Vec<String> {
        let mut all = warnings(&self.model, &self.facts);
        all.extend(self.cluster.iter().flat_map(|cluster| cluster.warnings(&self.facts)));
        all
    }

    fn note_trouble(&mut self, trouble: Vec<String>) {
        for message in without(&trouble, &self.trouble) {
            warn!("{message}");
            self.events.tell(Happening::Repair { action: RepairAction::Fail, message });
        }
        self.trouble = trouble;
    }
}

/// The lines that are in the first list alone.
fn without(lines: &[String], others: &[String]) -> Vec<String> {
    lines.iter().filter(|line| !others.contains(line)).cloned().collect()
}

/// Sends a request to the daemon's task and waits for its reply.
pub async fn ask(daemon: &mpsc::Sender<Message>, request: Request) -> Result<Reply, Failure> {
    let (reply, answer) = oneshot::channel();
    let stopping = || Failure::Failed(anyhow!("the daemon is stopping"));
    daemon.send(Message { request, reply }).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}
