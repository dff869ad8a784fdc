//! What the host has and netd does not decide: devices towards the outside, routes, and sysctls that a plan depends on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::Result;
use ipnet::IpNet;
use netd_common::tables::{PortRange, Timeout};
use rtnetlink::packet_route::{
    AddressFamily,
    link::InfoKind,
    route::{RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType},
};

use super::{
    Forwarding, Links,
    kernel::{Assigned, address_of, gateway, output},
    known::Addresses,
    ours::Link,
};
use crate::reconcile::{Family, LinkName, Uplink, Use};

impl Links {
    /// Devices towards the outside: those of `chosen` that exist, or where none is chosen every device with an address or
    /// a route that is not ours nor another engine's, not `lo`, and no port of another device. With the destinations that the host
    /// routes by devices that are not ours, default routes and link-local ones aside.
    pub async fn outside(
        &self,
        chosen: &[LinkName],
        forwarding: &Forwarding,
    ) -> Result<(BTreeMap<LinkName, Uplink>, BTreeSet<(IpNet, Use)>)> {
        let links = self.seen_links().await?;
        let addresses = self.seen_addresses().await?;
        let routes = self.seen_routes().await?;
        let is_uplink = |link: &&Link| {
            if !chosen.is_empty() {
                return chosen.contains(&link.name);
            }
            let free = !link.loopback
                && link.kind != Some(InfoKind::Vrf)
                && link.master.is_none()
                && link.owner().is_none()
                && !link.is_half_made();
            let used = || {
                of_device(&addresses, link.index).any(|a| !is_link_local(&a.address))
                    || routes.iter().any(|route| output(route) == Some(link.index) && leads_outside(route))
            };
            free && used() && !is_another_engines(link, &links, &addresses, &routes)
        };
        let uplinks = links.values().filter(is_uplink).map(|link| {
            let addresses = primary_first(of_device(&addresses, link.index), &routes);
            let was_no_router =
                Family::BOTH.into_iter().filter(|family| forwarding.was_off(&link.name, *family)).collect();
            let by_it = routes.iter().filter(|route| output(route) == Some(link.index) && leads_outside(route));
            let path_mtu = by_it.filter_map(mtu).fold(link.mtu, u32::min);
            (link.name.clone(), Uplink { layer3: link.layer3, mtu: link.mtu, path_mtu, addresses, was_no_router })
        });
        let destinations = routes.iter().filter(|route| leads_outside(route)).filter_map(|route| {
            let destination = destination(route)?;
            let link = output(route).and_then(|index| links.get(&index));
            let ours = link.is_some_and(|link| link.owner().is_some() || link.loopback);
            let device = link.map_or_else(|| format!("{:?}", route.header.kind).to_lowercase(), |l| l.name.to_string());
            (!ours && destination.prefix_len() > 0).then_some((destination, Use::Route { device }))
        });
        Ok((uplinks.collect(), destinations.collect()))
    }
}

impl Links {
    /// Ports of VRFs, and of which, that may be taken for uplinks: those of `chosen`, or where none is chosen every one with an
    /// address. The routes by them are in tables that the kernel asks for packets of that VRF alone: a container's leave by them only
    /// where a route of another table leads there.
    pub async fn vrf_ports(&self, chosen: &[LinkName]) -> Result<BTreeMap<LinkName, LinkName>> {
        let links = self.seen_links().await?;
        let addresses = self.seen_addresses().await?;
        let may_be_taken = |link: &&Link| match chosen {
            [] => link.owner().is_none() && of_device(&addresses, link.index).any(|a| !is_link_local(&a.address)),
            _ => chosen.contains(&link.name),
        };
        let ports = links.values().filter(may_be_taken);
        Ok(ports.filter_map(|link| Some((link.name.clone(), vrf_of(link, &links)?.clone()))).collect())
    }

    /// Addresses of devices that are not ours, those of the loopback and of one link aside.
    pub async fn host_addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let links = self.seen_links().await?;
        let addresses = self.seen_addresses().await?;
        let is_hosts = |assigned: &&Assigned| {
            let ours = links.get(&assigned.index).is_some_and(|link| link.owner().is_some());
            !ours && !is_link_local(&assigned.address) && !assigned.address.addr().is_loopback()
        };
        Ok(addresses.values().flatten().filter(is_hosts).map(|assigned| assigned.address.addr()).collect())
    }

    /// Devices by which a default route leads that a router has announced (RFC 4861 section 6.3.4).
    pub async fn with_announced_routes(&self) -> Result<BTreeSet<LinkName>> {
        let names = self.names().await?;
        let routes = self.seen_routes().await?;
        let announced = routes
            .iter()
            .filter(|route| route.header.protocol == RouteProtocol::Ra && route.header.destination_prefix_length == 0);
        Ok(announced.filter_map(|route| names.get(&output(route)?).cloned()).collect())
    }
}

