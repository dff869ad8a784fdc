//! Flows as they are told: one line each, by its first packet, with the names of who is in it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use netd_common::{
    conntrack::Leg,
    sock::Places,
    tables::{Counters, Flow, Instant, Publication, PublicationKey, Publications, SourceKey},
    tuple::{Address, ICMP, ICMPV6, SCTP, TCP, Tuple, UDP, Zone},
    verdict::DropReason,
};
use serde::{Deserialize, Serialize};
use tracing::{debug, error, warn};

use super::{Daemon, Failure, Reply};
use crate::{
    model::{Rejection, lets_in},
    reconcile::Kernel,
};

/// A flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowView {
    /// `tcp`, `udp`, `sctp`, `icmp` or a protocol number.
    pub protocol: String,
    /// The container's network.
    pub network: Option<String>,
    /// The container, the one that began where both ends are one.
    pub container: Option<String>,
    /// The first packet's addresses and ports, as it came.
    pub original: FlowEnds,
    /// The same as it went.
    pub translated: FlowEnds,
    /// `unreplied`, `replied`, `syn_sent`, `syn_received`, `established`, `closing`, `time_wait` or `reset`.
    pub state: String,
    /// Seconds since its first packet.
    pub age: u64,
    /// Seconds since a packet was noted, which is at most once a second.
    pub idle: u64,
    /// Seconds until it ends if none comes.
    pub timeout: u64,
}

/// Where packets come from and go to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowEnds {
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

/// Which flows are wanted: those that have, of each key given, one of its values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowFilter(BTreeMap<String, Vec<Wanted>>);

/// What a flow is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wanted {
    Network(String),
    Container(String),
    /// An end in this range.
    Address(IpNet),
    Port(u16),
    Protocol(String),
    State(String),
}

impl FlowFilter {
    const KEYS: &str = "network, container, address, port, protocol, state";
    const STATES: [&str; 8] =
        ["unreplied", "replied", "syn_sent", "syn_received", "established", "closing", "time_wait", "reset"];
    const A_STATE: &str =
        "a state of a flow: unreplied, replied, syn_sent, syn_received, established, closing, time_wait or reset";

    /// The filter of these keys and values. Refuses what no flow can have.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Rejection> {
        let mut filter = Self::default();
        for (key, value) in pairs {
            let wanted = Self::wanted(&key, value)?;
            filter.0.entry(key).or_default().push(wanted);
        }
        Ok(filter)
    }

    /// The same, refused where it lets everything through: not every flow is ended by a word forgotten.
    pub fn of_some(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Rejection> {
        let filter = Self::new(pairs)?;
        if filter.0.is_empty() { Err(Rejection::NoFilter(Self::KEYS)) } else { Ok(filter) }
    }

    fn wanted(key: &str, value: String) -> Result<Wanted, Rejection> {
        let is =
            |wanted: Option<Wanted>, what| wanted.ok_or(Rejection::Malformed { given: value.clone(), wanted: what });
        match key {
            "network" => Ok(Wanted::Network(value)),
            "container" => Ok(Wanted::Container(value)),
            "address" => {
                let range = value.parse().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
                is(range.ok().map(Wanted::Address), "an address or a range of addresses, like 10.0.0.0/8")
            }
            "port" => is(value.parse().ok().map(Wanted::Port), "a port: a number from 0 to 65535"),
            "protocol" => {
                let named = ["tcp", "udp", "sctp", "icmp"].contains(&value.as_str()).then(|| value.clone());
                let known = named.or_else(|| value.parse().ok().map(protocol_name));
                is(known.map(Wanted::Protocol), "a protocol: tcp, udp, sctp, icmp or a number below 256")
            }
            "state" => {
                let known = Self::STATES.contains(&value.as_str()).then(|| Wanted::State(value.clone()));
                is(known, Self::A_STATE)
            }
            _ => Err(Rejection::UnknownFilter(key.to_owned(), Self::KEYS.into())),
        }
    }

    fn lets_through(&self, flow: &FlowView) -> bool {
        self.0.values().all(|alternatives| alternatives.iter().any(|wanted| wanted.is_of(flow)))
    }
}

impl Wanted {
    fn is_of(&self, flow: &FlowView) -> bool {
        let ends = [flow.original.src, flow.original.dst, flow.translated.src, flow.translated.dst];
        match self {
            Self::Network(name) => flow.network.as_ref() == Some(name),
            Self::Container(name) => flow.container.as_ref() == Some(name),
            Self::Address(range) => ends.iter().any(|end| range.contains(&end.ip())),
            Self::Port(port) => ends.iter().any(|end| end.port() == *port),
            Self::Protocol(name) => flow.protocol == *name,
            Self::State(name) => flow.state == *name,
        }
    }
}

