//! Reading packets: straight from packet memory, or, where headers lie beyond its linear part, through a helper.
//!
//! Two sources, each with one way of reading, and not one with a fallback: where the compiler merges two ways it
//! leaves registers unwritten that it later spills, which the verifier refuses.
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_xdp_load_bytes};
use core::arch::asm;
use core::cell::Cell;
use core::ffi::c_void;
use culvert_ebpf_shared::Bytes;

/// Headers lie below this; the verifier wants a bound on what is added to a pointer into a packet.
const REACH: u32 = 0x3fff;

/// The linear part of a packet.
pub(crate) struct Linear {
    start: usize,
    end: usize,
    length: u32,
    segment: u32,
    missed: Cell<bool>,
}

impl Linear {
    /// `start` and `end` as the context has them; `length` with what is not linear.
    #[inline(always)]
    pub(crate) fn new(start: usize, end: usize, length: u32, segment: u32) -> Linear {
        Linear { start, end, length, segment, missed: Cell::new(false) }
    }

    /// True if something was asked for that the packet has, but not in its linear part.
    #[inline(always)]
    pub(crate) fn missed(&self) -> bool {
        self.missed.get()
    }
}

impl Bytes for Linear {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> ([u8; N], bool) {
        const { assert!(N >= 2) };
        if offset > REACH {
            return ([0; N], false);
        }
        let at = self.start + bounded(offset);
        if at + N > self.end {
            if offset + N as u32 <= self.length {
                self.missed.set(true);
            }
            return ([0; N], false);
        }
        // SAFETY: within the packet by the check above.
        (unsafe { read(at) }, true)
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        self.segment
    }
}

/// The same number, with its bound in the instruction before its use. The compiler has the check of it above, and the
/// verifiers of older kernels lose that on the way through the stack.
#[inline(always)]
fn bounded(offset: u32) -> usize {
    let mut at = offset as u64;
    // SAFETY: arithmetic on one register.
    unsafe {
        asm!("{at} &= {reach}", at = inout(reg) at, reach = const REACH, options(pure, nomem, nostack))
    };
    at as usize
}

/// Copies bytes from packet memory, in words.
///
/// Packet memory may be read in words at any address (where the kernel has a BPF JIT worth the name). The compiler has
/// to be told by hand: its option for that makes it leave the alignment of the stack too, which the verifier does not.
///
/// # Safety
///
/// `at` points to `N` bytes of the packet.
#[inline(always)]
unsafe fn read<const N: usize>(at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        let from = at + done;
        let word: u64;
        // SAFETY: the caller's promise, and the lengths compared here.
        unsafe {
            if N - done >= 4 {
                asm!("{to} = *(u32 *)({from} + 0)", to = out(reg) word, from = in(reg) from, options(pure, readonly, nostack));
                let [a, b, c, d] = (word as u32).to_ne_bytes();
                (bytes[done], bytes[done + 1], bytes[done + 2], bytes[done + 3]) = (a, b, c, d);
                done += 4;
            } else if N - done >= 2 {
                asm!("{to} = *(u16 *)({from} + 0)", to = out(reg) word, from = in(reg) from, options(pure, readonly, nostack));
                let [a, b] = (word as u16).to_ne_bytes();
                (bytes[done], bytes[done + 1]) = (a, b);
                done += 2;
            } else {
                asm!("{to} = *(u8 *)({from} + 0)", to = out(reg) word, from = in(reg) from, options(pure, readonly, nostack));
                bytes[done] = word as u8;
                done += 1;
            }
        }
    }
    bytes
}

/// Bytes on the stack, where they can be written and read in words.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

/// A whole packet at XDP, fragments of jumbo frames included.
pub(crate) struct XdpPacket {
    pub(crate) ctx: *mut xdp_md,
    pub(crate) length: u32,
}

impl Bytes for XdpPacket {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> ([u8; N], bool) {
        let mut bytes = Aligned([0; N]);
        // SAFETY: the helper writes N bytes, or fails.
        let failed =
            unsafe { bpf_xdp_load_bytes(self.ctx, offset, bytes.0.as_mut_ptr().cast::<c_void>(), N as u32) };
        (bytes.0, failed == 0)
    }
}

/// A whole packet at TC, pages included.
pub(crate) struct SkbPacket {
    pub(crate) skb: *mut __sk_buff,
}

impl Bytes for SkbPacket {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context of the program.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> ([u8; N], bool) {
        let mut bytes = Aligned([0; N]);
        let (skb, to) = (self.skb.cast::<c_void>(), bytes.0.as_mut_ptr().cast::<c_void>());
        // SAFETY: the helper writes N bytes, or fails.
        let failed = unsafe { bpf_skb_load_bytes(skb, offset, to, N as u32) };
        (bytes.0, failed == 0)
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context of the program.
        unsafe { (*self.skb).gso_size }
    }
}
