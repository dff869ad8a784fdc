//! How large a network's packets are: as large as the narrowest way out takes, and encapsulated the narrowest way to another host,
//! unless the user says.

use super::{Driver, Model, Name, Rejection, Subnet};
use crate::reconcile::{Family, HostFacts};

/// What Ethernet has, where no way out says more or less.
const ETHERNET: u32 = 1500;

/// What IPv4 needs (RFC 791) and what a device can have.
const BOUNDS: std::ops::RangeInclusive<u32> = 68..=65_535;

/// The least that every IPv6 link must carry (RFC 8200 section 5).
const IPV6: u32 = 1280;

/// The MTU of a network of this driver with these subnets: the user's, or what fits.
pub fn chosen(wish: Option<u32>, subnets: &[Subnet], driver: &Driver, facts: &HostFacts) -> Result<u32, Rejection> {
    let least = least(subnets);
    match wish {
        None => Ok(fitting(driver, facts).unwrap_or_else(|| ETHERNET.saturating_sub(driver.overhead())).max(least)),
        Some(mtu) if !BOUNDS.contains(&mtu) => Err(Rejection::BadMtu(mtu)),
        Some(mtu) if mtu < least => Err(Rejection::MtuBelowIpv6(mtu)),
        Some(mtu) => Ok(mtu),
    }
}

fn least(subnets: &[Subnet]) -> u32 {
    if subnets.iter().any(|subnet| subnet.family() == Family::V6) { IPV6 } else { *BOUNDS.start() }
}

/// Gives every network that has no MTU of the user's the one that the routes have; those that change.
pub fn follow_mtu(model: &mut Model, facts: &HostFacts) -> Vec<Name> {
    let outdated = outdated_mtus(model, facts);
    for (name, mtu) in &outdated {
        model.networks.entry(name.clone()).and_modify(|network| network.mtu = *mtu);
    }
    outdated.into_iter().map(|(name, _)| name).collect()
}

/// The networks without an MTU of the user's that have another one than the routes, and that one. While there is no way out there
/// are none: it will come back.
pub fn outdated_mtus(model: &Model, facts: &HostFacts) -> Vec<(Name, u32)> {
    let following = model.networks.values().filter(|network| network.mtu_follows);
    let outdated = following.filter_map(|network| {
        let mtu = fitting(&network.driver, facts)?.max(least(&network.subnets));
        (network.mtu != mtu).then(|| (network.name.clone(), mtu))
    });
    outdated.collect()
}

/// Gives a network an MTU, or `None` for the one that the routes have from now on.
pub fn set_mtu(model: &mut Model, name: &Name, mtu: Option<u32>, facts: &HostFacts) -> Result<(), Rejection> {
    let network = model.networks.get_mut(name).ok_or_else(|| Rejection::UnknownNetwork(name.to_string()))?;
    let chosen = chosen(mtu, &network.subnets, &network.driver, facts)?;
    (network.mtu, network.mtu_follows) = (chosen, mtu.is_none());
    Ok(())
}

/// The largest packet between hosts of a network that spans them, in bytes: by the narrowest of the ways to those that there is a
/// route to, or where nothing is known of them yet, by the narrowest way out.
pub fn underlay(driver: &Driver, facts: &HostFacts) -> Option<u32> {
    let ways = match driver {
        Driver::Bridge => None,
        Driver::Overlay(_) => facts.ways.nodes.values().map(|way| way.mtu).min(),
        Driver::Vxlan(segment) => {
            segment.peers.iter().filter_map(|peer| facts.ways.peers.get(peer)).map(|way| way.mtu).min()
        }
    };
    ways.or_else(|| facts.narrowest()).map(within_bounds)
}

/// What fits through every uplink, as their routes have it, and through the tunnels of the driver.
fn fitting(driver: &Driver, facts: &HostFacts) -> Option<u32> {
    let out = facts.narrowest().map(within_bounds);
    let between = driver.segment().and_then(|_| underlay(driver, facts));
    out.into_iter().chain(between.map(|mtu| mtu.saturating_sub(driver.overhead()))).min()
}

fn within_bounds(mtu: u32) -> u32 {
    mtu.clamp(*BOUNDS.start(), *BOUNDS.end())
}
