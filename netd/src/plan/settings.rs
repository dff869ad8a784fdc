//! What every program is told: ports for masquerade, timeouts, and the host's firewall.

use netd_common::tables::{Firewall, PortRange, Settings, Span, firewall_flags};

use super::{EPHEMERAL, routing};
use crate::{
    firewall::{FirewallFacts, Mode},
    reconcile::HostFacts,
};

/// Ports for masquerade: what surrounds the kernel's own ephemeral range, above the services that people run.
const POOLS: [PortRange; 2] = [PortRange { first: 20_000, last: 32_767 }, PortRange { first: 61_000, last: 65_535 }];

/// The lowest port that masquerade picks: those below are for the host's services, whatever the sysctls say.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// The programs' settings; `secret` is the key of the hash of ports.
pub fn settings(facts: &HostFacts, secret: [u32; 2]) -> Settings {
    let ephemeral = facts.ephemeral.unwrap_or(EPHEMERAL);
    Settings {
        secret,
        pools: pools(ephemeral),
        second: PortRange { first: ephemeral.first.max(FIRST_UNPRIVILEGED), last: ephemeral.last },
        ephemeral,
        routing: routing(&facts.routing, &facts.firewall) as u32,
        timeouts: facts.timeouts.map(Span::at_least_seconds),
        firewall: firewall(&facts.firewall),
    }
}

/// What packets are told of the host's own firewall.
fn firewall(facts: &FirewallFacts) -> Firewall {
    let generation = if facts.is_shown() { facts.generation } else { 0 };
    let always = if facts.mode == Mode::Off { firewall_flags::ALWAYS_STACK } else { 0 };
    let tracked = if facts.tracks() { firewall_flags::TRACKED } else { 0 };
    Firewall { mark: facts.mark, generation, flags: always | tracked }
}

/// The two largest pieces of [`POOLS`] that `ephemeral` leaves, in order.
fn pools(ephemeral: PortRange) -> [PortRange; 2] {
    let mut pieces: Vec<PortRange> = POOLS.iter().flat_map(|pool| without(*pool, ephemeral)).collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    pieces.resize(2, PortRange::NONE);
    pieces.sort_by_key(|piece| (piece.is_empty(), piece.first));
    [pieces[0], pieces[1]]
}

/// What is left of a range, below and above what is cut out of it.
fn without(range: PortRange, cut: PortRange) -> impl Iterator<Item = PortRange> {
    if cut.is_empty() {
        return [Some(range), None].into_iter().flatten();
    }
    let below = cut.first.checked_sub(1).map(|last| PortRange { first: range.first, last: last.min(range.last) });
    let above = cut.last.checked_add(1).map(|first| PortRange { first: first.max(range.first), last: range.last });
    let kept = |piece: &PortRange| !piece.is_empty();
    [below.filter(kept), above.filter(kept)].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masquerade_ports_and_the_ephemeral_range_have_nothing_in_common() {
        let range = |first, last| PortRange { first, last };
        let cases = [
            (range(32_768, 60_999), [range(20_000, 32_767), range(61_000, 65_535)]),
            (range(1024, 65_535), [range(1, 0), range(1, 0)]),
            (range(10_000, 65_000), [range(65_001, 65_535), range(1, 0)]),
            (range(25_000, 60_999), [range(20_000, 24_999), range(61_000, 65_535)]),
            (range(21_000, 22_000), [range(22_001, 32_767), range(61_000, 65_535)]),
            (range(1, 0), POOLS),
        ];
        for (ephemeral, wanted) in cases {
            assert_eq!(pools(ephemeral), wanted, "{ephemeral:?}");
        }
        assert_eq!(POOLS.iter().map(|pool| pool.len()).sum::<u32>(), 17_304);
    }
}
