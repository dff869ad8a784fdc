//! The difference between desired and observed, as steps in the order in which they can be taken.

use std::{collections::BTreeSet, fmt, net::SocketAddr};

use netd_common::{
    tables::{
        AllowanceKey, DeviceKind, EndpointKey, Hook, MeshEnd, PeerKey, PortRange, Publication, PublicationKey, Remote,
        RemoteKey, Settings, SourceKey, VtepKey,
    },
    tuple::Address,
};

use super::{
    Association, AssociationId, Bridge, DeviceRecord, EndpointRecord, Family, Join, LinkName, PolicyId, Protection,
    SegmentRecord, State, Tunnel, Veth, ipsec, overlay,
};
use crate::firewall::Accept;

/// One change of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Gives a bridge or a veth of ours its name back, instead of this one.
    Rename(LinkName, LinkName),
    /// Gives forwarding of a family on a device back the value it had before netd.
    RestoreForwarding(LinkName, Family),
    /// Takes an entry out of the publication table.
    RemovePublication(PublicationKey, Publication),
    /// Takes an entry out of the table of allowances.
    RemoveAllowance(AllowanceKey),
    /// Takes an address of the host out of its table.
    RemoveAddress(Address),
    /// Takes an entry out of the endpoint table.
    RemoveEndpoint(EndpointKey),
    /// Takes the record of a device out of the device tables.
    RemoveDevice(LinkName),
    /// Takes the record of a device that is gone out of the device tables.
    RemoveOrphan(u32),
    /// Detaches a program of ours.
    Detach(LinkName, Hook),
    /// Ends the resolver in a container's namespace, and detaches its program there.
    CloseResolver(u64),
    /// Deletes a host-side veth of ours, and its other side and its programs with it.
    DeleteVeth(LinkName),
    /// Deletes what joins two bridges of ours, and its programs with it.
    DeleteJoin(LinkName),
    /// Deletes a bridge of ours.
    DeleteBridge(LinkName),
    /// Takes an entry out of the segment table: nothing goes or comes by it any more.
    RemoveSegment(u32),
    /// Takes an entry out of the table of remote containers.
    RemoveRemote(RemoteKey),
    /// Takes an entry out of the table of VTEPs.
    RemoveVtep(VtepKey),
    /// Takes an entry out of the table of the mesh.
    RemoveMeshEnd(EndpointKey),
    /// Takes an entry out of the table of peers.
    RemovePeer(PeerKey),
    /// Deletes a VXLAN device of ours.
    DeleteTunnel(LinkName),
    /// Takes a policy of encryption away.
    RemovePolicy(PolicyId),

    /// Puts netd's accept at the end of the FORWARD chain of an iptables.
    Accept(Accept),
    /// Takes it away.
    RemoveAccept(Accept),
    /// Writes the settings table.
    PutSettings(Settings),
    /// Has the kernel give these published ports, and no others, to no socket that names none.
    Withhold(BTreeSet<PortRange>),
    /// Has these calls of sockets have their programs on the cgroup, and no others.
    Guard(BTreeSet<&'static str>),
    /// Writes the table of reserved ports.
    PutReserved(BTreeSet<PortRange>),
    /// Makes a bridge, with its address, up.
    CreateBridge(LinkName, Bridge),
    /// Gives a bridge that exists this link-layer address, this MTU, these addresses and its options.
    UpdateBridge(LinkName, Bridge),
    /// Takes a veth down: a container whose packets no program would check has no network.
    Close(LinkName),
    /// Makes a veth pair for two bridges, both sides down and no ports yet.
    CreateJoin(LinkName, Join),
    /// Makes it a port of both, up. Also mends one that differs.
    ConnectJoin(LinkName, Join),
    /// Makes a veth pair: the far side in the container's namespace, configured and up but for its routes' need of the
    /// near side; the near side down, not yet a port.
    CreateVeth(LinkName, Veth),
    /// Attaches a program, or replaces ours.
    Attach(LinkName, Hook),
    /// Opens the resolver's sockets in a container's namespace, and attaches its program there.
    OpenResolver(u64),
    /// Makes a security association, which was never there before.
    PutAssociation(AssociationId, Association),
    /// Makes a policy of encryption, or changes one.
    PutPolicy(PolicyId, Protection),
    /// Takes away a security association that no policy names any more.
    RemoveAssociation(AssociationId),
    /// Makes a VXLAN device, up, or mends one that differs.
    PutTunnel(LinkName, Tunnel),
    /// Writes the record of a device.
    PutDevice(LinkName, DeviceRecord),
    /// Switches forwarding of a family on for a device, noting the value it had.
    Forward(LinkName, Family),
    /// Writes an entry of the endpoint table.
    PutEndpoint(EndpointKey, EndpointRecord),
    /// Makes a veth a port of its bridge with the right port attributes, sets both sides up, and gives the container its
    /// addresses and routes. Also mends a veth that differs.
    ConnectVeth(LinkName, Veth),
    /// Writes an entry of the table of VTEPs.
    PutVtep(VtepKey),
    /// Writes an entry of the table of the mesh.
    PutMeshEnd(EndpointKey, MeshEnd),
    /// Writes an entry of the table of peers.
    PutPeer(PeerKey, Address),
    /// Writes an entry of the table of remote containers.
    PutRemote(RemoteKey, Remote),
    /// Writes an entry of the segment table.
    PutSegment(u32, SegmentRecord),
    /// Writes an entry of the table of allowances.
    PutAllowance(AllowanceKey),
    /// Writes an address of the host into its table.
    PutAddress(Address),
    /// Writes an entry of the source table.
    PutSource(SourceKey),
    /// Writes an entry of the publication table.
    PutPublication(PublicationKey, Publication),
    /// Takes an entry out of the source table, when no publication is for its list any more.
    RemoveSource(SourceKey),
}

