//! Which ports of the host a specification comes to, and whether they are to be had.

use std::{collections::BTreeSet, io, net::IpAddr, ops::RangeInclusive};

use netd_common::tables::PortRange;

use super::{Daemon, Failure};
use crate::{
    cluster::Taken,
    model::{
        Model, Name, Place, PortPublication, PortSpec, Protocol, PublishMode, Published, Rejection, mesh_places, places,
    },
    plan::LONGEST,
    reconcile::{Guard, Kernel, Process},
    reserve::{self, Fresh},
};

/// Where free ports are looked for if the host does not say.
const EPHEMERAL: PortRange = PortRange { first: 32_768, last: 60_999 };

impl<K: Kernel> Daemon<K> {
    /// Reads specifications, chooses the ports that they leave open, and takes each of them on the host. `model` has the
    /// endpoint that they will be published to.
    pub(super) async fn taken_ports(
        &mut self,
        model: &Model,
        endpoint: &Name,
        specs: &[String],
        mode: PublishMode,
    ) -> Result<(Vec<PortPublication>, Fresh), Failure> {
        let (mut publications, mut due) = (Vec::<PortPublication>::new(), Vec::new());
        let (there, mut asked, mut fresh) = (Published::of(model), Published::default(), Fresh::new());
        let is_mesh = mode == PublishMode::Mesh && !specs.is_empty();
        let everywhere = if is_mesh { self.taken_everywhere()? } else { Vec::new() };
        for text in specs {
            let spec: PortSpec = text.parse()?;
            let places = match mode {
                PublishMode::Host => places(model, endpoint, &spec, &self.usual_addresses)?,
                PublishMode::Mesh => mesh_places(model, endpoint, &spec)?,
            };
            if let (Some(ip), Guard::Sockets { why }) = (spec.host_ip, self.kernel.guard())
                && ip.is_loopback()
                && spec.count > LONGEST
            {
                return Err(Rejection::LoopbackUnreached { spec: spec.text, why }.into());
            }
            let clash = |wish: &PortPublication| {
                there.conflict(endpoint, wish).or_else(|| taken_by(&everywhere, wish)).or_else(|| {
                    let why = format!("port {} is asked for twice", asked.clash(wish)?);
                    Some(Rejection::BadPortSpec { spec: text.clone(), why })
                })
            };
            let chosen = match spec.host_port {
                // A port of the host is not needed where clients come to the container's own address.
                given if given.is_some() || places.iter().all(|place| place.direct) => {
                    let wishes = publications_at(&spec, &places, given.unwrap_or(spec.port), is_mesh);
                    if let Some(rejection) = wishes.iter().find_map(clash) {
                        return Err(rejection.into());
                    }
                    // Those that only become others' to use are taken already.
                    due.extend(wishes.iter().filter(|wish| !there.has(endpoint, wish)).cloned());
                    wishes
                }
                _ => {
                    let mut free = self
                        .candidates(&spec)
                        .map(|port| publications_at(&spec, &places, port, is_mesh))
                        .filter(|wishes| wishes.iter().all(|wish| clash(wish).is_none()));
                    let exhausted = || Rejection::NoFreePort { count: spec.count, protocol: spec.protocol };
                    loop {
                        let wishes = free.next().ok_or_else(exhausted)?;
                        if self.is_held(&wishes).await? {
                            continue;
                        }
                        // A look has found nobody; for many ports it is enough.
                        match self.reservations.take(&self.to_take(&wishes)) {
                            Ok(taken) => {
                                self.note_choice(&spec, &wishes);
                                fresh.extend(taken);
                                break wishes;
                            }
                            Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse => {}
                            Err((place, error)) => return Err(untaken(place, error)),
                        }
                    }
                }
            };
            chosen.iter().for_each(|wish| asked.note(endpoint, wish));
            publications.extend(chosen);
        }
        fresh.extend(self.take(&due).await?);
        Ok((publications, fresh))
    }

    /// Ports of the host at which a free run may begin, in the order in which they are tried: those that the specification names, else
    /// of the ephemeral range what is not reserved, after what was chosen last, so that a port is not another's at once. The first
    /// choice is in the middle: the kernel begins at its start.
    fn candidates(&self, spec: &PortSpec) -> impl Iterator<Item = u16> + use<K> {
        let count = spec.count;
        let (range, reserved, begin) = match spec.among {
            Some((first, last)) => (PortRange { first, last }, BTreeSet::new(), u32::from(first)),
            None => {
                let range = self.facts.ephemeral.unwrap_or(EPHEMERAL);
                let middle = u32::from(range.first.midpoint(range.last));
                (range, self.facts.reserved.clone(), self.chosen.map_or(middle, |last| u32::from(last) + 1))
            }
        };
        let is_free = move |first: &u16| {
            let last = first.saturating_add(count - 1);
            !reserved.iter().any(|kept| kept.first <= last && *first <= kept.last)
        };
        runs(range, count, begin).filter(is_free)
    }

    /// Remembers the last of the ports that were chosen of all.
    fn note_choice(&mut self, spec: &PortSpec, chosen: &[PortPublication]) {
        if let (None, Some(one)) = (spec.among, chosen.iter().find(|one| !one.direct)) {
            self.chosen = Some(*one.host_ports().end());
        }
    }

