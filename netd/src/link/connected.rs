//! The routes to the subnets of a device's own addresses, which the kernel adds with an address and not again where somebody
//! takes one away. Where somebody has put another there by the same device, that one leads.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use ipnet::IpNet;
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
};

use super::{
    Links,
    facts::destination,
    kernel::{Assigned, answered, dump, gateway, output},
    ours::Link,
};

/// Destinations of the main table's routes of the kernel's own, by the indexes of the devices that they lead to.
pub type Connected = BTreeSet<(u32, IpNet)>;

/// Of IPv6; lower is preferred (`IP6_RT_PRIO_ADDRCONF` of net/addrconf.h).
const PRIORITY: u32 = 256;

impl Links {
    /// The routes of the kernel's own to subnets.
    pub(super) async fn connected(&self) -> Result<Connected> {
        let mut found = Connected::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            found.extend(self.to_subnets(of_the_kernel(family)).await?);
        }
        Ok(found)
    }

    /// Those of the subnets that no route of anybody's leads to by the device, of which the kernel's own do not.
    pub(super) async fn led_by_nobody(&self, link: &Link, mut subnets: BTreeSet<IpNet>) -> Result<BTreeSet<IpNet>> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if !subnets.iter().any(|subnet| family_of(*subnet) == family) {
                continue;
            }
            let mut request = of_the_kernel(family);
            request.header.protocol = RouteProtocol::Unspec;
            request.attributes.push(RouteAttribute::Oif(link.index));
            for (index, subnet) in self.to_subnets(request).await? {
                if index == link.index {
                    subnets.remove(&subnet);
                }
            }
        }
        Ok(subnets)
    }

    /// What a listing of routes of the main table tells.
    async fn to_subnets(&self, request: RouteMessage) -> Result<Connected> {
        let Some(watched) = &self.watched else { return Ok(connected(&self.routes().await?)) };
        let listed = match dump(&watched.strict, RouteNetlinkMessage::GetRoute(request)).await {
            // A host that has had no address yet has no such table; a device may be gone by now.
            Err(error) if answered(&error, nix::libc::ENOENT) || answered(&error, nix::libc::ENODEV) => Vec::new(),
            listed => listed.context("cannot list the routes to subnets")?,
        };
        let routes = listed.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => to_a_subnet(route),
            _ => None,
        });
        Ok(routes.collect())
    }

    /// Adds those that a device lacks of the routes to the subnets of these addresses, which it has, as the kernel would.
    pub(super) async fn lead(&self, link: &Link, addresses: &BTreeSet<IpNet>, connected: &Connected) -> Result<()> {
        for address in addresses.iter().filter(|address| lacks(link, address, connected)) {
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route(link.index, *address)));
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
            let subnet = address.trunc();
            match self.acknowledged(request).await {
                // Of IPv6, somebody's own by this device.
                Err(error) if answered(&error, nix::libc::EEXIST) => {}
                set => set.with_context(|| format!("cannot set the route to {subnet}"))?,
            }
        }
        Ok(())
    }
}

/// Destinations of those among routes that lead by a device itself.
pub fn connected(routes: &[RouteMessage]) -> Connected {
    routes.iter().filter_map(to_a_subnet).collect()
}

/// The subnets of a device's addresses that none of these routes leads to. One that is down has no routes.
pub fn unrouted<'a>(
    link: &Link,
    assigned: impl IntoIterator<Item = &'a Assigned>,
    connected: &Connected,
) -> BTreeSet<IpNet> {
    let set = assigned.into_iter().filter(|a| a.index == link.index && a.set && link.up).map(|a| a.address);
    set.filter(|address| lacks(link, address, connected)).map(|address| address.trunc()).collect()
}

/// A part of another device may have its routes in another table (a VRF's, `l3mdev_fib_table`).
fn lacks(link: &Link, address: &IpNet, connected: &Connected) -> bool {
    let has_subnet = address.prefix_len() < address.max_prefix_len();
    has_subnet && link.master.is_none() && !connected.contains(&(link.index, address.trunc()))
}

fn to_a_subnet(route: &RouteMessage) -> Option<(u32, IpNet)> {
    let header = &route.header;
    let is_direct =
        header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast && gateway(route).is_none();
    if is_direct { Some((output(route)?, destination(route)?)) } else { None }
}

/// What every route of the kernel's own to a subnet has in common.
fn of_the_kernel(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Kernel;
    message.header.kind = RouteType::Unicast;
    message
}

