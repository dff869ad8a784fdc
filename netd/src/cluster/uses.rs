//! Which addresses each node uses beside those of networks of all. A network of all is on every node, so it should have none of
//! these: whoever makes one keeps away from what any node has said, also one that is not there just now.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Key, Record, View};
use crate::{
    ipam::overlap,
    model::{Driver, Model, Name, UsedElsewhere, used},
    reconcile::{HostFacts, Use},
};

/// What a node tells: a host with a routing table of the whole Internet has a million, and every node reads them all.
const TOLD: usize = 256;

/// Where networks mostly are: of what there is no room for, these are told (RFC 1918, RFC 6598, RFC 4193).
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// The addresses that a node uses.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Uses {
    /// Ranges of which none is in another, and how each is used, as one says to somebody else.
    pub ranges: BTreeMap<IpNet, String>,
    /// How many more there are, for which there was no room.
    #[serde(default)]
    pub more: usize,
}

/// What a range is used by. There may be a million, of which few are put into words.
#[derive(Clone, Copy)]
enum By<'a> {
    Network(&'a Name),
    Host(&'a Use),
}

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) => write!(f, "the subnet of its own network {name}"),
            Self::Host(used) => write!(f, "{used}"),
        }
    }
}

/// What a node uses: its host's uses and its own networks' subnets.
pub fn uses(model: &Model, facts: &HostFacts) -> Uses {
    let subnets = own_subnets(model).map(|(name, subnet)| (subnet, By::Network(name)));
    bounded(subnets.chain(used(facts).map(|(net, used)| (net, By::Host(used)))))
}

/// The subnets of a node's own networks.
pub fn own_subnets(model: &Model) -> impl Iterator<Item = (&Name, IpNet)> {
    let own = model.networks.values().filter(|network| !matches!(network.driver, Driver::Overlay(_)));
    own.flat_map(|network| network.subnets.iter().map(|subnet| (&network.name, subnet.subnet)))
}

/// The widest of them, of equal ones the first; as many as are told.
fn bounded<'a>(all: impl Iterator<Item = (IpNet, By<'a>)>) -> Uses {
    let private = PRIVATE.map(|net| net.parse::<IpNet>().ok());
    let is_private = |net: &IpNet| private.iter().flatten().any(|private| overlap(private, net));
    let mut all: Vec<_> = all.map(|(net, by)| ((!is_private(&net), net.prefix_len(), net), by)).collect();
    all.sort_by_key(|(rank, _)| *rank);
    // What overlaps is in one of them, and the wider one comes first: one that is not private holds none that is.
    let mut ranges = BTreeMap::<IpNet, String>::new();
    let mut more = 0;
    for ((.., net), by) in all {
        // Of ranges that are apart only the last one that does not begin after it can hold it.
        if ranges.range(..=net).next_back().is_some_and(|(wider, _)| wider.contains(&net)) {
            continue;
        }
        if ranges.len() < TOLD {
            ranges.insert(net, by.to_string());
        } else {
            more += 1;
        }
    }
    Uses { ranges, more }
}

impl View {
    /// What a node has said that it uses.
    pub fn uses_of(&self, node: &Name) -> Option<&Uses> {
        match self.record(&Key::Uses(node.clone())) {
            Some(Record::Uses(uses)) => Some(uses),
            _ => None,
        }
    }

