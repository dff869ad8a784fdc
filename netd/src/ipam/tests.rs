//! What is given out, and what is not.

use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn given(subnet: &str, taken: &[&str], last: Option<&str>) -> Option<IpAddr> {
    let taken = taken.iter().map(|address| ip(address)).collect();
    Pool { subnet: net(subnet), range: net(subnet), taken: &taken, last: last.map(ip), freed: &VecDeque::new() }.next()
}

fn automatic(avoid: &[&str]) -> Option<IpNet> {
    let avoid: Vec<_> = avoid.iter().map(|text| net(text)).collect();
    free_subnet(&[AUTOMATIC], &avoid)
}

#[test]
fn subnets_are_given_lowest_first_around_what_is_in_the_way() {
    assert_eq!(automatic(&[]), Some(net("10.176.0.0/24")));
    assert_eq!(automatic(&["10.176.0.0/23"]), Some(net("10.176.2.0/24")));
    assert_eq!(automatic(&["10.176.0.7/32"]), Some(net("10.176.1.0/24")));
    assert_eq!(automatic(&["10.176.0.0/24", "10.176.1.128/25", "fd00::/8"]), Some(net("10.176.2.0/24")));
    assert_eq!(automatic(&["10.0.0.0/8"]), None);
}

#[test]
fn the_next_pool_is_used_when_one_is_full() {
    let pools = [AUTOMATIC, SubnetPool { base: net("172.30.0.0/30"), size: 31 }];

    assert_eq!(free_subnet(&pools, &[net("10.176.0.0/12")]), Some(net("172.30.0.0/31")));
    assert_eq!(free_subnet(&pools, &[net("10.176.0.0/12"), net("172.30.0.0/31")]), Some(net("172.30.0.2/31")));
}

#[test]
fn a_node_has_a_unique_local_site_of_its_own() {
    let site = unique_local(0x12_3456_789a);

    assert_eq!(site, "fd12:3456:789a::/48".parse().unwrap());
    let pools = Pools::automatic(site);
    assert_eq!(free_subnet(&pools.ipv6, &[]), Some(net("fd12:3456:789a::/64")));
    assert_eq!(free_subnet(&pools.ipv6, &[net("fd12:3456:789a::/64")]), Some(net("fd12:3456:789a:1::/64")));
    assert_eq!(free_subnet(&pools.ipv6, &[net("fd00::/8")]), None);
}

