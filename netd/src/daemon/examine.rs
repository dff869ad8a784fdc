//! `netd doctor` and `netd exposure`, as far as the daemon knows and can look.

use anyhow::{Result, anyhow};
use tokio::sync::oneshot;

use super::{Daemon, Failure, Reply, cluster::Cluster};
use crate::{
    doctor::{Facts, Finding, Severity, findings, tunnels},
    exposure::{self, Exposure, exposure},
    model::{Network, Protocol},
    reconcile::{Kernel, Process},
};

impl<K: Kernel> Daemon<K> {
    /// Who can reach what.
    pub(super) fn exposure(&self) -> Vec<Exposure> {
        let denied_by = |protocol: Protocol, address, port| {
            let uplinks = self.facts.uplinks.keys().map(ToString::to_string);
            self.facts.firewall.denial_at_input(uplinks, address, protocol.number(), port)
        };
        let stopped_by = |network: &Network, protocol: Protocol, address, port| {
            let uplinks = self.facts.uplinks.keys().map(ToString::to_string).filter(|_| self.facts.firewall.is_shown());
            let bridge = network.bridge().to_string();
            self.facts.firewall.stop_of_port(uplinks, &bridge, address, protocol.number(), port)
        };
        exposure(&exposure::Facts {
            model: &self.model,
            host: &self.facts,
            configured: &self.choices.from,
            denied_by: &denied_by,
            stopped_by: &stopped_by,
        })
    }

    /// Has what is found told to who asked, when the tunnels have been tried too.
    pub(super) async fn examine_with_tunnels(&mut self, reply: oneshot::Sender<Result<Reply, Failure>>) {
        if let Err(failure) = self.look_at_the_host().await {
            // Whoever asked may be gone.
            return drop(reply.send(Err(failure)));
        }
        let found = self.examine().await;
        let nodes = self.vteps();
        let stations = match self.kernel.stations(&tunnels::sandboxes(&self.model, &self.facts)) {
            Ok(stations) => stations,
            Err(error) => return drop(reply.send(Err(error.into()))),
        };
        let probes = tunnels::probes(&self.model, &self.facts, &self.choices.remotes, &nodes, &stations);
        let (asking, facts, model) = (self.kernel.probe(probes), self.facts.clone(), self.model.clone());
        tokio::task::spawn_blocking(move || {
            let told = found.and_then(|mut found| {
                let probed = asking.join().map_err(|_| anyhow!("what tries the tunnels broke down"))?;
                found.extend(tunnels::findings(&probed, &model, &facts, &nodes));
                Ok(Reply::Findings(found))
            });
            // Whoever asked may be gone.
            let _ = reply.send(told.map_err(Failure::from));
        });
    }

    /// Looks at everything anew, tunnels aside, and mends nothing.
    pub(super) async fn examine(&mut self) -> Result<Vec<Finding>> {
        let host = self.read_facts().await?;
        let observed = self.kernel.observe().await?;
        let checkup = self.kernel.checkup(&host.uplinks.keys().cloned().collect()).await?;
        let (taken, guard) = (self.taken_although_published().await?, self.kernel.guard());
        let (model, choices) = (&self.model, self.choices.clone());
        let mut found = findings(&Facts {
            model,
            host: &host,
            observed: &observed,
            choices,
            guard: &guard,
            taken: &taken,
            checkup: &checkup,
        });
        found.extend(self.trouble.iter().map(|line| Finding::trouble(line)));
        found.extend(self.cluster.iter().flat_map(Cluster::lacks_of_keys).map(|line| {
            let meaning = "What is sent between these hosts in encrypted networks is dropped.";
            Finding::new(
                "encryption",
                Severity::Warning,
                line,
                meaning,
                "See `netd status` and `netd overlay verify` there.",
            )
        }));
        found.extend(self.cluster.iter().flat_map(|cluster| cluster.misfits(&host)).map(|line| {
            let meaning = "Of networks that span hosts, what goes between this host and the other is dropped.";
            Finding::new("nodes", Severity::Problem, line, meaning, "Mend what it names, on one of the two.")
        }));
        Ok(found)
    }

    /// Published ports that a process of the host has, this one aside.
    async fn taken_although_published(&mut self) -> Result<Vec<(u16, Process)>> {
        let publications = self.model.endpoints.values().flat_map(|e| e.publications.clone());
        // A container's own address is none of the host's.
        let publications = publications.filter(|publication| !publication.direct);
        let places = publications.map(|port| (port.host_ip, port.protocol, port.host_ports()));
        self.kernel.held_by_others(&places.collect::<Vec<_>>()).await
    }
}