impl Step {
    /// Whether this step is of what encrypts networks between hosts.
    pub fn is_of_keys(&self) -> bool {
        matches!(
            self,
            Self::PutAssociation(..) | Self::PutPolicy(..) | Self::RemoveAssociation(_) | Self::RemovePolicy(_)
        )
    }

    /// Whether this step must not be taken when `failed` was not: nothing carries a container's packets, and nothing forwards,
    /// without the programs and the record that keep it in bounds; and nobody is let in by a list that is not whole.
    pub fn stands_on(&self, failed: &Self) -> bool {
        if let (Self::PutPublication(_, to), Self::PutSource(missing)) = (self, failed) {
            return to.sources == missing.list();
        }
        match (self, failed) {
            // Without what is encrypted by, or what keeps the rest from going in clear.
            (Self::PutPolicy(id, Protection::Esp(spi)), Self::PutAssociation(missing, _)) => {
                return *spi == missing.spi && id.peer == Some(missing.destination);
            }
            (Self::PutTunnel(_, tunnel), Self::PutPolicy(missing, _)) => {
                return missing.peer.is_none() && missing.port == tunnel.port;
            }
            _ => {}
        }
        // What meets frames before packets drops nothing that the programs behind it do not.
        let (Self::Attach(missing, _) | Self::PutDevice(missing, _)) = failed else { return false };
        if matches!(failed, Self::Attach(_, Hook::UplinkXdp)) {
            return false;
        }
        match self {
            Self::PutDevice(link, _) | Self::Forward(link, _) => link == missing,
            Self::PutSegment(_, segment) => segment.tunnel == *missing,
            Self::ConnectVeth(link, veth) => link == missing || veth.bridge == *missing,
            Self::ConnectJoin(link, _) => link == missing,
            _ => false,
        }
    }
}

