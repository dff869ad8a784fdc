//! Each fact that is wrong is found, and a host as it should be is fine.

use std::{collections::BTreeSet, net::IpAddr};

use netd_common::tables::Hook;

use super::*;
use crate::{
    firewall::{self, FirewallFacts},
    model::tests::two_networks_and_an_endpoint,
    reconcile::{LinkName, Sandbox, Uplink, Use},
};

struct Patient {
    model: Model,
    host: HostFacts,
    observed: State,
    guard: Guard,
    taken: Vec<(u16, Process)>,
    checkup: Checkup,
}

fn choices() -> Choices {
    Choices { secret: [1, 2], ..Choices::default() }
}

impl Patient {
    /// One who lacks nothing.
    fn healthy() -> Self {
        let model = two_networks_and_an_endpoint();
        let link = LinkName::new("eth0").unwrap();
        let uplink = Uplink {
            mtu: 1500,
            layer3: false,
            path_mtu: 1500,
            addresses: vec!["192.0.2.1/24".parse().unwrap()],
            was_no_router: BTreeSet::new(),
        };
        let sandboxes = model.endpoints.values().map(|endpoint| {
            (endpoint.netns.clone(), Sandbox { path: endpoint.netns.clone(), inode: endpoint.netns_inode })
        });
        let host = HostFacts {
            uplinks: [(link, uplink)].into(),
            sandboxes: sandboxes.collect(),
            calls: ["bind4", "connect4"].into(),
            ..HostFacts::default()
        };
        let observed = plan(&model, &host, &choices());
        let checkup =
            Checkup { kernel: "6.18.1".into(), received: 100, seen: 100, jit: Some(true), ..Checkup::default() };
        let guard = Guard::Programs { cgroup: "/sys/fs/cgroup".into() };
        Self { model, host, observed, guard, taken: Vec::new(), checkup }
    }

    fn findings(&self) -> Vec<Finding> {
        let Self { model, host, observed, guard, taken, checkup } = self;
        findings(&Facts { model, host, observed, choices: choices(), guard, taken, checkup })
    }

    /// What is wrong, by check.
    fn wrong(&self) -> BTreeSet<(String, Severity)> {
        let wrong = self.findings().into_iter().filter(|finding| finding.severity > Severity::Fine);
        wrong.map(|finding| (finding.check, finding.severity)).collect()
    }
}

#[test]
fn a_host_as_it_should_be_is_fine_in_every_check() {
    let patient = Patient::healthy();

    assert_eq!(patient.wrong(), BTreeSet::new());
    let checks: Vec<String> = patient.findings().into_iter().map(|finding| finding.check).collect();
    assert_eq!(checks, ["kernel", "hooks", "state", "subnets", "mtu", "forwarding", "firewall", "programs", "ports"]);
}

#[test]
fn whatever_is_wrong_is_found_with_its_meaning() {
    type Harm = fn(&mut Patient);
    let eth0 = || LinkName::new("eth0").unwrap();
    assert_eq!(eth0().as_str(), "eth0");
    let cases: [(&str, Severity, Harm); 13] = [
        ("kernel", Severity::Problem, |p| p.checkup.kernel = "5.15.0-91-generic".into()),
        ("kernel", Severity::Note, |p| p.checkup.kernel = "6.1.0".into()),
        ("kernel", Severity::Problem, |p| p.checkup.realtime = true),
        ("kernel", Severity::Warning, |p| p.checkup.jit = Some(false)),
        ("hooks", Severity::Problem, |p| drop(p.observed.hooks.pop_first())),
        ("hooks", Severity::Problem, |p| p.observed.calls.clear()),
        ("hooks", Severity::Problem, |p| p.checkup.seen = 0),
        ("state", Severity::Warning, |p| drop(p.observed.endpoints.pop_first())),
        ("state", Severity::Warning, |p| p.host.sandboxes.clear()),
        ("forwarding", Severity::Warning, |p| drop(p.observed.forwarding.pop_first())),
        ("br_netfilter", Severity::Note, |p| p.checkup.bridge_netfilter = Some(true)),
        ("programs", Severity::Warning, |p| {
            let link = LinkName::new("eth0").unwrap();
            p.checkup.foreign.insert(Foreign { link, hook: Hook::FromUplink, name: "guard".into(), before: true });
        }),
        ("ports", Severity::Warning, |p| p.taken.push((80, Process { pid: 7, command: "nginx".into() }))),
    ];
    for (check, severity, harm) in cases {
        let mut patient = Patient::healthy();
        harm(&mut patient);

        assert!(patient.wrong().contains(&(check.to_owned(), severity)), "{check}: {:?}", patient.findings());
        let wrong = patient.findings().into_iter().filter(|finding| finding.severity > Severity::Fine);
        assert!(wrong.into_iter().all(|finding| !finding.meaning.is_empty() && !finding.remedy.is_empty()));
    }
}

