//! Samples of dropped packets for who looks; without one, a dropped packet costs a call and a comparison more.
//!
//! Global functions: the verifier sees them once, by themselves, and not behind each of the ways that lead through the parser.
use crate::maps;
use aya_ebpf::bindings::{__sk_buff, BPF_RB_NO_WAKEUP, xdp_md};
use aya_ebpf::btf_maps::{PerCpuArray, RingBuf};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes, bpf_xdp_load_bytes};
use aya_ebpf::macros::btf_map;
use core::arch::asm;
use core::ffi::c_void;
use culvert_ebpf_shared::layout::COUNTERS as COUNTERS_LEN;
use culvert_ebpf_shared::sample::{HEADERS, SAMPLES_BYTES, Sample, Sampled};

#[btf_map]
static SAMPLES: RingBuf<Sample, { SAMPLES_BYTES as usize }> = RingBuf::new();

#[btf_map]
static SAMPLED: PerCpuArray<Sampled, { COUNTERS_LEN as usize }> = PerCpuArray::new();

/// Shows a packet at XDP that is dropped, or would be. 1 if it was shown.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn culvert_show_xdp(ctx: *mut xdp_md, counter: u32, length: u32) -> i32 {
    if ctx.is_null() {
        return 0;
    }
    // SAFETY: the context of the program.
    let interface = unsafe { (*ctx).ingress_ifindex };
    let about = About { counter, interface, packets: 1, length, ethernet: 1 };
    // SAFETY: the helper writes so many bytes, or fails.
    show(&about, |to, len| unsafe { bpf_xdp_load_bytes(ctx, 0, to, len) == 0 })
}

/// The same of a socket buffer; `ethernet`: 1 if it begins with an Ethernet header.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn culvert_show_skb(skb: *mut __sk_buff, counter: u32, ethernet: u32) -> i32 {
    if skb.is_null() {
        return 0;
    }
    // SAFETY: the context of the program.
    let (interface, segments, length) = unsafe { ((*skb).ifindex, (*skb).gso_segs, (*skb).len) };
    let packets = if segments == 0 { 1 } else { segments };
    let about = About { counter, interface, packets, length, ethernet };
    // SAFETY: the helper writes so many bytes, or fails.
    show(&about, |to, len| unsafe { bpf_skb_load_bytes(skb.cast(), 0, to, len) == 0 })
}

/// What is told besides the packet.
struct About {
    counter: u32,
    interface: u32,
    packets: u32,
    length: u32,
    ethernet: u32,
}

/// If somebody looks and has not seen enough of its kind.
#[inline(always)]
fn show(about: &About, load: impl FnOnce(*mut c_void, u32) -> bool) -> i32 {
    let epoch = maps::epoch();
    if epoch == 0 || about.length == 0 {
        return 0;
    }
    let Some(sampled) = SAMPLED.get_ptr_mut(about.counter) else { return 0 };
    // SAFETY: this CPU's own copy.
    if !unsafe { (*sampled).admit(epoch) } {
        return 0;
    }
    let kept = if about.length < HEADERS as u32 { about.length } else { HEADERS as u32 };
    let kept = within(kept);
    // What finds no room is counted all the same.
    let Some(mut place) = SAMPLES.reserve(0) else { return 0 };
    let sample = place.as_mut_ptr();
    // SAFETY: memory for a sample. What is not written of its headers is not read either: `kept` says so.
    unsafe {
        (*sample).at = bpf_ktime_get_ns();
        (*sample).interface = about.interface;
        (*sample).counter = about.counter;
        (*sample).packets = about.packets;
        (*sample).length = about.length;
        (*sample).ethernet = about.ethernet;
        let loaded = load((&raw mut (*sample).headers).cast(), kept);
        (*sample).kept = if loaded { kept } else { 0 };
    }
    place.submit(BPF_RB_NO_WAKEUP as u64);
    1
}

/// The same number, from 1 to [`HEADERS`], in a form that no verifier misses.
#[inline(always)]
fn within(kept: u32) -> u32 {
    let mut less = (kept - 1) as u64;
    // SAFETY: arithmetic on one register.
    unsafe {
        asm!("{at} &= {most}", at = inout(reg) less, most = const HEADERS - 1, options(pure, nomem, nostack))
    };
    less as u32 + 1
}
