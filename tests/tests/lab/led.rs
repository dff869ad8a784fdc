//! Sockets of the host that talk to a published port for long: how long they may.

use netd_tests::lab::{Offloads, Running};
use nix::libc::{ECONNABORTED, EDESTADDRREQ};

use crate::{
    ipv6::paved,
    town::{HOST, Town, dial, wait_until},
};

const KINDS: [&str; 2] = ["tcp", "udp"];

/// A process of the host that talks to this place, once it is answered.
fn talker(town: &Town, words: &str) -> Running {
    let talker = town.host.spawn(dial(&format!("talk {words}")));
    wait_until(&format!("{words} is answered"), || talker.log().contains("hello"));
    talker
}

/// It talks on; by UDP it is told from whom, which is whom it dialled.
fn assert_talks_on(talker: &Running, place: &str) {
    let lines = || talker.log().lines().count();
    let before = lines();
    wait_until(&format!("{place} goes on"), || lines() > before + 2);
    let log = talker.log();
    assert!(log.lines().all(|line| line == "hello" || line == format!("{place} hello")), "{place}: {log}");
}

fn assert_ends(talker: Running) {
    let said = talker.wait();
    let ends = [ECONNABORTED, EDESTADDRREQ].map(|number| format!("error {number}\n"));
    assert!(ends.iter().any(|end| said.stdout.ends_with(end)), "{said}");
}

#[test]
fn a_socket_of_the_host_that_talks_to_a_port_is_ended_with_it() {
    for closing in ["unpublish web 8007:7 8007:7/udp", "detach web"] {
        let town = Town::new(Offloads::On);
        town.network("blue");
        let web = town.container("web", "blue", &["8007:7", "8007:7/udp", "8008:7", "8008:7/udp"]);
        let _servers = (web.echo_tcp(7), web.echo_udp(7));
        let closed = KINDS.map(|kind| talker(&town, &format!("{kind} 127.0.0.1:8007")));
        let open = KINDS.map(|kind| talker(&town, &format!("{kind} 127.0.0.1:8008")));

        town.netd.say(closing).ok();

        closed.into_iter().for_each(assert_ends);
        if closing.starts_with("unpublish") {
            open.iter().for_each(|talker| assert_talks_on(talker, "127.0.0.1:8008"));
        }
    }
}

#[test]
fn a_connection_is_ended_with_its_port_however_many_sockets_have_dialled_since() {
    let mut town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8007:7", "8008:7/udp"]);
    let _server = web.echo_tcp(7);
    let talker = talker(&town, "tcp 127.0.0.1:8007");

    let crowd = town.host.run(dial("crowd 127.0.0.1:8008 100000"));
    assert_eq!(crowd.stdout, "100000 connected\n");
    town.netd.kill();
    town.netd.start();
    assert_talks_on(&talker, "127.0.0.1:8007");

    town.netd.say("unpublish web 8007:7").ok();
    assert_ends(talker);
}

#[test]
fn a_socket_that_was_led_to_a_container_of_another_family_stays_when_other_ports_close() {
    let town = paved(Offloads::On);
    town.network("four");
    town.netd.say("network create six --subnet fd00:6::/64").ok();
    let four = town.container("four", "four", &["8004:7", "8004:7/udp", "9000:7", "9001:7"]);
    let six = town.container("six", "six", &["8006:7", "8006:7/udp"]);
    let _servers = [four.echo_tcp(7), four.echo_udp(7), six.echo_tcp(7), six.echo_udp(7)];
    // An IPv6 socket speaks to the container itself, an IPv4 one by the relay.
    let places = ["[2001:db8:2::1]:8004", &format!("{HOST}:8006")].map(str::to_owned);
    let all = places.iter().flat_map(|place| KINDS.map(|kind| (place, kind)));
    let talkers: Vec<_> = all.map(|(place, kind)| (place, talker(&town, &format!("{kind} {place}")))).collect();

    town.netd.say("unpublish four 9000:7").ok();
    for (place, talker) in &talkers {
        assert_talks_on(talker, place);
    }

    town.netd.say("unpublish four 8004:7 8004:7/udp").ok();
    let (ended, others): (Vec<_>, Vec<_>) = talkers.into_iter().partition(|(place, _)| place.starts_with('['));
    for (_, talker) in ended {
        assert_ends(talker);
    }
    for (place, talker) in &others {
        assert_talks_on(talker, place);
    }
}
