//! The tables of iptables, as `iptables-save` prints them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    COMMENT, marks,
    ruleset::{Action, Chain, Family, Hook, Match, Matches, Rule, Ruleset},
};

/// Reads what the command of one family prints. What is not understood counts as what netd does not know.
pub fn of_save(text: &str, family: Family, nft: bool) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
            ruleset.tracks |= table == "nat";
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let (name, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            ruleset.chains.push(Chain {
                family,
                table: table.clone(),
                name: name.to_owned(),
                nft,
                // A chain of a user's has no policy.
                hook: (policy != "-").then(|| hook(name)).flatten(),
                priority: priority(&table),
                nat: table == "nat",
                drops: policy == "DROP",
                rules: Vec::new(),
                marking: Vec::new(),
            });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = shlex::split(rule).unwrap_or_default();
            let Some((chain, words)) = words.split_first() else { continue };
            ruleset.tracks |=
                words.iter().any(|word| matches!(word.as_str(), "conntrack" | "state" | "CT" | "connmark"));
            ruleset.sets_marks |= words.iter().any(|word| matches!(word.as_str(), "MARK" | "CONNMARK" | "TPROXY"));
            if let Some(chain) = ruleset.chains.iter_mut().find(|c| c.table == table && c.name == *chain) {
                chain.marking.extend(marks::by_words(&format!("`-A {rule}`"), words));
                chain.rules.push(read(words, rule));
            }
        }
    }
    ruleset
}

fn hook(chain: &str) -> Option<Hook> {
    match chain {
        "PREROUTING" => Some(Hook::Prerouting),
        "FORWARD" => Some(Hook::Forward),
        "INPUT" => Some(Hook::Input),
        "OUTPUT" => Some(Hook::Output),
        "POSTROUTING" => Some(Hook::Postrouting),
        _ => None,
    }
}

/// As the kernel hooks them in (`enum nf_ip_hook_priorities`).
fn priority(table: &str) -> i64 {
    match table {
        "raw" => -300,
        "mangle" => -150,
        "security" => 50,
        _ => 0,
    }
}

fn read(words: &[String], text: &str) -> Rule {
    let mut matches = Vec::new();
    let mut action = Action::Continue;
    let mut netds = false;
    let mut negated = false;
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let value = words.next().unwrap_or_default();
        match word {
            // Names the module whose options follow, and is asked nothing itself.
            "-m" => {}
            "--comment" => netds |= value == COMMENT,
            "-j" | "-g" => {
                action = target(word, value);
                break;
            }
            _ => matches.push(option(word, value, negated)),
        }
        negated = false;
    }
    Rule { text: format!("`-A {text}`"), matches, action, netds }
}

fn target(how: &str, name: &str) -> Action {
    match name {
        "ACCEPT" => Action::Accept,
        "DROP" => Action::Drop,
        "REJECT" => Action::Reject,
        "RETURN" => Action::Return,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CLASSIFY" | "TRACE" | "CT" | "NOTRACK" | "SET"
        | "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "CHECKSUM" => Action::Continue,
        "NFQUEUE" | "TPROXY" | "QUEUE" | "SYNPROXY" | "TARPIT" => Action::Unknown,
        chain if how == "-g" => Action::Goto(chain.to_owned()),
        chain => Action::Jump(chain.to_owned()),
    }
}

fn option(name: &str, value: &str, negated: bool) -> Match {
    let device = || Matches { some: vec![value.replace('+', "*")], negated };
    let known = match name {
        "-i" => Some(Match::From(device())),
        "-o" => Some(Match::To(device())),
        "-s" => Some(Match::Source { others: negated }),
        "-d" => network(value).map(|net| Match::Destination(Matches { some: vec![net], negated })),
        "-p" => protocol(value).map(|number| Match::Protocol(Matches { some: vec![number], negated })),
        "--dport" | "--dports" => {
            let ports: Option<Vec<_>> = value.split(',').map(ports).collect();
            ports.map(|some| Match::Port(Matches { some, negated }))
        }
        "--dst-type" => kind(value).map(|is| is(negated)),
        "--rt-type" => Some(Match::New(negated)),
        "--ctstate" | "--state" => Some(Match::New(value.split(',').any(|state| state == "NEW") != negated)),
        "--mark" => marked(value).filter(|_| !negated).map(Match::Marked),
        _ => None,
    };
    known.unwrap_or(Match::Unknown)
}

/// What a rule asks that names a kind of destination.
fn kind(name: &str) -> Option<fn(bool) -> Match> {
    match name {
        "LOCAL" => Some(|negated| Match::Local(!negated)),
        "ANYCAST" | "BROADCAST" | "MULTICAST" => Some(Match::New),
        _ => None,
    }
}

/// The bit that is asked for, where it is asked for alone.
fn marked(value: &str) -> Option<u32> {
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let (value, mask) = value.split_once('/')?;
    number(value).filter(|value| number(mask) == Some(*value))
}

fn network(value: &str) -> Option<IpNet> {
    value.parse().ok().or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from))
}

fn protocol(value: &str) -> Option<u8> {
    match value {
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        "icmp" => Some(1),
        "ipv6-icmp" | "icmpv6" => Some(58),
        "all" => None,
        // Others are none that is published.
        other => Some(other.parse().unwrap_or(255)),
    }
}

fn ports(value: &str) -> Option<(u16, u16)> {
    let (first, last) = value.split_once(':').unwrap_or((value, value));
    Some((first.parse().ok()?, last.parse().ok()?))
}
