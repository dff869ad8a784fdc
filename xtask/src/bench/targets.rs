//! What the speed is meant to be, and whether a run of the bench says that it is so. Nothing here performs IO.

use super::{
    control::about,
    figures::{Figures, Measure, Spread},
    findings::Findings,
    scale::{self, Point, Traffic},
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

/// Packet rates with many flows and ports: the traffic and its point, the same of another point, and the ratio to it.
const AT_SCALE: [(Traffic, Point, Traffic, Point, f64); 6] = [
    (Traffic::OneOut, scale::BUSY, Traffic::OneOut, scale::LEAST, 0.95),
    (Traffic::AllOut, scale::BUSY, Traffic::OneOut, scale::LEAST, 0.95),
    (Traffic::OneIn, scale::BUSY, Traffic::OneIn, scale::LEAST, 0.95),
    (Traffic::AllIn, scale::BUSY, Traffic::OneIn, scale::LEAST, 0.95),
    (Traffic::OneOut, scale::MILLION, Traffic::OneOut, scale::LEAST, 0.90),
    (Traffic::AllOut, scale::MILLION, Traffic::OneOut, scale::LEAST, 0.90),
];

/// Numbers of netd's that have a bound of their own.
const BY_THEMSELVES: [(&str, &str, f64); 7] = [
    (about::CREATE, "ms", 10.0),
    (about::ATTACH, "ms", 10.0),
    (about::DETACH, "ms", 40.0),
    (about::RANGE, "ms", 100.0),
    (about::SINGLES, "ms", 100.0),
    (about::RESTART, "ms", 2_000.0),
    (about::RESIDENT, "MB", 30.0),
];

/// Numbers of netd's that are compared with a peer's: the greatest ratio.
const BESIDE: [(&str, Contender, f64); 2] =
    [(scale::FLOW, Contender::Iptables, 1.0), (about::ATTACH, Contender::Cni, 0.5)];

/// What a number has to be.
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
        let (sign, bound) = match self {
            Self::AtLeast(bound) => ("≥", bound),
            Self::AtMost(bound) => ("≤", bound),
            Self::Above(bound) => (">", bound),
            Self::Below(bound) => ("<", bound),
        };
        let digits = if *bound < 10.0 { 2 } else { 0 };
        write!(f, "{sign} {bound:.digits$}")
    }
}

/// A target, and what was measured of it.
#[derive(PartialEq, Debug)]
pub struct Verdict {
    /// The path, or what else the target is of.
    pub of: String,
    /// In what.
    pub measure: String,
    /// Against whom or what; itself where there is a bound alone.
    pub against: String,
    /// What netd's number, or its ratio to the other's, has to be.
    pub bound: Bound,
    /// The unit of the number; none of a ratio.
    pub unit: &'static str,
    /// What it is, of medians; `None` if one side was not measured.
    pub measured: Option<f64>,
    /// The same of each round: how far one is from another.
    pub rounds: Option<Spread>,
}

impl Verdict {
    /// Whether the target is held; `None` if it was not measured.
    pub fn held(&self) -> Option<bool> {
        self.measured.map(|number| self.bound.holds(number))
    }

    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self.held() {
            Some(true) => "held",
            Some(false) => "missed",
            None => "not measured",
        }
    }
}

/// Every target, those of paths first.
pub fn judged(figures: &Figures, findings: &Findings) -> Vec<Verdict> {
    let of_paths = Path::ALL.into_iter().flat_map(|path| of_path(figures, path));
    of_paths.chain(at_scale(findings)).chain(of_numbers(findings)).collect()
}

/// What netd misses on paths: on which, in which measure, against whom.
pub fn missed_on_paths(figures: &Figures) -> impl Iterator<Item = (Path, Measure, Contender)> + '_ {
    let of = Path::ALL.into_iter().flat_map(move |path| on_path(figures, path).map(move |target| (path, target)));
    let misses = move |path, measure, against, bound: Bound| {
        figures.ratio(path, measure, Contender::Netd, against).is_some_and(|ratio| !bound.holds(ratio))
    };
    of.filter(move |(path, (measure, against, bound))| misses(*path, *measure, *against, *bound))
        .map(|(path, (measure, against, _))| (path, measure, against))
}

