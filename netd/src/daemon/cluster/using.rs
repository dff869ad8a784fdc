//! Which ranges this host tells the others that it uses. They are gathered anew where something of them has changed, and changes of
//! the host's, of which a routing protocol makes many, at most every ten seconds: each is a write that every node hears of.
//!
//! Invariant: time is an argument.

use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::{
    cluster::{Uses, own_subnets, uses},
    model::{Model, Name},
    reconcile::HostFacts,
};

/// How long after the last change of the host's that was told the next one is.
pub const PAUSE: Duration = Duration::from_secs(10);

/// What is told, and by what it was gathered.
#[derive(Clone, Debug, Default)]
pub struct Using {
    told: Uses,
    /// Of its own networks.
    subnets: Vec<(Name, IpNet)>,
    /// When the host was last asked for it; `None` before it has been looked at.
    asked: Option<Instant>,
    /// The host's uses have changed since.
    is_stale: bool,
}

impl Using {
    /// The host has been looked at, and its uses have changed or not. Whether there may be something to tell.
    pub fn follow(&mut self, model: &Model, facts: &HostFacts, has_changed: bool, now: Instant) -> bool {
        self.is_stale |= has_changed;
        let is_due = self.asked.is_none_or(|asked| self.is_stale && now >= asked + PAUSE);
        if is_due {
            (self.asked, self.is_stale) = (Some(now), false);
            self.gather(model, facts);
        }
        is_due
    }

    /// What is told: of the own networks as they are. `None` before the host has been looked at.
    pub fn said(&mut self, model: &Model, facts: &HostFacts) -> Option<Uses> {
        self.asked?;
        if !own_subnets(model).eq(self.subnets.iter().map(|(name, subnet)| (name, *subnet))) {
            self.gather(model, facts);
        }
        Some(self.told.clone())
    }

    fn gather(&mut self, model: &Model, facts: &HostFacts) {
        self.told = uses(model, facts);
        self.subnets = own_subnets(model).map(|(name, subnet)| (name.clone(), subnet)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Use;

    fn routing(nets: &[&str]) -> HostFacts {
        let route = Use::Route { device: "tun0".to_owned() };
        HostFacts {
            uses: nets.iter().map(|net| (net.parse().unwrap(), route.clone())).collect(),
            ..HostFacts::default()
        }
    }

    fn ranges(using: &mut Using, facts: &HostFacts) -> Option<Vec<String>> {
        let said = using.said(&Model::default(), facts)?;
        Some(said.ranges.keys().map(ToString::to_string).collect())
    }

    #[test]
    fn what_the_host_changes_is_told_at_once_after_a_pause_and_else_when_it_is_over() {
        let (mut using, model, start) = (Using::default(), Model::default(), Instant::now());
        let [first, second, third] = [&["10.1.0.0/16"][..], &["10.2.0.0/16"], &["10.3.0.0/16"]].map(routing);
        assert_eq!(ranges(&mut using, &first), None, "nobody has looked at the host");

        assert!(using.follow(&model, &first, false, start), "the first look");
        assert_eq!(ranges(&mut using, &first).unwrap(), ["10.1.0.0/16"]);
        assert!(!using.follow(&model, &first, false, start + PAUSE * 3), "nothing has changed");
        assert!(using.follow(&model, &second, true, start + PAUSE * 3), "nothing was told for long");
        assert_eq!(ranges(&mut using, &second).unwrap(), ["10.2.0.0/16"]);

        let almost = start + PAUSE * 4 - Duration::from_millis(1);
        for facts in [&third, &second, &third] {
            assert!(!using.follow(&model, facts, true, almost));
            assert_eq!(ranges(&mut using, facts).unwrap(), ["10.2.0.0/16"], "it was told of just before");
        }
        assert!(using.follow(&model, &third, false, start + PAUSE * 4), "and is not forgotten");
        assert_eq!(ranges(&mut using, &third).unwrap(), ["10.3.0.0/16"]);
        assert!(!using.follow(&model, &third, false, start + PAUSE * 9), "once");
    }
}
