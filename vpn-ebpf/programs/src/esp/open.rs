//! From the WAN to the LAN, or to the stack as if the tunnel's interface had received it.
use crate::maps::{self, INBOUND, KEYS, LANS, SELECTORS, STATE, TUNNELS};
use crate::seal::{bounded, fib, load, other, take_key};
use crate::source::Linear;
use crate::steps;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::helpers::{
    bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_proto, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use culvert_ebpf_shared::esp::inner::Unpacked;
use culvert_ebpf_shared::esp::layout::Inbound;
use culvert_ebpf_shared::esp::reason::Reason;
use culvert_ebpf_shared::esp::window::Place;
use culvert_ebpf_shared::esp::{ESP_AND_IV, ETHERNET, HEAD, ICV, MAX_TEXT, State, inner, outer};
use culvert_ebpf_shared::{Bytes, Class, parse_ethernet};

const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Not ours, or not as it should be: the stack puts fragments together and takes trains, and hands them to user space.
#[inline(always)]
pub(crate) fn open(ctx: &TcContext) -> i32 {
    let Some(s) = STATE.get_ptr_mut(0) else { return TC_ACT_SHOT };
    // SAFETY: this CPU's state.
    unsafe { (*s).direct = 1 };
    if esp_find(ctx.skb.skb, s) != 1 { TC_ACT_UNSPEC } else { esp_receive(ctx.skb.skb, s) }
}

/// Whoever runs this has no way to the LAN devices: the packet is always the tunnel's.
#[inline(always)]
pub(crate) fn open_odd(ctx: &TcContext) -> i32 {
    let Some(s) = STATE.get_ptr_mut(1) else { return TC_ACT_SHOT };
    // SAFETY: this CPU's other state.
    unsafe { (*s).direct = 0 };
    if esp_find(ctx.skb.skb, s) != 1 { TC_ACT_UNSPEC } else { esp_receive(ctx.skb.skb, s) }
}

/// 1 if the packet is ESP, alone in a frame of its own; then the state says where.
///
/// A function of its own for the sake of its stack, and for the verifier, which follows the ways through it but once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn esp_find(skb: *mut __sk_buff, state: *mut State) -> i32 {
    if state.is_null() {
        return 0;
    }
    // SAFETY: the context of the program, and this CPU's state.
    let (start, end, len, gso, protocol, s) = unsafe {
        ((*skb).data, (*skb).data_end, (*skb).len, (*skb).gso_size, (*skb).protocol, &mut *state)
    };
    if gso != 0 || protocol != IPV4 && protocol != IPV6 {
        return 0;
    }
    let linear = Linear::new(start as usize, end as usize, len, 0);
    let parsed = parse_ethernet(&linear);
    if parsed.class as u32 != Class::Esp as u32 {
        return 0;
    }
    let ([a, b, ..], true) = linear.load::<4>(ETHERNET) else { return 0 };
    s.class = if protocol == IPV4 { b as u32 } else { ((a as u32) << 4 | b as u32 >> 4) & 0xff };
    s.outer_port = 0;
    if parsed.natt {
        let ([c, d], true) = linear.load::<2>(parsed.offset - 8) else { return 0 };
        s.outer_port = u16::from_ne_bytes([c, d]) as u32;
    }
    s.outer_source = parsed.source;
    s.esp_at = parsed.offset;
    s.esp_len = parsed.len;
    s.esp[0] = parsed.spi;
    s.esp[1] = parsed.sequence;
    1
}

