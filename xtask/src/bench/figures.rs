//! What is measured, and what a row of rounds says: medians, spreads, and ratios pair by pair. Nothing here performs IO.

use std::collections::BTreeMap;

use super::site::{Contender, Path};

/// One number that a run of a load gives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Measure {
    /// Bytes of one TCP stream that arrived, in Gbit/s.
    Stream,
    /// Median time of a 1-byte request and its response on one TCP connection.
    Exchange50,
    /// 99th percentile of the same.
    Exchange99,
    /// 99.9th percentile of the same.
    Exchange999,
    /// Median time to connect, ask, be answered and close.
    Connect50,
    /// How many of those one client makes in a second.
    ConnectRate,
    /// Datagrams of 64 bytes that arrived.
    Packets,
    /// Time of all processors for each of them, sender and receiver included.
    Cpu,
    /// What of it the sender's processor spends, which also does what the kernel does for a packet until it is in the receiver's socket.
    CpuSender,
    /// What of it the others spend, among them the receiver's.
    CpuReceiver,
}

impl Measure {
    /// All, in the order of every table.
    pub const ALL: [Self; 10] = [
        Self::Stream,
        Self::Exchange50,
        Self::Exchange99,
        Self::Exchange999,
        Self::Connect50,
        Self::ConnectRate,
        Self::Packets,
        Self::Cpu,
        Self::CpuSender,
        Self::CpuReceiver,
    ];

    /// What a table's row calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Stream => "TCP stream",
            Self::Exchange50 => "round trip p50",
            Self::Exchange99 => "round trip p99",
            Self::Exchange999 => "round trip p99.9",
            Self::Connect50 => "connect-request-close p50",
            Self::ConnectRate => "connect-request-close",
            Self::Packets => "UDP 64 B received",
            Self::Cpu => "CPU per packet",
            Self::CpuSender => "CPU per packet, sender's",
            Self::CpuReceiver => "CPU per packet, receiver's",
        }
    }

    /// Its name in files.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Stream => "tcp-stream",
            Self::Exchange50 => "round-trip-p50",
            Self::Exchange99 => "round-trip-p99",
            Self::Exchange999 => "round-trip-p999",
            Self::Connect50 => "connect-p50",
            Self::ConnectRate => "connect-rate",
            Self::Packets => "udp-packets",
            Self::Cpu => "cpu-per-packet",
            Self::CpuSender => "cpu-per-packet-sender",
            Self::CpuReceiver => "cpu-per-packet-receiver",
        }
    }

    /// The unit of its values.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Stream => "Gbit/s",
            Self::ConnectRate => "/s",
            Self::Packets => "kpps",
            _ => "µs",
        }
    }

    /// What a value comes to in nanoseconds for each of what is counted: a mebibyte of a stream, a packet, a round trip, a connection.
    pub fn nanoseconds(self, value: f64) -> f64 {
        match self {
            Self::Stream => f64::from(8 << 20) / value,
            Self::Packets => 1e6 / value,
            Self::ConnectRate => 1e9 / value,
            _ => 1e3 * value,
        }
    }

    /// Whether a higher value is the better one.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::Stream | Self::ConnectRate | Self::Packets)
    }

    /// A value with as many digits as it deserves.
    pub fn shown(self, value: f64) -> String {
        let digits = match value {
            _ if self == Self::ConnectRate || value >= 100.0 => 0,
            v if v >= 10.0 => 1,
            _ => 2,
        };
        format!("{value:.digits$}")
    }
}

/// The middle of a row of rounds and its ends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The middle value, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
        Some(Self { median, min, max })
    }

    /// Of the ratios of one row of rounds to another, each within a round.
    pub fn of_ratios(one: &[f64], other: &[f64]) -> Option<Self> {
        Self::of(&one.iter().zip(other).map(|(one, other)| one / other).collect::<Vec<_>>())
    }
}

/// The value below or at which `share` (0 to 1) of `sorted` lies, by the nearest rank; 0 of nothing.
pub fn percentile(sorted: &[u32], share: f64) -> u32 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied().unwrap_or_default()
}

/// Every value of a run, a row of rounds for each path, measure and contender. Round n of one is beside round n of another.
#[derive(Default)]
pub struct Figures {
    rows: BTreeMap<(Path, Measure, Contender), Vec<f64>>,
}

