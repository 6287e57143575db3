//! From the LAN, or from the stack by way of the tunnel's interface, to the WAN.
use crate::maps::{self, KEYS, OUTBOUND, PEERS, STATE, TUNNELS};
use crate::packet::{Buffer, Early, Frame, Packet};
use crate::steps;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as KernelFib, xdp_md,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use core::arch::asm;
use core::ffi::c_void;
use culvert_ebpf_shared::Bytes;
use culvert_ebpf_shared::esp::layout::{Device, Key, Tunnel};
use culvert_ebpf_shared::esp::reason::Reason;
use culvert_ebpf_shared::esp::{ETHERNET, Fib, MAX_INNER, State, inner, outer};

/// Ethertypes as the kernel has them.
pub(crate) const ETHERNET_IPV4: u32 = 0x0800_u16.to_be() as u32;
pub(crate) const ETHERNET_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// The packet is this host's, by its link-layer address.
const PACKET_HOST: u32 = 0;

/// At the back of a tunnel's interface: everything is ours.
pub(crate) const BACK: u32 = 0;
/// On a LAN device: the packet has not been routed yet. What has an odd side to it goes on to the stack, which routes it
/// into the tunnel's interface, where it comes here again.
pub(crate) const LAN: u32 = 1;
/// Where packets leave the stack for a TUN device: what is not ours, goes on into the device.
pub(crate) const TUN: u32 = 2;

/// What came, and where.
struct Came {
    len: u32,
    interface: u32,
    /// Bytes of its link header.
    link: u32,
    protocol: u32,
    /// It has several packets in it.
    train: bool,
}

/// Under TC.
#[inline(always)]
pub(crate) fn seal<const AT: u32>(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context of the program.
    let (len, interface, gso, protocol) =
        unsafe { ((*skb).len, (*skb).ifindex, (*skb).gso_size, (*skb).protocol) };
    // SAFETY: as above.
    let (kind, tagged) = unsafe { ((*skb).pkt_type, (*skb).vlan_present) };
    if AT != BACK && (gso != 0 || protocol != ETHERNET_IPV4 && protocol != ETHERNET_IPV6)
        || AT == LAN && (kind != PACKET_HOST || tagged != 0)
    {
        return Buffer::PASS;
    }
    let link = if AT == TUN { 0 } else { ETHERNET };
    seal_any::<Buffer, AT>(Buffer(skb), &Came { len, interface, link, protocol, train: gso != 0 })
}

/// Under XDP, on LAN devices.
#[inline(always)]
pub(crate) fn seal_early(ctx: *mut xdp_md) -> i32 {
    let Some((frame, protocol)) = Early(ctx).frame(Device::LAN, true) else { return Early::PASS };
    // SAFETY: the context of the program.
    let interface = unsafe { (*ctx).ingress_ifindex };
    let came = Came { len: frame.length(), interface, link: ETHERNET, protocol, train: false };
    seal_any::<Early, LAN>(Early(ctx), &came)
}

