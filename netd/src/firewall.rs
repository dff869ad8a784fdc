//! The host's own firewall, as it is written in nftables and iptables: whether it could stop what containers send and receive,
//! and what it would say to one packet.
//!
//! Invariant: pure. Rulesets come in as the text that `nft --json list ruleset` and `iptables-save` print.

mod iptables;
mod marks;
mod nft;
mod ruleset;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netd_common::tuple::TCP;
use serde::{Deserialize, Serialize};

use crate::reconcile;

pub use self::{
    iptables::of_save,
    nft::of_json,
    ruleset::{Chain, Family, Hook, Rule, Ruleset},
    verdict::{Outcome, Packet},
};

/// The mark that netd's packets carry in the stack, unless `netd.toml` says another: no engine, VPN or router that is known uses
/// this bit.
pub const MARK: u32 = 0x0800_0000;

/// What whoever lists a FORWARD chain reads beside netd's accept, and by which netd knows it again.
pub const COMMENT: &str = "netd: packets of containers that no rule above decides about";

/// How flows stand to the host's firewall (`--firewall`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They are shown to it where it has rules that could stop them.
    #[default]
    Aware,
    /// They are not shown to it.
    Full,
    /// Every packet is.
    Off,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aware => "aware",
            Self::Full => "full",
            Self::Off => "off",
        })
    }
}

/// What stops a packet of ours at FORWARD.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stop {
    /// The rule or policy.
    pub by: String,
    /// The command that would have netd's packets pass.
    pub remedy: String,
    /// Whether it is firewalld's, which makes its table anew whenever it is reloaded.
    pub firewalld: bool,
}

/// One of the tables of iptables that a host may have at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Xtables {
    /// `iptables-nft`: the table `ip filter` of nftables.
    Nft4,
    /// `ip6tables-nft`: the table `ip6 filter` of nftables.
    Nft6,
    /// `iptables-legacy`.
    Legacy4,
    /// `ip6tables-legacy`.
    Legacy6,
}

impl Xtables {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Nft4, Self::Nft6, Self::Legacy4, Self::Legacy6];

    /// The command that changes it.
    pub const fn command(self) -> &'static str {
        match self {
            Self::Nft4 => "iptables-nft",
            Self::Nft6 => "ip6tables-nft",
            Self::Legacy4 => "iptables-legacy",
            Self::Legacy6 => "ip6tables-legacy",
        }
    }

    /// The table in a ruleset: its family, and whether it is of nftables.
    pub(crate) const fn place(self) -> (Family, bool) {
        match self {
            Self::Nft4 => (Family::Ip, true),
            Self::Nft6 => (Family::Ip6, true),
            Self::Legacy4 => (Family::Ip, false),
            Self::Legacy6 => (Family::Ip6, false),
        }
    }
}

/// An accept of netd's in a FORWARD chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Accept {
    /// Of which iptables the chain is.
    pub table: Xtables,
    /// The bit of the packets that it lets through.
    pub mark: u32,
}

/// What of the host's firewall netd depends on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FirewallFacts {
    /// As `--firewall` says.
    pub mode: Mode,
    /// The bit of netd's packets.
    pub mark: u32,
    /// Its rules.
    pub ruleset: Ruleset,
    /// Changes with every change of them; never 0.
    pub generation: u16,
    /// Why they cannot be read.
    pub unread: Option<String>,
}

impl FirewallFacts {
    /// The first place where a rule of another's could stop a packet of a container's.
    pub fn concern(&self) -> Option<String> {
        match &self.unread {
            Some(why) => Some(format!("its rules cannot be read: {why}")),
            None => self.ruleset.concern(self.mark),
        }
    }

    /// Whether flows must show themselves.
    pub fn is_shown(&self) -> bool {
        match self.mode {
            Mode::Aware => self.concern().is_some(),
            Mode::Full => false,
            Mode::Off => true,
        }
    }

    /// Why flows show themselves, or do not.
    pub fn why(&self) -> String {
        match (self.mode, self.concern()) {
            (Mode::Aware, Some(concern)) => concern,
            (Mode::Aware, None) => "the host has no rule that could stop a packet of a container's".to_owned(),
            (Mode::Full, _) => "so it was asked for: no rule of the host's applies to containers".to_owned(),
            (Mode::Off, _) => "so it was asked for: every packet takes the stack's way".to_owned(),
        }
    }

    /// Whether nf_conntrack follows connections, as far as is known.
    pub fn tracks(&self) -> bool {
        self.unread.is_some() || self.ruleset.tracks
    }

    /// Whether a rule gives packets a mark, as far as is known.
    pub fn sets_marks(&self) -> bool {
        self.unread.is_some() || self.ruleset.sets_marks
    }

    /// Rules that take the bit of netd's packets away.
    pub fn wiping(&self) -> impl Iterator<Item = &str> {
        let all = self.ruleset.chains.iter().flat_map(|chain| &chain.marking);
        all.filter(|marking| marking.left & self.mark != self.mark).map(|marking| marking.rule.as_str())
    }