/// What netd misses at scale: the traffic and its point, and those that it is compared with.
pub fn missed_at_scale(findings: &Findings) -> impl Iterator<Item = [(Traffic, Point); 2]> + '_ {
    let misses = |traffic: Traffic, point, other: Traffic, base, bound| {
        let ratio = ratio(findings.netds(&traffic.about(point)), findings.netds(&other.about(base)));
        ratio.is_some_and(|ratio| ratio < bound)
    };
    let missed = AT_SCALE
        .into_iter()
        .filter(move |(traffic, point, other, base, bound)| misses(*traffic, *point, *other, *base, *bound));
    missed.map(|(traffic, point, other, base, _)| [(traffic, point), (other, base)])
}

/// What netd misses of its own numbers: of what, in which unit, and the bound.
pub fn missed_by_themselves(findings: &Findings) -> impl Iterator<Item = (&'static str, &'static str, f64)> + '_ {
    BY_THEMSELVES.into_iter().filter(|(about, _, bound)| findings.netds(about).is_some_and(|number| number > *bound))
}

/// The targets of a path: in what, against whom, and how.
fn on_path(figures: &Figures, path: Path) -> impl Iterator<Item = (Measure, Contender, Bound)> + '_ {
    let limited = LIMITED.contains(&path).then_some(AGAINST_THE_LIMIT).into_iter().flatten();
    let limit = limited.map(|(measure, bound)| (measure, Contender::Veth, bound));
    // Docker's engine takes part where it is asked for.
    let takes_part = move |peer: &Contender| *peer != Contender::Docker || figures.contenders(path).contains(peer);
    let proxies = [Contender::Iptables, Contender::Docker].into_iter().filter(move |_| path == Path::Loopback);
    let proxy =
        proxies.filter(move |peer| takes_part(peer)).map(|peer| (Measure::ConnectRate, peer, AGAINST_THE_PROXY));
    let on_path = Contender::PEERS.into_iter().filter(move |peer| peer.takes(path) && takes_part(peer));
    let peers = on_path.flat_map(|peer| {
        // A plain bridge does a part of the work: to be as good is the target.
        AGAINST_PEERS.map(|measure| (measure, peer, Bound::ahead(measure, peer == Contender::Bridge)))
    });
    limit.chain(proxy).chain(peers)
}

fn of_path(figures: &Figures, path: Path) -> impl Iterator<Item = Verdict> + '_ {
    on_path(figures, path).map(move |(measure, against, bound)| Verdict {
        of: path.name().to_owned(),
        measure: measure.title().to_owned(),
        against: against.name().to_owned(),
        bound,
        unit: "",
        measured: figures.ratio(path, measure, Contender::Netd, against),
        rounds: figures.paired(path, measure, Contender::Netd, against),
    })
}

fn at_scale(findings: &Findings) -> impl Iterator<Item = Verdict> + '_ {
    AT_SCALE.into_iter().map(|(traffic, point, other, base, bound)| {
        let [measure, against] = [traffic.about(point), other.about(base)];
        Verdict {
            of: "scale".to_owned(),
            bound: Bound::AtLeast(bound),
            unit: "",
            measured: ratio(findings.netds(&measure), findings.netds(&against)),
            rounds: rounds(findings, (&measure, Contender::Netd), (&against, Contender::Netd)),
            measure,
            against,
        }
    })
}

fn of_numbers(findings: &Findings) -> impl Iterator<Item = Verdict> + '_ {
    let verdict = |measure: &str, against: &str, bound, unit, measured, rounds| Verdict {
        of: "netd".to_owned(),
        measure: measure.to_owned(),
        against: against.to_owned(),
        bound: Bound::AtMost(bound),
        unit,
        measured,
        rounds,
    };
    let alone = BY_THEMSELVES.map(|(about, unit, bound)| {
        let rounds = Spread::of(findings.values(about, Contender::Netd));
        verdict(about, "itself", bound, unit, findings.netds(about), rounds)
    });
    let beside = BESIDE.map(|(about, peer, bound)| {
        let measured = ratio(findings.netds(about), findings.median(about, peer));
        verdict(about, peer.name(), bound, "", measured, rounds(findings, (about, Contender::Netd), (about, peer)))
    });
    alone.into_iter().chain(beside)
}

/// Ratios of one subject's rounds to another's.
fn rounds(findings: &Findings, one: (&str, Contender), other: (&str, Contender)) -> Option<Spread> {
    Spread::of_ratios(findings.values(one.0, one.1), findings.values(other.0, other.1))
}