#[inline(always)]
fn seal_any<P: Packet, const AT: u32>(packet: P, came: &Came) -> i32 {
    let &Came { len, interface, link, protocol, train } = came;
    let Some(s) = STATE.get_ptr_mut(0) else { return P::DROP };
    if len < link + 20 || len > link + MAX_INNER {
        return refuse::<P, AT>(s, interface, Reason::TooBig);
    }
    if train {
        return refuse::<P, AT>(s, interface, Reason::BadOffload);
    }
    if AT == TUN {
        // Bulk is to be held up as little as can be.
        let Some(tunnel) = TUNNELS.get_ptr(&interface) else { return P::PASS };
        // SAFETY: a map value.
        let (active, longest, dscp) = unsafe { ((*tunnel).active, (*tunnel).longest, (*tunnel).dscp) };
        if active == 0 || dscp == 0 && len > longest {
            return P::PASS;
        }
    }
    let available = bounded(len - link, 0x7ff);
    if available < 20 || !load(packet, link, s, available) {
        return refuse::<P, AT>(s, interface, Reason::InnerMalformed);
    }
    // SAFETY: this CPU's state, for as long as the program runs.
    unsafe { (*s).available = available };
    if steps::esp_inspect(s) != 1 {
        return refuse::<P, AT>(s, interface, Reason::InnerMalformed);
    }
    let tunnel = if AT == LAN {
        if steps::esp_is_plain(s) != 1 {
            return P::PASS;
        }
        steps::esp_ask_inner(s, interface);
        match fib(packet, s) {
            BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {}
            _ => return P::PASS,
        }
        // SAFETY: as above.
        let out = unsafe { (*s).fib.interface };
        TUNNELS.get_ptr(&out)
    } else {
        TUNNELS.get_ptr(&interface)
    };
    let Some(tunnel) = tunnel else { return if AT == BACK { P::DROP } else { P::PASS } };
    // SAFETY: a map value, which stays readable until the program ends.
    let (tunnel, state) = unsafe { (&*tunnel, &*s) };
    if AT != BACK && (tunnel.active == 0 || state.inner_len > tunnel.mtu) {
        // The stack counts the one and answers the other.
        return P::PASS;
    }
    // One with two engines has all its packets go the same way through the stack, and its firewall.
    if AT == LAN && tunnel.is_split() || AT == TUN && steps::esp_is_small(s, tunnel) != 1 {
        return P::PASS;
    }
    let slot = steps::esp_select(s, tunnel);
    if slot < 0 {
        return if AT == BACK { unselected(tunnel, s) } else { P::PASS };
    }
    let slot = slot as u32;
    let (Some(out), Some(peer)) = (OUTBOUND.get_ptr_mut(&slot), PEERS.get_ptr(&slot)) else {
        return drop_of(s, tunnel.interface, Reason::NotReady, P::DROP);
    };
    // SAFETY: a map value.
    let drops = unsafe { &raw mut (*out).drops };
    let Some(key) = KEYS.get_ptr(2 * slot + 1) else { return P::DROP };
    if AT == TUN {
        steps::esp_finish_checksum(s);
    }
    steps::esp_clamp(s, tunnel.mtu);
    if AT == LAN {
        steps::esp_decrement_ttl(s);
    }
    steps::esp_pad(s);
    steps::esp_ask(s, peer);
    let hop = fib(packet, s);
    // SAFETY: as above.
    let family = unsafe { (*s).fib.family };
    let same = (family == culvert_ebpf_shared::esp::AF_INET) == (protocol == ETHERNET_IPV4);
    let resolve = hop == BPF_FIB_LKUP_RET_NO_NEIGH;
    if hop != BPF_FIB_LKUP_RET_SUCCESS && !resolve {
        if AT == TUN || P::EARLY {
            // Whose packets the rest are sees to it; nothing has been numbered.
            return P::PASS;
        }
        let too_big = hop == BPF_FIB_LKUP_RET_FRAG_NEEDED;
        maps::drop_outward(s, tunnel.interface, drops, if too_big { Reason::WanTooBig } else { Reason::WanUnreachable });
        return P::DROP;
    }
    // SAFETY: as above.
    if P::EARLY && (resolve || !maps::device_has(unsafe { (*s).fib.interface }, Device::FRAMES)) {
        return P::PASS;
    }

    // RFC 4303 3.3.3: each number once, and none beyond the last.
    // SAFETY: map values; the counters are shared by all CPUs, and only ever added to.
    let (sequence, spi, esn) = unsafe {
        if (&raw const (*out).bytes).read_volatile() >= (*out).most_bytes
            || (&raw const (*out).sequence).read_volatile() >= (*out).last
        {
            maps::drop_outward(s, tunnel.interface, drops, Reason::Exhausted);
            return P::DROP;
        }
        (maps::add(&raw mut (*out).sequence, 1) + 1, (*out).spi, (*out).esn != 0)
    };
    // SAFETY: as above.
    if sequence > unsafe { (*out).last } {
        maps::drop_outward(s, tunnel.interface, drops, Reason::Exhausted);
        return P::DROP;
    }
    if !take_key(s, key) {
        maps::drop_outward(s, tunnel.interface, drops, Reason::NotReady);
        return P::DROP;
    }
    // SAFETY: this CPU's state.
    outer::number(unsafe { &mut *s }, spi, sequence, esn);
    if steps::esp_seal(s) != 1 {
        maps::drop_outward(s, tunnel.interface, drops, Reason::TooBig);
        return P::DROP;
    }
    steps::esp_wrap(s, peer);
    // SAFETY: as above.
    let (at, total, to, inner_len) = unsafe {
        let state = &*s;
        let total = ETHERNET + outer::outer_len(&*peer, state.text_len);
        (outer::frame_at(state), total, state.fib.interface, state.inner_len)
    };
    let total = bounded(total, 0x7ff);
    let frame = Frame { bytes: bytes_at(s, at), len: total, instead_of: len, same_family: same };
    // SAFETY: the state is longer than what may be read of it.
    if total < ETHERNET || !unsafe { packet.close(frame, AT == TUN) } {
        maps::drop_outward(s, tunnel.interface, drops, Reason::WanError);
        return P::DROP;
    }
    // SAFETY: a map value.
    unsafe { maps::add(&raw mut (*out).bytes, inner_len as u64) };
    if !P::EARLY && resolve {
        // SAFETY: a helper without preconditions.
        return unsafe { bpf_redirect_neigh(to, core::ptr::null_mut(), 0, 0) as i32 };
    }
    packet.send(to)
}

