//! What a ruleset would say to one packet that opens something. Where that hangs on what netd does not know, it cannot tell.

use std::net::IpAddr;

use super::ruleset::{Action, Chain, Family, Hook, Match, Matches, Rule, Ruleset};

/// Chains that a packet is followed through, one inside another.
const DEPTH: u32 = 16;

/// A packet from somewhere in particular that no rule names, which opens something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The device it comes by.
    pub from: String,
    /// The device it leaves by; none where it is for the host.
    pub to: Option<String>,
    /// Where it goes.
    pub address: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The port that it is for.
    pub port: u16,
    /// Its mark.
    pub mark: u32,
}

/// What becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every chain lets it through.
    Passes,
    /// It is dropped or refused.
    Stopped {
        /// By what.
        by: String,
        /// In which base chain.
        chain: Box<Chain>,
    },
    /// It hangs on what netd does not know; on which rule.
    Unclear(String),
}

/// What a chain says.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Accept,
    Stop(String),
    Unclear(String),
    /// Nothing: whoever led there goes on.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    Yes,
    No,
    Maybe,
}

impl Ruleset {
    /// What becomes of a packet at the chains of a hook.
    pub fn says(&self, hook: Hook, packet: &Packet) -> Outcome {
        let for_family = |family: Family| match family {
            Family::Ip => packet.address.is_ipv4(),
            Family::Ip6 => packet.address.is_ipv6(),
            Family::Inet => true,
            Family::Bridge | Family::Netdev | Family::Arp => false,
        };
        let mut chains: Vec<&Chain> = self
            .chains
            .iter()
            .filter(|chain| chain.hook == Some(hook) && !chain.nat && for_family(chain.family))
            .collect();
        chains.sort_by_key(|chain| chain.priority);
        let mut unclear = None;
        for chain in chains {
            match self.walk(chain, packet, 0) {
                Said::Accept => {}
                Said::Stop(by) => return Outcome::Stopped { by, chain: Box::new(chain.clone()) },
                Said::Unclear(why) => unclear = unclear.or(Some(why)),
                Said::Nothing if chain.drops => {
                    let by = format!("the policy of {}", chain.title());
                    return Outcome::Stopped { by, chain: Box::new(chain.clone()) };
                }
                Said::Nothing => {}
            }
        }
        unclear.map_or(Outcome::Passes, Outcome::Unclear)
    }

    fn walk(&self, chain: &Chain, packet: &Packet, depth: u32) -> Said {
        if depth > DEPTH {
            return Said::Unclear(chain.title());
        }
        // What rules would say that may hold, each with its text.
        let mut perhaps: Vec<(Said, &str)> = Vec::new();
        let mut surely = Said::Nothing;
        for rule in &chain.rules {
            let holds = holds_all(&rule.matches, packet);
            if holds == Holds::No {
                continue;
            }
            match (self.taken(chain, rule, packet, depth), holds) {
                (None, _) => {}
                (Some(said), Holds::Yes) => {
                    surely = said;
                    break;
                }
                (Some(said), _) => perhaps.push((said, &rule.text)),
            }
        }
        let other = perhaps.iter().find(|(said, _)| !same(said, &surely, chain));
        other.map_or(surely.clone(), |(_, text)| Said::Unclear((*text).to_owned()))
    }

    /// What a rule says whose conditions hold; `None` where the next one is asked.
    fn taken(&self, chain: &Chain, rule: &Rule, packet: &Packet, depth: u32) -> Option<Said> {
        let led = |name: &str| {
            let target = self.chains.iter().find(|other| {
                other.name == name
                    && other.table == chain.table
                    && other.family == chain.family
                    && other.nft == chain.nft
            });
            target.map_or_else(|| Said::Unclear(rule.text.clone()), |target| self.walk(target, packet, depth + 1))
        };
        match &rule.action {
            Action::Accept => Some(Said::Accept),
            Action::Drop | Action::Reject => Some(Said::Stop(rule.text.clone())),
            Action::Return => Some(Said::Nothing),
            Action::Continue => None,
            Action::Unknown => Some(Said::Unclear(rule.text.clone())),
            Action::Goto(name) => Some(led(name)),
            Action::Jump(name) => match led(name) {
                Said::Nothing => None,
                said => Some(said),
            },
        }
    }
}

/// Whether it comes to the same, for who asks whether a packet is stopped.
fn same(one: &Said, other: &Said, chain: &Chain) -> bool {
    let stops = |said: &Said| match said {
        Said::Stop(_) => Some(true),
        Said::Accept => Some(false),
        Said::Nothing if chain.hook.is_some() => Some(chain.drops),
        Said::Nothing | Said::Unclear(_) => None,
    };
    one == other || stops(one).is_some() && stops(one) == stops(other)
}

fn holds_all(matches: &[Match], packet: &Packet) -> Holds {
    let mut all = Holds::Yes;
    for one in matches {
        match holds(one, packet) {
            Holds::No => return Holds::No,
            Holds::Maybe => all = Holds::Maybe,
            Holds::Yes => {}
        }
    }
    all
}

fn holds(one: &Match, packet: &Packet) -> Holds {
    let known = |holds: bool| if holds { Holds::Yes } else { Holds::No };
    match one {
        Match::From(names) => known(among(names, |name| is_named(name, &packet.from))),
        Match::To(names) => match &packet.to {
            Some(to) => known(among(names, |name| is_named(name, to))),
            None => Holds::No,
        },
        Match::Protocol(numbers) => known(among(numbers, |number| *number == packet.protocol)),
        Match::Port(ranges) => known(among(ranges, |(first, last)| (*first..=*last).contains(&packet.port))),
        // Of every address of the host only a rule for the address family as a whole can be sure.
        Match::Destination(nets) if packet.address.is_unspecified() => {
            let all = nets.some.iter().all(|net| net.prefix_len() == 0);
            if all { known(!nets.negated) } else { Holds::Maybe }
        }
        Match::Destination(nets) => known(among(nets, |net| net.contains(&packet.address))),
        // Clients that a rule names are not those that are asked about.
        Match::Source { others } => known(*others),
        Match::Local(local) => known(*local == packet.to.is_none()),
        Match::New(new) => known(*new),
        Match::Marked(mark) => known(packet.mark & mark == *mark),
        Match::Unknown => Holds::Maybe,
    }
}

fn among<T>(matches: &Matches<T>, is: impl Fn(&T) -> bool) -> bool {
    matches.some.iter().any(is) != matches.negated
}

fn is_named(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}
