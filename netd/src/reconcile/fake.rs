//! A kernel in memory: what steps do to a [`State`], with faults where a test wants them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use anyhow::{Context, bail, ensure};
use netd_common::{
    tables::{Counters, Flow, Hook, Instant, Publication, PublicationKey, SEARCHES},
    tuple::{Address, Tuple, Zone},
};

use crate::{dns::Directory, model::Protocol};

use super::{
    Checkup, Collected, Family, Guard, HostFacts, HostPort, HostPorts, Ipsec, Join, Kernel, LinkName, Probed, Process,
    Program, Relays, ResolverState, Sandbox, State, Stations, Step, TunnelProbe,
};

/// The double of the host.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel {
    pub state: State,
    pub facts: HostFacts,
    /// How many steps still succeed before one fails; `None` for all.
    pub fail_after: Option<usize>,
    /// How many steps still are taken before one never ends; `None` for all.
    pub stop_after: Option<usize>,
    /// Namespaces that exist.
    pub namespaces: BTreeMap<PathBuf, Sandbox>,
    /// Names of the interfaces that every namespace has.
    pub interfaces: BTreeSet<LinkName>,
    /// Ports that processes of the host hold.
    pub holders: BTreeMap<(u8, u16), Process>,
    pub guard: Guard,
    /// Ports at which the host's own clients are served.
    pub relayed: BTreeSet<HostPort>,
    pub flows: Vec<(Tuple, Flow)>,
    pub now: Instant,
    pub forgotten: Vec<(Zone, Address)>,
    pub collected: usize,
    /// How many publications were written at once.
    pub at_once: usize,
    /// What the resolvers were told last.
    pub directory: Directory,
    /// Why it cannot encrypt.
    pub no_esp: Option<String>,
}