impl<K: Kernel> Daemon<K> {
    /// Takes out a part of the flows that are over, and tells of the room there is.
    pub(super) fn collect(&mut self) {
        let collected = match self.kernel.collect() {
            Ok(collected) => collected,
            Err(error) => return error!("cannot collect flows that are over: {error:#}"),
        };
        if collected.flows > 0 {
            debug!(flows = collected.flows, "collected");
        }
        let refused = |counters: &Counters| counters.dropped[DropReason::TableFull as usize];
        match self.kernel.counters() {
            Ok(counters) => {
                for happening in self.fill.note(collected, counters.values().map(refused).sum()) {
                    warn!("{happening:?}");
                    self.events.tell(happening);
                }
            }
            Err(error) => error!("cannot read the counters: {error:#}"),
        }
    }

    pub(super) fn flows(&self, filter: &FlowFilter) -> Result<Reply, Failure> {
        Ok(Reply::Flows(self.matching(filter)?.into_iter().map(|(_, view)| view).collect()))
    }

    /// Ends every flow that the filter lets through, and tells which.
    pub(super) fn end_flows(&mut self, filter: &FlowFilter) -> Result<Reply, Failure> {
        let (tuples, views): (Vec<_>, Vec<_>) = self.matching(filter)?.into_iter().unzip();
        self.kernel.forget_flows(&tuples)?;
        Ok(Reply::Flows(views))
    }

    /// Ends the flows from outside and from containers that knocked at a port which is published no more, leads elsewhere, or
    /// is not for them.
    pub(super) fn end_unpublished_flows(&mut self) -> anyhow::Result<usize> {
        let mut ending = Vec::new();
        let applied = &self.applied;
        let lets_in = |to: &Publication, from: Address| {
            to.sources.is_anyone() || applied.is_source(&SourceKey::new(to.sources, from))
        };
        let leads_there = |tuple: &Tuple, flow: &Flow| {
            if tuple.zone.is_of_vtep() {
                return self.lets_in_from_elsewhere(tuple, flow);
            }
            let mut knocked = [tuple.dst, tuple.dst.any_of_family()]
                .map(|address| PublicationKey::new(address, tuple.protocol, tuple.dst_port));
            let to = knocked.iter_mut().find_map(|question| applied.publication(question));
            to.is_some_and(|to| {
                (to.zone, to.address) == (flow.becomes.zone, flow.becomes.dst) && lets_in(to, tuple.src)
            })
        };
        self.kernel.flows(&mut |tuple, flow| {
            let knocked = flow.direction == 0 && flow.becomes.zone != Zone::HOST && !flow.stays(tuple);
            if knocked && !leads_there(tuple, flow) {
                ending.push(*tuple);
            }
        })?;
        self.kernel.forget_flows(&ending)
    }

    /// Whether what came by another host is for a port that every host publishes, and its client one that may come.
    fn lets_in_from_elsewhere(&self, tuple: &Tuple, flow: &Flow) -> bool {
        let (to, from) = (flow.becomes.dst.ip(), tuple.src.ip());
        let Some((_, endpoint)) = self.endpoint_at(flow.becomes.zone.0, to) else { return false };
        endpoint.publications.iter().filter(|publication| publication.mesh).any(|publication| {
            let family = publication.family();
            let Some((network, attachment)) = self.model.way_out(endpoint, family) else { return false };
            let sources = lets_in(publication, network, &self.choices.from);
            let is_port = publication.pairs().any(|(_, port)| port == flow.becomes.dst_port.number());
            attachment.address(family) == Some(to)
                && publication.protocol.number() == tuple.protocol
                && is_port
                && (sources.is_empty() || sources.iter().any(|net| net.contains(&from)))
        })
    }

    /// Flows that are alive and that the filter lets through, by the tuple of their first packet.
    fn matching(&self, filter: &FlowFilter) -> Result<Vec<(Tuple, FlowView)>, Failure> {
        let (mut halves, mut answers) = (Vec::new(), BTreeMap::new());
        let now = self.kernel.flows(&mut |tuple, flow| {
            if flow.direction == 0 {
                halves.push((*tuple, *flow));
            } else {
                answers.insert(flow.becomes.reversed(flow.becomes.zone), (flow.last_seen, flow.deadline));
            }
        })?;
        // Each half knows of the other's packets now and then.
        for (tuple, flow) in &mut halves {
            if let Some((last_seen, deadline)) = answers.get(tuple) {
                flow.last_seen = flow.last_seen.max(*last_seen);
                flow.deadline = flow.deadline.max(*deadline);
            }
        }
        halves.retain(|(_, flow)| now <= flow.deadline);
        halves.sort_by_key(|(tuple, _)| *tuple);
        let views = halves.iter().map(|(tuple, flow)| (*tuple, self.flow_view(tuple, flow, now)));
        Ok(views.filter(|(_, view)| filter.lets_through(view)).collect())
    }

