//! Moments and lengths of time, in ticks.

use bytemuck::{Pod, Zeroable};

/// A moment, in ticks of 2³⁰ ns (1.07 s) since the machine started: a shift, where seconds would cost a division a packet.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct Instant(u32);

impl Instant {
    /// Nanoseconds in a tick.
    pub const TICK_NS: u64 = 1 << 30;

    /// The tick that `ns` nanoseconds of the monotonic clock fall into.
    #[inline(always)]
    pub const fn from_ns(ns: u64) -> Self {
        Self((ns >> 30) as u32)
    }

    /// The moment `span` later.
    #[inline(always)]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The moment `span` earlier, or the start of the machine.
    #[inline(always)]
    pub const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// Ticks modulo 2⁸, where a byte is all there is room for.
    #[inline(always)]
    pub const fn low_byte(self) -> u8 {
        self.0 as u8
    }

    /// Ticks in an epoch (4.3 s): a power of two, so that the low byte of a moment tells where it is in one.
    pub const EPOCH: u8 = 4;

    /// Whether both moments are of one epoch.
    #[inline(always)]
    pub const fn is_in_epoch_of(self, other: Self) -> bool {
        self.0 / Self::EPOCH as u32 == other.0 / Self::EPOCH as u32
    }

    /// Whole seconds from `earlier` to this moment, 0 if it is not earlier.
    #[inline(always)]
    pub const fn seconds_since(self, earlier: Self) -> u64 {
        (self.0.saturating_sub(earlier.0) as u64 * Self::TICK_NS) / 1_000_000_000
    }
}

/// A length of time in ticks of [`Instant::TICK_NS`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct Span(u32);

impl Span {
    /// Longer than an epoch by so much that what is put off for one is in time.
    pub const LONG: Self = Self(2 * Instant::EPOCH as u32);

    /// This many ticks.
    pub const fn ticks(ticks: u32) -> Self {
        Self(ticks)
    }

    /// At least `seconds`, in whole ticks; one more than it takes, since a moment is known to a tick only.
    #[inline(always)]
    pub const fn at_least_seconds(seconds: u32) -> Self {
        Self((seconds as u64 * 1_000_000_000 / Instant::TICK_NS + 1) as u32)
    }
}
