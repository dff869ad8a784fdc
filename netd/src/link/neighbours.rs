//! Whom a container has spoken with of late, as its own kernel remembers.

use std::{fs, io};

use netd_common::tuple::Mac;

use crate::{
    netns::Namespace,
    reconcile::{LinkName, Sandbox, Station},
};

/// By this thread's namespace.
const TABLE: &str = "/proc/thread-self/net/arp";

/// `ATF_COM` of `linux/if_arp.h`: the link-layer address is known.
const COMPLETE: u32 = 2;

/// Its neighbours of IPv4, and by which of its interfaces.
pub fn of(sandbox: &Sandbox) -> io::Result<Vec<(LinkName, Station)>> {
    let namespace = Namespace::of(sandbox).map_err(|unfit| io::Error::other(unfit.to_string()))?;
    let table = namespace.inside(|| fs::read_to_string(TABLE)).and_then(|table| table)?;
    Ok(table.lines().skip(1).filter_map(neighbour).collect())
}

/// A line: address, type of device, flags, link-layer address, mask, device.
fn neighbour(line: &str) -> Option<(LinkName, Station)> {
    let mut words = line.split_whitespace();
    let address = words.next()?.parse().ok()?;
    let flags = u32::from_str_radix(words.nth(1)?.trim_start_matches("0x"), 16).ok()?;
    let mac: Vec<u8> = words.next()?.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let device = LinkName::new(words.nth(1)?)?;
    let mac = Mac(mac.try_into().ok()?);
    (flags & COMPLETE != 0).then_some((device, Station { address, mac }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_whose_link_layer_address_is_known_is_one_and_no_other() {
        let known = "10.9.0.100       0x1         0x2         5e:0c:00:00:00:07     *        eth0";
        let station = Station { address: [10, 9, 0, 100].into(), mac: Mac([0x5e, 0x0c, 0, 0, 0, 7]) };
        assert_eq!(neighbour(known), Some((LinkName::new("eth0").unwrap(), station)));
        for line in ["", "IP address", &known.replace("0x2", "0x0"), &known.replace("5e:0c:", "*:")] {
            assert_eq!(neighbour(line), None, "{line}");
        }
    }
}
