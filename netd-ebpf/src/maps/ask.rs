//! Questions to the kernel's own tables: its sockets and its routing.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_TCP_ESTABLISHED, bpf_fib_lookup as FibLookup, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::{bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::map,
    maps::PerCpuArray,
};
use netd_common::{
    tables::{NextHop, Route, fib},
    tuple::{Address, Mac, Port, TCP, Tuple, UDP},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const BPF_FIB_LOOKUP_SKIP_NEIGH: u32 = 4;
/// For a packet with the mark that stands in the place of the answer's link-layer addresses (kernel 6.10).
const BPF_FIB_LOOKUP_MARK: u32 = 32;
/// The network namespace of the packet's device (`BPF_F_CURRENT_NETNS`).
const CURRENT_NETNS: u64 = u64::MAX;
/// Size of the tuple of an IPv4 packet in a socket lookup.
const IPV4_TUPLE: u32 = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
/// Words of the parameters of a question to the routing.
const FIB_WORDS: usize = size_of::<FibLookup>() / size_of::<u64>();
const EINVAL: i64 = -22;

// A question to the kernel's socket tables, which the stack has no room for where it is asked.
#[map]
static SOCKET_QUESTION: PerCpuArray<bpf_sock_tuple> = PerCpuArray::with_max_entries(1, 0);

/// Looks for the socket that the answers to `tuple` would reach. Not inlined, as [`route`].
#[inline(never)]
pub fn has_socket(skb: *mut __sk_buff, tuple: &Tuple) -> bool {
    let Some((answer, size)) = socket_question((&tuple.dst, tuple.dst_port), (&tuple.src, tuple.src_port)) else {
        return false;
    };
    // SAFETY: the context in hand, and a tuple that lives through the call with its size told; what is found is given back.
    unsafe {
        let socket = match tuple.protocol {
            TCP => bpf_skc_lookup_tcp(skb.cast(), answer, size, CURRENT_NETNS, 0),
            UDP => bpf_sk_lookup_udp(skb.cast(), answer, size, CURRENT_NETNS, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

/// Looks for the UDP socket that a packet with this tuple would reach, and whether it is connected: then to the packet's sender, and
/// it goes before any other of its port. `context` is a packet's or a frame's. Not inlined, as [`route`].
#[inline(never)]
pub fn has_connected(context: *mut c_void, tuple: &Tuple) -> bool {
    let Some((packet, size)) = socket_question((&tuple.src, tuple.src_port), (&tuple.dst, tuple.dst_port)) else {
        return false;
    };
    // SAFETY: the context in hand, and a tuple that lives through the call with its size told; what is found is given back.
    unsafe {
        let socket = bpf_sk_lookup_udp(context, packet, size, CURRENT_NETNS, 0);
        if socket.is_null() {
            return false;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        // What `connect` makes of a UDP socket too.
        state == BPF_TCP_ESTABLISHED
    }
}

/// Looks for the socket that a packet to this place from the place itself would reach: what a call of a socket interrupts asks with a
/// tuple of its own. Not inlined, as [`route`].
#[inline(never)]
pub fn has_server(context: *mut c_void, protocol: u8, address: &Address, port: Port) -> bool {
    let words = address.words();
    let dport = u16::from_ne_bytes(port.bytes());
    let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr: words, daddr: words, sport: 0, dport };
    let mut size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32;
    let mut packet = bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } };
    if address.is_v4() {
        packet.__bindgen_anon_1.ipv4 =
            bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr: words[3], daddr: words[3], sport: 0, dport };
        size = IPV4_TUPLE;
    }
    // SAFETY: the context in hand, and a tuple that lives through the call with its size told; what is found is given back.
    unsafe {
        let socket = match protocol {
            TCP => bpf_skc_lookup_tcp(context, &mut packet, size, CURRENT_NETNS, 0),
            UDP => bpf_sk_lookup_udp(context, &mut packet, size, CURRENT_NETNS, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

/// The tuple of a packet between two ends as the kernel's socket tables are asked with it, and its size.
#[inline(always)]
fn socket_question(from: (&Address, Port), to: (&Address, Port)) -> Option<(&'static mut bpf_sock_tuple, u32)> {
    let (src, dst) = (from.0.words(), to.0.words());
    let sport = u16::from_ne_bytes(from.1.bytes());
    let dport = u16::from_ne_bytes(to.1.bytes());
    // SAFETY: this CPU's element, which nothing interrupts between here and the call.
    let question = unsafe { &mut *SOCKET_QUESTION.get_ptr_mut(0)? };
    let mut size = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32;
    let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr: src, daddr: dst, sport, dport };
    question.__bindgen_anon_1.ipv6 = ipv6;
    if from.0.is_v4() {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr: src[3], daddr: dst[3], sport, dport };
        question.__bindgen_anon_1.ipv4 = ipv4;
        size = IPV4_TUPLE;
    }
    Some((question, size))
}

/// Looks for the socket that a packet with this IPv4 tuple would reach, and whether it is bound to that address.
#[inline(always)]
pub fn has_socket_at(skb: *mut __sk_buff, tuple: &Tuple) -> bool {
    let (saddr, daddr) = (tuple.src.words()[3], tuple.dst.words()[3]);
    let sport = u16::from_ne_bytes(tuple.src_port.bytes());
    let dport = u16::from_ne_bytes(tuple.dst_port.bytes());
    let mut packet = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr, daddr, sport, dport };
    let bound = match tuple.protocol {
        TCP => tcp_address(skb, &mut packet),
        UDP => udp_address(skb, &mut packet),
        _ => return false,
    };
    bound == u64::from(daddr)
}

/// More than any IPv4 address: no socket.
const NO_SOCKET: u64 = 1 << 32;

/// The address that the TCP socket is bound to which a packet would reach. One function a protocol, not inlined: the verifier
/// refuses one load for both kinds of socket that the two lookups return.
#[inline(never)]
fn tcp_address(skb: *mut __sk_buff, packet: &mut bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1) -> u64 {
    // SAFETY: the context in hand, and a tuple whose size is told; what is found is given back.
    unsafe {
        let socket = bpf_skc_lookup_tcp(skb.cast(), ptr::from_mut(packet).cast(), IPV4_TUPLE, CURRENT_NETNS, 0);
        if socket.is_null() {
            return NO_SOCKET;
        }
        let bound = (*socket).src_ip4;
        bpf_sk_release(socket.cast());
        bound.into()
    }
}

/// The same of a UDP socket.
#[inline(never)]
fn udp_address(skb: *mut __sk_buff, packet: &mut bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1) -> u64 {
    // SAFETY: as above.
    unsafe {
        let socket = bpf_sk_lookup_udp(skb.cast(), ptr::from_mut(packet).cast(), IPV4_TUPLE, CURRENT_NETNS, 0);
        if socket.is_null() {
            return NO_SOCKET;
        }
        let bound = (*socket).src_ip4;
        bpf_sk_release(socket.cast());
        bound.into()
    }
}

/// Asks the kernel's routing. Not inlined: its parameters would lie on the stack of every caller.
#[inline(never)]
pub fn route(skb: *mut __sk_buff, input: u32, mark: u32, tuple: &Tuple, next: &mut NextHop) -> Route {
    let mut words = [0_u64; FIB_WORDS];
    // SAFETY: as long, no less aligned, and of plain numbers. Its own arrays of bytes LLVM would have a loop fill.
    let question = unsafe { &mut *words.as_mut_ptr().cast::<FibLookup>() };
    put(question, input, tuple);
    let [a, b, c, d] = mark.to_ne_bytes();
    question.smac = [a, b, c, d, 0, 0];
    let with_mark = if mark == 0 { 0 } else { BPF_FIB_LOOKUP_MARK };
    let mut result = ask(skb.cast(), question, BPF_FIB_LOOKUP_SKIP_NEIGH | with_mark);
    if result == EINVAL && mark == 0 {
        // Kernels before 6.3 do not know the flag.
        result = ask(skb.cast(), question, 0);
    }
    let route = Route::of_fib(result);
    if route == Route::Forward {
        // Without a neighbour the MTU is not filled in.
        let mtu = if result == fib::SUCCESS { mtu(question) } else { 0 };
        *next = NextHop::neighbour(question.ifindex, mtu, gateway(question));
    }
    route
}

/// Asks it for the way back of a frame, and the kernel for the neighbour there. Not inlined, as [`route`].
#[inline(never)]
pub fn find_way_back(context: *mut c_void, device: u32, tuple: &Tuple, length: u32, next: &mut NextHop) -> bool {
    let mut words = [0_u64; FIB_WORDS];
    // SAFETY: as in `route`.
    let question = unsafe { &mut *words.as_mut_ptr().cast::<FibLookup>() };
    put(question, device, tuple);
    question.__bindgen_anon_1.tot_len = length as u16;
    if ask(context, question, 0) != fib::SUCCESS || question.ifindex != device {
        return false;
    }
    *next = NextHop::peer(device, 0, Mac(question.dmac), Mac(question.smac));
    true
}

#[inline(always)]
fn ask(context: *mut c_void, question: &mut FibLookup, flags: u32) -> i64 {
    // SAFETY: the context in hand, and parameters that live through the call with their size told.
    unsafe { bpf_fib_lookup(context, question, size_of::<FibLookup>() as i32, flags) }
}

/// Puts the question to the kernel's routing. A length of one byte asks for the route's MTU and never exceeds it.
#[inline(always)]
fn put(fib: &mut FibLookup, input: u32, tuple: &Tuple) {
    let (src, dst) = (tuple.src.words(), tuple.dst.words());
    fib.family = AF_INET6;
    fib.l4_protocol = tuple.protocol;
    fib.sport = u16::from_ne_bytes(tuple.src_port.bytes());
    fib.dport = u16::from_ne_bytes(tuple.dst_port.bytes());
    fib.__bindgen_anon_1.tot_len = 1;
    fib.ifindex = input;
    if tuple.dst.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = src[3];
        fib.__bindgen_anon_4.ipv4_dst = dst[3];
    } else {
        fib.__bindgen_anon_3.ipv6_src = src;
        fib.__bindgen_anon_4.ipv6_dst = dst;
    }
}

/// The neighbour of the answer: the destination itself where it is on the link. IPv4 may go by an IPv6 neighbour (RFC 5549).
#[inline(always)]
fn gateway(fib: &FibLookup) -> Address {
    // SAFETY: `family` says which member the kernel filled in; both are plain bytes.
    unsafe {
        if fib.family == AF_INET {
            return Address::v4(fib.__bindgen_anon_4.ipv4_dst.to_ne_bytes());
        }
        Address::from_words(fib.__bindgen_anon_4.ipv6_dst)
    }
}

#[inline(always)]
fn mtu(fib: &FibLookup) -> u32 {
    // SAFETY: a union of two numbers; the kernel wrote the result over the question.
    unsafe { fib.__bindgen_anon_1.mtu_result.into() }
}
