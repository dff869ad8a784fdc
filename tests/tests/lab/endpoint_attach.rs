//! Containers whose devices have their programs by TCX links, as `--endpoint-attach tcx` says (kernel 6.6).

use netd_tests::lab::{Container, NetdOptions, Offloads};

use crate::{
    cases::{self, Servers, on_both_kinds},
    healing::port_of,
    says,
    town::Town,
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
        let manner = |program| says::attached(&town.netd, program).0;
        assert_eq!(["from_container", "to_container", "from_host"].map(manner), ["tcx"; 3]);
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

/// How many TCX programs the host's side of a container's device has, inwards and outwards.
fn links(town: &Town, container: &Container) -> [usize; 2] {
    let device = port_of(town, container);
    [false, true].map(|egress| town.host.tcx(&device, egress).len())
}
