//! The guard of the WAN: one classifier under three hooks (XDP, TC with and without a link-layer header). Beside it, at LANs,
//! the program that leads packets into tunnels.
//!
//! What a packet is and what becomes of it is decided by `culvert-ebpf-shared`; here are only the maps, the reading of
//! packets and the counting. Oldest kernel: 5.18 (`bpf_xdp_load_bytes`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features)]

mod lan;
mod maps;
mod redirect;
mod runtime;
mod samples;
mod source;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::bpf_xdp_get_buff_len;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use culvert_ebpf_shared::judge::NO_SLOT;
use culvert_ebpf_shared::layout::{MODE_LEARN, MODE_OFF, Sa, counter_index};
use culvert_ebpf_shared::redirect::{NEXT_LAN, NEXT_WAN};
use culvert_ebpf_shared::{Judgement, Parsed, Verdict, judge, parse_ethernet, parse_ip};
use maps::Maps;
use source::{Linear, SkbPacket, XdpPacket};

/// For network interfaces that run XDP, natively or not.
#[xdp(frags)]
pub fn culvert_xdp(ctx: XdpContext) -> u32 {
    let Some(mode) = judged_mode() else { return xdp_action::XDP_PASS };
    // SAFETY: the context of the program. Counts the bytes in fragments of jumbo frames too.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32;
    let linear = Linear::new(ctx.data(), ctx.data_end(), length, 0);
    let mut parsed = parse_ethernet(&linear);
    if linear.missed() {
        parsed = parse_ethernet(&XdpPacket { ctx: ctx.ctx, length });
    }
    let (verdict, judgement) = decide(&parsed, length, 1, mode);
    if matches!(judgement.reason.verdict(), Verdict::Drop) {
        samples::culvert_show_xdp(ctx.ctx, counter(&judgement, mode), length);
    }
    match verdict {
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Pass if judgement.path == Sa::PATH_XSK => {
            redirect::to_worker(&ctx, judgement.worker, length)
        }
        Verdict::Pass if judgement.path == Sa::PATH_CPU => redirect::to_cpu(judgement.worker),
        Verdict::Pass if judgement.path == Sa::PATH_BPF => redirect::to_next(&ctx, NEXT_WAN),
        Verdict::Pass => xdp_action::XDP_PASS,
    }
}

/// For LANs whose packets go into tunnels by AF_XDP.
#[xdp(frags)]
pub fn culvert_lan(ctx: XdpContext) -> u32 {
    if judged_mode().is_none() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the context of the program.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32;
    match lan::direct(&ctx, &Linear::new(ctx.data(), ctx.data_end(), length, 0)) {
        xdp_action::XDP_PASS => redirect::to_next(&ctx, NEXT_LAN),
        action => action,
    }
}

/// For links with Ethernet headers on which XDP would cost the sender its offloads.
#[classifier]
pub fn culvert_tc(ctx: TcContext) -> i32 {
    let Some(mode) = judged_mode() else { return TC_ACT_UNSPEC };
    let linear = linear(&ctx);
    let mut parsed = parse_ethernet(&linear);
    if linear.missed() {
        parsed = parse_ethernet(&SkbPacket { skb: ctx.skb.skb });
    }
    decide_skb(&ctx, &parsed, 1, mode)
}

/// For links whose packets begin with the IP header.
#[classifier]
pub fn culvert_tc_ip(ctx: TcContext) -> i32 {
    let Some(mode) = judged_mode() else { return TC_ACT_UNSPEC };
    let linear = linear(&ctx);
    let mut parsed = parse_ip(&linear, 0);
    if linear.missed() {
        parsed = parse_ip(&SkbPacket { skb: ctx.skb.skb }, 0);
    }
    decide_skb(&ctx, &parsed, 0, mode)
}

#[inline(always)]
fn linear(ctx: &TcContext) -> Linear {
    // SAFETY: the context of the program; the verifier checks the access.
    let segment = unsafe { (*ctx.skb.skb).gso_size };
    Linear::new(ctx.data(), ctx.data_end(), ctx.len(), segment)
}

/// None if the guard is off (also before user space has configured it).
#[inline(always)]
fn judged_mode() -> Option<u32> {
    match maps::mode() {
        MODE_OFF => None,
        mode => Some(mode),
    }
}

/// The verdict on a socket buffer; `ethernet`: 1 if it begins with an Ethernet header.
#[inline(always)]
fn decide_skb(ctx: &TcContext, parsed: &Parsed, ethernet: u32, mode: u32) -> i32 {
    let (verdict, judgement) = decide(parsed, ctx.len(), segments(ctx), mode);
    if matches!(judgement.reason.verdict(), Verdict::Drop) {
        samples::culvert_show_skb(ctx.skb.skb, counter(&judgement, mode), ethernet);
    }
    skb_action(verdict)
}

/// Where a judgement is counted.
#[inline(always)]
fn counter(judgement: &Judgement, mode: u32) -> u32 {
    counter_index(judgement.reason, mode == MODE_LEARN)
}

/// Judges and counts.
#[inline(always)]
fn decide(parsed: &Parsed, length: u32, segments: u64, mode: u32) -> (Verdict, Judgement) {
    let judgement = judge(parsed, &Maps);
    let verdict = judgement.reason.verdict();
    let learning = mode == MODE_LEARN && matches!(verdict, Verdict::Drop);
    maps::count(judgement.reason, learning, segments, length as u64);
    if judgement.slot != NO_SLOT {
        maps::count_sa(judgement.slot, segments, parsed.ip_len as u64);
    }
    (if learning { Verdict::Pass } else { verdict }, judgement)
}

/// UNSPEC, not OK: programs that others attached behind this one get to see the packet.
#[inline(always)]
fn skb_action(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn segments(ctx: &TcContext) -> u64 {
    // SAFETY: the context of the program; the verifier checks the access.
    match unsafe { (*ctx.skb.skb).gso_segs } {
        0 => 1,
        segments => segments as u64,
    }
}
