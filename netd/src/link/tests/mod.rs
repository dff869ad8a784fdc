//! Links in namespaces of their own: what is asked for is what is there, and nothing else changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    time::Duration,
};

use netd_common::{tables::PortRange, tuple::Mac};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::*;
use crate::{
    reconcile::{Family, Interface, Use},
    testing::{link, on_a_host_of_its_own, sandbox},
};

mod devices;
mod forwarding;
mod host;

async fn add_bridge(links: &Links, name: &str, alias: Option<&str>) {
    links.handle.link().add(LinkBridge::new(name).build()).execute().await.unwrap();
    if let Some(alias) = alias {
        links.set(LinkUnspec::new_with_name(name).alias(alias).build()).await.unwrap();
    }
}

fn nets(addresses: &[&str]) -> BTreeSet<ipnet::IpNet> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn blue() -> Bridge {
    let addresses = nets(&["10.176.0.1/24"]);
    Bridge { owner: "blue".into(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1400, addresses, intact: true }
}

fn web(sandbox: Sandbox) -> Veth {
    let interface = Interface {
        name: link("eth0"),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        addresses: nets(&["10.176.0.2/24"]),
        gateways: ["10.176.0.1".parse().unwrap()].into(),
    };
    Veth { owner: "web".into(), bridge: link("nd1"), mtu: 1400, intact: true, apart: false, sandbox, interface }
}

fn db(sandbox: Sandbox) -> Veth {
    let mut veth = Veth { owner: "db".into(), ..web(sandbox) };
    veth.interface.mac = Mac([2, 0, 0, 0, 0, 3]);
    veth.interface.addresses = nets(&["10.176.0.3/24"]);
    veth
}

/// A device of this index that is nothing in particular.
pub fn bare_link(index: u32) -> Link {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Link::of(message).unwrap()
}

pub fn ip(words: &str) {
    let out = std::process::Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
}