impl FakeKernel {
    /// Makes one step true, as far as the state shows.
    pub fn take(&mut self, step: &Step) {
        let state = &mut self.state;
        match step.clone() {
            Step::Rename(link, _) => drop(state.misnamed.remove(&link)),
            Step::Close(link) => {
                if let Some(veth) = state.veths.get_mut(&link) {
                    veth.interface.addresses.clear();
                }
            }
            Step::RemovePublication(key, _) => drop(state.publications.remove(&key)),
            Step::RemoveAllowance(key) => drop(state.allowances.remove(&key)),
            Step::PutAllowance(key) => drop(state.allowances.insert(key)),
            Step::RemoveAddress(address) => drop(state.addresses.remove(&address)),
            Step::RemoveEndpoint(key) => drop(state.endpoints.remove(&key)),
            Step::RemoveDevice(link) => drop(state.devices.remove(&link)),
            Step::RemoveOrphan(index) => drop(state.orphans.remove(&index)),
            Step::Detach(link, hook) => drop(state.hooks.remove(&(link, hook))),
            Step::DeleteVeth(link) => {
                state.veths.remove(&link);
                lose(state, &link);
            }
            Step::DeleteJoin(link) => {
                if let Some(join) = state.joins.remove(&link) {
                    lose(state, &join.far);
                }
                lose(state, &link);
            }
            Step::DeleteBridge(link) => {
                state.bridges.remove(&link);
                for veth in state.veths.values_mut().filter(|veth| veth.bridge == link) {
                    veth.bridge = nothing();
                }
                for join in state.joins.values_mut() {
                    for side in [&mut join.bridge, &mut join.further] {
                        if *side == link {
                            *side = nothing();
                        }
                    }
                }
                for record in state.devices.values_mut().filter(|record| record.bridge.as_ref() == Some(&link)) {
                    record.bridge = Some(nothing());
                }
                lose(state, &link);
            }
            Step::RestoreForwarding(link, family) => drop(state.forwarding.remove(&(link, family))),
            Step::Accept(accept) => drop(state.accepts.insert(accept)),
            Step::RemoveAccept(accept) => drop(state.accepts.remove(&accept)),
            Step::PutSettings(settings) => state.settings = Some(settings),
            Step::Withhold(ports) => state.withheld = ports,
            Step::Guard(calls) => state.calls = calls,
            Step::PutReserved(reserved) => state.reserved = reserved,
            Step::CreateBridge(link, bridge) | Step::UpdateBridge(link, bridge) => {
                state.unrouted.remove(&link);
                state.bridges.insert(link, bridge);
            }
            Step::CreateJoin(link, join) => {
                let unconnected = Join { bridge: nothing(), further: nothing(), intact: false, ..join };
                state.joins.insert(link, unconnected);
            }
            Step::ConnectJoin(link, join) => drop(state.joins.insert(link, join)),
            Step::Forward(link, family) => drop(state.forwarding.insert((link, family))),
            Step::CreateVeth(link, mut veth) => {
                veth.bridge = nothing();
                veth.interface.addresses.clear();
                veth.interface.gateways.clear();
                state.veths.insert(link, veth);
            }
            Step::Attach(link, hook) => drop(state.hooks.insert((link, hook))),
            Step::OpenResolver(namespace) => drop(state.resolvers.insert(namespace, ResolverState::Whole)),
            Step::CloseResolver(namespace) => drop(state.resolvers.remove(&namespace)),
            Step::PutDevice(link, record) => drop(state.devices.insert(link, record)),
            Step::ConnectVeth(link, veth) => {
                state.unrouted.remove(&link);
                state.veths.insert(link, veth);
            }
            Step::PutEndpoint(key, record) => drop(state.endpoints.insert(key, record)),
            Step::RemoveSegment(vni) => drop(state.segments.remove(&vni)),
            Step::RemoveRemote(key) => drop(state.remotes.remove(&key)),
            Step::RemoveVtep(key) => drop(state.vteps.remove(&key)),
            Step::RemoveMeshEnd(key) => drop(state.mesh.remove(&key)),
            Step::PutMeshEnd(key, end) => drop(state.mesh.insert(key, end)),
            Step::RemovePeer(key) => drop(state.peers.remove(&key)),
            Step::DeleteTunnel(link) => {
                state.tunnels.remove(&link);
                lose(state, &link);
            }
            Step::PutAssociation(id, association) => drop(state.ipsec.associations.insert(id, association)),
            Step::RemoveAssociation(id) => drop(state.ipsec.associations.remove(&id)),
            Step::PutPolicy(id, protection) => drop(state.ipsec.policies.insert(id, protection)),
            Step::RemovePolicy(id) => drop(state.ipsec.policies.remove(&id)),
            Step::PutTunnel(link, tunnel) => drop(state.tunnels.insert(link, tunnel)),
            Step::PutSegment(vni, record) => drop(state.segments.insert(vni, record)),
            Step::PutRemote(key, remote) => drop(state.remotes.insert(key, remote)),
            Step::PutVtep(key) => drop(state.vteps.insert(key)),
            Step::PutPeer(key, address) => drop(state.peers.insert(key, address)),
            Step::PutAddress(address) => drop(state.addresses.insert(address)),
            Step::PutSource(range) => drop(state.sources.insert(range)),
            Step::RemoveSource(range) => drop(state.sources.remove(&range)),
            Step::PutPublication(key, to) => drop(state.publications.insert(key, to)),
        }
    }
}

/// What the kernel takes away with a link; its record stays, with the index of no device.
fn lose(state: &mut State, link: &LinkName) {
    state.unrouted.remove(link);
    state.hooks.retain(|(at, _)| at != link);
    state.forwarding.retain(|(on, _)| on != link);
    if state.devices.remove(link).is_some() {
        state.orphans.insert(1000 + state.orphans.len() as u32);
    }
    for record in state.endpoints.values_mut().filter(|record| record.device == *link) {
        record.device = nothing();
    }
    for segment in state.segments.values_mut() {
        for device in [&mut segment.tunnel, &mut segment.bridge] {
            if device == link {
                *device = nothing();
            }
        }
    }
}

/// The name of no device.
fn nothing() -> LinkName {
    LinkName::new("gone-0").unwrap()
}

