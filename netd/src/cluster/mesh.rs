//! Ports that every node publishes: what a node tells of its own, and what it makes of the others'.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netd_common::tuple::Zone;

use super::{Announcement, Key, MeshPort, Record, View, Way, remotes};
use crate::{
    model::{Driver, Endpoint, Model, Name, PortPublication, RemotePort},
    reconcile::Family,
};

/// A port that another node's endpoint has on every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// The node.
    pub node: Name,
    /// The endpoint.
    pub endpoint: Name,
    /// The port.
    pub port: RemotePort,
}

/// What an endpoint of this host has on every node.
pub fn mesh_ports(model: &Model, endpoint: &Endpoint) -> Vec<MeshPort> {
    let port = |publication: &PortPublication| {
        let (network, attachment) = model.way_out(endpoint, publication.family())?;
        let spans = matches!(network.driver, Driver::Overlay(_));
        let address = attachment.address(publication.family()).filter(|_| spans)?;
        Some(MeshPort {
            network_id: network.id.clone(),
            address,
            node_port: publication.host_port,
            port: publication.port,
            count: publication.count,
            protocol: publication.protocol,
            from: if publication.from.is_empty() { network.from.clone() } else { publication.from.clone() },
        })
    };
    endpoint.publications.iter().filter(|publication| publication.mesh).filter_map(port).collect()
}

/// What the endpoints of other nodes have on every node, each port once: of two that chose one port at the same time, before
/// either could hear of the other, the first by the names of their nodes has it.
pub fn taken(view: &View, me: &Name) -> Vec<Taken> {
    let mut taken = Vec::<Taken>::new();
    for (node, _, endpoint) in view.endpoints().filter(|(node, ..)| *node != me) {
        for port in &endpoint.mesh {
            let Some(vni) = vni(view, port) else { continue };
            let is_held = match view.record(&Key::Claim(port.network_id.clone(), port.address)) {
                Some(Record::Claim(claim)) => claim.node == *node && claim.endpoint == endpoint.name,
                _ => false,
            };
            let publication = publication(port);
            let is_free = !taken.iter().any(|other| other.port.publication.clash(&publication).is_some());
            if is_held && is_free && is_sound(port) {
                let port = RemotePort { vni, address: port.address, publication };
                taken.push(Taken { node: node.clone(), endpoint: endpoint.name.clone(), port });
            }
        }
    }
    taken
}

/// Who of the other nodes has a port already that an endpoint of `me`'s is to have on every node: the port, and whose it is.
pub fn rival(view: &View, me: &Name, endpoint: &Announcement) -> Option<(u16, Taken)> {
    let wishes: Vec<PortPublication> = endpoint.mesh.iter().map(publication).collect();
    taken(view, me).into_iter().find_map(|taken| {
        let port = wishes.iter().find_map(|wish| taken.port.publication.clash(wish))?;
        Some((port, taken))
    })
}

/// The other ends of what a node publishes for others: their containers, and the hosts to which answers go back, of those that are
/// one to it the first.
pub fn ends(view: &View, me: &Name) -> (Vec<Way>, BTreeSet<IpAddr>) {
    let remotes = remotes(view, me);
    let place = |taken: &Taken| (taken.port.vni, taken.port.address);
    let places: BTreeSet<(u32, IpAddr)> = taken(view, me).iter().map(place).collect();
    let way = |place: &(u32, IpAddr)| {
        let remote = remotes.get(place)?;
        Some(Way { vni: place.0, address: place.1, mac: remote.mac, vtep: remote.vtep })
    };
    let mut hosts = BTreeMap::new();
    for (_, vtep) in others(view, me) {
        hosts.entry(Zone::of_vtep(vtep.into())).or_insert(vtep);
    }
    let hosts = if view.networks().next().is_some() { hosts.into_values().collect() } else { BTreeSet::new() };
    (places.iter().filter_map(way).collect(), hosts)
}

/// Other nodes that are one to ports of the mesh, one line for each two: what knocks at one is answered by the way to the first.
pub fn alike(view: &View, me: &Name) -> Vec<String> {
    let mut first = BTreeMap::new();
    let mut lines = Vec::new();
    for (name, vtep) in others(view, me) {
        if let Some((other, theirs)) = first.get(&Zone::of_vtep(vtep.into())) {
            lines.push(format!(
                "nodes {other} and {name} are one to ports of the mesh by their VTEPs {theirs} and {vtep}: clients of the second are not \
                 answered by containers of this host; give it another VTEP"
            ));
        } else {
            first.insert(Zone::of_vtep(vtep.into()), (name, vtep));
        }
    }
    lines
}

/// Other nodes by their VTEPs.
fn others<'a>(view: &'a View, me: &Name) -> Vec<(&'a Name, IpAddr)> {
    let mut others: Vec<_> =
        view.nodes().filter(|(name, _)| *name != me).map(|(name, node)| (name, node.vtep)).collect();
    others.sort_by_key(|(_, vtep)| *vtep);
    others
}

