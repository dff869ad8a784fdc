//! How large packets may be on the host's ways to other hosts of its networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage},
};

use super::{
    Links,
    facts::mtu,
    kernel::{output, refusal},
};
use crate::reconcile::Way;

impl Links {
    /// The way to each of these. The largest packet is what the route says of itself or a router on the way has said, else what
    /// its device takes. Those to whom there is no route are left out.
    pub async fn ways(&self, vteps: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, Way>> {
        let mut ways = BTreeMap::new();
        if vteps.is_empty() {
            return Ok(ways);
        }
        let links = self.seen_links().await?;
        for vtep in vteps {
            let Some(route) = self.route_to(*vtep).await? else { continue };
            let Some(link) = output(&route).and_then(|index| links.get(&index)) else { continue };
            let mtu = mtu(&route).map_or(link.mtu, |mtu| mtu.min(link.mtu));
            ways.insert(*vtep, Way { link: link.name.clone(), mtu, source: source(&route) });
        }
        Ok(ways)
    }

    /// The route by which the host would send to an address, as `ip route get` shows it; `None` where it would not.
    async fn route_to(&self, address: IpAddr) -> Result<Option<RouteMessage>> {
        let question = match address {
            IpAddr::V4(ip) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(ip, 32).build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(ip, 128).build(),
        };
        match self.handle.route().get(question).execute().try_next().await {
            Ok(route) => Ok(route),
            // No route, or one that says no.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(error) => Err(refusal(error)).with_context(|| format!("cannot ask for the route to {address}")),
        }
    }
}

/// The address as which packets leave by a route whose sender has chosen none (`RTA_PREFSRC`).
fn source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}
