//! From the WAN to the LAN, or to the stack as if the tunnel's interface had received it.
use crate::maps::{self, INBOUND, KEYS, PEERS, SELECTORS, STATE, TUNNELS};
use crate::packet::{Buffer, Early, Frame, Packet};
use crate::samples::esp_show;
use crate::seal::{ETHERNET_IPV4, ETHERNET_IPV6, bounded, fib, load, take_key};
use crate::source::Linear;
use crate::steps;
use aya_ebpf::bindings::{__sk_buff, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_md};
use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::programs::TcContext;
use culvert_ebpf_shared::esp::inner::Unpacked;
use culvert_ebpf_shared::esp::layout::{Device, Inbound, Tunnel, sample_kind};
use culvert_ebpf_shared::esp::reason::Reason;
use culvert_ebpf_shared::esp::window::Place;
use culvert_ebpf_shared::esp::{ESP_AND_IV, ETHERNET, HEAD, ICV, MAX_TEXT, State, inner, outer};
use culvert_ebpf_shared::{Bytes, Class, parse_ethernet};

/// Bytes by which a text may be longer than the MTU of a device that still takes what was in it, as XDP redirects it:
/// pad length and next header, and the VLAN tag for which drivers leave room.
const BEYOND_MTU: u32 = 6;

/// Not ours, or not as it should be: the stack puts fragments together and takes trains, and hands them to user space.
#[inline(always)]
pub(crate) fn open(ctx: &TcContext) -> i32 {
    let Some(s) = STATE.get_ptr_mut(0) else { return TC_ACT_SHOT };
    // SAFETY: this CPU's state.
    unsafe { (*s).direct = 1 };
    if esp_find(ctx.skb.skb, s) != 1 { TC_ACT_UNSPEC } else { esp_receive(ctx.skb.skb, s) }
}

/// Under XDP: what is for a tunnel whose packets may go past the stack.
#[inline(always)]
pub(crate) fn open_early(ctx: *mut xdp_md) -> i32 {
    let Some(s) = STATE.get_ptr_mut(0) else { return Early::DROP };
    // SAFETY: this CPU's state.
    unsafe { (*s).direct = 1 };
    if esp_find_early(ctx, s) != 1 { Early::PASS } else { esp_receive_early(ctx, s) }
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
    let (start, end, len, gso, protocol, s) =
        unsafe { ((*skb).data, (*skb).data_end, (*skb).len, (*skb).gso_size, (*skb).protocol, &mut *state) };
    // SAFETY: as above.
    let tagged = unsafe { (*skb).vlan_present };
    if gso != 0 || tagged != 0 || protocol != ETHERNET_IPV4 && protocol != ETHERNET_IPV6 {
        return 0;
    }
    find(&Linear::new(start as usize, end as usize, len, 0), protocol, s)
}

/// The same under XDP, if the device is one where that opens.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn esp_find_early(ctx: *mut xdp_md, state: *mut State) -> i32 {
    if state.is_null() {
        return 0;
    }
    let Some((frame, protocol)) = Early(ctx).frame(0, false) else { return 0 };
    // SAFETY: this CPU's state.
    find(&frame, protocol, unsafe { &mut *state })
}

#[inline(always)]
fn find(frame: &Linear, protocol: u32, s: &mut State) -> i32 {
    let parsed = parse_ethernet(frame);
    if parsed.class as u32 != Class::Esp as u32 {
        return 0;
    }
    let ([a, b, ..], true) = frame.load::<4>(ETHERNET) else { return 0 };
    s.class = if protocol == ETHERNET_IPV4 { b as u32 } else { ((a as u32) << 4 | b as u32 >> 4) & 0xff };
    s.outer_port = 0;
    if parsed.natt {
        let ([c, d], true) = frame.load::<2>(parsed.offset - 8) else { return 0 };
        s.outer_port = u16::from_ne_bytes([c, d]) as u32;
    }
    s.outer_source = parsed.source;
    s.outer_destination = parsed.destination;
    s.outer_family = protocol;
    s.frame_len = frame.length();
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
    if s.is_null() { TC_ACT_SHOT } else { receive(Buffer(skb), s) }
}

/// The same under XDP.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn esp_receive_early(ctx: *mut xdp_md, s: *mut State) -> i32 {
    if s.is_null() { Early::DROP } else { receive(Early(ctx), s) }
}

/// Whether XDP opens packets of such a length for the tunnel: what cannot go to a LAN device is sent into the tunnel's
/// interface by its back, which takes nothing longer than that interface may receive.
#[inline(always)]
fn takes_early(tunnel: &Tunnel, text_len: u32) -> bool {
    tunnel.direct != 0
        && !tunnel.is_split()
        && text_len <= tunnel.mtu + BEYOND_MTU
        && maps::device_has(tunnel.back, Device::FRAMES)
}

