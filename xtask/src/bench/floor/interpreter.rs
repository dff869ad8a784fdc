//! Runs the programs for tests, as the kernel would: on a packet, with a stack and a table of flows.

use std::collections::BTreeMap;

use super::assembler::{Line, MAP_LOOKUP, MAP_UPDATE, assembled, sk_buff};

/// What the helpers that redirect return (`TC_ACT_REDIRECT`).
pub const REDIRECTED: i64 = 7;

/// Addresses of what a program may read: the stack ends where the context begins, and behind that is the packet.
const CONTEXT: usize = 512;
const PACKET: usize = 1024;
/// What a register has that nobody has set or that a call has used, an address of nothing.
const NOTHING: i64 = i64::MAX / 2;
/// The map's address, where there is nothing either.
const MAP: i64 = i64::MAX / 4;

/// Entries by their keys.
pub type Flows = BTreeMap<[u8; 12], [u8; 8]>;

/// What a program returns for a frame, which it may change, and which helpers it has called meanwhile.
pub fn run(program: &[Line], ethertype: i32, frame: &mut [u8], flows: &mut Flows) -> (i64, Vec<i32>) {
    let program = assembled(program).expect("its jumps lead somewhere");
    let mut memory = vec![0; PACKET];
    let end = (PACKET + frame.len()) as i32;
    for (field, number) in [(sk_buff::PROTOCOL, ethertype), (sk_buff::DATA, PACKET as i32), (sk_buff::DATA_END, end)] {
        memory[CONTEXT + field as usize..][..4].copy_from_slice(&number.to_le_bytes());
    }
    memory.extend_from_slice(frame);
    let mut registers = [NOTHING; 11];
    (registers[1], registers[10]) = (CONTEXT as i64, CONTEXT as i64);
    let mut calls = Vec::new();
    let mut at = 0;
    loop {
        let [code, both, low, high, number @ ..] = program[at].to_le_bytes();
        let (dst, src) = (usize::from(both & 0xf), usize::from(both >> 4));
        let offset = i64::from(i16::from_le_bytes([low, high]));
        let number = i64::from(i32::from_le_bytes(number));
        let size = [4, 2, 1, 8][usize::from(code >> 3 & 3)];
        let jumps = match code {
            0x15 => registers[dst] == number,
            0x55 => registers[dst] != number,
            0x2d => registers[dst] > registers[src],
            _ => false,
        };
        at += if jumps { 1 + offset as usize } else { 1 };
        match code {
            0x15 | 0x55 | 0x2d => {}
            0xb7 => registers[dst] = number,
            0xbf => registers[dst] = registers[src],
            0x07 => registers[dst] += number,
            0x57 => registers[dst] &= number,
            0x18 => {
                registers[dst] = MAP;
                at += 1;
            }
            0x61 | 0x69 | 0x71 => {
                let mut loaded = [0; 8];
                loaded[..size].copy_from_slice(&memory[(registers[src] + offset) as usize..][..size]);
                registers[dst] = i64::from_le_bytes(loaded);
            }
            0x62 | 0x7a | 0x63 | 0x6b => {
                let stored = if code & 1 == 0 { number } else { registers[src] };
                let to = (registers[dst] + offset) as usize;
                memory[to..][..size].copy_from_slice(&stored.to_le_bytes()[..size]);
            }
            0x85 => {
                let helper = number as i32;
                calls.push(helper);
                registers[0] = called(helper, &registers, &memory, flows);
                registers[1..=5].fill(NOTHING);
            }
            0x95 => break,
            _ => panic!("no program needs an instruction {code:#x}"),
        }
    }
    frame.copy_from_slice(&memory[PACKET..]);
    (registers[0], calls)
}

/// What a helper returns.
fn called(helper: i32, registers: &[i64; 11], memory: &[u8], flows: &mut Flows) -> i64 {
    fn at<const N: usize>(memory: &[u8], address: i64) -> [u8; N] {
        memory[address as usize..][..N].try_into().expect("as many")
    }
    if helper != MAP_LOOKUP && helper != MAP_UPDATE {
        return REDIRECTED;
    }
    assert_eq!(registers[1], MAP);
    let key = at(memory, registers[2]);
    if helper == MAP_LOOKUP {
        return i64::from(flows.contains_key(&key));
    }
    assert_eq!(registers[4], 0, "whatever is there already");
    flows.insert(key, at(memory, registers[3]));
    0
}
