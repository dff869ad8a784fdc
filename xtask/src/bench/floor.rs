//! What no program of netd's could be faster than: two programs that redirect and nothing else, by the helpers that netd uses.
//! They translate nothing and look nothing up, so client and server know each other's addresses; what is between this and the
//! limit is the second veth pair, the kernel's redirect and its neighbour's output, and what is between this and netd is netd.

use std::{
    ffi::CStr,
    io, mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};
use netd_tests::lab::{Host, Node};
use nix::libc;
use serde_json::Value;

use super::site::{Furnished, GATEWAY, OUTSIDE, SUBNET, WEB};

/// Host side of the container's veth pair.
const VETH: &str = "veth-web";
const LICENSE: &CStr = c"GPL";

/// One container behind the two programs, which serves and asks. The links end what they hold when they are dropped.
pub fn furnish(host: &Host, outside: &Host) -> Result<(Furnished, Vec<OwnedFd>)> {
    let web = host.container("web");
    host.ip(&format!("link add {VETH} type veth peer name eth0 netns web"));
    host.ip(&format!("address add {GATEWAY}/24 dev {VETH}"));
    host.ip(&format!("link set {VETH} up"));
    web.ip(&format!("address add {WEB}/24 dev eth0"));
    web.ip("link set eth0 up");
    web.default_route(&GATEWAY.to_string());
    outside.ip(&format!("route add {SUBNET} via {}", super::site::HOST));

    let index = |device: &str| host.ifindex(device).with_context(|| format!("the host has no {device}"));
    let (veth, uplink) = (index(VETH)?, index("eth0")?);
    let macs = [mac(&web, "eth0")?, mac(host, VETH)?].concat();
    let links = host.enter(|| -> Result<_> {
        Ok(vec![attach(veth, &outwards(uplink, OUTSIDE))?, attach(uplink, &inwards(veth, &macs))?])
    })?;
    Ok((Furnished { web_address: WEB, app: web.clone(), web, companions: Vec::new(), netd: None }, links))
}

fn mac(node: &Node, device: &str) -> Result<Vec<u8>> {
    let told: Value = serde_json::from_str(&node.ip(&format!("-j link show dev {device}")))?;
    let text = told[0]["address"].as_str().context("ip tells no link-layer address")?;
    text.split(':').map(|byte| u8::from_str_radix(byte, 16).context("a link-layer address is hexadecimal")).collect()
}

/// Every IPv4 packet goes to a neighbour by a device.
fn outwards(device: u32, neighbour: Ipv4Addr) -> Vec<u64> {
    let mut program = vec![load_word(R2, R1, sk_buff::PROTOCOL), unless_equal(R2, IPV4, 12)];
    // struct bpf_redir_neigh: the family and room for an IPv6 address.
    let words = [libc::AF_INET, i32::from_ne_bytes(neighbour.octets()), 0, 0, 0];
    program.extend((0..).zip(words).map(|(at, word)| store_word(R10, 4 * at - 24, word)));
    program.extend([
        set(R1, device.cast_signed()),
        copy(R2, R10),
        add(R2, -24),
        set(R3, 20),
        set(R4, 0),
        call(REDIRECT_NEIGH),
        EXIT,
    ]);
    program.extend(PASS);
    program
}

/// Every IPv4 packet gets these two link-layer addresses and is in the namespace behind a device.
fn inwards(device: u32, macs: &[u8]) -> Vec<u64> {
    let mut program = vec![
        load_word(R2, R1, sk_buff::PROTOCOL),
        unless_equal(R2, IPV4, 12),
        load_word(R2, R1, sk_buff::DATA),
        load_word(R3, R1, sk_buff::DATA_END),
        copy(R4, R2),
        add(R4, 14),
        if_greater(R4, R3, 7),
    ];
    let words = macs.chunks_exact(4).map(|word| i32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    program.extend((0..).zip(words).map(|(at, word)| store_word(R2, 4 * at, word)));
    program.extend([set(R1, device.cast_signed()), set(R2, 0), call(REDIRECT_PEER), EXIT]);
    program.extend(PASS);
    program
}

/// Loads a program and attaches it to the ingress of a device of the calling thread's network. It ends with the descriptor.
fn attach(device: u32, program: &[u64]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let mut attr = zeroed();
    // SAFETY: of this union's members the one of the command is written, and only that.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.insns = program.as_ptr() as u64;
    load.insn_cnt = program.len() as u32;
    load.license = LICENSE.as_ptr() as u64;
    (load.log_buf, load.log_size, load.log_level) = (log.as_mut_ptr() as u64, log.len() as u32, 1);
    let loaded = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).with_context(|| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or_default();
        format!("the kernel refuses a program that redirects: {}", String::from_utf8_lossy(&log[..end]))
    })?;

    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = loaded.as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_ifindex = device;
    attr.link_create.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).context("the kernel attaches no program by TCX (Linux 6.6 does)")
}