fn vrf_of<'a>(link: &Link, links: &'a BTreeMap<u32, Link>) -> Option<&'a LinkName> {
    let master = links.get(&link.master?)?;
    (master.kind == Some(InfoKind::Vrf)).then_some(&master.name)
}

fn of_device(addresses: &Addresses, index: u32) -> impl Iterator<Item = &Assigned> {
    addresses.get(&index).into_iter().flatten()
}

/// Whether a device leads to containers or machines of another engine: a bridge with nothing but their sides of a pair or a tap in
/// it (Docker's, libvirt's) by which no router is reached, or such a side itself, which has no address.
fn is_another_engines(
    link: &Link,
    links: &BTreeMap<u32, Link>,
    addresses: &Addresses,
    routes: &[RouteMessage],
) -> bool {
    let is_pair = |link: &Link| matches!(link.kind, Some(InfoKind::Veth | InfoKind::Tun));
    let reaches_router = routes.iter().any(|route| output(route) == Some(link.index) && gateway(route).is_some());
    match link.kind {
        Some(InfoKind::Bridge) => {
            !reaches_router && links.values().filter(|port| port.master == Some(link.index)).all(is_pair)
        }
        Some(InfoKind::Veth) => !reaches_router && of_device(addresses, link.index).all(|a| is_link_local(&a.address)),
        _ => false,
    }
}

/// Sysctls that a plan depends on, of the calling thread's namespace.
pub struct Sysctls {
    /// `net.ipv4.ip_local_port_range`.
    pub ephemeral: Option<PortRange>,
    /// Seconds by [`Timeout`]: nf_conntrack's where it is there, else its defaults.
    pub timeouts: [u32; Timeout::COUNT],
}

impl Sysctls {
    /// Reads them.
    pub fn read() -> Self {
        Self::by(|sysctl| fs::read_to_string(format!("/proc/sys/net/{sysctl}")).ok())
    }

    /// By what is in the file of each, named as below `/proc/sys/net`.
    fn by(read: impl Fn(&str) -> Option<String>) -> Self {
        let range = read("ipv4/ip_local_port_range").unwrap_or_default();
        let mut timeouts = [0; Timeout::COUNT];
        for (timeout, sysctl, default) in TIMEOUTS {
            let seconds = read(&format!("netfilter/nf_conntrack_{sysctl}")).and_then(|text| text.trim().parse().ok());
            timeouts[timeout as usize] = seconds.unwrap_or(default);
        }
        Self { ephemeral: parse_range(&range), timeouts }
    }
}

/// The end of the sysctl's name, and the kernel's default in seconds. Of nf_conntrack's others netd has no state: a connection that
/// one side has closed is one that is closing, whichever side it was, and an association is one that is opening or one that is not.
const TIMEOUTS: [(Timeout, &str, u32); Timeout::COUNT] = [
    (Timeout::SynSent, "tcp_timeout_syn_sent", 120),
    (Timeout::SynReceived, "tcp_timeout_syn_recv", 60),
    (Timeout::Established, "tcp_timeout_established", 432_000),
    (Timeout::Closing, "tcp_timeout_fin_wait", 120),
    (Timeout::TimeWait, "tcp_timeout_time_wait", 120),
    (Timeout::Reset, "tcp_timeout_close", 10),
    (Timeout::UdpUnreplied, "udp_timeout", 30),
    (Timeout::UdpReplied, "udp_timeout_stream", 120),
    (Timeout::Echo, "icmp_timeout", 30),
    (Timeout::EchoV6, "icmpv6_timeout", 30),
    (Timeout::SctpOpening, "sctp_timeout_cookie_wait", 3),
    (Timeout::SctpEstablished, "sctp_timeout_established", 210),
];

fn parse_range(text: &str) -> Option<PortRange> {
    let mut ports = text.split_ascii_whitespace().map_while(|port| port.parse().ok());
    Some(PortRange { first: ports.next()?, last: ports.next()? })
}

/// The one that the host itself uses by the device's default route, then the others in the kernel's order, by age; those last
/// that are passing away, or known to the site alone, or secondary to another of their subnet. An address that is not known to
/// be the device's alone is none yet.
fn primary_first<'a>(addresses: impl Iterator<Item = &'a Assigned>, routes: &[RouteMessage]) -> Vec<IpNet> {
    let mut addresses: Vec<&Assigned> = addresses.filter(|a| !is_link_local(&a.address) && a.usable).collect();
    let of_site = |a: &Assigned| matches!(a.address.addr(), IpAddr::V6(ip) if ip.is_unique_local());
    addresses.sort_by_key(|a| {
        (a.address.addr().is_ipv6(), a.deprecated, !is_source(a, routes), of_site(a), a.secondary || a.temporary)
    });
    addresses.into_iter().map(|a| a.address).collect()
}

