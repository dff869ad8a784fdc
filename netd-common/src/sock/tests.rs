//! Sockets of a host that publishes port 8080 of each of its addresses, and 5300 of 192.0.2.1 alone.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

mod staying;

use super::*;
use crate::{
    tables::SourceList,
    tuple::{SCTP, Zone},
};

const CONTAINER: Address = Address::v4([10, 176, 0, 2]);
const HOST: Address = Address::v4([192, 0, 2, 1]);
const LOOPBACK: Address = Address::v4([127, 0, 0, 1]);
const LOOPBACK_V6: Address = Address::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const HOST_V6: Address = Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const CONTAINER_V6: Address = Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
const ELSEWHERE: Address = Address::v4([203, 0, 113, 5]);

#[derive(Default)]
struct Host {
    publications: BTreeMap<PublicationKey, Publication>,
    sources: BTreeSet<SourceKey>,
    addresses: BTreeSet<Address>,
    elsewhere: BTreeMap<EndpointKey, MeshEnd>,
    encrypted: BTreeSet<u32>,
    servers: BTreeSet<(u8, Address, u16)>,
    /// The socket that calls.
    cookie: Cell<u64>,
    led: RefCell<BTreeMap<u64, &'static Led>>,
    dialled: RefCell<BTreeMap<DialledKey, &'static Dialled>>,
}

impl Publications for Host {
    fn entry(&self, question: &PublicationKey) -> Option<&Publication> {
        question.answers().find_map(|key| self.publications.get(&key))
    }
}

impl Places for Host {
    fn is_source(&self, key: &SourceKey) -> bool {
        self.sources.iter().any(|range| range.covers(key.list(), key.address()))
    }

    fn elsewhere(&self, key: &EndpointKey) -> Option<&MeshEnd> {
        self.elsewhere.get(key)
    }
}

impl Tables for Host {
    fn is_hosts(&self, address: &Address) -> bool {
        self.addresses.contains(address)
    }

    fn is_encrypted(&self, vni: u32) -> bool {
        self.encrypted.contains(&vni)
    }

    fn has_server(&self, protocol: u8, address: Address, port: Port) -> bool {
        self.servers.contains(&(protocol, address, port.number()))
    }

    fn cookie(&self) -> u64 {
        self.cookie.get()
    }

    fn led(&self) -> Option<&Led> {
        self.led.borrow().get(&self.cookie.get()).copied()
    }

    fn keep_led(&self, led: &Led) {
        self.led.borrow_mut().insert(self.cookie.get(), std::boxed::Box::leak(std::boxed::Box::new(*led)));
    }

    fn dialled(&self, key: &DialledKey) -> Option<&Dialled> {
        self.dialled.borrow().get(key).copied()
    }

    fn keep_dialled(&self, key: &DialledKey, dialled: &Dialled) {
        self.dialled.borrow_mut().insert(*key, std::boxed::Box::leak(std::boxed::Box::new(*dialled)));
    }
}

fn host() -> Host {
    let mut host = Host { addresses: [HOST, HOST_V6].into(), ..Host::default() };
    for protocol in [TCP, UDP] {
        for any in [Address::ANY_V4, Address::ANY_V6] {
            let key = PublicationKey::new(any, protocol, Port::new(8080));
            host.publications.insert(key, Publication::new(Zone(1), CONTAINER, 8080, 80));
        }
        let one = PublicationKey::new(HOST, protocol, Port::new(5300));
        for key in [one, one.somewhere()] {
            host.publications.insert(key, Publication::new(Zone(1), CONTAINER, 5300, 53));
        }
    }
    host
}

fn socket(protocol: u8, speaks: Speaks) -> Socket {
    let source = if speaks == Speaks::V4 { Address::ANY_V4 } else { Address::ANY_V6 };
    Socket { protocol, source, on_device: false, speaks }
}

