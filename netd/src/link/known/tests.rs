//! What is kept against what a listing of everything tells, after each of many changes.

use std::{process::Command, time::Duration};

use super::*;
use crate::testing::{link, on_a_host_of_its_own, sandbox};

/// What others do to a host, one after the other: each line is what stands behind `ip`, or `tc`.
const CHANGES: [&str; 38] = [
    "ip link add wan0 type veth peer name wan1",
    "ip address add 192.0.2.1/24 dev wan0",
    "ip link set wan0 up",
    "ip link set wan1 up",
    "ip address add 192.0.2.9/24 dev wan0",
    "ip address add 2001:db8::1/64 dev wan0 nodad",
    "ip route add default via 192.0.2.254",
    "ip route add 10.1.0.0/16 dev wan0 src 192.0.2.9",
    "ip route add 10.2.0.0/16 nexthop via 192.0.2.7 nexthop via 192.0.2.8",
    "ip route add blackhole 10.3.0.0/16",
    "ip -6 route add 2001:db8:7::/48 via 2001:db8::2 dev wan0",
    "ip route add 10.4.0.0/16 via 192.0.2.3 table 77",
    "ip link add br7 type bridge",
    "ip link set wan1 master br7",
    "bridge fdb add 02:00:00:00:00:07 dev wan1 master static",
    "bridge link set dev wan1 learning off isolated on",
    "ip link set wan1 alias seven group 7 mtu 1400",
    "tc qdisc add dev wan0 clsact",
    "tc filter add dev wan0 ingress pref 5 protocol ip u32 match u32 0 0",
    "tc filter add dev wan0 egress pref 6 protocol ip u32 match u32 0 0",
    "tc filter del dev wan0 ingress pref 5",
    "ip address del 192.0.2.9/24 dev wan0",
    "ip route del 10.2.0.0/16",
    "ip link set wan0 down",
    "ip link set wan0 name lan0",
    "ip link set lan0 up",
    "bridge fdb del 02:00:00:00:00:07 dev wan1 master",
    "ip link set wan1 nomaster",
    "tc qdisc del dev lan0 clsact",
    "ip address flush dev lan0",
    "ip route flush table 77",
    "ip route del blackhole 10.3.0.0/16",
    "ip link del br7",
    "ip link set lo up",
    "ip address add 10.9.0.1/32 dev lo",
    "ip link set nd1 alias stranger",
    "ip route replace default dev nd1",
    "ip link del lan0",
];

