//! The calls of sockets, as the kernel's cgroup hooks show them, for [`netd_common::sock`].

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use netd_common::{
    sock::{self, Dial, Socket, Speaks},
    tuple::{Address, Port},
};

use crate::maps::Sockets;

/// What the kernel takes for yes.
const GO_ON: i32 = 1;
/// And for no.
const REFUSE: i32 = 0;
const EADDRINUSE: i32 = 98;
const ECONNREFUSED: i32 = 111;

/// The cookie of the daemon's network namespace, which the loader fills in. No namespace has 0.
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);

/// A call about an address of this family. The verifier allows each family's programs only its own fields.
pub trait Family {
    /// The address that the call names.
    fn address(call: &Call) -> Address;
    /// Puts another in its place.
    fn put_address(call: &Call, address: Address);
    /// The address that a socket is bound to.
    ///
    /// # Safety
    /// The socket must be the call's.
    unsafe fn source(socket: *const bpf_sock) -> Address;
}

/// IPv4.
pub struct V4;
/// IPv6.
pub struct V6;

impl Family for V4 {
    #[inline(always)]
    fn address(call: &Call) -> Address {
        // SAFETY: a field of the context in hand; volatile, since the verifier takes it as one word alone.
        Address::v4(unsafe { (&raw const (*call.context).user_ip4).read_volatile() }.to_ne_bytes())
    }

    #[inline(always)]
    fn put_address(call: &Call, address: Address) {
        // SAFETY: as above.
        unsafe { (&raw mut (*call.context).user_ip4).write_volatile(address.words()[3]) };
    }

    #[inline(always)]
    unsafe fn source(socket: *const bpf_sock) -> Address {
        // SAFETY: the caller's.
        Address::v4(unsafe { (&raw const (*socket).src_ip4).read_volatile() }.to_ne_bytes())
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(call: &Call) -> Address {
        // SAFETY: as for IPv4.
        Address::from_words(unsafe { words(&raw const (*call.context).user_ip6) })
    }

    #[inline(always)]
    fn put_address(call: &Call, address: Address) {
        let [a, b, c, d] = address.words();
        // SAFETY: as for IPv4.
        unsafe {
            let to = (&raw mut (*call.context).user_ip6).cast::<u32>();
            to.write_volatile(a);
            to.add(1).write_volatile(b);
            to.add(2).write_volatile(c);
            to.add(3).write_volatile(d);
        }
    }

    #[inline(always)]
    unsafe fn source(socket: *const bpf_sock) -> Address {
        // SAFETY: the caller's.
        Address::from_words(unsafe { words(&raw const (*socket).src_ip6) })
    }
}

/// # Safety
/// The words must be readable.
#[inline(always)]
unsafe fn words(from: *const [u32; 4]) -> [u32; 4] {
    let from = from.cast::<u32>();
    // SAFETY: the caller's.
    unsafe {
        [from.read_volatile(), from.add(1).read_volatile(), from.add(2).read_volatile(), from.add(3).read_volatile()]
    }
}

/// A call of a socket of the host.
pub struct Call {
    context: *mut bpf_sock_addr,
}

impl Call {
    /// `None` for a socket of another network namespace.
    #[inline(always)]
    pub fn of_host(context: &SockAddrContext) -> Option<Self> {
        // SAFETY: the context in hand.
        let cookie = unsafe { bpf_get_netns_cookie(context.as_ptr()) };
        (cookie == HOST_NETNS.load()).then_some(Self { context: context.sock_addr })
    }

    #[inline(always)]
    fn tables(&self) -> Sockets {
        Sockets::new(self.context)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: a field of the context in hand.
        unsafe { (&raw const (*self.context).protocol).read_volatile() as u8 }
    }

    #[inline(always)]
    fn port(&self) -> Port {
        // SAFETY: a field of the context in hand.
        let [a, b, ..] = unsafe { (&raw const (*self.context).user_port).read_volatile() }.to_ne_bytes();
        Port::from_wire([a, b])
    }

    #[inline(always)]
    fn put<F: Family>(&self, (address, port): (Address, Port)) {
        F::put_address(self, address);
        let [a, b] = port.bytes();
        // SAFETY: a field of the context in hand.
        unsafe { (&raw mut (*self.context).user_port).write_volatile(u32::from_ne_bytes([a, b, 0, 0])) };
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: the context in hand holds its socket.
        let socket = unsafe { (*self.context).__bindgen_anon_1.sk };
        if socket.is_null() {
            return 0;
        }
        // SAFETY: it has just been looked at, and is the call's.
        unsafe { (&raw const (*socket).mark).read_volatile() }
    }

    #[inline(always)]
    fn socket<F: Family>(&self, speaks: Speaks) -> Option<Socket> {
        // SAFETY: the context in hand holds its socket.
        let socket = unsafe { (*self.context).__bindgen_anon_1.sk };
        if socket.is_null() {
            return None;
        }
        // SAFETY: it has just been looked at, and is the call's.
        let (source, device) = unsafe { (F::source(socket), (&raw const (*socket).bound_dev_if).read_volatile()) };
        Some(Socket { protocol: self.protocol(), source, on_device: device != 0, speaks })
    }
}

/// connect and sendmsg: leads the socket to the container, or refuses as a port that nobody listens on.
#[inline(always)]
pub fn dial<F: Family>(context: &SockAddrContext, speaks: Speaks) -> i32 {
    let Some(call) = Call::of_host(context) else { return GO_ON };
    let Some(socket) = call.socket::<F>(speaks) else { return GO_ON };
    match sock::dial(&call.tables(), &socket, F::address(&call), call.port()) {
        Dial::Alone => GO_ON,
        Dial::Led(address, port) => {
            call.put::<F>((address, port));
            GO_ON
        }
        Dial::Refused => refuse(ECONNREFUSED),
    }
}

/// recvmsg and getpeername: names the peer as it was dialled.
#[inline(always)]
pub fn peer<F: Family>(context: &SockAddrContext) -> i32 {
    let Some(call) = Call::of_host(context) else { return GO_ON };
    if let Some(dialled) = sock::peer(&call.tables(), call.protocol(), F::address(&call), call.port()) {
        call.put::<F>(dialled);
    }
    GO_ON
}

/// bind: refuses a published port, but to the daemon's own socket that keeps it.
#[inline(always)]
pub fn bind<F: Family>(context: &SockAddrContext) -> i32 {
    let Some(call) = Call::of_host(context) else { return GO_ON };
    if call.mark() == sock::KEEPER_MARK {
        return GO_ON;
    }
    if sock::may_bind(&call.tables(), call.protocol(), F::address(&call), call.port()) {
        return GO_ON;
    }
    refuse(EADDRINUSE)
}

#[inline(always)]
fn refuse(error: i32) -> i32 {
    // SAFETY: takes a number. Without it the caller would read EPERM.
    unsafe { bpf_set_retval(-error) };
    REFUSE
}