fn vni(view: &View, port: &MeshPort) -> Option<u32> {
    view.networks().find(|(_, network)| network.id == port.network_id).map(|(_, network)| network.vni)
}

/// Whether the ports are ports: another version may have written them.
fn is_sound(port: &MeshPort) -> bool {
    let fits = |first: u16| first > 0 && u32::from(first) + u32::from(port.count) <= 1 << 16;
    port.count > 0 && fits(port.node_port) && fits(port.port)
}

fn publication(port: &MeshPort) -> PortPublication {
    let host_ip: IpAddr = Family::of(port.address).unspecified();
    PortPublication {
        host_ip,
        direct: false,
        host_port: port.node_port,
        port: port.port,
        count: port.count,
        protocol: port.protocol,
        from: port.from.clone(),
        mesh: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{Claim, Entry, Event, Node, SharedNetwork, SharedSubnet},
        model::Protocol,
    };

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn put(key: Key, record: Record) -> Event {
        Event::Put(key, Entry { record, revision: 1, lease: 0 })
    }

    fn network() -> SharedNetwork {
        let subnet = SharedSubnet {
            subnet: "10.9.0.0/24".parse().unwrap(),
            gateway: "10.9.0.1".parse().unwrap(),
            ip_range: None,
            gateway_mode: None,
            aux_addresses: Default::default(),
        };
        let json = serde_json::json!({
            "id": "0123456789ab", "vni": 7, "subnets": [subnet], "internal": false, "created": 0
        });
        serde_json::from_value(json).unwrap()
    }

    /// A node with an endpoint `web` at 10.9.0.LAST, which has these ports on every node.
    fn node(node: &str, last: u8, ports: &[(u16, u16)]) -> Vec<Event> {
        let address = IpAddr::from([10, 9, 0, last]);
        let port = |(node_port, count): &(u16, u16)| MeshPort {
            network_id: "0123456789ab".to_owned(),
            address,
            node_port: *node_port,
            port: 80,
            count: *count,
            protocol: Protocol::Tcp,
            from: Vec::new(),
        };
        let endpoint = Announcement {
            incarnation: 1,
            name: name("web"),
            places: Vec::new(),
            networks: Default::default(),
            ports: Vec::new(),
            mesh: ports.iter().map(port).collect(),
            created: 0,
        };
        let vtep = IpAddr::from([192, 0, 2, last]);
        let version = String::new();
        let there = Node {
            incarnation: 1,
            host: node.to_owned(),
            vtep,
            vxlan_port: 4789,
            encrypted_port: 4790,
            version,
            understands: Default::default(),
        };
        let claim = Claim { node: name(node), endpoint: name("web") };
        vec![
            put(Key::Node(name(node)), Record::Node(there)),
            put(Key::Endpoint(name(node), "e".to_owned()), Record::Endpoint(Box::new(endpoint))),
            put(Key::Claim("0123456789ab".to_owned(), address), Record::Claim(claim)),
        ]
    }

    fn view(events: impl IntoIterator<Item = Vec<Event>>) -> View {
        let network = put(Key::Network(name("blue")), Record::Network(Box::new(network())));
        View::read(1, events.into_iter().flatten().chain([network]))
    }

    fn told(view: &View) -> Vec<(String, u16)> {
        let ports = taken(view, &name("me"));
        ports.iter().map(|taken| (taken.node.to_string(), taken.port.publication.host_port)).collect()
    }

    #[test]
    fn a_port_is_one_nodes_and_that_of_who_asks_is_not_another_s() {
        let of = |node: &str, port: u16| (node.to_owned(), port);
        let all = [node("b", 2, &[(8080, 1), (9000, 10)]), node("a", 1, &[(8080, 1)]), node("me", 3, &[(7000, 1)])];

        assert_eq!(told(&view(all.clone())), [of("a", 8080), of("b", 9000)]);
        let a_port_of_a_range = [node("b", 2, &[(9000, 10)]), node("c", 4, &[(9009, 1)])];
        assert_eq!(told(&view(a_port_of_a_range)), [of("b", 9000)]);
    }

    #[test]
    fn of_two_that_take_a_port_by_one_view_one_does_and_the_other_hears_whose_it_is() {
        use crate::cluster::{Compare, Range, publish};

        let seen = view([node("a", 1, &[]), node("b", 2, &[])]);
        let wish = |of: &str| match node(of, 1, &[(8080, 1)]).remove(1) {
            Event::Put(_, Entry { record: Record::Endpoint(endpoint), .. }) => *endpoint,
            other => panic!("{other:?}"),
        };
        assert_eq!(rival(&seen, &name("b"), &wish("b")), None);
        let fence = Compare::Unchanged(Key::Incarnation(name("b")), 1);
        let txn = publish(fence, Key::Endpoint(name("b"), "e".into()), &wish("b"), seen.revision);
        assert!(txn.when.contains(&Compare::NothingNewer(Range::endpoints(), seen.revision)));

        let later = view([node("a", 1, &[(8080, 1)]), node("b", 2, &[])]);
        let (port, taken) = rival(&later, &name("b"), &wish("b")).unwrap();
        assert_eq!((port, taken.node, taken.endpoint), (8080, name("a"), name("web")));
        assert_eq!(rival(&later, &name("a"), &wish("a")), None, "its own");
    }

    #[test]
    fn nodes_that_are_one_to_the_mesh_are_named_and_the_first_has_the_answers() {
        // 15 bits up, the same bit twice.
        let at = |name_of: &str, vtep: [u8; 4]| {
            let version = String::new();
            let node = Node {
                incarnation: 1,
                host: name_of.to_owned(),
                vtep: vtep.into(),
                vxlan_port: 4789,
                encrypted_port: 4790,
                version,
                understands: Default::default(),
            };
            vec![put(Key::Node(name(name_of)), Record::Node(node))]
        };
        let first = [10, 0, 0, 1];
        let zone = |vtep: [u8; 4]| Zone::of_vtep(IpAddr::from(vtep).into());
        let twin = (0..=u16::MAX)
            .map(|low| [10, 1, (low >> 8) as u8, low as u8])
            .find(|vtep| zone(*vtep) == zone(first))
            .unwrap();
        let view = view([at("b", twin), at("c", first), at("d", [10, 0, 0, 2]), at("me", [10, 0, 0, 3])]);

        let lines = alike(&view, &name("me"));

        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("nodes c and b are one"), "{lines:?}");
        let hosts: BTreeSet<IpAddr> = [first.into(), [10, 0, 0, 2].into()].into();
        assert_eq!(ends(&view, &name("me")).1, hosts);
    }

    #[test]
    fn what_a_node_has_of_the_mesh_otherwise_is_said_and_what_hides_it_is_not() {
        use crate::cluster::{Answer, MeshAnswer, Missing, segments::segments, verified};

        let mut view = view([node("a", 1, &[(8080, 1)]), node("b", 2, &[])]);
        let place = crate::cluster::Place {
            network: name("blue"),
            network_id: "0123456789ab".to_owned(),
            addresses: vec![[10, 9, 0, 1].into()],
            mac: netd_common::tuple::Mac([2, 0, 0, 0, 0, 1]),
            aliases: Vec::new(),
        };
        for entry in view.entries.values_mut() {
            if let Record::Endpoint(endpoint) = &mut entry.record
                && !endpoint.mesh.is_empty()
            {
                endpoint.places.push(place.clone());
            }
        }
        let said = |node: &Name, mesh: MeshAnswer| {
            let ways = crate::cluster::forwarding(&remotes(&view, node));
            (
                node.clone(),
                Answer { ways, mesh: Some(mesh), segments: Some(segments(&view, node)), ..Answer::default() },
            )
        };
        let right = |node: &Name| {
            let (ways, hosts) = ends(&view, node);
            MeshAnswer { ways, hosts, hidden: BTreeSet::new() }
        };
        let [a, b] = ["a", "b"].map(name);
        let told = |mesh: MeshAnswer| {
            let answers = [said(&a, right(&a)), said(&b, mesh)].into();
            verified(&view, &a, &Missing::default(), &answers).differences
        };

        assert_eq!(right(&b).ways.len(), 1, "b publishes what is on a");
        assert_eq!(told(right(&b)), Vec::<String>::new());
        let lacks = told(MeshAnswer { ways: Vec::new(), ..right(&b) });
        assert!(
            lacks.len() == 1 && lacks[0].starts_with("node b: lacks the way of published ports to 10.9.0.1"),
            "{lacks:?}"
        );
        let hidden = [(7, [10, 9, 0, 1].into())].into();
        assert_eq!(told(MeshAnswer { ways: Vec::new(), hidden, ..right(&b) }), Vec::<String>::new(), "its own has it");
        let back = told(MeshAnswer { hosts: [[192, 0, 2, 9].into()].into(), ..right(&b) });
        assert_eq!(back.len(), 2, "{back:?}");
    }

    #[test]
    fn what_has_no_claim_no_network_or_no_sense_is_nobodys() {
        let mut unclaimed = node("a", 1, &[(8080, 1)]);
        unclaimed.pop();

        assert_eq!(told(&view([unclaimed])), []);
        assert_eq!(told(&View::read(1, node("a", 1, &[(8080, 1)]))), []);
        for nonsense in [(0, 1), (8080, 0), (65_535, 2)] {
            assert_eq!(told(&view([node("a", 1, &[nonsense])])), [], "{nonsense:?}");
        }
    }
}
