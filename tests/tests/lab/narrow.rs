//! Addresses where there are few: subnets and ranges of two and four, what they refuse when they are full, and that nothing that
//! happens to a daemon, a host or a container takes one away for good.

use netd_tests::lab::{Container, Offloads, traffic::PATIENCE};

use crate::{
    says,
    town::{INTERNET, Town, wait_until},
};

/// A network, the pool that its addresses come from, whom else than endpoints an exhausted one names, and what endpoints get.
struct Case {
    options: &'static str,
    pool: &'static str,
    others: &'static [&'static str],
    gateway: &'static str,
    given: &'static [&'static str],
}

const CASES: [Case; 8] = [
    Case {
        options: "--subnet 10.201.0.7/32",
        pool: "10.201.0.7/32",
        others: &["the gateway"],
        gateway: "10.201.0.7",
        given: &[],
    },
    Case {
        options: "--subnet 10.201.1.0/31",
        pool: "10.201.1.0/31",
        others: &["the gateway"],
        gateway: "10.201.1.0",
        given: &["10.201.1.1"],
    },
    Case {
        options: "--subnet 10.201.1.0/31 --gateway 10.201.1.1",
        pool: "10.201.1.0/31",
        others: &["the gateway"],
        gateway: "10.201.1.1",
        given: &["10.201.1.0"],
    },
    Case {
        options: "--subnet 10.201.2.0/30",
        pool: "10.201.2.0/30",
        others: &["the gateway"],
        gateway: "10.201.2.1",
        given: &["10.201.2.2"],
    },
    Case {
        options: "--subnet 10.201.3.0/24 --ip-range 10.201.3.64/30 --aux-address printer=10.201.3.65",
        pool: "10.201.3.64/30",
        others: &["the auxiliary address printer"],
        gateway: "10.201.3.1",
        given: &["10.201.3.64", "10.201.3.66", "10.201.3.67"],
    },
    Case {
        options: "--subnet fd00:201:1::/127",
        pool: "fd00:201:1::/127",
        others: &["the gateway"],
        gateway: "fd00:201:1::",
        given: &["fd00:201:1::1"],
    },
    Case {
        options: "--subnet fd00:201:2::/126",
        pool: "fd00:201:2::/126",
        others: &["the gateway"],
        gateway: "fd00:201:2::1",
        given: &["fd00:201:2::2", "fd00:201:2::3"],
    },
    Case {
        options: "--subnet fd00:201:3::/64 --ip-range fd00:201:3::100/127",
        pool: "fd00:201:3::100/127",
        others: &[],
        gateway: "fd00:201:3::1",
        given: &["fd00:201:3::100", "fd00:201:3::101"],
    },
];

#[test]
fn a_subnet_of_two_or_four_addresses_serves_whom_it_has_room_for_and_names_them_to_the_next() {
    let town = Town::new(Offloads::On);
    let containers: Vec<_> = (0..4).map(|n| town.host.container(&format!("c{n}"))).collect();
    let attach = |container: &Container| {
        let netns = container.netns();
        town.netd.run(["attach", container.name(), "--netns", &netns, "--network", "small"])
    };
    for case in &CASES {
        println!("{}", case.options);
        town.netd.say(&format!("network create small {}", case.options)).ok();
        assert_eq!(says::gateway_of(&town.netd, "small"), case.gateway);

        for (container, address) in containers.iter().zip(case.given) {
            attach(container).ok();
            assert_eq!(address_of(&town, container), *address);
        }

        let here = &containers[..case.given.len()];
        let names = here.iter().map(|container| container.name());
        attach(&containers[here.len()])
            .refused([case.pool, "small"].into_iter().chain(names).chain(case.others.iter().copied()));
        for container in here {
            for address in case.given.iter().chain([&case.gateway]) {
                assert_eq!(container.pings(address, 1, PATIENCE), 1, "{} reaches {address}", container.name());
            }
            if case.gateway.contains('.') {
                assert_eq!(container.pings(INTERNET, 1, PATIENCE), 1, "{} reaches the outside", container.name());
            }
            assert_eq!(town.host.pings(&address_of(&town, container), 1, PATIENCE), 1, "the host reaches it");
        }
        for container in here {
            town.netd.run(["rm", container.name()]).ok();
        }
        town.netd.say("network rm small").ok();
    }
}

/// Its address, of whichever family its network is.
fn address_of(town: &Town, container: &Container) -> String {
    let endpoint = says::inspected(&town.netd, &format!("inspect {}", container.name()));
    let family = if endpoint["networks"][0]["ip"].is_string() { "ip" } else { "ip6" };
    says::text(&endpoint, &format!("/networks/0/{family}"))
}

