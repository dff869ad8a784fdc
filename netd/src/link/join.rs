//! What joins a further bridge of a network to its first: a veth pair, a side of it a port of each. Its sides know nobody's link-layer
//! address and take what is for nobody known, so that a frame for a container at the other bridge finds its way there.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use rtnetlink::{
    LinkBridgePort, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoVeth},
};

use super::{
    GROUP, Links,
    ipv6_conf::{self, Ipv6Conf},
    kernel::refusal,
    ours::{Existing, Link, Owner},
};
use crate::reconcile::{Join, LinkName};

/// What the join whose side at the first bridge is `near` is found to be. The host takes no part in a network by a
/// join: that is the first bridge's.
pub fn observed(near: &Link, owner: String, links: &BTreeMap<u32, Link>, conf: &Ipv6Conf) -> Join {
    let far = other_side(near, &owner, links);
    let bridge_of = |side: &Link| side.master.and_then(|index| links.get(&index)).map(|bridge| bridge.name.clone());
    let is_port = |side: &Link| side.up && side.options_hold && side.floods && conf.has(&side.name, ipv6_conf::OFF);
    let no_name = || LinkName::gone(0);
    Join {
        owner,
        bridge: bridge_of(near).unwrap_or_else(no_name),
        far: far.map_or_else(no_name, |far| far.name.clone()),
        further: far.and_then(bridge_of).unwrap_or_else(no_name),
        // That of both sides: where they differ it is none.
        mtu: if far.is_some_and(|far| far.mtu == near.mtu) { near.mtu } else { 0 },
        intact: is_port(near) && far.is_some_and(|far| is_port(far) && !far.apart),
        apart: near.apart,
    }
}

impl Links {
    /// Makes a veth pair for two bridges, both sides down and ports of nothing. Nothing stays of one that fails.
    pub async fn create_join(&self, name: &LinkName, join: &Join) -> Result<()> {
        if let Existing::Ours(link) = self.make_room(name, &near(join)).await? {
            if other_side(&link, &join.owner, &self.all().await?).is_some_and(|far| far.name == join.far) {
                return Ok(());
            }
            self.delete_index(link.index).await.with_context(|| format!("cannot delete what is left of {name}"))?;
        }
        if let Existing::Ours(link) = self.make_room(&join.far, &far(join)).await? {
            self.delete_index(link.index)
                .await
                .with_context(|| format!("cannot delete what is left of {}", join.far))?;
        }
        let made = self.make_join(name, join).await;
        if made.is_err() {
            self.delete(name).await?;
        }
        made.with_context(|| format!("cannot make {name}, which joins two bridges of network {}", join.owner))
    }

    /// Makes the sides of a join ports of its bridges and sets them up; mends what differs.
    pub async fn connect_join(&self, name: &LinkName, join: &Join) -> Result<()> {
        let sides = [(name, near(join), &join.bridge, join.apart), (&join.far, far(join), &join.further, false)];
        for (side, owner, bridge, apart) in sides {
            self.connect_side(side, &owner, (bridge, join.mtu, apart))
                .await
                .with_context(|| format!("cannot connect {side} to {bridge}"))?;
        }
        Ok(())
    }

    async fn make_join(&self, name: &LinkName, join: &Join) -> Result<()> {
        let peer = LinkUnspec::new_with_name(join.far.as_str()).mtu(join.mtu).link_group(GROUP).build();
        let message = LinkVeth::new(name.as_str(), join.far.as_str())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .link_group(GROUP)
            .mtu(join.mtu)
            .build();
        self.handle.link().add(message).execute().await.map_err(refusal)?;
        for (side, owner) in [(name, near(join)), (&join.far, far(join))] {
            let Some(link) = self.named(side).await? else { bail!("{side} is gone again") };
            let message = LinkUnspec::new_with_index(link.index).alias(owner.alias()).build();
            self.set(message).await.with_context(|| format!("cannot mark {side} as netd's"))?;
            ipv6_conf::set(side, ipv6_conf::OFF)?;
        }
        Ok(())
    }

    async fn connect_side(&self, side: &LinkName, owner: &Owner, port: (&LinkName, u32, bool)) -> Result<()> {
        let (bridge, mtu, apart) = port;
        let Some(link) = self.named(side).await?.filter(|link| link.owner().as_ref() == Some(owner)) else {
            bail!("there is no {side} of netd's");
        };
        let Some(bridge) = self.named(bridge).await? else { bail!("there is no bridge {bridge}") };
        if link.mtu != mtu {
            let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
            self.set(message).await.with_context(|| format!("cannot set the MTU to {mtu}"))?;
        }
        if link.master != Some(bridge.index) {
            let message = LinkUnspec::new_with_index(link.index).controller(bridge.index).build();
            self.set(message).await.context("cannot make it a port")?;
        }
        ipv6_conf::set(side, ipv6_conf::OFF)?;
        let options = LinkBridgePort::new(link.index).learning(false).flood(true).isolated(apart).build();
        let set = self.handle.link().set_port(options).execute().await;
        set.map_err(refusal).context("cannot set the port's options")?;
        self.set_up(link.index).await
    }
}

fn near(join: &Join) -> Owner {
    Owner::Join { of: join.owner.clone(), far: false }
}

fn far(join: &Join) -> Owner {
    Owner::Join { of: join.owner.clone(), far: true }
}

/// The other side of a join, if it is that of the same.
fn other_side<'a>(near: &Link, owner: &str, links: &'a BTreeMap<u32, Link>) -> Option<&'a Link> {
    let far = links.get(&near.peer?).filter(|_| near.peer_namespace.is_none())?;
    let is_its = far.owner() == Some(Owner::Join { of: owner.to_owned(), far: true });
    (is_its && far.peer == Some(near.index)).then_some(far)
}