/// The steps from `observed` to `desired`: first what goes, outermost first, then what comes, innermost first. A container's
/// programs and records stand before its veth carries a packet, an uplink's before it forwards. Empty if and only if the two are equal, but for veths that cannot be looked at.
pub fn diff(desired: &State, observed: &State) -> Vec<Step> {
    let doomed = doomed(desired, observed);
    let misnamed = observed.misnamed.iter().map(|(link, current)| Step::Rename(link.clone(), current.clone()));
    let mut steps: Vec<Step> = misnamed.collect();
    steps.extend(departures(desired, observed, &doomed));
    steps.extend(arrivals(desired, observed, &doomed));
    steps
}

/// Links of ours that exist and must go: those that nothing desires, and those that only making anew mends. All that hangs
/// on a link goes with it, in the kernel too: records name it by its index.
fn doomed<'a>(desired: &State, observed: &'a State) -> BTreeSet<&'a LinkName> {
    let bridges = observed
        .bridges
        .iter()
        .filter(|(link, bridge)| desired.bridges.get(link).is_none_or(|wanted| wanted.owner != bridge.owner));
    let veths = observed.veths.iter().filter(|(link, veth)| {
        desired.veths.get(link).is_none_or(|wanted| {
            let elsewhere = wanted.sandbox.inode != veth.sandbox.inode || wanted.interface.name != veth.interface.name;
            wanted.owner != veth.owner || elsewhere && !observed.unclear.contains_key(*link)
        })
    });
    let tunnels = observed.tunnels.keys().filter(|link| !desired.tunnels.contains_key(link));
    let joins = observed
        .joins
        .iter()
        .filter(|(link, join)| desired.joins.get(link).is_none_or(|wanted| wanted.owner != join.owner))
        .flat_map(|(link, join)| [link, &join.far]);
    bridges.map(|(link, _)| link).chain(veths.map(|(link, _)| link)).chain(joins).chain(tunnels).collect()
}

fn departures(desired: &State, observed: &State, doomed: &BTreeSet<&LinkName>) -> Vec<Step> {
    let publications = observed.publications.iter().filter(|(key, _)| !desired.publications.contains_key(key));
    let endpoints = observed
        .endpoints
        .iter()
        .filter(|(key, record)| !desired.endpoints.contains_key(key) || doomed.contains(&record.device));
    let devices = observed.devices.keys().filter(|link| !desired.devices.contains_key(link) || doomed.contains(link));
    // Programs go with a link that goes: a container must not be connected without them before.
    let hooks = observed.hooks.iter().filter(|hook| !desired.hooks.contains(hook) && !doomed.contains(&hook.0));
    let resolvers = observed.resolvers.keys().filter(|namespace| !desired.resolvers.contains_key(namespace));
    let veths = observed.veths.keys().filter(|link| doomed.contains(link));
    let joins = observed.joins.keys().filter(|link| doomed.contains(link));
    let bridges = observed.bridges.keys().filter(|link| doomed.contains(link));
    let tunnels = observed.tunnels.keys().filter(|link| doomed.contains(link));
    let forwarding =
        observed.forwarding.iter().filter(|on| !desired.forwarding.contains(on) && !doomed.contains(&on.0));

    let publications = publications.map(|(key, to)| Step::RemovePublication(*key, *to));
    forwarding
        .map(|(link, family)| Step::RestoreForwarding(link.clone(), *family))
        .chain(publications)
        .chain(overlay::departures(desired, observed, doomed))
        .chain(observed.allowances.difference(&desired.allowances).map(|key| Step::RemoveAllowance(*key)))
        .chain(observed.addresses.difference(&desired.addresses).map(|address| Step::RemoveAddress(*address)))
        .chain(endpoints.map(|(key, _)| Step::RemoveEndpoint(*key)))
        .chain(devices.map(|link| Step::RemoveDevice(link.clone())))
        .chain(observed.orphans.iter().map(|index| Step::RemoveOrphan(*index)))
        .chain(hooks.map(|(link, hook)| Step::Detach(link.clone(), *hook)))
        .chain(resolvers.map(|namespace| Step::CloseResolver(*namespace)))
        .chain(veths.map(|link| Step::DeleteVeth(link.clone())))
        .chain(joins.map(|link| Step::DeleteJoin(link.clone())))
        .chain(bridges.map(|link| Step::DeleteBridge(link.clone())))
        .chain(tunnels.map(|link| Step::DeleteTunnel(link.clone())))
        .chain(ipsec::departures(desired, observed))
        .collect()
}

