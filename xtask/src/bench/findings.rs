//! Numbers that no path gives: what things take at a scale, what they weigh, how long a command takes. Nothing here performs IO.

use super::{figures::Spread, site::Contender};

/// Where a number belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Area {
    /// Packet rates and TCP with many flows and published ports.
    Scale,
    /// Bytes.
    Memory,
    /// Times of commands.
    Control,
}

impl Area {
    /// All, in the order of the document.
    pub const ALL: [Self; 3] = [Self::Scale, Self::Memory, Self::Control];

    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::Memory => "memory",
            Self::Control => "control plane",
        }
    }
}

/// One subject's values, a value a round.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// Where it belongs.
    pub area: Area,
    /// Of what.
    pub about: String,
    /// Whose.
    pub who: Contender,
    /// Unit of the values.
    pub unit: &'static str,
    /// The values.
    pub values: Vec<f64>,
}

/// All of them, in the order in which their subjects came up.
#[derive(Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a value.
    pub fn add(&mut self, area: Area, about: &str, who: Contender, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|known| known.area == area && known.about == about && known.who == who) {
            Some(known) => known.values.push(value),
            None => self.0.push(Finding { area, about: about.to_owned(), who, unit, values: vec![value] }),
        }
    }

    /// Those of one area.
    pub fn of(&self, area: Area) -> impl Iterator<Item = &Finding> {
        self.0.iter().filter(move |finding| finding.area == area)
    }

    /// The middle of netd's values.
    pub fn netds(&self, about: &str) -> Option<f64> {
        self.median(about, Contender::Netd)
    }

    /// The middle of a subject's values; `None` if there is none.
    pub fn median(&self, about: &str, who: Contender) -> Option<f64> {
        Spread::of(self.values(about, who)).map(|spread| spread.median)
    }

    /// A subject's values; none if it was not measured.
    pub fn values(&self, about: &str, who: Contender) -> &[f64] {
        let found = self.0.iter().find(|finding| finding.about == about && finding.who == who);
        found.map_or(&[], |finding| finding.values.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_subject_and_contender_are_one_row() {
        let mut findings = Findings::default();
        for (about, who, value) in [
            ("attach", Contender::Netd, 9.0),
            ("attach", Contender::Cni, 30.0),
            ("attach", Contender::Netd, 7.0),
            ("attach", Contender::Netd, 8.0),
        ] {
            findings.add(Area::Control, about, who, "ms", value);
        }

        assert_eq!(findings.of(Area::Control).map(|f| f.values.len()).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(findings.of(Area::Memory).count(), 0);
        assert_eq!(findings.median("attach", Contender::Netd), Some(8.0));
        assert_eq!(findings.median("detach", Contender::Netd), None);
    }
}
