//! Links, addresses and routes, through rtnetlink, in the network namespace of the thread that opened the connection.
//!
//! What is ours has a name that starts with [`PREFIX`] and an `ifalias` that names its owner. A link that lacks either is
//! invisible here, so nothing here can change or delete it.

mod asked;
mod bridge;
mod connected;
pub mod conntrack;
mod departure;
mod facts;
mod filters;
mod firewall;
mod forwarding;
mod inside;
mod ipv6_conf;
mod join;
mod kept;
mod kernel;
mod known;
mod neighbours;
mod offload;
mod ours;
mod probe;
mod rules;
mod shared;
pub mod sockets;
mod tunnel;
mod uses;
mod veth;
mod watch;
mod ways;
mod wireguard;
mod withheld;
pub mod xfrm;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkUnspec, new_connection, new_connection_with_strict_check,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
    },
};

use self::{
    connected::unrouted,
    inside::{Found, Insides},
    ipv6_conf::Ipv6Conf,
    kernel::{answered, is, refusal},
    known::Known,
    ours::{Existing, Fit, Link, Owner, quoted},
    watch::{Changed, Watch},
};
pub use self::{
    facts::Sysctls, filters::Filter, firewall::Firewall, forwarding::Forwarding, neighbours::of as neighbours,
    probe::ask as probe, uses::resolvers, withheld::Withheld,
};
use crate::{
    netns::{Namespace, Unfit},
    reconcile::{Bridge, Join, LinkName, Sandbox, Tunnel, Veth},
};

/// What is found of ours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ours {
    /// Networks' bridges.
    pub bridges: BTreeMap<LinkName, Bridge>,
    /// What joins bridges of one network, by the sides at the first.
    pub joins: BTreeMap<LinkName, Join>,
    /// The host's sides of endpoints' veths, with the other sides.
    pub veths: BTreeMap<LinkName, Veth>,
    /// VXLAN devices.
    pub tunnels: BTreeMap<LinkName, Tunnel>,
    /// Those that somebody has given another name: theirs, and the other one.
    pub misnamed: BTreeMap<LinkName, LinkName>,
    /// Veths whose other sides cannot be looked at, and why.
    pub unclear: BTreeMap<LinkName, String>,
    /// Subnets that the kernel's own routes do not lead to any more, by bridges, and by veths of which the other side has them.
    pub unrouted: BTreeMap<LinkName, BTreeSet<IpNet>>,
    /// What is at the egress of the loopback devices of sandboxes that could be looked at, by the inodes of their namespaces.
    pub loopbacks: BTreeMap<u64, BTreeSet<Filter>>,
}

impl Ours {
    fn note_unrouted(&mut self, link: &Link, subnets: BTreeSet<IpNet>) {
        if !subnets.is_empty() {
            self.unrouted.insert(link.name.clone(), subnets);
        }
    }
}

/// What the names of our links start with.
pub const PREFIX: &str = "nd";

/// The device group that a link of ours is in from its creation on. Its alias comes with a second message: one that has
/// the group and no alias was left half-made by a daemon that ended in between.
const GROUP: u32 = 0x6e64;

/// A connection to rtnetlink.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
    watched: Option<Arc<Watched>>,
}

/// What is known of a host whose changes are heard of.
struct Watched {
    watch: Watch,
    known: tokio::sync::Mutex<Known>,
    /// Answers about one device where it is asked about one.
    strict: Handle,
    insides: Mutex<Insides>,
    conf: Arc<Ipv6Conf>,
}

