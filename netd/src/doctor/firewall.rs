//! What the host's own firewall stops, and what it does not.

use std::collections::BTreeSet;

use super::{Facts, Finding, Severity};
use crate::{model::Network, reconcile::Family};

const CHECK: &str = "firewall";
const OF_THE_OPERATOR: &str = "It is a rule of the host's, and its operator's word.";
const OF_FIREWALLD: &str = "It is firewalld's word, which forgets a rule of nft's when it is reloaded; the README has commands of its own, which last.";

/// Adds what is to be said of it.
pub fn add(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let host = &facts.host.firewall;
    let before = found.len();
    if let Some(why) = &host.unread {
        found.push(Finding::new(
            CHECK,
            Severity::Warning,
            format!("the host's rules cannot be read: {why}"),
            "Every flow shows itself to the firewall, and what it would stop is not told.",
            "Install what is missing. netd tries again every 10 s.",
        ));
    }
    if host.is_shown() {
        stopped(facts, found);
        wiped(facts, found);
    }
    open_though_denied(facts, found);
    if found.len() == before {
        found.push(Finding::fine(CHECK, format!("{}: {}", host.mode, host.why())));
    }
}

/// Rules that stop everything new between an uplink and a network, each once a direction.
fn stopped(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let mut said = BTreeSet::new();
    for (family, network) in reaching_out(facts) {
        let bridge = network.bridge().to_string();
        for uplink in facts.host.uplinks.keys().map(ToString::to_string) {
            for (from, to, way) in [(&bridge, &uplink, "from"), (&uplink, &bridge, "to")] {
                let Some(stop) = facts.host.firewall.stop_at_forward(from, to, family) else { continue };
                let what = format!("{} stops new flows {way} containers of {}", stop.by, network.name);
                if said.insert((stop.by, way)) {
                    let meaning = if stop.firewalld { OF_FIREWALLD } else { OF_THE_OPERATOR };
                    let remedy = format!("If that is not meant: {}", stop.remedy);
                    found.push(Finding::new(CHECK, Severity::Warning, what, meaning, &remedy));
                }
            }
        }
    }
}

/// Rules that take netd's bit off its packets. What matters of it is netd's accept, which a policy of DROP needs.
fn wiped(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let host = &facts.host.firewall;
    if host.needed().is_empty() {
        return;
    }
    for rule in host.wiping() {
        found.push(Finding::new(
            CHECK,
            Severity::Warning,
            format!("{rule} takes netd's mark {:#x} away from what it meets", host.mark),
            "FORWARD drops by its policy, and netd's accept at its end knows netd's packets by that bit.",
            "Give the rule a mask of its own bits (--set-xmark 1/1; in nft, `meta mark set meta mark or 1`), or netd another bit (`mark` in netd.toml).",
        ));
    }
}

fn reaching_out<'a>(facts: &Facts<'a>) -> impl Iterator<Item = (Family, &'a Network)> {
    let networks = facts.model.networks.values().filter(|network| !network.internal);
    networks.flat_map(|network| {
        let has = move |family: &Family| network.subnets.iter().any(|subnet| Family::of(subnet.gateway) == *family);
        Family::BOTH.into_iter().filter(has).map(move |family| (family, network))
    })
}

fn open_though_denied(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    let publications = facts.model.endpoints.values().flat_map(|endpoint| &endpoint.publications);
    for one in publications.filter(|one| !one.direct && !one.host_ip.is_loopback()) {
        let uplinks = facts.host.uplinks.keys().map(ToString::to_string);
        let protocol = one.protocol;
        let by = facts.host.firewall.denial_at_input(uplinks, one.host_ip, protocol.number(), one.host_port);
        if let Some(by) = by {
            found.push(Finding::new(
                CHECK,
                Severity::Warning,
                format!("port {}/{protocol} of {} is open although INPUT denies it: {by}", one.host_port, one.host_ip),
                "What is published is forwarded, and INPUT does not see it.",
                "Publish it for some clients alone (from=), on one address, or drop it at FORWARD.",
            ));
        }
    }
}
