//! A container's veth pair: the host's side a port of the network's bridge, the other side the container's interface.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use netd_common::tuple::Mac;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    LinkBridgePort, LinkUnspec, LinkVeth,
    packet_route::{
        link::{InfoData, InfoKind, InfoVeth},
        neighbour::{NeighbourFlags, NeighbourState},
    },
};

use super::{
    GROUP, Links,
    connected::{self, connected},
    inside::Inside,
    ipv6_conf::{self, Ipv6Conf},
    kernel::{Assigned, default_routes, refusal},
    ours::{Existing, Link, Owner},
};
use crate::{
    netns::Namespace,
    reconcile::{Interface, LinkName, Sandbox, Veth},
};

/// What a host-side veth of ours is found to be. `sandbox` is where its other side should be, with what is there.
/// `stations` is what bridges know by their ports. The host takes no part in a network by a container's veth: that is the bridge's.
pub fn observed(
    link: &Link,
    owner: String,
    bridge: Option<&LinkName>,
    stations: &BTreeSet<(u32, Mac)>,
    conf: &Ipv6Conf,
    sandbox: Option<(&Sandbox, &Inside)>,
) -> Veth {
    let inside = sandbox.and_then(|(sandbox, inside)| Some((sandbox.clone(), interface(link, inside)?)));
    let (sandbox, (mtu, mut interface)) = inside.unwrap_or_else(|| (nowhere(), (link.mtu, no_interface())));
    if !link.up {
        interface.addresses.clear();
    }
    // The MTU is that of both sides: where they differ it is none.
    let mtu = if link.mtu == mtu { mtu } else { 0 };
    let bridge = bridge.cloned().unwrap_or_else(no_name);
    let known = stations.contains(&(link.index, interface.mac));
    let intact = link.options_hold && !link.floods && known && conf.has(&link.name, ipv6_conf::OFF);
    Veth { owner, bridge, mtu, intact, apart: link.apart, sandbox, interface }
}

impl Links {
    /// Makes a veth pair: the container's side with its name, address and MTU in its namespace, both sides down, the
    /// host's side not yet a port. Nothing stays of one that fails.
    pub async fn create_veth(&self, name: &LinkName, veth: &Veth) -> Result<()> {
        let owner = Owner::Endpoint(veth.owner.clone());
        let namespace = Namespace::of(&veth.sandbox)?;
        if let Existing::Ours(link) = self.make_room(name, &owner).await? {
            let inside = Inside::of(&namespace)?;
            if interface(&link, &inside).is_some_and(|(_, found)| found.name == veth.interface.name) {
                return Ok(());
            }
            self.delete_index(link.index)
                .await
                .with_context(|| format!("cannot delete {name}, which leads elsewhere"))?;
        }
        let made = self.make_veth(name, veth, &owner, &namespace).await;
        if made.is_err() {
            self.delete(name).await?;
            if Self::open_inside(&namespace)?.named(&veth.interface.name).await?.is_some() {
                bail!("an interface {} exists already in {}", veth.interface.name, veth.sandbox.path.display());
            }
        }
        made.with_context(|| format!("cannot make the veth pair {name} of endpoint {}", veth.owner))
    }

    /// Makes a veth of ours a port of its bridge with the container's address known to it, sets both sides up and gives
    /// the container its addresses and default routes; mends what differs.
    pub async fn connect_veth(&self, name: &LinkName, veth: &Veth) -> Result<()> {
        let host_side = self
            .connect_host_side(name, veth)
            .await
            .with_context(|| format!("cannot connect {name} to {}", veth.bridge))?;
        Self::connect_inside(&host_side, veth)
            .await
            .with_context(|| format!("cannot configure {} of endpoint {}", veth.interface.name, veth.owner))
    }

