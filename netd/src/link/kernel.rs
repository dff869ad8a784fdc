//! What rtnetlink says, as values: devices, addresses, default routes, and requests whose refusal is a sentence.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Error, Handle, LinkUnspec, RouteMessageBuilder,
    packet_core::{
        NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        link::LinkMessage,
        neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteType},
    },
};

use super::{Links, ours::Link};
use netd_common::tuple::Mac;

use crate::reconcile::LinkName;

/// How often a listing is begun anew before it is given up.
pub const DUMPS: usize = 16;

/// An address of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assigned {
    pub index: u32,
    pub address: IpNet,
    /// Set by someone, and not learned from a router's word or made up from the link-layer address.
    pub set: bool,
    /// A further address of a subnet in which the device has one already.
    pub secondary: bool,
    /// Not to be used by new flows (RFC 4862 section 5.5.4).
    pub deprecated: bool,
    /// For privacy, and so for a while (RFC 8981).
    pub temporary: bool,
    /// Nobody else is asked, or has been found, to have it (RFC 4862 section 5.4).
    pub usable: bool,
}

impl Assigned {
    pub fn of(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(wide) => flags = *wide,
                _ => {}
            }
        }
        let ip = local.or(address)?;
        let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        Some(Self {
            index: message.header.index,
            address: IpNet::new(ip, message.header.prefix_len).ok()?,
            set: flags.contains(AddressFlags::Permanent) && !link_local,
            secondary: flags.contains(AddressFlags::Secondary) && ip.is_ipv4(),
            deprecated: flags.contains(AddressFlags::Deprecated) && ip.is_ipv6(),
            // One bit with two meanings.
            temporary: flags.contains(AddressFlags::Secondary) && ip.is_ipv6(),
            usable: !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        })
    }
}