#[test]
fn a_freed_address_goes_to_the_end_of_the_queue() {
    let freed = [ip("10.0.0.4"), ip("10.0.0.2")].into();
    let given = |taken: &[&str]| {
        let (subnet, taken) = (net("10.0.0.0/29"), taken.iter().map(|address| ip(address)).collect());
        Pool { subnet, range: subnet, taken: &taken, last: Some(ip("10.0.0.3")), freed: &freed }.next()
    };

    assert_eq!(given(&["10.0.0.1", "10.0.0.3"]), Some(ip("10.0.0.5")));
    assert_eq!(given(&["10.0.0.1", "10.0.0.3", "10.0.0.5"]), Some(ip("10.0.0.6")));
    assert_eq!(given(&["10.0.0.1", "10.0.0.3", "10.0.0.5", "10.0.0.6"]), Some(ip("10.0.0.4")));
    assert_eq!(given(&["10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]), Some(ip("10.0.0.2")));
}

#[test]
fn a_subnet_of_two_or_four_addresses_gives_what_it_has() {
    assert_eq!(given("10.0.0.0/30", &["10.0.0.1"], None), Some(ip("10.0.0.2")));
    assert_eq!(given("10.0.0.0/30", &["10.0.0.1", "10.0.0.2"], None), None);
    assert_eq!(first_address(&net("10.0.0.0/31")), ip("10.0.0.0"));
    assert_eq!(given("10.0.0.0/31", &["10.0.0.0"], None), Some(ip("10.0.0.1")));
    assert_eq!(given("10.0.0.0/32", &["10.0.0.0"], None), None);
    assert_eq!(given("fd00::/127", &["fd00::"], None), Some(ip("fd00::1")));
    assert_eq!(given("fd00::/126", &["fd00::1", "fd00::2"], None), Some(ip("fd00::3")));
}

#[test]
fn an_ipv6_subnet_has_an_anycast_address_and_no_broadcast() {
    let subnet = net("fd00:0:0:7::/64");

    assert_eq!(first_address(&subnet), ip("fd00:0:0:7::1"));
    assert_eq!(meaning(&subnet, ip("fd00:0:0:7::")), Some("the subnet-router anycast address"));
    assert_eq!(meaning(&subnet, subnet.broadcast()), None);
    assert_eq!(given("fd00:0:0:7::/64", &["fd00:0:0:7::1"], None), Some(ip("fd00:0:0:7::2")));
    assert_eq!(given("fd00:0:0:7::/64", &[], Some("fd00::7:ffff:ffff:ffff:ffff")), Some(ip("fd00:0:0:7::1")));
}

#[test]
fn the_last_address_there_is_wraps_around() {
    assert_eq!(given("255.255.255.254/31", &[], Some("255.255.255.255")), Some(ip("255.255.255.254")));
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_eq!(given(&format!("{last}/127"), &[], Some(last)), Some(net(&format!("{last}/127")).network()));
}

/// A subnet of `2^bits` addresses of either family, somewhere.
fn subnets(bits: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = IpNet> {
    (bits, any::<u32>(), any::<u128>(), any::<bool>()).prop_map(|(bits, v4, v6, is_v4)| {
        if is_v4 {
            IpNet::new(Ipv4Addr::from(v4).into(), 32 - bits).unwrap().trunc()
        } else {
            IpNet::new(Ipv6Addr::from(v6).into(), 128 - bits).unwrap().trunc()
        }
    })
}

/// The address of `net` with this number, counted around.
fn inside(net: &IpNet, n: u32) -> IpAddr {
    let size = 1_u128 << (net.max_prefix_len() - net.prefix_len());
    address_like(net, number(net.network()) + u128::from(n) % size)
}

fn all(net: &IpNet) -> impl Iterator<Item = IpAddr> + use<> {
    let net = *net;
    (number(net.network())..=number(net.broadcast())).map(move |n| address_like(&net, n))
}

proptest! {
    #[test]
    fn an_address_given_is_free_usable_and_in_the_range(
        subnet in subnets(0..=16),
        range_bits in 0_u8..6,
        seed: u32,
        taken in prop::collection::btree_set(any::<u32>(), 0..200),
        last: u32,
        freed in prop::collection::vec(any::<u32>(), 0..300),
    ) {
        let prefix = (subnet.prefix_len() + range_bits).min(subnet.max_prefix_len());
        let range = IpNet::new(inside(&subnet, seed), prefix).unwrap().trunc();
        let taken: BTreeSet<_> = taken.into_iter().map(|n| inside(&subnet, n)).collect();
        let (last, freed) = (Some(inside(&subnet, last)), freed.into_iter().map(|n| inside(&subnet, n)).collect());

        match (Pool { subnet, range, taken: &taken, last, freed: &freed }).next() {
            Some(address) => {
                prop_assert!(range.contains(&address) && !taken.contains(&address));
                prop_assert_eq!(meaning(&subnet, address), None);
            }
            None => prop_assert!(all(&range).all(|a| taken.contains(&a) || meaning(&subnet, a).is_some())),
        }
    }

    #[test]
    fn every_free_address_is_given_once_before_any_comes_again(subnet in subnets(0..=8), start: u32) {
        let mut last = Some(inside(&subnet, start));
        let (mut given, none, freed) = (BTreeSet::new(), BTreeSet::new(), VecDeque::new());
        let usable = all(&subnet).filter(|address| meaning(&subnet, *address).is_none()).count();

        for _ in 0..usable {
            last = Pool { subnet, range: subnet, taken: &none, last, freed: &freed }.next();
            prop_assert!(given.insert(last.unwrap()));
        }
    }

    #[test]
    fn a_free_subnet_is_the_lowest_that_overlaps_nothing(
        avoid in prop::collection::vec((any::<u32>(), 8_u8..=32), 0..40),
        size in 12_u8..=20,
    ) {
        let pool = SubnetPool { size, ..AUTOMATIC };
        let avoid: Vec<IpNet> = avoid
            .into_iter()
            .map(|(at, prefix)| IpNet::new(inside(&pool.base, at), prefix).unwrap().trunc())
            .collect();
        let naive = pool.base.subnets(size).unwrap().find(|subnet| !avoid.iter().any(|taken| overlap(taken, subnet)));

        prop_assert_eq!(free_subnet(&[pool], &avoid), naive);
    }
}