    fn flow_view(&self, tuple: &Tuple, flow: &Flow, now: Instant) -> FlowView {
        let source = (tuple.zone != Zone::HOST).then(|| self.endpoint_at(tuple.zone.0, tuple.src.ip())).flatten();
        let target = || self.endpoint_at(flow.becomes.zone.0, flow.becomes.dst.ip());
        let inside = source.or_else(target);
        FlowView {
            protocol: protocol_name(tuple.protocol),
            network: inside.map(|(network, _)| network.to_string()).or_else(|| self.network_of(flow)),
            container: inside.map(|(_, endpoint)| endpoint.name.to_string()).or_else(|| self.elsewhere(flow)),
            original: ends(tuple),
            translated: ends(&flow.becomes),
            state: state(tuple.protocol, flow.legs).to_owned(),
            age: now.seconds_since(flow.created),
            idle: now.seconds_since(flow.last_seen),
            timeout: flow.deadline.seconds_since(now),
        }
    }

    /// The network that a flow leads into.
    fn network_of(&self, flow: &Flow) -> Option<String> {
        let network = self.model.networks.values().find(|network| network.zone() == flow.becomes.zone)?;
        Some(network.name.to_string())
    }

    /// The container of another host that a flow leads to.
    fn elsewhere(&self, flow: &Flow) -> Option<String> {
        let network = self.network_of(flow)?;
        self.name_elsewhere(&network, flow.becomes.dst.ip())
    }
}

fn ends(tuple: &Tuple) -> FlowEnds {
    FlowEnds {
        src: SocketAddr::new(tuple.src.ip(), tuple.src_port.number()),
        dst: SocketAddr::new(tuple.dst.ip(), tuple.dst_port.number()),
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        SCTP => "sctp".to_owned(),
        ICMP | ICMPV6 => "icmp".to_owned(),
        other => other.to_string(),
    }
}

/// A flow's state by what its legs have shown, that of the first packet first.
fn state(protocol: u8, [first, second]: [u8; 2]) -> &'static str {
    let (either, both) = (first | second, first & second);
    if protocol != TCP {
        return if second & Leg::SEEN == 0 { "unreplied" } else { "replied" };
    }
    if either & Leg::RESET != 0 {
        return "reset";
    }
    if both & Leg::FIN != 0 {
        return "time_wait";
    }
    if either & Leg::FIN != 0 {
        return "closing";
    }
    if second & Leg::SEEN == 0 {
        return "syn_sent";
    }
    if first & Leg::ACKED == 0 { "syn_received" } else { "established" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: u8 = Leg::SEEN;
    const ACKED: u8 = Leg::ACKED;
    const FIN: u8 = Leg::FIN;
    const RESET: u8 = Leg::RESET;

    #[test]
    fn a_flow_has_the_state_that_its_legs_show() {
        let cases = [
            (UDP, [SEEN, 0], "unreplied"),
            (UDP, [SEEN, SEEN], "replied"),
            (ICMP, [SEEN, 0], "unreplied"),
            (TCP, [SEEN, 0], "syn_sent"),
            (TCP, [SEEN, SEEN | ACKED], "syn_received"),
            (TCP, [SEEN | ACKED, SEEN | ACKED], "established"),
            (TCP, [SEEN | ACKED | FIN, SEEN | ACKED], "closing"),
            (TCP, [SEEN | ACKED | FIN, SEEN | ACKED | FIN], "time_wait"),
            (TCP, [SEEN, SEEN | RESET], "reset"),
        ];
        for (protocol, legs, wanted) in cases {
            assert_eq!(state(protocol, legs), wanted, "{protocol} {legs:?}");
            FlowFilter::new([("state".to_owned(), wanted.to_owned())]).expect("a state to filter by");
        }
        let refused = FlowFilter::new([("state".to_owned(), "none".to_owned())]).unwrap_err().to_string();
        assert!(FlowFilter::STATES.iter().all(|state| refused.contains(state)), "{refused}");
    }
}
