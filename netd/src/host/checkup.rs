//! What the doctor wants to know of the host, read.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::Result;
use netd_common::tables::Hook;

use super::Host;
use crate::reconcile::{Checkup, Foreign, LinkName};

/// How long packets are counted.
const COUNT: Duration = Duration::from_millis(200);

impl Host {
    /// Looks at what concerns these uplinks and the host as a whole.
    pub(super) async fn look_over(&mut self, uplinks: &BTreeSet<LinkName>) -> Result<Checkup> {
        let (received, seen) = (received_by(uplinks), self.seen_by_uplinks()?);
        tokio::time::sleep(COUNT).await;
        let (received, seen) = (received_by(uplinks) - received, self.seen_by_uplinks()?.saturating_sub(seen));
        let stricter = |link: &LinkName| {
            let of = |name: &str| number(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).unwrap_or_default();
            (link.clone(), of("all").max(of(link.as_str())) as u8)
        };
        Ok(Checkup {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            realtime: number("/sys/kernel/realtime") == Some(1),
            jit: number("/proc/sys/net/core/bpf_jit_enable").map(|value| value != 0),
            bridge_netfilter: number("/proc/sys/net/bridge/bridge-nf-call-iptables").map(|value| value != 0),
            reverse_path: uplinks.iter().map(stricter).collect(),
            foreign: self.foreign_programs(uplinks).await?,
            received,
            seen,
        })
    }

    async fn foreign_programs(&mut self, uplinks: &BTreeSet<LinkName>) -> Result<BTreeSet<Foreign>> {
        let (names, filters) = (self.links.names().await?, self.links.filters().await?);
        let ours = self.dataplane.hooks(&names, &filters)?;
        let places = ours.into_iter().filter(|(link, _)| uplinks.contains(link) || link.as_str().starts_with("nd"));
        self.dataplane.others(&places.collect(), &names, &filters)
    }

    fn seen_by_uplinks(&self) -> Result<u64> {
        let mut seen = 0;
        for [ingress, _] in [false, true].map(Hook::of_uplink) {
            let counters = self.dataplane.tables().counters(ingress)?;
            seen += counters.passed + counters.to_peer + counters.to_neighbour + counters.dropped.iter().sum::<u64>();
        }
        Ok(seen)
    }
}

fn received_by(uplinks: &BTreeSet<LinkName>) -> u64 {
    uplinks.iter().filter_map(|link| number(&format!("/sys/class/net/{link}/statistics/rx_packets"))).sum()
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
