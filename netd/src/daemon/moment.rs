//! Moments as RFC 3339 writes them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// In a second.
const MILLISECOND: i64 = 1_000;

/// A moment of the host's clock, to the microsecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(i64);

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self(Timestamp::now().as_microsecond())
    }

    /// The moment that a user means: RFC 3339 with any offset, seconds since 1970, or a time that is past, as `10m`.
    pub fn parse(text: &str, now: Self) -> Option<Self> {
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Some(moment.into());
        }
        if let Ok(seconds) = text.parse::<i64>() {
            return Timestamp::from_second(seconds).ok().map(Self::from);
        }
        let ago = text.parse::<jiff::SignedDuration>().ok()?;
        Timestamp::from(now).checked_sub(ago).ok().map(Self::from)
    }

    /// This one, or the next after `other` where the clock does not tell which of the two was first. One that is a millisecond
    /// and more before the other is by a clock that was put back.
    pub fn apart_from(self, other: Self) -> Self {
        let behind = other.0.saturating_sub(self.0);
        if (0..MILLISECOND).contains(&behind) { Self(other.0.saturating_add(1)) } else { self }
    }

    /// How long until then; nothing if it is past.
    pub fn time_left(self) -> std::time::Duration {
        let micros = self.0.saturating_sub(Self::now().0);
        std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

impl From<Timestamp> for Moment {
    fn from(moment: Timestamp) -> Self {
        Self(moment.as_microsecond())
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Self {
        Self::from_microsecond(moment.0).unwrap_or(Self::MAX)
    }
}

impl TryFrom<String> for Moment {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        text.parse::<Timestamp>().map(Self::from)
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.6}", Timestamp::from(*self))
    }
}

/// Seconds since 1970-01-01T00:00:00Z as a date and time of UTC.
pub fn rfc3339(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.unwrap_or(Timestamp::MAX).to_string()
}

/// Seconds since 1970-01-01T00:00:00Z.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_date_says() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_251_723, "2026-11-21T09:02:03Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn a_moment_is_read_as_a_date_as_seconds_or_as_a_time_that_is_past() {
        let now = Moment(1_795_251_723_000_000);
        let cases = [
            ("2026-11-21T09:02:03Z", Some(0)),
            ("2026-11-21T10:02:03.25+01:00", Some(250_000)),
            ("1795251700", Some(-23_000_000)),
            ("10m", Some(-600_000_000)),
            ("1h30m", Some(-5_400_000_000)),
            ("0s", Some(0)),
            ("yesterday", None),
            ("", None),
        ];
        for (text, offset) in cases {
            assert_eq!(Moment::parse(text, now), offset.map(|offset| Moment(now.0 + offset)), "{text}");
        }
    }

    #[test]
    fn a_moment_survives_its_text() {
        let moment = Moment(1_795_251_723_000_042);
        assert_eq!(moment.to_string(), "2026-11-21T09:02:03.000042Z");
        assert_eq!(serde_json::from_str::<Moment>(&serde_json::to_string(&moment).unwrap()).unwrap(), moment);
    }
}