/// Opens what was found, and says what becomes of the packet.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn esp_receive(skb: *mut __sk_buff, s: *mut State) -> i32 {
    if s.is_null() {
        return TC_ACT_SHOT;
    }
    // SAFETY: this CPU's state.
    let (spi, low, offset, esp_len, class) =
        unsafe { ((*s).esp[0], (*s).esp[1], (*s).esp_at, (*s).esp_len, (*s).class) };
    let Some(sa) = INBOUND.get_ptr_mut(&spi) else { return TC_ACT_UNSPEC };
    // SAFETY: a map value.
    let (drops, slot) = unsafe { (&raw mut (*sa).drops, (*sa).slot) };
    let text_len = match inner::text_len(esp_len) {
        None => return refuse(sa, Reason::EspShort),
        Some(len) if len & 3 != 0 => return refuse(sa, Reason::EspMisaligned),
        Some(len) if len > MAX_TEXT => return refuse(sa, Reason::TooBig),
        Some(len) => len,
    };
    let whole = bounded(text_len + ICV, 0x7ff);
    // SAFETY: helpers that write as much as they are told.
    let loaded = unsafe {
        (*s).text_len = text_len;
        // By "at least" all verifiers learn of a bound, by "not 0" the newest alone.
        whole >= ICV
            && bpf_skb_load_bytes(skb.cast(), offset, (&raw mut (*s).esp).cast(), ESP_AND_IV) == 0
            && load(skb, offset + ESP_AND_IV, s, whole)
    };
    if !loaded {
        return refuse(sa, Reason::EspShort);
    }

    // RFC 4303 3.4.3: check, verify, check again and advance.
    // SAFETY: a map value; what other CPUs write meanwhile is looked at again under the lock.
    let (sequence, place, esn) = unsafe {
        let window = &(*sa).window;
        let sequence = window.infer(low);
        (sequence, window.check(sequence), window.esn != 0)
    };
    match place {
        Place::New => {}
        Place::Duplicate => return refuse(sa, Reason::Duplicate),
        Place::TooOld => return refuse(sa, Reason::TooOld),
    }
    let Some(key) = KEYS.get_ptr(2 * (slot & 0xffff)) else { return TC_ACT_SHOT };
    if !take_key(s, key) {
        return refuse(sa, Reason::NotReady);
    }
    // SAFETY: this CPU's state.
    outer::renumber(unsafe { &mut *s }, sequence, esn);
    if steps::esp_open(s) != 1 {
        return refuse(sa, Reason::NotAuthentic);
    }
    let verdict = judge(s, slot, class);

    // SAFETY: the lock of this map value; nothing is called while it is held.
    let place = unsafe {
        let lock = (&raw mut (*sa).lock).cast();
        bpf_spin_lock(lock);
        let newest = sequence > (*sa).window.highest;
        let place = (*sa).window.accept(sequence);
        if let Place::New = place {
            if newest {
                (*sa).seen = (*s).outer_source;
                (*sa).seen_port = (*s).outer_port;
            }
            if verdict == DELIVER {
                (*sa).packets += 1;
                (*sa).bytes += (*s).inner_len as u64;
            }
        }
        bpf_spin_unlock(lock);
        place
    };
    match place {
        Place::New => {}
        Place::Duplicate => return refuse(sa, Reason::Duplicate),
        Place::TooOld => return refuse(sa, Reason::TooOld),
    }
    match verdict {
        DELIVER => {}
        1 => return refuse(sa, Reason::BadPadding),
        2 => return refuse(sa, Reason::Dummy),
        3 => return refuse(sa, Reason::NextHeader),
        4 => return refuse(sa, Reason::InnerMalformed),
        SELECTOR => return refuse(sa, Reason::Selector),
        _ => return refuse(sa, Reason::Ecn),
    }

    // SAFETY: a map value.
    let interface = unsafe { (*sa).tunnel };
    let Some(tunnel) = TUNNELS.get_ptr(&interface) else { return refuse(sa, Reason::TunDown) };
    // SAFETY: as above.
    let tunnel = unsafe { &*tunnel };
    steps::esp_clamp(s, tunnel.mtu);
    let mut direct = false;
    // SAFETY: this CPU's state.
    if tunnel.direct != 0 && unsafe { (*s).direct } != 0 && steps::esp_is_plain(s) == 1 {
        steps::esp_ask_inner(s, interface);
        if fib(skb, s) == BPF_FIB_LKUP_RET_SUCCESS {
            // SAFETY: this CPU's state.
            let to = unsafe { (*s).fib.interface };
            direct = LANS.get_ptr(&to).is_some();
        }
    }
    // SAFETY: this CPU's state.
    unsafe {
        if direct {
            steps::esp_decrement_ttl(s);
        } else {
            (*s).fib.interface = tunnel.interface;
            (*s).fib.destination_mac = tunnel.mac;
            (*s).fib.source_mac = tunnel.mac;
        }
    }
    steps::esp_unwrap(s);
    // SAFETY: helpers on the context; the state is longer than what may be read of it.
    unsafe {
        let total = bounded(ETHERNET + (*s).inner_len, 0x7ff);
        // The head goes first: with it goes what the kernel remembered of an outer checksum.
        let outer = (offset + ESP_AND_IV - ETHERNET) as i32;
        let protocol = (*skb).protocol;
        let same = ((*s).family == 4) == (protocol == IPV4);
        let stored = total >= ETHERNET
            && bpf_skb_adjust_room(skb, -outer, BPF_ADJ_ROOM_MAC, 0) == 0
            && (same || bpf_skb_change_proto(skb, other(protocol), 0) == 0)
            && bpf_skb_change_tail(skb, total, 0) == 0
            && bpf_skb_store_bytes(
                skb,
                0,
                s.cast::<u8>().add(HEAD - ETHERNET as usize).cast(),
                total,
                (BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH) as u64,
            ) == 0;
        if !stored {
            maps::drop(drops, Reason::WanError);
            return TC_ACT_SHOT;
        }
        // As if the tunnel's interface had received it: the peer's idea of the MTU may be another than its.
        bpf_redirect((*s).fib.interface, if direct { 0 } else { BPF_F_INGRESS as u64 }) as i32
    }
}

const DELIVER: u32 = 0;
const SELECTOR: u32 = 5;
const ECN: u32 = 6;

/// What is to become of an authentic packet: 0 to 4 are `Unpacked`.
#[inline(always)]
fn judge(s: *mut State, slot: u32, class: u32) -> u32 {
    if steps::esp_unpad(s) != 1 {
        return Unpacked::BadPadding as u32;
    }
    // SAFETY: this CPU's state.
    let held = inner::held(unsafe { &*s });
    if held as u32 != Unpacked::Packet as u32 {
        return held as u32;
    }
    // SAFETY: as above.
    if steps::esp_inspect(s) != 1 || !inner::is_of_family(unsafe { &*s }) {
        return Unpacked::Malformed as u32;
    }
    let Some(selectors) = SELECTORS.get_ptr(&slot) else { return SELECTOR };
    if steps::esp_matches(s, selectors, 0) != 1 {
        return SELECTOR;
    }
    if steps::esp_decapsulate_ecn(s, class) != 1 {
        return ECN;
    }
    DELIVER
}

#[inline(always)]
fn refuse(sa: *mut Inbound, reason: Reason) -> i32 {
    // SAFETY: a map value.
    maps::drop(unsafe { &raw mut (*sa).drops }, reason);
    TC_ACT_SHOT
}
