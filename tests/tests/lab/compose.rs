//! `netd up` and `netd down`: a Compose file made true, made true again, changed, and taken away.

use std::fs;

use netd_tests::lab::Offloads;
use serde_json::json;

use crate::{
    says::{inspected, names, text},
    town::{FRONT, Town, wait_until},
};

const SHOP: &str = "
services:
  web:
    image: busybox
    command: [busybox, httpd, -f, -p, '80', -h, /etc]
    ports: ['${PORT:-8080}:80']
    networks: {front: {ipv4_address: 10.99.0.7, ipv6_address: 'fd00:99::7', aliases: [www], gw_priority: 1}, back: {}}
    depends_on: [db]
    labels: {tier: front}
  db:
    command: sh -c 'echo $$WHO; sleep 1000'
    environment: [WHO=me]
    dns: 203.0.113.80
    networks: [back]
  probe:
    command: sleep 1000
    network_mode: service:web
networks:
  front: {ipam: {config: [{subnet: 10.99.0.0/24, ip_range: 10.99.0.128/25}, {subnet: 'fd00:99::/64'}]}}
  back: {internal: true}
";

fn write(town: &Town, text: &str) {
    let directory = town.host.path("/run/shop");
    fs::create_dir_all(&directory).expect("a Lab's /run can be written");
    fs::write(directory.join("compose.yaml"), text).expect("a Lab's /run can be written");
}

#[test]
fn a_compose_file_is_made_true_again_and_taken_away() {
    let mut town = Town::new(Offloads::On);
    town.netd.say("network create other").ok();
    town.container("mine", "other", &[]);
    let before = town.host.snapshot();
    write(&town, SHOP);

    let up = town.netd.say("up -f /run/shop/compose.yaml");

    let told = up.ok();
    assert!(
        told.ends_with(
            "service db started (shop-db-1)\nservice web started (shop-web-1)\nservice probe started (shop-probe-1)\n"
        ),
        "{told}"
    );
    assert!(up.stderr.contains("warning: services.web: passed over") && up.stderr.contains("image"), "{up}");
    let page = |port: &str| town.client.curl(&format!("http://{FRONT}:{port}/hostname")).succeeded();
    wait_until("the web server answers", || page("8080"));
    let web = inspected(&town.netd, "inspect shop-web-1");
    assert_eq!(web["networks"][0]["aliases"], json!(["web"]));
    assert_eq!(text(&web, "/networks/1/ip"), "10.99.0.7");
    assert_eq!(text(&web, "/networks/1/ip6"), "fd00:99::7");
    assert_eq!(inspected(&town.netd, "inspect shop-db-1")["dns"], json!(["203.0.113.80"]));
    let guest = town.container("guest", "shop_front", &[]);
    assert_eq!(town.address("guest"), "10.99.0.128", "the first of the range");
    town.netd.say("detach guest").ok();
    guest.delete();
    assert_eq!(web["networks"][1]["aliases"], json!(["web", "www"]));
    assert_eq!(text(&inspected(&town.netd, "inspect shop-probe-1"), "/mode"), "container:shop-web-1");
    let log = town.host.path("/run/netd/logs/shop-db-1.log");
    wait_until("it has said who it is", || fs::read_to_string(&log).expect("it has a log") == "me\n");
    let address = town.address("shop-db-1");
    for (asker, name, address) in
        [("web", "db", address.as_str()), ("probe", "db", &address), ("web", "www", "10.99.0.7")]
    {
        let found = town.netd.say(&format!("exec shop-{asker}-1 -- getent ahostsv4 {name}")).ok();
        assert!(found.starts_with(&format!("{address} ")), "{asker} finds {name}: {found}");
    }
    let listed = town.netd.say("ps -q -f label=com.docker.compose.project=shop").ok();
    assert_eq!(listed, "shop-db-1\nshop-probe-1\nshop-web-1\n");

    // Once more, also after the daemon died: nothing changes.
    town.netd.kill();
    town.netd.start();
    let steady = town.host.snapshot();
    let again = town.netd.say("up -f /run/shop/compose.yaml").ok();
    assert_eq!(again.matches("runs already").count(), 3, "{again}");
    town.host.assert_as_in(&steady);

    // Another port, one service less: what differs is made anew, the rest goes on.
    let db = text(&inspected(&town.netd, "inspect shop-db-1"), "/id");
    write(
        &town,
        &SHOP.replace("8080", "8081").replace("  probe:\n    command: sleep 1000\n    network_mode: service:web\n", ""),
    );
    let changed = town.netd.say("up -f /run/shop/compose.yaml");
    assert!(changed.ok().contains("service web started") && changed.stdout.contains("service db runs already"));
    assert!(changed.stderr.contains("shop-probe-1"), "{changed}");
    wait_until("the web server answers at its new port", || {
        town.client.curl(&format!("http://{FRONT}:8081/hostname")).succeeded()
    });
    assert_eq!(text(&inspected(&town.netd, "inspect shop-db-1"), "/id"), db);

    let down = town.netd.say("down -f /run/shop/compose.yaml").ok();
    let order = [
        "endpoint shop-probe-1",
        "endpoint shop-web-1",
        "endpoint shop-db-1",
        "network shop_back",
        "network shop_front",
    ];
    assert_eq!(down.lines().collect::<Vec<_>>(), order.map(|what| format!("{what} removed")), "web depends on db");
    assert_eq!(town.netd.say("down -f /run/shop/compose.yaml").ok(), "");
    assert_eq!(names(&town.netd.json("ps")), ["mine"]);
    assert_eq!(names(&town.netd.json("network ls")), ["other"]);
    wait_until("nothing that the services started is left", || {
        !town.host.run(["pgrep", "-f", "sleep 1000"]).succeeded()
    });
    // The daemon that came after has programs of its own.
    town.host.assert_as_in_but_for(&before, &["mount", "tcx"]);
}

