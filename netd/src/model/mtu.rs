//! How large a network's packets are: as large as the narrowest way out takes, unless the user says.

use super::{Model, Name, Rejection, Subnet};
use crate::reconcile::{Family, HostFacts};

/// What Ethernet has, where no way out says more or less.
const ETHERNET: u32 = 1500;

/// What IPv4 needs (RFC 791) and what a device can have.
const BOUNDS: std::ops::RangeInclusive<u32> = 68..=65_535;

/// The least that every IPv6 link must carry (RFC 8200 section 5).
const IPV6: u32 = 1280;

/// The MTU of a network with these subnets: the user's, or what fits through every uplink, as their routes have it, with the
/// `overhead` of its driver.
pub fn chosen(wish: Option<u32>, subnets: &[Subnet], overhead: u32, facts: &HostFacts) -> Result<u32, Rejection> {
    let least = least(subnets);
    match wish {
        None => Ok(narrowest(facts).unwrap_or(ETHERNET).saturating_sub(overhead).max(least)),
        Some(mtu) if !BOUNDS.contains(&mtu) => Err(Rejection::BadMtu(mtu)),
        Some(mtu) if mtu < least => Err(Rejection::MtuBelowIpv6(mtu)),
        Some(mtu) => Ok(mtu),
    }
}

fn least(subnets: &[Subnet]) -> u32 {
    if subnets.iter().any(|subnet| subnet.family() == Family::V6) { IPV6 } else { *BOUNDS.start() }
}

/// Gives every network that has no MTU of the user's the one that the routes have; those that change. While there is no way
/// out nothing changes: it will come back.
pub fn follow_mtu(model: &mut Model, facts: &HostFacts) -> Vec<Name> {
    let Some(mtu) = narrowest(facts) else { return Vec::new() };
    let mut changed = Vec::new();
    for network in model.networks.values_mut().filter(|network| network.mtu_follows) {
        let mtu = mtu.saturating_sub(network.driver.overhead()).max(least(&network.subnets));
        if std::mem::replace(&mut network.mtu, mtu) != mtu {
            changed.push(network.name.clone());
        }
    }
    changed
}

/// Gives a network an MTU, or `None` for the one that the routes have from now on.
pub fn set_mtu(model: &mut Model, name: &Name, mtu: Option<u32>, facts: &HostFacts) -> Result<(), Rejection> {
    let network = model.networks.get_mut(name).ok_or_else(|| Rejection::UnknownNetwork(name.to_string()))?;
    let chosen = chosen(mtu, &network.subnets, network.driver.overhead(), facts)?;
    (network.mtu, network.mtu_follows) = (chosen, mtu.is_none());
    Ok(())
}

fn narrowest(facts: &HostFacts) -> Option<u32> {
    facts.narrowest().map(|mtu| mtu.clamp(*BOUNDS.start(), *BOUNDS.end()))
}
