//! The inner packet, in the text of a [`State`]: what selectors and tunnel rules need to know of it, its trailer, its
//! TTL and its congestion marks. The rules are those of `culvert-esp`.
use super::layout::{MAX_SELECTORS, Selector, Selectors};
use super::{ICV, MAX_TEXT, State, TEXT_WORDS};
use core::hint::black_box;

/// Extension headers walked before a packet is refused.
const MAX_EXTENSIONS: u32 = 8;
const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;
const IPV4_MAPPED: u64 = 0xffff_0000_0000;

/// Reads the headers of the packet in the text, of which [`State::available`] bytes are there. False if they make no
/// sense.
#[inline(always)]
pub fn inspect(s: &mut State) -> bool {
    let first = s.word(0);
    s.odd = 0;
    s.shows_ports = 0;
    s.family = first >> 28;
    let (total, header) = if s.family == 4 {
        let header = (first >> 24 & 15) * 4;
        let total = first & 0xffff;
        s.class = first >> 16 & 0xff;
        s.source = [0, IPV4_MAPPED | s.word(3) as u64];
        s.destination = [0, IPV4_MAPPED | s.word(4) as u64];
        let third = s.word(2);
        s.ttl = third >> 24;
        s.protocol = third >> 16 & 0xff;
        // More fragments, or an offset.
        s.odd = (header != 20) as u32 | (s.word(1) & 0x3fff);
        (total, header)
    } else if s.family == 6 {
        s.class = first >> 20 & 0xff;
        let second = s.word(1);
        s.protocol = second >> 8 & 0xff;
        s.ttl = second & 0xff;
        s.source = [(s.word(2) as u64) << 32 | s.word(3) as u64, (s.word(4) as u64) << 32 | s.word(5) as u64];
        s.destination =
            [(s.word(6) as u64) << 32 | s.word(7) as u64, (s.word(8) as u64) << 32 | s.word(9) as u64];
        (40 + (second >> 16), 40)
    } else {
        return false;
    };
    s.inner_len = total;
    s.transport = header;
    if header < 20 || total < header || total > s.available {
        return false;
    }
    // An offset hides the upper-layer header.
    let mut hidden = s.family == 4 && s.word(1) & 0x1fff != 0;
    if s.family == 6 {
        // With the count as its only bound the loop ends in a conditional jump: kernels before 6.5 refuse one that is entered
        // anew by falling through.
        let mut count = 0;
        while count < MAX_EXTENSIONS {
            let (protocol, at) = (s.protocol, s.transport & 0x7ff);
            if !is_extension(protocol) {
                break;
            }
            let (next, units) = (s.byte(at), s.byte(at + 1));
            let len = if protocol == 44 {
                8
            } else if protocol == 51 {
                8 + units * 4
            } else {
                8 + units * 8
            };
            if at + len > total {
                return false;
            }
            // RFC 6946: a fragment of the whole packet is a whole packet.
            hidden = protocol == 44 && s.half(at + 2) & 0xfff8 != 0;
            s.odd = 1;
            s.protocol = next;
            s.transport = at + len;
            if hidden {
                break;
            }
            count += 1;
        }
        if !hidden && is_extension(s.protocol) {
            return false;
        }
    }
    let at = s.transport & 0x7ff;
    let icmp = if s.family == 4 { ICMP } else { ICMPV6 };
    let protocol = s.protocol;
    if hidden {
        return true;
    }
    if protocol == TCP || protocol == UDP || protocol == 33 || protocol == 132 || protocol == 136 {
        if at + 4 <= total {
            s.ports = [s.half(at), s.half(at + 2)];
            s.shows_ports = 1;
        }
    } else if protocol == icmp && at + 2 <= total {
        // RFC 7296 3.13.1: type and code are one "port", of either side.
        s.ports = [s.half(at); 2];
        s.shows_ports = 1;
    }
    true
}

