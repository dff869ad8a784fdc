//! Rules of any origin in one shape, as far as netd asks about them.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;

use super::marks::Marking;

/// A host's rules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ruleset {
    /// Of every table.
    pub chains: Vec<Chain>,
    /// Whether something in it has nf_conntrack follow connections.
    pub tracks: bool,
    /// Whether something in it gives packets a mark.
    pub sets_marks: bool,
}

/// The packets that a table is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// Frames of a bridge.
    Bridge,
    /// Frames of a device.
    Netdev,
    /// ARP.
    Arp,
}

impl Family {
    /// By its name in nftables.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Ip, Self::Ip6, Self::Inet, Self::Bridge, Self::Netdev, Self::Arp]
            .into_iter()
            .find(|family| family.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
            Self::Arp => "arp",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where packets meet a base chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// Before it is known where they go.
    Prerouting,
    /// On their way through the host.
    Forward,
    /// On their way to the host.
    Input,
    /// From the host.
    Output,
    /// When they leave.
    Postrouting,
    /// At a device.
    Device,
}

impl Hook {
    /// By its name in nftables.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "prerouting" => Some(Self::Prerouting),
            "forward" => Some(Self::Forward),
            "input" => Some(Self::Input),
            "output" => Some(Self::Output),
            "postrouting" => Some(Self::Postrouting),
            "ingress" | "egress" => Some(Self::Device),
            _ => None,
        }
    }
}

/// A chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether nftables has it, and not the older iptables.
    pub nft: bool,
    /// Where packets meet it; `None` where rules lead there alone.
    pub hook: Option<Hook>,
    /// Its place among the base chains of its hook.
    pub priority: i64,
    /// Whether it translates addresses.
    pub nat: bool,
    /// Whether it drops what none of its rules decides about.
    pub drops: bool,
    /// In order.
    pub rules: Vec<Rule>,
    /// What those of them that give a packet a mark do to it.
    pub marking: Vec<Marking>,
}

impl Chain {
    /// Its name and place.
    pub fn title(&self) -> String {
        let tool = if self.nft { "" } else { " of iptables-legacy" };
        format!("chain {} of {} {}{tool}", self.name, self.family, self.table)
    }
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// As its tool writes it, or as much as names it.
    pub text: String,
    /// All of which must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub action: Action,
    /// Whether its comment says that netd has put it there, which iptables' own listing alone tells.
    pub netds: bool,
}

impl Rule {
    /// Whether it is the one that netd keeps for packets with this bit.
    pub fn is_accept_of(&self, mark: u32) -> bool {
        mark != 0 && self.action == Action::Accept && self.matches == [Match::Marked(mark)]
    }

    /// The bit that it lets through, where it is an accept that netd has put there: for the bit that is configured or another.
    pub fn accept_of_netds(&self) -> Option<u32> {
        match *self.matches.as_slice() {
            [Match::Marked(mark)] if self.netds && self.action == Action::Accept => Some(mark),
            _ => None,
        }
    }
}

/// What a rule asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    /// The device it came by: names, one that ends in `*` for all that begin so.
    From(Matches<String>),
    /// The device it leaves by.
    To(Matches<String>),
    /// IP protocol number.
    Protocol(Matches<u8>),
    /// Port it is for: first and last.
    Port(Matches<(u16, u16)>),
    /// Address it is for.
    Destination(Matches<IpNet>),
    /// Where it came from: some in particular, or all but some.
    Source {
        /// Whether it is all but some.
        others: bool,
    },
    /// Whether it is for an address of the host's.
    Local(bool),
    /// Whether it opens something, and is to one and from one by the usual way: no broadcast, no routing header.
    New(bool),
    /// Whether its mark has this bit and no other is asked about.
    Marked(u32),
    /// A thing that netd does not know about.
    Unknown,
}

/// One of some, or none of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Matches<T> {
    /// Those.
    pub some: Vec<T>,
    /// None of them.
    pub negated: bool,
}

/// What a rule does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Lets it through this hook's chain.
    Accept,
    /// Drops it in silence.
    Drop,
    /// Refuses it with a word.
    Reject,
    /// Goes on with the rules of another chain, and comes back.
    Jump(String),
    /// The same, and does not come back.
    Goto(String),
    /// Leaves the chain.
    Return,
    /// Counts, logs, marks.
    Continue,
    /// What netd does not know.
    Unknown,
}

impl Ruleset {
    /// With those of another.
    pub fn and(mut self, other: Self) -> Self {
        self.chains.extend(other.chains);
        self.tracks |= other.tracks;
        self.sets_marks |= other.sets_marks;
        self
    }

    /// What is done to marks before the host looks for a packet's way: in the tables of which a chain stands there, whatever chain of
    /// the table does it, since rules lead from one to another.
    pub fn marking_before_routing(&self) -> impl Iterator<Item = &Marking> {
        let stands_there = |chain: &Chain| match chain.hook {
            Some(Hook::Prerouting | Hook::Device) => true,
            // A bridge's frames meet all of these before they are the host's packets.
            Some(Hook::Input | Hook::Forward) => chain.family == Family::Bridge,
            _ => false,
        };
        let table = |chain: &Chain| (chain.family, chain.table.clone(), chain.nft);
        let tables: BTreeSet<_> = self.chains.iter().filter(|chain| stands_there(chain)).map(table).collect();
        self.chains.iter().filter(move |chain| tables.contains(&table(chain))).flat_map(|chain| &chain.marking)
    }

    /// The first chain on the way of what is forwarded that has rules, netd's own accepts and that for packets with this bit aside, or that
    /// drops what no rule decides about. Translation of addresses by the host is none of it: it stops nobody.
    pub fn concern(&self, mark: u32) -> Option<String> {
        let on_the_way = |chain: &&Chain| match (chain.family, chain.hook) {
            (Family::Ip | Family::Ip6 | Family::Inet, Some(hook)) => !matches!(hook, Hook::Input | Hook::Output),
            (Family::Bridge | Family::Netdev, Some(_)) => true,
            _ => false,
        };
        let mut chains = self.chains.iter().filter(on_the_way).filter(|chain| !chain.nat);
        chains.find_map(|chain| {
            let is_netds = |rule: &Rule| rule.is_accept_of(mark) || rule.accept_of_netds().is_some();
            let rules = chain.rules.iter().filter(|rule| !is_netds(rule)).count();
            match (chain.drops, rules) {
                (true, _) => Some(format!("{} drops what none of its rules lets through", chain.title())),
                (false, 0) => None,
                (false, 1) => Some(format!("{} has a rule", chain.title())),
                (false, rules) => Some(format!("{} has {rules} rules", chain.title())),
            }
        })
    }
}
