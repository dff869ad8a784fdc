//! The one place where the command line meets the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};
use tokio::sync::watch;

use crate::{
    config::{EndpointAttach, XdpWish},
    dns::Directory,
    firewall::Mode,
    host::{Cgroup, DataplaneOptions, Host, HostOptions},
    reconcile::{LinkName, Sandbox},
    resolver::Resolver,
    uninstall::{Report, uninstall},
};

/// What the host is opened with.
pub struct HostPlace {
    /// Where maps and links are pinned.
    pub bpf_dir: PathBuf,
    /// Where notes are kept.
    pub state_dir: PathBuf,
    /// Which processes' sockets are led to published ports.
    pub cgroup: Cgroup,
    /// Whether frames are met in the drivers of uplinks.
    pub xdp: XdpWish,
    /// By what containers' devices and bridges get their programs.
    pub endpoint_attach: EndpointAttach,
    /// Devices towards the outside; none for all that look like it.
    pub uplinks: Vec<LinkName>,
    /// Entries of the flow table where there is none yet; `None` lets the machine's memory say.
    pub flows_max: Option<u32>,
    /// How flows stand to the host's firewall, and the mark of their packets.
    pub firewall: (Mode, u32),
    /// Which sandbox each veth of the model leads to.
    pub sandboxes: BTreeMap<LinkName, Sandbox>,
    /// What the resolvers answer.
    pub names: Directory,
}

/// The cgroup that `--cgroup` names.
pub fn cgroup(wish: Option<PathBuf>) -> Cgroup {
    match wish {
        None => Cgroup::Root,
        Some(path) if path == Path::new("none") => Cgroup::None,
        Some(path) => Cgroup::At(path),
    }
}

/// Opens the host, and tells of its changes.
pub async fn open(place: HostPlace) -> Result<(Host, watch::Receiver<u64>)> {
    let HostPlace { bpf_dir, state_dir, cgroup, xdp, endpoint_attach, uplinks, flows_max, firewall, sandboxes, names } =
        place;
    let dataplane = DataplaneOptions { flows_max, cgroup, xdp, endpoint_attach, clsact_only: false };
    // Before the programs, whose loading takes a while: the containers of a former daemon may be asking.
    let resolver = Resolver::start()?;
    resolver.know(names);
    let asking: BTreeSet<Sandbox> = sandboxes.values().cloned().collect();
    let opening = resolver.open_all(asking.into_iter().collect())?;
    let mut host = Host::open(HostOptions { bpf_dir, state_dir, uplinks, firewall, dataplane }, resolver).await?;
    host.remember_sandboxes(sandboxes)?;
    // A look before the end of this would take what is not opened yet for what is to be mended.
    opening.join().map_err(|_| anyhow!("opening the resolver's sockets panicked"))?;
    let changes = host.changes()?;
    Ok((host, changes))
}

/// Takes everything of netd's away from the host; what it was, a line each.
pub async fn take_away(bpf_dir: &Path, state_dir: &Path, sandboxes: &[Sandbox]) -> Result<Vec<String>> {
    let Report { pins, filters, namespaces, links, encryption, forwarding, withheld, accepts } =
        uninstall(bpf_dir, state_dir, sandboxes).await?;
    let pins = pins.iter().map(|pin| format!("removed {}", pin.display()));
    let filters = filters.iter().map(|link| format!("removed the filters of netd on {link}"));
    let namespaces = namespaces.iter().map(|path| format!("removed the filter of netd in {}", path.display()));
    let links = links.iter().map(|link| format!("deleted {link}"));
    let forwarding = forwarding.iter().map(|link| format!("gave {link} its forwarding back"));
    let accepts = accepts.iter().map(|table| format!("removed netd's accept from {}", table.command()));
    let withheld = withheld.then(|| "took published ports out of net.ipv4.ip_local_reserved_ports".to_owned());
    let encryption = Some(encryption).filter(|count| *count > 0);
    let encryption =
        encryption.map(|count| format!("removed {count} security associations and policies of encryption"));
    Ok(accepts
        .chain(pins)
        .chain(filters)
        .chain(namespaces)
        .chain(links)
        .chain(encryption)
        .chain(forwarding)
        .chain(withheld)
        .collect())
}
