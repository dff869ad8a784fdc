//! What no program of netd's could be faster than: two programs that redirect and nothing else, by the helpers that netd uses.
//! They translate nothing and look nothing up, so client and server know each other's addresses; what is between this and the
//! limit is the second veth pair, the kernel's redirect and its neighbour's output, and what is between this and netd is netd.
//!
//! The same two may besides keep a table of flows, in the least way in which whoever keeps both directions of a flow in a hash of
//! the kernel's can: each packet looks its flow up once, and one that opens a flow puts an entry for each direction. They still
//! translate nothing, note nothing of a packet, and end no flow.

mod assembler;
#[cfg(test)]
mod interpreter;

use std::{
    ffi::CStr,
    io, mem,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_type};
use netd_tests::lab::{Host, Node};
use nix::libc;
use serde_json::Value;

use self::assembler::{
    EXIT, Line, MAP_LOOKUP, MAP_UPDATE, Place, R0, R1, R2, R3, R4, R6, R7, R8, R10, REDIRECT_NEIGH, REDIRECT_PEER, add,
    and, assembled, call, copy, if_equal, if_greater, load_byte, load_half, load_word, set, set_map, set_on_stack,
    sk_buff, store_double, store_half_of, store_word, store_word_of, unless_equal, word_of,
};
use super::site::{Furnished, GATEWAY, OUTSIDE, SUBNET, WEB};

/// Host side of the container's veth pair.
const VETH: &str = "veth-web";
const LICENSE: &CStr = c"GPL";

/// The ethertype as it lies in memory.
const IPV4: i32 = 0x0800_u16.to_be() as i32;
const TCP: i32 = 6;
const SYN: i32 = 0x02;
const ACK: i32 = 0x10;
/// To the next program or the stack (`TCX_NEXT`).
const PASS: [Line; 3] = [Line::Here(Place::Passes), set(R0, -1), EXIT];

/// Offsets in a frame whose IPv4 header has no options. With options other bytes are taken for ports and flags, which is as good
/// here: the bench sends none.
mod frame {
    pub const PROTOCOL: i16 = 23;
    pub const SOURCE: i16 = 26;
    pub const DESTINATION: i16 = 30;
    pub const SOURCE_PORT: i16 = 34;
    pub const DESTINATION_PORT: i16 = 36;
    pub const TCP_FLAGS: i16 = 47;
    /// What has all of them is as long.
    pub const LEAST: i32 = 48;
}

/// The table of flows: an entry is a direction of one, with a value that says nothing.
mod table {
    /// Bytes of both addresses and both ports.
    pub const KEY: u32 = 12;
    pub const VALUE: u32 = 8;
    /// As many as netd's own table has unless it is told otherwise, on a machine with 4 GiB of memory. A client has 64,512 ports, so
    /// the connections of two paths, of which none is ever taken out, find room: 258,048 entries.
    pub const ENTRIES: u32 = 262_144;
}

/// Offsets from the end of the stack.
mod stack {
    /// The key of a packet.
    pub const KEY: i16 = -12;
    /// The key of what is sent back.
    pub const REVERSED: i16 = -24;
    pub const VALUE: i16 = -32;
    /// `struct bpf_redir_neigh`, in the place of keys that are not needed any more.
    pub const NEIGHBOUR: i16 = -24;
}

/// One container behind the two programs, which serves and asks, and whether they keep a table of flows. The descriptors are those
/// of the links, which end what they hold when they are dropped, and of the table.
pub fn furnish(host: &Host, outside: &Host, keeps_flows: bool) -> Result<(Furnished, Vec<OwnedFd>)> {
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
    let flows = keeps_flows.then(table_of_flows).transpose()?;
    let kept = flows.as_ref().map(AsFd::as_fd);
    let links = host.enter(|| -> Result<_> {
        Ok([attach(veth, &outwards(uplink, OUTSIDE, kept))?, attach(uplink, &inwards(veth, &macs, kept))?])
    })?;
    let held = links.into_iter().chain(flows).collect();
    Ok((Furnished { web_address: WEB, app: web.clone(), web, companions: Vec::new(), netd: None }, held))
}

fn mac(node: &Node, device: &str) -> Result<Vec<u8>> {
    let told: Value = serde_json::from_str(&node.ip(&format!("-j link show dev {device}")))?;
    let text = told[0]["address"].as_str().context("ip tells no link-layer address")?;
    text.split(':').map(|byte| u8::from_str_radix(byte, 16).context("a link-layer address is hexadecimal")).collect()
}

