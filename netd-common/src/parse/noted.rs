//! The headers of the packet in hand, as the scratch keeps them.

use bytemuck::{Pod, Zeroable, checked};

use super::{Headers, Part, Transport};
use crate::tuple::SCTP;

/// [`Headers`] in memory that the kernel's verifier knows nothing of: what it knew of them would tell each kind of packet from
/// every other in all that comes after.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Noted {
    /// As in [`Headers`].
    pub identification: u32,
    /// Offset of the transport header.
    pub l4: u16,
    /// A [`Transport`].
    pub transport: u8,
    /// A [`Part`].
    pub part: u8,
    /// Whether it is IPv4.
    pub v4: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// As in [`Headers`].
    pub tcp_flags: u8,
    /// Zero.
    pub pad: u8,
}

impl Noted {
    /// These headers.
    #[inline(always)]
    pub const fn of(h: Headers) -> Self {
        Self {
            l4: h.l4 as u16,
            identification: h.identification,
            transport: h.transport as u8,
            part: h.part as u8,
            v4: h.v4 as u8,
            ttl: h.ttl,
            tcp_flags: h.tcp_flags,
            pad: 0,
        }
    }

    /// The headers that were noted.
    #[inline(always)]
    pub fn headers(&self) -> Headers {
        Headers {
            l4: self.l4 as usize,
            transport: self.transport(),
            v4: self.v4 != 0,
            ttl: self.ttl,
            tcp_flags: self.tcp_flags,
            part: checked::try_cast(self.part).unwrap_or(Part::Whole),
            identification: self.identification,
        }
    }

    /// Of these the transport.
    #[inline(always)]
    pub fn transport(&self) -> Transport {
        checked::try_cast(self.transport).unwrap_or(Transport::Opaque)
    }

    /// Whether it is a later fragment.
    #[inline(always)]
    pub const fn is_later(&self) -> bool {
        self.part == Part::Later as u8
    }

    /// Whether an error may be sent about it (RFC 1122 section 3.2.2): it has a header of a known transport, and is none itself.
    #[inline(always)]
    pub fn is_answerable(&self, protocol: u8) -> bool {
        self.transport().has_flow() && !self.is_later() && protocol != SCTP
    }
}
