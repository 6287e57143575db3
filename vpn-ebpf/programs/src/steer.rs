//! Divides a UDP port among the workers: each datagram goes to the socket of who owns its SPI.
//!
//! An object of its own, loaded once for each address, since a map of sockets is of one group. Oldest kernel: 4.19.
#![no_std]
#![no_main]

mod runtime;

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::{HashMap, ReusePortSockArray};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::macros::{btf_map, sk_reuseport};
use aya_ebpf::programs::SkReuseportContext;
use culvert_ebpf_shared::layout::SaKey;
use culvert_ebpf_shared::steer::{FIRST, MAX_OWNED, SOCKETS as SOCKETS_LEN, UDP_HEADER, socket_of};

#[btf_map]
static SOCKETS: ReusePortSockArray<{ SOCKETS_LEN as usize }> = ReusePortSockArray::new();

/// Not allocated beforehand: most gateways have few SAs.
#[btf_map]
static OWNERS: HashMap<SaKey, u32, { MAX_OWNED as usize }, { NO_PREALLOC }> = HashMap::new();

const NO_PREALLOC: usize = 1;
/// `SK_PASS`: to the socket that was chosen; if none was, to one that the kernel chooses.
const PASS: u32 = 1;

#[sk_reuseport]
pub fn culvert_steer(ctx: SkReuseportContext) -> u32 {
    let mut spi = 0u32;
    // SAFETY: the helper writes four bytes to a word that lives through the call. It leaves it alone, or clears it, if the
    // payload is shorter: a keepalive.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), UDP_HEADER, (&raw mut spi).cast(), 4) };
    // SAFETY: a word, which user space replaces whole.
    let owner = OWNERS.get_ptr(&SaKey(spi)).map(|owner| unsafe { *owner });
    let wanted = socket_of(u32::from_be(spi), owner);
    if SOCKETS.select_reuseport(&ctx, wanted).is_err() {
        // That socket is closed or was never there: the first is, while there are any of ours.
        let _ = SOCKETS.select_reuseport(&ctx, FIRST);
    }
    PASS
}
