//! Bytes of a packet, loaded and stored by words. Nothing says how they are aligned, so the language would move each by itself and
//! put them together, three instructions for one; the kernel takes words of a packet at any address on the machines that do
//! (x86-64, arm64), and elsewhere starts IP headers at a word's.

use core::arch::asm;

/// `N` bytes of a packet.
///
/// # Safety
///
/// The verifier has seen that `start` and the `N` bytes there are inside the packet.
#[inline(always)]
pub unsafe fn load<const N: usize>(start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let to: *mut u8 = bytes.as_mut_ptr();
    // SAFETY: all that is read and written is within `N` bytes.
    unsafe {
        for at in (0..N / 4 * 4).step_by(4) {
            to.add(at).cast::<u32>().write_unaligned(load_word(start + at));
        }
        if N % 4 >= 2 {
            let at = N / 4 * 4;
            to.add(at).cast::<u16>().write_unaligned(load_half(start + at));
        }
        if N % 2 == 1 {
            to.add(N - 1).write(*((start + N - 1) as *const u8));
        }
    }
    bytes
}

/// Puts `N` bytes into a packet.
///
/// # Safety
///
/// As for [`load`], and the packet is writable.
#[inline(always)]
pub unsafe fn store<const N: usize>(start: usize, bytes: [u8; N]) {
    let from: *const u8 = bytes.as_ptr();
    // SAFETY: all that is read and written is within `N` bytes.
    unsafe {
        for at in (0..N / 4 * 4).step_by(4) {
            store_word(start + at, from.add(at).cast::<u32>().read_unaligned());
        }
        if N % 4 >= 2 {
            let at = N / 4 * 4;
            store_half(start + at, from.add(at).cast::<u16>().read_unaligned());
        }
        if N % 2 == 1 {
            *((start + N - 1) as *mut u8) = *from.add(N - 1);
        }
    }
}

#[inline(always)]
unsafe fn load_word(at: usize) -> u32 {
    let word: u64;
    // SAFETY: one load within the packet, which the caller has had checked.
    unsafe {
        asm!("{word} = *(u32 *)({at} + 0)", word = out(reg) word, at = in(reg) at, options(pure, readonly, nostack));
    }
    word as u32
}

#[inline(always)]
unsafe fn load_half(at: usize) -> u16 {
    let half: u64;
    // SAFETY: as for a word.
    unsafe {
        asm!("{half} = *(u16 *)({at} + 0)", half = out(reg) half, at = in(reg) at, options(pure, readonly, nostack));
    }
    half as u16
}

#[inline(always)]
unsafe fn store_word(at: usize, word: u32) {
    // SAFETY: as for a load.
    unsafe { asm!("*(u32 *)({at} + 0) = {word}", at = in(reg) at, word = in(reg) u64::from(word), options(nostack)) };
}

#[inline(always)]
unsafe fn store_half(at: usize, half: u16) {
    // SAFETY: as for a load.
    unsafe { asm!("*(u16 *)({at} + 0) = {half}", at = in(reg) at, half = in(reg) u64::from(half), options(nostack)) };
}