#[test]
fn a_published_port_is_dialled_by_each_address_of_the_host_and_tells_what_was_dialled() {
    for protocol in [TCP, UDP] {
        for (speaks, address) in [
            (Speaks::V4, LOOPBACK),
            (Speaks::V4, Address::v4([127, 9, 9, 9])),
            (Speaks::V4, HOST),
            (Speaks::V4, Address::ANY_V4),
            (Speaks::Both, LOOPBACK),
            (Speaks::Both, LOOPBACK_V6),
            (Speaks::Both, HOST_V6),
            (Speaks::Both, Address::ANY_V6),
        ] {
            let host = host();

            let to = dial(&host, &socket(protocol, speaks), address, Port::new(8080));

            assert_eq!(to, Dial::Led(CONTAINER, Port::new(80)), "{address:?}");
            assert_eq!(peer(&host, protocol, CONTAINER, Port::new(80)), Some((address, Port::new(8080))));
            host.cookie.set(8);
            assert_eq!(
                peer(&host, protocol, CONTAINER, Port::new(80)),
                None,
                "another socket dialled the container itself"
            );
        }
    }
}

#[test]
fn what_is_not_published_there_or_could_not_be_answered_is_left_alone() {
    let v4 = socket(TCP, Speaks::V4);
    for (socket, address, port) in [
        (v4, ELSEWHERE, 8080),
        (v4, HOST, 8081),
        (v4, LOOPBACK, 5300),
        (v4, CONTAINER, 80),
        (Socket { protocol: SCTP, ..v4 }, HOST, 8080),
        (Socket { on_device: true, ..v4 }, HOST, 8080),
        (Socket { source: LOOPBACK, ..v4 }, LOOPBACK, 8080),
        (Socket { source: LOOPBACK_V6, ..socket(TCP, Speaks::Both) }, LOOPBACK_V6, 8080),
        (socket(UDP, Speaks::V6), LOOPBACK_V6, 8080),
    ] {
        let host = host();

        assert_eq!(dial(&host, &socket, address, Port::new(port)), Dial::Alone, "{socket:?} {address:?} {port}");
        assert!(host.led.borrow().is_empty() && host.dialled.borrow().is_empty());
    }
}

/// The container of port 8080 is on another host, which is known as this.
fn elsewhere(vtep: Address) -> Host {
    let mut host = host();
    let end = MeshEnd { vtep, vni: 9, ..MeshEnd::default() };
    host.elsewhere.insert(EndpointKey { address: CONTAINER, zone: Zone(1), pad: 0 }, end);
    host
}

#[test]
fn a_port_whose_container_is_elsewhere_is_led_to_by_that_host_and_tells_what_was_dialled() {
    let (other, port) = (Address::v4([192, 0, 2, 2]), Port::new(8080));
    for protocol in [TCP, UDP] {
        for (speaks, address) in [
            (Speaks::V4, HOST),
            (Speaks::V4, LOOPBACK),
            (Speaks::V4, Address::ANY_V4),
            (Speaks::Both, LOOPBACK_V6),
            (Speaks::Both, HOST_V6),
        ] {
            let host = elsewhere(other);

            assert_eq!(dial(&host, &socket(protocol, speaks), address, port), Dial::Led(other, port), "{address:?}");
            assert_eq!(peer(&host, protocol, other, port), Some((address, port)));
        }
        assert_eq!(dial(&elsewhere(other), &socket(protocol, Speaks::V6), HOST_V6, port), Dial::Alone);
        assert_eq!(dial(&elsewhere(HOST_V6), &socket(protocol, Speaks::V4), HOST, port), Dial::Alone);
        let to_ipv6 = dial(&elsewhere(HOST_V6), &socket(protocol, Speaks::Both), HOST_V6, port);
        assert_eq!(to_ipv6, Dial::Led(HOST_V6, port));
    }
}

