//! What the speed is meant to be, and whether a run of the bench says that it is so. Nothing here performs IO.

use super::{
    figures::{Figures, Measure},
    site::{Contender, Path},
};

/// Against the bare veth pair, on every path: the ratio of medians that netd has to hold.
const AGAINST_THE_LIMIT: [(Measure, Bound); 5] = [
    (Measure::Packets, Bound::AtLeast(0.90)),
    (Measure::Exchange50, Bound::AtMost(1.12)),
    (Measure::Connect50, Bound::AtMost(1.12)),
    (Measure::Stream, Bound::AtLeast(0.95)),
    (Measure::Exchange99, Bound::AtMost(1.2)),
];

/// The paths on which that holds.
const LIMITED: [Path; 4] = [Path::ContainerToContainer, Path::Masquerade, Path::Published, Path::Host];

/// How many times the connections of Docker's proxy, on 127.0.0.1.
const AGAINST_THE_PROXY: Bound = Bound::AtLeast(4.0);

/// What netd has to be ahead in of every peer.
const AGAINST_PEERS: [Measure; 5] =
    [Measure::Packets, Measure::Exchange50, Measure::Connect50, Measure::Exchange99, Measure::Cpu];

/// What a ratio has to be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// More than this.
    Above(f64),
    /// Less than this.
    Below(f64),
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
            Self::Above(bound) => ratio > bound,
            Self::Below(bound) => ratio < bound,
        }
    }

    /// Better than the other; as good is enough if `or_equal`.
    const fn ahead(measure: Measure, or_equal: bool) -> Self {
        match (measure.more_is_better(), or_equal) {
            (true, false) => Self::Above(1.0),
            (true, true) => Self::AtLeast(1.0),
            (false, false) => Self::Below(1.0),
            (false, true) => Self::AtMost(1.0),
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound:.2}"),
            Self::AtMost(bound) => write!(f, "≤ {bound:.2}"),
            Self::Above(bound) => write!(f, "> {bound:.2}"),
            Self::Below(bound) => write!(f, "< {bound:.2}"),
        }
    }
}

/// A target that was judged.
#[derive(PartialEq, Debug)]
pub struct Verdict {
    /// Where.
    pub path: Path,
    /// In what.
    pub measure: Measure,
    /// Against whom.
    pub against: Contender,
    /// What the ratio of netd's median to the other's has to be.
    pub bound: Bound,
    /// What it is.
    pub ratio: f64,
}

impl Verdict {
    /// Whether the target is held.
    pub fn held(&self) -> bool {
        self.bound.holds(self.ratio)
    }

    /// The word for it.
    pub fn word(&self) -> &'static str {
        if self.held() { "held" } else { "missed" }
    }
}

/// Every target that `figures` can judge: those whose two sides were measured.
pub fn judged(figures: &Figures) -> Vec<Verdict> {
    let verdict = |path, measure, against, bound| {
        let ratio = figures.ratio(path, measure, Contender::Netd, against)?;
        Some(Verdict { path, measure, against, bound, ratio })
    };
    let on_path = |path: Path| {
        let limited = LIMITED.contains(&path).then_some(AGAINST_THE_LIMIT).into_iter().flatten();
        let limit = limited.map(|(measure, bound)| (measure, Contender::Veth, bound));
        let proxy = (path == Path::Loopback).then_some((Measure::ConnectRate, Contender::Iptables, AGAINST_THE_PROXY));
        let peers = Contender::PEERS.into_iter().flat_map(|peer| {
            // A plain bridge does a part of the work: to be as good is the target.
            AGAINST_PEERS.map(|measure| (measure, peer, Bound::ahead(measure, peer == Contender::Bridge)))
        });
        limit
            .chain(proxy)
            .chain(peers)
            .filter_map(move |(measure, against, bound)| verdict(path, measure, against, bound))
    };
    Path::ALL.into_iter().flat_map(on_path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(values: &[(Contender, Measure, f64)]) -> Figures {
        let mut figures = Figures::default();
        for (contender, measure, value) in values {
            figures.add(Path::ContainerToContainer, *contender, *measure, *value);
        }
        figures
    }

    #[test]
    fn a_target_is_judged_where_both_sides_were_measured() {
        let figures = figures(&[
            (Contender::Netd, Measure::Packets, 90.0),
            (Contender::Veth, Measure::Packets, 100.0),
            (Contender::Iptables, Measure::Packets, 90.0),
            (Contender::Bridge, Measure::Packets, 90.0),
            (Contender::Veth, Measure::Stream, 40.0),
        ]);

        let judged = judged(&figures);

        let told: Vec<_> = judged.iter().map(|v| (v.against, v.bound, v.word())).collect();
        assert_eq!(
            told,
            [
                (Contender::Veth, Bound::AtLeast(0.90), "held"),
                (Contender::Bridge, Bound::AtLeast(1.0), "held"),
                (Contender::Iptables, Bound::Above(1.0), "missed"),
            ]
        );
    }

    #[test]
    fn less_time_is_ahead() {
        let figures =
            figures(&[(Contender::Netd, Measure::Exchange50, 7.0), (Contender::Cni, Measure::Exchange50, 8.0)]);

        let judged = judged(&figures);

        assert_eq!(judged.len(), 1);
        assert_eq!((judged[0].bound, judged[0].ratio, judged[0].held()), (Bound::Below(1.0), 0.875, true));
        assert_eq!(judged[0].bound.to_string(), "< 1.00");
    }
}