impl Kernel for FakeKernel {
    async fn observe(&mut self) -> anyhow::Result<State> {
        Ok(self.state.clone())
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match &mut self.stop_after {
            Some(0) => std::future::pending().await,
            Some(left) => *left -= 1,
            None => {}
        }
        match &mut self.fail_after {
            Some(0) => {
                self.fail_after = None;
                bail!("the kernel refused: {step}");
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.take(step);
        Ok(())
    }

    async fn settle(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn put_publications(&mut self, all: &[(PublicationKey, Publication)]) -> anyhow::Result<()> {
        ensure!(self.fail_after.is_none() && self.stop_after.is_none(), "one of them may fail");
        self.state.publications.extend(all.iter().copied());
        self.at_once += all.len();
        Ok(())
    }

    fn ipsec(&mut self) -> anyhow::Result<Ipsec> {
        Ok(self.state.ipsec.clone())
    }

    fn obstacle_to_encryption(&mut self, _: Family) -> anyhow::Result<Option<String>> {
        Ok(self.no_esp.clone())
    }

    async fn facts(&mut self, sandboxes: &BTreeSet<PathBuf>) -> anyhow::Result<HostFacts> {
        let mut facts = self.facts.clone();
        facts.sandboxes = self.namespaces.clone();
        facts.sandboxes.retain(|path, _| sandboxes.contains(path));
        Ok(facts)
    }

    async fn checkup(&mut self, _: &BTreeSet<LinkName>) -> anyhow::Result<Checkup> {
        Ok(Checkup { kernel: "6.18.0".to_owned(), ..Checkup::default() })
    }

    async fn sandbox(&mut self, path: &Path) -> anyhow::Result<Sandbox> {
        self.namespaces.get(path).cloned().with_context(|| format!("{} is no network namespace", path.display()))
    }

    fn probe(&self, _: Vec<TunnelProbe>) -> JoinHandle<Probed> {
        std::thread::spawn(Vec::new)
    }

    fn stations(&self, _: &[Sandbox]) -> anyhow::Result<Stations> {
        Ok(Stations::default())
    }

    fn know_vteps(&mut self, _: &BTreeSet<IpAddr>, _: &BTreeSet<IpAddr>) {}

    fn know_names(&mut self, directory: Directory) {
        self.directory = directory;
    }

    fn mend_names(&mut self, mend: &mut dyn FnMut(&mut Directory)) {
        mend(&mut self.directory);
    }

    async fn interfaces(&mut self, _: &Sandbox) -> anyhow::Result<BTreeSet<LinkName>> {
        Ok(self.interfaces.clone())
    }

    async fn holder(
        &mut self,
        _: IpAddr,
        protocol: u8,
        ports: RangeInclusive<u16>,
    ) -> anyhow::Result<Option<(u16, Process)>> {
        let mut held = self.holders.range((protocol, *ports.start())..=(protocol, *ports.end()));
        Ok(held.next().map(|((_, port), process)| (*port, process.clone())))
    }

    async fn held_by_others(&mut self, wanted: &[HostPorts]) -> anyhow::Result<Vec<(u16, Process)>> {
        let mut held = Vec::new();
        for (address, protocol, ports) in wanted {
            held.extend(self.holder(*address, protocol.number(), ports.clone()).await?);
        }
        Ok(held)
    }

    async fn first_held(&mut self, wanted: &[HostPorts]) -> anyhow::Result<Option<(Protocol, u16, Process)>> {
        for (address, protocol, ports) in wanted {
            if let Some((port, process)) = self.holder(*address, protocol.number(), ports.clone()).await? {
                return Ok(Some((*protocol, port, process)));
            }
        }
        Ok(None)
    }

    fn end_strays(&mut self, _: &State) -> anyhow::Result<usize> {
        Ok(0)
    }

    async fn relay(&mut self, relays: Relays, held: &BTreeMap<HostPort, OwnedFd>) {
        self.relayed = relays.ports.into_keys().filter(|at| held.contains_key(at)).collect();
    }

    fn relayed(&self) -> usize {
        self.relayed.len()
    }

    fn guard(&self) -> Guard {
        self.guard.clone()
    }

    fn flows(&self, each: &mut dyn FnMut(&Tuple, &Flow)) -> anyhow::Result<Instant> {
        self.flows.iter().for_each(|(tuple, flow)| each(tuple, flow));
        Ok(self.now)
    }

    fn flows_max(&self) -> u32 {
        1024
    }

    fn forget_flows_of(&mut self, zone: Zone, address: Address) -> anyhow::Result<usize> {
        self.forgotten.push((zone, address));
        Ok(0)
    }

    fn forget_flows(&mut self, first: &[Tuple]) -> anyhow::Result<usize> {
        self.flows.retain(|(tuple, _)| !first.contains(tuple));
        Ok(first.len() * 2)
    }

    fn collect(&mut self) -> anyhow::Result<Collected> {
        self.collected += 1;
        Ok(Collected::default())
    }

    fn searches(&self) -> anyhow::Result<Vec<u64>> {
        Ok(vec![0; SEARCHES as usize])
    }

    fn counters(&self) -> anyhow::Result<BTreeMap<Hook, Counters>> {
        Ok(Hook::ALL.into_iter().map(|hook| (hook, Counters::default())).collect())
    }

    fn programs(&self) -> anyhow::Result<Vec<Program>> {
        Ok(Vec::new())
    }
}