#[test]
fn no_socket_is_led_to_another_host_in_clear_past_a_server_here_or_to_a_port_that_is_anothers_there() {
    let (other, port, v4) = (Address::v4([192, 0, 2, 2]), Port::new(8080), socket(TCP, Speaks::V4));
    let mut host = elsewhere(other);
    host.encrypted.insert(9);
    assert_eq!(dial(&host, &v4, HOST, port), Dial::Alone, "it would go in clear");

    for (dialled, server) in [(HOST, HOST), (LOOPBACK, LOOPBACK), (Address::ANY_V4, LOOPBACK)] {
        let mut host = elsewhere(other);
        host.servers.insert((TCP, server, 8080));
        assert_eq!(dial(&host, &v4, dialled, port), Dial::Alone, "a process here has it");
    }

    let mut host = elsewhere(other);
    let here = Publication::new(Zone(1), Address::v4([10, 176, 0, 3]), 8080, 80);
    host.publications.insert(PublicationKey::new(Address::ANY_V4, TCP, port), here);
    let by_ipv6 = dial(&host, &socket(TCP, Speaks::Both), HOST_V6, port);
    assert_eq!(by_ipv6, Dial::Alone, "by IPv4 it is that of a container here");

    let there = |end: MeshEnd, inner: u16| {
        let mut host = elsewhere(other);
        let address = Address::v4([10, 176, 0, 3]);
        host.publications
            .insert(PublicationKey::new(Address::ANY_V4, TCP, port), Publication::new(Zone(2), address, 8080, inner));
        host.elsewhere.insert(EndpointKey { address, zone: Zone(2), pad: 0 }, MeshEnd { vtep: other, ..end });
        host.encrypted.insert(8);
        dial(&host, &socket(TCP, Speaks::Both), HOST_V6, port)
    };
    let same = MeshEnd { vni: 9, ..MeshEnd::default() };
    assert_eq!(there(same, 80), Dial::Led(other, port), "by IPv4 it is the same container's");
    assert_eq!(there(same, 81), Dial::Alone, "another port of it");
    assert_eq!(there(MeshEnd { mac: crate::tuple::Mac([2; 6]), ..same }, 80), Dial::Alone, "another container there");
    assert_eq!(there(MeshEnd { vni: 8, ..same }, 80), Dial::Alone, "one of an encrypted network there");

    let bound = Socket { source: HOST, ..v4 };
    assert_eq!(dial(&elsewhere(other), &bound, HOST, port), Dial::Alone, "from an address that may have no way there");
}

#[test]
fn a_socket_is_led_to_a_container_of_a_family_that_it_speaks() {
    let mut host = host();
    let key = PublicationKey::new(Address::ANY_V6, UDP, Port::new(53));
    host.publications.insert(key, Publication::new(Zone(1), CONTAINER_V6, 53, 53));
    let key = PublicationKey::new(Address::ANY_V4, UDP, Port::new(53));
    host.publications.insert(key, Publication::new(Zone(1), CONTAINER_V6, 53, 53));

    let to = |speaks, address| match dial(&host, &socket(UDP, speaks), address, Port::new(53)) {
        Dial::Led(to, _) => Some(to),
        _ => None,
    };

    assert_eq!(to(Speaks::V6, LOOPBACK_V6), Some(CONTAINER_V6));
    assert_eq!(to(Speaks::Both, LOOPBACK), Some(CONTAINER_V6));
    assert_eq!(to(Speaks::V4, LOOPBACK), None);
}

#[test]
fn a_port_for_some_sources_is_led_to_for_them_alone() {
    let mut host = host();
    let list = SourceList::numbered(7);
    for to in host.publications.values_mut() {
        *to = to.with_sources(list);
    }
    host.sources.insert(SourceKey::range(list, Address::v4([192, 0, 2, 0]), 24));
    let of = |socket: &Socket, address| dial(&host, socket, address, Port::new(8080));
    let (led, v4) = (Dial::Led(CONTAINER, Port::new(80)), socket(TCP, Speaks::V4));

    assert_eq!(of(&v4, HOST), led, "from the address that it dials");
    assert_eq!(of(&Socket { source: HOST, ..v4 }, LOOPBACK), led, "from the address that it is bound to");
    assert_eq!([of(&v4, LOOPBACK), of(&v4, Address::ANY_V4)], [Dial::Refused; 2], "the loopback is not of the list");
    assert_eq!(of(&Socket { source: ELSEWHERE, ..v4 }, HOST), Dial::Refused);
    assert_eq!(of(&socket(TCP, Speaks::Both), HOST_V6), Dial::Refused, "no range of its family");
    assert_eq!(of(&socket(TCP, Speaks::Both), HOST), led, "a mapped address is one of IPv4");
}

