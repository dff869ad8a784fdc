//! Links, addresses and routes, through rtnetlink, in the network namespace of the thread that opened the connection.
//!
//! What is ours has a name that starts with [`PREFIX`] and an `ifalias` that names its owner. A link that lacks either is
//! invisible here, so nothing here can change or delete it.

mod bridge;
mod facts;
mod filters;
mod forwarding;
mod kernel;
mod ours;
mod veth;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_multicast_connection,
    sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::sync::watch;

use self::ours::{Existing, Fit, Link, Owner, quoted};
pub use self::{facts::Sysctls, filters::Filter, forwarding::Forwarding};
use crate::{
    netns::Namespace,
    reconcile::{Bridge, LinkName, Sandbox, Veth},
};

/// What the names of our links start with.
pub const PREFIX: &str = "nd";

/// The device group that a link of ours is in from its creation on. Its alias comes with a second message: one that has
/// the group and no alias was left half-made by a daemon that ended in between.
const GROUP: u32 = 0x6e64;

/// A connection to rtnetlink.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
}

impl Links {
    /// Connects, in the namespace of the calling thread. Ends with the runtime it is called in.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The same, in another namespace.
    fn open_inside(namespace: &Namespace) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let opened = namespace.inside(|| {
            let _runtime = runtime.enter();
            new_connection()
        });
        let (connection, handle, _) = opened
            .and_then(|opened| opened)
            .with_context(|| format!("cannot open a netlink socket in {}", namespace.sandbox().path.display()))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every device by its index.
    pub async fn names(&self) -> Result<BTreeMap<u32, LinkName>> {
        Ok(self.all().await?.into_iter().map(|(index, link)| (index, link.name)).collect())
    }

    /// Our bridges and veths. `sandboxes` says where the other side of a veth is; one that is not in it, or not where
    /// it says, is reported in a sandbox of no name, and so equal to nothing desired; one that cannot be looked at is an
    /// error. The addresses of a side that is down do not count.
    pub async fn observe(
        &self,
        sandboxes: &BTreeMap<LinkName, Sandbox>,
    ) -> Result<(BTreeMap<LinkName, Bridge>, BTreeMap<LinkName, Veth>)> {
        let links = self.all().await?;
        let addresses = self.addresses().await?;
        let (mut bridges, mut veths) = (BTreeMap::new(), BTreeMap::new());
        for link in links.values() {
            match link.owner() {
                Some(Owner::Network(owner)) => {
                    bridges.insert(link.name.clone(), bridge::observed(link, owner, &addresses));
                }
                Some(Owner::Endpoint(owner)) => {
                    let bridge = link.master.and_then(|index| links.get(&index)).map(|bridge| &bridge.name);
                    let sandbox = sandboxes.get(&link.name);
                    veths.insert(link.name.clone(), veth::observed(link, owner, bridge, sandbox).await?);
                }
                None => {}
            }
        }
        Ok((bridges, veths))
    }

    /// Names of the interfaces in a container's namespace.
    pub async fn interfaces(sandbox: &Sandbox) -> Result<BTreeSet<LinkName>> {
        let inside = Self::open_inside(&Namespace::of(sandbox)?)?;
        Ok(inside.names().await?.into_values().collect())
    }

    /// Deletes a link of ours, the other side of a veth with it.
    pub async fn delete(&self, name: &LinkName) -> Result<()> {
        let Some(link) = self.named(name).await? else { return Ok(()) };
        if link.owner().is_none() && !link.is_half_made() {
            bail!("{name} is not one of netd's devices: it is left alone");
        }
        self.delete_index(link.index).await.with_context(|| format!("cannot delete {name}"))
    }

    /// Deletes every link of ours, veths before bridges; their names.
    pub async fn delete_all(&self) -> Result<Vec<LinkName>> {
        let links = self.all().await?;
        let mut ours: Vec<&Link> = links.values().filter(|l| l.owner().is_some() || l.is_half_made()).collect();
        ours.sort_by_key(|link| matches!(link.owner(), Some(Owner::Network(_))));
        for link in &ours {
            self.delete(&link.name).await?;
        }
        Ok(ours.into_iter().map(|link| link.name.clone()).collect())
    }

    /// Makes room for a link of ours: deletes one that was left half-made, and refuses when the name is another's.
    async fn make_room(&self, name: &LinkName, owner: &Owner) -> Result<Existing> {
        let Some(link) = self.named(name).await? else { return Ok(Existing::None) };
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

/// Tells of every change of links, addresses, routes and forwarding, in the namespace of the calling thread: the receiver's value
/// counts them. Several may be seen as one.
pub fn watch() -> Result<watch::Receiver<u64>> {
    use futures_util::StreamExt;
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut messages) =
        new_multicast_connection(&groups).context("cannot watch the host's links and routes")?;
    let (changed, receiver) = watch::channel(0u64);
    tokio::spawn(connection);
    tokio::spawn(tell_of_forwarding(changes_of_forwarding()?, changed.clone()));
    tokio::spawn(async move {
        let _open_as_long_as_this = handle;
        // Whatever comes is a change: a message of the kernel, or the word that some were lost.
        while messages.next().await.is_some() {
            if changed.receiver_count() == 0 {
                return;
            }
            changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    });
    Ok(receiver)
}

/// A socket that tells of every change of a device's IPv4 settings: a write to `net.ipv4.ip_forward` changes every device's.
fn changes_of_forwarding() -> Result<TokioSocket> {
    let open = || {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(MulticastGroup::Ipv4Netconf as u32)?;
        std::io::Result::Ok(socket)
    };
    open().context("cannot watch the host's forwarding")
}

/// By itself: what these messages say is not known to the library that reads the others, and does not matter.
async fn tell_of_forwarding(socket: TokioSocket, changed: watch::Sender<u64>) {
    loop {
        // Too small for a message on purpose: that there is one is all.
        let received = socket.recv(&mut Vec::with_capacity(1)).await;
        let lost_some = |error: &std::io::Error| error.raw_os_error() == Some(nix::libc::ENOBUFS);
        if received.is_err_and(|error| !lost_some(&error)) || changed.receiver_count() == 0 {
            return;
        }
        changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests;
