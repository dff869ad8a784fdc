//! How names and the specification of a network are read.

use super::*;

#[test]
fn names_are_letters_digits_and_three_signs() {
    for name in ["a", "0", "web-1.front_x", &"a".repeat(63)] {
        assert_eq!(name.parse::<Name>().unwrap().as_str(), name);
    }
    for name in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"a".repeat(64)] {
        assert_eq!(name.parse::<Name>(), Err(Rejection::NotAName(name.to_owned())));
    }
}

#[test]
fn both_forms_of_a_network_specification_are_read() {
    let whole: NetSpec = "front:ip=10.0.0.7,ip6=fd00::7,mac=02:00:00:00:00:07,ifname=web0".parse().unwrap();

    assert_eq!(whole, "name=front,ip=10.0.0.7,ip6=fd00::7,mac=02:00:00:00:00:07,ifname=web0".parse().unwrap());
    assert_eq!(whole.ip, Some("10.0.0.7".parse().unwrap()));
    assert_eq!(whole.ip6, Some("fd00::7".parse().unwrap()));
    assert_eq!(whole.mac, Some(Mac([2, 0, 0, 0, 0, 7])));
    assert_eq!(whole.ifname, LinkName::new("web0"));
    assert_eq!("front".parse(), Ok(NetSpec::anywhere_in("front".parse().unwrap())));
}

#[test]
fn a_network_specification_that_is_none_is_refused_with_the_part_that_is_wrong() {
    let cases = [
        ("front:ip=x", "`front:ip=x` does not say which network to join: ip=x is not an IPv4 address"),
        ("front:mac=ff:ff:ff:ff:ff:ff", "mac=ff:ff:ff:ff:ff:ff is not the address of one station"),
        ("front:ifname=lo", "ifname=lo is not a name that an interface can have"),
        ("front:colour=red", "`colour` is none of ip, ip6, mac, ifname, alias, gw-priority"),
        ("front:ip=10.0.0.1,ip=10.0.0.2", "`ip` is there twice"),
        ("front:ip6=10.0.0.1", "ip6=10.0.0.1 is not an IPv6 address"),
        ("front:ifname=default", "ifname=default is not a name that an interface can have"),
        ("front:ifname=eth%d", "ifname=eth%d is not a name that an interface can have"),
        ("front:gw-priority=high", "gw-priority=high is not a whole number"),
        ("front:alias=a/b", "`a/b` is not a name"),
        ("a b", "`a b` is not a name"),
        ("a\nb", "`a\\nb` is not a name"),
    ];
    for (text, line) in cases {
        let rejection = text.parse::<NetSpec>().unwrap_err().to_string();
        assert!(rejection.contains(line), "{rejection}");
    }
}
