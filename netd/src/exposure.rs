//! Who can reach what: every port that leads into a container, the addresses that clients come to, and who may come.
//!
//! Invariant: pure, and of one mind with the plan: what is not planned is not exposed. Containers of one network reach each
//! other besides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    firewall::Stop,
    model::{self, Endpoint, GatewayMode, Model, Network, PortPublication, Protocol},
    plan::there,
    reconcile::{Family, HostFacts},
};

/// A port, or `count` consecutive ones, that leads into a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exposure {
    /// The container.
    pub endpoint: String,
    /// The network by which it is reached.
    pub network: String,
    /// How that network's addresses of this family are known outside: its gateway mode.
    pub mode: String,
    /// Whether it was published; else the mode opens it.
    pub published: bool,
    /// Of the port.
    pub proto: Protocol,
    /// The first that clients come to.
    pub host_port: u16,
    /// The first in the container.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// What clients come to: addresses of the host, or the container's own.
    pub addresses: Vec<IpAddr>,
    /// Devices by which clients outside come; none for a port of the loopback, which the host alone reaches.
    pub uplinks: Vec<String>,
    /// Who may come: ranges of this family.
    pub from: Vec<IpNet>,
    /// What says so.
    pub from_by: SaidBy,
    /// What the host's own firewall would say of it, where it would deny the port; it is not asked.
    pub host_firewall: Option<String>,
    /// What of the host's own firewall stops it, where it is asked and nothing comes through.
    pub stopped: Option<Stop>,
}

/// What says who may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaidBy {
    /// `from=` of the port.
    Port,
    /// The network.
    Network,
    /// `[publish] from` of the configuration.
    Configuration,
    /// Nothing: everybody may.
    Nothing,
}

/// What exposure depends on.
pub struct Facts<'a> {
    /// What was asked for.
    pub model: &'a Model,
    /// What the host is.
    pub host: &'a HostFacts,
    /// Whom the configuration lets in.
    pub configured: &'a [IpNet],
    /// What of the host's firewall would deny a packet from outside to this port of an address, if anything would.
    pub denied_by: &'a dyn Fn(Protocol, IpAddr, u16) -> Option<String>,
    /// What of it stops a packet from outside that is forwarded to this port (0: any) of a container of a network.
    pub stopped_by: &'a dyn Fn(&Network, Protocol, IpAddr, u16) -> Option<Stop>,
}

/// Everything that is exposed, by endpoint: what it publishes in the order in which it did, then what is open without.
pub fn exposure(facts: &Facts<'_>) -> Vec<Exposure> {
    let endpoints = facts.model.endpoints.values().filter(|endpoint| there(endpoint, facts.host).is_some());
    endpoints.flat_map(|endpoint| published(facts, endpoint).chain(unprotected(facts, endpoint))).collect()
}

fn published<'a>(facts: &'a Facts<'_>, endpoint: &'a Endpoint) -> impl Iterator<Item = Exposure> {
    endpoint.publications.iter().filter_map(|port| exposed(facts, endpoint, port))
}

/// Every port of the container's own addresses in networks that protect none: whoever has a route there reaches it.
fn unprotected<'a>(facts: &'a Facts<'_>, endpoint: &'a Endpoint) -> impl Iterator<Item = Exposure> {
    let networks = endpoint.attachments.iter().filter_map(|at| Some((facts.model.networks.get(&at.network)?, at)));
    let addresses = networks.filter(|(network, _)| !network.internal).flat_map(|(network, at)| {
        let open = |family| network.subnet(family).is_some_and(|subnet| subnet.mode() == GatewayMode::NatUnprotected);
        at.addresses().filter(move |address| open(Family::of(*address))).map(move |address| (network, address))
    });
    addresses.flat_map(move |(network, address)| {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|proto| Exposure {
            endpoint: endpoint.name.to_string(),
            network: network.name.to_string(),
            mode: GatewayMode::NatUnprotected.name().to_owned(),
            published: false,
            proto,
            host_port: 1,
            port: 1,
            count: u16::MAX,
            addresses: vec![address],
            uplinks: facts.host.uplinks.keys().map(ToString::to_string).collect(),
            from: Vec::new(),
            from_by: SaidBy::Nothing,
            host_firewall: None,
            stopped: (facts.stopped_by)(network, proto, address, 0),
        })
    })
}

fn exposed(facts: &Facts<'_>, endpoint: &Endpoint, port: &PortPublication) -> Option<Exposure> {
    let family = port.family();
    let (network, at) = facts.model.way_out(endpoint, family)?;
    let from = model::lets_in(port, network, facts.configured).iter().copied();
    let on_wire = !port.host_ip.is_loopback();
    let addresses = addresses(facts.host, port);
    let denied_by = |address: &IpAddr| (facts.denied_by)(port.protocol, *address, port.host_port);
    let inside = at.addresses().filter(|address| on_wire && Family::of(*address) == family);
    let stopped = inside.map(|address| (facts.stopped_by)(network, port.protocol, address, port.port)).next().flatten();
    Some(Exposure {
        endpoint: endpoint.name.to_string(),
        network: network.name.to_string(),
        mode: mode(network, family).to_owned(),
        published: true,
        proto: port.protocol,
        host_port: port.host_port,
        port: port.port,
        count: port.count,
        uplinks: facts.host.uplinks.keys().filter(|_| on_wire).map(ToString::to_string).collect(),
        from: from.filter(|net| Family::of(net.addr()) == family).collect(),
        from_by: said_by(port, network, facts.configured),
        host_firewall: addresses.iter().filter(|_| on_wire).find_map(denied_by),
        stopped,
        addresses,
    })
}

