//! The host's firewall, read whenever it has changed, and netd's accept in it.
//!
//! nftables tells the number of its last change, so that it is listed only after one; the older iptables is asked for its whole
//! table, less the counters. The listings themselves are those of `nft` and `iptables-save`, which whoever has rules has.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, ErrorKind},
    mem::size_of_val,
    os::fd::AsRawFd,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt,
    },
    sys::time::TimeVal,
};

use super::sockets::messages;
use crate::firewall::{Accept, COMMENT, Family, FirewallFacts, Mode, Ruleset, Xtables, of_json, of_save};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
const GET_GENERATION: u16 = 10 << 8 | 16;
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;
/// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`, and the same of IPv6.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// Tables that stand on the way of what is forwarded or received.
const TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// How long rules that could not be read are not tried again, which takes a process each time.
const PAUSE: Duration = Duration::from_secs(10);

/// The firewall of the calling thread's network namespace.
#[derive(Debug)]
pub struct Firewall {
    mode: Mode,
    mark: u32,
    read: Option<Reading>,
}

/// What was read, and when.
#[derive(Debug)]
struct Reading {
    version: Version,
    at: Instant,
    facts: FirewallFacts,
}

/// Another for each ruleset.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Version {
    /// Of nftables; `None` where the kernel has none.
    nft: Option<u32>,
    /// Of the older iptables; 0 where it has no table.
    legacy: u64,
}

impl Firewall {
    /// Not read yet.
    pub const fn new(mode: Mode, mark: u32) -> Self {
        Self { mode, mark, read: None }
    }

    /// What is known, read anew where it has changed, and after a pause where it could not be read.
    pub fn facts(&mut self) -> FirewallFacts {
        let version = Version { nft: nft_version().unwrap_or_default(), legacy: legacy_version() };
        self.facts_of(version, Instant::now(), read)
    }

    fn facts_of(
        &mut self,
        version: Version,
        at: Instant,
        read: impl FnOnce(&Version) -> Result<Ruleset>,
    ) -> FirewallFacts {
        // Why a listing fails, no number of the kernel's tells: `nft` is not installed, or there was no memory for it.
        if let Some(known) = &self.read
            && known.version == version
            && (known.facts.unread.is_none() || at.saturating_duration_since(known.at) < PAUSE)
        {
            return known.facts.clone();
        }
        let (ruleset, unread) = match read(&version) {
            Ok(ruleset) => (ruleset, None),
            Err(error) => (Ruleset::default(), Some(format!("{error:#}"))),
        };
        let facts =
            FirewallFacts { mode: self.mode, mark: self.mark, ruleset, generation: version.generation(), unread };
        self.read = Some(Reading { version, at, facts: facts.clone() });
        facts
    }

    /// Puts netd's accept at the end of the FORWARD chain.
    pub fn accept(&mut self, accept: Accept) -> Result<()> {
        // One that stands elsewhere in the chain comes after rules that were meant to come after it.
        if self.facts().with_accept().contains(&accept) {
            self.remove_accept(accept)?;
        }
        change(accept, "-A")
    }

    /// Takes netd's accept away, as often as it stands there.
    pub fn remove_accept(&self, accept: Accept) -> Result<()> {
        change(accept, "-D")?;
        while change(accept, "-D").is_ok() {}
        Ok(())
    }

    /// Takes it away everywhere, whatever bit it is for; from which tables.
    pub fn remove_accepts(&mut self) -> Result<BTreeSet<Xtables>> {
        let accepts = self.facts().with_accept();
        for accept in &accepts {
            self.remove_accept(*accept)?;
        }
        Ok(accepts.into_iter().map(|accept| accept.table).collect())
    }
}

impl Version {
    /// In the room that there is for it.
    fn generation(&self) -> u16 {
        let all = u64::from(self.nft.unwrap_or_default()).wrapping_add(self.legacy);
        (all % u64::from(u16::MAX)) as u16 + 1
    }

