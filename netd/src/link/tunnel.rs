//! A VXLAN device for every network of one UDP port that spans hosts: it carries, and programs decide.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::{
    GROUP, Links,
    ipv6_conf::{self, Ipv6Conf},
    kernel::refusal,
    offload,
    ours::{Existing, Link, Owner},
};
use crate::reconcile::{LinkName, Tunnel};

/// What keeps the largest packet of IPv4 whole within the largest one of either family.
const MTU: u32 = 65_535 - 70;

/// What a VXLAN device of ours is found to be.
pub fn observed(link: &Link, port: u16, conf: &Ipv6Conf) -> Tunnel {
    let options_hold = link.options_hold && link.vxlan_port == Some(port) && link.mtu == MTU;
    let offload = offload::is_on(&link.name).unwrap_or(true);
    Tunnel { port, offload, intact: link.up && options_hold && conf.has(&link.name, ipv6_conf::OFF) }
}

impl Links {
    /// VXLAN devices that are not ours, by their UDP port.
    pub async fn foreign_tunnels(&self) -> Result<BTreeMap<u16, LinkName>> {
        let links = self.seen_links().await?;
        let foreign = links.values().filter(|link| link.owner().is_none() && !link.is_half_made());
        Ok(foreign.filter_map(|link| Some((link.vxlan_port?, link.name.clone()))).collect())
    }

    /// Makes a VXLAN device, up, or mends one that is there. Nothing stays of one that fails.
    pub async fn put_tunnel(&self, name: &LinkName, tunnel: &Tunnel) -> Result<()> {
        let owner = Owner::Tunnel(tunnel.port);
        if let Existing::Ours(link) = self.make_room(name, &owner).await? {
            if link.vxlan_port == Some(tunnel.port) && (link.options_hold || self.learns_no_more(name).await?) {
                return self.keep(&link, tunnel).await.with_context(|| format!("cannot set up {name}"));
            }
            self.delete_index(link.index).await.with_context(|| format!("cannot delete what {name} became"))?;
        }
        let made = self.make_tunnel(name, tunnel, &owner).await;
        if made.is_err() {
            self.delete(name).await?;
        }
        made.with_context(|| format!("cannot make the VXLAN device {name}"))
    }

    /// Has a device learn nothing. Whether it is what it is to be then: other options of one that is there do not change.
    async fn learns_no_more(&self, name: &LinkName) -> Result<bool> {
        let message = LinkMessageBuilder::<LinkVxlan>::new(name.as_str()).learning(false).build();
        let changed = self.handle.link().change(message).execute().await.map_err(refusal);
        changed.context("cannot have it learn nothing")?;
        Ok(self.named(name).await?.is_some_and(|link| link.options_hold))
    }

    async fn make_tunnel(&self, name: &LinkName, tunnel: &Tunnel, owner: &Owner) -> Result<()> {
        // Without a checksum of their own datagrams over IPv6 are taken too (RFC 6935): some switches send such.
        let message = LinkMessageBuilder::<LinkVxlan>::new(name.as_str())
            .collect_metadata(true)
            .learning(false)
            .port(tunnel.port)
            .udp_zero_csum6_rx(true)
            .mtu(MTU)
            .link_group(GROUP)
            .build();
        self.handle.link().add(message).execute().await.map_err(refusal)?;
        let Some(link) = self.named(name).await? else { bail!("it is gone again") };
        let message = LinkUnspec::new_with_index(link.index).alias(owner.alias()).build();
        self.set(message).await.context("cannot mark it as netd's")?;
        self.keep(&link, tunnel).await
    }

    /// It has no address, and says nothing of its own.
    async fn keep(&self, link: &Link, tunnel: &Tunnel) -> Result<()> {
        ipv6_conf::set(&link.name, ipv6_conf::OFF)?;
        offload::set(&link.name, tunnel.offload)
            .with_context(|| format!("cannot set what {} leaves to devices", link.name))?;
        if link.mtu != MTU {
            self.set(LinkUnspec::new_with_index(link.index).mtu(MTU).build()).await.context("cannot set its MTU")?;
        }
        let up = self.set_up(link.index).await;
        up.with_context(|| match link.vxlan_port {
            Some(port) => format!("UDP port {port} is not to be had"),
            None => "it does not come up".to_owned(),
        })
    }
}
