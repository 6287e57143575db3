//! Which packets of a tunnel that has two engines are this one's, and the checksums that these may lack.
//!
//! Such a tunnel's bulk is super-packets, and this engine takes what would wait behind them: short packets and packets
//! marked as urgent. Acknowledgements that carry nothing belong to the bulk that they answer.
use super::inner::{self, fold, ordinary};
use super::layout::Tunnel;
use super::{MAX_TEXT, State};

const TCP: u32 = 6;
/// FIN, SYN and RST.
const TCP_EVENTS: u32 = 7;

/// Whether the inspected packet is for this engine: TCP, UDP or ICMP without options and fragments, short or marked.
#[inline(always)]
pub fn is_small(s: &State, tunnel: &Tunnel) -> bool {
    let Some(checksum) = ordinary(s) else { return false };
    if checksum != 0 && s.half(checksum) == 0 {
        return false;
    }
    if tunnel.dscp >> (s.class >> 2 & 63) & 1 != 0 {
        return s.inner_len <= tunnel.mtu;
    }
    if s.inner_len > tunnel.longest {
        return false;
    }
    if s.protocol != TCP {
        return true;
    }
    let at = s.transport & 0x7ff;
    let headers = at + (s.byte(at + 12) >> 4) * 4;
    s.inner_len > headers || s.byte(at + 13) & TCP_EVENTS != 0
}

/// Finishes a checksum that covers the pseudo-header alone: the sender left the rest to the device. A whole one that
/// happens to equal that sum comes out as it was.
#[inline(always)]
pub fn finish_checksum(s: &mut State) {
    let Some(field) = ordinary(s) else { return };
    if field == 0 || inner::pseudo_sum(s) != s.half(field) {
        return;
    }
    let first = s.transport >> 2;
    let words = (s.inner_len >> 2).wrapping_sub(first);
    // What stands behind the packet is not its.
    let beyond = 32 - 8 * (s.inner_len & 3);
    let mut sum = (s.word(first.wrapping_add(words)) as u64) >> beyond << beyond;
    let mut i = 0;
    while i < MAX_TEXT / 4 {
        if i >= words {
            break;
        }
        sum += s.word(first.wrapping_add(i)) as u64;
        i += 1;
    }
    let checksum = !fold(sum) & 0xffff;
    // RFC 768: zero says that there is none; for TCP the two are one number.
    s.set_half(field, if checksum == 0 { 0xffff } else { checksum });
}
