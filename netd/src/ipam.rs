//! Which subnet a network gets and which address an endpoint: arithmetic on what is taken, and nothing else.
//!
//! Invariant: nothing here performs IO or remembers anything. Both families are one arithmetic, on the number that an
//! address is.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv6Net};

/// Where automatic subnets come from, of each family the pools in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pools {
    /// Of IPv4.
    pub ipv4: Vec<SubnetPool>,
    /// Of IPv6.
    pub ipv6: Vec<SubnetPool>,
}

/// A range of addresses that subnets of one size are cut from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubnetPool {
    /// The range.
    pub base: IpNet,
    /// Prefix length of a subnet, not less than that of the range.
    pub size: u8,
}

/// Outside of what Docker, Podman, Kubernetes, clouds and VPNs like to take.
const AUTOMATIC: SubnetPool =
    SubnetPool { base: IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 176, 0, 0)), 12), size: 24 };

impl Pools {
    /// The pools that are used where nothing else is configured; `site` is the node's own /48 of [`unique_local`].
    pub fn automatic(site: Ipv6Net) -> Self {
        Self { ipv4: vec![AUTOMATIC], ipv6: vec![SubnetPool { base: site.into(), size: 64 }] }
    }
}

/// The /48 of unique local addresses with this Global ID, of which 40 bits count. It is drawn at random and so
/// unlikely to be another site's (RFC 4193 section 3.2.2).
pub fn unique_local(global_id: u64) -> Ipv6Net {
    let [.., a, b, c, d, e] = global_id.to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&[0xfd, a, b, c, d, e]);
    Ipv6Net::new_assert(bytes.into(), 48)
}

/// The lowest subnet of the first pool that has one which overlaps none of `avoid`.
pub fn free_subnet(pools: &[SubnetPool], avoid: &[IpNet]) -> Option<IpNet> {
    pools.iter().find_map(|pool| free_subnet_of(pool, avoid))
}

/// Goes from what is in the way to the first place behind it.
fn free_subnet_of(pool: &SubnetPool, avoid: &[IpNet]) -> Option<IpNet> {
    let end = number(pool.base.broadcast());
    let mut start = number(pool.base.network());
    loop {
        let subnet = IpNet::new(address_like(&pool.base, start), pool.size).ok()?.trunc();
        let in_the_way = avoid.iter().filter(|taken| overlap(taken, &subnet)).map(|taken| number(taken.broadcast()));
        let Some(last) = in_the_way.max() else { return Some(subnet) };
        start = last.max(number(subnet.broadcast())).checked_add(1).filter(|next| *next <= end)?;
    }
}

/// Whether the two have an address in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// What the address of its subnet means that no one can have: `None` for one that a host can have. A /31 (RFC 3021), a /32, a
/// /127 (RFC 6164) and a /128 have no such address.
pub fn meaning(subnet: &IpNet, address: IpAddr) -> Option<&'static str> {
    if subnet.prefix_len() >= subnet.max_prefix_len() - 1 {
        return None;
    }
    match address {
        IpAddr::V4(_) if address == subnet.network() => Some("the network address"),
        IpAddr::V4(_) if address == subnet.broadcast() => Some("the broadcast address"),
        // RFC 4291 section 2.6.1.
        IpAddr::V6(_) if address == subnet.network() => Some("the subnet-router anycast address"),
        _ => None,
    }
}

/// The first address that a host can have.
pub fn first_address(subnet: &IpNet) -> IpAddr {
    let first = subnet.network();
    if meaning(subnet, first).is_none() { first } else { address_like(subnet, number(first) + 1) }
}

/// The address that has the number in `to`, which is as large, that `address` has in `from`.
pub fn transplanted(from: &IpNet, address: IpAddr, to: &IpNet) -> IpAddr {
    address_like(to, number(to.network()) + (number(address) - number(from.network())))
}

/// Where an address is taken from.
#[derive(Clone, Debug)]
pub struct Pool<'a> {
    /// The network's.
    pub subnet: IpNet,
    /// The part of it that automatic addresses come from.
    pub range: IpNet,
    /// Addresses that nobody gets: gateway, auxiliary ones, and those in use.
    pub taken: &'a BTreeSet<IpAddr>,
    /// The address that was given out last.
    pub last: Option<IpAddr>,
    /// Addresses that were given back, the one of longest ago first.
    pub freed: &'a VecDeque<IpAddr>,
}

impl Pool<'_> {
    /// The free address that was not given back, the next after the last one given out, from the end of the range on from its
    /// start again; where there is none, the one that was given back longest ago. So neighbours' caches have forgotten it.
    pub fn next(&self) -> Option<IpAddr> {
        let freed: BTreeSet<&IpAddr> = self.freed.iter().collect();
        let untouched = self.in_turn().find(|address| !freed.contains(address) && self.is_free(*address));
        let again =
            || self.freed.iter().copied().find(|address| self.range.contains(address) && self.is_free(*address));
        untouched.or_else(again)
    }

    /// Every address of the range, from the one after the last one given out on.
    fn in_turn(&self) -> impl Iterator<Item = IpAddr> {
        let (first, last) = (number(self.range.network()), number(self.range.broadcast()));
        let start = match self.last.map(number) {
            Some(given) if first <= given && given < last => given + 1,
            _ => first,
        };
        (start..=last).chain(first..start).map(|number| address_like(&self.range, number))
    }

    fn is_free(&self, address: IpAddr) -> bool {
        meaning(&self.subnet, address).is_none() && !self.taken.contains(&address)
    }
}

/// The address as a number: of IPv4 one of 32 bits.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address of the family of `net` that is this number, of which 32 bits count for IPv4.
fn address_like(net: &IpNet, number: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests;