/// Every IPv4 packet goes to a neighbour by a device.
fn outwards(device: u32, neighbour: Ipv4Addr, flows: Option<BorrowedFd<'_>>) -> Vec<Line> {
    let mut program = vec![load_word(R2, R1, sk_buff::PROTOCOL), unless_equal(R2, IPV4, Place::Passes)];
    program.extend(flows.into_iter().flat_map(tracking));
    // The family and room for an IPv6 address.
    let words = [libc::AF_INET, word_of(neighbour), 0, 0, 0];
    program.extend((0..).zip(words).map(|(at, word)| store_word(R10, stack::NEIGHBOUR + 4 * at, word)));
    program.push(set(R1, device.cast_signed()));
    program.extend(set_on_stack(R2, stack::NEIGHBOUR));
    program.extend([set(R3, 20), set(R4, 0), call(REDIRECT_NEIGH), EXIT]);
    program.extend(PASS);
    program
}

/// Every IPv4 packet gets these two link-layer addresses and is in the namespace behind a device.
fn inwards(device: u32, macs: &[u8], flows: Option<BorrowedFd<'_>>) -> Vec<Line> {
    let mut program = vec![load_word(R2, R1, sk_buff::PROTOCOL), unless_equal(R2, IPV4, Place::Passes)];
    program.extend(flows.into_iter().flat_map(tracking));
    program.extend(if_shorter(14, Place::Passes));
    let words = macs.chunks_exact(4).map(|word| i32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    program.extend((0..).zip(words).map(|(at, word)| store_word(R2, 4 * at, word)));
    program.extend([set(R1, device.cast_signed()), set(R2, 0), call(REDIRECT_PEER), EXIT]);
    program.extend(PASS);
    program
}

/// Leads away what has fewer bytes than these. Of the rest R2 is the first byte, if R1 is the packet.
fn if_shorter(bytes: i32, place: Place) -> [Line; 5] {
    [
        load_word(R2, R1, sk_buff::DATA),
        load_word(R3, R1, sk_buff::DATA_END),
        copy(R4, R2),
        add(R4, bytes),
        if_greater(R4, R3, place),
    ]
}

/// Looks the flow of a packet up, and puts both its directions if there is none or the packet is the first of a TCP connection. R1 is
/// the packet before and after it; no other register is kept.
fn tracking(flows: BorrowedFd<'_>) -> Vec<Line> {
    // What a call must leave: the packet, its protocol and its flags.
    let mut lines = vec![copy(R6, R1)];
    lines.extend(if_shorter(frame::LEAST, Place::Redirects));
    lines.extend([load_byte(R7, R2, frame::PROTOCOL), load_byte(R8, R2, frame::TCP_FLAGS)]);
    lines.extend(keys());
    lines.extend(set_map(R1, flows));
    lines.extend(set_on_stack(R2, stack::KEY));
    lines.extend([
        call(MAP_LOOKUP),
        if_equal(R0, 0, Place::Opens),
        unless_equal(R7, TCP, Place::Redirects),
        and(R8, SYN | ACK),
        unless_equal(R8, SYN, Place::Redirects),
        Line::Here(Place::Opens),
        store_double(R10, stack::VALUE, 0),
    ]);
    for key in [stack::KEY, stack::REVERSED] {
        lines.extend(set_map(R1, flows));
        lines.extend(set_on_stack(R2, key));
        lines.extend(set_on_stack(R3, stack::VALUE));
        lines.extend([set(R4, 0), call(MAP_UPDATE)]);
    }
    lines.extend([Line::Here(Place::Redirects), copy(R1, R6)]);
    lines
}

/// Writes both keys of a frame to the stack, if R2 is its first byte: addresses, then ports, in its own key the sender's first.
const fn keys() -> [Line; 12] {
    const OWN: i16 = stack::KEY;
    const OTHER: i16 = stack::REVERSED;
    [
        load_word(R3, R2, frame::SOURCE),
        store_word_of(R10, OWN, R3),
        store_word_of(R10, OTHER + 4, R3),
        load_word(R3, R2, frame::DESTINATION),
        store_word_of(R10, OWN + 4, R3),
        store_word_of(R10, OTHER, R3),
        load_half(R3, R2, frame::SOURCE_PORT),
        store_half_of(R10, OWN + 8, R3),
        store_half_of(R10, OTHER + 10, R3),
        load_half(R3, R2, frame::DESTINATION_PORT),
        store_half_of(R10, OWN + 10, R3),
        store_half_of(R10, OTHER + 8, R3),
    ]
}

/// A table of flows, which is the two programs' in common.
fn table_of_flows() -> Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: of this union's members the one of the command is written, and only that.
    let made = unsafe { &mut attr.__bindgen_anon_1 };
    made.map_type = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
    (made.key_size, made.value_size, made.max_entries) = (table::KEY, table::VALUE, table::ENTRIES);
    made.map_flags = BPF_F_NO_PREALLOC;
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr).context("the kernel makes no table of flows")
}

