//! The kernel's `sk_buff` as a [`Packet`], and a verdict as what a TC program returns. Verifier appeasement lives here.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::generated::{
        bpf_clone_redirect, bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
        bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_pull_data,
        bpf_skb_vlan_pop,
    },
};
use netd_common::{
    chapter::Chapter,
    checksum::Delta,
    packet::{Covers, ETH, Label, Packet, Zero},
    parse::Noted,
    tables::{Scratch, Tables, TunnelKey},
    verdict::{Action, DropReason, Packed},
};

use crate::{bytes, chapters, tunnel};

/// Lets the packet go on to other programs and the stack (`TCX_NEXT`).
pub const PASS: i32 = TC_ACT_UNSPEC;
/// Ends the packet.
pub const DROP: i32 = TC_ACT_SHOT;

/// Offsets past this are no header's: bounds the arithmetic that the verifier must follow.
const FARTHEST: usize = 512;

const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;
/// Of a tag's 16 bits those that tell the LAN.
const VLAN_ID: u32 = 0x0fff;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// A packet at a TC hook, without an Ethernet header where `LAYER3`.
pub struct Skb<const LAYER3: bool> {
    skb: *mut __sk_buff,
    /// A [`Hook`](netd_common::tables::Hook): whose scratch its chapters use.
    hook: u32,
}

impl<const LAYER3: bool> Skb<LAYER3> {
    /// The offset, as [`Packet`] counts, of the first byte that there is.
    const FIRST: usize = if LAYER3 { ETH } else { 0 };

    /// The packet in hand, at a hook.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff, hook: u32) -> Self {
        Self { skb, hook }
    }

    #[inline(always)]
    fn field_len(&self) -> u32 {
        // SAFETY: the context outlives the program run, and the verifier knows the field.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: as above; the two fields are the bounds of the packet's linear part. Loaded anew each time: of one that is kept LLVM
        // may use half the register, which is no bound to the verifier.
        unsafe {
            let (data, end) = (&raw const (*self.skb).data, &raw const (*self.skb).data_end);
            (data.read_volatile() as usize, end.read_volatile() as usize)
        }
    }

    /// Address of `N` bytes at `at`, checked against the packet's end.
    #[inline(always)]
    fn pointer<const N: usize>(&self, at: usize) -> Result<usize, DropReason> {
        if at > FARTHEST || at < Self::FIRST {
            return Err(DropReason::Malformed);
        }
        let mut start = at - Self::FIRST;
        let (data, end) = self.bounds();
        // LLVM may check one copy of an address and use another, which the verifier takes for unchecked; this it can neither see
        // through nor do elsewhere. The mask changes nothing after the check above: a verifier before 6.3 asks for it.
        // SAFETY: two arithmetic instructions on a register of ours.
        unsafe {
            asm!("{start} &= 1023", "{start} += {data}", start = inout(reg) start, data = in(reg) data,
                options(pure, nomem, nostack));
        }
        if start + N > end { Err(DropReason::Malformed) } else { Ok(start) }
    }

    /// Carries out a verdict.
    #[inline(always)]
    pub fn act(&mut self, verdict: Packed, scratch: &Scratch) -> i32 {
        match verdict.action() {
            Action::Pass => PASS,
            Action::Drop => DROP,
            Action::Peer(device) => self.into_peer(device),
            Action::Neighbour(device) => self.to_neighbour(device, scratch),
            Action::Tunnel(device) => self.into_tunnel(device, &scratch.tunnel),
            // SAFETY: takes numbers, and acts when the program has returned.
            Action::Device(device) => unsafe { bpf_redirect(device, 0) as i32 },
            // SAFETY: as above.
            Action::Host(bridge) => unsafe { bpf_redirect(bridge, BPF_F_INGRESS.into()) as i32 },
        }
    }

    /// A frame for another station, or with a mark of its old life, would be lost or misled in the new namespace: kernels
    /// before 6.15 do not clear either.
    #[inline(always)]
    fn into_peer(&mut self, device: u32) -> i32 {
        // SAFETY: fields and helpers of the context in hand.
        unsafe {
            if (*self.skb).pkt_type != PACKET_HOST {
                bpf_skb_change_type(self.skb, PACKET_HOST);
            }
            (*self.skb).mark = 0;
            bpf_redirect_peer(device, 0) as i32
        }
    }

    #[inline(always)]
    fn into_tunnel(&mut self, device: u32, to: &TunnelKey) -> i32 {
        if !tunnel::set_tunnel_key(self.skb, to) {
            return DROP;
        }
        // SAFETY: takes numbers, and acts when the program has returned.
        unsafe { bpf_redirect(device, 0) as i32 }
    }

    #[inline(always)]
    fn to_neighbour(&mut self, device: u32, scratch: &Scratch) -> i32 {
        let address = scratch.flow.next.address();
        let mut to = bpf_redir_neigh {
            nh_family: AF_INET6,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: address.words() },
        };
        if address.is_v4() {
            to.nh_family = AF_INET;
            to.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(address.v4_bytes());
        }
        // SAFETY: `to` lives through the call and its size is told.
        unsafe { bpf_redirect_neigh(device, &raw mut to, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
    }
}

