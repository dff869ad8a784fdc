//! Which ports of the host a specification comes to, and whether they are to be had.

use std::io;

use netd_common::tables::PortRange;

use super::{Daemon, Failure};
use crate::{
    model::{Model, PortPublication, PortSpec, Protocol, Rejection, first_conflict, supported},
    reconcile::{Guard, Kernel, Process},
    reserve::{Fresh, Place},
};

/// Where free ports are looked for if the host does not say.
const EPHEMERAL: PortRange = PortRange { first: 32_768, last: 60_999 };

impl<K: Kernel> Daemon<K> {
    /// Reads specifications, chooses the ports that they leave open, and takes each of them on the host. `model` is the one
    /// they will be published in.
    pub(super) async fn taken_ports(
        &mut self,
        model: &Model,
        specs: &[String],
    ) -> Result<(Vec<PortPublication>, Fresh), Failure> {
        let (mut publications, mut fresh) = (Vec::<PortPublication>::new(), Fresh::new());
        for text in specs {
            let spec: PortSpec = text.parse()?;
            let host_ip = supported(&spec)?;
            if let (Some(ip), Guard::Sockets { why }) = (host_ip, self.kernel.guard())
                && ip.is_loopback()
            {
                return Err(Rejection::LoopbackUnreached { spec: spec.text, why }.into());
            }
            let at = |host_port| PortPublication {
                host_ip,
                host_port,
                port: spec.port,
                count: spec.count,
                protocol: spec.protocol,
            };
            let clashes = |wish: &PortPublication| {
                first_conflict(model, wish).or_else(|| {
                    let port = publications.iter().find_map(|other| other.clash(wish))?;
                    let why = format!("port {port} is asked for twice");
                    Some(Rejection::BadPortSpec { spec: text.clone(), why })
                })
            };
            let (publication, taken) = match spec.host_port {
                Some(port) => {
                    let wish = at(port);
                    if let Some(rejection) = clashes(&wish) {
                        return Err(rejection.into());
                    }
                    (wish, self.take(&wish).await?)
                }
                None => {
                    let free = candidates(self.facts.ephemeral.unwrap_or(EPHEMERAL), spec.count);
                    let mut free = free.map(at).filter(|wish| clashes(wish).is_none());
                    let exhausted = || Rejection::NoFreePort { count: spec.count, protocol: spec.protocol };
                    loop {
                        let wish = free.next().ok_or_else(exhausted)?;
                        if self.is_held(&wish).await? {
                            continue;
                        }
                        // A look has found nobody; for many ports it is enough.
                        let first = PortPublication { count: 1, ..wish };
                        let wanted = if self.reservations.takes_each(wish.count) { &wish } else { &first };
                        match self.reservations.take(wanted) {
                            Ok(taken) => break (wish, taken),
                            Err((_, error)) if error.kind() == io::ErrorKind::AddrInUse => {}
                            Err((place, error)) => return Err(untaken(place, error)),
                        }
                    }
                }
            };
            publications.push(publication);
            fresh.extend(taken);
        }
        Ok((publications, fresh))
    }

    async fn is_held(&mut self, wish: &PortPublication) -> Result<bool, Failure> {
        let held = self.kernel.holder(wish.bound_address(), wish.protocol.number(), wish.host_ports()).await?;
        Ok(held.is_some())
    }

    /// Takes every port of a publication; where one is not to be had, says who has it.
    async fn take(&mut self, wish: &PortPublication) -> Result<Fresh, Failure> {
        let protocol = wish.protocol;
        if !self.reservations.takes_each(wish.count) {
            // One stands for all of what only a socket shows: that the address is the host's.
            let first = PortPublication { count: 1, ..*wish };
            let held = self.kernel.holder(wish.bound_address(), protocol.number(), wish.host_ports()).await?;
            return match held {
                None => self.reservations.take(&first).map_err(|(place, error)| untaken(place, error)),
                Some((port, process)) => Err(held_by(port, protocol, Some(process)).into()),
            };
        }
        match self.reservations.take(wish) {
            Ok(fresh) => Ok(fresh),
            Err(((address, protocol, port), error)) if error.kind() == io::ErrorKind::AddrInUse => {
                let holder = self.kernel.holder(address, protocol.number(), port..=port).await?;
                Err(held_by(port, protocol, holder.map(|(_, process)| process)).into())
            }
            Err((place, error)) => Err(untaken(place, error)),
        }
    }
}

fn held_by(port: u16, protocol: Protocol, process: Option<Process>) -> Rejection {
    match process.filter(|process| process.pid != 0) {
        Some(process) => Rejection::PortHeld { port, protocol, process },
        None => Rejection::PortInUse { port, protocol },
    }
}

fn untaken((address, protocol, port): Place, error: io::Error) -> Failure {
    match (error.kind(), address) {
        (io::ErrorKind::AddrNotAvailable, std::net::IpAddr::V4(address)) => Rejection::NotOurAddress(address).into(),
        _ => Failure::Failed(
            anyhow::Error::new(error).context(format!("cannot hold port {port}/{protocol} of {address}")),
        ),
    }
}

/// First ports of runs of `count` in the ephemeral range, from its middle upward, then from its start: the lower half is what
/// the kernel prefers to hand out for connections.
fn candidates(ephemeral: PortRange, count: u16) -> impl Iterator<Item = u16> {
    let (first, last) = (u32::from(ephemeral.first.max(1)), u32::from(ephemeral.last));
    let middle = first.midpoint(last.max(first));
    let end = (last + 2).saturating_sub(u32::from(count));
    (middle..end).chain(first..middle.min(end)).filter_map(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_looked_for_from_the_middle_and_runs_stay_inside() {
        let range = PortRange { first: 10, last: 19 };

        assert_eq!(candidates(range, 1).collect::<Vec<_>>(), [14, 15, 16, 17, 18, 19, 10, 11, 12, 13]);
        assert_eq!(candidates(range, 4).collect::<Vec<_>>(), [14, 15, 16, 10, 11, 12, 13]);
        assert_eq!(candidates(range, 10).collect::<Vec<_>>(), [10]);
        assert_eq!(candidates(range, 11).count(), 0);
        assert_eq!(candidates(PortRange { first: 65_534, last: 65_535 }, 1).count(), 2);
    }
}