#[test]
fn what_cannot_be_made_true_is_refused_before_anything_is_made() {
    let town = Town::new(Offloads::On);
    town.network("taken_default");
    let before = town.host.snapshot();
    let cases = [
        ("services: {web: {command: 'true', links: [db]}}", "services.web: netd does not know `links`"),
        ("services: {web: {image: nginx}}", "services.web: it has no `command`"),
        ("services: {web: {command: 'true', networks: [lan]}}\nnetworks: {lan: {external: true}}", "no network lan"),
        ("name: taken\nservices: {web: {command: 'true'}}", "taken_default"),
        ("services: [", "line 1"),
        ("services: {web: {command: 'true', ports: ['${PORT:?say which}:80']}}", "PORT is not set: say which"),
    ];
    for (file, named) in cases {
        write(&town, file);
        town.netd.say("up -f /run/shop/compose.yaml").refused([named]);
        town.host.assert_as_in_but_for(&before, &["mount"]);
    }
    town.netd.say("up -f /run/nowhere.yaml").refused(["/run/nowhere.yaml"]);
    assert_eq!(names(&town.netd.json("network ls")), ["taken_default"]);
}

#[test]
fn a_file_is_found_in_the_directory_and_only_the_projects_things_are_taken_away() {
    let town = Town::new(Offloads::On);
    write(&town, "services: {job: {command: sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.05; done'}}");
    let netd = netd_tests::lab::netd_binary().to_string_lossy().into_owned();
    let there = |words: &str| town.host.run(["sh", "-c", &format!("cd /run/shop && exec {netd} {words}")]);
    there("up").ok();
    // Someone else joins the project's network: it cannot go, and says why.
    let guest = town.host.container("guest");
    town.netd.run(["attach", "guest", "--netns", &guest.netns(), "--network", "shop_default"]).ok();

    there("down").refused(["shop_default", "guest"]);

    assert_eq!(names(&town.netd.json("ps")), ["guest"]);
    town.netd.say("detach guest").ok();
    assert_eq!(there("down").ok(), "network shop_default removed\n");
    assert!(town.host.run(["sh", "-c", &format!("cd /run && exec {netd} up")]).stderr.contains("compose.yaml"));
}
