//! What the tests of a whole host have in common.

use std::{path::Path, process::Command};

use netd_common::{
    tables::{DeviceKind, EndpointKey, Firewall, PortRange, PublicationKey, Settings, Span, Timeout},
    tuple::{Address, Mac, Port, TCP, Zone},
};

use super::{Host, HostOptions};
use crate::{
    dataplane::Options,
    firewall::{MARK, Mode},
    reconcile::{Bridge, DeviceRecord, Interface, Sandbox, Veth},
    resolver::Resolver,
    testing::link,
};

/// Both manners of attaching programs, and whether only clsact gives them.
pub const BOTH_MANNERS: [(&str, bool); 2] = [("tcx", false), ("clsact", true)];

pub async fn open(directory: &Path, clsact_only: bool) -> Host {
    Host::open(options(directory, clsact_only), resolver()).await.unwrap()
}

pub fn options(directory: &Path, clsact_only: bool) -> HostOptions {
    let state_dir = directory.join("state");
    std::fs::create_dir_all(&state_dir).unwrap();
    let dataplane = Options { clsact_only, ..Options::default() };
    HostOptions {
        bpf_dir: directory.join("bpf"),
        state_dir,
        uplinks: Vec::new(),
        firewall: (Mode::Aware, MARK),
        dataplane,
    }
}

/// Each link's name and link-layer address; whether it has a carrier settles a little later.
pub fn links() -> Vec<(String, String)> {
    let columns = |line: &str| -> Option<(String, String)> {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
    };
    ip(&["-br", "link"]).lines().filter_map(columns).collect()
}

pub fn qdiscs() -> String {
    let out = Command::new("tc").args(["qdisc", "show"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

pub fn delete(name: &str) {
    ip(&["link", "del", name]);
}

pub fn ip(arguments: &[&str]) -> String {
    let out = Command::new("ip").args(arguments).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub fn network(sandbox: Sandbox) -> (Bridge, Veth) {
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let bridge = Bridge {
        owner: "blue".into(),
        mac,
        mtu: 1500,
        addresses: ["10.176.0.1/24".parse().unwrap()].into(),
        intact: true,
    };
    let interface = Interface {
        name: link("eth0"),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        addresses: ["10.176.0.2/24".parse().unwrap()].into(),
        gateways: ["10.176.0.1".parse().unwrap()].into(),
    };
    (
        bridge,
        Veth { owner: "web".into(), bridge: link("nd1"), mtu: 1500, intact: true, apart: false, sandbox, interface },
    )
}

pub fn uplink() -> DeviceRecord {
    DeviceRecord {
        kind: DeviceKind::Uplink as u8,
        flags: 2,
        zone: Zone::HOST,
        bridge: None,
        mtu: 1500,
        vni: 0,
        ipv4: [192, 0, 2, 1],
        gateway_ipv4: [0; 4],
        ipv6: [1; 16],
        gateway_ipv6: [0; 16],
        mac: Mac([2; 6]),
        gateway_mac: Mac::default(),
    }
}

pub fn settings() -> Settings {
    Settings {
        routing: 0,
        firewall: Firewall::default(),
        secret: [1, 2],
        pools: [PortRange { first: 10_000, last: 27_000 }; 2],
        second: PortRange { first: 32_768, last: 60_999 },
        ephemeral: PortRange { first: 32_768, last: 60_999 },
        timeouts: [Span::at_least_seconds(30); Timeout::COUNT],
    }
}

pub fn address(last: u8) -> Address {
    Address::v4([10, 176, 0, last])
}

pub fn endpoint_key() -> EndpointKey {
    EndpointKey { address: address(2), zone: Zone(5), ..EndpointKey::default() }
}

pub fn publication_key() -> PublicationKey {
    PublicationKey::new(Address::ANY_V4, TCP, Port::new(8080))
}

/// A resolver that nobody has asked to open anything yet.
pub fn resolver() -> Resolver {
    Resolver::start().unwrap()
}
