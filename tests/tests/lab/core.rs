//! The core: what netd is for, on both kinds of wire, attached in the way that the kernel offers. Every supported kernel runs this.

use netd_tests::lab::NetdOptions;

use crate::cases::{self, on_both_kinds, on_both_kinds_of_tunnel};

#[test]
fn containers_of_one_network_reach_each_other() {
    on_both_kinds(&NetdOptions::default(), cases::containers_of_one_network_reach_each_other);
}

#[test]
fn a_container_reaches_the_outside_by_the_address_of_its_host() {
    on_both_kinds(&NetdOptions::default(), cases::a_container_reaches_the_outside_by_the_address_of_its_host);
}

#[test]
fn containers_that_use_one_source_port_have_flows_of_their_own() {
    on_both_kinds(&NetdOptions::default(), cases::containers_that_use_one_source_port_have_flows_of_their_own);
}

#[test]
fn a_client_outside_reaches_a_published_port_with_its_own_address() {
    on_both_kinds(&NetdOptions::default(), cases::a_client_outside_reaches_a_published_port_with_its_own_address);
}

#[test]
fn networks_are_isolated_from_each_other_and_from_outside() {
    on_both_kinds(&NetdOptions::default(), cases::networks_are_isolated_from_each_other_and_from_outside);
}

#[test]
fn containers_that_finish_their_checksums_are_served_alike() {
    on_both_kinds(&NetdOptions::default(), cases::containers_that_finish_their_checksums_are_served_alike);
}

#[test]
fn the_host_reaches_a_published_port_by_each_of_its_addresses_and_is_told_what_it_dialled() {
    on_both_kinds(
        &NetdOptions::default(),
        cases::the_host_reaches_a_published_port_by_each_of_its_addresses_and_is_told_what_it_dialled,
    );
}

#[test]
fn a_process_of_the_host_cannot_bind_a_published_port_until_it_is_closed() {
    on_both_kinds(
        &NetdOptions::default(),
        cases::a_process_of_the_host_cannot_bind_a_published_port_until_it_is_closed,
    );
}

#[test]
fn containers_reach_a_published_port_by_the_hosts_addresses_and_the_gateways() {
    on_both_kinds(
        &NetdOptions::default(),
        cases::containers_reach_a_published_port_by_the_hosts_addresses_and_the_gateways,
    );
}

#[test]
fn containers_find_each_other_by_name() {
    on_both_kinds(&NetdOptions::default(), cases::containers_find_each_other_by_name);
}

#[test]
fn a_container_reaches_the_outside_by_an_uplink_of_layer_3() {
    on_both_kinds_of_tunnel(cases::a_container_reaches_the_outside_by_the_address_of_its_host);
}

#[test]
fn a_client_beyond_an_uplink_of_layer_3_reaches_a_published_port() {
    on_both_kinds_of_tunnel(cases::a_client_outside_reaches_a_published_port_with_its_own_address);
}