/// The frame that begins there in the state.
#[inline(always)]
fn bytes_at(s: *mut State, at: u32) -> *mut c_void {
    // SAFETY: the state is longer than what `bounded` lets the place be.
    unsafe { s.cast::<u8>().add(bounded(at, 0x7f) as usize).cast() }
}

/// On a LAN, the stack sees to it; at a TUN device, who reads it.
#[inline(always)]
fn refuse<P: Packet, const AT: u32>(s: *mut State, interface: u32, reason: Reason) -> i32 {
    if AT == BACK { drop_of(s, interface, reason, P::DROP) } else { P::PASS }
}

/// Drops what met no SA, by the number of the tunnel's interface, or of its back.
#[inline(always)]
fn drop_of(s: *mut State, interface: u32, reason: Reason, drop: i32) -> i32 {
    let front = match TUNNELS.get_ptr(&interface) {
        // SAFETY: a map value.
        Some(tunnel) => unsafe { (*tunnel).interface },
        None => interface,
    };
    maps::drop_of_tunnel(s, front, reason);
    drop
}

/// No SA in use takes the packet. What several do not take is counted by the newest.
#[inline(always)]
fn unselected(tunnel: &Tunnel, state: *mut State) -> i32 {
    // SAFETY: this CPU's state.
    let s = unsafe { &*state };
    let (chatter, available) = (inner::is_link_local(s), s.available);
    if tunnel.active == 0 {
        let reason = if chatter { Reason::LinkLocal } else { Reason::NoOutboundSa };
        maps::drop_of_tunnel(state, tunnel.interface, reason);
        return Buffer::DROP;
    }
    if let Some(out) = OUTBOUND.get_ptr_mut(&tunnel.slots[0]) {
        let reason = if chatter { Reason::LinkLocal } else { Reason::Selector };
        // SAFETY: a map value.
        maps::drop_outward(state, tunnel.interface, unsafe { &raw mut (*out).drops }, reason);
    }
    if !chatter {
        maps::show(state, tunnel.interface, available);
    }
    Buffer::DROP
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
pub(crate) fn fib<P: Packet>(packet: P, s: *mut State) -> u32 {
    // SAFETY: the state's field is what the helper takes.
    unsafe {
        let fib = (&raw mut (*s).fib).cast::<KernelFib>();
        bpf_fib_lookup(packet.context(), fib, size_of::<Fib>() as i32, 0) as u32
    }
}

/// Copies bytes of the packet into the text.
#[inline(always)]
pub(crate) fn load<P: Packet>(packet: P, offset: u32, s: *mut State, len: u32) -> bool {
    // SAFETY: the text is longer than `bounded` lets a packet be.
    unsafe { packet.load(offset, (&raw mut (*s).text).cast(), len) }
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