/// Zeros, which the kernel wants in everything that a command does not use.
fn zeroed() -> bpf_attr {
    // SAFETY: a union of numbers, of which zeros are values.
    unsafe { mem::zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> Result<OwnedFd> {
    // SAFETY: the attributes and what they point to live through the call, and their size is told.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<bpf_attr>()) };
    ensure!(fd >= 0, io::Error::last_os_error());
    // SAFETY: a descriptor that the kernel has just made, and that nothing else has.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Offsets of fields of `struct __sk_buff`.
mod sk_buff {
    pub const PROTOCOL: i16 = 16;
    pub const DATA: i16 = 76;
    pub const DATA_END: i16 = 80;
}

// The instruction set of RFC 9669: registers, helpers by their numbers, and the few instructions that are needed.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R10: u8 = 10;
/// The ethertype as it lies in memory.
const IPV4: i32 = 0x0800_u16.to_be() as i32;
const REDIRECT_NEIGH: i32 = 152;
const REDIRECT_PEER: i32 = 155;
const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);
/// To the next program or the stack (`TCX_NEXT`).
const PASS: [u64; 2] = [set(R0, -1), EXIT];

const fn instruction(code: u8, dst: u8, src: u8, offset: i16, number: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = number.to_le_bytes();
    u64::from_le_bytes([code, dst | src << 4, low, high, a, b, c, d])
}

const fn set(dst: u8, number: i32) -> u64 {
    instruction(0xb7, dst, 0, 0, number)
}

const fn copy(dst: u8, src: u8) -> u64 {
    instruction(0xbf, dst, src, 0, 0)
}

const fn add(dst: u8, number: i32) -> u64 {
    instruction(0x07, dst, 0, 0, number)
}

const fn load_word(dst: u8, from: u8, offset: i16) -> u64 {
    instruction(0x61, dst, from, offset, 0)
}

const fn store_word(to: u8, offset: i16, number: i32) -> u64 {
    instruction(0x62, to, 0, offset, number)
}

const fn unless_equal(dst: u8, number: i32, skip: i16) -> u64 {
    instruction(0x55, dst, 0, skip, number)
}

const fn if_greater(one: u8, other: u8, skip: i16) -> u64 {
    instruction(0x2d, one, other, skip, 0)
}

const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ipv4_is_left_to_the_stack() {
        for program in [outwards(7, OUTSIDE), inwards(7, &[0; 12])] {
            let [_, code, ..] = program[..] else { panic!("it has instructions") };
            let skip = usize::from(u16::from_le_bytes([code.to_le_bytes()[2], code.to_le_bytes()[3]]));

            assert_eq!(program[2 + skip..], PASS);
        }
        // And a frame too short to have link-layer addresses.
        let program = inwards(7, &[0; 12]);
        let skip = usize::from(u16::from_le_bytes([program[6].to_le_bytes()[2], program[6].to_le_bytes()[3]]));
        assert_eq!(program[7 + skip..], PASS);
    }

    #[test]
    fn instructions_are_laid_out_as_the_instruction_set_says() {
        assert_eq!(set(R0, -1).to_le_bytes(), [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(store_word(R10, -24, 2).to_le_bytes(), [0x62, 0x0a, 0xe8, 0xff, 2, 0, 0, 0]);
        assert_eq!(load_word(R2, R1, sk_buff::PROTOCOL).to_le_bytes(), [0x61, 0x12, 16, 0, 0, 0, 0, 0]);
    }
}
