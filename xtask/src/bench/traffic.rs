//! What is sent at which scale, and what tables call it. Nothing here performs IO.

use std::fmt;

use crate::programs::grouped;

/// How many of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// Live flows of containers to the outside.
    pub flows: u32,
    /// Published ports.
    pub ports: u16,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |number: u64, what| format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" });
        write!(f, "{}, {}", counted(self.flows.into(), "flow"), counted(self.ports.into(), "port"))
    }
}

/// What targets compare with.
pub const LEAST: Point = Point { flows: 1, ports: 1 };
/// A busy host.
pub const BUSY: Point = Point { flows: 100_000, ports: 10_000 };
/// As many flows, and one port.
pub const MANY: Point = Point { flows: BUSY.flows, ports: 1 };
/// So few that an L2 cache has room for them.
pub const THOUSAND: Point = Point { flows: 1_000, ports: 1 };
/// More than a host has.
pub const MILLION: Point = Point { flows: 1_000_000, ports: 1 };

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// Of one flow out of a container, with the others alive.
    OneOut,
    /// Of all of them, a packet each in turn.
    AllOut,
    /// To one published port from outside, with the others published.
    OneIn,
    /// To all of them, a packet each in turn.
    AllIn,
}

impl Traffic {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 4] = [Self::OneOut, Self::AllOut, Self::OneIn, Self::AllIn];

    /// Whether it comes from outside.
    pub const fn is_inwards(self) -> bool {
        matches!(self, Self::OneIn | Self::AllIn)
    }

    /// The path that it takes.
    pub const fn path(self) -> &'static str {
        if self.is_inwards() { "published" } else { "masquerade" }
    }

    /// Whether it is another than that of one.
    pub fn differs(self, point: Point) -> bool {
        match self {
            Self::OneOut | Self::OneIn => true,
            Self::AllOut => point.flows > 1,
            Self::AllIn => point.ports > 1,
        }
    }

    /// What a table calls it at a point.
    pub fn about(self, point: Point) -> String {
        let what = match self {
            Self::OneOut => "by one flow",
            Self::AllOut => "by each flow in turn",
            Self::OneIn => "to one port",
            Self::AllIn => "to each port in turn",
        };
        format!("{}, {what}: {point}", self.path())
    }

    /// What a table calls the time that netd's programs take of each of its packets at a point.
    pub fn in_programs(self, point: Point) -> String {
        format!("{}; of each packet in netd's programs", self.about(point))
    }
}
