//! Containers whose devices have their programs by TCX links, as `--endpoint-attach tcx` says, where the kernel has TCX (6.6).

use netd_common::tables::LAYOUT;
use netd_tests::lab::{Container, NetdOptions, Offloads, traffic::PATIENCE};

use crate::{
    cases::{self, Servers, on_both_kinds},
    healing::port_of,
    pinned, says,
    town::{Town, wait_until},
};

const TCX: [&str; 2] = ["--endpoint-attach", "tcx"];

#[test]
fn containers_of_one_network_reach_each_other() {
    by_tcx(cases::containers_of_one_network_reach_each_other);
}

#[test]
fn a_container_reaches_the_outside_by_the_address_of_its_host() {
    by_tcx(cases::a_container_reaches_the_outside_by_the_address_of_its_host);
}

#[test]
fn the_host_reaches_a_published_port_by_each_of_its_addresses_and_is_told_what_it_dialled() {
    by_tcx(cases::the_host_reaches_a_published_port_by_each_of_its_addresses_and_is_told_what_it_dialled);
}

#[test]
fn networks_are_isolated_from_each_other_and_from_outside() {
    by_tcx(cases::networks_are_isolated_from_each_other_and_from_outside);
}

fn by_tcx(case: impl Fn(&Town)) {
    on_both_kinds(&NetdOptions::default().arguments(TCX), |town| {
        case(town);
        let (as_uplinks, _) = says::attached(&town.netd, "from_uplink");
        for program in ["from_container", "to_container", "from_host"] {
            let (manner, devices) = says::attached(&town.netd, program);
            assert_eq!((manner, devices.is_empty()), (as_uplinks.clone(), false), "{program} on {devices:?}");
        }
    });
}

#[test]
fn what_is_attached_stays_in_its_manner_and_what_comes_is_attached_as_the_daemon_is_told() {
    let mut town = Town::new(Offloads::On);
    assert_eq!(says::attached(&town.netd, "from_container"), ("clsact".to_owned(), Vec::new()), "as it will be");
    town.network("blue");
    let mut containers = Vec::new();
    let mut expected = Vec::new();
    for (name, options, by_tcx) in [
        ("shares", NetdOptions::default(), false),
        ("links", NetdOptions::default().arguments(TCX), true),
        // As on a kernel that has none.
        ("shares-too", NetdOptions::default().arguments(TCX).variable("NETD_FORCE_CLSACT", "1"), false),
    ] {
        town.netd.terminate();
        town.netd = town.host.netd_with(options);
        containers.push(town.container(name, "blue", &[]));
        expected.push(by_tcx);

        for (container, by_tcx) in containers.iter().zip(&expected) {
            assert_eq!(links(&town, container), if *by_tcx { [1, 1] } else { [0, 0] }, "{name}");
        }
    }

    let servers = Servers::in_node(&containers[1]);
    servers.answer(&containers[0], &town.address("links"));
    servers.answer(&containers[2], &town.address("links"));
    let devices = containers.iter().map(|container| port_of(&town, container)).collect::<Vec<_>>();
    for name in ["shares", "links", "shares-too"] {
        town.netd.say(&format!("detach {name}")).ok();
    }
    for program in ["from_container", "to_container"] {
        let (_, left) = says::attached(&town.netd, program);
        assert!(devices.iter().all(|device| !left.contains(device)), "{program} on {left:?}");
    }
}

#[test]
fn a_device_that_shares_its_programs_gets_one_back_that_somebody_took_by_sharing_it() {
    let mut town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let device = port_of(&town, &web);
    town.netd.terminate();
    town.netd = town.host.netd_with(NetdOptions::default().arguments(TCX));

    town.host.run(["tc", "filter", "del", "block", &0x6e64_0001.to_string()]).ok();

    wait_until("it is put back", || is_mended(&town, &device));
    assert_eq!(links(&town, &web), [0, 0], "it would be run twice once another device shares it");
    assert_eq!(web.pings(&says::gateway_of(&town.netd, "blue"), 1, PATIENCE), 1);
}