/// The kernel puts a tag beneath the one that is taken off into its place.
#[inline(always)]
fn shed_priority(skb: *mut __sk_buff) -> Result<bool, DropReason> {
    // SAFETY: fields and a helper of the context in hand.
    unsafe {
        if (*skb).vlan_tci & VLAN_ID != 0 {
            return Ok(false);
        }
        if bpf_skb_vlan_pop(skb) != 0 {
            return Err(DropReason::Refused);
        }
        if (*skb).vlan_present == 0 {
            return Ok(true);
        }
        if (*skb).vlan_tci & VLAN_ID == 0 { Err(DropReason::Malformed) } else { Ok(false) }
    }
}

impl<const LAYER3: bool> Packet for Skb<LAYER3> {
    #[inline(always)]
    fn has_link_header(&self) -> bool {
        !LAYER3
    }

    #[inline(always)]
    fn put_link_header(&mut self, macs: [u8; 12], ethertype: [u8; 2]) -> Result<(), DropReason> {
        if !LAYER3 {
            return self.write(0, macs);
        }
        // SAFETY: the context in hand.
        if unsafe { bpf_skb_change_head(self.skb, ETH as u32, 0) } != 0 {
            return Err(DropReason::Refused);
        }
        let (data, end) = self.bounds();
        if data + ETH > end {
            return Err(DropReason::Malformed);
        }
        // SAFETY: the bytes are inside the packet, whose head the helper has made and left writable.
        unsafe {
            ptr::write(data as *mut [u8; 12], macs);
            ptr::write((data + macs.len()) as *mut [u8; 2], ethertype);
        }
        Ok(())
    }

