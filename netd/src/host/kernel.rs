//! What the reconciler asks of a kernel, asked of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time,
};

use anyhow::{Context, Result};
use netd_common::{
    sock::leads,
    tables::{Counters, DialledKey, Flow, Hook, Instant, Led, Publication, PublicationKey},
    tuple::{Address, Tuple, Zone},
};

use super::Host;
use crate::{
    dns::Directory,
    holder,
    link::{self, Links, sockets, xfrm},
    model::Protocol,
    netns::Namespace,
    reconcile::{
        Checkup, Collected, Family, Guard, HostFacts, HostPort, HostPorts, Ipsec, Kernel, LinkName, Probed, Process,
        Program, Relays, Sandbox, State, Stations, Step, TunnelProbe,
    },
};

impl Kernel for Host {
    async fn observe(&mut self) -> Result<State> {
        self.look().await
    }

    async fn apply(&mut self, step: &Step) -> Result<()> {
        self.settling.stepped(time::Instant::now());
        self.take(step).await
    }

    async fn settle(&mut self) -> Result<()> {
        self.settle_one().await
    }

    fn put_publications(&mut self, all: &[(PublicationKey, Publication)]) -> Result<()> {
        self.settling.stepped(time::Instant::now());
        self.dataplane.tables_mut().put_publications(all)
    }

    fn ipsec(&mut self) -> Result<Ipsec> {
        self.xfrm()?.observed()
    }

    fn obstacle_to_encryption(&mut self, family: Family) -> Result<Option<String>> {
        xfrm::obstacle(family)
    }

    async fn facts(&mut self, sandboxes: &BTreeSet<PathBuf>) -> Result<HostFacts> {
        self.look_around(sandboxes).await
    }

    fn probe(&self, probes: Vec<TunnelProbe>) -> JoinHandle<Probed> {
        thread::spawn(move || link::probe(probes))
    }

    fn stations(&self, sandboxes: &[Sandbox]) -> Result<Stations> {
        // A container that is just going away has no neighbours.
        let neighbours =
            sandboxes.iter().filter_map(|sandbox| Some((sandbox.path.clone(), link::neighbours(sandbox).ok()?)));
        Ok(Stations { learned: self.dataplane.tables().overlay.stations()?, neighbours: neighbours.collect() })
    }

    async fn checkup(&mut self, uplinks: &BTreeSet<LinkName>) -> Result<Checkup> {
        self.look_over(uplinks).await
    }

    async fn sandbox(&mut self, path: &Path) -> Result<Sandbox> {
        Ok(Namespace::open(path)?.sandbox().clone())
    }

    fn know_vteps(&mut self, nodes: &BTreeSet<IpAddr>, peers: &BTreeSet<IpAddr>) {
        self.vteps = [nodes.clone(), peers.clone()];
    }

    fn know_names(&mut self, directory: Directory) {
        self.resolver.know(directory);
    }

    fn mend_names(&mut self, mend: &mut dyn FnMut(&mut Directory)) {
        self.resolver.mend(mend);
    }

    async fn interfaces(&mut self, sandbox: &Sandbox) -> Result<BTreeSet<LinkName>> {
        Links::interfaces(sandbox).await
    }

    async fn holder(
        &mut self,
        address: IpAddr,
        protocol: u8,
        ports: RangeInclusive<u16>,
    ) -> Result<Option<(u16, Process)>> {
        holder::holder(address, protocol, ports).context("cannot read who holds the host's ports")
    }

    async fn first_held(&mut self, wanted: &[HostPorts]) -> Result<Option<(Protocol, u16, Process)>> {
        holder::first(wanted).context("cannot read who holds the host's ports")
    }

    async fn held_by_others(&mut self, wanted: &[HostPorts]) -> Result<Vec<(u16, Process)>> {
        holder::of_others(wanted).context("cannot read who holds the host's ports")
    }

    fn end_strays(&mut self, state: &State) -> Result<usize> {
        let tables = self.dataplane.tables_mut();
        let strays = tables.take_strays(state)?;
        sockets::end(Some(tables.led()), |socket| {
            let (address, port) = socket.peer;
            match socket.kept.as_deref().map(bytemuck::try_pod_read_unaligned::<Led>) {
                // Of one that has another peer since, nothing is known.
                Some(Ok(led)) => (led.address, led.port) == socket.peer && !leads(state, &led.dialled, socket.peer),
                _ => strays.contains(&DialledKey::new(socket.cookie, address, port)),
            }
        })
    }

    async fn relay(&mut self, relays: Relays, held: &BTreeMap<HostPort, OwnedFd>) {
        self.relay.follow(relays, held).await;
    }

    fn relayed(&self) -> usize {
        self.relay.len()
    }

    fn guard(&self) -> Guard {
        self.dataplane.guard().clone()
    }

    fn flows(&self, each: &mut dyn FnMut(&Tuple, &Flow)) -> Result<Instant> {
        self.dataplane.tables().flows.each(each)
    }

    fn flows_max(&self) -> u32 {
        self.dataplane.tables().flows.capacity()
    }

    fn forget_flows_of(&mut self, zone: Zone, address: Address) -> Result<usize> {
        self.dataplane.tables_mut().flows.forget(zone, address)
    }

    fn forget_flows(&mut self, first: &[Tuple]) -> Result<usize> {
        self.dataplane.tables_mut().flows.forget_these(first)
    }

    fn collect(&mut self) -> Result<Collected> {
        self.dataplane.collect()
    }

    fn searches(&self) -> Result<Vec<u64>> {
        self.dataplane.tables().searches()
    }

    fn counters(&self) -> Result<BTreeMap<Hook, Counters>> {
        Hook::ALL.into_iter().map(|hook| Ok((hook, self.dataplane.tables().counters(hook)?))).collect()
    }

    fn programs(&self) -> Result<Vec<Program>> {
        self.dataplane.programs()
    }
}