fn change(line: &str) {
    let mut words = line.split(' ');
    let out = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// What is kept is soon what is listed: of an address of IPv6 the kernel tells a moment after it lists it (`addrconf_dad_start`).
async fn assert_is_what_is_listed(links: &Links, after: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Some(unlike) = unlike(links).await {
        assert!(Instant::now() < deadline, "after `{after}`: {unlike}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What is kept otherwise than it is listed, less what nobody is told of: the routes by devices of ours.
async fn unlike(links: &Links) -> Option<String> {
    let listed = Links::open().unwrap();
    let ours = |route: &RouteMessage| {
        output(route).is_some_and(|index| links.watched.as_ref().unwrap().known.try_lock().unwrap().is_ours(index))
    };
    let all_but_ours = async || {
        let mut all = listed.routes().await.unwrap();
        all.retain(|route| !ours(route));
        all
    };
    let parts = [
        compared("links", &links.seen_links().await.unwrap(), &listed.seen_links().await.unwrap()),
        compared("addresses", &links.seen_addresses().await.unwrap(), &listed.seen_addresses().await.unwrap()),
        compared("routes", &*links.seen_routes().await.unwrap(), &all_but_ours().await),
        compared("stations", &*links.seen_stations().await.unwrap(), &listed.fixed_stations().await.unwrap()),
        compared("filters", &*links.filters().await.unwrap(), &listed.listed_filters().await.unwrap()),
    ];
    parts.into_iter().flatten().next()
}

fn compared<T: PartialEq + std::fmt::Debug>(what: &str, kept: &T, listed: &T) -> Option<String> {
    (kept != listed).then(|| format!("{what} are kept as {kept:#?} and listed as {listed:#?}"))
}

#[test]
fn what_is_kept_is_what_a_listing_tells_whatever_changes() {
    use crate::reconcile::{Bridge, Interface, Veth};

    on_a_host_of_its_own(async |_| {
        let links = Links::open_watched().unwrap();
        assert_is_what_is_listed(&links, "nothing").await;
        let sandbox = sandbox();
        let net = |text: &str| text.parse().unwrap();
        let bridge = Bridge {
            owner: "blue".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: [net("10.176.0.1/24"), net("fd00:7::1/64")].into(),
            intact: true,
        };
        links.create_bridge(&link("nd1"), &bridge).await.unwrap();
        assert_is_what_is_listed(&links, "create_bridge").await;
        let interface = Interface {
            name: link("eth0"),
            mac: Mac([2, 0, 0, 0, 0, 2]),
            addresses: [net("10.176.0.2/24")].into(),
            gateways: BTreeSet::new(),
        };
        let veth = Veth {
            owner: "web".to_owned(),
            bridge: link("nd1"),
            mtu: 1500,
            intact: true,
            apart: false,
            sandbox,
            interface,
        };
        links.create_veth(&link("nd11"), &veth).await.unwrap();
        links.connect_veth(&link("nd11"), &veth).await.unwrap();
        let index = *links.names().await.unwrap().iter().find(|(_, name)| name.as_str() == "nd11").unwrap().0;
        links.share_blocks(index).await.unwrap();
        assert_is_what_is_listed(&links, "connect_veth").await;
        let begun = links.watched.as_ref().unwrap().known.lock().await.links.listed_at();

        for line in CHANGES {
            change(line);
            assert_is_what_is_listed(&links, line).await;
        }
        links.delete(&link("nd11")).await.unwrap();
        assert_is_what_is_listed(&links, "delete").await;
        let at_last = links.watched.as_ref().unwrap().known.lock().await.links.listed_at();
        assert_eq!(begun, at_last, "everything was listed again, and so nothing else was shown");
    });
}

#[test]
fn a_crowd_of_changes_at_once_is_followed_too() {
    on_a_host_of_its_own(async |_| {
        let links = Links::open_watched().unwrap();
        assert_is_what_is_listed(&links, "nothing").await;
        let many: String = (0..100).map(|n| format!("link add many{n} type ifb\n")).collect();
        let file = std::env::temp_dir().join(format!("netd-known-{}", std::process::id()));
        std::fs::write(&file, many).unwrap();
        change(&format!("ip -batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        assert_is_what_is_listed(&links, "100 devices").await;
    });
}

/// Of the devices that are told of at the end two alone have changed, which would be asked for by themselves.
#[test]
fn where_the_kernel_has_said_more_than_there_is_room_for_everything_is_listed_anew() {
    on_a_host_of_its_own(async |directory| {
        let links = Links::open_watched().unwrap();
        change("ip link add wan0 type ifb");
        // Of an alias the kernel tells where the device is up (`netdev_state_change`).
        change("ip link set wan0 up");
        assert_is_what_is_listed(&links, "a device").await;
        let before = links.watched.as_ref().unwrap().known.lock().await.links.listed_at();

        // Whoever would listen is this thread. What does not fit any more is the last of it.
        let many: String = (0..30_000).map(|n| format!("link set wan0 alias a{n}\n")).collect();
        let file = directory.join("changes");
        std::fs::write(&file, many + "link add wan7 type ifb\nlink set wan7 up\n").unwrap();
        change(&format!("ip -batch {}", file.display()));

        assert_is_what_is_listed(&links, "more than the socket takes").await;
        let after = links.watched.as_ref().unwrap().known.lock().await.links.listed_at();
        assert!(after > before, "messages were lost, so everything was listed");
        assert!(links.seen_links().await.unwrap().values().any(|link| link.name.as_str() == "wan7"));
    });
}