/// What clients come to: an address, or each of a family.
fn addresses(host: &HostFacts, port: &PortPublication) -> Vec<IpAddr> {
    if !port.host_ip.is_unspecified() {
        return vec![port.host_ip];
    }
    let loopback: IpAddr = match port.family() {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let of_family = host.addresses.iter().copied().filter(|address| Family::of(*address) == port.family());
    of_family.chain([loopback]).collect()
}

fn said_by(port: &PortPublication, network: &Network, configured: &[IpNet]) -> SaidBy {
    let says = [(!port.from.is_empty(), SaidBy::Port), (!network.from.is_empty(), SaidBy::Network)];
    let configured = (!configured.is_empty(), SaidBy::Configuration);
    says.into_iter().chain([configured]).find(|(says, _)| *says).map_or(SaidBy::Nothing, |(_, by)| by)
}

fn mode(network: &Network, family: Family) -> &'static str {
    network.subnet(family).map_or(GatewayMode::Nat, model::Subnet::mode).name()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::tests::two_networks_and_an_endpoint,
        reconcile::{LinkName, Uplink},
    };

    fn host(model: &Model) -> HostFacts {
        let uplink =
            Uplink { mtu: 1500, path_mtu: 1500, addresses: Vec::new(), was_no_router: [].into(), layer3: false };
        let sandboxes = model.endpoints.values().map(|endpoint| (endpoint.netns.clone(), endpoint.sandbox()));
        HostFacts {
            uplinks: [(LinkName::new("eth0").unwrap(), uplink)].into(),
            addresses: ["192.0.2.1", "198.51.100.1", "2001:db8::1"].map(|address| address.parse().unwrap()).into(),
            sandboxes: sandboxes.collect(),
            ..HostFacts::default()
        }
    }

    fn addresses(of: &Exposure) -> Vec<String> {
        of.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_port_is_exposed_at_each_address_of_its_family_to_whom_it_is_for() {
        let mut model = two_networks_and_an_endpoint();
        let host = host(&model);
        let configured = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let denied_by = |protocol, address: IpAddr, port| {
            (protocol == Protocol::Tcp && address.to_string() == "198.51.100.1" && port == 8080)
                .then(|| "policy".to_owned())
        };
        let stop = Stop { by: "reject".to_owned(), remedy: "accept".to_owned(), firewalld: false };
        let stopped_by =
            |_: &Network, protocol, _, port| (protocol == Protocol::Tcp && port == 80).then(|| stop.clone());
        let of = |model: &Model, configured: &[IpNet]| {
            exposure(&Facts { model, host: &host, configured, denied_by: &denied_by, stopped_by: &stopped_by })
                .remove(0)
        };

        let open = of(&model, &[]);
        assert_eq!((open.endpoint.as_str(), open.host_port, open.port, open.count), ("c1", 8080, 80, 1));
        assert_eq!(addresses(&open), ["192.0.2.1", "198.51.100.1", "127.0.0.1"]);
        assert_eq!((open.mode.as_str(), open.uplinks, open.from.len()), ("nat", vec!["eth0".to_owned()], 0));
        assert_eq!((open.from_by, open.host_firewall.as_deref()), (SaidBy::Nothing, Some("policy")));
        assert_eq!(open.stopped, Some(stop.clone()), "by the container's own port");

        let limited = of(&model, &configured);
        assert_eq!((limited.from_by, limited.from), (SaidBy::Configuration, vec![configured[0]]), "of its family");

        let endpoint = model.endpoint_mut(&"c1".parse().unwrap()).unwrap();
        endpoint.publications[0].host_ip = Ipv4Addr::LOCALHOST.into();
        let local = of(&model, &[]);
        assert_eq!((addresses(&local), local.uplinks.len(), local.host_firewall), (vec!["127.0.0.1".into()], 0, None));
        assert_eq!(local.stopped, None, "nothing comes from outside");
    }

    #[test]
    fn a_network_that_protects_nothing_exposes_every_port_of_its_containers() {
        let mut model = two_networks_and_an_endpoint();
        let host = host(&model);
        model
            .networks
            .values_mut()
            .for_each(|network| network.subnets[0].gateway_mode = Some(GatewayMode::NatUnprotected));
        let all = exposure(&Facts {
            model: &model,
            host: &host,
            configured: &[],
            denied_by: &|_, _, _| None,
            stopped_by: &|_, _, _, _| None,
        });

        let open: Vec<_> = all.iter().filter(|one| !one.published).collect();
        let leads_out = |at: &&model::Attachment| !model.networks[&at.network].internal;
        let places = model.endpoints.values().flat_map(|endpoint| &endpoint.attachments).filter(leads_out).count();
        assert!(places > 0);
        assert_eq!(open.len(), 3 * places, "of each protocol, at each address");
        assert!(
            open.iter().all(|one| (one.host_port, one.count, one.mode.as_str()) == (1, u16::MAX, "nat-unprotected"))
        );
    }

    #[test]
    fn what_is_gone_or_has_no_way_out_exposes_nothing() {
        let mut model = two_networks_and_an_endpoint();
        let host = host(&model);
        let count = |model: &Model, host: &HostFacts| {
            exposure(&Facts {
                model,
                host,
                configured: &[],
                denied_by: &|_, _, _| None,
                stopped_by: &|_, _, _, _| None,
            })
            .len()
        };

        assert_eq!(count(&model, &host), 1);
        assert_eq!(count(&model, &HostFacts { sandboxes: Default::default(), ..host.clone() }), 0);
        model.networks.values_mut().for_each(|network| network.internal = true);
        assert_eq!(count(&model, &host), 0);
    }
}