    async fn make_veth(&self, name: &LinkName, veth: &Veth, owner: &Owner, namespace: &Namespace) -> Result<()> {
        use std::os::fd::AsRawFd;
        let peer = LinkUnspec::new_with_name(veth.interface.name.as_str())
            .address(veth.interface.mac.0.to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(namespace.file().as_raw_fd())
            .build();
        let message = LinkVeth::new(name.as_str(), veth.interface.name.as_str())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .link_group(GROUP)
            .mtu(veth.mtu)
            .build();
        self.handle.link().add(message).execute().await.map_err(refusal)?;
        let message = LinkUnspec::new_with_name(name.as_str()).alias(owner.alias()).build();
        self.set(message).await.context("cannot mark it as netd's")?;
        ipv6_conf::set(name, ipv6_conf::OFF)
    }

    /// Set up last, when the bridge knows who is there. The link as it was before.
    async fn connect_host_side(&self, name: &LinkName, veth: &Veth) -> Result<Link> {
        let link = self.ours(name, veth).await?;
        let bridge = if_nametoindex(veth.bridge.as_str());
        let bridge = bridge.with_context(|| format!("cannot find the bridge {}", veth.bridge))?;
        if link.mtu != veth.mtu {
            let message = LinkUnspec::new_with_index(link.index).mtu(veth.mtu).build();
            self.set(message).await.with_context(|| format!("cannot set the MTU to {}", veth.mtu))?;
        }
        if link.master != Some(bridge) {
            let message = LinkUnspec::new_with_index(link.index).controller(bridge).build();
            self.set(message).await.context("cannot make it a port")?;
        }
        ipv6_conf::set(name, ipv6_conf::OFF)?;
        // NOARP is what `static` is called here; PERMANENT would make it an address of the host itself.
        self.handle
            .neighbours()
            .add_bridge(link.index, &veth.interface.mac.0)
            .flags(NeighbourFlags::Controller)
            .state(NeighbourState::Noarp)
            .replace()
            .execute()
            .await
            .map_err(refusal)
            .context("cannot tell the bridge the container's link-layer address")?;
        let port = LinkBridgePort::new(link.index).learning(false).flood(false).isolated(veth.apart).up().build();
        let set = self.handle.link().set_port(port).execute().await;
        set.map_err(refusal).context("cannot set the port's options and set it up")?;
        Ok(link)
    }

    /// Addresses come last but for the routes that need them: a container that has its addresses has everything else.
    async fn connect_inside(host_side: &Link, veth: &Veth) -> Result<()> {
        let inside = Self::open_inside(&Namespace::of(&veth.sandbox)?)?;
        let links = inside.all().await?;
        let Some(link) = other_side(host_side, &links) else {
            bail!("it is not in {}", veth.sandbox.path.display());
        };
        if let Some(lo) = links.values().find(|link| link.loopback && !link.up) {
            inside.set_up(lo.index).await?;
        }
        if link.mac != veth.interface.mac {
            let message = LinkUnspec::new_with_index(link.index).address(veth.interface.mac.0.to_vec()).build();
            inside.set(message).await.context("cannot set its link-layer address")?;
        }
        if link.mtu != veth.mtu {
            let message = LinkUnspec::new_with_index(link.index).mtu(veth.mtu).build();
            inside.set(message).await.with_context(|| format!("cannot set its MTU to {}", veth.mtu))?;
        }
        if veth.interface.addresses.iter().any(|address| address.addr().is_ipv6()) {
            prepare_for_ipv6(&veth.sandbox, &veth.interface.name)?;
        }
        inside.set_up(link.index).await?;
        inside.assign(link.index, &veth.interface.addresses).await?;
        let routes = inside.routes().await?;
        inside.lead(link, &veth.interface.addresses, &connected(&routes)).await?;
        inside.route_by_default(link.index, &veth.interface.gateways, &routes).await
    }

    async fn ours(&self, name: &LinkName, veth: &Veth) -> Result<Link> {
        let Some(link) = self.named(name).await? else { bail!("there is no device {name}") };
        if link.owner() != Some(Owner::Endpoint(veth.owner.clone())) {
            bail!("{name} is not the veth of endpoint {}", veth.owner);
        }
        Ok(link)
    }
}

/// The subnets that no route leads to by the container's side of a veth, which has an address there.
pub fn unrouted(host_side: &Link, inside: &Inside) -> BTreeSet<IpNet> {
    let Some(link) = other_side(host_side, &inside.links) else { return BTreeSet::new() };
    connected::unrouted(link, &inside.addresses, &connected(&inside.routes))
}

/// The other side of a veth among the links of another namespace.
fn other_side<'a>(host_side: &Link, links: &'a BTreeMap<u32, Link>) -> Option<&'a Link> {
    let link = links.get(&host_side.peer?)?;
    (link.kind == Some(InfoKind::Veth) && link.peer == Some(host_side.index)).then_some(link)
}

/// Lets a container's interface have IPv6 where its maker has switched that off, with what it is given and nothing else:
/// what calls itself a router in its network is none.
fn prepare_for_ipv6(sandbox: &Sandbox, interface: &LinkName) -> Result<()> {
    let settings = [("disable_ipv6", "0"), ("accept_ra", "0"), ("autoconf", "0")];
    Namespace::of(sandbox)?
        .inside(|| settings.into_iter().try_for_each(|setting| ipv6_conf::set(interface, setting)))
        .with_context(|| format!("cannot enter {}", sandbox.path.display()))?
}

/// The container's side of a veth and its MTU; `None` if it is not in that sandbox.
fn interface(host_side: &Link, inside: &Inside) -> Option<(u32, Interface)> {
    let link = other_side(host_side, &inside.links)?;
    let counts = |a: &&Assigned| a.index == link.index && a.set && link.up;
    let addresses = inside.addresses.iter().filter(counts).map(|a| a.address).collect();
    let gateways = default_routes(&inside.routes, link.index).into_iter().map(|(gateway, _)| gateway).collect();
    Some((link.mtu, Interface { name: link.name.clone(), mac: link.mac, addresses, gateways }))
}

/// What is desired is never here.
fn nowhere() -> Sandbox {
    Sandbox { path: Default::default(), inode: 0 }
}

fn no_interface() -> Interface {
    Interface { name: no_name(), mac: Mac::default(), addresses: BTreeSet::new(), gateways: BTreeSet::new() }
}

/// The name of no bridge of ours and of no interface.
fn no_name() -> LinkName {
    LinkName::gone(0)
}