    /// Only headers, and only where they are not linear: to pull more would copy payload for each packet.
    #[inline(always)]
    fn reach(&mut self, bytes: usize) {
        let bytes = bytes - Self::FIRST;
        let (data, end) = self.bounds();
        if data + bytes > end {
            let wanted = if (self.field_len() as usize) < bytes { self.field_len() } else { bytes as u32 };
            if end - data < wanted as usize {
                // SAFETY: the context in hand. A failure shows as headers out of bounds.
                unsafe { bpf_skb_pull_data(self.skb, wanted) };
            }
        }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Result<[u8; N], DropReason> {
        let start = self.pointer::<N>(at)?;
        // SAFETY: the bytes are inside the packet.
        Ok(unsafe { bytes::load(start) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Result<(), DropReason> {
        let start = self.pointer::<N>(at)?;
        // SAFETY: as in `read`; the kernel made the linear part writable before the program ran.
        unsafe { bytes::store(start, bytes) };
        Ok(())
    }

    /// An IPv4 header's checksum is always complete in its field, whoever sums the rest.
    #[inline(always)]
    fn replace_l3(&mut self, at: usize, delta: Delta) -> Result<(), DropReason> {
        let field = self.read::<2>(at)?;
        self.write(at, delta.applied_to(field))
    }

    #[inline(always)]
    fn replace_l4(&mut self, at: usize, delta: Delta, covers: Covers, zero: Zero) -> Result<(), DropReason> {
        let covers = if covers == Covers::PseudoHeader { BPF_F_PSEUDO_HDR as u64 } else { 0 };
        let zero = if zero == Zero::MeansNone { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        // SAFETY: the context in hand; from 0 and size 0 tell the helper that `to` is a difference.
        let result =
            unsafe { bpf_l4_csum_replace(self.skb, (at - Self::FIRST) as u32, 0, delta.wsum().into(), covers | zero) };
        if result == 0 { Ok(()) } else { Err(DropReason::Refused) }
    }

    #[inline(always)]
    fn replace_sum(&mut self, delta: Delta) {
        // SAFETY: the context in hand. An error says that no device has summed it.
        unsafe { bpf_csum_update(self.skb, delta.wsum()) };
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.field_len() as usize + Self::FIRST
    }

    #[inline(always)]
    fn segment_size(&self) -> usize {
        // SAFETY: a field of the context in hand.
        unsafe { (*self.skb).gso_size as usize }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: a field of the context in hand.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn shed_priority(&mut self) -> Result<bool, DropReason> {
        shed_priority(self.skb)
    }

    #[inline(always)]
    fn is_for_another(&self) -> bool {
        // SAFETY: a field of the context in hand.
        unsafe { (*self.skb).pkt_type == PACKET_OTHERHOST }
    }

    #[inline(always)]
    fn came_through(&self, from: &mut TunnelKey) -> bool {
        tunnel::came_through(self.skb, from)
    }

    #[inline(always)]
    fn copy_into_tunnel(&mut self, device: u32, to: &TunnelKey) {
        if tunnel::set_tunnel_key(self.skb, to) {
            // SAFETY: the context in hand. A copy that is not to be had is as lost as one on the wire.
            unsafe { bpf_clone_redirect(self.skb, device, 0) };
        }
    }

    #[inline(always)]
    fn cut(&mut self, length: usize) -> Result<(), DropReason> {
        // SAFETY: the context in hand.
        let result = unsafe { bpf_skb_change_tail(self.skb, length as u32, 0) };
        self.reach(length);
        if result == 0 { Ok(()) } else { Err(DropReason::Refused) }
    }

    #[inline(always)]
    fn insert(&mut self, bytes: usize) -> Result<(), DropReason> {
        // SAFETY: the context in hand.
        let result = unsafe { bpf_skb_adjust_room(self.skb, bytes as i32, BPF_ADJ_ROOM_MAC, 0) };
        if result == 0 { Ok(()) } else { Err(DropReason::Refused) }
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: a field of the context in hand.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn came_by(&self) -> u32 {
        // SAFETY: a field of the context in hand.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: a field of the context in hand.
        unsafe { (*self.skb).mark }
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u32) {
        // SAFETY: a field of the context in hand that TC programs may write.
        unsafe { (*self.skb).mark = mark }
    }

    #[inline(always)]
    fn label(&self) -> Label {
        // SAFETY: a field of the context in hand.
        let index = unsafe { (*self.skb).tc_index };
        if index == Label::Approved as u32 {
            Label::Approved
        } else if index == Label::Sealed as u32 {
            Label::Sealed
        } else if index == Label::Came as u32 {
            Label::Came
        } else {
            Label::None
        }
    }

    #[inline(always)]
    fn set_label(&mut self, label: Label) {
        // SAFETY: a field of the context in hand that TC programs may write.
        unsafe { (*self.skb).tc_index = label as u32 }
    }

    #[inline(always)]
    fn forget(&self, noted: &mut Noted) {
        // SAFETY: one instruction that leaves a register of ours as it is. Without `nomem` it may have written what that points to.
        unsafe { asm!("{noted} = {noted}", noted = in(reg) ptr::from_mut(noted), options(nostack)) };
    }

    #[inline(always)]
    fn tell<T: Tables>(&mut self, chapter: Chapter, _: &T, _: &mut Scratch, with: u64) -> Packed {
        chapters::call::<LAYER3>(chapter, self.skb, self.hook.into(), with)
    }
}
