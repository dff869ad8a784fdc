//! How large packets are: as large as the host's routes have it, following them, or as the user says; and Docker's options.

use netd_tests::lab::{Container, Offloads};
use serde_json::json;

use crate::{
    says::{inspected, number, text},
    town::{INTERNET, Town, wait_until},
};

/// The MTU of a device in a container.
fn mtu(container: &Container, device: &str) -> u64 {
    let shown = container.ip(&format!("-j link show dev {device}"));
    number(&serde_json::from_str(&shown).expect("`ip -j` prints JSON"), "/0/mtu")
}

fn told(town: &Town, network: &str) -> u64 {
    number(&inspected(&town.netd, &format!("network inspect {network}")), "/mtu")
}

#[test]
fn networks_follow_the_mtu_of_the_hosts_routes_while_they_live() {
    let town = Town::new(Offloads::On);
    town.network("blue");
    town.netd.say("network create red --mtu 1300").ok();
    let [web, app] = [("web", "blue"), ("app", "red")].map(|(name, network)| town.container(name, network, &[]));
    let _internet = town.internet.serve_http(80);
    assert_eq!((mtu(&web, "eth0"), mtu(&app, "eth0")), (1500, 1300));

    // A route has an MTU of its own.
    town.host.ip("route replace default via 192.0.2.2 dev eth0 mtu 1420");
    wait_until("the network follows the route", || mtu(&web, "eth0") == 1420);
    wait_until("that is told", || told(&town, "blue") == 1420);
    assert!(web.curl(&format!("http://{INTERNET}/")).succeeded());
    let bridge = text(&inspected(&town.netd, "network inspect blue"), "/bridge");
    wait_until("so does its bridge", || town.host.ip(&format!("link show dev {bridge}")).contains("mtu 1420"));

    // A device does.
    town.host.ip("link set eth1 mtu 1380");
    wait_until("the network follows the device", || mtu(&web, "eth0") == 1380);
    town.host.ip("link set eth1 mtu 1500");
    town.host.ip("route replace default via 192.0.2.2 dev eth0");
    wait_until("the network follows back", || mtu(&web, "eth0") == 1500);

    // What the user says stays.
    assert_eq!(mtu(&app, "eth0"), 1300);
    town.netd.say("network set red --mtu 1400").ok();
    assert_eq!((mtu(&app, "eth0"), told(&town, "red")), (1400, 1400));
    town.netd.say("network set red --mtu auto").ok();
    assert_eq!((mtu(&app, "eth0"), told(&town, "red")), (1500, 1500));
    town.netd.say("network set red --mtu 67").refused(["67"]);
    town.netd.say("network set nowhere --mtu 1400").refused(["nowhere"]);
    town.netd.say("network set red --mtu large").exits(2);
    assert!(town.netd.say("events --until 0s -f action=update").ok().contains("blue"));
}

#[test]
fn options_of_dockers_bridge_driver_are_read_and_others_refused() {
    let town = Town::new(Offloads::On);
    let key = "com.docker.network";

    let options =
        format!("-o {key}.driver.mtu=1400 -o {key}.container_iface_prefix=net -o {key}.bridge.enable_icc=true");
    town.netd.say(&format!("network create blue {options}")).ok();

    let web = town.container("web", "blue", &[]);
    assert_eq!(mtu(&web, "net0"), 1400);
    let blue = inspected(&town.netd, "network inspect blue");
    assert_eq!(blue["options"][format!("{key}.driver.mtu")], json!("1400"));
    assert_eq!(text(&inspected(&town.netd, "inspect web"), "/networks/0/ifname"), "net0");
    town.netd.say(&format!("network create own -o {key}.bridge.enable_ip_masquerade=false")).ok();
    assert_eq!(inspected(&town.netd, "network inspect own")["masquerade"], json!(false));
    for (option, named) in [
        (format!("{key}.bridge.name=br7"), "bridge.name=br7"),
        (format!("{key}.bridge.enable_ip_masquerade=maybe"), "maybe"),
        (format!("{key}.colour=red"), "colour"),
        ("mtu=1400".to_owned(), "option mtu"),
        (format!("{key}.driver.mtu=40"), "40"),
    ] {
        town.netd.say(&format!("network create red -o {option}")).refused([named]);
    }
    town.netd.say(&format!("network create red --mtu 1400 -o {key}.driver.mtu=1400")).refused(["twice"]);
}
