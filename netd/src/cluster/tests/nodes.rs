//! Three nodes that start, stop, attach and read when chance will have it.

use std::{collections::BTreeMap, net::IpAddr};

use netd_common::tuple::Mac;
use proptest::prelude::*;

use super::store::Store;
use crate::{
    cluster::{Announcement, Claim, Key, Node, Own, Place, SharedNetwork, SharedSubnet, View, claim, create, missing},
    model::Name,
};

/// Id of the network `blue`, which is there from the first.
pub const NETWORK: &str = "aaaaaaaaaaaa";

/// What a node does.
#[derive(Clone, Debug)]
pub enum Deed {
    /// It starts, or starts anew: what it has is as before.
    Start(usize),
    /// Its lease ends without its knowing.
    Expire(usize),
    /// It reads everything.
    Read(usize),
    /// It writes what it has not said, by what it last read.
    Write(usize),
    /// The same, but stops in the middle.
    WriteSome(usize, usize),
    /// It gives an endpoint an address, by what it last read.
    Attach(usize, u8),
    /// It takes an endpoint away.
    Detach(usize, u8),
}

/// Any deed.
pub fn deed() -> impl Strategy<Value = Deed> {
    let node = || 0usize..3;
    prop_oneof![
        1 => node().prop_map(Deed::Start),
        1 => node().prop_map(Deed::Expire),
        3 => node().prop_map(Deed::Read),
        2 => node().prop_map(Deed::Write),
        2 => (node(), 0usize..4).prop_map(|(node, count)| Deed::WriteSome(node, count)),
        4 => (node(), 2u8..6).prop_map(|(node, host)| Deed::Attach(node, host)),
        2 => (node(), 2u8..6).prop_map(|(node, host)| Deed::Detach(node, host)),
    ]
}

/// One node.
pub struct Host {
    name: Name,
    /// Where its tunnels end.
    pub vtep: IpAddr,
    incarnation: i64,
    lease: i64,
    view: View,
    endpoints: BTreeMap<String, Announcement>,
}

impl Host {
    /// What it has to say, if it has started.
    pub fn own(&self) -> Option<Own> {
        let node = Node {
            incarnation: self.incarnation,
            host: self.name.to_string(),
            vtep: self.vtep,
            vxlan_port: 4789,
            encrypted_port: 4790,
            version: String::new(),
            understands: Default::default(),
        };
        let (name, endpoints) = (self.name.clone(), self.endpoints.clone());
        let own = Own { name, node, lease: self.lease, endpoints, session: None, installed: None, uses: None };
        (self.incarnation > 0).then_some(own)
    }
}

/// All of them, and the store.
pub struct Cluster {
    pub store: Store,
    pub nodes: Vec<Host>,
    leases: i64,
}

impl Default for Cluster {
    fn default() -> Self {
        let mut store = Store::default();
        let blue = SharedNetwork { no_icc: true, ..network(NETWORK, 4096) };
        assert!(store.take(&create(&name("blue"), &blue, 0), 0));
        let node = |index: usize| Host {
            name: name(&format!("n{index}")),
            vtep: format!("192.0.2.{index}").parse().unwrap(),
            incarnation: 0,
            lease: 0,
            view: View::default(),
            endpoints: BTreeMap::new(),
        };
        Self { store, nodes: (0..3).map(node).collect(), leases: 0 }
    }
}

impl Cluster {
    /// What a node does comes to pass.
    pub fn takes(&mut self, deed: &Deed) {
        match *deed {
            Deed::Start(node) => self.starts(node),
            Deed::Expire(node) if self.nodes[node].lease == 0 => {}
            Deed::Expire(node) => self.store.expire(self.nodes[node].lease),
            Deed::Read(node) => self.nodes[node].view = self.store.view(),
            Deed::Write(node) => self.writes(node, usize::MAX),
            Deed::WriteSome(node, count) => self.writes(node, count),
            Deed::Attach(node, host) => self.attaches(node, host),
            Deed::Detach(node, host) => {
                self.nodes[node].endpoints.remove(&format!("{host:012}"));
            }
        }
    }

    /// Every node that has started reads and writes until there is nothing to write.
    pub fn settles(&mut self) {
        for round in 0.. {
            assert!(round < 10, "they do not settle");
            let before = self.store.log.len();
            for node in 0..3 {
                self.takes(&Deed::Read(node));
                self.takes(&Deed::Write(node));
            }
            if self.store.log.len() == before {
                return;
            }
        }
    }

    /// Every address that a node thinks an endpoint of its has.
    pub fn held(&self) -> Vec<(IpAddr, Name, Name)> {
        let of = |node: &Host| {
            let node_name = node.name.clone();
            let endpoints = node.endpoints.values().cloned();
            endpoints.map(move |e| (e.places[0].addresses[0], node_name.clone(), e.name)).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(of).collect()
    }

    fn starts(&mut self, node: usize) {
        self.leases += 1;
        let host = &mut self.nodes[node];
        host.incarnation = self.store.mark(&Key::Incarnation(host.name.clone()));
        host.lease = self.leases;
    }

    fn writes(&mut self, node: usize, count: usize) {
        let Some(own) = self.nodes[node].own() else { return };
        for txn in missing(&own, &self.nodes[node].view, &[]).txns.iter().take(count) {
            self.store.take(txn, own.lease);
        }
    }

    fn attaches(&mut self, node: usize, host: u8) {
        let Some(own) = self.nodes[node].own() else { return };
        let id = format!("{host:012}");
        if own.endpoints.contains_key(&id) {
            return;
        }
        let address: IpAddr = [10, 0, 0, host].into();
        let (blue, endpoint) = (name("blue"), name(&format!("c{host}")));
        let wish = [(blue.clone(), NETWORK.to_owned(), 1, address)];
        let claimed = Claim { node: own.name.clone(), endpoint: endpoint.clone() };
        if !self.store.take(&claim(own.fence(), &claimed, &wish), own.lease) {
            return;
        }
        let place = Place {
            network: blue,
            network_id: NETWORK.to_owned(),
            addresses: vec![address],
            mac: Mac([2, 0, 0, 0, 0, host]),
            aliases: Vec::new(),
        };
        let told = Announcement {
            incarnation: 0,
            name: endpoint,
            places: vec![place],
            networks: BTreeMap::new(),
            ports: Vec::new(),
            mesh: Vec::new(),
            created: 0,
        };
        self.nodes[node].endpoints.insert(id, told);
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn network(id: &str, vni: u32) -> SharedNetwork {
    SharedNetwork {
        no_icc: false,
        from: Vec::new(),
        requires: Default::default(),
        id: id.to_owned(),
        vni,
        subnets: vec![SharedSubnet {
            subnet: "10.0.0.0/24".parse().unwrap(),
            gateway: [10, 0, 0, 1].into(),
            ip_range: None,
            gateway_mode: Default::default(),
            aux_addresses: BTreeMap::new(),
        }],
        internal: false,
        encrypted: false,
        no_masquerade: false,
        mtu: None,
        dns: Vec::new(),
        labels: BTreeMap::new(),
        ifname_prefix: None,
        options: BTreeMap::new(),
        created: 0,
    }
}