fn ratio(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? / other?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::findings::Area;

    fn figures(values: &[(Contender, Measure, f64)]) -> Figures {
        let mut figures = Figures::default();
        for (contender, measure, value) in values {
            figures.add(Path::ContainerToContainer, *contender, *measure, *value);
        }
        figures
    }

    fn measured(verdicts: &[Verdict]) -> Vec<(&str, String, &'static str)> {
        let measured = verdicts.iter().filter(|verdict| verdict.measured.is_some());
        measured.map(|v| (v.against.as_str(), v.bound.to_string(), v.word())).collect()
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

        let judged = judged(&figures, &Findings::default());

        let expected = [("veth", "≥ 0.90", "held"), ("bridge", "≥ 1.00", "held"), ("iptables", "> 1.00", "missed")];
        assert_eq!(measured(&judged), expected.map(|(peer, bound, word)| (peer, bound.to_owned(), word)));
    }

    #[test]
    fn what_is_missed_on_a_path_is_what_its_targets_say() {
        let figures = figures(&[
            (Contender::Veth, Measure::Packets, 100.0),
            (Contender::Netd, Measure::Packets, 89.0),
            (Contender::Veth, Measure::Exchange50, 100.0),
            (Contender::Netd, Measure::Exchange50, 111.0),
            (Contender::Netd, Measure::Stream, 1.0),
            (Contender::Cni, Measure::Packets, 89.0),
            (Contender::Cni, Measure::Exchange50, 112.0),
        ]);

        let missed: Vec<_> = missed_on_paths(&figures).collect();

        let packets = |against| (Path::ContainerToContainer, Measure::Packets, against);
        assert_eq!(missed, [packets(Contender::Veth), packets(Contender::Cni)]);
    }

    #[test]
    fn a_target_tells_how_far_its_rounds_are_from_one_another() {
        let mut figures = figures(&[]);
        for (netd, veth) in [(90.0, 100.0), (80.0, 100.0), (95.0, 95.0)] {
            figures.add(Path::Host, Contender::Netd, Measure::Packets, netd);
            figures.add(Path::Host, Contender::Veth, Measure::Packets, veth);
        }
        let mut findings = Findings::default();
        for milliseconds in [90.0, 120.0, 95.0] {
            findings.add(Area::Control, about::SINGLES, Contender::Netd, "ms", milliseconds);
        }

        let judged = judged(&figures, &findings);

        let told: Vec<_> = judged.iter().filter_map(|v| Some((v.measured?, v.rounds?.min, v.rounds?.max))).collect();
        assert_eq!(told, [(0.9, 0.8, 1.0), (95.0, 90.0, 120.0)]);
    }

    #[test]
    fn what_is_missed_at_scale_names_both_sides() {
        let mut findings = Findings::default();
        for (traffic, point, kpps) in [(Traffic::OneIn, scale::LEAST, 500.0), (Traffic::OneIn, scale::BUSY, 470.0)] {
            findings.add(Area::Scale, &traffic.about(point), Contender::Netd, "kpps", kpps);
        }

        let missed: Vec<_> = missed_at_scale(&findings).collect();

        assert_eq!(missed, [[(Traffic::OneIn, scale::BUSY), (Traffic::OneIn, scale::LEAST)]]);
    }

    #[test]
    fn every_target_has_a_row_and_what_was_not_measured_says_so() {
        let judged = judged(&Figures::default(), &Findings::default());

        assert!(judged.len() > 100, "{}", judged.len());
        assert!(judged.iter().all(|verdict| verdict.word() == "not measured"));
        for subject in [about::RESTART, scale::FLOW, "overlay", "loopback"] {
            assert!(judged.iter().any(|v| v.measure == subject || v.of == subject), "{subject}");
        }
    }

    #[test]
    fn less_time_is_ahead() {
        let figures =
            figures(&[(Contender::Netd, Measure::Exchange50, 7.0), (Contender::Cni, Measure::Exchange50, 8.0)]);

        let judged = judged(&figures, &Findings::default());

        assert_eq!(measured(&judged), [("cni", "< 1.00".to_owned(), "held")]);
    }

    #[test]
    fn numbers_are_judged_by_their_own_bound_and_beside_a_peers() {
        let mut findings = Findings::default();
        findings.add(Area::Control, about::ATTACH, Contender::Netd, "ms", 12.0);
        findings.add(Area::Control, about::ATTACH, Contender::Cni, "ms", 30.0);

        let judged = judged(&Figures::default(), &findings);

        let expected = [("itself", "≤ 10", "missed"), ("cni", "≤ 0.50", "held")];
        assert_eq!(measured(&judged), expected.map(|(peer, bound, word)| (peer, bound.to_owned(), word)));
    }
}
