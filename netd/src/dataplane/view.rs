//! An array of the kernel's as memory: to read it takes no calls, of which there would be one for each few thousand elements and a copy
//! for each (BPF_F_MMAPABLE, since kernel 5.5).

use std::{ffi::c_void, io, num::NonZeroUsize, os::fd::AsFd, ptr::NonNull};

use aya::{
    Pod,
    maps::{Array, IterableMap, MapData},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// What the kernel rounds the size of an element up to (`array_map_alloc` in kernel/bpf/arraymap.c).
const ALIGNMENT: usize = 8;

/// An array, to be read.
pub struct View<V> {
    first: NonNull<V>,
    count: usize,
}

// SAFETY: it is read and never written through, and stays where it is until it is dropped, whichever thread that is.
unsafe impl<V: Send> Send for View<V> {}

impl<V> View<V> {
    /// From an element to the next one, in bytes.
    const STRIDE: usize = size_of::<V>().next_multiple_of(ALIGNMENT);
}

impl<V: Pod> View<V> {
    /// The kernel's elements as they are at any time; an error where the array is not one that was made for this.
    pub fn of(array: &Array<MapData, V>) -> io::Result<Self> {
        const { assert!(align_of::<V>() <= ALIGNMENT, "elements are aligned to this") };
        let (map, count) = (array.map(), array.len() as usize);
        let length = NonZeroUsize::new(count * Self::STRIDE).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: at a place of the kernel's choice, where nothing else is.
        let first = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, map.fd().as_fd(), 0)? };
        Ok(Self { first: first.cast(), count })
    }

    /// Every element. One that is written meanwhile may be told half as before and half as after.
    pub fn iter(&self) -> impl Iterator<Item = V> {
        (0..self.count).map(|number| {
            // SAFETY: `number` is less than the elements that are mapped, each as far behind the one before as the kernel has it; any
            // bytes are a value of a `Pod`, also of one that another process writes, which a volatile read allows for.
            unsafe { self.first.byte_add(number * Self::STRIDE).read_volatile() }
        })
    }
}

impl<V> Drop for View<V> {
    fn drop(&mut self) {
        // SAFETY: what was mapped by `of`, to which nothing leads any more.
        let unmapped = unsafe { munmap(self.first.cast::<c_void>(), self.count * Self::STRIDE) };
        debug_assert!(unmapped.is_ok(), "what was mapped can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_a_host_of_its_own;

    /// `BPF_F_MMAPABLE` of linux/bpf.h.
    const MMAPABLE: u32 = 1 << 10;

    #[test]
    fn what_is_written_is_seen_at_once_and_an_array_not_made_for_it_is_refused() {
        on_a_host_of_its_own(async |_| {
            // Elements of a size that the kernel rounds up.
            let mut array = Array::<MapData, [u8; 12]>::create(3_000, MMAPABLE).unwrap();
            let view = View::of(&array).unwrap();
            assert!(view.iter().eq([[0; 12]; 3_000]));

            for (number, value) in [(0, [1; 12]), (1, [2; 12]), (2_999, [3; 12])] {
                array.set(number, value, 0).unwrap();
            }

            let seen: Vec<_> = view.iter().collect();
            assert_eq!((seen[0], seen[1], seen[2], seen[2_999]), ([1; 12], [2; 12], [0; 12], [3; 12]));
            assert_eq!(seen.len(), 3_000);

            let other = Array::<MapData, [u8; 12]>::create(3_000, 0).unwrap();
            assert_eq!(View::of(&other).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        });
    }
}
