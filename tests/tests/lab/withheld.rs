//! Ports that are published and that the kernel would give to sockets of the host which name none.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
};

use netd_tests::lab::{Host, traffic::PATIENCE};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::town::{INTERNET, Town, wait_until};

const RESERVED: &str = "ipv4/ip_local_reserved_ports";

#[test]
fn a_socket_that_names_no_port_is_given_none_that_is_published_and_has_its_answers() {
    let mut town = Town::before_netd();
    set(&town.host, "ipv4/ip_local_port_range", "41000 41007");
    set(&town.host, RESERVED, "41001");
    town.netd.start();
    town.network("blue");
    let _web = town.container("web", "blue", &["41000:53/udp", "41002-41006:5002-5006/udp"]);
    let _echo = town.internet.echo_udp(7);

    for round in 0..20 {
        // Neither bound nor connected: the first datagram has the kernel choose.
        let made = town.host.enter(|| socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None));
        let socket = UdpSocket::from(made.expect("a socket"));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 8];

        // A process that is just starting has copies of all descriptors until it begins, the last round's socket among them.
        wait_until("the last round's port is free again", || match socket.send_to(b"and?", (INTERNET, 7)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            sent => sent.map(|_| true).expect("a datagram leaves"),
        });
        let (length, from) = socket.recv_from(&mut answer).expect("the answer is the socket's");

        assert_eq!(socket.local_addr().unwrap().port(), 41_007, "the one that nobody has, in round {round}");
        assert_eq!((&answer[..length], from.ip()), (&b"and?"[..], INTERNET.parse::<IpAddr>().unwrap()));
    }
}

#[test]
fn what_the_operator_has_reserved_stays_whatever_is_published_and_whoever_writes() {
    let mut town = Town::before_netd();
    set(&town.host, "ipv4/ip_local_port_range", "41000 41999");
    set(&town.host, RESERVED, "5000,41002");
    town.netd.start();
    town.network("blue");
    let _web = town.container("web", "blue", &["41002-41004:80-82"]);
    assert_eq!(reserved(&town.host), "5000,41002-41004");

    set(&town.host, RESERVED, "5000,6000,41002-41004");
    town.netd.say("publish web 41006:86/udp").ok();
    town.netd.say("publish web 8080:90").ok();
    assert_eq!(
        reserved(&town.host),
        "5000,6000,41002-41004,41006",
        "what they add stays, and 8080 the kernel never gives"
    );
    town.netd.say("unpublish web 41002-41004:80-82").ok();
    assert_eq!(reserved(&town.host), "5000,6000,41002,41006", "one that both had is theirs again");

    set(&town.host, RESERVED, "7000");
    wait_until("a published port is put back beside what somebody wrote", || reserved(&town.host) == "7000,41006");
    town.netd.kill();
    set(&town.host, RESERVED, "7000");
    town.netd.start();
    wait_until("so it is by the next daemon", || reserved(&town.host) == "7000,41006");
    town.netd.kill();
    town.netd.start();
    town.netd.say("publish web 41007:87/udp").ok();
    assert_eq!(reserved(&town.host), "7000,41006-41007", "a daemon that takes over knows its own");

    town.netd.say("uninstall").ok();
    assert_eq!(reserved(&town.host), "7000");
}

#[test]
fn where_nearly_all_ports_are_published_none_is_withheld_and_status_says_so() {
    let mut town = Town::before_netd();
    set(&town.host, "ipv4/ip_local_port_range", "41000 41007");
    town.netd.start();
    town.network("blue");
    let warns = || town.netd.say("status").ok().contains("net.ipv4.ip_local_port_range");
    let _web = town.container("web", "blue", &["41000-41006:80-86"]);
    assert_eq!((reserved(&town.host).as_str(), warns()), ("41000-41006", false));

    town.netd.say("publish web 41007:87").ok();

    assert_eq!((reserved(&town.host).as_str(), warns()), ("", true), "else the host could open no connection");
}

/// What is reserved on a host, as the kernel says it.
fn reserved(host: &Host) -> String {
    host.enter(|| fs::read(format!("/proc/sys/net/{RESERVED}")).map(|text| String::from_utf8(text).unwrap()))
        .expect("every host has it")
        .trim()
        .to_owned()
}

/// Sets `net/PATH` in a host's namespace.
fn set(host: &Host, path: &str, value: &str) {
    host.enter(|| fs::write(format!("/proc/sys/net/{path}"), value)).expect("every host has it");
}