#[test]
fn a_device_with_links_gets_one_back_that_somebody_detached_and_shares_nothing() {
    let mut town = Town::with(Offloads::On, NetdOptions::default().arguments(TCX));
    town.network("blue");
    let web = town.container("web", "blue", &[]);
    let device = port_of(&town, &web);
    town.netd.terminate();
    town.netd = town.host.netd_with(NetdOptions::default());

    let index = town.host.ifindex(&device).expect("it is there");
    pinned::detach(&town.host.path(format!("/sys/fs/bpf/netd/{LAYOUT}/links/from_container@{index}")));

    wait_until("it is put back", || is_mended(&town, &device));
    assert_eq!(links(&town, &web), [1, 1], "shared, it would come with the other direction's, which is there already");
    assert_eq!(web.pings(&says::gateway_of(&town.netd, "blue"), 1, PATIENCE), 1);
}

#[test]
fn a_bridge_has_its_program_at_once_and_by_a_link_when_nothing_is_asked_for_and_loses_nothing() {
    let mut town = Town::new(Offloads::On);
    let bridges = ["blue", "green"].map(|network| {
        town.network(network);
        let bridge = says::text(&says::inspected(&town.netd, &format!("network inspect {network}")), "/bridge");
        assert_eq!(town.host.tcx(&bridge, true), [], "a network that is made waits for no TCX attachment");
        bridge
    });
    let theirs = ["tc", "filter", "add", "dev", &bridges[1], "egress", "pref", "7000", "protocol", "all", "bpf"];
    town.host.run(theirs.iter().chain(&["bytecode", "1,6 0 0 0", "classid", "1:1"])).ok();
    let web = town.container("web", "blue", &[]);
    let _echo = web.echo_udp(7);
    let pinging = town.host.pings_udp(&town.at("web", 7), 500);
    let egress = |bridge: &String| town.host.run(["tc", "filter", "show", "dev", bridge, "egress"]).ok();
    let is_linked = |bridge: &String| town.host.tcx(bridge, true).len() == 1 && !egress(bridge).contains("from_host");

    wait_until("both are linked", || bridges.iter().all(is_linked));

    pinging.finish().assert_none_lost();
    assert!(!town.host.run(["tc", "qdisc", "show", "dev", &bridges[0]]).ok().contains("clsact"), "it was netd's");
    assert!(egress(&bridges[1]).contains("pref 7000"), "what is another's stays");
    let to_device = || says::counted(&town.netd, "from_host", "to_device");
    let before = to_device();
    assert_eq!(town.host.asks_udp(&town.at("web", 7), 100, 64, PATIENCE), 100);
    assert!((100..150).contains(&(to_device() - before)), "each packet is met once");

    let links = bridges.each_ref().map(|bridge| town.host.tcx(bridge, true));
    town.netd.kill();
    town.netd.start();
    assert_eq!(bridges.each_ref().map(|bridge| town.host.tcx(bridge, true)), links, "they are taken over");
    town.netd.say("network rm green").ok();
    town.netd.say("detach web").ok();
    town.netd.say("network rm blue").ok();
    let (_, left) = says::attached(&town.netd, "from_host");
    assert!(bridges.iter().all(|bridge| !left.contains(bridge)), "{left:?}");
}

fn is_mended(town: &Town, device: &str) -> bool {
    let words = format!("the program from_container was not on {device}");
    says::told(&town.netd, "type=repair").iter().any(|(_, message)| message.contains(&words))
}

/// How many TCX programs the host's side of a container's device has, inwards and outwards.
fn links(town: &Town, container: &Container) -> [usize; 2] {
    let device = port_of(town, container);
    [false, true].map(|egress| town.host.tcx(&device, egress).len())
}