/// Loads a program and attaches it to the ingress of a device of the calling thread's network. It ends with the descriptor.
fn attach(device: u32, program: &[Line]) -> Result<OwnedFd> {
    let program = assembled(program)?;
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{
        interpreter::{Flows, REDIRECTED, run},
        *,
    };

    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    const UDP: u8 = 17;
    /// A key of a packet that the container sends, and of one that it gets.
    const KEYS: [[u8; 12]; 2] = [[10, 88, 0, 2, 192, 0, 2, 2, 1, 2, 3, 4], [192, 0, 2, 2, 10, 88, 0, 2, 3, 4, 1, 2]];

    /// Outwards and inwards.
    fn programs(keep_flows: bool) -> [Vec<Line>; 2] {
        let file = File::open("/dev/null").expect("it is there");
        let flows = keep_flows.then(|| file.as_fd());
        [outwards(7, OUTSIDE, flows), inwards(7, &MACS, flows)]
    }

    /// As long as it needs to be.
    fn frame(key: [u8; 12], protocol: u8, flags: i32) -> Vec<u8> {
        let mut frame = vec![0; 48];
        frame[26..38].copy_from_slice(&key);
        (frame[23], frame[47]) = (protocol, flags as u8);
        frame
    }

    #[test]
    fn what_is_no_ipv4_is_left_to_the_stack() {
        for program in [programs(false), programs(true)].concat() {
            let told = run(&program, 0x0806_i32.to_be(), &mut [0; 64], &mut Flows::new());
            assert_eq!(told, (-1, vec![]));
        }
        // And a frame too short to have link-layer addresses.
        for keep_flows in [false, true] {
            let [_, inwards] = programs(keep_flows);
            assert_eq!(run(&inwards, IPV4, &mut [0; 13], &mut Flows::new()), (-1, vec![]));
        }
    }

    #[test]
    fn without_a_table_a_packet_is_redirected_and_nothing_else() {
        let [outwards, inwards] = programs(false);
        let mut packet = frame(KEYS[0], 6, SYN);

        assert_eq!(run(&outwards, IPV4, &mut packet, &mut Flows::new()), (REDIRECTED, vec![REDIRECT_NEIGH]));
        assert_eq!(packet, frame(KEYS[0], 6, SYN));
        assert_eq!(run(&inwards, IPV4, &mut packet, &mut Flows::new()), (REDIRECTED, vec![REDIRECT_PEER]));
        assert_eq!((&packet[..12], &packet[12..]), (&MACS[..], &frame(KEYS[0], 6, SYN)[12..]));
    }

    #[test]
    fn a_table_is_kept_by_the_same_programs_with_lines_put_in() {
        let file = File::open("/dev/null").expect("it is there");
        let put_in = tracking(file.as_fd());
        let [outwards, inwards] = [outwards(7, OUTSIDE, Some(file.as_fd())), inwards(7, &MACS, Some(file.as_fd()))];

        for (mut with, without) in [outwards, inwards].into_iter().zip(programs(false)) {
            assert_eq!(with.drain(2..2 + put_in.len()).collect::<Vec<_>>(), put_in);
            assert_eq!(with, without);
        }
    }

    #[test]
    fn the_first_packet_of_a_flow_puts_an_entry_for_each_direction_and_the_others_find_theirs() {
        for (first, redirect) in [(0, REDIRECT_NEIGH), (1, REDIRECT_PEER)] {
            let (programs, mut flows) = (programs(true), Flows::new());
            let mut helpers = |way: usize| run(&programs[way], IPV4, &mut frame(KEYS[way], UDP, SYN), &mut flows).1;

            assert_eq!(helpers(first), [MAP_LOOKUP, MAP_UPDATE, MAP_UPDATE, redirect]);
            assert_eq!(helpers(0), [MAP_LOOKUP, REDIRECT_NEIGH]);
            assert_eq!(helpers(1), [MAP_LOOKUP, REDIRECT_PEER]);
            assert_eq!(flows, KEYS.map(|key| (key, [0; 8])).into());
        }
    }

    #[test]
    fn a_connection_puts_entries_with_its_syn_though_another_had_its_ports() {
        let ([outwards, _], mut flows) = (programs(true), KEYS.map(|key| (key, [1; 8])).into());
        let mut puts = |flags| {
            let (_, helpers) = run(&outwards, IPV4, &mut frame(KEYS[0], 6, flags), &mut flows);
            helpers.contains(&MAP_UPDATE)
        };

        const PSH: i32 = 0x08;
        const ECE: i32 = 0x40;
        assert_eq!([ACK, SYN | ACK, PSH | ACK, PSH].map(&mut puts), [false; 4]);
        assert_eq!([SYN, SYN | ECE].map(puts), [true; 2]);
        assert_eq!(flows, KEYS.map(|key| (key, [0; 8])).into());
    }

    #[test]
    fn a_frame_too_short_for_ports_and_flags_is_redirected_without_a_look() {
        let ([outwards, inwards], mut flows) = (programs(true), Flows::new());
        let mut short = frame(KEYS[0], UDP, 0);
        short.pop();

        assert_eq!(run(&outwards, IPV4, &mut short, &mut flows).1, [REDIRECT_NEIGH]);
        assert_eq!(run(&inwards, IPV4, &mut short, &mut flows).1, [REDIRECT_PEER]);
        assert_eq!(flows, Flows::new());
    }
}
