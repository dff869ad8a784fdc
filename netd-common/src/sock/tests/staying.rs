//! Sockets that were led somewhere, when what is published changes.

use super::*;

/// Where this socket is led by dialling this place.
fn led(host: &Host, socket: &Socket, address: Address, port: u16) -> Led {
    assert!(matches!(dial(host, socket, address, Port::new(port)), Dial::Led(..)), "{address:?} {port}");
    *host.led().expect("it connects")
}

#[test]
fn a_led_socket_stays_while_what_it_dialled_leads_there_and_lets_it_in() {
    let still = |host: &Host, led: &Led| leads(host, &led.dialled, (led.address, led.port));
    let (v4, both) = (socket(TCP, Speaks::V4), socket(TCP, Speaks::Both));
    for (socket, address, port) in
        [(v4, HOST, 8080), (v4, LOOPBACK, 8080), (v4, Address::ANY_V4, 8080), (both, HOST_V6, 8080), (v4, HOST, 5300)]
    {
        let mut host = host();
        let led = led(&host, &socket, address, port);
        assert!(still(&host, &led), "{address:?} {port}");
        host.addresses.clear();
        assert!(still(&host, &led), "the host has given an address up that the socket does not use");

        let mut other = led;
        other.port = Port::new(81);
        assert!(!still(&host, &other), "another port of the container");
        host.publications.values_mut().for_each(|to| *to = to.with_sources(SourceList::numbered(7)));
        assert!(!still(&host, &led), "it is for others now");
        let bits = if led.dialled.source.is_v4() { 32 } else { 128 };
        host.sources.insert(SourceKey::range(SourceList::numbered(7), led.dialled.source, bits));
        assert!(still(&host, &led), "it is for this one");
        host.publications
            .values_mut()
            .for_each(|to| *to = Publication::new(Zone(1), CONTAINER_V6, port, to.port(Port::new(port)).number()));
        assert!(!still(&host, &led), "another container has it");
        host.publications.clear();
        assert!(!still(&host, &led), "it is closed");
    }
}

#[test]
fn a_socket_that_was_led_to_another_family_by_the_relay_or_to_another_host_stays_while_the_port_does() {
    let still = |host: &Host, led: &Led| leads(host, &led.dialled, (led.address, led.port));
    let mut here = host();
    let only_v4 = PublicationKey::new(Address::ANY_V4, TCP, Port::new(8004));
    let only_v6 = PublicationKey::new(Address::ANY_V6, TCP, Port::new(8006));
    here.publications.insert(only_v4, Publication::new(Zone(1), CONTAINER, 8004, 80));
    here.publications.insert(only_v6, Publication::new(Zone(1), CONTAINER_V6, 8006, 80));
    let from_v6 = led(&here, &socket(TCP, Speaks::Both), HOST_V6, 8004);
    let relayed = led(&here, &socket(TCP, Speaks::V4), HOST, 8006);
    assert_eq!((from_v6.address, relayed.address), (CONTAINER, LOOPBACK));
    assert!(still(&here, &from_v6) && still(&here, &relayed));
    here.servers.extend([(TCP, HOST_V6, 8004), (TCP, HOST, 8006)]);
    assert!(still(&here, &from_v6) && still(&here, &relayed), "a server that came since has no claim to them");
    here.publications.remove(&only_v4);
    assert!(!still(&here, &from_v6) && still(&here, &relayed));

    let other = Address::v4([192, 0, 2, 2]);
    let mut host = elsewhere(other);
    let led = led(&host, &socket(TCP, Speaks::V4), LOOPBACK, 8080);
    assert!(led.address == other && still(&host, &led));
    host.elsewhere.values_mut().for_each(|end| end.vtep = ELSEWHERE);
    assert!(!still(&host, &led), "the container is on another one");
}