#[test]
fn a_rule_that_takes_netds_mark_away_is_named_where_the_mark_is_needed() {
    for (policy, named) in [("DROP", true), ("ACCEPT", false)] {
        let mut patient = Patient::healthy();
        let saved = format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n\
            *filter\n:FORWARD {policy} [0:0]\nCOMMIT\n"
        );
        let ruleset = firewall::of_save(&saved, firewall::Family::Ip, false);
        patient.host.firewall =
            FirewallFacts { ruleset, mark: firewall::MARK, generation: 1, ..FirewallFacts::default() };

        let mut found = patient.findings().into_iter().map(|finding| finding.found);
        let line =
            "`-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff` takes netd's mark 0x8000000 away from what it meets";
        assert_eq!(found.any(|found| found == line), named, "{policy}");
    }
}

#[test]
fn a_route_over_a_network_and_a_network_too_wide_for_its_way_are_found() {
    let mut patient = Patient::healthy();
    let subnet = patient.model.networks.values().next().unwrap().subnets[0].subnet;
    patient.host.uses.insert((subnet, Use::Route { device: "wg0".into() }));
    patient.host.uplinks.values_mut().for_each(|uplink| uplink.path_mtu = 1280);

    let wrong = patient.wrong();
    assert!(
        wrong.contains(&("subnets".into(), Severity::Warning)) && wrong.contains(&("mtu".into(), Severity::Warning))
    );
}

#[test]
fn a_resolver_that_does_not_answer_is_named() {
    let server = Server::from("192.0.2.53".parse::<IpAddr>().unwrap());

    let asked = |from: Option<&str>, others: &[&str], answer: Result<(), &str>| Asked {
        server: server.clone(),
        from: from.map(str::to_owned),
        others: others.iter().map(ToString::to_string).collect(),
        answer: answer.map_err(str::to_owned),
    };
    let said = |asked: Asked| {
        let found = resolvers(&[asked]).pop().unwrap();
        (found.severity, found.found)
    };

    assert_eq!(
        said(asked(None, &[], Err("timed out"))),
        (Severity::Warning, "192.0.2.53 does not answer: timed out".into())
    );
    assert_eq!(said(asked(None, &[], Ok(()))), (Severity::Fine, "192.0.2.53 answers".into()));
    assert_eq!(
        said(asked(Some("endpoint web"), &["network blue", "endpoint web"], Err("refused"))),
        (
            Severity::Warning,
            "192.0.2.53 (network blue, endpoint web) does not answer, asked from endpoint web: refused".into()
        )
    );
    let without = resolvers(&[asked(Some("the host"), &["network blue"], Ok(()))]);
    assert_eq!(without[0].found, "the host has no resolver");
    assert_eq!((without[0].severity, without.len()), (Severity::Warning, 2));
    assert_eq!(without[1].found, "192.0.2.53 (network blue) answers, asked from the host");
    let on_a_link = Server { address: "fe80::1".parse().unwrap(), zone: Some("eth0".into()) };
    assert_eq!(said(Asked { server: on_a_link, ..asked(None, &[], Ok(())) }).1, "fe80::1%eth0 answers");
}
