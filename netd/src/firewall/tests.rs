//! Rulesets as tools print them, and what they say of packets.

use std::net::IpAddr;

use super::{
    ruleset::{Action, Match, Rule},
    *,
};

const TCP_80: (u8, u16) = (6, 80);

#[test]
fn a_host_without_rules_has_nothing_to_show_flows_to() {
    for text in ["", "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"] {
        assert!(!facts(of_save(text, Family::Ip, true)).is_shown());
    }
    let input_alone = nft(
        r#"{"chain": {"family": "inet", "table": "f", "name": "in", "hook": "input", "prio": 0, "policy": "drop"}}"#,
    );
    assert!(!facts(input_alone).is_shown(), "INPUT does not see what is forwarded");
    let nat = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n";
    let nat = facts(of_save(nat, Family::Ip, true));
    assert!(!nat.is_shown() && nat.tracks());
}

#[test]
fn rules_and_policies_on_the_way_of_what_is_forwarded_count() {
    let chain = |family, hook, policy| {
        format!(
            r#"{{"chain": {{"family": "{family}", "table": "f", "name": "c", "type": "filter", "hook": "{hook}", "prio": 0, "policy": "{policy}"}}}}"#
        )
    };
    let rule = r#", {"rule": {"family": "FAMILY", "table": "f", "chain": "c", "handle": 7, "expr": [{"drop": null}]}}"#;
    for family in ["ip", "ip6", "inet"] {
        for hook in ["prerouting", "forward", "postrouting"] {
            assert!(!facts(nft(&chain(family, hook, "accept"))).is_shown());
            assert!(facts(nft(&chain(family, hook, "drop"))).is_shown(), "{family} {hook}");
            let with = chain(family, hook, "accept") + &rule.replace("FAMILY", family);
            assert!(facts(nft(&with)).is_shown(), "{family} {hook}");
        }
    }
    let at_device = r#"{"chain": {"family": "netdev", "table": "f", "name": "c", "hook": "ingress", "prio": 0, "policy": "accept"}}"#;
    assert!(facts(nft(&(at_device.to_owned() + &rule.replace("FAMILY", "netdev")))).is_shown());
}

#[test]
fn netds_own_accept_is_no_rule_of_anothers_and_stands_last() {
    let ours = &accept("0x8000000", COMMENT);
    let own = Accept { table: Xtables::Nft4, mark: MARK };

    let alone = forward("ACCEPT", ours);
    assert!(!alone.is_shown() && alone.needed().is_empty() && alone.accepted() == [own].into());
    let closed = forward("DROP", "");
    assert_eq!((closed.needed(), closed.accepted()), ([own].into(), BTreeSet::new()));
    let behind = forward("DROP", &format!("{ours}-A FORWARD -s 10.0.0.0/8 -j DROP\n"));
    assert_eq!((behind.accepted(), behind.with_accept()), (BTreeSet::new(), [own].into()));
    assert!(forward("DROP", ours).accepted().contains(&own));
}

#[test]
fn netds_accept_for_another_bit_is_netds_too_and_one_without_its_comment_is_not() {
    let [before, own] = [0x100, MARK].map(|mark| Accept { table: Xtables::Nft4, mark });
    let (old, new) = (accept("0x100", COMMENT), accept("0x8000000", COMMENT));

    let left = forward("ACCEPT", &old);
    assert!(!left.is_shown(), "{}", left.why());
    assert_eq!((left.accepted(), left.with_accept()), ([before].into(), [before].into()));
    let both = forward("DROP", &(old + "-A FORWARD -s 10.0.0.0/8 -j DROP\n" + &new));
    assert_eq!((both.accepted(), both.with_accept()), ([before, own].into(), [before, own].into()));
    for others in [accept("0x100", "a VPN's"), accept("0x8000000", "the operator's")] {
        assert_eq!(forward("DROP", &others).with_accept(), BTreeSet::new(), "{others}");
    }
}