/// Whether the first of the default routes by this address's device and of its family names it as the source, or, naming none,
/// has its next hop in its subnet.
fn is_source(address: &Assigned, routes: &[RouteMessage]) -> bool {
    let is_default = |route: &&RouteMessage| {
        let any = destination(route).filter(|destination| destination.prefix_len() == 0);
        leads_outside(route)
            && output(route) == Some(address.index)
            && any.is_some_and(|any| any.addr().is_ipv4() == address.address.addr().is_ipv4())
    };
    let Some(route) = routes.iter().filter(is_default).min_by_key(|route| priority(route)) else { return false };
    let source = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(source) => address_of(source),
        _ => None,
    });
    match source {
        Some(source) => address.address.addr() == source,
        None => gateway(route).is_some_and(|hop| address.address.contains(&hop)),
    }
}

/// Lower is preferred; none is the lowest.
fn priority(route: &RouteMessage) -> u32 {
    let given = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    given.unwrap_or_default()
}

/// The MTU that a route has for itself.
pub(super) fn mtu(route: &RouteMessage) -> Option<u32> {
    let metrics = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics?.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

pub(super) fn is_link_local(address: &IpNet) -> bool {
    matches!(address.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Whether a route says where packets go that are for neither this host nor a group.
fn leads_outside(route: &RouteMessage) -> bool {
    let kind = matches!(
        route.header.kind,
        RouteType::Unicast | RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
    );
    let group_or_link = destination(route).is_some_and(|d| d.addr().is_multicast() || is_link_local(&d));
    kind && route.header.table != nix::libc::RT_TABLE_LOCAL && !group_or_link
}

/// What a route is for.
pub(super) fn destination(route: &RouteMessage) -> Option<IpNet> {
    let any = match route.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => address_of(address),
        _ => None,
    });
    IpNet::new(address.unwrap_or(any), route.header.destination_prefix_length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_is_read_as_the_kernel_prints_it() {
        assert_eq!(parse_range("32768\t60999\n"), Some(PortRange { first: 32768, last: 60999 }));
        assert_eq!(parse_range(""), None);
    }

    /// What the kernel calls them (`Documentation/networking/nf_conntrack-sysctl.rst`), and its defaults.
    const SYSCTLS: [(Timeout, &str, u32); Timeout::COUNT] = [
        (Timeout::SynSent, "netfilter/nf_conntrack_tcp_timeout_syn_sent", 120),
        (Timeout::SynReceived, "netfilter/nf_conntrack_tcp_timeout_syn_recv", 60),
        (Timeout::Established, "netfilter/nf_conntrack_tcp_timeout_established", 5 * 24 * 3600),
        (Timeout::Closing, "netfilter/nf_conntrack_tcp_timeout_fin_wait", 120),
        (Timeout::TimeWait, "netfilter/nf_conntrack_tcp_timeout_time_wait", 120),
        (Timeout::Reset, "netfilter/nf_conntrack_tcp_timeout_close", 10),
        (Timeout::UdpUnreplied, "netfilter/nf_conntrack_udp_timeout", 30),
        (Timeout::UdpReplied, "netfilter/nf_conntrack_udp_timeout_stream", 120),
        (Timeout::Echo, "netfilter/nf_conntrack_icmp_timeout", 30),
        (Timeout::EchoV6, "netfilter/nf_conntrack_icmpv6_timeout", 30),
        (Timeout::SctpOpening, "netfilter/nf_conntrack_sctp_timeout_cookie_wait", 3),
        (Timeout::SctpEstablished, "netfilter/nf_conntrack_sctp_timeout_established", 210),
    ];

    #[test]
    fn every_timeout_is_its_own_sysctls_and_the_kernels_default_where_there_is_none() {
        let set = |own: &'static str| move |sysctl: &str| (sysctl == own).then(|| "7\n".to_owned());
        let defaults = Sysctls::by(|_| None).timeouts;

        for (timeout, sysctl, default) in SYSCTLS {
            assert_eq!(defaults[timeout as usize], default, "{timeout:?}");
            let mut expected = defaults;
            expected[timeout as usize] = 7;
            assert_eq!(Sysctls::by(set(sysctl)).timeouts, expected, "{sysctl} is that of {timeout:?} alone");
            assert_eq!(Sysctls::by(|_| Some("soon".to_owned())).timeouts, defaults);
        }
    }

    #[test]
    fn the_range_of_the_hosts_own_ports_is_read() {
        let read = |sysctl: &str| (sysctl == "ipv4/ip_local_port_range").then(|| "1024\t65535\n".to_owned());
        assert_eq!(Sysctls::by(read).ephemeral, Some(PortRange { first: 1024, last: 65535 }));
    }
}
