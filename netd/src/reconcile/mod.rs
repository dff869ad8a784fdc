//! Desired against observed: one type for both, the difference as ordered steps, and the seam to the kernel.
//!
//! Invariant: nothing here performs IO. First start, restart, crash, upgrade and healing are one path:
//! `diff(&plan(model, facts), &kernel.observe())`, applied step by step.

mod checkup;
mod diff;
#[cfg(test)]
pub mod fake;
mod ipsec;
mod kernel;
mod overlay;
mod probe;
mod relays;
mod repair;
mod state;

pub use checkup::{Checkup, Foreign};
pub use diff::{Step, diff};
pub use ipsec::{Association, AssociationId, Ipsec, KEYING, Keying, PolicyId, Protection};
pub use kernel::{
    Collected, Guard, HostFacts, HostPorts, Kernel, MarkRule, Process, Program, RoutingRules, Uplink, Use, Way, Ways,
};
pub use probe::{Heard, Probed, Station, Stations, TunnelProbe};
pub use relays::{HostPort, RelayTarget, Relays};
pub use repair::repair;
pub use state::{
    Bridge, DeviceRecord, EndpointRecord, Family, Interface, Join, LinkName, ResolverState, Sandbox, SegmentRecord,
    State, Tunnel, Veth,
};
