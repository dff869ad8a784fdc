//! What is pinned in a bpffs, broken as somebody with the right to could; and what else bpf(2) makes.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::maps::MapInfo;
use nix::libc;

/// Commands of bpf(2), by their numbers in `linux/bpf.h`.
pub mod command {
    pub const MAP_UPDATE_ELEM: u32 = 2;
    pub const MAP_DELETE_ELEM: u32 = 3;
    pub const MAP_GET_NEXT_KEY: u32 = 4;
    pub const PROG_LOAD: u32 = 5;
    pub const OBJ_GET: u32 = 7;
    pub const LINK_CREATE: u32 = 28;
    pub const LINK_DETACH: u32 = 34;
}

/// Detaches a link, whose pin stays.
#[track_caller]
pub fn detach(pin: &Path) {
    let link = opened(pin);
    bpf(command::LINK_DETACH, [link.as_raw_fd() as u64, 0, 0, 0]).expect("a link can be detached");
}

/// Takes every entry out of a map, or zeroes those of an array.
#[track_caller]
pub fn empty(pin: &Path) {
    let map = opened(pin);
    let info = MapInfo::from_pin(pin).expect("a map tells its sizes");
    let mut key = vec![0_u8; info.key_size() as usize];
    let zeros = vec![0_u8; info.value_size() as usize];
    let words = |key: &[u8], value: u64| [map.as_raw_fd() as u64, key.as_ptr() as u64, value, 0];
    // A null key asks for the first.
    let mut last = 0;
    while bpf(command::MAP_GET_NEXT_KEY, [map.as_raw_fd() as u64, last, key.as_mut_ptr() as u64, 0]).is_ok() {
        if bpf(command::MAP_DELETE_ELEM, words(&key, 0)).is_err() {
            bpf(command::MAP_UPDATE_ELEM, words(&key, zeros.as_ptr() as u64)).expect("an array's entry can be written");
            last = key.as_ptr() as u64;
        }
    }
}

#[track_caller]
fn opened(pin: &Path) -> OwnedFd {
    let path = CString::new(pin.as_os_str().as_bytes()).expect("a path without NUL");
    let opened = made(command::OBJ_GET, [path.as_ptr() as u64, 0, 0, 0]);
    opened.unwrap_or_else(|error| panic!("cannot open {}: {error}", pin.display()))
}

/// What a command makes that answers with a descriptor; `words` as for [`bpf`].
pub fn made<const N: usize>(command: u32, words: [u64; N]) -> io::Result<OwnedFd> {
    let fd = bpf(command, words)?;
    // SAFETY: a descriptor that the kernel has just made, and that nothing else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `words` are the start of `union bpf_attr`; what they point to outlives the call.
fn bpf<const N: usize>(command: u32, words: [u64; N]) -> io::Result<i32> {
    // SAFETY: `words` lives through the call and is as long as is said; the callers vouch for what it points to.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const words, size_of_val(&words)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}
