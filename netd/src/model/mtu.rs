//! How large a network's packets are: as large as the narrowest way out takes, unless the user says.

use super::{Model, Name, Rejection};
use crate::reconcile::HostFacts;

/// What Ethernet has, where no way out says more or less.
const ETHERNET: u32 = 1500;

/// What IPv4 needs (RFC 791) and what a device can have.
const BOUNDS: std::ops::RangeInclusive<u32> = 68..=65_535;

/// What fits through every uplink, as their routes have it.
pub fn found(facts: &HostFacts) -> u32 {
    narrowest(facts).unwrap_or(ETHERNET)
}

/// An MTU that a device can have.
pub fn checked(mtu: u32) -> Result<u32, Rejection> {
    if BOUNDS.contains(&mtu) { Ok(mtu) } else { Err(Rejection::BadMtu(mtu)) }
}

/// Gives every network that has no MTU of the user's the one that the routes have; those that change. While there is no way
/// out nothing changes: it will come back.
pub fn follow_mtu(model: &mut Model, facts: &HostFacts) -> Vec<Name> {
    let Some(mtu) = narrowest(facts) else { return Vec::new() };
    let followers = model.networks.values_mut().filter(|network| network.mtu_follows && network.mtu != mtu);
    followers
        .map(|network| {
            network.mtu = mtu;
            network.name.clone()
        })
        .collect()
}

/// Gives a network an MTU, or `None` for the one that the routes have from now on.
pub fn set_mtu(model: &mut Model, name: &Name, mtu: Option<u32>, facts: &HostFacts) -> Result<(), Rejection> {
    let chosen = mtu.map_or(Ok(found(facts)), checked)?;
    let network = model.networks.get_mut(name).ok_or_else(|| Rejection::UnknownNetwork(name.to_string()))?;
    (network.mtu, network.mtu_follows) = (chosen, mtu.is_none());
    Ok(())
}

fn narrowest(facts: &HostFacts) -> Option<u32> {
    let narrowest = facts.uplinks.values().map(|uplink| uplink.path_mtu).min();
    narrowest.map(|mtu| mtu.clamp(*BOUNDS.start(), *BOUNDS.end()))
}
