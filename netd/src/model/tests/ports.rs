//! Published ports: where one is open, and whose it is.

use super::*;

#[test]
fn ports_clash_by_protocol_number_and_address_and_any_address_is_every_address() {
    let port = |text: &str| {
        let spec: PortSpec = text.parse().unwrap();
        let address = spec.host_ip.unwrap_or(Family::V4.unspecified());
        publication(&spec, Place { address, direct: false })
    };
    let cases = [
        ("80:80", "80:81", Some(80)),
        ("80:80", "80:80/udp", None),
        ("192.0.2.1:80:80", "192.0.2.2:80:80", None),
        ("192.0.2.1:80:80", "80:80", Some(80)),
        ("0.0.0.0:80:80", "192.0.2.2:80:80", Some(80)),
        ("8000-8010:8000-8010", "8010-8020:8010-8020", Some(8010)),
        ("8000-8009:8000-8009", "8010:80", None),
        ("65535:65535", "65000-65535:65000-65535", Some(65535)),
        ("80:80", "[::]:80:80", None),
        ("[::]:80:80", "[2001:db8::1]:80:80", Some(80)),
        ("[2001:db8::2]:80:80", "[2001:db8::1]:80:80", None),
    ];
    for (a, b, clash) in cases {
        assert_eq!(port(a).clash(&port(b)), clash, "{a} {b}");
        assert_eq!(port(b).clash(&port(a)), clash, "{b} {a}");
    }
}

#[test]
fn unpublishing_takes_what_the_specification_names() {
    let name: Name = "c1".parse().unwrap();
    for spec in ["8080:80", "80", ":80/tcp"] {
        let mut model = two_networks_and_an_endpoint();
        unpublish(&mut model, &name, &[spec.parse().unwrap()]).unwrap();
        assert!(model.endpoints[&name].publications.is_empty());
    }
    for spec in ["8081:80", "80/udp", "192.0.2.1:8080:80", "80-81"] {
        let mut model = two_networks_and_an_endpoint();
        let rejection = unpublish(&mut model, &name, &[spec.parse().unwrap()]).unwrap_err();
        assert_eq!(rejection.to_string(), format!("c1 publishes nothing as {spec}"));
    }
}

#[test]
fn what_this_version_cannot_publish_is_refused_by_name() {
    let cases = [("[fe80::1]:80:80", "a link-local address of the host in `[fe80::1]:80:80`")];
    for (text, what) in cases {
        let model = two_networks_and_an_endpoint();
        let rejection = places(&model, &"c1".parse().unwrap(), &text.parse().unwrap(), &[]).unwrap_err();
        assert_eq!(rejection.to_string(), format!("{what} is not supported by this version"));
    }
}

#[test]
fn a_port_is_published_in_every_family_with_one_number() {
    let model = a_network_of_both_families_and_an_endpoint("fd00:1::/64");

    let published: Vec<_> = model.endpoints[&"c1".parse().unwrap()].publications.iter().collect();
    let places: Vec<_> = published.iter().map(|p| (p.host_ip.to_string(), p.host_port, p.port, p.direct)).collect();
    assert_eq!(places, [("0.0.0.0".to_owned(), 8080, 80, false), ("::".to_owned(), 8080, 80, false)]);
}

#[test]
fn a_port_of_a_routed_network_is_open_at_the_containers_own_address() {
    let mut model = a_network_of_both_families_and_an_endpoint("2001:db8:1::/64");
    let name: Name = "c1".parse().unwrap();
    open(&mut model, "c1", &["8081:80"]).unwrap();

    let places = |model: &Model| -> Vec<_> {
        let publications = &model.endpoints[&name].publications;
        publications.iter().map(|p| format!("{} {}", p.host_ip, p.host_port)).collect()
    };
    assert_eq!(places(&model), ["0.0.0.0 8080", "2001:db8:1::2 80", "0.0.0.0 8081"]);
    unpublish(&mut model, &name, &["8080:80".parse().unwrap()]).unwrap();
    assert_eq!(places(&model), ["2001:db8:1::2 80", "0.0.0.0 8081"]);
    unpublish(&mut model, &name, &["80".parse().unwrap()]).unwrap();
    assert_eq!(places(&model), [""; 0]);
}

#[test]
fn a_port_of_an_address_is_free_when_its_container_has_left_the_routed_network() {
    let mut model = a_network_of_both_families_and_an_endpoint("2001:db8:1::/64");
    let (web, dual): (Name, Name) = ("c1".parse().unwrap(), "dual".parse().unwrap());
    disconnect(&mut model, &web, &dual).unwrap();
    join(&mut model, "c2", &["dual:ip6=2001:db8:1::2"]).unwrap();

    open(&mut model, "c2", &["8081:80"]).unwrap();

    let places: Vec<_> = model.endpoints[&"c2".parse().unwrap()].publications.iter().map(|p| p.host_ip).collect();
    assert!(places.contains(&"2001:db8:1::2".parse().unwrap()), "{places:?}");
}

#[test]
fn a_port_of_the_host_is_ignored_with_a_word_where_the_network_is_routed() {
    let model = a_network_of_both_families_and_an_endpoint("2001:db8:1::/64");
    let ignored = |spec: &str| ignored(&model, &"c1".parse().unwrap(), &spec.parse().unwrap());

    let line = "network dual is routed in IPv6: port 8080 of the host is ignored, clients come to [2001:db8:1::2]:80";
    assert_eq!(ignored("8080:80"), [line]);
    assert!(ignored("80").is_empty() && ignored("192.0.2.1:8080:80").is_empty());
}