#[inline(always)]
fn receive<P: Packet>(packet: P, s: *mut State) -> i32 {
    // SAFETY: this CPU's state.
    let (spi, low, offset, esp_len, class) =
        unsafe { ((*s).esp[0], (*s).esp[1], (*s).esp_at, (*s).esp_len, (*s).class) };
    let Some(sa) = INBOUND.get_ptr_mut(&spi) else { return P::PASS };
    // SAFETY: a map value.
    let (slot, interface) = unsafe { ((*sa).slot, (*sa).tunnel) };
    // SAFETY: this CPU's state.
    if unsafe { (*s).direct } != 0 {
        let Some(peer) = PEERS.get_ptr(&slot) else { return P::PASS };
        // SAFETY: a map value, and this CPU's state.
        if unsafe { (*peer).local != (*s).outer_destination } {
            // Forwarded from one stranger to another, or late after a move, and then it comes by a socket.
            return P::PASS;
        }
    }
    if P::EARLY {
        let Some(tunnel) = TUNNELS.get_ptr(&interface) else { return P::PASS };
        // SAFETY: a map value.
        if !takes_early(unsafe { &*tunnel }, inner::text_len(esp_len).unwrap_or(0)) {
            return P::PASS;
        }
    }
    let text_len = match inner::text_len(esp_len) {
        None => return refuse::<P>(s, sa, low, Reason::EspShort),
        Some(len) if len & 3 != 0 => return refuse::<P>(s, sa, low, Reason::EspMisaligned),
        Some(len) if len > MAX_TEXT => return refuse::<P>(s, sa, low, Reason::TooBig),
        Some(len) => len,
    };
    let whole = bounded(text_len + ICV, 0x7ff);
    // SAFETY: helpers that write as much as they are told.
    let loaded = unsafe {
        (*s).text_len = text_len;
        // By "at least" all verifiers learn of a bound, by "not 0" the newest alone.
        whole >= ICV
            && packet.load(offset, (&raw mut (*s).esp).cast(), ESP_AND_IV)
            && load(packet, offset + ESP_AND_IV, s, whole)
    };
    if !loaded {
        return refuse::<P>(s, sa, low, Reason::EspShort);
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
        Place::Duplicate => return refuse::<P>(s, sa, low, Reason::Duplicate),
        Place::TooOld => return refuse::<P>(s, sa, low, Reason::TooOld),
    }
    let Some(key) = KEYS.get_ptr(2 * (slot & 0xffff)) else { return P::DROP };
    if !take_key(s, key) {
        return refuse::<P>(s, sa, low, Reason::NotReady);
    }
    // SAFETY: this CPU's state.
    outer::renumber(unsafe { &mut *s }, sequence, esn);
    if steps::esp_open(s) != 1 {
        return refuse::<P>(s, sa, low, Reason::NotAuthentic);
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
        Place::Duplicate => return refuse::<P>(s, sa, low, Reason::Duplicate),
        Place::TooOld => return refuse::<P>(s, sa, low, Reason::TooOld),
    }
    match verdict {
        DELIVER => {}
        1 => return refuse::<P>(s, sa, low, Reason::BadPadding),
        2 => return refuse::<P>(s, sa, low, Reason::Dummy),
        3 => return refuse::<P>(s, sa, low, Reason::NextHeader),
        4 => return refuse::<P>(s, sa, low, Reason::InnerMalformed),
        SELECTOR => return refuse::<P>(s, sa, low, Reason::Selector),
        _ => return refuse::<P>(s, sa, low, Reason::Ecn),
    }

    let Some(tunnel) = TUNNELS.get_ptr(&interface) else { return refuse::<P>(s, sa, low, Reason::TunDown) };
    // SAFETY: a map value.
    let tunnel = unsafe { &*tunnel };
    steps::esp_clamp(s, tunnel.mtu);
    let mut direct = false;
    // SAFETY: this CPU's state.
    if tunnel.direct != 0 && unsafe { (*s).direct } != 0 && steps::esp_is_plain(s) == 1 {
        steps::esp_ask_inner(s, interface);
        if fib(packet, s) == BPF_FIB_LKUP_RET_SUCCESS {
            let flags = if P::EARLY { Device::LAN | Device::FRAMES } else { Device::LAN };
            // SAFETY: this CPU's state.
            direct = maps::device_has(unsafe { (*s).fib.interface }, flags);
        }
    }
    if direct {
        steps::esp_decrement_ttl(s);
    } else {
        // SAFETY: this CPU's state.
        unsafe {
            (*s).fib.destination_mac = tunnel.mac;
            (*s).fib.source_mac = tunnel.mac;
        }
    }
    steps::esp_unwrap(s);
    // SAFETY: this CPU's state.
    let (inner_len, family, outer_family, frame_len, to) =
        unsafe { ((*s).inner_len, (*s).family, (*s).outer_family, (*s).frame_len, (*s).fib.interface) };
    let total = bounded(ETHERNET + inner_len, 0x7ff);
    let frame = Frame {
        // SAFETY: within the state, which is longer than what may be read of it.
        bytes: unsafe { s.cast::<u8>().add(HEAD - ETHERNET as usize).cast() },
        len: total,
        instead_of: frame_len,
        same_family: (family == 4) == (outer_family == ETHERNET_IPV4),
    };
    // SAFETY: as above.
    if total < ETHERNET || !unsafe { packet.disclose(frame, offset + ESP_AND_IV - ETHERNET) } {
        return refuse::<P>(s, sa, low, Reason::WanError);
    }
    // As if the tunnel's interface had received it: the peer's idea of the MTU may be another than its.
    if direct { packet.send(to) } else { packet.deliver(tunnel.interface, tunnel.back) }
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
fn refuse<P: Packet>(s: *mut State, sa: *mut Inbound, low: u32, reason: Reason) -> i32 {
    // SAFETY: a map value.
    let (drops, tunnel) = unsafe { (&raw mut (*sa).drops, (*sa).tunnel) };
    maps::drop(drops, reason);
    esp_show(s, sample_kind(reason, false), tunnel, low);
    P::DROP
}
