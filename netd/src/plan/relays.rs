//! Which ports are relayed for processes of the host that no program can lead to the container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Choices, there};
use crate::{
    model::{self, Endpoint, Model, PortPublication, Protocol},
    reconcile::{Family, HostFacts, HostPort, RelayTarget, Relays},
};

/// The longest range of ports that is relayed: each port is a socket of the daemon's.
pub const LONGEST: u16 = 64;

/// The most ports that are relayed.
const MOST: usize = 1024;

/// The relayed ports: each published one, where a socket of the host that is bound to its loopback comes to; and beside those of
/// every address of one family the loopback's of the other, where the container has only one.
pub fn relays(model: &Model, facts: &HostFacts, choices: &Choices) -> Relays {
    let gateways = model.networks.values().flat_map(|network| &network.subnets).map(|subnet| subnet.gateway);
    let mut relays = Relays { own: facts.addresses.iter().copied().chain(gateways).collect(), ..Relays::default() };
    let open = model.endpoints.values().filter(|endpoint| !endpoint.publications.is_empty());
    let open: Vec<_> = open.filter(|endpoint| there(endpoint, facts).is_some()).collect();
    let ports = || open.iter().flat_map(|endpoint| endpoint.publications.iter().map(move |port| (endpoint, port)));
    for (endpoint, port) in ports() {
        add(&mut relays, (model, choices), endpoint, port, port.host_ip);
    }
    let long: Vec<_> = ports().map(|(_, port)| port).filter(|port| port.count > LONGEST).collect();
    for (endpoint, port) in ports().filter(|(_, port)| port.host_ip.is_unspecified()) {
        let (other, loopback) = across(port.family());
        let there = PortPublication { host_ip: loopback, ..port.clone() };
        let of_its_own = |host: u16| {
            [loopback, other.unspecified()].iter().any(|at| relays.ports.contains_key(&(*at, port.protocol, host)))
        };
        let taken = port.host_ports().any(of_its_own) || long.iter().any(|long| long.clash(&there).is_some());
        if model.way_out(endpoint, other).is_none() && !taken {
            add(&mut relays, (model, choices), endpoint, port, loopback);
        }
    }
    relays
}

/// The other family, and its loopback address.
fn across(family: Family) -> (Family, IpAddr) {
    match family {
        Family::V4 => (Family::V6, Ipv6Addr::LOCALHOST.into()),
        Family::V6 => (Family::V4, Ipv4Addr::LOCALHOST.into()),
    }
}

/// Relays a published port at this address.
fn add(
    relays: &mut Relays,
    (model, choices): (&Model, &Choices),
    endpoint: &Endpoint,
    port: &PortPublication,
    at: IpAddr,
) {
    // SCTP has no sockets on every kernel, and a container's own address is not the host's.
    if port.direct || port.protocol == Protocol::Sctp {
        return;
    }
    let Some((network, attachment)) = model.way_out(endpoint, port.family()) else { return };
    let Some(container) = attachment.address(port.family()) else { return };
    if port.count > LONGEST || relays.ports.len() + usize::from(port.count) > MOST {
        relays.left_out += usize::from(port.count);
        return;
    }
    let from = model::lets_in(port, network, &choices.from).to_vec();
    relays.ports.extend(port.pairs().map(|(outside, inside)| -> (HostPort, RelayTarget) {
        let target = RelayTarget { to: SocketAddr::new(container, inside), from: from.clone() };
        ((at, port.protocol, outside), target)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{a_network_of_both_families_and_an_endpoint, two_networks_and_an_endpoint};

    fn host(model: &Model) -> HostFacts {
        let sandboxes = model.endpoints.values().map(|endpoint| (endpoint.netns.clone(), endpoint.sandbox()));
        HostFacts {
            addresses: ["192.0.2.1".parse().unwrap()].into(),
            sandboxes: sandboxes.collect(),
            ..HostFacts::default()
        }
    }

    fn of(model: &Model) -> Relays {
        relays(model, &host(model), &Choices::default())
    }

    fn places(relays: &Relays) -> Vec<String> {
        relays.ports.iter().map(|((at, _, port), target)| format!("{at} {port} {}", target.to)).collect()
    }

    #[test]
    fn a_port_is_relayed_where_it_is_published_and_at_the_loopback_of_a_family_that_the_container_lacks() {
        let model = two_networks_and_an_endpoint();
        assert_eq!(places(&of(&model)), ["0.0.0.0 8080 10.176.0.2:80", "::1 8080 10.176.0.2:80"]);

        let both = a_network_of_both_families_and_an_endpoint("fd00:9::/64");
        assert!(of(&both).ports.keys().all(|(at, ..)| !at.is_loopback()), "a container of both families needs none");
    }

    #[test]
    fn a_port_of_one_address_is_relayed_there_alone() {
        let mut model = two_networks_and_an_endpoint();
        let endpoint = model.endpoints.values_mut().map(std::sync::Arc::make_mut).next().unwrap();
        endpoint.publications[0].host_ip = "192.0.2.1".parse().unwrap();

        assert_eq!(of(&model).ports.keys().map(|(at, ..)| at.to_string()).collect::<Vec<_>>(), ["192.0.2.1"]);
    }

    #[test]
    fn long_ranges_are_left_out_and_counted() {
        let mut model = two_networks_and_an_endpoint();
        let endpoint = model.endpoints.values_mut().map(std::sync::Arc::make_mut).next().unwrap();
        let range = PortPublication { host_port: 9000, count: 100, ..endpoint.publications[0].clone() };
        endpoint.publications.push(range);

        let relays = of(&model);

        assert_eq!((relays.ports.len(), relays.left_out), (2, 200));
    }

    #[test]
    fn only_clients_of_the_host_that_the_port_is_for_are_admitted() {
        let relays = Relays { own: ["192.0.2.1".parse().unwrap()].into(), ..Relays::default() };
        let open = RelayTarget { to: "10.0.0.2:80".parse().unwrap(), from: Vec::new() };
        let limited = RelayTarget { from: vec!["127.0.0.0/8".parse().unwrap()], ..open.clone() };
        let admits = |target, client: &str| relays.admits(target, client.parse().unwrap());

        assert!(["127.0.0.1", "::1", "192.0.2.1", "::ffff:127.0.0.1"].iter().all(|client| admits(&open, client)));
        assert!(!admits(&open, "192.0.2.2"));
        assert!(admits(&limited, "127.0.0.5") && !admits(&limited, "192.0.2.1") && !admits(&limited, "::1"));
    }
}
