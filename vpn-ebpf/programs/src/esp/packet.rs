//! A packet as the hooks have it: a socket buffer under TC, a frame of the driver under XDP. What is done to it is the same;
//! how it is read, given other headers and sent is not.
use crate::maps::DEVICES;
use crate::seal::{ETHERNET_IPV4, ETHERNET_IPV6, bounded};
use crate::source::Linear;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC,
    xdp_action, xdp_md,
};
use aya_ebpf::helpers::{
    bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_proto, bpf_skb_change_tail,
    bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    bpf_xdp_store_bytes,
};
use core::ffi::c_void;
use culvert_ebpf_shared::Bytes;
use culvert_ebpf_shared::esp::ETHERNET;
use culvert_ebpf_shared::esp::layout::Device;

/// Bytes that are taken off the head of a packet so that nothing remembers a checksum that was to be finished: link,
/// IPv6 and as much of the transport header as tells where that begins, a whole number of words.
const FORGET: u32 = 56;

/// Another frame in the place of a packet's.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    /// Its bytes, readable for `len` and what `bounded` lets that be.
    pub(crate) bytes: *mut c_void,
    /// How many.
    pub(crate) len: u32,
    /// Bytes of the packet that it replaces.
    pub(crate) instead_of: u32,
    /// Whether both are IPv4, or both IPv6.
    pub(crate) same_family: bool,
}

/// A packet under a hook.
pub(crate) trait Packet: Copy {
    /// Before there is a socket buffer: what is left alone comes to the programs under TC.
    const EARLY: bool;
    /// The hook's word for a packet that goes on.
    const PASS: i32;
    /// And for one that does not.
    const DROP: i32;

    /// What helpers take.
    fn context(self) -> *mut c_void;
    /// Copies bytes of the packet; false if it has not so many.
    ///
    /// # Safety
    ///
    /// There is room for `len` bytes.
    unsafe fn load(self, offset: u32, to: *mut c_void, len: u32) -> bool;
    /// Makes it a sealed frame; `bare`: it had no link header. False if there is no room.
    ///
    /// # Safety
    ///
    /// What [`Frame::bytes`] says is true.
    unsafe fn close(self, frame: Frame, bare: bool) -> bool;
    /// Makes it an opened frame, of whose head `outer` bytes go.
    ///
    /// # Safety
    ///
    /// What [`Frame::bytes`] says is true.
    unsafe fn disclose(self, frame: Frame, outer: u32) -> bool;
    /// Sends it out.
    fn send(self, interface: u32) -> i32;
    /// Has the interface receive it; `back` is what it is paired with.
    fn deliver(self, interface: u32, back: u32) -> i32;
}

/// Under TC.
#[derive(Clone, Copy)]
pub(crate) struct Buffer(pub(crate) *mut __sk_buff);

impl Packet for Buffer {
    const EARLY: bool = false;
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    unsafe fn load(self, offset: u32, to: *mut c_void, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to, len) == 0 }
    }

    #[inline(always)]
    unsafe fn close(self, frame: Frame, bare: bool) -> bool {
        let (skb, tail) = (self.0, if bare { frame.len + FORGET } else { frame.len });
        // SAFETY: helpers on the context; the caller's promise.
        unsafe {
            let protocol = (*skb).protocol;
            (!bare || bpf_skb_change_head(skb, ETHERNET, 0) == 0)
                && (frame.same_family || bpf_skb_change_proto(skb, other(protocol), 0) == 0)
                && bpf_skb_change_tail(skb, tail, 0) == 0
                && (!bare || bpf_skb_adjust_room(skb, -(FORGET as i32), BPF_ADJ_ROOM_MAC, 0) == 0)
                && bpf_skb_store_bytes(skb, 0, frame.bytes, frame.len, BPF_F_INVALIDATE_HASH as u64) == 0
        }
    }

    #[inline(always)]
    unsafe fn disclose(self, frame: Frame, outer: u32) -> bool {
        let skb = self.0;
        // SAFETY: helpers on the context; the caller's promise.
        unsafe {
            let protocol = (*skb).protocol;
            let flags = (BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH) as u64;
            // The head goes first: with it goes what the kernel remembered of an outer checksum.
            bpf_skb_adjust_room(skb, -(outer as i32), BPF_ADJ_ROOM_MAC, 0) == 0
                && (frame.same_family || bpf_skb_change_proto(skb, other(protocol), 0) == 0)
                && bpf_skb_change_tail(skb, frame.len, 0) == 0
                && bpf_skb_store_bytes(skb, 0, frame.bytes, frame.len, flags) == 0
        }
    }

    #[inline(always)]
    fn send(self, interface: u32) -> i32 {
        // SAFETY: a helper without preconditions.
        unsafe { bpf_redirect(interface, 0) as i32 }
    }

    #[inline(always)]
    fn deliver(self, interface: u32, _back: u32) -> i32 {
        // SAFETY: a helper without preconditions.
        unsafe { bpf_redirect(interface, BPF_F_INGRESS as u64) as i32 }
    }
}

