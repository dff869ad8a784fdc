//! A frame in the driver's buffer as a [`Frame`], and what the driver is told of it.

use core::hint::black_box;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use netd_common::{
    frame::{self, Frame},
    tables::Hook,
    verdict::Action,
};

use crate::{
    bytes::{load, store},
    maps,
};

/// Between the first byte and the one after the last.
struct Buffer<'a> {
    context: &'a XdpContext,
    data: usize,
    end: usize,
}

impl<'a> Buffer<'a> {
    #[inline(always)]
    fn of(context: &'a XdpContext) -> Self {
        Self { context, data: context.data(), end: context.data_end() }
    }

    /// Where the `length` bytes at `at` begin, if they are inside the frame.
    #[inline(always)]
    fn within(&self, at: usize, length: usize) -> Option<usize> {
        // The very register that is checked must be the one that is used.
        let start = black_box(self.data + at);
        if start + length > self.end { None } else { Some(start) }
    }
}

impl Frame for Buffer<'_> {
    #[inline(always)]
    fn device(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.end - self.data
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let start = self.within(at, N)?;
        // SAFETY: the bytes are inside the frame.
        Some(unsafe { load(start) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        let start = self.within(at, N)?;
        // SAFETY: the bytes are inside the frame, which XDP may write.
        unsafe { store(start, bytes) };
        Some(())
    }

    #[inline(always)]
    fn prepend(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: the context in hand. A refusal (no room, a driver without room) changes nothing.
        let result = unsafe { bpf_xdp_adjust_head(self.context.ctx, -(bytes as i32)) };
        *self = Self::of(self.context);
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn cut(&mut self, length: usize) -> Option<()> {
        let fewer = self.length().checked_sub(length)?;
        // SAFETY: as above.
        let result = unsafe { bpf_xdp_adjust_tail(self.context.ctx, -(fewer as i32)) };
        *self = Self::of(self.context);
        (result == 0).then_some(())
    }
}

/// Drops the frame, sends it back by its device, or hands it on.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let hook = Hook::UplinkXdp;
    let (Some(scratch), Some(counters)) = (maps::scratch(hook as u32), maps::counters(hook)) else { return XDP_PASS };
    let verdict = frame::meet(&mut Buffer::of(context), &maps::Early::new(context), scratch);
    counters.count(verdict);
    match verdict.action() {
        Action::Drop => XDP_DROP,
        Action::Tunnel(_) => XDP_TX,
        _ => XDP_PASS,
    }
}
