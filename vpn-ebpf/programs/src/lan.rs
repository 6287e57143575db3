//! Frames of a LAN that routes lead into a tunnel: to the AF_XDP socket of the worker that seals them.
//!
//! The kernel's routes are asked for each packet, so that what changes them (weights, failover, BGP, an operator) changes
//! this too: what is the gateway's own, forbidden, unreachable or too long for the tunnel goes on to the stack, which does
//! with it what it would do anyway.
use crate::redirect::{XSK_SLOTS, redirect};
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as KernelFib, xdp_action,
};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_xdp_adjust_meta};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use culvert_ebpf_shared::Bytes;
use culvert_ebpf_shared::esp::Fib;
use culvert_ebpf_shared::lan::{Lan, LanTunnel, MAX_LANS, MAX_TUNNELS, META, SEALS, question};
use culvert_ebpf_shared::redirect::XskKey;

#[btf_map]
static LANS: HashMap<u32, Lan, { MAX_LANS as usize }> = HashMap::new();

#[btf_map]
static LAN_TUNNELS: HashMap<u32, LanTunnel, { MAX_TUNNELS as usize }> = HashMap::new();

#[inline(always)]
pub(crate) fn direct<B: Bytes>(ctx: &XdpContext, frame: &B) -> u32 {
    // SAFETY: the context of the program.
    let (device, queue) = unsafe { ((*ctx.ctx).ingress_ifindex, (*ctx.ctx).rx_queue_index) };
    let Some(lan) = LANS.get_ptr(&device) else { return xdp_action::XDP_PASS };
    // SAFETY: user space replaces whole entries; the old one stays readable until this program ends (RCU).
    let mut fib = question(frame, unsafe { &*lan }, device);
    if fib.family == 0 {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the struct that the helper takes, and its size.
    let outcome = unsafe {
        let asked = (&raw mut fib).cast::<KernelFib>();
        bpf_fib_lookup(ctx.ctx.cast(), asked, size_of::<Fib>() as i32, 0) as u32
    };
    // A tunnel's interface has no neighbours.
    if outcome != BPF_FIB_LKUP_RET_SUCCESS && outcome != BPF_FIB_LKUP_RET_NO_NEIGH {
        return xdp_action::XDP_PASS;
    }
    let Some(tunnel) = LAN_TUNNELS.get_ptr(&fib.interface) else { return xdp_action::XDP_PASS };
    // SAFETY: as above.
    let worker = unsafe { (*tunnel).worker } | SEALS;
    let Some(found) = XSK_SLOTS.get_ptr(&XskKey { device, queue, worker }) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: as above.
    let found = unsafe { *found };
    if frame.length() > found.longest || !name_tunnel(ctx, fib.interface) {
        return xdp_action::XDP_PASS;
    }
    redirect(found.slot)
}

/// Writes the tunnel's interface before the frame. False where the driver has no room for it.
#[inline(always)]
fn name_tunnel(ctx: &XdpContext, interface: u32) -> bool {
    // SAFETY: a helper on the context.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(META as i32)) } != 0 {
        return false;
    }
    // SAFETY: the context of the program, as the helper left it.
    let (meta, data) = unsafe { ((*ctx.ctx).data_meta as usize, (*ctx.ctx).data as usize) };
    if meta + META > data {
        return false;
    }
    // SAFETY: within the metadata by the check above.
    unsafe { (meta as *mut u32).write_unaligned(interface) };
    true
}
