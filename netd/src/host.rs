//! The kernel as the reconciler sees it: links, programs and maps put together. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use ipnet::IpNet;
use netd_common::{
    tables::{Counters, Flow, Hook, Instant},
    tuple::{Address, Tuple, Zone},
};
use nix::{errno::Errno, net::if_::if_nametoindex};
use tokio::sync::watch;

use crate::{
    dataplane::{Dataplane, OverlayRecords, Records, RoutingChanges, asks_with_marks},
    dns::Directory,
    firewall::Mode,
    holder,
    link::{
        self, Filter, Firewall, Forwarding, Links, Ours, Sysctls, Withheld, sockets,
        xfrm::{self, Xfrm},
    },
    model::Protocol,
    netns::Namespace,
    reconcile::{
        Checkup, Collected, Family, Guard, HostFacts, HostPort, Ipsec, Join, Kernel, LinkName, Probed, Process,
        Program, Relays, ResolverState, Sandbox, State, Step, TunnelProbe, Use, Ways,
    },
    relay::Relay,
    resolver::Resolver,
};

pub use crate::dataplane::{Cgroup, Options as DataplaneOptions};

/// What a host is opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostOptions {
    /// Where maps and attachments are pinned (`--bpf-dir`).
    pub bpf_dir: PathBuf,
    /// Where the notes for `uninstall` are (`--state-dir`); it exists.
    pub state_dir: PathBuf,
    /// Devices towards the outside (`--uplink`); none for every one that looks like it.
    pub uplinks: Vec<LinkName>,
    /// How flows stand to the host's firewall (`--firewall`), and the mark of their packets.
    pub firewall: (Mode, u32),
    /// Of the programs and maps.
    pub dataplane: DataplaneOptions,
}

/// The host that the calling thread's network namespace is.
pub struct Host {
    links: Links,
    dataplane: Dataplane,
    forwarding: Forwarding,
    withheld: Withheld,
    resolver: Resolver,
    relay: Relay,
    uplinks: Vec<LinkName>,
    sandboxes: BTreeMap<LinkName, Sandbox>,
    firewall: Firewall,
    /// Other hosts of the cluster, and of networks made by hand.
    vteps: [BTreeSet<IpAddr>; 2],
    /// Only where something is or was encrypted: to ask has the kernel load what many hosts need not.
    ipsec: Option<Xfrm>,
}

impl Host {
    /// Checks what is needed, loads the programs, and takes over what a former daemon left.
    pub async fn open(options: HostOptions, resolver: Resolver) -> Result<Self> {
        let links = Links::open()?;
        let names = links.names().await?;
        let filters = links.filters().await?;
        let dataplane = Dataplane::open(options.bpf_dir, &options.dataplane, &names, &filters)?;
        for hook in Hook::OF_DEVICES {
            let Some((filter, program)) = dataplane.shared(hook)? else { continue };
            let is_it = |found: &Filter| filter == Filter { index: 0, ..found.clone() };
            if filters.iter().any(is_it)
                && let Err(error) = links.put_into_block(&filter, program).await
                // With its last device the block goes, and there is nothing to take over.
                && links.filters().await?.iter().any(is_it)
            {
                return Err(error);
            }
        }
        // Only a process that may do all this may listen.
        let links = Links::open_watched()?;
        let changes = links.changes().context("nobody listens to the host's changes")?;
        tokio::spawn(tell_of_changes(changes, dataplane.routing_changes()?));
        let forwarding = Forwarding::open(&options.state_dir)?;
        let withheld = Withheld::open(&options.state_dir)?;
        let firewall = Firewall::new(options.firewall.0, options.firewall.1);
        let (relay, uplinks, sandboxes) = (Relay::start()?, options.uplinks, BTreeMap::new());
        let vteps = Default::default();
        let ipsec = None;
        Ok(Self { links, dataplane, forwarding, withheld, resolver, relay, uplinks, sandboxes, firewall, vteps, ipsec })
    }

    /// Says in which sandbox the other side of each veth is, which the kernel does not tell. To be called at start with
    /// the model's, before the first [`observe`](Kernel::observe); steps keep it up from then on.
    pub fn remember_sandboxes(&mut self, sandboxes: BTreeMap<LinkName, Sandbox>) -> Result<()> {
        let known = sandboxes.values().cloned().collect();
        self.sandboxes.extend(sandboxes);
        self.dataplane.take_over_inside(&known)
    }

    /// Wakes whoever waits when something of the host's or of a container's network has changed.
    pub fn changes(&self) -> Result<watch::Receiver<u64>> {
        self.links.changes().context("nobody listens to the host's changes")
    }

    /// The tables of encryption, which are looked at from now on.
    fn xfrm(&mut self) -> Result<&Xfrm> {
        if self.ipsec.is_none() {
            self.ipsec = Some(Xfrm::open()?);
        }
        self.ipsec.as_ref().context("the tables of encryption are open")
    }