#[test]
fn input_says_of_a_port_what_its_rules_say() {
    let saved =
        |rules: &str| of_save(&format!("*filter\n:INPUT DROP [0:0]\n:user - [0:0]\n{rules}COMMIT\n"), Family::Ip, true);
    let cases = [
        ("", true),
        ("-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n", false),
        ("-A INPUT -p udp -m udp --dport 80 -j ACCEPT\n", true),
        ("-A INPUT -p tcp -m multiport --dports 22,79:81 -j ACCEPT\n", false),
        ("-A INPUT -s 192.0.2.0/24 -p tcp -m tcp --dport 80 -j ACCEPT\n", true),
        ("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n", true),
        ("-A INPUT -i lo -j ACCEPT\n", true),
        ("-A INPUT -i eth+ -j ACCEPT\n", false),
        ("-A INPUT ! -i eth0 -j ACCEPT\n", true),
        ("-A INPUT -j user\n-A user -p tcp -j ACCEPT\n", false),
        ("-A INPUT -j user\n-A user -p tcp -j RETURN\n-A user -j ACCEPT\n", true),
        ("-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n", true),
        // It cannot be told, so nothing is claimed.
        ("-A INPUT -p tcp -m limit --limit 3/min -j ACCEPT\n", false),
        ("-A INPUT -m set --match-set banned src -j DROP\n", true),
    ];
    for (rules, denied) in cases {
        assert_eq!(denies(saved(rules), TCP_80), denied, "{rules}");
    }
}

