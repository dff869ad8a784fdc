//! An element of the flow table, which other CPUs read and write at the same time.

use core::{arch::asm, mem::offset_of};

use netd_common::tables::Flow;

/// Both times of a flow that is ending.
const NONE: u64 = 0;

/// Sets the times of a stored flow to the beginning of time, if both are what was seen: of two CPUs that end a flow one does.
///
/// # Safety
///
/// `stored` points to a flow that stays mapped.
#[inline(always)]
pub unsafe fn end(stored: *mut Flow, seen: &Flow) -> bool {
    // SAFETY: the caller's.
    unsafe { exchange(stored, times(seen), NONE) }
}

/// Gives a stored flow that was ended and could not be taken out the times that were seen, if nobody has noted others meanwhile.
///
/// # Safety
///
/// `stored` points to a flow that stays mapped.
#[inline(always)]
pub unsafe fn revive(stored: *mut Flow, seen: &Flow) {
    // SAFETY: the caller's.
    unsafe { exchange(stored, NONE, times(seen)) };
}

/// Both times of a flow as one word.
#[inline(always)]
fn times(flow: &Flow) -> u64 {
    const { assert!(offset_of!(Flow, deadline) == offset_of!(Flow, last_seen) + 4 && offset_of!(Flow, last_seen) % 8 == 0) };
    let times: *const u64 = (&raw const flow.last_seen).cast();
    // SAFETY: two words beside each other, aligned as one, of a flow of ours.
    unsafe { times.read() }
}

/// Sets both times of a stored flow to `new` if they are `old`, and true then.
///
/// # Safety
///
/// `stored` points to a flow that stays mapped.
#[inline(always)]
unsafe fn exchange(stored: *mut Flow, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: a compare and exchange of the two words of the caller's flow. The language has none for this target.
    unsafe {
        let times = &raw mut (*stored).last_seen;
        asm!("r0 = cmpxchg_64({times} + 0, r0, {new})", times = in(reg) times, new = in(reg) new,
            inout("r0") found, options(nostack));
    }
    found == old
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