#[test]
fn one_socket_that_sends_to_two_published_ports_knows_their_answers_apart() {
    let host = host();
    let socket = socket(UDP, Speaks::V4);

    assert_eq!(dial(&host, &socket, LOOPBACK, Port::new(8080)), Dial::Led(CONTAINER, Port::new(80)));
    assert_eq!(dial(&host, &socket, HOST, Port::new(5300)), Dial::Led(CONTAINER, Port::new(53)));

    assert_eq!(peer(&host, UDP, CONTAINER, Port::new(80)), Some((LOOPBACK, Port::new(8080))));
    assert_eq!(peer(&host, UDP, CONTAINER, Port::new(53)), Some((HOST, Port::new(5300))));
    assert_eq!(peer(&host, UDP, CONTAINER, Port::new(54)), None);
    host.cookie.set(8);
    assert_eq!(peer(&host, UDP, CONTAINER, Port::new(80)), None, "of another socket");
}

#[test]
fn a_socket_that_connects_again_is_told_what_it_dialled_last() {
    for protocol in [TCP, UDP] {
        let host = host();
        for address in [LOOPBACK, HOST] {
            dial(&host, &socket(protocol, Speaks::V4), address, Port::new(8080));
            assert_eq!(peer(&host, protocol, CONTAINER, Port::new(80)), Some((address, Port::new(8080))));
        }
        assert_eq!(peer(&host, protocol, CONTAINER, Port::new(81)), None, "where it was not led");
    }
}

#[test]
fn a_published_port_cannot_be_bound_where_it_is_published() {
    let host = host();
    let cases = [
        (Address::ANY_V4, 8080, false),
        (HOST, 8080, false),
        (LOOPBACK, 8080, false),
        (ELSEWHERE, 8080, false),
        (Address::ANY_V6, 8080, false),
        (HOST_V6, 8080, false),
        (HOST, 5300, false),
        (Address::ANY_V4, 5300, false),
        (Address::ANY_V6, 5300, false),
        (LOOPBACK, 5300, true),
        (HOST_V6, 5300, true),
        (Address::ANY_V4, 8081, true),
        (Address::ANY_V4, 0, true),
        (HOST, 0, true),
    ];
    for protocol in [TCP, UDP] {
        for (address, port, may) in cases {
            assert_eq!(may_bind(&host, protocol, address, Port::new(port)), may, "{address:?} {port}");
        }
    }
    assert!(may_bind(&host, SCTP, HOST, Port::new(8080)));
}

/// A container of one family, published at every address of that.
#[test]
fn a_socket_of_the_other_family_is_led_where_it_can_speak_and_else_to_the_relay_but_to_no_servers_place() {
    for protocol in [TCP, UDP] {
        let mut host = Host { addresses: [HOST, HOST_V6].into(), ..Host::default() };
        let publish = |host: &mut Host, any, port, to| {
            let key = PublicationKey::new(any, protocol, Port::new(port));
            host.publications.insert(key, Publication::new(Zone(1), to, port, 80));
        };
        publish(&mut host, Address::ANY_V4, 8004, CONTAINER);
        publish(&mut host, Address::ANY_V6, 8006, CONTAINER_V6);
        let (four, six, to) = (Port::new(8004), Port::new(8006), Port::new(80));
        let [v4, v6, both] = [Speaks::V4, Speaks::V6, Speaks::Both].map(|speaks| socket(protocol, speaks));

        assert_eq!(dial(&host, &both, HOST_V6, four), Dial::Led(CONTAINER, to));
        assert_eq!(dial(&host, &v6, HOST_V6, four), Dial::Led(LOOPBACK_V6, four));
        assert_eq!(dial(&host, &v4, HOST, six), Dial::Led(LOOPBACK, six));
        assert_eq!(peer(&host, protocol, LOOPBACK, six), Some((HOST, six)), "it is told what it dialled");
        assert_eq!(dial(&host, &v4, LOOPBACK, six), Dial::Alone, "the relay is there");
        assert_eq!(dial(&host, &v4, ELSEWHERE, six), Dial::Alone);

        host.servers.extend([(protocol, HOST_V6, 8004), (protocol, HOST, 8006)]);
        for socket in [&both, &v6] {
            assert_eq!(dial(&host, socket, HOST_V6, four), Dial::Alone, "the host's own server");
        }
        assert_eq!(dial(&host, &v4, HOST, six), Dial::Alone, "the host's own server");
    }
}
