//! Lowers the segment size that TCP connections through a tunnel of the kernel's agree on to what fits the tunnel.
//!
//! For an xfrm interface, both ways. An object of its own. Oldest kernel: 5.12
//! (`bpf_check_mtu`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod runtime;
#[allow(dead_code)] // here only what reads a socket buffer
mod source;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_skb_load_bytes_relative};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use culvert_ebpf_shared::mss;
use culvert_ebpf_shared::packet::Bytes;
use source::SkbPacket;

const TCP: u8 = 6;

#[classifier]
pub fn culvert_mss(ctx: TcContext) -> i32 {
    clamp(&ctx);
    TC_ACT_UNSPEC
}

/// Where the IP header is. What came to the kernel by Ethernet has an Ethernet header in front of it once more after ESP
/// (`xfrm4_remove_tunnel_encap`), which is none of the interface's.
#[inline(always)]
fn network(ctx: &TcContext, packet: &SkbPacket) -> Option<u32> {
    const ETHERNET: u32 = 14;
    let mut header = 0u128;
    // SAFETY: the helper writes 16 bytes to words that live through the call, or fails.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(ctx.as_ptr(), 0, (&raw mut header).cast(), 16, BPF_HDR_START_NET)
    };
    let same = |at| {
        let (bytes, there) = packet.load::<16>(at);
        there && u128::from_ne_bytes(bytes) == header
    };
    if failed != 0 {
        None
    } else if same(0) {
        Some(0)
    } else if same(ETHERNET) {
        Some(ETHERNET)
    } else {
        None
    }
}

#[inline(always)]
fn clamp(ctx: &TcContext) {
    let packet = SkbPacket { skb: ctx.skb.skb };
    let Some(network) = network(ctx, &packet) else { return };
    let first = packet.load::<2>(network).0;
    let ipv6 = first[0] >> 4 == 6;
    let (start, end, is_tcp) = if ipv6 {
        // Behind extension headers nobody opens a connection.
        let ([high, low, protocol, _], there) = packet.load::<4>(network + 4);
        let payload = u16::from_be_bytes([high, low]) as u32;
        (network + 40, network + 40 + payload, there && protocol == TCP)
    } else {
        let length = u16::from_be_bytes(packet.load::<2>(network + 2).0) as u32;
        let ([high, low, _, protocol], there) = packet.load::<4>(network + 6);
        let later_fragment = u16::from_be_bytes([high, low]) & 0x1fff != 0;
        let start = network + (first[0] & 15) as u32 * 4;
        (start, network + length, there && protocol == TCP && !later_fragment)
    };
    if !is_tcp {
        return;
    }
    let Some(at) = mss::option(&packet, start, end) else { return };
    let (old, there) = packet.load::<2>(at);
    let mut mtu = 0u32;
    // SAFETY: the helper writes the MTU of the packet's own interface to a word that lives through the call. Whether the
    // packet itself is larger does not matter.
    if unsafe { bpf_check_mtu(ctx.as_ptr(), 0, &raw mut mtu, 0, 0) } < 0 || !there {
        return;
    }
    let most = mss::largest(mtu as usize, ipv6);
    if u16::from_be_bytes(old) <= most {
        return;
    }
    let new = most.to_be_bytes();
    if ctx.store(at as usize, &new, 0).is_err() {
        return;
    }
    // At an odd offset its bytes lie in the other halves of two words of the sum.
    let word = |[a, b]: [u8; 2]| {
        if (at - start) % 2 == 0 { u16::from_ne_bytes([a, b]) } else { u16::from_ne_bytes([b, a]) }
    };
    let _ = ctx.l4_csum_replace(start as usize + 16, word(old) as u64, word(new) as u64, 2);
}
