//! `netd uninstall` takes away everything of netd's, and nothing of anybody else's, however much it looks like netd's.

use std::fs;

use netd_tests::lab::{Container, NetdOptions, traffic::PATIENCE};

use crate::{
    loaded::Loaded,
    says,
    town::{CLIENT, FRONT, INTERNET, Town},
};

#[test]
fn with_a_daemon_running_nothing_of_ours_is_left_and_the_daemon_ends() {
    let mut play = Play::new(&NetdOptions::default());
    let loaded = play.use_netd();

    play.town.netd.say("uninstall").ok();

    play.town.netd.wait();
    play.assert_nothing_is_left(&loaded);
    play.town.netd.say("status").exits(1);
}

#[test]
fn after_a_kill_nothing_of_ours_is_left_either() {
    let mut play = Play::new(&NetdOptions::default());
    let loaded = play.use_netd();
    play.town.netd.kill();

    play.town.netd.say("uninstall").ok();

    play.assert_nothing_is_left(&loaded);
}

#[test]
fn after_a_kill_nothing_is_left_where_netd_toml_has_everything_put() {
    let mut play = Play::new(&NetdOptions::default());
    let places = "[daemon]\nstate-dir = \"/var/lib/netd/here\"\nbpf-dir = \"/sys/fs/bpf/here\"\n";
    fs::write(play.town.host.path("/etc/netd/netd.toml"), places).expect("the host has /etc/netd");
    let loaded = play.use_netd();
    assert!(play.town.host.path("/var/lib/netd/here/netd.redb").exists());
    play.town.netd.kill();

    play.town.netd.say("uninstall").ok();

    play.assert_nothing_is_left(&loaded);
}

#[test]
fn clsact_filters_go_and_those_of_others_stay() {
    let mut play = Play::new(&NetdOptions::default().variable("NETD_FORCE_CLSACT", "1"));
    let loaded = play.use_netd();
    assert_eq!(says::attach_mode(&play.town.netd), "clsact");

    play.town.netd.say("uninstall").ok();

    play.town.netd.wait();
    play.assert_nothing_is_left(&loaded);
}

#[test]
fn a_second_uninstall_finds_nothing_and_a_new_daemon_starts_from_nothing() {
    let mut play = Play::new(&NetdOptions::default());
    play.use_netd();
    play.town.netd.say("uninstall").ok();
    play.town.netd.wait();

    play.town.netd.say("uninstall").ok();
    play.town.netd.start();

    assert_eq!(says::names(&play.town.netd.json("network ls")), [""; 0]);
    assert_eq!(says::names(&play.town.netd.json("ps")), [""; 0]);
    play.use_netd();
}

#[test]
fn while_netd_runs_and_when_a_network_goes_what_is_foreign_stays() {
    // Without the list, a foreign bridge with an address is an uplink as any other.
    let uplinks = ["--uplink", "eth0", "--uplink", "eth1"];
    let mut play = Play::new(&NetdOptions::default().arguments(uplinks));
    let foreign = play.foreign();
    play.use_netd();
    assert_eq!(play.foreign(), foreign);

    for endpoint in ["web", "app", "job"] {
        play.town.netd.run(["detach", endpoint]).ok();
    }
    play.town.netd.say("network rm blue").ok();
    play.town.netd.kill();
    play.town.netd.start();

    assert_eq!(play.foreign(), foreign);
}

/// A town with things in it that look like netd's, and two containers that netd does not know yet.
struct Play {
    web: Container,
    app: Container,
    before: netd_tests::lab::Snapshot,
    town: Town,
}

impl Play {
    fn new(options: &NetdOptions) -> Self {
        let mut town = Town::before_netd();
        town.netd = town.host.netd_stopped(options.clone());
        make_look_alikes(&town);
        let [web, app] = ["web", "app"].map(|name| town.host.container(name));
        let before = town.host.snapshot();
        Self { web, app, before, town }
    }

    /// Uses everything of netd once; returns what that put into the kernel.
    fn use_netd(&mut self) -> Loaded {
        let town = &mut self.town;
        if !town.netd.say("status").succeeded() {
            town.netd.start();
        }
        town.network("blue");
        town.netd.say("run -d --name job --network blue -- true").ok();
        for (container, ports) in [(&self.web, &["-p", "8080:80"][..]), (&self.app, &[])] {
            let netns = container.netns();
            let words = ["attach", container.name(), "--netns", &netns, "--network", "blue"];
            town.netd.run(words.iter().chain(ports)).ok();
        }
        let _web = self.web.serve_http(80);
        assert_eq!(town.client.curl(&format!("http://{FRONT}:8080/")).ok(), format!("web sees {CLIENT}\n"));
        assert_eq!(self.app.pings(INTERNET, 1, PATIENCE), 1);
        Loaded::of(&says::program_ids(&town.netd))
    }

    #[track_caller]
    fn assert_nothing_is_left(&self, loaded: &Loaded) {
        self.town.host.assert_as_in(&self.before);
        loaded.assert_gone();
        for container in [&self.web, &self.app] {
            assert_eq!(container.ip("-o link show").lines().count(), 1, "only lo is left in {}", container.name());
        }
        let directories = ["/var/lib/netd", "/run/netd"].map(|directory| self.town.host.path(directory));
        let entries = directories.into_iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten());
        let left: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "files are left: {left:?}");
    }

    /// What there is of the look-alikes.
    fn foreign(&self) -> Vec<String> {
        let snapshot = self.town.host.snapshot();
        let ours = |line: &&str| line.contains("foreign") || line.contains("ndveth") || line.contains("pref 7 ");
        let lines: Vec<_> = snapshot.lines().filter(ours).map(str::to_owned).collect();
        for sign in ["link nd-foreign.", "link ndveth0.", "nft ", "pin /foreign", "netns foreign", "pref 7 "] {
            assert!(lines.iter().any(|line| line.contains(sign)), "{sign} is there: {lines:#?}");
        }
        lines
    }
}

/// A bridge and a veth with names like ours, an alias that is not ours, a filter beside ours, rules, a pin, a namespace.
fn make_look_alikes(town: &Town) {
    let host = &town.host;
    for words in [
        "link add name nd-foreign type bridge",
        "link set nd-foreign alias foreign",
        "address add 10.250.0.1/24 dev nd-foreign",
        "link set nd-foreign up",
        "link add name ndveth0 type veth peer name ndveth1",
        "link set ndveth0 master nd-foreign",
        "netns add foreign",
        "route add 10.251.0.0/24 via 10.250.0.2",
    ] {
        host.ip(words);
    }
    host.run(["tc", "qdisc", "add", "dev", "eth1", "clsact"]).ok();
    // A classic program that looks at nothing and lets everything go on.
    let filter = ["filter", "add", "dev", "eth1", "ingress", "pref", "7", "protocol", "all", "bpf"];
    host.run(["tc"].iter().chain(&filter).chain(&["bytecode", "1,6 0 0 0", "classid", "1:1"])).ok();
    host.run(["nft", "add table ip foreign; add chain ip foreign ndforward { type filter hook forward priority 0; }"])
        .ok();
    fs::create_dir(host.path("/sys/fs/bpf/foreign")).expect("a directory can be made in a bpffs");
}
