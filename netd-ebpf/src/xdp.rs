//! A frame in the driver's buffer as a [`Frame`], and the maps that are looked up for it.

use core::hint::black_box;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use netd_common::{
    prefilter::{self, Frame},
    tables::Hook,
    verdict::Action,
};

use crate::maps;

/// Between the first byte and the one after the last.
struct Buffer {
    data: usize,
    end: usize,
}

impl Frame for Buffer {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // The very register that is checked must be the one that is used.
        let start = black_box(self.data + at);
        if start + N > self.end {
            return None;
        }
        // SAFETY: the bytes are inside the frame, and an array of bytes has no alignment.
        Some(unsafe { (start as *const [u8; N]).read() })
    }
}

/// Drops the frame, or hands it on.
#[inline(always)]
pub fn run(context: &XdpContext) -> u32 {
    let hook = Hook::UplinkXdp;
    let (Some(scratch), Some(counters)) = (maps::scratch(hook as u32), maps::counters(hook)) else { return XDP_PASS };
    let frame = Buffer { data: context.data(), end: context.data_end() };
    let verdict = prefilter::judge(&frame, &maps::Early::new(context), scratch);
    counters.count(verdict);
    if verdict.action() == Action::Drop { XDP_DROP } else { XDP_PASS }
}
