//! Forwarding is switched on where it must be, and given back.

use super::*;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

#[test]
fn forwarding_is_given_back_by_another_process_and_only_where_netd_switched_it_on() {
    on_a_host_of_its_own(async |directory| {
        let links = Links::open().unwrap();
        links.handle.link().add(LinkVeth::new("wan0", "wan1").build()).execute().await.unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/wan0/forwarding", "0").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/wan1/forwarding", "1").unwrap();
        let on = || ["wan0", "wan1"].map(|name| Forwarding::is_on(&link(name), Family::V4));

        let mut forwarding = Forwarding::open(&directory).unwrap();
        for name in ["wan0", "wan1", "wan0"] {
            forwarding.switch_on(&link(name), Family::V4, &BTreeSet::new()).unwrap();
        }
        assert_eq!(on(), [true, true]);
        assert_eq!(["wan0", "wan1"].map(|name| forwarding.was_off(&link(name), Family::V4)), [true, false]);

        let given_back = Forwarding::open(&directory).unwrap().give_everything_back().unwrap();
        assert_eq!(given_back, [link("wan0")]);
        assert_eq!(on(), [false, true]);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    });
}

#[test]
fn forwarding_of_a_renamed_device_is_given_back_under_its_new_name() {
    on_a_host_of_its_own(async |directory| {
        let links = Links::open().unwrap();
        links.handle.link().add(LinkVeth::new("wan0", "wan1").build()).execute().await.unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/wan0/forwarding", "0").unwrap();
        let mut forwarding = Forwarding::open(&directory).unwrap();
        forwarding.switch_on(&link("wan0"), Family::V4, &BTreeSet::new()).unwrap();

        ip("link set wan0 name dsl0");
        forwarding.follow().unwrap();

        assert!(forwarding.was_off(&link("dsl0"), Family::V4), "the host is no router by its new name either");
        assert_eq!(Forwarding::open(&directory).unwrap().give_everything_back().unwrap(), [link("dsl0")]);
        assert!(!Forwarding::is_on(&link("dsl0"), Family::V4));
    });
}

#[test]
fn a_router_that_became_one_after_netd_stays_one() {
    on_a_host_of_its_own(async |directory| {
        for name in ["wan0", "wan2"] {
            ip(&format!("link add {name} type veth peer name {name}p"));
        }
        std::fs::write(IP_FORWARD, "0").unwrap();
        let mut forwarding = Forwarding::open(&directory).unwrap();
        for name in ["wan0", "wan2"] {
            forwarding.switch_on(&link(name), Family::V4, &BTreeSet::new()).unwrap();
        }
        forwarding.follow().unwrap();
        assert!(forwarding.was_off(&link("wan0"), Family::V4));

        std::fs::write(IP_FORWARD, "1").unwrap();

        assert!(!forwarding.give_back(&link("wan2"), Family::V4).unwrap(), "before it was looked at");
        forwarding.follow().unwrap();
        assert!(!forwarding.was_off(&link("wan0"), Family::V4), "what is in transit is the host's");
        assert_eq!(Forwarding::open(&directory).unwrap().give_everything_back().unwrap(), []);
        assert!(["wan0", "wan2"].iter().all(|name| Forwarding::is_on(&link(name), Family::V4)));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    });
}

#[test]
fn a_device_that_was_off_beside_other_routers_is_off_again() {
    on_a_host_of_its_own(async |directory| {
        ip("link add wan0 type veth peer name wan1");
        std::fs::write(IP_FORWARD, "0").unwrap();
        std::fs::write(IP_FORWARD, "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/wan0/forwarding", "0").unwrap();

        Forwarding::open(&directory).unwrap().switch_on(&link("wan0"), Family::V4, &BTreeSet::new()).unwrap();

        let forwarding = Forwarding::open(&directory).unwrap();
        assert!(forwarding.was_off(&link("wan0"), Family::V4));
        assert_eq!(forwarding.give_everything_back().unwrap(), [link("wan0")]);
        assert!(!Forwarding::is_on(&link("wan0"), Family::V4));
    });
}