/// Whether it is an extension header with another header behind it (RFC 8200 4).
#[inline(always)]
fn is_extension(protocol: u32) -> bool {
    matches!(protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

/// Whether an SA carries the packet: outbound from our side to the peer's, inbound the other way.
#[inline(always)]
pub fn matches(selectors: &Selectors, s: &State, outbound: bool) -> bool {
    let (local, remote) = if outbound { (0, 1) } else { (1, 0) };
    side(&selectors.local, selectors.locals, s, local)
        && side(&selectors.remote, selectors.remotes, s, remote)
}

#[inline(always)]
fn side(selectors: &[Selector; MAX_SELECTORS], count: u32, s: &State, end: usize) -> bool {
    let address = if end == 0 { s.source } else { s.destination };
    let port = s.ports[end & 1];
    let mut i = 0;
    while i < MAX_SELECTORS {
        if i as u32 >= count {
            return false;
        }
        let one = &selectors[i];
        i += 1;
        if one.family as u32 != s.family || one.protocol != 0 && one.protocol as u32 != s.protocol {
            continue;
        }
        if one.any_port == 0
            && (s.shows_ports == 0 || port < one.first_port as u32 || port > one.last_port as u32)
        {
            continue;
        }
        if address[0] < one.first[0] || address[0] == one.first[0] && address[1] < one.first[1] {
            continue;
        }
        if address[0] > one.last[0] || address[0] == one.last[0] && address[1] > one.last[1] {
            continue;
        }
        return true;
    }
    false
}

/// Whether the packet goes to a multicast group that no router forwards (RFC 5771 4, RFC 4291 2.7).
#[inline(always)]
pub fn is_link_local(s: &State) -> bool {
    if s.family == 4 {
        return s.destination[1] as u32 >> 8 == 0xe0_0000;
    }
    let high = (s.destination[0] >> 48) as u32;
    high >> 8 == 0xff && high & 15 <= 2
}

/// Whether the packet's path through this host can be cut short: TCP or UDP with a whole checksum or none, or ICMP; no options,
/// no fragments, a TTL to spare. A checksum that a sender on this machine left to the device covers the
/// pseudo-header alone, and then it equals that sum.
#[inline(always)]
pub fn is_plain(s: &State) -> bool {
    if s.ttl <= 1 {
        return false;
    }
    let Some(at) = ordinary(s) else { return false };
    // UDP may go without one (RFC 768), which shows as 0: no such sum.
    at == 0 || pseudo_sum(s) != s.half(at)
}

/// Where the checksum of a packet of TCP or UDP without options and fragments is; 0 for ICMP, whose senders always
/// finish it; `None` for all others.
#[inline(always)]
pub fn ordinary(s: &State) -> Option<u32> {
    if s.odd != 0 || s.shows_ports == 0 {
        return None;
    }
    let (icmp, at) = if s.family == 4 { (ICMP, 20) } else { (ICMPV6, 40) };
    if s.protocol == icmp {
        Some(0)
    } else if s.protocol == TCP && s.inner_len >= at + 20 {
        Some(at + 16)
    } else if s.protocol == UDP && s.inner_len >= at + 8 {
        Some(at + 6)
    } else {
        None
    }
}

/// The sum of the pseudo-header of an [ordinary] packet (RFC 9293 3.1).
#[inline(always)]
pub fn pseudo_sum(s: &State) -> u32 {
    let at = if s.family == 4 { 20 } else { 40 };
    let mut sum = s.protocol as u64 + (s.inner_len - at) as u64;
    sum += (s.source[1] & 0xffff_ffff) + (s.destination[1] & 0xffff_ffff);
    if s.family == 6 {
        sum += (s.source[1] >> 32) + (s.destination[1] >> 32);
        sum += (s.source[0] & 0xffff_ffff) + (s.destination[0] & 0xffff_ffff);
        sum += (s.source[0] >> 32) + (s.destination[0] >> 32);
    }
    fold(sum)
}

/// One's complement sum in 16 bits.
#[inline(always)]
pub fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u32
}

/// The field after one 16-bit word that it covers changed (RFC 1624 3).
#[inline(always)]
pub fn update(field: u32, old: u32, new: u32) -> u32 {
    !fold(((field ^ 0xffff) + (old ^ 0xffff) + new) as u64) & 0xffff
}

/// One hop less, as a router does (RFC 1812 5.3.1). The TTL must be above 1.
#[inline(always)]
pub fn decrement_ttl(s: &mut State) {
    if s.family == 4 {
        let old = s.half(8);
        s.set_half(8, old.wrapping_sub(0x100));
        let field = update(s.half(10), old, old.wrapping_sub(0x100) & 0xffff);
        s.set_half(10, field);
    } else {
        let ttl = s.ttl;
        s.set_byte(7, ttl.wrapping_sub(1));
    }
}

/// Carries the outer header's congestion mark inward (RFC 6040 4.2). False: the packet must be dropped, for its
/// transport cannot hear of it.
#[inline(always)]
pub fn decapsulate_ecn(s: &mut State, outer: u32) -> bool {
    let (outer, inner) = (outer & 3, s.class & 3);
    let after = if inner == 0 {
        if outer == 3 {
            return false;
        }
        0
    } else if inner == 3 || outer == 3 {
        3
    } else if inner == 1 || outer == 1 {
        1
    } else {
        2
    };
    if after != inner {
        let class = s.class & 0xfc | after;
        if s.family == 4 {
            let old = s.half(0);
            let new = old & 0xff00 | class;
            let field = update(s.half(10), old, new);
            s.set_half(0, new);
            s.set_half(10, field);
        } else {
            let old = s.half(0);
            s.set_half(0, old & 0xf00f | class << 4);
        }
        s.class = class;
    }
    true
}

/// Puts padding, pad length and next header behind the inner packet (RFC 4303 2.4): the text is whole.
#[inline(always)]
pub fn pad(s: &mut State) {
    let len = s.inner_len & 0x7ff;
    let pad = len.wrapping_add(2).wrapping_neg() & 3;
    let next = if s.family == 4 { 4u64 } else { 41 };
    // 1, 2, 3, …, the length, the next header.
    let trailer =
        (0x03_0201u64 & ((1 << (8 * pad)) - 1)) | (pad as u64) << (8 * pad) | next << (8 * (pad + 1));
    let kept = 8 * (len & 3);
    let at = (len >> 2) as usize & (TEXT_WORDS - 1);
    let before = s.text[at].to_le() as u64 & ((1 << kept) - 1);
    let both = trailer << kept | before;
    s.text[at] = (both as u32).to_le();
    s.text[(at + 1) & (TEXT_WORDS - 1)] = ((both >> 32) as u32).to_le();
    s.text_len = len + pad + 2;
}

/// What an opened text holds.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// An inner packet, [`State::inner_len`] bytes long.
    Packet = 0,
    /// Its padding is wrong.
    BadPadding = 1,
    /// Nothing (RFC 4303 2.6).
    Dummy = 2,
    /// Neither IPv4 nor IPv6.
    NextHeader = 3,
    /// Headers that make no sense, or another family than the next header says.
    Malformed = 4,
}