impl Links {
    /// Connects, in the namespace of the calling thread. Ends with the runtime it is called in.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle, watched: None })
    }

    /// The same, and listens to changes, so that what did not change is not listed again.
    pub fn open_watched() -> Result<Self> {
        let (connection, strict, _) = new_connection_with_strict_check().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        let (watch, conf) = (Watch::open()?, Arc::new(Ipv6Conf::open()?));
        let watched = Watched { watch, known: Default::default(), strict, insides: Mutex::default(), conf };
        Ok(Self { watched: Some(Arc::new(watched)), ..Self::open()? })
    }

    /// Wakes whoever waits when the host or a container of ours has changed; `None` where nobody listens.
    pub fn changes(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        self.watched.as_ref().map(|watched| watched.watch.subscribe())
    }

    /// The same, in another namespace.
    pub fn open_inside(namespace: &Namespace) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let opened = namespace.inside(|| {
            let _runtime = runtime.enter();
            new_connection()
        });
        let (connection, handle, _) = opened
            .and_then(|opened| opened)
            .with_context(|| format!("cannot open a netlink socket in {}", namespace.sandbox().path.display()))?;
        tokio::spawn(connection);
        Ok(Self { handle, watched: None })
    }

    /// Every device by its index.
    pub async fn names(&self) -> Result<BTreeMap<u32, LinkName>> {
        Ok(self.seen_links().await?.iter().map(|(index, link)| (*index, link.name.clone())).collect())
    }

    /// Our bridges and veths. `sandboxes` says where the other side of a veth is; one that is not in it, or not where
    /// it says, is reported in a sandbox of no name, and so equal to nothing desired. The addresses of a side that is down
    /// do not count.
    pub async fn observe(&self, sandboxes: &BTreeMap<LinkName, Sandbox>) -> Result<Ours> {
        // Before the links and addresses that they go with: what goes in between is then not told to have lost its route.
        let connected = self.seen_connected().await?;
        let links = self.seen_links().await?;
        let addresses = self.seen_addresses().await?;
        let stations = self.seen_stations().await?;
        let wanted = links.values().filter(|link| matches!(link.owner(), Some(Owner::Endpoint(_))));
        let wanted = wanted.filter_map(|link| {
            let sandbox = sandboxes.get(&link.name)?;
            Some((sandbox.inode, (sandbox.clone(), link.peer_namespace)))
        });
        let insides = self.look_inside(&wanted.collect());
        let conf = match &self.watched {
            Some(watched) => Arc::clone(&watched.conf),
            None => Arc::new(Ipv6Conf::open()?),
        };
        let mut ours = Ours::default();
        ours.loopbacks.extend(insides.iter().filter_map(|(namespace, found)| match found {
            Found::Inside(inside) => Some((*namespace, inside.filters.clone())),
            Found::Gone | Found::Unclear(_) => None,
        }));
        for link in links.values() {
            ours.misnamed.extend(link.renamed.clone().map(|name| (link.name.clone(), name)));
            match link.owner() {
                Some(Owner::Network(owner)) => {
                    ours.bridges.insert(link.name.clone(), bridge::observed(link, owner, &addresses, &conf));
                    let assigned = addresses.get(&link.index).into_iter().flatten();
                    let unrouted = unrouted(link, assigned, &connected);
                    ours.note_unrouted(link, self.led_by_nobody(link, unrouted).await?);
                }
                Some(Owner::Endpoint(owner)) => {
                    let bridge = link.master.and_then(|index| links.get(&index)).map(|bridge| &bridge.name);
                    let sandbox = sandboxes.get(&link.name);
                    let inside = match sandbox.and_then(|sandbox| Some((sandbox, insides.get(&sandbox.inode)?))) {
                        Some((sandbox, Found::Inside(inside))) => Some((sandbox, &**inside)),
                        Some((_, Found::Unclear(why))) => {
                            ours.unclear.insert(link.name.clone(), why.clone());
                            None
                        }
                        Some((_, Found::Gone)) | None => None,
                    };
                    ours.note_unrouted(
                        link,
                        inside.map(|(_, inside)| veth::unrouted(link, inside)).unwrap_or_default(),
                    );
                    ours.veths.insert(link.name.clone(), veth::observed(link, owner, bridge, &stations, &conf, inside));
                }
                Some(Owner::Join { of, far: false }) => {
                    ours.joins.insert(link.name.clone(), join::observed(link, of, &links, &conf));
                }
                Some(Owner::Tunnel(port)) => {
                    ours.tunnels.insert(link.name.clone(), tunnel::observed(link, port, &conf));
                }
                Some(Owner::Join { far: true, .. }) | None => {}
            }
        }
        conf.close_unread();
        Ok(ours)
    }

    /// The sandbox at a path, if it is one that a container can have.
    pub fn sandbox_at(&self, path: &Path) -> Result<Sandbox, Unfit> {
        match &self.watched {
            Some(watched) => watched.insides.lock().unwrap_or_else(PoisonError::into_inner).sandbox_at(path),
            None => Insides::default().sandbox_at(path),
        }
    }

    fn look_inside(&self, sandboxes: &BTreeMap<u64, (Sandbox, Option<i32>)>) -> BTreeMap<u64, Found> {
        let Some(watched) = &self.watched else { return Insides::default().look(sandboxes, &Changed::Everywhere) };
        let ours = sandboxes.values().filter_map(|(_, number)| *number).collect();
        let changed = watched.watch.changed_inside(ours);
        watched.insides.lock().unwrap_or_else(PoisonError::into_inner).look(sandboxes, &changed)
    }

    /// Names of the interfaces in a container's namespace.
    pub async fn interfaces(sandbox: &Sandbox) -> Result<BTreeSet<LinkName>> {
        let inside = Self::open_inside(&Namespace::of(sandbox)?)?;
        Ok(inside.names().await?.into_values().collect())
    }

    /// Sets a link of ours down.
    pub async fn take_down(&self, name: &LinkName) -> Result<()> {
        let Some(link) = self.named(name).await?.filter(|link| link.owner().is_some()) else { return Ok(()) };
        self.set(LinkUnspec::new_with_index(link.index).down().build())
            .await
            .with_context(|| format!("cannot take {name} down"))
    }

    /// Deletes a link of ours, the other side of a veth with it.
    pub async fn delete(&self, name: &LinkName) -> Result<()> {
        let Some(link) = self.named(name).await? else { return Ok(()) };
        if link.owner().is_none() && !link.is_half_made() {
            bail!("{name} is not one of netd's devices: it is left alone");
        }
        self.delete_index(link.index).await.with_context(|| format!("cannot delete {name}"))
    }

    /// Deletes every link of ours, veths before bridges and VXLAN devices; their names.
    pub async fn delete_all(&self) -> Result<Vec<LinkName>> {
        let links = self.all().await?;
        let is_ours = |link: &&Link| link.owner().is_some() || link.is_half_made();
        let mut ours: Vec<&Link> = links.values().filter(is_ours).collect();
        ours.sort_by_key(|link| matches!(link.owner(), Some(Owner::Network(_) | Owner::Tunnel(_))));
        // Each that goes by itself waits for what may still look at it, and all together once; but a bridge waits by itself too, some
        // 20 ms (`rcu_barrier` in `br_multicast_dev_del` of net/bridge/br_multicast.c), and nobody changes a link meanwhile.
        if links.values().filter(|link| link.group == GROUP).all(|link| is_ours(&link)) {
            self.delete_group(GROUP).await.context("cannot delete netd's devices")?;
        }
        for link in &ours {
            self.delete(&link.name).await?;
        }
        Ok(ours.into_iter().map(|link| link.name.clone()).collect())
    }

    /// Deletes every device of a group, of which there may be none.
    async fn delete_group(&self, group: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelLink(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        match self.acknowledged(request).await {
            Err(error) if answered(&error, nix::libc::ENODEV) => Ok(()),
            deleted => deleted,
        }
    }

    /// Gives a link of ours its name back.
    pub async fn rename(&self, name: &LinkName, current: &LinkName) -> Result<()> {
        let Some(link) = self.named(current).await? else { return Ok(()) };
        if !link.is_ours_but_for_its_name() {
            bail!("{current} is not one of netd's devices: it is left alone");
        }
        let message = || LinkUnspec::new_with_index(link.index).name(name.to_string());
        let mut renamed = self.handle.link().set(message().build()).execute().await;
        // Before kernel 6.2 only a device that is down gets another name. It is set up again with the rest.
        if renamed.as_ref().is_err_and(|error| is(error, nix::libc::EBUSY)) {
            self.set(LinkUnspec::new_with_index(link.index).down().build()).await?;
            renamed = self.handle.link().set(message().build()).execute().await;
        }
        renamed.map_err(refusal).with_context(|| format!("cannot rename {current}"))
    }

    /// Makes room for a link of ours: gives one that has another name its own back, deletes one that was left half-made, and
    /// refuses when the name is another's.
    async fn make_room(&self, name: &LinkName, owner: &Owner) -> Result<Existing> {
        let mut found = self.named(name).await?;
        if found.is_none()
            && let Some(current) = self.seen_links().await?.values().find_map(|link| link.goes_for(name, owner))
        {
            self.rename(name, &current).await?;
            found = self.named(name).await?;
        }
        let Some(link) = found else { return Ok(Existing::None) };
        match link.fit(owner) {
            Fit::Ours => Ok(Existing::Ours(Box::new(link))),
            Fit::HalfMade => {
                self.delete_index(link.index).await.with_context(|| format!("cannot delete what is left of {name}"))?;
                Ok(Existing::None)
            }
            Fit::Foreign => bail!("a device {name} exists already and is not netd's {}", quoted(owner)),
        }
    }
}

#[cfg(test)]
mod tests;