    /// Whether nftables has never been touched in this namespace.
    fn has_no_nft(&self) -> bool {
        self.nft.is_none_or(|number| number <= 1)
    }
}

fn read(version: &Version) -> Result<Ruleset> {
    let mut ruleset = Ruleset::default();
    if !version.has_no_nft() {
        let json = output("nft", &["--json", "--terse", "list", "ruleset"])?;
        ruleset = of_json(&json).map_err(anyhow::Error::msg).context("`nft` prints what is not understood")?;
        // What iptables has put into nftables only its own listing tells in full.
        for (family, command) in [(Family::Ip, "iptables-nft-save"), (Family::Ip6, "ip6tables-nft-save")] {
            let is_xtables = |chain: &crate::firewall::Chain| {
                chain.family == family && TABLES.contains(&chain.table.as_str()) && is_upper(&chain.name)
            };
            if ruleset.chains.iter().any(is_xtables)
                && let Ok(text) = output(command, &[])
            {
                let saved = of_save(&text, family, true);
                let told = |chain: &crate::firewall::Chain| {
                    saved.chains.iter().any(|other| other.table == chain.table && other.name == chain.name)
                };
                ruleset.chains.retain(|chain| chain.family != family || !told(chain));
                ruleset = ruleset.and(saved);
            }
        }
    }
    for (family, names, command) in [
        (Family::Ip, "/proc/net/ip_tables_names", "iptables-legacy-save"),
        (Family::Ip6, "/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        if !fs::read_to_string(names).unwrap_or_default().is_empty() {
            ruleset = ruleset.and(of_save(&output(command, &[])?, family, false));
        }
    }
    Ok(ruleset)
}

/// As the base chains of iptables are called.
fn is_upper(name: &str) -> bool {
    matches!(name, "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING")
}