    /// What was known of the sandbox at a path.
    fn known_at(&self, path: &Path) -> Option<Sandbox> {
        self.sandboxes.values().find(|sandbox| sandbox.path == path).cloned()
    }

    async fn attach(&mut self, link: &LinkName, hook: Hook) -> Result<()> {
        let index = needed_index(link)?;
        // The blocks of both directions come together, and a join has a program in one alone.
        if let Some((filter, program)) = self.dataplane.shared(hook)?
            && !link.as_str().starts_with(Join::NEAR)
            && self.links.share_blocks(index).await?
        {
            self.links.put_into_block(&filter, program).await?;
            return self.dataplane.note_shared(index, hook);
        }
        self.dataplane.attach(link, index, hook)
    }

    async fn detach(&mut self, link: &LinkName, hook: Hook) -> Result<()> {
        let Some(index) = index(link)? else { return Ok(()) };
        if self.dataplane.detach(link, index, hook)? && self.links.remove_empty_clsact(index).await? {
            self.dataplane.forget_qdisc(index)?;
        }
        Ok(())
    }

    /// A sandbox that a veth leads to, by its inode.
    fn sandbox_of(&self, namespace: u64) -> Option<&Sandbox> {
        self.sandboxes.values().find(|sandbox| sandbox.inode == namespace)
    }

    fn resolvers(&mut self, loopbacks: &BTreeMap<u64, BTreeSet<Filter>>) -> Result<BTreeMap<u64, ResolverState>> {
        let attached = self.dataplane.attached_inside(loopbacks)?;
        let listening = self.resolver.listening();
        let state = |namespace: &u64| match attached.contains(namespace) && listening.contains(namespace) {
            true => ResolverState::Whole,
            false => ResolverState::Partial,
        };
        Ok(attached.union(&listening).map(|namespace| (*namespace, state(namespace))).collect())
    }

    /// The sockets first: a question that the program leads to none is dropped.
    fn open_resolver(&mut self, namespace: u64) -> Result<()> {
        let sandbox = self.sandbox_of(namespace).with_context(|| format!("no veth leads to namespace {namespace}"))?;
        let sandbox = sandbox.clone();
        self.resolver.open(&sandbox)?;
        self.dataplane.attach_inside(&sandbox)
    }

    async fn close_resolver(&mut self, namespace: u64) -> Result<()> {
        let sandbox = self.sandbox_of(namespace).cloned();
        let sandbox = sandbox.unwrap_or(Sandbox { path: PathBuf::new(), inode: namespace });
        let detached = self.dataplane.detach_inside(&sandbox).await;
        self.resolver.close(namespace);
        detached
    }

    /// The programs went with the link; their pins go after it.
    async fn delete(&mut self, link: &LinkName) -> Result<()> {
        let index = index(link)?;
        self.links.delete(link).await?;
        if let Some(index) = index {
            for hook in Hook::OF_DEVICES {
                self.dataplane.detach(link, index, hook)?;
            }
            self.dataplane.forget_qdisc(index)?;
        }
        self.sandboxes.remove(link);
        self.forwarding.forget(link)
    }
}