    async fn is_held(&mut self, wishes: &[PortPublication]) -> Result<bool, Failure> {
        Ok(self.kernel.first_held(&wishes.iter().filter_map(wanted).collect::<Vec<_>>()).await?.is_some())
    }

    /// Those that are taken by a socket each, and of many ports the first of each address: it stands for all of what only a socket
    /// shows, that the address is the host's.
    fn to_take(&self, wishes: &[PortPublication]) -> Vec<PortPublication> {
        if self.reservations.takes_each(count(wishes)) {
            return wishes.to_vec();
        }
        let mut seen = BTreeSet::new();
        let first = wishes.iter().filter(|wish| !wish.direct && seen.insert((wish.host_ip, wish.protocol)));
        first.map(|wish| PortPublication { count: 1, ..wish.clone() }).collect()
    }

    /// Takes every port of some publications; where one is not to be had, says who has it.
    async fn take(&mut self, wishes: &[PortPublication]) -> Result<Fresh, Failure> {
        if !self.reservations.takes_each(count(wishes)) {
            let held = self.kernel.first_held(&wishes.iter().filter_map(wanted).collect::<Vec<_>>()).await?;
            if let Some((protocol, port, process)) = held {
                return Err(held_by(port, protocol, Some(process)).into());
            }
        }
        match self.reservations.take(&self.to_take(wishes)) {
            Ok(fresh) => Ok(fresh),
            Err(((address, protocol, port), error)) if error.kind() == io::ErrorKind::AddrInUse => {
                let holder = self.kernel.holder(address, protocol.number(), port..=port).await?;
                Err(held_by(port, protocol, holder.map(|(_, process)| process)).into())
            }
            Err((place, error)) => Err(untaken(place, error)),
        }
    }
}

/// How many ports of the host these take.
fn count(wishes: &[PortPublication]) -> usize {
    wishes.iter().filter(|wish| !wish.direct).map(|wish| usize::from(wish.count)).sum()
}

/// What a publication takes of the host.
fn wanted(wish: &PortPublication) -> Option<(IpAddr, Protocol, RangeInclusive<u16>)> {
    (!wish.direct).then(|| (wish.host_ip, wish.protocol, wish.host_ports()))
}

fn held_by(port: u16, protocol: Protocol, process: Option<Process>) -> Rejection {
    match process.filter(|process| process.pid != 0) {
        Some(process) => Rejection::PortHeld { port, protocol, process },
        None => Rejection::PortInUse { port, protocol },
    }
}

/// Why a port cannot be published on every node: who has it there.
fn taken_by(everywhere: &[Taken], wish: &PortPublication) -> Option<Rejection> {
    everywhere.iter().find_map(|taken| {
        let port = taken.port.publication.clash(wish)?;
        let (by, node) = (taken.endpoint.clone(), taken.node.clone());
        Some(Rejection::MeshTaken { port, protocol: wish.protocol, by, node })
    })
}

/// What a specification publishes if its first port of the host is `host_port`.
fn publications_at(spec: &PortSpec, places: &[Place], host_port: u16, mesh: bool) -> Vec<PortPublication> {
    let at = |place: &Place| PortPublication {
        host_ip: place.address,
        direct: place.direct,
        host_port: if place.direct { spec.port } else { host_port },
        port: spec.port,
        count: spec.count,
        protocol: spec.protocol,
        from: spec.from.clone(),
        mesh,
    };
    places.iter().map(at).collect()
}

fn untaken((address, protocol, port): reserve::Place, error: io::Error) -> Failure {
    match (error.kind(), address) {
        (io::ErrorKind::AddrNotAvailable, address) => Rejection::NotOurAddress(address).into(),
        _ => Failure::Failed(
            anyhow::Error::new(error).context(format!("cannot hold port {port}/{protocol} of {address}")),
        ),
    }
}

/// First ports of runs of `count` in a range, from `begin` upward, then from the range's start.
fn runs(range: PortRange, count: u16, begin: u32) -> impl Iterator<Item = u16> {
    let (first, last) = (u32::from(range.first.max(1)), u32::from(range.last));
    let end = (last + 2).saturating_sub(u32::from(count));
    let begin = if (first..end).contains(&begin) { begin } else { first };
    (begin..end).chain(first..begin.min(end)).filter_map(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_looked_for_from_a_beginning_on_and_runs_stay_inside() {
        let range = PortRange { first: 10, last: 19 };
        let of = |count, begin| runs(range, count, begin).collect::<Vec<_>>();

        assert_eq!(of(1, 14), [14, 15, 16, 17, 18, 19, 10, 11, 12, 13]);
        assert_eq!(of(4, 14), [14, 15, 16, 10, 11, 12, 13]);
        assert_eq!(of(4, 18), [10, 11, 12, 13, 14, 15, 16], "there is no run from there on");
        assert_eq!(of(10, 14), [10]);
        assert_eq!(of(11, 14).len(), 0);
        assert_eq!(runs(PortRange { first: 65_534, last: 65_535 }, 1, 65_535).collect::<Vec<_>>(), [65_535, 65_534]);
    }
}
