//! What holds where a host's network card has a driver that runs XDP.

use crate::{cluster::Cluster, drivers};

#[test]
#[ignore = "takes two network cards with a driver of their own: `cargo xtask vm` runs it in a guest that has them"]
fn a_port_of_the_mesh_is_passed_on_to_its_containers_host_before_there_is_a_packet() {
    drivers::a_driver_of_its_own_passes_on(Cluster::of_cards());
    drivers::a_driver_of_its_own_passes_on(Cluster::of_cards_over_ipv6());
}