#[test]
fn a_freed_address_is_the_last_to_be_given_again_and_is_given_rather_than_refused() {
    let town = Town::new(Offloads::On);
    town.netd.say("network create small --subnet 10.201.1.0/29").ok();
    let given = |name: &str| {
        let _container = town.container(name, "small", &[]);
        says::address_of(&town.netd, name)
    };
    assert_eq!([given("a"), given("b")], ["10.201.1.2", "10.201.1.3"]);

    town.netd.say("rm a").ok();

    assert_eq!([given("c"), given("d"), given("e")], ["10.201.1.4", "10.201.1.5", "10.201.1.6"]);
    assert_eq!(given("f"), "10.201.1.2", "of which nobody has heard for longest");
    let last = town.host.container("g");
    let words = ["attach", "g", "--netns", &last.netns(), "--network", "small"];
    town.netd.run(words).refused(["10.201.1.0/29", "small", "b", "c", "d", "e", "f", "the gateway"]);
    town.netd.say("rm d").ok();
    town.netd.run(words).ok();
    assert_eq!(says::address_of(&town.netd, "g"), "10.201.1.5", "the only one there is");
}

/// A boot is what it leaves: neither namespaces nor devices, pins or sockets, and another number of the boot.
#[test]
fn neither_a_crash_nor_a_boot_nor_a_namespace_that_vanishes_takes_an_address_for_good() {
    const ROOM: usize = 5;
    let mut town = Town::new(Offloads::On);
    town.netd.say("network create small --subnet 10.201.1.0/29 --subnet fd00:201::/125").ok();
    let containers: Vec<_> = (0..ROOM).map(|n| town.host.container(&format!("c{n}"))).collect();
    let attach = |town: &Town, n: usize| {
        let netns = format!("/run/netns/c{n}");
        town.netd.spawn(["attach", &format!("c{n}"), "--netns", &netns, "--network", "small"])
    };
    let listed = |town: &Town| says::names(&town.netd.json("ps"));

    // A crash in the middle of five attachments.
    let attaching: Vec<_> = (0..ROOM).map(|n| attach(&town, n)).collect();
    wait_until("the first is attached", || town.host.ip("-br link").contains("ndv-"));
    town.netd.kill();
    attaching.into_iter().for_each(|attaching| drop(attaching.wait()));
    town.netd.start();
    println!("{} of {ROOM} were attached when the daemon died", listed(&town).len());
    for n in 0..ROOM {
        let name = format!("c{n}");
        if !listed(&town).contains(&name) {
            attach(&town, n).wait().ok();
        }
    }
    assert_eq!(listed(&town).len(), ROOM, "what the crash has cut off has taken no address");

    // A boot.
    town.netd.kill();
    containers.into_iter().for_each(Container::delete);
    let script = "for link in $(ip -br link | grep -o '^nd[bvj]-[^ @]*'); do ip link del $link 2>/dev/null || true; done; \
                  rm -rf /sys/fs/bpf/netd /run/netd; cat /proc/sys/kernel/random/uuid > /run/boot; \
                  mount --bind /run/boot /proc/sys/kernel/random/boot_id";
    town.host.run(["sh", "-ec", script]).ok();
    town.netd.start();
    assert_eq!(listed(&town).len(), ROOM, "those that a supervisor starts again find their addresses");
    let c0 = town.host.container("c0");
    attach(&town, 0).wait().refused(["c0"]);
    for n in 0..ROOM {
        town.netd.run(["rm", &format!("c{n}")]).ok();
    }
    attach(&town, 0).wait().ok();
    assert_eq!(c0.pings(&says::gateway_of(&town.netd, "small"), 1, PATIENCE), 1);

    // Namespaces that vanish, while the daemon runs and while it does not.
    c0.delete();
    wait_until("its device is gone", || !town.host.ip("-br link").contains("ndv-"));
    let c1 = town.host.container("c1");
    attach(&town, 1).wait().ok();
    town.netd.kill();
    c1.delete();
    town.netd.start();
    for name in listed(&town) {
        town.netd.run(["rm", &name]).ok();
    }
    let containers: Vec<_> = (0..ROOM).map(|n| town.host.container(&format!("c{n}"))).collect();
    for n in 0..ROOM {
        attach(&town, n).wait().ok();
    }
    assert_eq!(containers.len(), ROOM, "every address is there");
}
