//! What is accepted, what is chosen, and every refusal with its line.

mod attaching;
mod names;
mod networks;
mod ports;
mod renumbering;

use std::collections::BTreeSet;

use netd_common::tuple::Mac;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    ipam::Pools,
    reconcile::{HostFacts, Sandbox, Uplink, Use},
};

/// A model with the networks `front` and `back` (internal), and the endpoint `c1` in both, port 8080 published.
pub fn two_networks_and_an_endpoint() -> Model {
    let mut model = Model::default();
    let mut rng = StdRng::seed_from_u64(1);
    create(&mut model, NetworkOrder { name: "front".into(), ..Default::default() }).unwrap();
    create(&mut model, NetworkOrder { name: "back".into(), internal: true, ..Default::default() }).unwrap();
    attach(&mut model, order("c1", &["back", "front"]), 1_700_000_000, &mut rng).unwrap();
    open(&mut model, "c1", &["8080:80"]).unwrap();
    model
}

/// A model with the network `dual` of both families, and the endpoint `c1` in it, port 8080 published.
pub fn a_network_of_both_families_and_an_endpoint(ipv6: &str) -> Model {
    let mut model = Model::default();
    let subnets = vec!["10.1.0.0/24".to_owned(), ipv6.to_owned()];
    create(&mut model, NetworkOrder { name: "dual".into(), subnets, ..Default::default() }).unwrap();
    attach(&mut model, order("c1", &["dual"]), 0, &mut StdRng::seed_from_u64(1)).unwrap();
    open(&mut model, "c1", &["8080:80"]).unwrap();
    model
}

/// Publishes ports whose number on the host is given.
fn open(model: &mut Model, name: &str, ports: &[&str]) -> Result<(), Rejection> {
    let name: Name = name.parse().unwrap();
    for text in ports {
        let spec: PortSpec = text.parse().unwrap();
        let at = |place: Place| publication(&spec, place);
        let wishes: Vec<_> = places(model, &name, &spec, &[])?.into_iter().map(at).collect();
        publish(model, &name, &wishes)?;
    }
    Ok(())
}

fn publication(spec: &PortSpec, place: Place) -> PortPublication {
    PortPublication {
        host_ip: place.address,
        direct: place.direct,
        host_port: if place.direct { spec.port } else { spec.host_port.unwrap() },
        port: spec.port,
        count: spec.count,
        protocol: spec.protocol,
        from: spec.from.clone(),
        mesh: false,
    }
}

/// A checked wish for an endpoint in `/run/netns/NAME`.
pub fn order(name: &str, networks: &[&str]) -> AttachOrder {
    AttachOrder {
        labels: BTreeMap::new(),
        mode: Mode::Own,
        name: name.parse().unwrap(),
        sandbox: Sandbox { path: format!("/run/netns/{name}").into(), inode: 7 },
        netns_made: false,
        process: None,
        command: Vec::new(),
        dns: Vec::new(),
        joining: Joining {
            specs: networks.iter().map(|text| text.parse().unwrap()).collect(),
            interfaces: BTreeSet::from([LinkName::new("lo").unwrap()]),
            elsewhere: BTreeMap::new(),
        },
    }
}

pub fn create(model: &mut Model, order: NetworkOrder) -> Result<Name, Rejection> {
    let facts = HostFacts {
        uses: [
            ("10.176.1.0/24".parse().unwrap(), by("tun0")),
            ("0.0.0.0/1".parse().unwrap(), by("tun0")),
            ("192.0.2.0/24".parse().unwrap(), by("eth0")),
            ("10.176.5.53/32".parse().unwrap(), Use::Resolver),
            ("10.7.0.0/24".parse().unwrap(), Use::Rule),
        ]
        .into(),
        ..Default::default()
    };
    let pools = pools();
    let on = Surroundings { facts: &facts, pools: &pools, segment: None, elsewhere: &[], absent: &[] };
    create_network(model, &order, on, 1_700_000_000, &mut StdRng::seed_from_u64(model.networks.len() as u64))
}

/// As a cluster gives it.
fn segment() -> Segment {
    Segment { vni: 4096, port: VXLAN_PORT, underlay: Family::V4, encrypted: false, peers: BTreeSet::new() }
}

fn by(device: &str) -> Use {
    Use::Route { device: device.to_owned() }
}

fn pools() -> Pools {
    Pools::automatic("fd12:3456:789a::/48".parse().unwrap())
}

/// A network that joins hosts by hand.
pub fn vxlan(vni: u32, peers: &[&str]) -> NetworkOrder {
    let peers = peers.iter().map(|peer| (*peer).to_owned()).collect();
    NetworkOrder { driver: Some("vxlan".into()), vni: Some(vni), peers, ..network("spanning", "10.9.0.0/24") }
}

fn network(name: &str, subnet: &str) -> NetworkOrder {
    NetworkOrder { name: name.into(), subnets: vec![subnet.into()], ..Default::default() }
}

fn join(model: &mut Model, name: &str, networks: &[&str]) -> Result<Vec<String>, Rejection> {
    attach(model, order(name, networks), 0, &mut StdRng::seed_from_u64(name.len() as u64 * 7919))?;
    let endpoint = model.endpoint(&name.parse().unwrap()).unwrap();
    Ok(endpoint.attachments.iter().flat_map(Attachment::addresses).map(|address| address.to_string()).collect())
}
