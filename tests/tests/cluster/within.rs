//! What is to take seconds, or as long as a lease lives.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;

/// What netd takes seconds for takes no more, beside what it and etcd wait for a processor that others of the machine have: on one that
/// does nothing else, one to five were measured.
pub const SECONDS: Duration = Duration::from_secs(20);

/// A moment, and how long daemons and members had waited by then.
pub struct Since {
    moment: Instant,
    waited: Duration,
}

impl Cluster {
    /// From here on.
    pub fn since_now(&self) -> Since {
        Since { moment: Instant::now(), waited: self.waited() }
    }

    fn waited(&self) -> Duration {
        let daemons = self.nodes.iter().map(|node| node.netd.waited());
        daemons.chain(self.etcd.iter().map(|member| member.waited())).sum()
    }
}

impl Since {
    /// That what has come about has taken no longer than this.
    #[track_caller]
    pub fn assert_within(&self, bound: Duration, what: &str, cluster: &Cluster) {
        let (took, waited) = (self.moment.elapsed(), cluster.waited().saturating_sub(self.waited));
        let told = format!("{what} after {took:.1?}, in which netd and etcd waited {waited:.1?} for a processor");
        println!("{told}");
        assert!(took <= bound + waited, "{told}: {bound:?} is the bound");
    }
}