fn arrivals(desired: &State, observed: &State, doomed: &BTreeSet<&LinkName>) -> Vec<Step> {
    let stays = |link: &LinkName| !doomed.contains(link);
    // Before flows are told to prove themselves to the firewall, it must let them through.
    let mut steps: Vec<Step> =
        desired.accepts.difference(&observed.accepts).map(|accept| Step::Accept(*accept)).collect();
    steps.extend(observed.accepts.difference(&desired.accepts).map(|accept| Step::RemoveAccept(*accept)));
    steps.extend(desired.settings.filter(|wanted| observed.settings != Some(*wanted)).map(Step::PutSettings));
    if desired.withheld != observed.withheld {
        steps.push(Step::Withhold(desired.withheld.clone()));
    }
    if desired.calls != observed.calls {
        steps.push(Step::Guard(desired.calls.clone()));
    }
    if desired.reserved != observed.reserved {
        steps.push(Step::PutReserved(desired.reserved.clone()));
    }
    let unrouted = |link: &LinkName| observed.unrouted.contains_key(link);
    for (link, wanted) in &desired.bridges {
        match observed.bridges.get(link).filter(|_| stays(link)) {
            None => steps.push(Step::CreateBridge(link.clone(), wanted.clone())),
            Some(found) if found != wanted || unrouted(link) => {
                steps.push(Step::UpdateBridge(link.clone(), wanted.clone()))
            }
            Some(_) => {}
        }
    }
    let absent = |link: &LinkName| !observed.joins.contains_key(link) || !stays(link);
    let joins = desired.joins.iter().filter(|(link, _)| absent(link));
    steps.extend(joins.map(|(link, join)| Step::CreateJoin(link.clone(), join.clone())));
    let new = |link: &LinkName| !observed.veths.contains_key(link) || !stays(link);
    let veths = desired.veths.iter().filter(|(link, _)| new(link));
    steps.extend(veths.map(|(link, veth)| Step::CreateVeth(link.clone(), veth.clone())));
    steps.extend(ipsec::arrivals(desired, observed));
    let tunnels = desired.tunnels.iter().filter(|(link, tunnel)| observed.tunnels.get(link) != Some(tunnel));
    steps.extend(tunnels.map(|(link, tunnel)| Step::PutTunnel(link.clone(), tunnel.clone())));
    // A bridge that is made anew has another index, and no ports.
    let remade = |bridge: &LinkName| doomed.contains(bridge);
    let devices = desired.devices.iter().filter(|(link, record)| {
        observed.devices.get(link) != Some(record) || !stays(link) || record.bridge.as_ref().is_some_and(remade)
    });
    // A container's program drops what comes from a device without a record; an uplink has none without its programs.
    let (containers, rest): (Vec<_>, Vec<_>) =
        devices.partition(|(_, record)| record.kind == DeviceKind::Container as u8);
    let put = |(link, record): (&LinkName, &DeviceRecord)| Step::PutDevice(link.clone(), record.clone());
    steps.extend(containers.into_iter().map(put));
    let hooks = desired.hooks.iter().filter(|hook| !observed.hooks.contains(hook) || !stays(&hook.0));
    steps.extend(hooks.map(|(link, hook)| Step::Attach(link.clone(), *hook)));
    let resolvers =
        desired.resolvers.iter().filter(|(namespace, whole)| observed.resolvers.get(namespace) != Some(whole));
    steps.extend(resolvers.map(|(namespace, _)| Step::OpenResolver(*namespace)));
    steps.extend(rest.into_iter().map(put));
    let forwarding = desired.forwarding.iter().filter(|on| !observed.forwarding.contains(on) || !stays(&on.0));
    steps.extend(forwarding.map(|(link, family)| Step::Forward(link.clone(), *family)));
    let endpoints = desired
        .endpoints
        .iter()
        .filter(|(key, record)| observed.endpoints.get(key).is_none_or(|f| f != *record || !stays(&f.device)));
    steps.extend(endpoints.map(|(key, record)| Step::PutEndpoint(*key, record.clone())));
    let joins = desired.joins.iter().filter(|(link, join)| {
        absent(link) || observed.joins.get(link) != Some(join) || remade(&join.bridge) || remade(&join.further)
    });
    steps.extend(joins.map(|(link, join)| Step::ConnectJoin(link.clone(), join.clone())));
    let veths = desired
        .veths
        .iter()
        .filter(|(link, veth)| {
            new(link) || unrouted(link) || observed.veths.get(link) != Some(veth) || remade(&veth.bridge)
        })
        .filter(|(link, _)| !observed.unclear.contains_key(*link));
    steps.extend(veths.map(|(link, veth)| Step::ConnectVeth(link.clone(), veth.clone())));
    steps.extend(overlay::arrivals(desired, observed, doomed));
    steps.extend(desired.addresses.difference(&observed.addresses).map(|address| Step::PutAddress(*address)));
    // A list is there before what it is for, and goes after it.
    steps.extend(desired.sources.difference(&observed.sources).map(|range| Step::PutSource(*range)));
    steps.extend(desired.allowances.difference(&observed.allowances).map(|key| Step::PutAllowance(*key)));
    let publications = desired.publications.iter().filter(|(key, to)| observed.publications.get(key) != Some(to));
    steps.extend(publications.map(|(key, to)| Step::PutPublication(*key, *to)));
    steps.extend(observed.sources.difference(&desired.sources).map(|range| Step::RemoveSource(*range)));
    steps.extend(ipsec::leftovers(desired, observed));
    steps
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let published = |key: &PublicationKey, to: &Publication| {
            let (first, last) = (to.first.number(), to.last.number());
            let range = if first == last { String::new() } else { format!("-{last}") };
            format!("{}{range}", SocketAddr::new(key.address.ip(), first))
        };
        let sources = |range: &SourceKey| format!("{}/{}", range.address().ip(), range.prefix());
        match self {
            Self::RemovePublication(key, to) => write!(f, "take back the publication of {}", published(key, to)),
            Self::RemoveAllowance(key) => write!(f, "take back what {} may do at {}", key.src.ip(), key.dst.ip()),
            Self::PutAllowance(key) => write!(f, "allow {} something at {}", key.src.ip(), key.dst.ip()),
            Self::RemoveAddress(address) => write!(f, "forget the host's address {}", address.ip()),
            Self::RemoveEndpoint(key) => write!(f, "forget {} of zone {}", key.address.ip(), key.zone.0),
            Self::RemoveDevice(link) => write!(f, "forget the device {link}"),
            Self::RemoveOrphan(index) => write!(f, "forget the device that had index {index}"),
            Self::Detach(link, hook) => write!(f, "detach {} from {link}", hook.name()),
            Self::CloseResolver(namespace) => write!(f, "end the resolver in namespace {namespace}"),
            Self::OpenResolver(namespace) => write!(f, "open the resolver in namespace {namespace}"),
            Self::DeleteVeth(link) => write!(f, "delete the veth {link}"),
            Self::PutAssociation(id, _) => write!(f, "make {id}"),
            Self::RemoveAssociation(id) => write!(f, "remove {id}"),
            Self::PutPolicy(id, Protection::Block) => write!(f, "make {id}, which lets nothing through"),
            Self::PutPolicy(id, Protection::Esp(_)) => write!(f, "make {id}, which has it encrypted"),
            Self::RemovePolicy(id) => write!(f, "remove {id}"),
            Self::DeleteJoin(link) => write!(f, "delete the join {link}"),
            Self::DeleteBridge(link) => write!(f, "delete the bridge {link}"),
            Self::RestoreForwarding(link, family) => write!(f, "restore {family} forwarding on {link}"),
            Self::Rename(link, current) => write!(f, "give {link} its name back, which is called {current}"),
            Self::Close(link) => write!(f, "take {link} down"),
            Self::Accept(accept) => {
                write!(f, "let packets of containers through at the end of FORWARD of {}", accept.table.command())
            }
            Self::RemoveAccept(accept) => write!(f, "take netd's accept out of FORWARD of {}", accept.table.command()),
            Self::PutSettings(_) => write!(f, "write the settings"),
            Self::Withhold(ports) if ports.is_empty() => write!(f, "leave every port to sockets that name none"),
            Self::Withhold(_) => write!(f, "keep published ports from sockets that name none"),
            Self::Guard(_) => write!(f, "attach the programs for sockets of the host to the cgroup"),
            Self::PutReserved(_) => write!(f, "write the reserved ports"),
            Self::CreateBridge(link, bridge) => write!(f, "make the bridge {link} of network {}", bridge.owner),
            Self::UpdateBridge(link, bridge) => write!(f, "mend the bridge {link} of network {}", bridge.owner),
            Self::Forward(link, family) => write!(f, "switch {family} forwarding on for {link}"),
            Self::CreateJoin(link, join) => write!(f, "make the join {link} of network {}", join.owner),
            Self::ConnectJoin(link, join) => write!(f, "join {} to {} by {link}", join.further, join.bridge),
            Self::CreateVeth(link, veth) => write!(f, "make the veth {link} of endpoint {}", veth.owner),
            Self::Attach(link, hook) => write!(f, "attach {} to {link}", hook.name()),
            Self::PutDevice(link, _) => write!(f, "record the device {link}"),
            Self::ConnectVeth(link, veth) => write!(f, "connect {link} of endpoint {} to {}", veth.owner, veth.bridge),
            Self::PutEndpoint(key, _) => write!(f, "record {} of zone {}", key.address.ip(), key.zone.0),
            Self::PutSource(range) => write!(f, "let in {}", sources(range)),
            Self::RemoveSource(range) => write!(f, "forget the source {}", sources(range)),
            Self::DeleteTunnel(link) => write!(f, "delete the VXLAN device {link}"),
            Self::PutTunnel(link, tunnel) => write!(f, "make the VXLAN device {link} of UDP port {}", tunnel.port),
            Self::RemoveSegment(vni) => write!(f, "forget the segment {vni}"),
            Self::PutSegment(vni, _) => write!(f, "record the segment {vni}"),
            Self::RemoveRemote(key) => write!(f, "forget {} of segment {}", key.address.ip(), key.vni),
            Self::PutRemote(key, remote) => {
                write!(f, "record {} of segment {} at {}", key.address.ip(), key.vni, remote.vtep.ip())
            }
            Self::RemoveVtep(key) => write!(f, "forget the {key}"),
            Self::PutVtep(key) => write!(f, "record the {key}"),
            Self::RemoveMeshEnd(key) => write!(f, "forget {} of zone {} elsewhere", key.address.ip(), key.zone.0),
            Self::PutMeshEnd(key, end) => {
                write!(f, "record {} of zone {} at {}", key.address.ip(), key.zone.0, end.vtep.ip())
            }
            Self::RemovePeer(key) => write!(f, "forget peer {} of segment {}", key.index, key.vni),
            Self::PutPeer(key, address) => write!(f, "record the peer {} of segment {}", address.ip(), key.vni),
            Self::PutAddress(address) => write!(f, "record the host's address {}", address.ip()),
            Self::PutPublication(key, to) => {
                let container = SocketAddr::new(to.address.ip(), to.port(to.first).number());
                write!(f, "publish {} as {container}", published(key, to))
            }
        }
    }
}

#[cfg(test)]
mod tests;