    /// What every other node has said that it uses. Of one that was removed nothing counts: an older netd that removes it leaves that
    /// record behind.
    pub fn used_elsewhere(&self, me: &Name) -> Vec<UsedElsewhere> {
        let others = self.known_nodes().filter(|node| *node != me);
        let others = others.filter_map(|node| Some((node, self.uses_of(node)?)));
        let each = |(node, uses): (&Name, &Uses)| -> Vec<UsedElsewhere> {
            let is_there = self.node(node).is_some();
            let range = |(net, used): (&IpNet, &String)| UsedElsewhere {
                node: node.clone(),
                net: *net,
                used: used.clone(),
                is_there,
            };
            uses.ranges.iter().map(range).collect()
        };
        others.flat_map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::cluster::{Entry, Event};

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn routing(nets: &[String]) -> HostFacts {
        let route = Use::Route { device: "tun0".to_owned() };
        HostFacts { uses: nets.iter().map(|text| (net(text), route.clone())).collect(), ..HostFacts::default() }
    }

    fn told(nets: &[&str]) -> Uses {
        uses(&Model::default(), &routing(&nets.iter().map(|net| (*net).to_owned()).collect::<Vec<_>>()))
    }

    #[test]
    fn a_range_in_another_is_not_told_and_neither_is_a_default_route() {
        let told =
            told(&["10.8.0.0/16", "10.8.1.0/24", "10.8.0.0/24", "10.9.0.0/24", "128.0.0.0/1", "2000::/3", "fd00::/64"]);

        let routed = |text| (net(text), "which the host routes by tun0".to_owned());
        let ranges = [routed("10.8.0.0/16"), routed("10.9.0.0/24"), routed("fd00::/64")].into();
        assert_eq!(told, Uses { ranges, more: 0 });
    }

    proptest! {
        #[test]
        fn what_is_told_is_apart_and_holds_all_that_there_is(nets in vec((any::<u8>(), any::<u8>(), 8..=32_u8), 0..100)) {
            let net = |(second, third, length): (u8, u8, u8)| IpNet::new_assert([10, second, third, 0].into(), length).trunc();
            let nets: Vec<IpNet> = nets.into_iter().map(net).collect();

            let told = uses(&Model::default(), &routing(&nets.iter().map(ToString::to_string).collect::<Vec<_>>()));

            prop_assert!(nets.iter().all(|net| told.ranges.keys().filter(|told| told.contains(net)).count() == 1));
            prop_assert!(told.ranges.keys().all(|told| nets.contains(told)) && told.more == 0);
        }
    }

    #[test]
    fn of_too_many_those_of_private_ranges_are_told_and_the_widest_and_how_many_more_there_are() {
        let internet = (0..=u8::MAX).flat_map(|n| [format!("93.{n}.0.0/24"), format!("93.{n}.2.0/23")]);
        let private = (0..200).map(|n| format!("10.{n}.0.0/16")).chain(["fd00::/64".to_owned()]);

        let told = uses(&Model::default(), &routing(&internet.chain(private.clone()).collect::<Vec<_>>()));

        assert_eq!((told.ranges.len(), told.more), (TOLD, 201 + 512 - TOLD));
        assert!(private.into_iter().all(|private| told.ranges.contains_key(&net(&private))));
        let others: Vec<_> = told.ranges.keys().filter(|net| net.to_string().starts_with("93.")).collect();
        assert!(others.len() == TOLD - 201 && others.iter().all(|net| net.prefix_len() == 23), "{others:?}");
    }

    #[test]
    fn what_is_told_survives_its_text_and_is_known_of_nodes_that_are_away_and_not_of_those_that_were_removed() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let put = |key: Key, record: &Record| {
            let record = Record::read(&key, &record.value()).unwrap();
            Event::Put(key, Entry { record, revision: 1, lease: 0 })
        };
        let uses = |node: &str, range: &str| put(Key::Uses(name(node)), &Record::Uses(told(&[range])));
        // Of `b` and `me` no lease tells that they are there; of an older `c` there is nothing, and an older one has removed `d`.
        let known = ["b", "c", "me"].map(|node| put(Key::Incarnation(name(node)), &Record::Mark));
        let said = [uses("b", "10.8.0.0/16"), uses("d", "10.9.0.0/16"), uses("me", "10.10.0.0/16")];
        let view = View::read(1, known.into_iter().chain(said));

        let used = view.used_elsewhere(&name("me"));

        let lines: Vec<_> = used.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["10.8.0.0/16 on node b (which the host routes by tun0)"]);
        assert!(!used[0].is_there);
        assert!(Record::read(&Key::Uses(name("b")), br#"{"ranges":{},"later":1}"#).is_ok(), "a newer netd says more");
    }
}