impl Links {
    /// Every device by its index.
    pub(super) async fn all(&self) -> Result<BTreeMap<u32, Link>> {
        let listed =
            self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await.context("cannot list the links")?;
        let links = listed.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Link::of(message),
            _ => None,
        });
        Ok(links.map(|link| (link.index, link)).collect())
    }

    /// The device of this name.
    pub(super) async fn named(&self, name: &LinkName) -> Result<Option<Link>> {
        let found = self.handle.link().get().match_name(name.as_str()).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.and_then(Link::of)),
            Err(error) if is(&error, nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(refusal(error)).with_context(|| format!("cannot look at {name}")),
        }
    }

    /// The device of this index.
    pub(super) async fn indexed(&self, index: u32) -> Result<Option<Link>> {
        let found = self.handle.link().get().match_index(index).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.and_then(Link::of)),
            Err(error) if is(&error, nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(refusal(error)).with_context(|| format!("cannot look at the device of index {index}")),
        }
    }

    /// Every address of every device, in the kernel's order: the primary one of a subnet before the others.
    pub(super) async fn addresses(&self) -> Result<Vec<Assigned>> {
        let listed = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await;
        Ok(listed.context("cannot list the addresses")?.iter().filter_map(assigned).collect())
    }

    /// The addresses of one device.
    pub(super) async fn addresses_of(&self, index: u32) -> Result<Vec<Assigned>> {
        let Some(watched) = &self.watched else {
            return Ok(self.addresses().await?.into_iter().filter(|assigned| assigned.index == index).collect());
        };
        let mut request = AddressMessage::default();
        request.header.index = index;
        let listed = match dump(&watched.strict, RouteNetlinkMessage::GetAddress(request)).await {
            Err(error) if answered(&error, nix::libc::ENODEV) => return Ok(Vec::new()),
            listed => listed.context("cannot list the addresses of a device")?,
        };
        Ok(listed.iter().filter_map(assigned).collect())
    }

    /// Every route of both families, in every table.
    pub(super) async fn routes(&self) -> Result<Vec<RouteMessage>> {
        let mut routes = Vec::new();
        for request in every_route() {
            let listed = self.dump(request).await.context("cannot list the routes")?;
            routes.extend(listed.into_iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// The link-layer addresses that bridges know by their ports because somebody has told them.
    pub(super) async fn fixed_stations(&self) -> Result<BTreeSet<(u32, Mac)>> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        let listed = self.dump(RouteNetlinkMessage::GetNeighbour(request)).await;
        Ok(listed.context("cannot list what bridges know")?.into_iter().filter_map(fixed_station).collect())
    }

    /// The same, by one port.
    pub(super) async fn fixed_stations_of(&self, index: u32) -> Result<BTreeSet<(u32, Mac)>> {
        let Some(watched) = &self.watched else { return self.fixed_stations().await };
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.header.ifindex = index;
        let listed = dump(&watched.strict, RouteNetlinkMessage::GetNeighbour(request)).await;
        let stations = listed.context("cannot list what a bridge knows")?.into_iter().filter_map(fixed_station);
        Ok(stations.filter(|(port, _)| *port == index).collect())
    }

    /// Gives a device exactly these addresses, beside those that nobody set. IPv6 ones are usable at once.
    pub(super) async fn assign(&self, index: u32, wanted: &BTreeSet<IpNet>) -> Result<()> {
        let set =
            |all: Vec<Assigned>| -> BTreeSet<IpNet> { all.into_iter().filter(|a| a.set).map(|a| a.address).collect() };
        let before = set(self.addresses_of(index).await?);
        for address in before.difference(wanted) {
            let gone = self.handle.address().add(index, address.addr(), address.prefix_len()).message_mut().clone();
            match self.handle.address().del(gone).execute().await {
                // Went with the primary address of its subnet.
                Err(error) if !is(&error, nix::libc::EADDRNOTAVAIL) => {
                    return Err(refusal(error)).with_context(|| format!("cannot take away {address}"));
                }
                _ => {}
            }
        }
        let left = if before.is_subset(wanted) { before } else { set(self.addresses_of(index).await?) };
        for address in wanted.difference(&left) {
            let mut request = self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
            if address.addr().is_ipv6() {
                request.message_mut().header.flags = AddressHeaderFlags::Nodad;
            }
            request.execute().await.map_err(refusal).with_context(|| format!("cannot assign {address}"))?;
        }
        Ok(())
    }

    /// Gives a device exactly these next hops for its default routes, behind those that others have set; `routes` are all that there are.
    pub(super) async fn route_by_default(
        &self,
        index: u32,
        wanted: &BTreeSet<IpAddr>,
        routes: &[RouteMessage],
    ) -> Result<()> {
        let before = default_routes(routes, index);
        for (gateway, route) in &before {
            if !wanted.contains(gateway) {
                let gone = self.handle.route().del(route.clone()).execute().await;
                gone.map_err(refusal).with_context(|| format!("cannot take away the default route by {gateway}"))?;
            }
        }
        for gateway in wanted.iter().filter(|wanted| before.iter().all(|(gateway, _)| gateway != *wanted)) {
            let route = match gateway {
                IpAddr::V4(ip) => {
                    RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(*ip).output_interface(index).build()
                }
                IpAddr::V6(ip) => {
                    RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(*ip).output_interface(index).build()
                }
            };
            // Appended: replacing would take the place of a default route that another network of the container has.
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route));
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
            self.acknowledged(request).await.with_context(|| format!("cannot set the default route by {gateway}"))?;
        }
        Ok(())
    }

    /// Changes a device.
    pub(super) async fn set(&self, message: LinkMessage) -> Result<()> {
        self.handle.link().set(message).execute().await.map_err(refusal)
    }

    /// Sets a device up.
    pub(super) async fn set_up(&self, index: u32) -> Result<()> {
        self.set(LinkUnspec::new_with_index(index).up().build()).await.context("cannot set it up")
    }

    /// A listing that nothing changed under.
    pub(super) async fn dump(&self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        dump(&self.handle, request).await
    }

    pub(super) async fn acknowledged(&self, request: NetlinkMessage<RouteNetlinkMessage>) -> Result<()> {
        use futures_util::StreamExt;
        let mut answers = self.handle.clone().request(request).map_err(refusal)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(error.to_io().into());
            }
        }
        Ok(())
    }
}

