//! Handing packets to AF_XDP sockets, to the programs of the engine `bpf`, and to other CPUs. What has none of them goes on to the
//! stack where it is.
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{CpuMap, HashMap, ProgramArray, XskMap};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use culvert_ebpf_shared::redirect::{MAX_CPUS, MAX_XSKS, NEXTS, XskKey, XskSlot};

#[btf_map]
static XSKS: XskMap<{ MAX_XSKS as usize }> = XskMap::new();

#[btf_map]
pub(crate) static XSK_SLOTS: HashMap<XskKey, XskSlot, { MAX_XSKS as usize }> = HashMap::new();

/// Programs of the engine `bpf`, which stand behind ours where both want the one place that a device has.
#[btf_map]
static NEXT: ProgramArray<{ NEXTS as usize }> = ProgramArray::new();

/// Queues to CPUs; user space fills in those that packets are spread over, and makes the map no longer than the host has CPUs.
#[btf_map]
static CPUS: CpuMap<{ MAX_CPUS as usize }> = CpuMap::new();

/// To the stack on that CPU; on this one where packets are not spread over that.
#[inline(always)]
pub(crate) fn to_cpu(cpu: u32) -> u32 {
    match CPUS.redirect(cpu, xdp_action::XDP_PASS as u64) {
        Ok(action) | Err(action) => action,
    }
}

/// To that program; on to the stack where there is none.
#[inline(always)]
pub(crate) fn to_next(ctx: &XdpContext, place: u32) -> u32 {
    // SAFETY: nothing is to be dropped.
    unsafe { NEXT.tail_call(ctx, place) };
    xdp_action::XDP_PASS
}

/// To the worker's socket at the queue where the packet arrived, if there is one and the packet fits its frames.
#[inline(always)]
pub(crate) fn to_worker(ctx: &XdpContext, worker: u32, length: u32) -> u32 {
    // SAFETY: the context of the program.
    let (device, queue) = unsafe { ((*ctx.ctx).ingress_ifindex, (*ctx.ctx).rx_queue_index) };
    let Some(found) = XSK_SLOTS.get_ptr(&XskKey { device, queue, worker }) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: user space replaces whole entries; the old one stays readable until this program ends (RCU).
    let XskSlot { slot, longest } = unsafe { *found };
    if length > longest {
        return xdp_action::XDP_PASS;
    }
    redirect(slot)
}

/// To the socket at this place of the map.
#[inline(always)]
pub(crate) fn redirect(slot: u32) -> u32 {
    // The flags are what is done where the map is empty.
    match XSKS.redirect(slot, xdp_action::XDP_PASS as u64) {
        Ok(action) | Err(action) => action,
    }
}
