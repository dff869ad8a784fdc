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
    ns: u64,
}

// Not pinned: of no use to other programs than these.
#[map]
static CLOCK: PerCpuArray<Said> = PerCpuArray::with_max_entries(1, 0);

/// This moment. The coarse clock goes on with the kernel's jiffies, so one packet of each jiffy asks it and the others have that one's
/// answer: to read the jiffies is one load, to ask a call.
///
/// The kernel counts the jiffy before it sets the clock. Who comes between the two is told what was told before, and leaves the question
/// to the next.
#[inline(always)]
pub fn now() -> Instant {
    // SAFETY: takes nothing, returns a number. The verifier makes one load of it.
    let jiffy = unsafe { bpf_jiffies64() };
    let Some(said) = CLOCK.get_ptr_mut(0) else { return Instant::from_ns(ask()) };
    // SAFETY: this CPU's element. Orders of the daemon's, which ask too, are interrupted by packets: then the moment beside a jiffy may
    // be older than it, by the length of the interruption, for as long as the jiffy is. A tick is longer than both.
    unsafe {
        let (jiffy_of, ns_of) = (&raw mut (*said).jiffy, &raw mut (*said).ns);
        let ns = ptr::read_volatile(ns_of);
        if ptr::read_volatile(jiffy_of) == jiffy {
            return Instant::from_ns(ns);
        }
        let now = ask();
        if now != ns {
            ptr::write_volatile(ns_of, now);
            ptr::write_volatile(jiffy_of, jiffy);
        }
        Instant::from_ns(now)
    }
}

#[inline(always)]
fn ask() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}
