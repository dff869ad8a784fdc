//! The core once more, attached by clsact filters as on kernels before 6.6, whatever this kernel offers.

use netd_tests::lab::NetdOptions;

use crate::{
    cases::{self, on_both_kinds},
    says,
    town::Town,
};

#[test]
fn containers_of_one_network_reach_each_other() {
    by_clsact(cases::containers_of_one_network_reach_each_other);
}

#[test]
fn a_container_reaches_the_outside_by_the_address_of_its_host() {
    by_clsact(cases::a_container_reaches_the_outside_by_the_address_of_its_host);
}

#[test]
fn containers_that_use_one_source_port_have_flows_of_their_own() {
    by_clsact(cases::containers_that_use_one_source_port_have_flows_of_their_own);
}

#[test]
fn a_client_outside_reaches_a_published_port_with_its_own_address() {
    by_clsact(cases::a_client_outside_reaches_a_published_port_with_its_own_address);
}

#[test]
fn networks_are_isolated_from_each_other_and_from_outside() {
    by_clsact(cases::networks_are_isolated_from_each_other_and_from_outside);
}

#[test]
fn containers_that_finish_their_checksums_are_served_alike() {
    by_clsact(cases::containers_that_finish_their_checksums_are_served_alike);
}

#[test]
fn containers_find_each_other_by_name() {
    by_clsact(cases::containers_find_each_other_by_name);
}

fn by_clsact(case: impl Fn(&Town)) {
    let options = NetdOptions::default().variable("NETD_FORCE_CLSACT", "1");
    on_both_kinds(&options, |town| {
        case(town);
        assert_eq!(says::attach_mode(&town.netd), "clsact");
        assert!(town.host.tcx("eth0", false).is_empty(), "nothing is at the TCX hook");
    });
}
