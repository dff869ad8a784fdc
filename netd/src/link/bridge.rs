//! A network's bridge: the gateway's address, and nothing that moves by itself.

use std::{collections::BTreeSet, net::Ipv6Addr};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use netd_common::tuple::Mac;
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec,
    packet_route::{address::AddressHeaderFlags, link::BridgeStpState},
};

use super::{
    GROUP, Links,
    ipv6_conf::{self, Ipv6Conf},
    kernel::refusal,
    known::Addresses,
    ours::{Existing, Link, Owner},
};
use crate::reconcile::{Bridge, LinkName};

/// What a bridge of ours is found to be.
pub fn observed(link: &Link, owner: String, addresses: &Addresses, conf: &Ipv6Conf) -> Bridge {
    let assigned = || addresses.get(&link.index).into_iter().flatten();
    let own = assigned().filter(|a| a.set && link.up).map(|a| a.address).collect();
    let asks = assigned().any(|a| a.address == link_local(link.mac));
    let intact = link.options_hold && keeps_to_what_is_set(&link.name, conf) && (!link.up || asks == has_ipv6(&own));
    Bridge { owner, mac: link.mac, mtu: link.mtu, addresses: own, intact }
}

impl Links {
    /// Makes a network's bridge, with its addresses, up. Nothing stays of one that fails.
    pub async fn create_bridge(&self, name: &LinkName, bridge: &Bridge) -> Result<()> {
        let owner = Owner::Network(bridge.owner.clone());
        if let Existing::Ours(_) = self.make_room(name, &owner).await? {
            return self.update_bridge(name, bridge).await;
        }
        let made = self.make_bridge(name, bridge, &owner).await;
        if made.is_err() {
            self.delete(name).await?;
        }
        made.with_context(|| format!("cannot make the bridge {name}"))
    }

    /// Gives a bridge of ours this link-layer address and MTU, these addresses with the routes to their subnets, and its options,
    /// and sets it up.
    pub async fn update_bridge(&self, name: &LinkName, bridge: &Bridge) -> Result<()> {
        let Some(link) = self.named(name).await? else { bail!("there is no bridge {name}") };
        if link.owner() != Some(Owner::Network(bridge.owner.clone())) {
            bail!("{name} is not the bridge of network {}", bridge.owner);
        }
        let mend = async {
            self.configure(&link, bridge).await?;
            self.lead(&link, &bridge.addresses, &self.connected().await?).await
        };
        mend.await.with_context(|| format!("cannot configure the bridge {name}"))
    }

    async fn make_bridge(&self, name: &LinkName, bridge: &Bridge, owner: &Owner) -> Result<()> {
        let message = options(name).address(bridge.mac.0.to_vec()).link_group(GROUP).build();
        self.handle.link().add(message).execute().await.map_err(refusal)?;
        let Some(link) = self.named(name).await? else { bail!("it is gone again") };
        let message = LinkUnspec::new_with_index(link.index).alias(owner.alias()).build();
        self.set(message).await.context("cannot mark it as netd's")?;
        self.configure(&link, bridge).await
    }

    async fn configure(&self, link: &Link, bridge: &Bridge) -> Result<()> {
        if !link.options_hold {
            let message = options(&link.name).build();
            self.handle.link().change(message).execute().await.map_err(refusal).context("cannot set its options")?;
        }
        keep_to_what_is_set(&link.name)?;
        if link.mac != bridge.mac {
            let message = LinkUnspec::new_with_index(link.index).address(bridge.mac.0.to_vec()).build();
            self.set(message).await.context("cannot set its link-layer address")?;
        }
        // Not at creation: a bridge forgets a first MTU when its last port leaves, and keeps one that is set afterwards.
        if link.mtu != bridge.mtu {
            let message = LinkUnspec::new_with_index(link.index).mtu(bridge.mtu).build();
            self.set(message).await.with_context(|| format!("cannot set its MTU to {}", bridge.mtu))?;
        }
        self.set_up(link.index).await?;
        self.assign(link.index, &bridge.addresses).await?;
        self.ask_neighbours(link.index, bridge).await
    }

    /// Gives a bridge with a gateway of IPv6 a link-local address: with that alone the kernel asks who has an address to which it
    /// forwards what another has sent (`ndisc_send_ns`).
    async fn ask_neighbours(&self, index: u32, bridge: &Bridge) -> Result<()> {
        let own = link_local(bridge.mac);
        let mut request = self.handle.address().add(index, own.addr(), own.prefix_len()).replace();
        if has_ipv6(&bridge.addresses) {
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
            return request.execute().await.map_err(refusal).with_context(|| format!("cannot assign {own}"));
        }
        if self.addresses().await?.iter().any(|a| a.index == index && a.address == own) {
            let gone = self.handle.address().del(request.message_mut().clone()).execute().await;
            gone.map_err(refusal).with_context(|| format!("cannot take away {own}"))?;
        }
        Ok(())
    }
}

fn has_ipv6(addresses: &BTreeSet<IpNet>) -> bool {
    addresses.iter().any(|address| address.addr().is_ipv6())
}

/// The link-local address made of a link-layer address (RFC 4291 appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> IpNet {
    let address = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    IpNet::new_assert(address.into(), 64)
}

/// What has a bridge make up no address of its own and learn none. 1 is IN6_ADDR_GEN_MODE_NONE.
const SETTINGS: [(&str, &str); 4] =
    [("addr_gen_mode", "1"), ("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")];

fn keep_to_what_is_set(name: &LinkName) -> Result<()> {
    SETTINGS.into_iter().try_for_each(|setting| ipv6_conf::set(name, setting))
}

fn keeps_to_what_is_set(name: &LinkName, conf: &Ipv6Conf) -> bool {
    SETTINGS.into_iter().all(|setting| conf.has(name, setting))
}

fn options(name: &LinkName) -> LinkMessageBuilder<LinkBridge> {
    let bridge = LinkMessageBuilder::<LinkBridge>::new(name.as_str());
    bridge.stp_state(BridgeStpState::Disabled).mcast_snooping(false)
}
