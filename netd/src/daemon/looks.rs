//! When the host is looked at: at intervals, and soon after a sign that something has changed.

use std::time::Duration;

use tokio::time::Instant;

/// How often: of a program that is detached, and of an entry that is gone from a map, nothing tells.
const LOOK: Duration = Duration::from_secs(1);

/// How long after a sign: changes come in crowds.
pub const SETTLE: Duration = Duration::from_millis(200);

/// How many times as long as a look took the next one waits, whatever changes: requests come between.
const REST: u32 = 4;

/// When the next look is due.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    next: Instant,
    /// No sign brings it nearer than this.
    rested: Instant,
}

impl Looks {
    /// After one that has ended now.
    pub fn after(now: Instant) -> Self {
        Self { next: now + LOOK, rested: now }
    }

    /// Then.
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// There is a sign of a change.
    pub fn hasten(&mut self, now: Instant) {
        self.next = self.next.min((now + SETTLE).max(self.rested));
    }

    /// A look has begun and ended.
    pub fn done(&mut self, began: Instant, ended: Instant) {
        self.next = ended + LOOK;
        self.rested = self.next.min(ended + (ended - began) * REST);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What netd promises of whatever somebody breaks.
    const PROMISE: Duration = Duration::from_secs(2);
    /// As long as is tried.
    const PLAY: Duration = Duration::from_secs(8);

    fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
        range.prop_map(Duration::from_millis)
    }

    /// When looks begin and end, each of which takes so long, with signs of changes at these times.
    fn played(length: Duration, signs: &[Duration]) -> Vec<(Duration, Duration)> {
        let start = Instant::now();
        let (mut looks, mut now, mut all) = (Looks::after(start), start, Vec::new());
        let mut signs = signs.iter().map(|sign| start + *sign).peekable();
        while now < start + PLAY {
            // What comes during a look is heard after it.
            if let Some(sign) = signs.next_if(|sign| now.max(*sign) < looks.next()) {
                now = now.max(sign);
                looks.hasten(now);
                continue;
            }
            let began = looks.next().max(now);
            now = began + length;
            looks.done(began, now);
            all.push((began - start, now - start));
        }
        all
    }

    proptest! {
        /// By a look that begins after it, whatever else changes; a host with a thousand containers is looked at in less time.
        #[test]
        fn whatever_is_broken_is_found_within_two_seconds(
            length in millis(0..490),
            mut signs in vec(millis(0..8_000), 0..200),
            broken in millis(0..5_000),
        ) {
            signs.sort();
            let looks = played(length, &signs);

            let (_, found) = looks.iter().find(|(began, _)| *began >= broken).expect("it goes on");
            prop_assert!(*found - broken < PROMISE, "{looks:?}");
        }

        #[test]
        fn what_is_told_is_looked_at_soon_and_requests_come_between(
            length in millis(0..490),
            mut signs in vec(millis(0..8_000), 1..200),
        ) {
            signs.sort();
            let looks = played(length, &signs);

            for ((_, ended), (began, _)) in looks.iter().zip(&looks[1..]) {
                prop_assert!(*began - *ended >= LOOK.min(length * REST), "{looks:?}");
            }
            let (began, _) = looks[0];
            prop_assert_eq!(began, LOOK.min(signs[0] + SETTLE));
        }
    }
}
