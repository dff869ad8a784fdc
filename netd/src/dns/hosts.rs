//! `hosts` (hosts(5)): what a container's says.

use std::{fmt::Write, net::IpAddr};

/// The loopback addresses, and a container's own by its name.
pub fn hosts(name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for address in addresses {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}
