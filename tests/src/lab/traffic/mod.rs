//! Servers and clients whose two ends both know what should have arrived. All of them end by themselves.

mod bulk;
mod http;
mod icmp;
mod server;
mod trace;
mod udp;

use std::time::Duration;

pub use bulk::{Download, Received, Transfer};
pub use server::Server;
pub use udp::{UdpPinging, UdpPings};

/// How long a client waits for what should come. Emulated machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client waits for what should not come.
pub const IMPATIENCE: Duration = Duration::from_secs(1);

/// How often servers look whether they are to stop.
const TICK: Duration = Duration::from_millis(5);