fn output(command: &str, arguments: &[&str]) -> Result<String> {
    let output = match Command::new(command).args(arguments).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("there is no `{command}` here"),
        output => output.with_context(|| format!("cannot run `{command}`"))?,
    };
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("`{command}`: {}", why.lines().next().unwrap_or("it failed"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn change(Accept { table, mark }: Accept, how: &str) -> Result<()> {
    let bit = format!("{mark:#x}/{mark:#x}");
    let arguments = ["-w", "5", how, "FORWARD", "-m", "mark", "--mark", &bit, "-m", "comment", "--comment", COMMENT];
    output(table.command(), &[&arguments[..], &["-j", "ACCEPT"]].concat()).map(drop)
}

/// The number of the last change of nftables.
fn nft_version() -> io::Result<Option<u32>> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    let mut message = Vec::with_capacity(20);
    message.extend(20_u32.to_ne_bytes());
    message.extend([GET_GENERATION.to_ne_bytes(), (libc::NLM_F_REQUEST as u16).to_ne_bytes()].concat());
    message.extend([0; 12]);
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = [0; 512];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    // After the family's header, the number is the first attribute.
    let number = messages(&buffer[..length]).find_map(|(_, payload)| {
        let attribute = payload.get(4..12)?;
        let kind = u16::from_ne_bytes([attribute[2], attribute[3]]);
        let number = u32::from_be_bytes([attribute[4], attribute[5], attribute[6], attribute[7]]);
        (kind == GENERATION_ID).then_some(number)
    });
    Ok(number)
}

/// A number for all tables of the older iptables, 0 where there is none.
fn legacy_version() -> u64 {
    let families = [
        ("/proc/net/ip_tables_names", libc::AF_INET, libc::IPPROTO_IP, 88, 96),
        ("/proc/net/ip6_tables_names", libc::AF_INET6, libc::IPPROTO_IPV6, 140, 152),
    ];
    let mut hasher = DefaultHasher::new();
    let mut any = false;
    for (names, family, level, offsets, counters) in families {
        for table in fs::read_to_string(names).unwrap_or_default().lines() {
            any = true;
            table.hash(&mut hasher);
            match entries(family, level, table) {
                Ok(mut entries) => {
                    forget_counters(&mut entries, offsets, counters);
                    entries.hash(&mut hasher);
                }
                Err(error) => error.raw_os_error().hash(&mut hasher),
            }
        }
    }
    if any { hasher.finish().max(1) } else { 0 }
}

/// The rules of a table (`struct ipt_get_entries`).
fn entries(family: i32, level: i32, table: &str) -> io::Result<Vec<u8>> {
    const NAME: usize = 32;
    /// From the start of `struct ipt_getinfo` to its `size`, the last of its fields.
    const SIZE: usize = NAME + 12 * 4;
    // SAFETY: takes numbers, returns a descriptor or an error.
    let raw = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just opened, and nobody else has.
    let socket = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(raw) };
    let mut info = [0_u8; SIZE + 4];
    info[..table.len().min(NAME - 1)].copy_from_slice(&table.as_bytes()[..table.len().min(NAME - 1)]);
    get(&socket, level, GET_INFO, &mut info)?;
    let size = u32::from_ne_bytes([info[SIZE], info[SIZE + 1], info[SIZE + 2], info[SIZE + 3]]);
    // Name, size, and the entries, which are aligned to words.
    let mut all = vec![0_u8; NAME + 8 + size as usize];
    all[..NAME].copy_from_slice(&info[..NAME]);
    all[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    get(&socket, level, GET_ENTRIES, &mut all)?;
    Ok(all.split_off(NAME + 8))
}

fn get(socket: &impl AsRawFd, level: i32, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = size_of_val(buffer) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes into the buffer, which is that long.
    let answer =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Zeroes what packets change: `counters` bytes into each entry, whose own length is told at `offsets`.
fn forget_counters(entries: &mut [u8], offsets: usize, counters: usize) {
    let mut at = 0;
    while let Some(entry) = entries.get_mut(at..).filter(|entry| entry.len() >= counters + 16) {
        entry[counters..counters + 16].fill(0);
        match usize::from(u16::from_ne_bytes([entry[offsets + 2], entry[offsets + 3]])) {
            0 => return,
            length => at += length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_do_not_make_another_version_and_rules_do() {
        let entry = |counter: u8, rule: u8| {
            let mut entry = vec![0_u8; 152];
            entry[0] = rule;
            entry[90..92].copy_from_slice(&152_u16.to_ne_bytes());
            entry[96] = counter;
            entry
        };
        let seen = |counter, rule| {
            let mut entries = [entry(counter, 1), entry(counter, rule)].concat();
            forget_counters(&mut entries, 88, 96);
            entries
        };

        assert_eq!(seen(1, 1), seen(2, 1));
        assert_ne!(seen(1, 1), seen(1, 2));
    }

    #[test]
    fn rules_that_could_not_be_read_are_tried_again_after_a_pause() {
        let mut firewall = Firewall::new(Mode::Aware, 1);
        let begun = Instant::now();
        let mut tries = 0;
        let mut unread = |seconds, installed| {
            let version = Version { nft: Some(2), legacy: 0 };
            let facts = firewall.facts_of(version, begun + Duration::from_secs(seconds), |_| {
                tries += 1;
                if installed { Ok(Ruleset::default()) } else { bail!("there is no `nft` here") }
            });
            (facts.unread.is_some(), tries)
        };

        assert_eq!([0, 1, 9].map(|seconds| unread(seconds, false)), [(true, 1); 3], "no process each second");
        assert_eq!([10, 19].map(|seconds| unread(seconds, false)), [(true, 2); 2]);
        assert_eq!([20, 40].map(|seconds| unread(seconds, true)), [(false, 3); 2], "what is read is kept");
    }

    #[test]
    fn a_generation_is_never_nothing_and_follows_every_change() {
        let of = |nft, legacy| Version { nft: Some(nft), legacy }.generation();

        assert!((0..200_000).all(|number| of(number, 0) != 0 && of(number, 0) != of(number + 1, 0)));
        assert_ne!(Version { nft: None, legacy: 0 }.generation(), 0);
    }
}