/// Whether the padding of an opened text is 1, 2, 3, …: the receiver should inspect it (RFC 4303 2.4). If it is,
/// [`State::available`] tells what stands before it, and [`State::next_header`] what that is.
#[inline(always)]
pub fn unpad(s: &mut State) -> bool {
    let len = s.text_len;
    if !(4..=MAX_TEXT).contains(&len) {
        return false;
    }
    // The comparisons make the masks of these places needless, and the compiler would leave them out; but not every
    // verifier draws that conclusion.
    let pad = s.byte(black_box(len.wrapping_sub(2)));
    if pad + 2 > len {
        return false;
    }
    let body = black_box(len.wrapping_sub(2).wrapping_sub(pad));
    s.available = body;
    s.next_header = s.byte(black_box(len.wrapping_sub(1)));
    let (mut i, mut wrong) = (0, 0);
    while i < 255 {
        if i >= pad {
            break;
        }
        wrong |= s.byte(body + i) ^ (i + 1);
        i += 1;
    }
    wrong == 0
}

/// What the unpadded text holds, by its next header; a packet is still to be [inspected](inspect).
#[inline(always)]
pub fn held(s: &State) -> Unpacked {
    let least = match s.next_header {
        4 => 20,
        41 => 40,
        59 => return Unpacked::Dummy,
        _ => return Unpacked::NextHeader,
    };
    if s.available < least { Unpacked::Malformed } else { Unpacked::Packet }
}

/// Whether the inspected packet is of the family that the next header named.
#[inline(always)]
pub fn is_of_family(s: &State) -> bool {
    (s.family == 4) == (s.next_header == 4)
}

/// Checks the padding of an opened text and reads the headers of what it holds.
pub fn unpack(s: &mut State) -> Unpacked {
    if !unpad(s) {
        return Unpacked::BadPadding;
    }
    match held(s) {
        Unpacked::Packet if inspect(s) && is_of_family(s) => Unpacked::Packet,
        Unpacked::Packet => Unpacked::Malformed,
        other => other,
    }
}

/// Bytes of the text of an ESP packet of that length; `None` for one that is no packet of such an SA.
#[inline(always)]
pub const fn text_len(esp_len: u32) -> Option<u32> {
    match esp_len.checked_sub(super::ESP_AND_IV + ICV) {
        Some(len) if len >= 4 => Some(len),
        _ => None,
    }
}
