//! The instruction set of RFC 9669, as far as the two programs need it: registers, helpers by their numbers, the few instructions,
//! and jumps to places that have names. Nothing here performs IO.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

use anyhow::{Context, Result};
use aya_obj::generated::BPF_PSEUDO_MAP_FD;

pub const R0: u8 = 0;
pub const R1: u8 = 1;
pub const R2: u8 = 2;
pub const R3: u8 = 3;
pub const R4: u8 = 4;
/// The first of those that a call leaves as they are.
pub const R6: u8 = 6;
pub const R7: u8 = 7;
pub const R8: u8 = 8;
/// The end of the stack.
pub const R10: u8 = 10;

pub const MAP_LOOKUP: i32 = 1;
pub const MAP_UPDATE: i32 = 2;
pub const REDIRECT_NEIGH: i32 = 152;
pub const REDIRECT_PEER: i32 = 155;

pub const EXIT: Line = plain(0x95, 0, 0, 0, 0);

/// Offsets of fields of `struct __sk_buff`.
pub mod sk_buff {
    pub const PROTOCOL: i16 = 16;
    pub const DATA: i16 = 76;
    pub const DATA_END: i16 = 80;
}

/// Where jumps lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A packet opens a flow.
    Opens,
    /// Everything about flows is done.
    Redirects,
    /// A packet is left to the stack.
    Passes,
}

/// A line of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// An instruction, or a half of one that takes two.
    Plain(u64),
    /// A jump, its offset left out, and where it leads.
    Jump(u64, Place),
    /// What follows is this place. It is no instruction.
    Here(Place),
}

/// The instructions of these lines. A jump counts from the instruction behind it.
pub fn assembled(lines: &[Line]) -> Result<Vec<u64>> {
    let mut places = Vec::new();
    let mut instructions = Vec::new();
    for line in lines {
        match *line {
            Line::Plain(instruction) => instructions.push((instruction, None)),
            Line::Jump(instruction, place) => instructions.push((instruction, Some(place))),
            Line::Here(place) => places.push((place, instructions.len())),
        }
    }
    let whole = |(at, (instruction, leads)): (usize, (u64, Option<Place>))| {
        let Some(place) = leads else { return Ok(instruction) };
        let (_, to) =
            places.iter().find(|(named, _)| *named == place).with_context(|| format!("{place:?} is nowhere"))?;
        let skipped = to.checked_sub(at + 1).with_context(|| format!("{place:?} is not ahead"))?;
        Ok(instruction | u64::from(i16::try_from(skipped)?.cast_unsigned()) << 16)
    };
    instructions.into_iter().enumerate().map(whole).collect()
}

const fn instruction(code: u8, dst: u8, src: u8, offset: i16, number: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = number.to_le_bytes();
    u64::from_le_bytes([code, dst | src << 4, low, high, a, b, c, d])
}

const fn plain(code: u8, dst: u8, src: u8, offset: i16, number: i32) -> Line {
    Line::Plain(instruction(code, dst, src, offset, number))
}

pub const fn set(dst: u8, number: i32) -> Line {
    plain(0xb7, dst, 0, 0, number)
}

/// A map by its descriptor, which the kernel makes its address.
pub fn set_map(dst: u8, map: BorrowedFd<'_>) -> [Line; 2] {
    [plain(0x18, dst, BPF_PSEUDO_MAP_FD as u8, 0, map.as_raw_fd()), plain(0, 0, 0, 0, 0)]
}

pub const fn copy(dst: u8, src: u8) -> Line {
    plain(0xbf, dst, src, 0, 0)
}

/// A pointer to what is so far from the end of the stack.
pub const fn set_on_stack(dst: u8, offset: i16) -> [Line; 2] {
    [copy(dst, R10), add(dst, offset as i32)]
}

pub const fn add(dst: u8, number: i32) -> Line {
    plain(0x07, dst, 0, 0, number)
}

pub const fn and(dst: u8, number: i32) -> Line {
    plain(0x57, dst, 0, 0, number)
}

pub const fn load_word(dst: u8, from: u8, offset: i16) -> Line {
    plain(0x61, dst, from, offset, 0)
}

pub const fn load_half(dst: u8, from: u8, offset: i16) -> Line {
    plain(0x69, dst, from, offset, 0)
}