    /// Whether a rule may have put on a packet of a container's what a rule of the host's routing asks of its mark, as far as is
    /// known. The mark of a connection is one that a packet of it had before: so a rule that gives it back does not decide what
    /// VPNs keep their own packets out with (`not fwmark`).
    pub fn may_decide(&self, asked: &reconcile::MarkRule) -> bool {
        if self.unread.is_some() {
            return !asked.inverted;
        }
        let mut before = self.ruleset.marking_before_routing();
        before.any(|marking| marking.decided & asked.mask != 0 && !(marking.restores && asked.inverted))
    }

    /// netd's accept in each iptables whose FORWARD chain drops what no rule of it decides about: there it must stand.
    pub fn needed(&self) -> BTreeSet<Accept> {
        let closed = |table: &Xtables| self.forward(*table).is_some_and(|chain| chain.drops);
        Xtables::ALL.into_iter().filter(closed).map(|table| Accept { table, mark: self.mark }).collect()
    }

    /// Those that end their chain; and those for another bit, which a netd that was configured otherwise has left, wherever they stand.
    pub fn accepted(&self) -> BTreeSet<Accept> {
        let last_is_ours = |chain: &Chain| chain.rules.last().is_some_and(|rule| rule.is_accept_of(self.mark));
        let ended = Xtables::ALL.into_iter().filter(|table| self.forward(*table).is_some_and(last_is_ours));
        let left = self.with_accept().into_iter().filter(|accept| accept.mark != self.mark);
        ended.map(|table| Accept { table, mark: self.mark }).chain(left).collect()
    }

    /// Those that netd has put anywhere, for whatever bit.
    pub fn with_accept(&self) -> BTreeSet<Accept> {
        let rules = |table| self.forward(table).into_iter().flat_map(|chain| &chain.rules);
        let of = |table| rules(table).filter_map(Rule::accept_of_netds).map(move |mark| Accept { table, mark });
        Xtables::ALL.into_iter().flat_map(of).collect()
    }

    /// What would deny a port of the host at INPUT to a client that no rule names, if the host's own process had it. Packets
    /// that are forwarded never come there. Any of the uplinks counts.
    pub fn denial_at_input(
        &self,
        uplinks: impl IntoIterator<Item = String>,
        address: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<String> {
        uplinks.into_iter().find_map(|from| {
            let packet = Packet { from, to: None, address, protocol, port, mark: 0 };
            match self.ruleset.says(Hook::Input, &packet) {
                Outcome::Stopped { by, .. } => Some(by),
                Outcome::Passes | Outcome::Unclear(_) => None,
            }
        })
    }

    /// What stops everything that is forwarded between two devices.
    pub fn stop_at_forward(&self, from: &str, to: &str, family: reconcile::Family) -> Option<Stop> {
        let address = match family {
            reconcile::Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            reconcile::Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        // Port 0 is none that a rule would name.
        self.stop(&Packet {
            from: from.to_owned(),
            to: Some(to.to_owned()),
            address,
            protocol: TCP,
            port: 0,
            mark: self.mark,
        })
    }

    /// What stops a client that no rule names on its way to a port of a container, whose network's device is `to`. Any of the
    /// uplinks counts.
    pub fn stop_of_port(
        &self,
        uplinks: impl IntoIterator<Item = String>,
        to: &str,
        address: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Stop> {
        uplinks.into_iter().find_map(|from| {
            self.stop(&Packet { from, to: Some(to.to_owned()), address, protocol, port, mark: self.mark })
        })
    }

    fn stop(&self, packet: &Packet) -> Option<Stop> {
        match self.ruleset.says(Hook::Forward, packet) {
            Outcome::Stopped { by, chain } => {
                Some(Stop { by, remedy: self.exception(&chain), firewalld: chain.table == "firewalld" })
            }
            Outcome::Passes | Outcome::Unclear(_) => None,
        }
    }

    /// The command that has netd's packets pass a chain.
    fn exception(&self, chain: &Chain) -> String {
        let mark = self.mark;
        let tool = Xtables::ALL
            .into_iter()
            .find(|table| self.forward(*table).is_some_and(|own| std::ptr::eq(own, chain) || own == chain));
        match tool {
            Some(tool) => format!("{} -I FORWARD -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT", tool.command()),
            None => format!(
                "nft insert rule {} {} {} meta mark '&' {mark:#x} == {mark:#x} accept",
                chain.family, chain.table, chain.name
            ),
        }
    }

    fn forward(&self, table: Xtables) -> Option<&Chain> {
        let (family, nft) = table.place();
        self.ruleset.chains.iter().find(|chain| {
            chain.family == family
                && chain.nft == nft
                && chain.table == "filter"
                && chain.name == "FORWARD"
                && chain.hook == Some(Hook::Forward)
        })
    }
}
