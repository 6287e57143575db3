//! The maps of the engine. Their layout is `culvert_ebpf_shared::esp::layout`.
use crate::samples::esp_show;
use crate::seal::bounded;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_F_WRONLY};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use aya_ebpf::macros::btf_map;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use culvert_ebpf_shared::esp::layout::{
    Device, Drops, Inbound, Key, MAX_DEVICES, MAX_PAIRS, MAX_TUNNELS, Outbound, Peer, REFUSED_BYTES,
    Selectors, Tunnel, TunnelDrops, sample_kind,
};
use culvert_ebpf_shared::esp::reason::Reason;
use culvert_ebpf_shared::esp::{HEAD, HEAD_WORDS, State};

/// Memory is taken when an entry is.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

/// At 0 for programs that run when a packet comes, at 1 for what user space runs: the one may interrupt the other.
#[btf_map]
pub(crate) static STATE: PerCpuArray<State, 2> = PerCpuArray::new();

/// Written by user space, not read.
#[btf_map]
pub(crate) static KEYS: Array<Key, { 2 * MAX_PAIRS as usize }, { BPF_F_WRONLY as usize }> = Array::new();

#[btf_map]
pub(crate) static OUTBOUND: HashMap<u32, Outbound, { MAX_PAIRS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub(crate) static INBOUND: HashMap<u32, Inbound, { MAX_PAIRS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub(crate) static PEERS: HashMap<u32, Peer, { MAX_PAIRS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub(crate) static SELECTORS: HashMap<u32, Selectors, { MAX_PAIRS as usize }, SPARSE> = HashMap::new();

/// Each under two indices.
#[btf_map]
pub(crate) static TUNNELS: HashMap<u32, Tunnel, { 2 * MAX_TUNNELS as usize }, SPARSE> = HashMap::new();

#[btf_map]
pub(crate) static TUNNEL_DROPS: HashMap<u32, TunnelDrops, { MAX_TUNNELS as usize }, SPARSE> = HashMap::new();

/// What may be done at a device, by its index; nothing where there is no entry.
#[btf_map]
pub(crate) static DEVICES: HashMap<u32, Device, { MAX_DEVICES as usize }, SPARSE> = HashMap::new();

/// Packets that no selector takes, each behind the index of its tunnel's interface: user space answers some of them.
#[btf_map]
pub(crate) static REFUSED: RingBuf<u32, { REFUSED_BYTES as usize }> = RingBuf::new();

/// Whether the device has all of these flags.
#[inline(always)]
pub(crate) fn device_has(index: u32, flags: u16) -> bool {
    match DEVICES.get_ptr(&index) {
        // SAFETY: user space replaces whole entries; the old one stays readable until this program ends (RCU).
        Some(device) => unsafe { (*device).has(flags) },
        None => false,
    }
}

/// Gives user space the packet in the text, of `available` bytes. Lost where there is no room.
#[inline(always)]
pub(crate) fn show(s: *mut State, interface: u32, available: u32) {
    let len = bounded(available + 4, 0x7ff);
    // SAFETY: this CPU's state, which is longer than `bounded` lets the copy be; the helper copies it.
    unsafe {
        (*s).head[HEAD_WORDS - 1] = interface;
        let from = s.cast::<u8>().add(HEAD - 4);
        bpf_ringbuf_output((&raw const REFUSED).cast_mut().cast(), from.cast(), len as u64, 0);
    }
}

/// Counts a dropped packet.
#[inline(always)]
pub(crate) fn drop(drops: *mut Drops, reason: Reason) {
    // SAFETY: the caller's map value; the index is a constant within it.
    unsafe { add(drops.cast::<u64>().add(reason as usize), 1) };
}

/// Counts a dropped packet on its way to the peer, and shows it to who looks.
#[inline(always)]
pub(crate) fn drop_outward(s: *mut State, tunnel: u32, drops: *mut Drops, reason: Reason) {
    drop(drops, reason);
    esp_show(s, sample_kind(reason, true), tunnel, 0);
}

/// Counts a packet that met no SA of its tunnel, and shows it to who looks.
#[inline(always)]
pub(crate) fn drop_of_tunnel(s: *mut State, interface: u32, reason: Reason) {
    esp_show(s, sample_kind(reason, true), interface, 0);
    if let Some(tunnel) = TUNNEL_DROPS.get_ptr_mut(&interface) {
        // SAFETY: a map value.
        drop(unsafe { &raw mut (*tunnel).drops }, reason);
    }
}

/// Adds to a counter that all CPUs share, and says what it was.
///
/// # Safety
///
/// `counter` points into a map value, aligned to 8 bytes.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, n: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, n) }
}