pub const fn load_byte(dst: u8, from: u8, offset: i16) -> Line {
    plain(0x71, dst, from, offset, 0)
}

pub const fn store_word(to: u8, offset: i16, number: i32) -> Line {
    plain(0x62, to, 0, offset, number)
}

/// Eight bytes, as which the number is.
pub const fn store_double(to: u8, offset: i16, number: i32) -> Line {
    plain(0x7a, to, 0, offset, number)
}

pub const fn store_word_of(to: u8, offset: i16, src: u8) -> Line {
    plain(0x63, to, src, offset, 0)
}

pub const fn store_half_of(to: u8, offset: i16, src: u8) -> Line {
    plain(0x6b, to, src, offset, 0)
}

pub const fn if_equal(dst: u8, number: i32, place: Place) -> Line {
    Line::Jump(instruction(0x15, dst, 0, 0, number), place)
}

pub const fn unless_equal(dst: u8, number: i32, place: Place) -> Line {
    Line::Jump(instruction(0x55, dst, 0, 0, number), place)
}

pub const fn if_greater(one: u8, other: u8, place: Place) -> Line {
    Line::Jump(instruction(0x2d, one, other, 0, 0), place)
}

pub const fn call(helper: i32) -> Line {
    plain(0x85, 0, 0, 0, helper)
}

/// An address as a word that lies in memory as it does in packets.
pub const fn word_of(address: Ipv4Addr) -> i32 {
    i32::from_ne_bytes(address.octets())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    fn bytes(line: Line) -> [u8; 8] {
        let (Line::Plain(instruction) | Line::Jump(instruction, _)) = line else { panic!("it is no instruction") };
        instruction.to_le_bytes()
    }

    #[test]
    fn instructions_are_laid_out_as_the_instruction_set_says() {
        assert_eq!(bytes(set(R0, -1)), [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(bytes(store_word(R10, -24, 2)), [0x62, 0x0a, 0xe8, 0xff, 2, 0, 0, 0]);
        assert_eq!(bytes(load_word(R2, R1, sk_buff::PROTOCOL)), [0x61, 0x12, 16, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(load_half(R3, R2, 34)), [0x69, 0x23, 34, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(load_byte(R7, R2, 23)), [0x71, 0x27, 23, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(store_word_of(R10, -12, R3)), [0x63, 0x3a, 0xf4, 0xff, 0, 0, 0, 0]);
        assert_eq!(bytes(store_half_of(R10, -4, R3)), [0x6b, 0x3a, 0xfc, 0xff, 0, 0, 0, 0]);
        assert_eq!(bytes(store_double(R10, -32, 0)), [0x7a, 0x0a, 0xe0, 0xff, 0, 0, 0, 0]);
        assert_eq!(bytes(and(R8, 0x12)), [0x57, 8, 0, 0, 0x12, 0, 0, 0]);
        assert_eq!(bytes(if_equal(R0, 0, Place::Opens)), [0x15, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_map_is_set_by_its_descriptor_in_two_instructions() {
        let file = File::open("/dev/null").expect("it is there");

        let [first, second] = set_map(R1, file.as_fd()).map(bytes);

        let [a, b, c, d] = file.as_raw_fd().to_le_bytes();
        assert_eq!((first, second), ([0x18, 0x11, 0, 0, a, b, c, d], [0; 8]));
    }

    #[test]
    fn a_jump_skips_the_instructions_between_it_and_its_place() {
        let lines = [
            unless_equal(R2, 8, Place::Passes),
            if_equal(R0, 0, Place::Opens),
            set(R0, 1),
            Line::Here(Place::Opens),
            set(R0, 2),
            Line::Here(Place::Passes),
            EXIT,
        ];

        let skipped = assembled(&lines).expect("it can be").into_iter().map(|instruction| instruction >> 16 & 0xffff);

        assert_eq!(skipped.collect::<Vec<_>>(), [3, 1, 0, 0, 0]);
    }

    #[test]
    fn a_jump_to_nowhere_or_back_is_refused() {
        let refused = |lines: &[Line]| assembled(lines).map_err(|error| error.to_string());
        let jump = if_equal(R0, 0, Place::Opens);

        assert_eq!(refused(&[jump, EXIT]), Err("Opens is nowhere".into()));
        assert_eq!(refused(&[Line::Here(Place::Opens), jump, EXIT]), Err("Opens is not ahead".into()));
    }
}