#[test]
fn earlier_notes_hold_beside_what_all_is_when_they_are_first_read() {
    on_a_host_of_its_own(async |directory| {
        ip("link add wan0 type veth peer name wan1");
        let index = nix::net::if_::if_nametoindex("wan0").unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let earlier = || {
            let notes = format!("{boot}{index} wan0 0 ipv4/forwarding\n");
            std::fs::write(directory.join("forwarding"), notes).unwrap();
            Forwarding::open(&directory).unwrap()
        };

        std::fs::write(IP_FORWARD, "1").unwrap();
        assert!(earlier().was_off(&link("wan0"), Family::V4));
        std::fs::write(IP_FORWARD, "0").unwrap();
        assert!(earlier().was_off(&link("wan0"), Family::V4));
        std::fs::write(IP_FORWARD, "1").unwrap();
        assert!(!Forwarding::open(&directory).unwrap().was_off(&link("wan0"), Family::V4));
    });
}

#[test]
fn ipv6_forwarding_leaves_other_devices_and_what_routers_announce_as_they_are() {
    on_a_host_of_its_own(async |directory| {
        for name in ["wan0", "wan2", "wan4"] {
            ip(&format!("link add {name} type veth peer name {name}p"));
        }
        let read = |name: &str, setting: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/{setting}")).unwrap().trim().to_owned()
        };
        let settings = || {
            let names = ["all", "default", "wan0", "wan2", "wan4"];
            names.map(|name| ["forwarding", "accept_ra"].map(|setting| read(name, setting)))
        };
        let before = settings();
        let announced = BTreeSet::from([link("wan2")]);
        let mut forwarding = Forwarding::open(&directory).unwrap();
        assert!(forwarding.was_off(&link("wan0"), Family::V6));

        forwarding.switch_on(&link("wan0"), Family::V6, &announced).unwrap();

        assert!(Forwarding::is_on(&link("wan0"), Family::V6) && forwarding.was_off(&link("wan0"), Family::V6));
        let [_, default, wan0, wan2, wan4] = settings();
        assert_eq!(wan0, ["1", "2"]);
        assert_eq!(wan2, ["0", "2"]);
        assert_eq!((default, wan4), (before[1].clone(), before[4].clone()));
        forwarding.switch_on(&link("wan4"), Family::V6, &announced).unwrap();
        assert!(forwarding.give_back(&link("wan0"), Family::V6).unwrap());
        assert!(!Forwarding::is_on(&link("wan0"), Family::V6) && Forwarding::is_on(&link("wan4"), Family::V6));
        assert_eq!(Forwarding::open(&directory).unwrap().give_everything_back().unwrap(), [link("wan2"), link("wan4")]);
        assert_eq!(settings(), before);
    });
}

#[test]
fn a_router_of_ipv6_stays_one() {
    on_a_host_of_its_own(async |directory| {
        ip("link add wan0 type veth peer name wan1");
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let mut forwarding = Forwarding::open(&directory).unwrap();
        assert!(Forwarding::is_on(&link("wan0"), Family::V6) && !forwarding.was_off(&link("wan0"), Family::V6));

        forwarding.switch_on(&link("wan0"), Family::V6, &BTreeSet::new()).unwrap();

        assert!(!forwarding.was_off(&link("wan0"), Family::V6));
        forwarding.give_everything_back().unwrap();
        assert!(Forwarding::is_on(&link("wan0"), Family::V6));
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/wan0/accept_ra").unwrap().trim(), "1");
    });
}

#[test]
fn notes_of_another_boot_are_void() {
    on_a_host_of_its_own(async |directory| {
        let another = "11111111-1111-1111-1111-111111111111\n1 lo 0\n";
        std::fs::write(directory.join("forwarding"), another).unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "1").unwrap();

        assert_eq!(Forwarding::open(&directory).unwrap().give_everything_back().unwrap(), []);
        assert!(Forwarding::is_on(&link("lo"), Family::V4));
    });
}