/// The other of the two ethertypes, as the kernel takes it.
#[inline(always)]
fn other(ethertype: u32) -> u16 {
    (if ethertype == ETHERNET_IPV4 { ETHERNET_IPV6 } else { ETHERNET_IPV4 }) as u16
}

/// Under XDP.
#[derive(Clone, Copy)]
pub(crate) struct Early(pub(crate) *mut xdp_md);

impl Packet for Early {
    const EARLY: bool = true;
    const PASS: i32 = xdp_action::XDP_PASS as i32;
    const DROP: i32 = xdp_action::XDP_DROP as i32;

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    unsafe fn load(self, offset: u32, to: *mut c_void, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_xdp_load_bytes(self.0, offset, to, len) == 0 }
    }

    #[inline(always)]
    unsafe fn close(self, frame: Frame, _bare: bool) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.replace(frame) }
    }

    #[inline(always)]
    unsafe fn disclose(self, frame: Frame, _outer: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.replace(frame) }
    }

    #[inline(always)]
    fn send(self, interface: u32) -> i32 {
        // SAFETY: a helper without preconditions.
        unsafe { bpf_redirect(interface, 0) as i32 }
    }

    /// What its back sends, a tunnel's interface receives.
    #[inline(always)]
    fn deliver(self, _interface: u32, back: u32) -> i32 {
        self.send(back)
    }
}

impl Early {
    /// The frame, if it is one that the programs under XDP may take: at a device with these flags, in one piece, for its
    /// address where that matters, and IPv4 or IPv6 without a tag. The ethertype stands beside it.
    #[inline(always)]
    pub(crate) fn frame(self, flags: u16, addressed: bool) -> Option<(Linear, u32)> {
        // SAFETY: the context of the program.
        let (start, end, interface, len) = unsafe {
            let ctx = self.0;
            (
                (*ctx).data as usize,
                (*ctx).data_end as usize,
                (*ctx).ingress_ifindex,
                bpf_xdp_get_buff_len(ctx),
            )
        };
        let device = DEVICES.get_ptr(&interface)?;
        // SAFETY: user space replaces whole entries; the old one stays readable until this program ends (RCU).
        let device: &Device = unsafe { &*device };
        if !device.has(flags | Device::EARLY) || (end - start) as u64 != len {
            return None;
        }
        let linear = Linear::new(start, end, len as u32, 0);
        let ([a, b, c, d, e, f, _, _, _, _, _, _, high, low], true) = linear.load::<14>(0) else {
            return None;
        };
        let protocol = u16::from_ne_bytes([high, low]) as u32;
        if addressed && [a, b, c, d, e, f] != device.mac
            || protocol != ETHERNET_IPV4 && protocol != ETHERNET_IPV6
        {
            return None;
        }
        Some((linear, protocol))
    }

    /// Not every driver lets a frame grow at its tail: what is missing is taken before its head, and all of it written.
    ///
    /// # Safety
    ///
    /// What [`Frame::bytes`] says is true.
    #[inline(always)]
    unsafe fn replace(self, frame: Frame) -> bool {
        let len = bounded(frame.len, 0x7ff);
        // SAFETY: helpers on the context; the caller's promise.
        unsafe {
            len >= ETHERNET
                && bpf_xdp_adjust_head(self.0, frame.instead_of as i32 - len as i32) == 0
                && bpf_xdp_store_bytes(self.0, 0, frame.bytes, len) == 0
        }
    }
}
