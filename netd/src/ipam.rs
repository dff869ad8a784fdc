//! Which subnet a network gets and which address an endpoint: arithmetic on what is taken, and nothing else.
//!
//! Invariant: nothing here performs IO or remembers anything.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// Where automatic subnets come from: outside of what Docker, Podman, Kubernetes, clouds and VPNs like to take.
pub const AUTOMATIC: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 176, 0, 0), 12);

/// Prefix length of an automatic subnet.
const AUTOMATIC_PREFIX: u8 = 24;

/// The lowest /24 of [`AUTOMATIC`] that overlaps none of `avoid`.
pub fn free_subnet(avoid: &[Ipv4Net]) -> Option<Ipv4Net> {
    AUTOMATIC.subnets(AUTOMATIC_PREFIX).ok()?.find(|subnet| !avoid.iter().any(|taken| overlap(subnet, taken)))
}

/// Whether the two have an address in common.
pub fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// What the address of its subnet means that no one can have: `None` for one that a host can have. A /31 (RFC 3021) and a /32
/// have no such address.
pub fn meaning(subnet: &Ipv4Net, address: Ipv4Addr) -> Option<&'static str> {
    if subnet.prefix_len() >= 31 {
        return None;
    }
    if address == subnet.network() {
        return Some("the network address");
    }
    (address == subnet.broadcast()).then_some("the broadcast address")
}

/// The first address that a host can have.
pub fn first_address(subnet: &Ipv4Net) -> Ipv4Addr {
    if subnet.prefix_len() >= 31 { subnet.network() } else { Ipv4Addr::from(u32::from(subnet.network()) + 1) }
}

/// Where an address is taken from.
#[derive(Clone, Debug)]
pub struct Pool<'a> {
    /// The network's.
    pub subnet: Ipv4Net,
    /// The part of it that automatic addresses come from.
    pub range: Ipv4Net,
    /// Addresses that nobody gets: gateway, auxiliary ones, and those in use.
    pub taken: &'a BTreeSet<Ipv4Addr>,
    /// The address that was given out last.
    pub last: Option<Ipv4Addr>,
}

impl Pool<'_> {
    /// The free address that comes next after the last one given out, from the end of the range on from its start again: so
    /// a freed address is the last to be given again, and neighbours' caches have forgotten it by then.
    pub fn next(&self) -> Option<Ipv4Addr> {
        let (first, last) = (u32::from(self.range.network()), u32::from(self.range.broadcast()));
        let start = match self.last.map(u32::from) {
            Some(given) if first <= given && given < last => given + 1,
            _ => first,
        };
        (start..=last).chain(first..start).map(Ipv4Addr::from).find(|address| self.is_free(*address))
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        meaning(&self.subnet, address).is_none() && !self.taken.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn given(subnet: &str, taken: &BTreeSet<Ipv4Addr>, last: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        Pool { subnet: net(subnet), range: net(subnet), taken, last }.next()
    }

    #[test]
    fn subnets_are_given_lowest_first_around_what_is_in_the_way() {
        assert_eq!(free_subnet(&[]), Some(net("10.176.0.0/24")));
        assert_eq!(free_subnet(&[net("10.176.0.0/23")]), Some(net("10.176.2.0/24")));
        assert_eq!(free_subnet(&[net("10.176.0.7/32")]), Some(net("10.176.1.0/24")));
        assert_eq!(free_subnet(&[net("10.0.0.0/8")]), None);
    }

    #[test]
    fn a_freed_address_goes_to_the_end_of_the_queue() {
        let mut taken = BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3")]);
        let last = Some(ip("10.0.0.3"));

        taken.remove(&ip("10.0.0.2"));

        assert_eq!(given("10.0.0.0/29", &taken, last), Some(ip("10.0.0.4")));
        taken.extend([ip("10.0.0.4"), ip("10.0.0.5"), ip("10.0.0.6")]);
        assert_eq!(given("10.0.0.0/29", &taken, Some(ip("10.0.0.6"))), Some(ip("10.0.0.2")));
    }

    #[test]
    fn a_subnet_of_two_or_four_addresses_gives_what_it_has() {
        let gateway = BTreeSet::from([ip("10.0.0.1")]);
        assert_eq!(given("10.0.0.0/30", &gateway, None), Some(ip("10.0.0.2")));
        assert_eq!(given("10.0.0.0/30", &BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.2")]), None), None);
        assert_eq!(first_address(&net("10.0.0.0/31")), ip("10.0.0.0"));
        assert_eq!(given("10.0.0.0/31", &BTreeSet::from([ip("10.0.0.0")]), None), Some(ip("10.0.0.1")));
        assert_eq!(given("10.0.0.0/32", &BTreeSet::from([ip("10.0.0.0")]), None), None);
    }

    #[test]
    fn the_last_address_there_is_wraps_around() {
        let none = BTreeSet::new();
        assert_eq!(given("255.255.255.254/31", &none, Some(ip("255.255.255.255"))), Some(ip("255.255.255.254")));
    }

    proptest! {
        #[test]
        fn an_address_given_is_free_usable_and_in_the_range(
            prefix in 16_u8..=32,
            range_bits in 0_u8..6,
            seed: u32,
            taken in prop::collection::btree_set(any::<u32>(), 0..200),
            last: u32,
        ) {
            let subnet = Ipv4Net::new(Ipv4Addr::from(seed), prefix).unwrap().trunc();
            let inside = |n: u32| {
                let hosts = u64::from(u32::from(subnet.broadcast()) - u32::from(subnet.network())) + 1;
                Ipv4Addr::from(u32::from(subnet.network()) + (u64::from(n) % hosts) as u32)
            };
            let range = Ipv4Net::new(inside(seed.rotate_left(7)), (prefix + range_bits).min(32)).unwrap().trunc();
            let taken: BTreeSet<_> = taken.into_iter().map(inside).collect();

            match (Pool { subnet, range, taken: &taken, last: Some(inside(last)) }).next() {
                Some(address) => {
                    prop_assert!(range.contains(&address) && !taken.contains(&address));
                    prop_assert_eq!(meaning(&subnet, address), None);
                }
                None => prop_assert!(range.hosts().chain([range.network(), range.broadcast()])
                    .all(|a| taken.contains(&a) || meaning(&subnet, a).is_some())),
            }
        }

        #[test]
        fn every_free_address_is_given_once_before_any_comes_again(prefix in 24_u8..=32, start: u32) {
            let subnet = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), prefix).unwrap();
            let mut last = Some(Ipv4Addr::from(u32::from(subnet.network()) | (start % 256)));
            let (mut given, none) = (BTreeSet::new(), BTreeSet::new());
            let usable = (0..1_u32 << (32 - prefix))
                .filter(|n| meaning(&subnet, Ipv4Addr::from(u32::from(subnet.network()) + n)).is_none())
                .count();

            for _ in 0..usable {
                last = Pool { subnet, range: subnet, taken: &none, last }.next();
                prop_assert!(given.insert(last.unwrap()));
            }
        }
    }
}
