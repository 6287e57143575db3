//! From the LAN, or from the stack by way of the tunnel's interface, to the WAN.
use crate::maps::{self, KEYS, OUTBOUND, PEERS, STATE, TUNNELS};
use crate::steps;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INVALIDATE_HASH, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup as KernelFib,
};
use aya_ebpf::helpers::{
    bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_proto,
    bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use core::arch::asm;
use culvert_ebpf_shared::esp::layout::{Key, Tunnel};
use culvert_ebpf_shared::esp::reason::Reason;
use culvert_ebpf_shared::esp::{ETHERNET, Fib, MAX_INNER, State, inner, outer};

const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// At the back of a tunnel's interface: everything is ours.
pub(crate) const BACK: u32 = 0;
/// On a LAN device: the packet has not been routed yet. What has an odd side to it goes on to the stack, which routes it
/// into the tunnel's interface, where it comes here again.
pub(crate) const LAN: u32 = 1;
/// Where packets leave the stack for a TUN device: what is not ours, goes on into the device.
pub(crate) const TUN: u32 = 2;

/// Bytes that are taken off the head of a packet so that nothing remembers a checksum that was to be finished: link,
/// IPv6 and as much of the transport header as tells where that begins, a whole number of words.
const FORGET: u32 = 56;

#[inline(always)]
pub(crate) fn seal<const AT: u32>(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context of the program.
    let (len, interface, gso, protocol) =
        unsafe { ((*skb).len, (*skb).ifindex, (*skb).gso_size, (*skb).protocol) };
    if AT != BACK && (gso != 0 || protocol != IPV4 && protocol != IPV6) {
        return TC_ACT_UNSPEC;
    }
    let link = if AT == TUN { 0 } else { ETHERNET };
    let Some(s) = STATE.get_ptr_mut(0) else { return TC_ACT_SHOT };
    if len < link + 20 || len > link + MAX_INNER {
        return refuse::<AT>(interface, Reason::TooBig);
    }
    if gso != 0 {
        return refuse::<AT>(interface, Reason::BadOffload);
    }
    if AT == TUN {
        // Bulk is to be held up as little as can be.
        let Some(tunnel) = TUNNELS.get_ptr(&interface) else { return TC_ACT_UNSPEC };
        // SAFETY: a map value.
        let (active, longest, dscp) = unsafe { ((*tunnel).active, (*tunnel).longest, (*tunnel).dscp) };
        if active == 0 || dscp == 0 && len > longest {
            return TC_ACT_UNSPEC;
        }
    }
    let available = bounded(len - link, 0x7ff);
    if available < 20 || !load(skb, link, s, available) {
        return refuse::<AT>(interface, Reason::InnerMalformed);
    }
    // SAFETY: this CPU's state, for as long as the program runs.
    unsafe { (*s).available = available };
    if steps::esp_inspect(s) != 1 {
        return refuse::<AT>(interface, Reason::InnerMalformed);
    }
    let tunnel = if AT == LAN {
        if steps::esp_is_plain(s) != 1 {
            return TC_ACT_UNSPEC;
        }
        steps::esp_ask_inner(s, interface);
        match fib(skb, s) {
            BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {}
            _ => return TC_ACT_UNSPEC,
        }
        // SAFETY: as above.
        let out = unsafe { (*s).fib.interface };
        TUNNELS.get_ptr(&out)
    } else {
        TUNNELS.get_ptr(&interface)
    };
    let Some(tunnel) = tunnel else { return if AT == BACK { TC_ACT_SHOT } else { TC_ACT_UNSPEC } };
    // SAFETY: a map value, which stays readable until the program ends.
    let (tunnel, state) = unsafe { (&*tunnel, &*s) };
    if AT != BACK && (tunnel.active == 0 || state.inner_len > tunnel.mtu) {
        // The stack counts the one and answers the other.
        return TC_ACT_UNSPEC;
    }
    // One with two engines has all its packets go the same way through the stack, and its firewall.
    if AT == LAN && tunnel.is_split() || AT == TUN && steps::esp_is_small(s, tunnel) != 1 {
        return TC_ACT_UNSPEC;
    }
    let slot = steps::esp_select(s, tunnel);
    if slot < 0 {
        return if AT == BACK { unselected(tunnel, s) } else { TC_ACT_UNSPEC };
    }
    let slot = slot as u32;
    let (Some(out), Some(peer)) = (OUTBOUND.get_ptr_mut(&slot), PEERS.get_ptr(&slot)) else {
        return refuse::<BACK>(tunnel.interface, Reason::NotReady);
    };
    // SAFETY: a map value.
    let drops = unsafe { &raw mut (*out).drops };
    let Some(key) = KEYS.get_ptr(2 * slot + 1) else { return TC_ACT_SHOT };
    if AT == TUN {
        steps::esp_finish_checksum(s);
    }
    steps::esp_clamp(s, tunnel.mtu);
    if AT == LAN {
        steps::esp_decrement_ttl(s);
    }
    steps::esp_pad(s);
    steps::esp_ask(s, peer);
    let hop = fib(skb, s);
    // SAFETY: as above.
    let family = unsafe { (*s).fib.family };
    let same = (family == culvert_ebpf_shared::esp::AF_INET) == (protocol == IPV4);
    let resolve = hop == BPF_FIB_LKUP_RET_NO_NEIGH;
    if hop != BPF_FIB_LKUP_RET_SUCCESS && !resolve {
        if AT == TUN {
            // Whose packets the rest are sees to it; nothing has been numbered.
            return TC_ACT_UNSPEC;
        }
        let too_big = hop == BPF_FIB_LKUP_RET_FRAG_NEEDED;
        maps::drop(drops, if too_big { Reason::WanTooBig } else { Reason::WanUnreachable });
        return TC_ACT_SHOT;
    }

    // RFC 4303 3.3.3: each number once, and none beyond the last.
    // SAFETY: map values; the counters are shared by all CPUs, and only ever added to.
    let (sequence, spi, esn) = unsafe {
        if (&raw const (*out).bytes).read_volatile() >= (*out).most_bytes
            || (&raw const (*out).sequence).read_volatile() >= (*out).last
        {
            maps::drop(drops, Reason::Exhausted);
            return TC_ACT_SHOT;
        }
        (maps::add(&raw mut (*out).sequence, 1) + 1, (*out).spi, (*out).esn != 0)
    };
    // SAFETY: as above.
    if sequence > unsafe { (*out).last } {
        maps::drop(drops, Reason::Exhausted);
        return TC_ACT_SHOT;
    }
    if !take_key(s, key) {
        maps::drop(drops, Reason::NotReady);
        return TC_ACT_SHOT;
    }
    // SAFETY: this CPU's state.
    outer::number(unsafe { &mut *s }, spi, sequence, esn);
    if steps::esp_seal(s) != 1 {
        maps::drop(drops, Reason::TooBig);
        return TC_ACT_SHOT;
    }
    steps::esp_wrap(s, peer);
    // SAFETY: as above.
    let (at, total, to, inner_len) = unsafe {
        let state = &*s;
        let total = ETHERNET + outer::outer_len(&*peer, state.text_len);
        (outer::frame_at(state), total, state.fib.interface, state.inner_len)
    };
    let total = bounded(total, 0x7ff);
    // SAFETY: helpers on the context; the state is longer than what may be read of it.
    let stored = unsafe {
        total >= ETHERNET
            && (AT != TUN || bpf_skb_change_head(skb, ETHERNET, 0) == 0)
            && (same || bpf_skb_change_proto(skb, other(protocol), 0) == 0)
            && bpf_skb_change_tail(skb, if AT == TUN { total + FORGET } else { total }, 0) == 0
            && (AT != TUN || bpf_skb_adjust_room(skb, -(FORGET as i32), BPF_ADJ_ROOM_MAC, 0) == 0)
            && bpf_skb_store_bytes(
                skb,
                0,
                s.cast::<u8>().add(bounded(at, 0x7f) as usize).cast(),
                total,
                BPF_F_INVALIDATE_HASH as u64,
            ) == 0
    };
    if !stored {
        maps::drop(drops, Reason::WanError);
        return TC_ACT_SHOT;
    }
    // SAFETY: a map value; helpers without preconditions.
    unsafe {
        maps::add(&raw mut (*out).bytes, inner_len as u64);
        if resolve {
            return bpf_redirect_neigh(to, core::ptr::null_mut(), 0, 0) as i32;
        }
        bpf_redirect(to, 0) as i32
    }
}

/// On a LAN, the stack sees to it; at a TUN device, who reads it.
#[inline(always)]
fn refuse<const AT: u32>(interface: u32, reason: Reason) -> i32 {
    if AT != BACK {
        return TC_ACT_UNSPEC;
    }
    // The back's number, or the front's.
    let front = match TUNNELS.get_ptr(&interface) {
        // SAFETY: a map value.
        Some(tunnel) => unsafe { (*tunnel).interface },
        None => interface,
    };
    maps::drop_of_tunnel(front, reason);
    TC_ACT_SHOT
}

/// No SA in use takes the packet. What several do not take is counted by the newest.
#[inline(always)]
fn unselected(tunnel: &Tunnel, state: *mut State) -> i32 {
    // SAFETY: this CPU's state.
    let s = unsafe { &*state };
    let (chatter, available) = (inner::is_link_local(s), s.available);
    if tunnel.active == 0 {
        let reason = if chatter { Reason::LinkLocal } else { Reason::NoOutboundSa };
        maps::drop_of_tunnel(tunnel.interface, reason);
        return TC_ACT_SHOT;
    }
    if let Some(out) = OUTBOUND.get_ptr_mut(&tunnel.slots[0]) {
        let reason = if chatter { Reason::LinkLocal } else { Reason::Selector };
        // SAFETY: a map value.
        maps::drop(unsafe { &raw mut (*out).drops }, reason);
    }
    if !chatter {
        maps::show(state, tunnel.interface, available);
    }
    TC_ACT_SHOT
}

/// False if the SA has no key yet, or no more.
#[inline(always)]
pub(crate) fn take_key(s: *mut State, key: *const Key) -> bool {
    // SAFETY: map values.
    let (s, key) = unsafe { (&mut *s, &*key) };
    let mut i = 0;
    while i < 8 {
        s.input[4 + i] = key.key[i];
        i += 1;
    }
    s.input[13] = key.salt;
    key.present != 0
}

/// Asks the kernel's routes and neighbours.
#[inline(always)]
pub(crate) fn fib(skb: *mut __sk_buff, s: *mut State) -> u32 {
    // SAFETY: the state's field is what the helper takes.
    unsafe {
        let fib = (&raw mut (*s).fib).cast::<KernelFib>();
        bpf_fib_lookup(skb.cast(), fib, size_of::<Fib>() as i32, 0) as u32
    }
}

/// Copies bytes of the packet into the text.
#[inline(always)]
pub(crate) fn load(skb: *mut __sk_buff, offset: u32, s: *mut State, len: u32) -> bool {
    // SAFETY: the text is longer than `bounded` lets a packet be.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, (&raw mut (*s).text).cast(), len) == 0 }
}

/// The other of the two ethertypes, as the kernel takes it.
#[inline(always)]
pub(crate) fn other(ethertype: u32) -> u16 {
    (if ethertype == IPV4 { IPV6 } else { IPV4 }) as u16
}

/// The same number, with its bound where the verifier cannot miss it.
#[inline(always)]
pub(crate) fn bounded(number: u32, mask: u32) -> u32 {
    let mut bounded = number as u64;
    // SAFETY: arithmetic on one register.
    unsafe {
        asm!("{at} &= {mask}", at = inout(reg) bounded, mask = in(reg) mask as u64, options(pure, nomem, nostack))
    };
    bounded as u32
}
