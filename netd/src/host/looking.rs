//! What of netd's exists on the host, and what of the host the plan depends on: read, and nothing changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::Result;
use ipnet::IpNet;

use super::Host;
use crate::{
    dataplane::{OverlayRecords, Records, asks_with_marks},
    link::{self, Filter, Forwarding, Ours, Sysctls, xfrm::Xfrm},
    reconcile::{Family, HostFacts, ResolverState, Sandbox, State, Use, Ways},
};

impl Host {
    /// What of netd's exists.
    pub(super) async fn look(&mut self) -> Result<State> {
        self.forwarding.follow()?;
        let names = self.links.names().await?;
        let Ours { bridges, joins, veths, tunnels, misnamed, unclear, unrouted, loopbacks } =
            self.links.observe(&self.sandboxes).await?;
        self.forget_sandboxes_but(&veths);
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
            unrouted,
            forwarding,
            hooks,
            calls: self.dataplane.calls().observed(),
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

    /// What the plan depends on.
    pub(super) async fn look_around(&mut self, sandboxes: &BTreeSet<PathBuf>) -> Result<HostFacts> {
        self.forwarding.follow()?;
        let (uplinks, mut uses) = self.links.outside(&self.uplinks, &self.forwarding).await?;
        uses.extend(self.links.ruled().await?.into_iter().chain(link::resolvers()));
        // What is routed there too is told of once.
        let routed = |device: &String, net: &IpNet| uses.contains(&(*net, Use::Route { device: device.clone() }));
        let allowed = self.links.allowed_by_wireguard().await?;
        let allowed: Vec<_> = allowed.into_iter().filter(|(device, net)| !routed(device, net)).collect();
        let addressed = self.links.addressed().await?;
        let addressed: Vec<_> = addressed.into_iter().filter(|(device, net)| !routed(device, net)).collect();
        uses.extend(addressed.into_iter().map(|(device, net)| (net, Use::Address { device })));
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
            vrf_ports: self.links.vrf_ports(&self.uplinks).await?,
            uses,
            vxlan_devices,
            calls: self.dataplane.calls().wanted(),
            routing,
            addresses,
            firewall: self.firewall.facts(),
            ephemeral,
            reserved: self.withheld.theirs()?,
            timeouts,
            sandboxes: there,
        })
    }

    /// What was known of the sandbox at a path.
    fn known_at(&self, path: &Path) -> Option<Sandbox> {
        self.sandboxes.values().find(|sandbox| sandbox.path == path).cloned()
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
}
