//! The firewalls by name that operators run, each in its own words and as its package has it.

use netd_tests::lab::traffic::{IMPATIENCE, PATIENCE};

use super::{
    operator::Operator,
    play::{Play, asks},
};
use crate::{
    ipv6, says,
    town::{FRONT, INTERNET, wait_until},
};

#[test]
fn ufw_is_lived_with_and_what_it_denies_is_denied() {
    for tables in ["nft", "legacy"] {
        let play = Play::of_both_families(&[]);
        let ufw = Operator::on(play.host());
        for command in ["iptables", "ip6tables"] {
            ufw.does(&format!("update-alternatives --set {command} /usr/sbin/{command}-{tables}"));
        }
        ufw.does_in_the_end("ufw --force enable");
        // Of what is routed it says that it is off, by the sysctl that netd leaves alone; its policy is to drop.
        assert!(ufw.does("ufw status verbose").contains("Status: active"));
        wait_until("the rules are seen", || play.status().contains("shown\":true"));

        wait_until("the accept is there", || has_accept(&play, tables));
        play.goes_on();
        play.goes_on_by_ipv6();
        play.is_fast(&format!("ufw on iptables-{tables}"));
        play.is_fast_by_ipv6(&format!("ufw on ip6tables-{tables}"));

        let app = play.town.address("app");
        ufw.does(&format!("ufw route deny proto tcp to {app} port 80"));
        let reaches = || play.town.client.asks_tcp(&format!("{FRONT}:8080"), IMPATIENCE).is_ok();
        wait_until("what ufw denies is denied", || !reaches());
        play.town.client.transfers(&format!("{FRONT}:8090"), 1 << 20);
        ufw.does(&format!("ufw route delete deny proto tcp to {app} port 80"));
        wait_until("what it denies no more is let in", reaches);

        wait_until("the rules are seen", || says_of_input(&play, 8082).contains("INPUT"));
        let warning = says_of_input(&play, 8083);
        assert!(warning.starts_with("netd: ") && warning.contains("8083"), "{warning}");
        assert_eq!(warning.lines().count(), 1, "for both families: {warning}");
        let exposed = play.town.netd.say("exposure").ok();
        assert!(exposed.contains("open although INPUT denies"), "{exposed}");
        assert!(play.town.netd.run(["doctor"]).stdout.contains("port 8080/tcp"), "doctor lists it");
        ufw.does("ufw allow 8081/tcp");
        wait_until("what ufw allows is published without a warning", || says_of_input(&play, 8081).is_empty());

        let (mut out, mut inward) = (play.app_connects(), play.client_connects());
        ufw.does_in_the_end("ufw reload");
        asks(&mut out).expect("an established flow goes on");
        asks(&mut inward).expect("an established flow goes on");
        wait_until("the accept is put back", || has_accept(&play, tables));
        play.goes_on();
        ufw.does("ufw disable");
        play.goes_on();
        asks(&mut out).expect("an established flow goes on");
        asks(&mut inward).expect("an established flow goes on");
    }
}

#[test]
fn what_firewalld_rejects_is_rejected_until_it_is_told_otherwise() {
    let play = Play::of_both_families(&[]);
    let firewalld = Operator::with_firewalld(play.host());
    wait_until("the rules are seen", || play.status().contains("shown\":true"));
    let rejected = || {
        let outward = [format!("{INTERNET}:7"), format!("[{}]:7", ipv6::INTERNET)];
        let inward = [format!("{FRONT}:8080"), format!("[{}]:8080", ipv6::FRONT)];
        outward.iter().for_each(|at| assert!(play.app.asks_tcp(at, IMPATIENCE).is_err(), "{at} is rejected"));
        inward.iter().for_each(|at| assert!(play.town.client.asks_tcp(at, IMPATIENCE).is_err(), "{at} is rejected"));
    };

    rejected();
    let doctor = play.town.netd.run(["doctor"]).stdout;
    assert!(doctor.contains("firewalld") && doctor.contains("nft insert rule"), "{doctor}");
    let exposed = play.town.netd.json("exposure");
    let remedy = says::text(&exposed, "/0/stopped/remedy");
    assert!(says::text(&exposed, "/0/stopped/by").contains("firewalld"), "{exposed}");
    let table = play.town.netd.say("exposure").ok();
    assert!(table.contains("stopped by") && table.contains(&remedy), "{table}");

    play.does(&remedy.replace('\'', ""));
    play.goes_on();
    play.goes_on_by_ipv6();
    play.is_fast("firewalld, told by nft");
    wait_until("exposure knows", || play.town.netd.json("exposure")[0]["stopped"].is_null());

    firewalld.does("firewall-cmd --reload");
    wait_until("firewalld has made its table anew", || !play.town.netd.json("exposure")[0]["stopped"].is_null());
    rejected();

    for line in of_the_readme() {
        firewalld.does(line);
    }
    for what in ["told by itself", "reloaded"] {
        wait_until("exposure knows", || play.town.netd.json("exposure")[0]["stopped"].is_null());
        play.goes_on();
        play.is_fast(&format!("firewalld, {what}"));
        assert!(says_of_input(&play, 8082).contains("INPUT"), "its zone for the outside denies the port to the host");
        firewalld.does("firewall-cmd --reload");
    }
    let app = play.town.address("app");
    let rule = format!("rule priority=-100 family=ipv4 destination address={app} port port=80 protocol=tcp drop");
    firewalld.does(&format!("firewall-cmd --permanent --policy netd-in --add-rich-rule '{rule}'"));
    firewalld.does("firewall-cmd --reload");
    let stopped = || play.town.client.asks_tcp(&format!("{FRONT}:8080"), IMPATIENCE).is_err();
    wait_until("a rule of firewalld's stops what it names", stopped);
    play.app.asks_tcp(&format!("{INTERNET}:7"), PATIENCE).expect("and nothing else");
    play.town.client.transfers(&format!("{FRONT}:8090"), 1 << 20);
}

/// Whether netd's accept ends both FORWARD chains.
fn has_accept(play: &Play, tables: &str) -> bool {
    ["iptables", "ip6tables"].iter().all(|command| {
        let listed = play.host().run([&format!("{command}-{tables}"), "-S", "FORWARD"]).ok();
        listed.lines().last().is_some_and(|rule| rule.contains("netd"))
    })
}

/// What `publish` says on standard error. The port is not published any more then.
fn says_of_input(play: &Play, port: u16) -> String {
    let said = play.town.netd.say(&format!("publish app {port}:80"));
    said.ok();
    play.town.netd.say(&format!("unpublish app {port}:80")).ok();
    said.stderr
}

/// What the README would have an operator say to firewalld.
fn of_the_readme() -> impl Iterator<Item = &'static str> {
    let readme = include_str!("../../../../README.md");
    let lines =
        readme.lines().filter_map(|line| line.strip_prefix("# ").filter(|line| line.starts_with("firewall-cmd ")));
    let lines: Vec<_> = lines.collect();
    assert!(lines.len() > 4, "{lines:?}");
    lines.into_iter()
}