/// A listing that nothing changed under: the kernel marks one that may lack what was there all along, and what is lacking would
/// be taken for gone.
pub(super) async fn dump(handle: &Handle, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
    use futures_util::StreamExt;
    for _ in 0..DUMPS {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = handle.clone().request(message).map_err(refusal)?;
        let (mut listed, mut torn) = (Vec::new(), false);
        while let Some(answer) = answers.next().await {
            torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => listed.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io().into()),
                _ => {}
            }
        }
        if !torn {
            return Ok(listed);
        }
    }
    bail!("it changed in the middle, {DUMPS} times over")
}

fn assigned(message: &RouteNetlinkMessage) -> Option<Assigned> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    Assigned::of(message)
}

/// The device, and the link-layer address that it leads to because somebody has said so.
fn fixed_station(message: RouteNetlinkMessage) -> Option<(u32, Mac)> {
    let RouteNetlinkMessage::NewNeighbour(NeighbourMessage { header, attributes, .. }) = message else { return None };
    let mac = attributes.into_iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.try_into().map(Mac).ok(),
        _ => None,
    });
    (header.state == NeighbourState::Noarp).then_some((header.ifindex, mac?))
}

/// Requests for every route of both families, in every table.
pub fn every_route() -> [RouteNetlinkMessage; 2] {
    [RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(), RouteMessageBuilder::<std::net::Ipv6Addr>::new().build()]
        .map(RouteNetlinkMessage::GetRoute)
}

/// The default routes of the main table by this device that someone set, with their next hops.
pub fn default_routes(routes: &[RouteMessage], index: u32) -> Vec<(IpAddr, RouteMessage)> {
    let set = routes.iter().filter(|RouteMessage { header, .. }| {
        header.destination_prefix_length == 0
            && header.table == RouteHeader::RT_TABLE_MAIN
            && header.kind == RouteType::Unicast
            && header.protocol != RouteProtocol::Ra
    });
    let here = set.flat_map(apart).filter(|route| output(route) == Some(index));
    here.filter_map(|route| Some((gateway(&route)?, route))).collect()
}

/// A route as those that it was set as: the kernel makes one of IPv6 routes with one destination and one priority, and takes
/// each of them away by itself.
fn apart(route: &RouteMessage) -> Vec<RouteMessage> {
    let hops = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) if route.header.address_family == AddressFamily::Inet6 => Some(hops),
        _ => None,
    });
    let Some(hops) = hops else { return vec![route.clone()] };
    let single = |hop: &RouteNextHop| {
        let mut single = route.clone();
        single.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::MultiPath(_)));
        single.attributes.extend(hop.attributes.iter().cloned());
        single.attributes.push(RouteAttribute::Oif(hop.interface_index));
        single
    };
    hops.iter().map(single).collect()
}

/// The device a route leaves by: of several, the first.
pub fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })
}

/// The next hop of a route that has one.
pub fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => address_of(address),
        _ => None,
    })
}

/// An address of a route as the standard library's type.
pub fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// What the kernel answered, without the wrapping.
pub fn refusal(error: Error) -> anyhow::Error {
    match error {
        Error::NetlinkError(message) => message.to_io().into(),
        other => anyhow!(other),
    }
}

/// Whether the kernel answered with this error number.
pub fn is(error: &Error, number: i32) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code().abs() == number)
}

/// The same, where the answer is wrapped already.
pub fn answered(error: &anyhow::Error, number: i32) -> bool {
    error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(number)
}
