//! What a step mends, said for people: what was found, and on what of theirs.

use std::{collections::BTreeSet, fmt::Display};

use super::{Bridge, LinkName, State, Step, Veth};

/// What `step` mends on a host that was found to be `observed`.
pub fn repair(step: &Step, observed: &State) -> String {
    match step {
        Step::CreateBridge(link, bridge) => format!("network {}: the bridge {link} was missing", bridge.owner),
        Step::UpdateBridge(link, wanted) => {
            let mut found = observed.bridges.get(link).map(|found| of_bridge(wanted, found)).unwrap_or_default();
            found.extend(unrouted(link, observed));
            format!("network {}: the bridge {link} {}", wanted.owner, listed(&found))
        }
        Step::CreateJoin(link, join) => format!("network {}: the join {link} was missing", join.owner),
        Step::ConnectJoin(link, join) => format!("network {}: {link} was not as it should be", join.owner),
        Step::CreateVeth(link, veth) => {
            let (endpoint, interface) = (&veth.owner, &veth.interface.name);
            format!("endpoint {endpoint}: {link}, which is {interface} inside, was missing")
        }
        Step::ConnectVeth(link, wanted) => {
            let mut found = observed.veths.get(link).map(|found| of_veth(wanted, found)).unwrap_or_default();
            found.extend(unrouted(link, observed));
            format!("endpoint {}: {link}, which is {} inside, {}", wanted.owner, wanted.interface.name, listed(&found))
        }
        Step::Attach(link, hook) => format!("{}the program {} was not on {link}", of(link, observed), hook.name()),
        Step::Guard(wanted) => {
            let missing: Vec<_> = wanted.difference(&observed.calls).copied().collect();
            match missing.as_slice() {
                [] => step.to_string(),
                [call] => format!("the program {call} was not on the cgroup"),
                calls => format!("the programs {} were not on the cgroup", calls.join(", ")),
            }
        }
        Step::Rename(link, current) => format!("{}{link} was called {current}", of(link, observed)),
        other => other.to_string(),
    }
}

/// Whose a link is, where that is known.
fn of(link: &LinkName, observed: &State) -> String {
    let network = observed.bridges.get(link).map(|bridge| format!("network {}: ", bridge.owner));
    let network = network.or_else(|| observed.joins.get(link).map(|join| format!("network {}: ", join.owner)));
    let endpoint = || observed.veths.get(link).map(|veth| format!("endpoint {}: ", veth.owner));
    network.or_else(endpoint).unwrap_or_default()
}

fn unrouted(link: &LinkName, observed: &State) -> impl Iterator<Item = String> {
    observed.unrouted.get(link).into_iter().flatten().map(|subnet| format!("had no route to {subnet}"))
}

fn of_bridge(wanted: &Bridge, found: &Bridge) -> Vec<String> {
    let mut what = Vec::new();
    differs(&mut what, "link-layer address", crate::model::format_mac(wanted.mac), crate::model::format_mac(found.mac));
    differs(&mut what, "MTU", wanted.mtu, found.mtu);
    lacks(&mut what, &wanted.addresses, &found.addresses);
    if !found.intact {
        what.push("had other options".to_owned());
    }
    what
}

fn of_veth(wanted: &Veth, found: &Veth) -> Vec<String> {
    let mut what = Vec::new();
    if wanted.bridge != found.bridge {
        what.push(format!("was no port of {}", wanted.bridge));
    }
    let (inside, seen) = (&wanted.interface, &found.interface);
    differs(&mut what, "link-layer address", crate::model::format_mac(inside.mac), crate::model::format_mac(seen.mac));
    if wanted.mtu != found.mtu {
        what.push(format!("had another MTU than {}", wanted.mtu));
    }
    if wanted.apart != found.apart {
        what.push(if wanted.apart { "was not kept apart" } else { "was kept apart" }.to_owned());
    }
    lacks(&mut what, &inside.addresses, &seen.addresses);
    if inside.gateways != seen.gateways {
        what.push("had other default routes".to_owned());
    }
    if !found.intact {
        what.push("had other options, or the bridge did not know its address".to_owned());
    }
    what
}

fn differs<T: PartialEq + Display>(what: &mut Vec<String>, name: &str, wanted: T, found: T) {
    if wanted != found {
        what.push(format!("had the {name} {found}, not {wanted}"));
    }
}

/// A device that is down has no addresses.
fn lacks<T: Ord + Display>(what: &mut Vec<String>, wanted: &BTreeSet<T>, found: &BTreeSet<T>) {
    if found.is_empty() && !wanted.is_empty() {
        what.push("was down or without an address".to_owned());
        return;
    }
    what.extend(wanted.difference(found).map(|address| format!("lacked {address}")));
    what.extend(found.difference(wanted).map(|address| format!("had {address}")));
}

fn listed(what: &[String]) -> String {
    if what.is_empty() { "was not as it should be".to_owned() } else { what.join(", and ") }
}

#[cfg(test)]
mod tests {
    use netd_common::{tables::Hook, tuple::Mac};

    use super::*;

    #[test]
    fn a_repair_says_what_was_found() {
        let link = LinkName::new("ndb-1").unwrap();
        let wanted = Bridge {
            owner: "blue".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: ["10.0.0.1/24".parse().unwrap()].into(),
            intact: true,
        };
        let found = Bridge { mac: Mac([2, 0, 0, 0, 0, 9]), mtu: 1400, addresses: BTreeSet::new(), ..wanted.clone() };
        let observed = State { bridges: [(link.clone(), found)].into(), ..State::default() };

        assert_eq!(
            repair(&Step::UpdateBridge(link.clone(), wanted.clone()), &observed),
            "network blue: the bridge ndb-1 had the link-layer address 02:00:00:00:00:09, not 02:00:00:00:00:01, \
             and had the MTU 1400, not 1500, and was down or without an address"
        );
        assert_eq!(
            repair(&Step::CreateBridge(link.clone(), wanted.clone()), &State::default()),
            "network blue: the bridge ndb-1 was missing"
        );
        assert_eq!(
            repair(&Step::Attach(link.clone(), Hook::FromUplink), &observed),
            "network blue: the program from_uplink was not on ndb-1"
        );
        let unrouted = State {
            bridges: [(link.clone(), wanted.clone())].into(),
            unrouted: [(link.clone(), ["10.0.0.0/24".parse().unwrap()].into())].into(),
            ..State::default()
        };
        assert_eq!(
            repair(&Step::UpdateBridge(link.clone(), wanted.clone()), &unrouted),
            "network blue: the bridge ndb-1 had no route to 10.0.0.0/24"
        );
        let guard = Step::Guard(["bind4", "bind6", "connect4"].into());
        let lacking = |calls: &[&'static str]| State { calls: calls.iter().copied().collect(), ..State::default() };
        assert_eq!(repair(&guard, &lacking(&["bind6", "connect4"])), "the program bind4 was not on the cgroup");
        assert_eq!(repair(&guard, &lacking(&["connect4"])), "the programs bind4, bind6 were not on the cgroup");
    }
}
