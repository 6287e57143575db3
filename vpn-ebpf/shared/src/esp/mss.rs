//! MSS clamping in the text of a [`State`], as `culvert-esp` does it.
use super::State;
use super::inner::update;
use crate::mss::largest;

const TCP: u32 = 6;
const SYN: u32 = 2;

/// Whether the packet, inspected, is a TCP SYN or SYN-ACK: to be [clamped](clamp).
#[inline(always)]
pub fn is_syn(s: &State) -> bool {
    let at = s.transport & 0x7ff;
    s.protocol == TCP && s.shows_ports != 0 && at + 20 <= s.inner_len && s.byte(at + 13) & SYN != 0
}

/// Lowers the MSS option to what fits an inner MTU of `mtu` bytes (RFC 9293 3.7.1), its checksum updated.
#[inline(always)]
pub fn clamp(s: &mut State, mtu: u32) {
    let most = largest(mtu as usize, s.family != 4) as u32;
    let start = s.transport & 0x7ff;
    let header = (s.byte(start + 12) >> 4) * 4;
    if header < 20 || start + header > s.inner_len {
        return;
    }
    let options = header - 20;
    // Every place is looked at, and what is in the midst of an option passed over: were the place a variable, the
    // verifier would follow every way of adding up lengths.
    let (mut at, mut next) = (0, 0);
    while at < 40 {
        if at >= options {
            return;
        }
        if at == next {
            let place = start + 20 + at;
            let kind = s.byte(place);
            if kind == 0 {
                return;
            }
            if kind == 1 {
                next = at + 1;
            } else {
                let len = s.byte(place + 1);
                if at + 1 >= options || len < 2 || at + len > options {
                    return;
                }
                if kind == 2 {
                    if len == 4 {
                        lower(s, start + 16, place + 2, most, at & 1 != 0);
                    }
                    return;
                }
                next = at + len;
            }
        }
        at += 1;
    }
}

#[inline(always)]
fn lower(s: &mut State, checksum: u32, at: u32, most: u32, odd: bool) {
    let old = s.half(at);
    if old <= most {
        return;
    }
    s.set_half(at, most);
    // At an odd offset the value's bytes lie in the other halves of two words: the sum sees them swapped.
    let seen = |half: u32| if odd { (half >> 8 | half << 8) & 0xffff } else { half };
    let field = update(s.half(checksum), seen(old), seen(most));
    s.set_half(checksum, field);
}
