//! Closing published ports: what each of many specifications names is looked up, not looked for.

use std::collections::{BTreeMap, BTreeSet};

use super::{Model, Name, PortPublication, PortSpec, Protocol, Rejection};

/// Closes the ports that specifications name, one after the other and in every family: what one leaves out matches anything. Of
/// several ports of the host that lead to one of the container, the first.
pub fn unpublish(model: &mut Model, name: &Name, specs: &[PortSpec]) -> Result<(), Rejection> {
    let endpoint = model.endpoint_mut(name)?;
    let mut open = Open::of(&endpoint.publications);
    for spec in specs {
        spec.supported()?;
        if !open.close(spec) {
            return Err(Rejection::NotPublished { endpoint: name.clone(), spec: spec.text.clone() });
        }
    }
    let left = open.left();
    endpoint.publications = left.into_iter().map(|number| endpoint.publications[number].clone()).collect();
    Ok(())
}

/// What is still open, by the container's ports that it leads to: the first, how many, of which protocol.
struct Open<'a> {
    all: &'a [PortPublication],
    leading: BTreeMap<(u16, u16, Protocol), Leading>,
}

/// Numbers of publications that lead to the same ports of the container.
#[derive(Default)]
struct Leading {
    /// From ports of the host, by the first of them.
    of_host: BTreeMap<u16, BTreeSet<usize>>,
    /// The container's own address.
    direct: BTreeSet<usize>,
}

impl<'a> Open<'a> {
    fn of(all: &'a [PortPublication]) -> Self {
        let mut leading: BTreeMap<_, Leading> = BTreeMap::new();
        for (number, one) in all.iter().enumerate() {
            let there = leading.entry((one.port, one.count, one.protocol)).or_default();
            let place = if one.direct { &mut there.direct } else { there.of_host.entry(one.host_port).or_default() };
            place.insert(number);
        }
        Self { all, leading }
    }

    /// Closes what a specification names; whether there was something.
    fn close(&mut self, spec: &PortSpec) -> bool {
        let Some(leading) = self.leading.get_mut(&(spec.port, spec.count, spec.protocol)) else { return false };
        let is_named = |number: &usize| {
            let one = &self.all[*number];
            spec.host_ip.is_none_or(|ip| one.host_ip == ip) && (spec.from.is_empty() || one.from == spec.from)
        };
        let first_of = |(port, numbers): (&u16, &BTreeSet<usize>)| {
            let is_among = spec.among.is_none_or(|(first, last)| (first..=last).contains(port));
            Some((*numbers.iter().find(|number| is_among && is_named(number))?, *port))
        };
        let (least, most) = spec.host_port.map_or((0, u16::MAX), |port| (port, port));
        let first = leading.of_host.range(least..=most).filter_map(first_of).min();
        if first.is_none() && !leading.direct.iter().any(is_named) {
            return false;
        }
        if let Some((_, port)) = first
            && let Some(numbers) = leading.of_host.get_mut(&port)
        {
            numbers.retain(|number| !is_named(number));
            if numbers.is_empty() {
                leading.of_host.remove(&port);
            }
        }
        // The container's own address stays open for as long as a port of the host leads there too.
        if leading.of_host.is_empty() {
            leading.direct.retain(|number| !is_named(number));
        }
        true
    }

    fn left(self) -> BTreeSet<usize> {
        let numbers =
            |leading: Leading| leading.of_host.into_values().flatten().chain(leading.direct).collect::<Vec<_>>();
        self.leading.into_values().flat_map(numbers).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::IpNet;
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::model::tests::two_networks_and_an_endpoint;

    /// Few of everything, so that much of it is alike.
    fn publications() -> impl Strategy<Value = PortPublication> {
        let ports = (0..3_u8, any::<bool>(), 1..4_u16, 1..3_u16, 1..3_u16, any::<bool>(), any::<bool>());
        ports.prop_map(|(ip, direct, host_port, port, count, udp, mine)| PortPublication {
            host_ip: Ipv4Addr::from([0, 0, 0, ip]).into(),
            direct,
            host_port: if direct { port } else { host_port },
            port,
            count,
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            from: from(mine),
            mesh: false,
        })
    }

    fn specs() -> impl Strategy<Value = PortSpec> {
        let ports = (option::of(0..3_u8), option::of(1..4_u16), option::of((1..3_u16, 2..4_u16)), 1..3_u16, 1..3_u16);
        (ports, any::<bool>(), any::<bool>()).prop_map(|((ip, host_port, among, port, count), udp, mine)| PortSpec {
            text: "what was written".into(),
            host_ip: ip.map(|ip| Ipv4Addr::from([0, 0, 0, ip]).into()),
            host_port,
            among: among.filter(|_| host_port.is_none()),
            port,
            count,
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            from: from(mine),
        })
    }

    fn from(mine: bool) -> Vec<IpNet> {
        if mine { vec!["198.51.100.0/24".parse().unwrap()] } else { Vec::new() }
    }

    /// What one specification leaves, looked for among all; `None` where it names nothing.
    fn left_by(open: &[PortPublication], spec: &PortSpec) -> Option<Vec<PortPublication>> {
        let same_ports = |p: &PortPublication| (p.port, p.count, p.protocol) == (spec.port, spec.count, spec.protocol);
        let named = |p: &&PortPublication| {
            let of_host = spec.host_port.is_none_or(|port| p.host_port == port)
                && spec.among.is_none_or(|(first, last)| (first..=last).contains(&p.host_port));
            let open_to = spec.from.is_empty() || p.from == spec.from;
            same_ports(p) && spec.host_ip.is_none_or(|ip| p.host_ip == ip) && (p.direct || of_host) && open_to
        };
        let first = open.iter().find(|p| !p.direct && named(p));
        if first.is_none() && !open.iter().any(|p| named(&p)) {
            return None;
        }
        let closed = |p: &PortPublication| !p.direct && named(&p) && Some(p.host_port) == first.map(|p| p.host_port);
        let left: Vec<_> = open.iter().filter(|p| !closed(p)).cloned().collect();
        let leads_there = left.iter().any(|p| !p.direct && same_ports(p));
        Some(left.into_iter().filter(|p| leads_there || !(p.direct && named(&p))).collect())
    }

    proptest! {
        #[test]
        fn many_specifications_at_once_close_what_they_close_one_after_the_other(
            open in vec(publications(), 0..12),
            specs in vec(specs(), 1..6),
        ) {
            let name: Name = "c1".parse().unwrap();
            let mut model = two_networks_and_an_endpoint();
            model.endpoint_mut(&name).unwrap().publications = open.clone();
            let before = model.clone();

            let closed = unpublish(&mut model, &name, &specs);

            match specs.iter().try_fold(open, |open, spec| left_by(&open, spec)) {
                Some(left) => {
                    prop_assert!(closed.is_ok());
                    prop_assert_eq!(&model.endpoints[&name].publications, &left);
                }
                None => {
                    let is_refused = matches!(closed, Err(Rejection::NotPublished { .. }));
                    prop_assert!(is_refused);
                    prop_assert_eq!(model, before);
                }
            }
        }
    }
}