#[test]
fn native_rules_are_read_as_nft_prints_them() {
    let chain = r#"{"chain": {"family": "inet", "table": "f", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}"#;
    let rule = |expr: &str| {
        let rule =
            format!(r#"{{"rule": {{"family": "inet", "table": "f", "chain": "in", "handle": 7, "expr": [{expr}]}}}}"#);
        nft(&format!("{chain}, {rule}"))
    };
    let cases = [
        (
            r#"{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}}, {"accept": null}"#,
            false,
        ),
        (
            r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 80}}, {"accept": null}"#,
            true,
        ),
        (
            r#"{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [22, {"range": [79, 81]}]}}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}"#,
            false,
        ),
        (
            r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}"#,
            true,
        ),
        (
            r#"{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", {"accept": null}], ["new", {"accept": null}]]}}}"#,
            false,
        ),
        (r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, {"accept": null}"#, true),
        (r#"{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, {"accept": null}"#, false),
        (
            r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@friends"}}, {"accept": null}"#,
            true,
        ),
    ];
    for (expr, denied) in cases {
        assert_eq!(denies(rule(expr), TCP_80), denied, "{expr}");
    }
    assert!(rule(cases[3].0).tracks);
    let marks = rule(r#"{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}"#);
    assert!(marks.sets_marks && !rule(cases[0].0).sets_marks);
}

/// As ufw leads packets, and by nft the same.
#[test]
fn what_is_for_the_host_is_told_from_broadcasts_and_what_is_forwarded() {
    let ufw = "*filter\n:INPUT DROP [0:0]\n:before - [0:0]\n:not-local - [0:0]\n-A INPUT -j before\n\
        -A before -m rt --rt-type 0 -j DROP\n-A before -j not-local\n-A before -p tcp --dport 22 -j ACCEPT\n\
        -A not-local -m addrtype --dst-type LOCAL -j RETURN\n-A not-local -m addrtype --dst-type MULTICAST -j RETURN\n\
        -A not-local -m limit --limit 3/min -j LOG\n-A not-local -j DROP\n\
        :FORWARD ACCEPT [0:0]\n-A FORWARD -m addrtype ! --dst-type LOCAL -j DROP\nCOMMIT\n";
    let saved = facts(of_save(ufw, Family::Ip, true));
    let any: IpAddr = "0.0.0.0".parse().unwrap();
    let denial = |facts: &FirewallFacts, port| facts.denial_at_input(["eth0".to_owned()], any, TCP_80.0, port);

    assert_eq!(denial(&saved, 80).unwrap(), "the policy of chain INPUT of ip filter");
    assert_eq!(denial(&saved, 22), None);
    assert!(saved.stop_at_forward("eth0", "ndb-1", reconcile::Family::V4).is_some(), "it is for another");

    let chain =
        r#"{"chain": {"family": "inet", "table": "f", "name": "c", "hook": "input", "prio": 0, "policy": "drop"}}"#;
    for (asks, denied) in [
        (r#"{"fib": {"result": "type", "flags": "daddr"}}, "right": "local""#, false),
        (r#"{"fib": {"result": "type", "flags": "daddr"}}, "right": "multicast""#, true),
        (r#"{"payload": {"protocol": "icmpv6", "field": "type"}}, "right": "nd-router-advert""#, true),
    ] {
        let expr = format!(r#"{{"match": {{"op": "==", "left": {asks}}}}}, {{"accept": null}}"#);
        let rule =
            format!(r#"{{"rule": {{"family": "inet", "table": "f", "chain": "c", "handle": 7, "expr": [{expr}]}}}}"#);
        assert_eq!(denies(nft(&format!("{chain}, {rule}")), TCP_80), denied, "{asks}");
    }
}

#[test]
fn what_ends_in_a_reject_is_named_with_what_would_open_it() {
    let saved = of_save("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT\nCOMMIT\n", Family::Ip, false);

    let stop = facts(saved).stop_at_forward("ndb-1", "eth0", reconcile::Family::V4).unwrap();

    assert_eq!(stop.by, "`-A FORWARD -j REJECT`");
    assert_eq!(stop.remedy, "iptables-legacy -I FORWARD -m mark --mark 0x8000000/0x8000000 -j ACCEPT");
    assert!(!stop.firewalld);
}

#[test]
fn a_rule_that_names_a_port_stops_that_port_alone() {
    let rule = r#"{"chain": {"family": "inet", "table": "firewalld", "name": "f", "hook": "forward", "prio": 0, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "firewalld", "chain": "f", "handle": 7, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}}, {"drop": null}]}}"#;
    let facts = facts(nft(rule));
    let stop = |port| facts.stop_of_port(["eth0".to_owned()], "ndb-1", "10.0.0.2".parse().unwrap(), TCP_80.0, port);

    let stopped = stop(80).unwrap();

    assert!(stopped.firewalld && stopped.remedy.starts_with("nft insert rule inet firewalld f "), "{stopped:?}");
    assert_eq!(stop(81), None);
    assert_eq!(facts.stop_at_forward("eth0", "ndb-1", reconcile::Family::V4), None);
}

#[test]
fn rules_without_end_are_not_followed_without_end() {
    let text = "*filter\n:INPUT DROP [0:0]\n:a - [0:0]\n-A INPUT -j a\n-A a -j a\nCOMMIT\n";
    assert!(!denies(of_save(text, Family::Ip, true), TCP_80));
    let rule = Rule { text: String::new(), matches: vec![Match::Marked(1)], action: Action::Accept, netds: false };
    assert!(rule.is_accept_of(1) && !rule.is_accept_of(0));
}

#[test]
fn a_rule_that_takes_netds_bit_away_is_named() {
    let saved = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j MARK --set-xmark 0x1/0x1\n\
        -A PREROUTING -i eth0 -j MARK --set-xmark 0x2/0xffffffff\nCOMMIT\n";
    let wipes = nft(
        r#"{"chain": {"family": "inet", "table": "t", "name": "c", "hook": "forward", "prio": 0, "policy": "accept"}},
            {"rule": {"family": "inet", "table": "t", "chain": "c", "handle": 7,
                "expr": [{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}]}}"#,
    );

    let both = facts(of_save(saved, Family::Ip, false).and(wipes));

    let wiping: Vec<_> = both.wiping().collect();
    assert_eq!(wiping.len(), 2, "{wiping:?}");
    assert_eq!(wiping[0], "`-A PREROUTING -i eth0 -j MARK --set-xmark 0x2/0xffffffff`");
    assert!(wiping[1].starts_with("rule 7 of "), "{wiping:?}");
}

/// `mark` as iptables writes it.
fn accept(mark: &str, comment: &str) -> String {
    format!("-A FORWARD -m mark --mark {mark}/{mark} -m comment --comment \"{comment}\" -j ACCEPT\n")
}

fn forward(policy: &str, rules: &str) -> FirewallFacts {
    facts(of_save(&format!("*filter\n:FORWARD {policy} [0:0]\n{rules}COMMIT\n"), Family::Ip, true))
}

fn facts(ruleset: Ruleset) -> FirewallFacts {
    FirewallFacts { ruleset, mark: MARK, generation: 1, ..FirewallFacts::default() }
}

fn nft(objects: &str) -> Ruleset {
    of_json(&format!(r#"{{"nftables": [{objects}]}}"#)).unwrap()
}

fn denies(ruleset: Ruleset, (protocol, port): (u8, u16)) -> bool {
    let any: IpAddr = "0.0.0.0".parse().unwrap();
    facts(ruleset).denial_at_input(["eth0".to_owned()], any, protocol, port).is_some()
}
