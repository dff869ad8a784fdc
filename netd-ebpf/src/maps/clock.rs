//! What time it is.

use core::ptr;

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::PerCpuArray,
};
use netd_common::tables::Instant;

/// What the kernel's coarse clock said at a jiffy.
#[repr(C)]
struct Said {
    jiffy: u64,
    now: Instant,
    pad: u32,
}

// Not pinned: of no use to other programs than these.
#[map]
static CLOCK: PerCpuArray<Said> = PerCpuArray::with_max_entries(1, 0);

/// This moment. The coarse clock goes on with the kernel's jiffies, so one packet of each jiffy asks it and the others have that one's
/// answer: to read the jiffies is one load, to ask a call. What comes between the two, as they go on, has a moment that is a jiffy old.
#[inline(always)]
pub fn now() -> Instant {
    // SAFETY: takes nothing, returns a number. The verifier makes one load of it.
    let jiffy = unsafe { bpf_jiffies64() };
    let Some(said) = CLOCK.get_ptr_mut(0) else { return ask() };
    // SAFETY: this CPU's element. A call of a socket, which uses it too, may be interrupted by a packet: the jiffy is written last, so
    // none stands beside a moment that is older than it.
    unsafe {
        let (jiffy_of, now) = (&raw mut (*said).jiffy, &raw mut (*said).now);
        if ptr::read_volatile(jiffy_of) != jiffy {
            ptr::write_volatile(now, ask());
            ptr::write_volatile(jiffy_of, jiffy);
        }
        ptr::read_volatile(now)
    }
}

#[inline(always)]
fn ask() -> Instant {
    // SAFETY: takes nothing, returns a number.
    Instant::from_ns(unsafe { bpf_ktime_get_coarse_ns() })
}