const fn family_of(net: IpNet) -> AddressFamily {
    match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

/// As the kernel makes it (`fib_add_ifaddr` of net/ipv4/fib_frontend.c, `addrconf_prefix_route` of net/ipv6/addrconf.c).
fn route(index: u32, address: IpNet) -> RouteMessage {
    let mut message = of_the_kernel(family_of(address));
    message.header.destination_prefix_length = address.prefix_len();
    message.attributes.push(RouteAttribute::Oif(index));
    match address {
        IpNet::V4(address) => {
            message.header.scope = RouteScope::Link;
            message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(address.network())));
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(address.addr())));
        }
        IpNet::V6(address) => {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(address.network())));
            message.attributes.push(RouteAttribute::Priority(PRIORITY));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::tests::{bare_link, ip},
        testing::{link, on_a_host_of_its_own},
    };

    fn assigned(address: &str) -> Assigned {
        Assigned {
            index: 7,
            address: address.parse().unwrap(),
            set: true,
            secondary: false,
            deprecated: false,
            temporary: false,
            usable: true,
        }
    }

    #[test]
    fn what_is_down_a_part_of_another_device_or_an_address_alone_lacks_no_route() {
        let bridge = Link { up: true, ..bare_link(7) };
        let addresses =
            [assigned("10.0.0.1/24"), assigned("10.0.1.1/32"), assigned("fd00::1/64"), assigned("fd01::1/128")];
        let lacking = |link: &Link| unrouted(link, &addresses, &Connected::new());

        assert_eq!(lacking(&bridge), ["10.0.0.0/24", "fd00::/64"].map(|net| net.parse().unwrap()).into());
        assert_eq!(lacking(&Link { up: false, ..bridge.clone() }), BTreeSet::new());
        assert_eq!(lacking(&Link { master: Some(9), ..bridge.clone() }), BTreeSet::new());
        let there = ["10.0.0.0/24", "fd00::/64"].map(|net| (7, net.parse().unwrap()));
        assert_eq!(unrouted(&bridge, &addresses, &there.into()), BTreeSet::new());
    }

    #[test]
    fn a_route_that_is_put_back_is_the_one_that_the_kernel_had_and_goes_with_its_address() {
        on_a_host_of_its_own(async |_| {
            let links = Links::open_watched().unwrap();
            assert_eq!(links.connected().await.unwrap(), Connected::new(), "a host without an address");
            for words in ["link add wan0 type bridge", "link set wan0 up"] {
                ip(words);
            }
            let wanted: BTreeSet<IpNet> = ["10.0.0.1/24", "fd00::1/64"].map(|net| net.parse().unwrap()).into();
            let found = links.named(&link("wan0")).await.unwrap().unwrap();
            links.assign(found.index, &wanted).await.unwrap();
            let all = async || {
                let mut routes = links.routes().await.unwrap();
                // Of IPv6 the kernel adds that to the address itself, and those of the link's own, when it finds time.
                let is_links = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Destination(RouteAddress::Inet6(to)) if to.is_unicast_link_local());
                routes.retain(|route| {
                    route.header.table == RouteHeader::RT_TABLE_MAIN && !route.attributes.iter().any(is_links)
                });
                for route in &mut routes {
                    // What is left of its time, for one.
                    route.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
                }
                routes.sort_by_key(|route| format!("{route:?}"));
                routes
            };
            let before = all().await;

            for words in ["route del 10.0.0.0/24 dev wan0", "-6 route del fd00::/64 dev wan0"] {
                ip(words);
            }
            let connected = links.connected().await.unwrap();
            assert!(wanted.iter().all(|address| lacks(&found, address, &connected)), "{connected:?}");
            links.lead(&found, &wanted, &connected).await.unwrap();

            assert_eq!(all().await, before);
            links.lead(&found, &wanted, &links.connected().await.unwrap()).await.unwrap();
            assert_eq!(all().await, before);
            links.assign(found.index, &BTreeSet::new()).await.unwrap();
            let left = links.connected().await.unwrap();
            assert!(wanted.iter().all(|address| !left.contains(&(found.index, address.trunc()))), "{left:?}");
        });
    }

    #[test]
    fn a_route_of_somebodys_own_by_the_same_device_leads_and_is_left_alone() {
        on_a_host_of_its_own(async |_| {
            let links = Links::open_watched().unwrap();
            for words in ["link add wan0 type bridge", "link set wan0 up"] {
                ip(words);
            }
            let wanted: BTreeSet<IpNet> = ["10.0.0.1/24", "fd00::1/64"].map(|net| net.parse().unwrap()).into();
            let subnets: BTreeSet<IpNet> = wanted.iter().map(IpNet::trunc).collect();
            let found = links.named(&link("wan0")).await.unwrap().unwrap();
            links.assign(found.index, &wanted).await.unwrap();
            for words in ["route del 10.0.0.0/24 dev wan0", "-6 route del fd00::/64 dev wan0"] {
                ip(words);
            }
            assert_eq!(links.led_by_nobody(&found, subnets.clone()).await.unwrap(), subnets);

            for words in
                ["route add 10.0.0.0/24 dev wan0 mtu 1400", "-6 route add fd00::/64 dev wan0 metric 256 mtu 1400"]
            {
                ip(words);
            }
            assert_eq!(links.led_by_nobody(&found, subnets.clone()).await.unwrap(), BTreeSet::new());
            let all = connected(&links.routes().await.unwrap());
            assert!(subnets.iter().all(|subnet| all.contains(&(found.index, *subnet))), "{all:?}");
            links.lead(&found, &wanted, &links.connected().await.unwrap()).await.unwrap();
            ip("link del wan0");
            assert_eq!(links.led_by_nobody(&found, subnets.clone()).await.unwrap(), subnets, "the device is gone");
        });
    }
}
