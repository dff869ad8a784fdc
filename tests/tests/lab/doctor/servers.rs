//! Servers of names that give no answer: the host's, the networks' and the containers' own.

use std::fs;

use hickory_proto::op::ResponseCode;

use super::{
    ailments::{Doctor, Expected},
    healthy_town, serve_names, with_a_resolver,
};

#[test]
fn servers_of_names_that_do_not_answer_are_found_whosever_they_are() {
    let (town, resolver) = healthy_town();
    let doctor = Doctor::of(&town);
    let silent = |of: &str| {
        let remedy = if of.contains('(') { "with other servers (--dns)" } else { "Take it out of /etc/resolv.conf" };
        Expected::warning("dns", format!("{of} does not answer"), "Questions for names of the outside wait", remedy)
    };

    drop(resolver);
    doctor.finds(&[&silent("127.0.0.1")]);
    let none = "Names of the outside do not resolve";
    fs::write(town.host.path("/etc/resolv.conf"), "search example\n").expect("the host's own /etc can be written");
    doctor.finds(&[&Expected::warning("dns", "the host has no resolver", none, "Name a resolver in /etc/resolv.conf")]);

    let _resolver = with_a_resolver(&town);
    town.netd.say("network create blue --dns 192.0.2.2").ok();
    town.netd.say("network create vault --internal --dns 192.0.2.3").ok();
    let web = town.host.container("web");
    town.netd.run(["attach", "web", "--netns", &web.netns(), "--network", "blue", "--dns", "198.51.100.2"]).ok();
    let (of_blue, of_web) = (silent("192.0.2.2 (network blue)"), silent("198.51.100.2 (endpoint web)"));
    doctor.finds(&[&of_blue, &of_web]);
    let _servers = [serve_names(&town.internet, "192.0.2.2"), serve_names(&town.client, "198.51.100.2")];
    doctor.finds(&[]);
}

#[test]
fn a_server_that_gives_containers_no_answer_is_found_and_one_on_a_link_is_asked_there() {
    let (town, resolver) = healthy_town();
    let doctor = Doctor::of(&town);
    let without_an_answer = |says: &str| {
        let found = format!("127.0.0.1 does not answer: {says}");
        Expected::warning("dns", found, "Questions for names of the outside wait", "Take it out of /etc/resolv.conf")
    };
    for (code, says) in [(ResponseCode::Refused, "REFUSED"), (ResponseCode::ServFail, "SERVFAIL")] {
        resolver.say(code);
        doctor.finds(&[&without_an_answer(&format!("127.0.0.1:53 says {says}"))]);
    }
    resolver.say(ResponseCode::NXDomain);
    doctor.finds(&[]);
    drop(resolver);
    let echo = town.host.echo_udp(53);
    doctor.finds(&[&without_an_answer("nothing came for 2 s")]);
    drop(echo);

    let _resolver = serve_names(&town.host, "::");
    doctor.does("ip address add fe80::53/64 dev eth0 nodad; echo 'nameserver fe80::53%eth0' > /etc/resolv.conf");
    doctor.finds(&[]);
    doctor.does("echo 'nameserver fe80::53%nosuch0' > /etc/resolv.conf");
    let lost = "fe80::53%nosuch0 does not answer: there is no such device";
    doctor.finds_among_others(&Expected::warning("dns", lost, "Questions for names", "Take it out"));
}

#[test]
fn servers_of_containers_are_asked_from_their_namespaces_as_the_resolver_asks_them() {
    let (town, _resolver) = healthy_town();
    let doctor = Doctor::of(&town);
    let only_of = |from: &str| {
        let found = format!("127.0.0.2 ({from}) does not answer, asked from endpoint web: ");
        Expected::warning("dns", found, "Questions for names of the outside wait", "with other servers (--dns)")
    };
    let _hosts = serve_names(&town.host, "127.0.0.2");
    town.netd.say("network create blue --dns 127.0.0.2").ok();
    doctor.finds(&[]);

    let web = town.container("web", "blue", &[]);
    doctor.finds(&[&only_of("network blue")]);

    let _its = serve_names(&web, "127.0.0.2");
    doctor.finds(&[]);
}
