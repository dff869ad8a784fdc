//! `netd run` in its modes: the host's network, none, another container's.

use netd_tests::lab::{Offloads, traffic::PATIENCE};
use serde_json::json;

use crate::{
    says::{inspected, names, text},
    town::{FRONT, INTERNET, Town, wait_until},
};

#[test]
fn a_command_without_a_network_has_its_own_loopback_and_nothing_else() {
    let town = Town::new(Offloads::On);
    let before = town.host.snapshot();

    let links = town.netd.say("run --rm --network none -- ip -o link show").ok();
    assert!(links.lines().count() == 1 && links.contains("LOOPBACK,UP"), "{links}");
    town.netd.say("run --rm --network none -- ping -c 1 -W 60 127.0.0.1").ok();
    town.netd.say("run --rm --network none -p 80:80 -- true").exits(125);
    town.host.assert_as_in_but_for(&before, &["mount"]);

    town.netd.say("run -d --name quiet --network none -- sleep 1000").ok();
    assert!(town.netd.say("ps").ok().lines().any(|line| line.starts_with("quiet") && line.contains(" none ")));
    town.network("blue");
    town.netd.say("network connect blue quiet").ok();
    assert!(town.netd.say(&format!("exec quiet -- ping -c 1 -W 60 {INTERNET}")).succeeded());
    town.netd.say("rm -f quiet").ok();
}

#[test]
fn a_command_with_the_hosts_network_is_the_hosts() {
    let town = Town::new(Offloads::On);
    let before = town.host.snapshot();

    let inside = town.netd.say("run --rm --network host -- ip -o -4 address show dev eth1").ok();
    assert!(inside.contains(FRONT), "{inside}");
    let told = town.netd.say("run --network host -p 80:80 -- true");
    assert!(told.exits(125).stderr.contains("--network host"), "{told}");
    town.netd.say("run --network host --network none -- true").exits(125);
    town.netd.run(["run", "--rm", "--network", "host", "--", "sh", "-c", "exit 9"]).exits(9);
    town.netd.say("run --rm --network host -- /no/such/command").exits(127);
    assert_eq!(names(&town.netd.json("ps")), [""; 0].map(str::to_owned));

    town.netd.say("run -d --name web --network host -- busybox httpd -f -p 8080 -h /etc").ok();
    wait_until("the web server answers", || town.client.curl(&format!("http://{FRONT}:8080/hostname")).succeeded());
    assert_eq!(text(&inspected(&town.netd, "inspect web"), "/mode"), "host");
    assert!(town.netd.say("ps").ok().lines().any(|line| line.starts_with("web") && line.contains(" host ")));
    assert!(town.netd.say("exec web -- ip -o -4 address show dev eth1").ok().contains(FRONT));
    town.network("blue");
    town.netd.say("network connect blue web").refused(["web", "the host"]);
    town.netd.say("publish web 90:90").refused(["web"]);
    town.netd.say("rm web").refused(["web", "running"]);
    town.netd.say("rm -f web").ok();
    town.netd.say("network rm blue").ok();
    assert!(!town.host.path("/run/netd/logs/web.log").exists());
    town.host.assert_as_in_but_for(&before, &["mount"]);
}

#[test]
fn a_command_with_another_containers_network_shares_it() {
    let mut town = Town::new(Offloads::On);
    town.network("blue");
    let web = town.container("web", "blue", &["8080:80"]);
    let address = town.address("web");

    let inside = town.netd.say("run --rm --network container:web -- ip -o -4 address show dev eth0").ok();
    assert!(inside.contains(&address), "{inside}");
    town.netd.say("run -d --name side --network container:web -- busybox httpd -f -p 80 -h /etc").ok();
    let page = || town.client.curl(&format!("http://{FRONT}:8080/hostname")).succeeded();
    wait_until("what runs beside it answers at its port", page);
    let side = inspected(&town.netd, "inspect side");
    assert_eq!((&side["mode"], &side["networks"], &side["ports"]), (&json!("container:web"), &json!([]), &json!([])));

    town.netd.say("network connect blue side").refused(["side", "web"]);
    town.netd.say("run --network container:side -- true").exits(125);
    let told = town.netd.say("run --network container:web -p 81:81 -- true");
    assert!(told.exits(125).stderr.contains("container:web"), "{told}");
    assert!(town.netd.say("run --network container:nobody -- true").exits(125).stderr.contains("nobody"));

    town.netd.kill();
    town.netd.start();
    assert_eq!(text(&inspected(&town.netd, "inspect side"), "/state"), "running");
    town.netd.say("rm -f side").ok();

    assert_eq!(names(&town.netd.json("ps")), ["web"]);
    assert_eq!(web.pings(INTERNET, 1, PATIENCE), 1, "the other's network stays");
    for name in ["host", "none", "container"] {
        town.netd.say(&format!("network create {name}")).refused([name]);
    }
}
