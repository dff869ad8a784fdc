//! Who reaches whom on one host: the table of `netd_tests::reach` in the town, for networks of driver bridge.

use netd_tests::{
    lab::Offloads,
    reach::{Place, Side},
};

use crate::town::{CLIENT, FRONT, Town, wait_until};

const FRONT6: &str = "2001:db8:2::1";
const CLIENT6: &str = "2001:db8:2::2";

#[test]
fn everybody_reaches_whom_the_table_says_and_nobody_else() {
    let town = Town::new(Offloads::On);
    give_ipv6(&town);
    let sides = [Side {
        netd: &town.netd,
        host: &town.host,
        client: &town.client,
        front: [FRONT, FRONT6].map(str::to_owned),
        outside: [CLIENT, CLIENT6].map(str::to_owned),
    }];
    let place = Place::new(&sides, "bridge", env!("CARGO_BIN_EXE_dial"));

    place.assert_everybody_reaches_whom_the_table_says();
    town.lab.assert_no_checksum_errors();
}

fn give_ipv6(town: &Town) {
    town.host.ip(&format!("address add {FRONT6}/64 dev eth1 nodad"));
    town.client.ip(&format!("address add {CLIENT6}/64 dev eth0 nodad"));
    town.client.ip(&format!("-6 route add default via {FRONT6}"));
    wait_until("the daemon sees the address", || town.netd.json("status")["uplinks"].to_string().contains(FRONT6));
}
