//! A network's bridge: the gateway's address, and nothing that moves by itself.

use anyhow::{Context, Result, bail};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, packet_route::link::BridgeStpState};

use super::{
    GROUP, Links,
    kernel::{refusal, sysctl_is, write_sysctl},
    known::Addresses,
    ours::{Existing, Link, Owner},
};
use crate::reconcile::{Bridge, LinkName};

/// What a bridge of ours is found to be.
pub fn observed(link: &Link, owner: String, addresses: &Addresses) -> Bridge {
    let assigned = addresses.get(&link.index).into_iter().flatten();
    let addresses = assigned.filter(|a| a.set && link.up).map(|a| a.address).collect();
    let intact = link.options_hold && keeps_to_what_is_set(&link.name);
    Bridge { owner, mac: link.mac, mtu: link.mtu, addresses, intact }
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

    /// Gives a bridge of ours this link-layer address and MTU, these addresses and its options, and sets it up.
    pub async fn update_bridge(&self, name: &LinkName, bridge: &Bridge) -> Result<()> {
        let Some(link) = self.named(name).await? else { bail!("there is no bridge {name}") };
        if link.owner() != Some(Owner::Network(bridge.owner.clone())) {
            bail!("{name} is not the bridge of network {}", bridge.owner);
        }
        self.configure(&link, bridge).await.with_context(|| format!("cannot configure the bridge {name}"))
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
        self.assign(link.index, &bridge.addresses).await
    }
}

/// What has a bridge make up no address of its own and learn none. 1 is IN6_ADDR_GEN_MODE_NONE.
const SYSCTLS: [(&str, &str); 4] = [("addr_gen_mode", "1"), ("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")];

fn keep_to_what_is_set(name: &LinkName) -> Result<()> {
    for (sysctl, value) in SYSCTLS {
        write_sysctl(&format!("/proc/sys/net/ipv6/conf/{name}/{sysctl}"), value)?;
    }
    Ok(())
}

fn keeps_to_what_is_set(name: &LinkName) -> bool {
    SYSCTLS.iter().all(|(sysctl, value)| sysctl_is(&format!("/proc/sys/net/ipv6/conf/{name}/{sysctl}"), value))
}

fn options(name: &LinkName) -> LinkMessageBuilder<LinkBridge> {
    let bridge = LinkMessageBuilder::<LinkBridge>::new(name.as_str());
    bridge.stp_state(BridgeStpState::Disabled).mcast_snooping(false)
}
