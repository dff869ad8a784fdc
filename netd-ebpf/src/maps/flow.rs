//! An element of the flow table, which other CPUs read and write at the same time.

use core::{arch::asm, mem::offset_of};

use netd_common::tables::Flow;

/// Sets the deadline of a stored flow to the beginning of time, if both its times are what was seen: of two CPUs that end a
/// flow one does.
///
/// # Safety
///
/// `stored` points to a flow that stays mapped.
#[inline(always)]
pub unsafe fn end(stored: *mut Flow, seen: &Flow) -> bool {
    const { assert!(offset_of!(Flow, deadline) == offset_of!(Flow, last_seen) + 4 && offset_of!(Flow, last_seen) % 8 == 0) };
    let seen: *const u64 = (&raw const seen.last_seen).cast();
    // SAFETY: two words beside each other, aligned as one, of a flow of ours.
    let seen = unsafe { seen.read() };
    let mut found = seen;
    // SAFETY: a compare and exchange of the two words of the caller's flow. The language has none for this target.
    unsafe {
        let times = &raw mut (*stored).last_seen;
        asm!("r0 = cmpxchg_64({times} + 0, r0, {none})", times = in(reg) times, none = in(reg) 0u64,
            inout("r0") found, options(nostack));
    }
    found == seen
}

/// Words of a flow.
const FLOW_WORDS: usize = size_of::<Flow>() / size_of::<u64>();

/// Copies a flow word by word. Volatile, since another CPU may be writing it, and since LLVM would make a call of it to a
/// `memcpy` that counts bytes.
///
/// # Safety
///
/// Both point to a flow, at a word.
#[inline(always)]
pub unsafe fn copy(from: *const u64, to: *mut u64) {
    for i in 0..FLOW_WORDS {
        // SAFETY: the caller's two flows are this long and aligned to words.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}
