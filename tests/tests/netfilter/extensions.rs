//! Extension headers that a socket puts on everything it sends (RFC 3542 section 6).

use std::os::fd::AsRawFd;

use netd_tests::packets::padding;
use nix::libc;
use rand::{Rng, rngs::StdRng};

/// How long each is, in units of eight bytes; 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// Of the options for every hop, which each fragment of a packet has.
    hops: usize,
    /// Of the options for the destination, which stand behind the fragment header.
    destination: usize,
}

impl Extensions {
    /// None most of the time.
    pub fn arbitrary(random: &mut StdRng) -> Self {
        if random.random_ratio(1, 2) {
            return Self::default();
        }
        Self { hops: random.random_range(0..4), destination: random.random_range(0..9) }
    }

    /// Bytes that they take of a packet.
    pub const fn length(self) -> usize {
        (self.hops + self.destination) * 8
    }

    /// Has a socket of IPv6 send them.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn put_on(self, socket: &impl AsRawFd) {
        for (option, units) in [(libc::IPV6_HOPOPTS, self.hops), (libc::IPV6_DSTOPTS, self.destination)] {
            if units == 0 {
                continue;
            }
            let header = padding(units * 8);
            let (bytes, length) = (header.as_ptr().cast(), header.len() as u32);
            // SAFETY: bytes of the length told, which outlive the call.
            let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, option, bytes, length) };
            assert_eq!(result, 0, "a socket takes {option}: {}", std::io::Error::last_os_error());
        }
    }
}
