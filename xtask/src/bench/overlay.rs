//! The path between containers of two hosts: netd's own, a kernel's VXLAN device on a bridge at each end, and Docker's swarm.
//!
//! ```text
//! app ── one  eth0 192.0.2.1 ── 192.0.2.2 eth0  two ── web (serves)
//! ```

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Result;
use netd_tests::lab::{Container, Host, Lab, Netd, NetdOptions, Offloads};

use super::{
    docker,
    load::Ends,
    server::{PORT, Server},
    site::{APP, Contender, HOST, OUTSIDE, Path, SUBNET, Site, WEB, widen_ports},
};
use crate::workspace;

/// The network's number on the wire.
const VNI: u32 = 4_242;
/// IANA's port of VXLAN (RFC 7348).
const UDP_PORT: u16 = 4_789;
/// What a packet has room for behind the outer headers (50 bytes, RFC 7348 section 5).
const MTU: u32 = 1_450;

/// The site of one contender.
pub fn site(contender: Contender) -> Result<Site> {
    let (lab, [one, two]) = hosts();
    match contender {
        Contender::Netd => {
            let (netd, app) = netds(&one, OUTSIDE, "app", APP);
            let (other, web) = netds(&two, HOST, "web", WEB);
            Ok(between(contender, &app, (&web, WEB), one, lab)?.with_netds(vec![netd, other]))
        }
        Contender::Docker => docker::overlay(lab, one, &two),
        _ => {
            let app = kernels(&one, HOST, OUTSIDE, "app", APP);
            let web = kernels(&two, OUTSIDE, HOST, "web", WEB);
            between(contender, &app, (&web, WEB), one, lab)
        }
    }
}

fn hosts() -> (Lab, [Host; 2]) {
    let lab = Lab::new();
    let hosts = ["one", "two"].map(|name| lab.host(name));
    let [near, far] = [HOST, OUTSIDE].map(|address| format!("{address}/24"));
    lab.wire(Offloads::On).from(&hosts[0], "eth0", &near).to(&hosts[1], "eth0", &far);
    (lab, hosts)
}

/// From a container of the host to one of another, which serves.
pub fn between(
    contender: Contender,
    app: &Container,
    (web, address): (&Container, Ipv4Addr),
    host: Host,
    lab: Lab,
) -> Result<Site> {
    widen_ports(app)?;
    let ends = Ends {
        client: (**app).clone(),
        apart: false,
        to: std::net::SocketAddrV4::new(address, PORT),
        server: Arc::new(Server::new(web)?),
    };
    Ok(Site::of(contender, [(Path::Overlay, ends)], host, lab))
}

/// A container in netd's network, which is joined with the other host's by hand.
fn netds(host: &Host, peer: Ipv4Addr, name: &str, address: Ipv4Addr) -> (Netd, Container) {
    let netd = host.netd_with(NetdOptions::default().binary(workspace::netd()));
    netd.say(&format!("network create bench -d vxlan --vni {VNI} --peer {peer} --subnet {SUBNET}")).ok();
    let container = host.container(name);
    netd.say(&format!("attach {name} --netns {} --network bench:ip={address}", container.netns())).ok();
    (netd, container)
}

/// A container on a bridge that a VXLAN device joins with the other host's.
fn kernels(host: &Host, own: Ipv4Addr, peer: Ipv4Addr, name: &str, address: Ipv4Addr) -> Container {
    let prefix = SUBNET.split('/').nth(1).unwrap_or("24");
    let container = host.container(name);
    for line in [
        "link add br0 type bridge".to_owned(),
        format!("link add vxlan0 type vxlan id {VNI} dev eth0 dstport {UDP_PORT} local {own} remote {peer}"),
        format!("link set vxlan0 mtu {MTU} master br0 up"),
        format!("link add veth-{name} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {name}"),
        format!("link set veth-{name} master br0 up"),
        "link set br0 up".to_owned(),
    ] {
        host.ip(&line);
    }
    container.ip(&format!("address add {address}/{prefix} dev eth0"));
    container.ip("link set eth0 up");
    container
}
