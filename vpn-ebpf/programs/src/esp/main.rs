//! The engine `bpf`: ESP with ChaCha20-Poly1305 under TC and XDP, without a socket and without kernel ESP.
//!
//! `culvert_esp_back` sits at the back of each tunnel's interface and seals whatever is routed into the tunnel;
//! `culvert_esp_lan` seals what comes from a LAN before the stack sees it; `culvert_esp_tun` seals what is small of a tunnel
//! whose bulk is another engine's; `culvert_esp_wan` opens. Those of LANs and the WAN have twins under XDP, which take what
//! is plain before there is a socket buffer and leave the rest to them. An object of its own: hosts that do not use the engine
//! never load it. Oldest kernel: 6.1, by what was tried; under XDP 6.3, which tells what drivers do.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features)]

mod maps;
mod open;
mod packet;
mod samples;
mod seal;
#[allow(dead_code)]
#[path = "../source.rs"]
mod source;
mod steps;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// On the back of tunnels' interfaces.
#[classifier]
pub fn culvert_esp_back(ctx: TcContext) -> i32 {
    seal::seal::<{ seal::BACK }>(&ctx)
}

/// On LAN devices.
#[classifier]
pub fn culvert_esp_lan(ctx: TcContext) -> i32 {
    seal::seal::<{ seal::LAN }>(&ctx)
}

/// At the egress of TUN devices, for what is small of tunnels that have two engines.
#[classifier]
pub fn culvert_esp_tun(ctx: TcContext) -> i32 {
    seal::seal::<{ seal::TUN }>(&ctx)
}

/// On WAN devices, behind the guard.
#[classifier]
pub fn culvert_esp_wan(ctx: TcContext) -> i32 {
    open::open(&ctx)
}

/// On LAN devices under XDP, alone or behind the program of AF_XDP.
#[xdp(frags)]
pub fn culvert_esp_lan_xdp(ctx: XdpContext) -> u32 {
    seal::seal_early(ctx.ctx) as u32
}

/// On WAN devices under XDP, alone or behind the guard.
#[xdp(frags)]
pub fn culvert_esp_wan_xdp(ctx: XdpContext) -> u32 {
    open::open_early(ctx.ctx) as u32
}

/// Run by user space with packets that the stack put together, or had joined: it delivers what was opened.
#[classifier]
pub fn culvert_esp_odd(ctx: TcContext) -> i32 {
    open::open_odd(&ctx)
}

/// The kernel takes GPL-only helpers from programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic, and the verifier refuses an endless loop: a panic would not load.
    loop {}
}
