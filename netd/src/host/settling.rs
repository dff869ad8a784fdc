//! What is better done and can wait: a bridge has its program by a clsact filter at once, and later by TCX, which takes less of each
//! packet. To attach by TCX has every other change of links on the machine wait for a grace period of RCU, so it is done for what has
//! been there for a while, one at a time, and when nothing else is done.

use std::{
    collections::BTreeMap,
    mem,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use netd_common::tables::Hook;
use nix::net::if_::if_indextoname;

use super::Host;
use crate::reconcile::LinkName;

/// How long a device has its program by a filter: a network that goes again soon pays for no TCX.
const AGE: Duration = Duration::from_secs(30);
/// For how long no step was taken.
const QUIET: Duration = Duration::from_secs(2);
/// For how long all wait after one that failed, whose filter does its work as before.
const AFTER_A_FAILURE: Duration = Duration::from_hours(1);

/// What waits, and since when.
#[derive(Debug)]
pub struct Settling {
    waiting: BTreeMap<(u32, Hook), Instant>,
    /// Before this none is due.
    not_before: Instant,
}

impl Settling {
    /// Nothing waits.
    pub fn new(now: Instant) -> Self {
        Self { waiting: BTreeMap::new(), not_before: now + QUIET }
    }

    /// A step is taken.
    pub fn stepped(&mut self, now: Instant) {
        self.not_before = self.not_before.max(now + QUIET);
    }

    fn failed(&mut self, now: Instant) {
        self.not_before = now + AFTER_A_FAILURE;
    }

    /// One of these, which are all that wait, if it is time.
    fn due(&mut self, waiting: impl Iterator<Item = (u32, Hook)>, now: Instant) -> Option<(u32, Hook)> {
        let before = mem::take(&mut self.waiting);
        self.waiting = waiting.map(|at| (at, before.get(&at).copied().unwrap_or(now))).collect();
        if now < self.not_before {
            return None;
        }
        self.waiting.iter().find(|(_, since)| now - **since >= AGE).map(|(at, _)| *at)
    }
}

impl Host {
    /// Does one thing that has waited, if it is time.
    pub(super) async fn settle_one(&mut self) -> Result<()> {
        let Some((index, hook)) = self.settling.due(self.dataplane.unsettled(), Instant::now()) else { return Ok(()) };
        // What was on a device that is gone by now is forgotten with the next look.
        let Some(link) = if_indextoname(index).ok().and_then(|name| LinkName::new(name.into_string().ok()?)) else {
            return Ok(());
        };
        let settled = self.settle_at(&link, index, hook).await;
        if settled.is_err() {
            self.settling.failed(Instant::now());
        }
        settled.with_context(|| format!("{link} keeps its program {} by a filter", hook.name()))
    }

    async fn settle_at(&mut self, link: &LinkName, index: u32, hook: Hook) -> Result<()> {
        if self.dataplane.settle(link, index, hook)? {
            self.remove_qdisc(index).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: (u32, Hook) = (7, Hook::FromHost);
    const OTHER: (u32, Hook) = (9, Hook::FromHost);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_has_waited_long_enough_is_due_one_after_the_other() {
        let start = Instant::now();
        let mut settling = Settling::new(start);

        assert_eq!(settling.due([ONE].into_iter(), start), None);
        assert_eq!(settling.due([ONE, OTHER].into_iter(), start + AGE - SECOND), None);
        assert_eq!(settling.due([ONE, OTHER].into_iter(), start + AGE), Some(ONE));
        assert_eq!(settling.due([OTHER].into_iter(), start + AGE + SECOND), None);
        assert_eq!(settling.due([OTHER].into_iter(), start + AGE * 2), Some(OTHER));
    }

    #[test]
    fn what_goes_and_comes_again_waits_anew() {
        let start = Instant::now();
        let mut settling = Settling::new(start);

        settling.due([ONE].into_iter(), start);
        settling.due([].into_iter(), start + SECOND);
        settling.due([ONE].into_iter(), start + SECOND * 2);

        assert_eq!(settling.due([ONE].into_iter(), start + AGE), None);
        assert_eq!(settling.due([ONE].into_iter(), start + AGE + SECOND * 2), Some(ONE));
    }

    #[test]
    fn nothing_is_due_right_after_a_step_nor_within_an_hour_of_a_failure() {
        let start = Instant::now();
        let mut settling = Settling::new(start);
        settling.due([ONE].into_iter(), start);

        settling.stepped(start + AGE);
        assert_eq!(settling.due([ONE].into_iter(), start + AGE + SECOND), None);
        assert_eq!(settling.due([ONE].into_iter(), start + AGE + QUIET), Some(ONE));

        settling.failed(start + AGE * 2);
        settling.stepped(start + AGE * 3);
        assert_eq!(settling.due([ONE].into_iter(), start + AGE * 2 + AFTER_A_FAILURE - SECOND), None);
        assert_eq!(settling.due([ONE].into_iter(), start + AGE * 2 + AFTER_A_FAILURE), Some(ONE));
    }
}