/// Has the programs know that the host's routing may have changed, first of all while nobody listened. Without it flows look their
/// way up seldom, and not never.
async fn tell_of_changes(mut changes: watch::Receiver<u64>, mut routing: RoutingChanges) {
    loop {
        if let Err(error) = routing.changed() {
            tracing::warn!("{error:#}");
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

impl Kernel for Host {
    async fn observe(&mut self) -> Result<State> {
        self.forwarding.follow_renames()?;
        let names = self.links.names().await?;
        let Ours { bridges, joins, veths, tunnels, misnamed, unclear, loopbacks } =
            self.links.observe(&self.sandboxes).await?;
        let filters = self.links.filters().await?;
        let hooks = self.dataplane.hooks(&names, &filters)?;
        let (uplinks, _) = self.links.outside(&self.uplinks, &self.forwarding).await?;
        let candidates = bridges.keys().chain(uplinks.keys());
        let candidates: BTreeSet<_> = candidates.cloned().chain(self.forwarding.noted()).collect();
        let each = candidates.into_iter().flat_map(|link| Family::BOTH.map(|family| (link.clone(), family)));
        let forwarding = each.filter(|(link, family)| Forwarding::is_on(link, *family)).collect();
        let Records {
            devices,
            orphans,
            endpoints,
            allowances,
            sources,
            publications,
            overlay,
            addresses,
            settings,
            reserved,
        } = self.dataplane.tables().records(&names)?;
        let OverlayRecords { segments, remotes, vteps, mesh, peers } = overlay;
        let resolvers = self.resolvers(&loopbacks)?;
        Ok(State {
            bridges,
            joins,
            veths,
            misnamed,
            unclear,
            forwarding,
            hooks,
            resolvers,
            devices,
            orphans,
            endpoints,
            sources,
            allowances,
            publications,
            tunnels,
            segments,
            remotes,
            vteps,
            mesh,
            peers,
            ipsec: self.ipsec.as_ref().map(Xfrm::observed).transpose()?.unwrap_or_default(),
            addresses,
            accepts: self.firewall.facts().accepted(),
            settings,
            reserved,
            withheld: self.withheld.observed()?,
        })
    }

    async fn apply(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Rename(link, current) => self.links.rename(link, current).await,
            Step::Close(link) => self.links.take_down(link).await,
            Step::RemovePublication(key, _) => self.dataplane.tables_mut().remove_publication(*key),
            Step::RemoveAllowance(key) => self.dataplane.tables_mut().remove_allowance(*key),
            Step::PutAllowance(key) => self.dataplane.tables_mut().put_allowance(*key),
            Step::RemoveAddress(address) => self.dataplane.tables_mut().remove_address(*address),
            Step::RemoveEndpoint(key) => self.dataplane.tables_mut().remove_endpoint(*key),
            Step::RemoveDevice(link) => match index(link)? {
                Some(index) => self.dataplane.tables_mut().remove_device(index),
                None => Ok(()),
            },
            Step::RemoveOrphan(index) => self.dataplane.tables_mut().remove_device(*index),
            Step::Detach(link, hook) => self.detach(link, *hook).await,
            Step::DeleteVeth(link) | Step::DeleteJoin(link) | Step::DeleteBridge(link) | Step::DeleteTunnel(link) => {
                self.delete(link).await
            }
            Step::RemoveSegment(vni) => self.dataplane.tables_mut().overlay.remove_segment(*vni),
            Step::RemoveRemote(key) => self.dataplane.tables_mut().overlay.remove_remote(*key),
            Step::RemoveVtep(key) => self.dataplane.tables_mut().overlay.remove_vtep(*key),
            Step::RemoveMeshEnd(key) => self.dataplane.tables_mut().overlay.remove_mesh_end(*key),
            Step::PutMeshEnd(key, end) => self.dataplane.tables_mut().overlay.put_mesh_end(*key, *end),
            Step::RemovePeer(key) => self.dataplane.tables_mut().overlay.remove_peer(*key),
            Step::PutAssociation(id, association) => Ok(self.xfrm()?.put_association(*id, association)?),
            Step::RemoveAssociation(id) => Ok(self.xfrm()?.remove_association(*id)?),
            Step::PutPolicy(id, protection) => Ok(self.xfrm()?.put_policy(*id, *protection)?),
            Step::RemovePolicy(id) => Ok(self.xfrm()?.remove_policy(*id)?),
            Step::PutTunnel(link, tunnel) => self.links.put_tunnel(link, tunnel).await,
            Step::PutSegment(vni, record) => {
                let (tunnel, bridge) = (needed_index(&record.tunnel)?, needed_index(&record.bridge)?);
                self.dataplane.tables_mut().overlay.put_segment(*vni, tunnel, bridge, record)
            }
            Step::PutRemote(key, remote) => self.dataplane.tables_mut().overlay.put_remote(*key, *remote),
            Step::PutVtep(key) => self.dataplane.tables_mut().overlay.put_vtep(*key),
            Step::PutPeer(key, address) => self.dataplane.tables_mut().overlay.put_peer(*key, *address),
            Step::RestoreForwarding(link, family) => self.forwarding.give_back(link, *family).map(|_| ()),
            Step::Withhold(ports) => self.withheld.put(ports),
            Step::PutReserved(reserved) => self.dataplane.tables_mut().put_reserved(reserved),
            Step::Accept(table) => self.firewall.accept(*table),
            Step::RemoveAccept(table) => self.firewall.remove_accept(*table),
            Step::PutSettings(settings) => self.dataplane.tables_mut().put_settings(*settings),
            Step::CreateBridge(link, bridge) => self.links.create_bridge(link, bridge).await,
            Step::UpdateBridge(link, bridge) => self.links.update_bridge(link, bridge).await,
            Step::Forward(link, family) => {
                let announced = self.links.with_announced_routes().await?;
                self.forwarding.switch_on(link, *family, &announced)
            }
            Step::CreateJoin(link, join) => self.links.create_join(link, join).await,
            Step::ConnectJoin(link, join) => self.links.connect_join(link, join).await,
            Step::CreateVeth(link, veth) => {
                self.links.create_veth(link, veth).await?;
                self.sandboxes.insert(link.clone(), veth.sandbox.clone());
                Ok(())
            }
            Step::OpenResolver(namespace) => self.open_resolver(*namespace),
            Step::CloseResolver(namespace) => self.close_resolver(*namespace).await,
            Step::Attach(link, hook) => self.attach(link, *hook).await,
            Step::PutDevice(link, record) => {
                let bridge = record.bridge.as_ref().map_or(Ok(0), needed_index)?;
                self.dataplane.tables_mut().put_device(needed_index(link)?, bridge, record)
            }
            Step::ConnectVeth(link, veth) => {
                self.links.connect_veth(link, veth).await?;
                self.sandboxes.insert(link.clone(), veth.sandbox.clone());
                Ok(())
            }
            Step::PutEndpoint(key, record) => {
                self.dataplane.tables_mut().put_endpoint(*key, needed_index(&record.device)?, record)
            }
            Step::PutAddress(address) => self.dataplane.tables_mut().put_address(*address),
            Step::PutSource(range) => self.dataplane.tables_mut().put_source(*range),
            Step::RemoveSource(range) => self.dataplane.tables_mut().remove_source(*range),
            Step::PutPublication(key, publication) => self.dataplane.tables_mut().put_publication(*key, *publication),
        }
    }

    fn ipsec(&mut self) -> Result<Ipsec> {
        self.xfrm()?.observed()
    }

    fn obstacle_to_encryption(&mut self, family: Family) -> Result<Option<String>> {
        xfrm::obstacle(family)
    }

    async fn facts(&mut self, sandboxes: &BTreeSet<PathBuf>) -> Result<HostFacts> {
        self.forwarding.follow_renames()?;
        let (uplinks, mut uses) = self.links.outside(&self.uplinks, &self.forwarding).await?;
        uses.extend(self.links.ruled().await?.into_iter().chain(link::resolvers()));
        // What is routed there too is told of once.
        let routed = |device: &String, net: &IpNet| uses.contains(&(*net, Use::Route { device: device.clone() }));
        let allowed = self.links.allowed_by_wireguard().await?;
        let allowed: Vec<_> = allowed.into_iter().filter(|(device, net)| !routed(device, net)).collect();
        uses.extend(allowed.into_iter().map(|(device, net)| (net, Use::WireGuard { device })));
        let vxlan_devices = self.links.foreign_tunnels().await?;
        let mut routing = self.links.routing_rules().await?;
        routing.marks_can_be_asked_for = !routing.marks.is_empty() && asks_with_marks();
        let Sysctls { ephemeral, timeouts } = Sysctls::read();
        let mut there = BTreeMap::new();
        for path in sandboxes {
            match self.links.sandbox_at(path) {
                Ok(sandbox) => drop(there.insert(path.clone(), sandbox)),
                Err(error) if error.is_final() => {}
                // A sandbox that cannot be looked at is not one that is gone: what it has would be taken away.
                Err(_) => there.extend(self.known_at(path).map(|sandbox| (path.clone(), sandbox))),
            }
        }
        let addresses = self.links.host_addresses().await?;
        let [nodes, peers] = &self.vteps;
        let ways = Ways { nodes: self.links.ways(nodes).await?, peers: self.links.ways(peers).await? };
        let early: BTreeSet<_> = uplinks.keys().filter(|link| self.dataplane.meets_frames(link)).cloned().collect();
        let sends_back = early.iter().filter(|link| self.dataplane.sends_frames_back(link)).cloned().collect();
        Ok(HostFacts {
            early,
            sends_back,
            ways,
            uplinks,
            uses,
            vxlan_devices,
            routing,
            addresses,
            firewall: self.firewall.facts(),
            ephemeral,
            reserved: self.withheld.theirs()?,
            timeouts,
            sandboxes: there,
        })
    }

    fn probe(&self, probes: Vec<TunnelProbe>) -> JoinHandle<Probed> {
        thread::spawn(move || link::probe(probes))
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

    async fn first_held(
        &mut self,
        wanted: &[(IpAddr, Protocol, RangeInclusive<u16>)],
    ) -> Result<Option<(Protocol, u16, Process)>> {
        holder::first(wanted).context("cannot read who holds the host's ports")
    }

    fn end_strays(&mut self) -> Result<usize> {
        let strays = self.dataplane.tables_mut().take_strays()?;
        if strays.is_empty() { Ok(0) } else { sockets::end(&strays) }
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

/// The index of a device; `None` if there is no such device.
fn index(link: &LinkName) -> Result<Option<u32>> {
    match if_nametoindex(link.as_str()) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV | Errno::ENXIO) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at {link}")),
    }
}

fn needed_index(link: &LinkName) -> Result<u32> {
    index(link)?.with_context(|| format!("there is no device {link}"))
}

mod checkup;
#[cfg(test)]
mod converging;
#[cfg(test)]
pub mod fixtures;
#[cfg(test)]
mod tests;