impl Figures {
    /// Adds the value of the next round.
    pub fn add(&mut self, path: Path, contender: Contender, measure: Measure, value: f64) {
        self.rows.entry((path, measure, contender)).or_default().push(value);
    }

    /// The rounds of one contender; none if it was not measured.
    pub fn rounds(&self, path: Path, measure: Measure, contender: Contender) -> &[f64] {
        self.rows.get(&(path, measure, contender)).map_or(&[], Vec::as_slice)
    }

    /// The rounds of one contender in short.
    pub fn spread(&self, path: Path, measure: Measure, contender: Contender) -> Option<Spread> {
        Spread::of(self.rounds(path, measure, contender))
    }

    /// Ratios of one contender to another, each within a round.
    pub fn paired(&self, path: Path, measure: Measure, one: Contender, other: Contender) -> Option<Spread> {
        let (one, other) = (self.rounds(path, measure, one), self.rounds(path, measure, other));
        Spread::of_ratios(one, other)
    }

    /// The ratio of two medians.
    pub fn ratio(&self, path: Path, measure: Measure, one: Contender, other: Contender) -> Option<f64> {
        Some(self.spread(path, measure, one)?.median / self.spread(path, measure, other)?.median)
    }

    /// Paths that were measured.
    pub fn paths(&self) -> Vec<Path> {
        Path::ALL.into_iter().filter(|path| self.rows.keys().any(|(measured, ..)| measured == path)).collect()
    }

    /// Contenders that were measured on `path`.
    pub fn contenders(&self, path: Path) -> Vec<Contender> {
        let measured = |contender: &Contender| self.rows.keys().any(|(on, _, who)| *on == path && who == contender);
        Contender::ALL.into_iter().filter(measured).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_two() {
        assert_eq!(Spread::of(&[]), None);
        for (values, median) in [(vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 2.0, 9.0], 3.0)] {
            assert_eq!(Spread::of(&values).map(|spread| spread.median), Some(median), "{values:?}");
        }
        assert_eq!(Spread::of(&[9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let sorted: Vec<u32> = (1..=1000).collect();

        for (share, expected) in [(0.5, 500), (0.99, 990), (0.999, 999), (1.0, 1000), (0.0, 1)] {
            assert_eq!(percentile(&sorted, share), expected, "{share}");
        }
        assert_eq!(percentile(&[], 0.5), 0);
        assert_eq!(percentile(&[7], 0.999), 7);
    }

    #[test]
    fn ratios_are_taken_within_rounds_so_that_a_slow_moment_of_both_does_not_show() {
        let mut figures = Figures::default();
        for (ours, limit) in [(80.0, 100.0), (40.0, 50.0), (90.0, 100.0)] {
            figures.add(Path::Published, Contender::Netd, Measure::Packets, ours);
            figures.add(Path::Published, Contender::Veth, Measure::Packets, limit);
        }

        let paired = figures.paired(Path::Published, Measure::Packets, Contender::Netd, Contender::Veth);
        assert_eq!(paired, Some(Spread { median: 0.8, min: 0.8, max: 0.9 }));
        assert_eq!(figures.ratio(Path::Published, Measure::Packets, Contender::Netd, Contender::Veth), Some(0.8));
        assert_eq!(figures.paired(Path::Published, Measure::Packets, Contender::Netd, Contender::Cni), None);
        assert_eq!(figures.contenders(Path::Published), [Contender::Veth, Contender::Netd]);
        assert_eq!(figures.paths(), [Path::Published]);
    }

    #[test]
    fn every_measure_is_a_time_for_each_of_what_it_counts() {
        for (measure, value, nanoseconds) in [
            (Measure::Stream, 8.388_608, 1_000_000.0),
            (Measure::Packets, 500.0, 2_000.0),
            (Measure::ConnectRate, 10_000.0, 100_000.0),
            (Measure::Connect50, 70.0, 70_000.0),
        ] {
            assert!((measure.nanoseconds(value) - nanoseconds).abs() < 1e-3, "{measure:?}");
        }
    }

    #[test]
    fn values_have_as_many_digits_as_they_deserve() {
        for (measure, value, shown) in [
            (Measure::Stream, 41.234, "41.2"),
            (Measure::Exchange50, 7.125, "7.12"),
            (Measure::Packets, 654.3, "654"),
            (Measure::ConnectRate, 99.9, "100"),
        ] {
            assert_eq!(measure.shown(value), shown);
        }
    }
}
