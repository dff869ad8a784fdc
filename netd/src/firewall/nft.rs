//! The ruleset of nftables, as `nft --json list ruleset` prints it (libnftables-json(5)).

use serde_json::Value;

use super::{
    marks,
    ruleset::{Action, Chain, Family, Hook, Match, Matches, Rule, Ruleset},
};

/// Reads it. What is not understood counts as what netd does not know.
pub fn of_json(text: &str) -> Result<Ruleset, String> {
    let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let objects = json["nftables"].as_array().ok_or("it has no `nftables`")?;
    let mut ruleset = Ruleset::default();
    for object in objects {
        if let Some(chain) = chain(&object["chain"]) {
            ruleset.tracks |= chain.nat;
            ruleset.chains.push(chain);
        }
    }
    for rule in objects.iter().map(|object| &object["rule"]).filter(|rule| rule.is_object()) {
        ruleset.tracks |= has_key(rule, &["ct", "xt", "ct helper", "ct timeout", "ct expectation"]);
        let of = |chain: &Chain| {
            chain.table == rule["table"]
                && chain.name == rule["chain"]
                && Family::named(text_of(&rule["family"])) == Some(chain.family)
        };
        if let Some(chain) = ruleset.chains.iter_mut().find(|chain| of(chain)) {
            let marking = marks::by_statements(&format!("rule {} of {}", rule["handle"], chain.title()), rule);
            ruleset.sets_marks |= marking.is_some();
            chain.marking.extend(marking);
            let read = rules(rule, &chain.title());
            chain.rules.extend(read);
        }
    }
    Ok(ruleset)
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn chain(value: &Value) -> Option<Chain> {
    Some(Chain {
        family: Family::named(value["family"].as_str()?)?,
        table: text_of(&value["table"]).to_owned(),
        name: text_of(&value["name"]).to_owned(),
        nft: true,
        hook: Hook::named(text_of(&value["hook"])),
        priority: value["prio"].as_i64().unwrap_or_default(),
        nat: value["type"] == "nat",
        drops: value["policy"] == "drop",
        rules: Vec::new(),
        marking: Vec::new(),
    })
}

/// A rule as those that it stands for: a map of verdicts is one for each of its elements that a packet may meet.
fn rules(rule: &Value, chain: &str) -> Vec<Rule> {
    let text = format!("rule {} of {chain}", rule["handle"]);
    let mut matches = Vec::new();
    for statement in rule["expr"].as_array().into_iter().flatten() {
        let Some((kind, value)) = statement.as_object().and_then(|statement| statement.iter().next()) else { continue };
        let action = match kind.as_str() {
            "match" => {
                matches.extend(transport(&value["left"]));
                matches.push(condition(value));
                continue;
            }
            "counter" | "log" | "mangle" | "meta" | "notrack" | "set" | "comment" => continue,
            "xt" if value["name"] == "comment" => continue,
            "accept" => Action::Accept,
            "drop" => Action::Drop,
            "reject" => Action::Reject,
            "return" => Action::Return,
            "jump" => Action::Jump(text_of(&value["target"]).to_owned()),
            "goto" => Action::Goto(text_of(&value["target"]).to_owned()),
            "vmap" => return by_map(value, &matches, &text),
            "masquerade" | "snat" | "dnat" | "redirect" => Action::Continue,
            "xt" if value["type"] == "target" => Action::Unknown,
            _ => {
                matches.push(Match::Unknown);
                continue;
            }
        };
        return vec![Rule { text, matches, action, netds: false }];
    }
    vec![Rule { text, matches, action: Action::Continue, netds: false }]
}

fn by_map(value: &Value, before: &[Match], text: &str) -> Vec<Rule> {
    let unknown = || {
        let matches = before.iter().cloned().chain([Match::Unknown]).collect();
        vec![Rule { text: text.to_owned(), matches, action: Action::Unknown, netds: false }]
    };
    let Some(elements) = value["data"]["set"].as_array() else { return unknown() };
    let element = |element: &Value| {
        let (key, verdict) = (&element[0], &element[1]);
        let (kind, target) = verdict.as_object()?.iter().next()?;
        let target = || text_of(&target["target"]).to_owned();
        let action = match kind.as_str() {
            "accept" => Action::Accept,
            "drop" => Action::Drop,
            "return" => Action::Return,
            "continue" => Action::Continue,
            "jump" => Action::Jump(target()),
            "goto" => Action::Goto(target()),
            _ => Action::Unknown,
        };
        let matches = before.iter().cloned().chain([asked(&value["key"], key, false)]).collect();
        Some(Rule { text: text.to_owned(), matches, action, netds: false })
    };
    elements.iter().map(element).collect::<Option<Vec<_>>>().unwrap_or_else(unknown)
}

/// A transport's field is asked for of that transport alone.
fn transport(left: &Value) -> Option<Match> {
    let of = protocol(&left["payload"]["protocol"]).filter(|number| *number != 255)?;
    Some(Match::Protocol(Matches { some: vec![of], negated: false }))
}

fn condition(value: &Value) -> Match {
    match text_of(&value["op"]) {
        "==" | "in" => asked(&value["left"], &value["right"], false),
        "!=" => asked(&value["left"], &value["right"], true),
        _ => Match::Unknown,
    }
}

fn asked(left: &Value, right: &Value, negated: bool) -> Match {
    let meta = text_of(&left["meta"]["key"]);
    let field = text_of(&left["payload"]["field"]);
    match (meta, field) {
        ("iifname" | "iif", _) => values(right, &name).map(|some| Match::From(Matches { some, negated })),
        ("oifname" | "oif", _) => values(right, &name).map(|some| Match::To(Matches { some, negated })),
        ("l4proto", _) | (_, "protocol" | "nexthdr") => {
            values(right, &protocol).map(|some| Match::Protocol(Matches { some, negated }))
        }
        (_, "dport") => values(right, &ports).map(|some| Match::Port(Matches { some, negated })),
        (_, "saddr") => Some(Match::Source { others: negated }),
        (_, "daddr") => values(right, &network).map(|some| Match::Destination(Matches { some, negated })),
        // What the host's own translation has led elsewhere, which netd's packets are not.
        _ if left["ct"]["key"] == "status" && text_of(right).ends_with("nat") => Some(Match::New(negated)),
        _ if left["fib"]["result"] == "type" && left["fib"]["flags"] == "daddr" => match text_of(right) {
            "local" => Some(Match::Local(!negated)),
            "anycast" | "broadcast" | "multicast" => Some(Match::New(negated)),
            _ => None,
        },
        _ if left["ct"]["key"] == "state" => Some(Match::New(is_new(right) != negated)),
        _ => marked(left, right).filter(|_| !negated).map(Match::Marked),
    }
    .unwrap_or(Match::Unknown)
}

/// The bit that a rule for marks asks for.
fn marked(left: &Value, right: &Value) -> Option<u32> {
    let and = left["&"].as_array()?;
    let mask = and.get(1)?.as_u64()?;
    (and[0]["meta"]["key"] == "mark" && right.as_u64()? == mask).then(|| u32::try_from(mask).ok())?
}

/// Each of a set, or one; `None` where one of them is not understood.
fn values<T>(value: &Value, of: &dyn Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value["set"].as_array().or_else(|| value.as_array()) {
        Some(all) => {
            all.iter().map(|one| of(if one["elem"].is_object() { &one["elem"]["val"] } else { one })).collect()
        }
        None => of(value).map(|one| vec![one]),
    }
}

fn name(value: &Value) -> Option<String> {
    value.as_str().filter(|name| !name.starts_with('@')).map(str::to_owned)
}

fn protocol(value: &Value) -> Option<u8> {
    match value.as_str() {
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some("sctp") => Some(132),
        Some("icmp") => Some(1),
        Some("ipv6-icmp" | "icmpv6") => Some(58),
        // Others are none that is published.
        Some(other) => (!other.starts_with('@')).then_some(255),
        None => value.as_u64().and_then(|number| u8::try_from(number).ok()),
    }
}

fn ports(value: &Value) -> Option<(u16, u16)> {
    let port = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    match value["range"].as_array() {
        Some(range) => Some((port(range.first()?)?, port(range.get(1)?)?)),
        None => port(value).map(|port| (port, port)),
    }
}

fn network(value: &Value) -> Option<ipnet::IpNet> {
    match value["prefix"].as_object() {
        Some(prefix) => format!("{}/{}", text_of(prefix.get("addr")?), prefix.get("len")?).parse().ok(),
        None => value.as_str()?.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from),
    }
}

fn is_new(value: &Value) -> bool {
    match value["set"].as_array().or_else(|| value.as_array()) {
        Some(states) => states.iter().any(is_new),
        None => value == "new",
    }
}

/// Whether a key of this name is anywhere in it.
fn has_key(value: &Value, names: &[&str]) -> bool {
    match value {
        Value::Object(object) => {
            let comment = value["type"] == "match" && value["name"] == "comment";
            object.iter().any(|(key, value)| {
                let named = names.contains(&key.as_str()) && value["name"] != "comment";
                !comment && (named || has_key(value, names))
            })
        }
        Value::Array(array) => array.iter().any(|value| has_key(value, names)),
        _ => false,
    }
}
